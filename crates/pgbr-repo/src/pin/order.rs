//! The orders of pins and expire, tried in every interleaving on a model of the repository.
//!
//! The model has a backup P that expire wants to be rid of, a writer that makes C (a child of P, or a full), and a reader that restores P. Each step is
//! one request, seen by everybody at once. The orders as documented are safe; each reversal is shown not to be, which also shows that the
//! model would notice.

use std::ops::ControlFlow::{self, Break, Continue};

/// What is in the store, and what each process has come to know.
#[derive(Clone, Debug)]
struct World {
    /// Whether C is a full, which needs no parent.
    full: bool,
    parent_manifest: bool,
    parent_pack: bool,
    child_manifest: bool,
    child_pack: bool,
    writer_pin: bool,
    reader_pin: bool,
    /// What expire has read: packs (parent's, child's), pins (writer's, reader's), child's manifest.
    seen_packs: (bool, bool),
    seen_pins: (bool, bool),
    seen_child: bool,
    writer: Outcome,
    reader: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Running,
    GivenUp,
    Done,
}

const CHILD: World = World {
    full: false,
    parent_manifest: true,
    parent_pack: true,
    child_manifest: false,
    child_pack: false,
    writer_pin: false,
    reader_pin: false,
    seen_packs: (false, false),
    seen_pins: (false, false),
    seen_child: false,
    writer: Outcome::Running,
    reader: Outcome::Running,
};

const FULL: World = World { full: true, ..CHILD };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    // The writer of C.
    PutPin,
    CheckParent,
    PutPack,
    PutManifest,
    /// Pin and parent are checked; if one is gone, the manifest is taken back. Two steps: looking and taking back.
    CheckAgain,
    TakeBack,
    ReleasePin,
    // The reader of P.
    ReaderPin,
    ReaderCheck,
    ReaderRead,
    ReaderRelease,
    // Expire.
    RemoveParent,
    BreakWriterPin,
    ListPacks,
    ReadPins,
    ReadManifests,
    PutParentBack,
    Sweep,
}
use Step::*;

const WRITER: &[Step] =
    &[PutPin, CheckParent, PutPack, CheckAgain, PutManifest, CheckAgain, TakeBack, ReleasePin];
const READER: &[Step] = &[ReaderPin, ReaderCheck, ReaderRead, ReaderRelease];
const EXPIRE: &[Step] = &[RemoveParent, ListPacks, ReadPins, ReadManifests, PutParentBack, Sweep];
/// Expire that finds the writer's pin stale although the writer lives: it was asleep for long.
const EXPIRE_BREAKING: &[Step] =
    &[RemoveParent, BreakWriterPin, ListPacks, ReadPins, ReadManifests, PutParentBack, Sweep];

impl World {
    /// Takes one step; breaks off where somebody who was told that all is well loses something.
    fn step(&mut self, step: Step) -> ControlFlow<&'static str> {
        let writing = self.writer == Outcome::Running;
        let reading = self.reader == Outcome::Running;
        match step {
            PutPin => self.writer_pin = true,
            CheckParent if writing && !self.has_parent() => self.writer = Outcome::GivenUp,
            PutPack if writing => self.child_pack = true,
            CheckAgain if writing && !(self.has_parent() && self.writer_pin) => {
                self.writer = Outcome::GivenUp;
            }
            PutManifest if writing => self.child_manifest = true,
            TakeBack if self.writer == Outcome::GivenUp => self.child_manifest = false,
            ReleasePin => {
                self.writer_pin = false;
                if writing {
                    self.writer = Outcome::Done;
                }
            }
            ReaderPin => self.reader_pin = true,
            ReaderCheck if reading && !self.parent_manifest => self.reader = Outcome::GivenUp,
            ReaderRead if reading && !self.parent_pack => return Break("a reader's pack was swept"),
            ReaderRelease => {
                self.reader_pin = false;
                if reading {
                    self.reader = Outcome::Done;
                }
            }
            RemoveParent => self.parent_manifest = false,
            BreakWriterPin => self.writer_pin = false,
            ListPacks => self.seen_packs = (self.parent_pack, self.child_pack),
            ReadPins => self.seen_pins = (self.writer_pin, self.reader_pin),
            ReadManifests => self.seen_child = self.child_manifest,
            PutParentBack if self.seen_child && !self.full => self.parent_manifest = true,
            Sweep => self.sweep(),
            _ => {}
        }
        Continue(())
    }

    fn sweep(&mut self) {
        let (writer_pin, reader_pin) = self.seen_pins;
        // The writer's pin names its chain and its own attempt; the child's manifest needs the packs of both.
        let parent_needed = reader_pin || (!self.full && (writer_pin || self.seen_child));
        let child_needed = writer_pin || self.seen_child;
        self.parent_pack &= !self.seen_packs.0 || parent_needed;
        self.child_pack &= !self.seen_packs.1 || child_needed;
    }

    const fn has_parent(&self) -> bool {
        self.full || self.parent_manifest
    }

    fn end(&self) -> ControlFlow<&'static str> {
        let chain = self.full || (self.parent_manifest && self.parent_pack);
        if self.child_manifest && !(chain && self.child_pack) {
            return Break("a backup is listed that cannot be restored");
        }
        if self.writer == Outcome::Done && !self.child_manifest {
            return Break("a backup is lost that was reported as made");
        }
        Continue(())
    }
}

/// Runs the processes in every order that keeps each one's own; the first harm found, and how many orders there were.
fn try_all(world: &World, processes: &[&[Step]], tried: &mut u64) -> ControlFlow<&'static str> {
    let mut ended = true;
    for (at, process) in processes.iter().enumerate() {
        let Some((&step, rest)) = process.split_first() else { continue };
        ended = false;
        let (mut world, mut processes) = (world.clone(), processes.to_vec());
        processes[at] = rest;
        world.step(step)?;
        try_all(&world, &processes, tried)?;
    }
    if ended {
        *tried += 1;
        return world.end();
    }
    Continue(())
}

fn harm(start: &World, processes: &[&[Step]]) -> Option<&'static str> {
    let mut tried = 0;
    let harm = try_all(start, processes, &mut tried).break_value();
    assert!(harm.is_some() || tried > 100, "{tried} orders are not all of them");
    harm
}

/// The same steps with two of them in each other's place.
fn swapped(steps: &[Step], a: Step, b: Step) -> Vec<Step> {
    let swap = |&step: &Step| {
        if step == a {
            b
        } else if step == b {
            a
        } else {
            step
        }
    };
    steps.iter().map(swap).collect()
}

fn without(steps: &[Step], left_out: Step) -> Vec<Step> {
    steps.iter().copied().filter(|&step| step != left_out).collect()
}

#[test]
fn the_documented_orders_are_safe_in_every_interleaving() {
    for start in [CHILD, FULL] {
        assert_eq!(harm(&start, &[WRITER, EXPIRE]), None);
        assert_eq!(harm(&start, &[READER, EXPIRE]), None);
        assert_eq!(harm(&start, &[WRITER, EXPIRE_BREAKING]), None);
    }
}

#[test]
fn reversed_orders_are_not() {
    for (start, writer, expire) in [
        (FULL, WRITER.to_vec(), swapped(EXPIRE, ListPacks, ReadPins)),
        (FULL, WRITER.to_vec(), swapped(EXPIRE, ReadPins, ReadManifests)),
        (CHILD, swapped(WRITER, PutManifest, ReleasePin), EXPIRE.to_vec()),
        (FULL, swapped(WRITER, PutPin, PutPack), EXPIRE.to_vec()),
    ] {
        assert!(harm(&start, &[&writer, &expire]).is_some(), "{writer:?} {expire:?}");
    }
    assert!(harm(&CHILD, &[&swapped(READER, ReaderPin, ReaderCheck), EXPIRE]).is_some());
    assert!(harm(&CHILD, &[READER, &swapped(EXPIRE, RemoveParent, ReadPins)]).is_some());
}

#[test]
fn no_step_can_be_left_out() {
    assert!(harm(&CHILD, &[&without(WRITER, TakeBack), EXPIRE]).is_some());
    assert!(harm(&FULL, &[&without(WRITER, CheckAgain), EXPIRE_BREAKING]).is_some());
    assert!(harm(&CHILD, &[WRITER, &without(EXPIRE, PutParentBack)]).is_some());
    assert!(harm(&CHILD, &[&without(READER, ReaderCheck), EXPIRE]).is_some());
}

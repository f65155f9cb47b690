//! The rules case by case. `doc` is the sentence of pgBackRest's documentation that a case was made from, or what pgbr adds to it.

use super::*;
use crate::error::Error;
use crate::label::LabelTime;

const NOW: i64 = 1_795_348_800; // 2026-11-22 12:00 UTC
const DAY: i64 = 86_400;

/// A stanza: backups in the order in which they were made. The nth one (from 1) needs the segments `n*10` and `n*10+1`.
pub(super) struct World {
    pub(super) names: Vec<&'static str>,
    pub(super) backups: Vec<Candidate>,
    pub(super) current: ArchiveId,
}

pub(super) fn segment(timeline: u32, number: u32) -> WalSegmentName {
    format!("{timeline:08X}00000000{number:08X}").parse().unwrap()
}

/// From words like `F1:25 D1:24 I1<D1:23`: the type, a number, what it builds on (by default its full's last word), its age in days. A mark
/// behind: `!` page errors, `?` unreadable, `h` on hold, `u` in use.
pub(super) fn world(spec: &'static str) -> World {
    let current = "15-1".parse().unwrap();
    let mut world = World { names: Vec::new(), backups: Vec::new(), current };
    for (place, word) in spec.split(' ').enumerate() {
        let (name, age) = word.split_once(':').unwrap();
        let (name, prior) = name.split_once('<').unwrap_or((name, ""));
        let marks = age.trim_start_matches(|c: char| c.is_ascii_digit());
        let age: i64 = age[..age.len() - marks.len()].parse().unwrap();
        let time = LabelTime::new(2026, 1, 1, 0, 0, u32::try_from(place).unwrap()).unwrap();
        let full = || world.backups.iter().rev().find(|b| b.label == b.label.full()).unwrap().label;
        let label = match &name[..1] {
            "F" => BackupLabel::new_full(time),
            kind => full().dependant(time, kind == "I"),
        };
        let prior = match (&name[..1], prior) {
            ("F", _) => None,
            ("D", "") => Some(full()),
            ("I", "") => Some(world.backups[place - 1].label),
            (_, prior) => Some(world.label(prior)),
        };
        let stop = NOW - age * DAY;
        let first = u32::try_from(place + 1).unwrap() * 10;
        let wal = Span { start: segment(1, first), stop: segment(1, first + 1) };
        let facts = Facts { prior, archive: current, stop, day: stop / DAY, wal, error: marks.contains('!') };
        let facts = (!marks.contains('?')).then_some(facts);
        world.names.push(name);
        world.backups.push(Candidate {
            label,
            facts,
            held: marks.contains('h'),
            in_use: marks.contains('u'),
        });
    }
    world
}

impl World {
    fn label(&self, name: &str) -> BackupLabel {
        self.backups[self.names.iter().position(|n| *n == name).unwrap()].label
    }

    fn facts(&mut self, name: &str) -> &mut Facts {
        let place = self.names.iter().position(|n| *n == name).unwrap();
        self.backups[place].facts.as_mut().unwrap()
    }

    fn plan(&self, policy: &Policy, asked: Asked) -> Result<ExpirePlan> {
        let mut archives: Vec<ArchiveId> =
            self.backups.iter().filter_map(|b| Some(b.facts?.archive)).chain([self.current]).collect();
        archives.sort_unstable();
        archives.dedup();
        let (backups, current) = (&self.backups, self.current);
        plan_expire(&ExpireInput { backups, archives: &archives, current, policy, asked, now: NOW })
    }

    /// The names of the backups that stay.
    fn kept(&self, policy: &Policy) -> String {
        self.names_kept(&self.plan(policy, Asked::Policy).unwrap())
    }

    fn names_kept(&self, plan: &ExpirePlan) -> String {
        let kept: Vec<BackupLabel> = plan.kept().collect();
        let named = self.names.iter().zip(&self.backups).filter(|(_, b)| kept.contains(&b.label));
        named.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }

    /// Which of the segments 0 to 99 of timeline 1 stay, as `10-11 30-99`.
    fn wal(&self, policy: &Policy, asked: Asked) -> String {
        let plan = self.plan(policy, asked).unwrap();
        let archive = plan.archives.iter().find(|a| a.archive == self.current).unwrap();
        wal_kept(archive)
    }
}

fn wal_kept(archive: &ArchivePlan) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in (0..100).filter(|n| archive.decide(segment(1, *n)) != WalReason::Unneeded) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(" ")
}

fn full(count: u32) -> Policy {
    Policy { full: Some(count), ..Policy::default() }
}

fn days(days: u32) -> Policy {
    Policy { full_type: FullRetention::Time, ..full(days) }
}

fn diff(count: u32) -> Policy {
    Policy { diff: Some(count), ..Policy::default() }
}

fn periods(daily: u32, weekly: u32, monthly: u32, yearly: u32) -> Policy {
    let set = |n: u32| (n > 0).then_some(n);
    let periods =
        Periods { daily: set(daily), weekly: set(weekly), monthly: set(monthly), yearly: set(yearly) };
    Policy { periods, ..Policy::default() }
}

#[test]
fn backups_stay_as_the_documentation_says() {
    #[rustfmt::skip]
    let cases: &[(&str, &'static str, Policy, &str)] = &[
        ("When a count is specified, then expiration is not concerned with when the backups were created but with how many must be retained.",
            "F1:900 F2:800 F3:0", full(2), "F2 F3"),
        ("If retention-full-type=count and retention-full=2 then there will be three full backups stored before the oldest one is expired.",
            "F1:9 F2:2", full(2), "F1 F2"),
        ("When a full backup expires, all differential and incremental backups associated with the full backup will also expire.",
            "F1:9 D1:8 I1:7 I2<F1:6 F2:2", full(1), "F2"),
        ("When the option is not defined a warning will be issued (and all full backups stay).",
            "F1:900 D1:800 F2:2", Policy::default(), "F1 D1 F2"),
        ("If indefinite retention is desired then set the option to the max value.",
            "F1:900 D1:800 F2:2", full(9_999_999), "F1 D1 F2"),
        ("30 days and 2 full backups, one 25 days old and one 35 days old: no full backups will be expired.",
            "F1:35 F2:25 I1:0", days(30), "F1 F2 I1"),
        ("... at least one full backup 30 days old before an older one can be expired.",
            "F1:45 I1:40 F2:35 F3:25 I2:0", days(30), "F2 F3 I2"),
        ("If there is at least one backup that is equal to or greater than the repo-retention-full setting.",
            "F1:31 F2:30 I1:0", days(30), "F2 I1"),
        ("Full backups ending 25, 20 and 10 days ago, the retention period is 15 days: only F1 will be expired.",
            "F1:25 F2:20 F3:10 I1:0", days(15), "F2 F3 I1"),
        ("F1 D1a D1b D1c F2 D2a D2b F3 D3a D3b and the period ends at D2b: only F1, D1a, D1b and D1c go.",
            "F1:19 D1:18 D2:17 D3:16 F2:15 D4:14 D5:13 F3:12 D6:11 D7:0", days(13), "F2 D4 D5 F3 D6 D7"),
        ("When a differential backup expires, all incremental backups associated with the differential backup will also expire.",
            "F1:9 D1:8 I1:7 I2:6 D2:5 I3:4", diff(1), "F1 D2 I3"),
        ("Incrementals of the full itself depend on no differential.",
            "F1:9 I1:8 D1:7 D2:6", diff(1), "F1 I1 D2"),
        ("retention-diff=1 so two differentials will need to be performed before one is expired.",
            "F1:9 D1:8", diff(1), "F1 D1"),
        ("When not defined all differential backups will be kept until the full backups they depend on expire.",
            "F1:9 D1:8 D2:7 D3:6 D4:5", full(1), "F1 D1 D2 D3 D4"),
        ("Full are considered differential for the purpose of retention: F1 D1 D2 F2 with retention-diff=2 gives F1 D2 F2.",
            "F1:9 D1:8 D2:7 F2:6", diff(2), "F1 D2 F2"),
        ("Full backups only count when deciding which differential backups to expire.",
            "F1:9 D1:8 F2:7 F3:6", diff(1), "F1 F2 F3"),
        ("pgbr: ages count from the newest backup: where backups have ended, nothing grows old.",
            "F1:800 F2:795 I1:790", days(7), "F1 F2 I1"),
        ("pgbr: the newest backup without page errors stays, whatever the count.",
            "F1:9 F2:8 I1:7 F3:6! F4:5!", full(1), "F2 I1 F4"),
        ("pgbr: an increment on top of a backup with page errors may have them, too.",
            "F1:9 F2:8! I1:7", full(1), "F1 F2 I1"),
        ("pgbr: what is on hold stays, with what it builds on.",
            "F1:9 D1:8 I1:7h D2:6 F2:5 F3:4", full(1), "F1 D1 I1 F3"),
        ("pgbr: what a running command uses stays.",
            "F1:9 D1:8u D2:7 F2:6", full(1), "F1 D1 F2"),
        ("pgbr: a hold takes no place in a count.",
            "F1:9h F2:8 F3:7 F4:6", full(2), "F1 F3 F4"),
        ("pgbr: what cannot be read stays, with all that it may build on, and takes no place in a count.",
            "F1:9 D1:8 I1:7? F2:6 F3:5? F4:4", full(2), "F1 D1 I1 F2 F3 F4"),
        ("pgbr: what was built on an unreadable backup goes when it would have gone anyway.",
            "F1:9? I1:8 F2:7 F3:6", full(1), "F1 F3"),
        ("pgbr: the newest usable backup stays where a newer one has lost what it builds on.",
            "F1:9 F2:8? I1:7", full(1), "F1 F2 I1"),
    ];
    for (doc, spec, policy, kept) in cases {
        assert_eq!(world(spec).kept(policy), *kept, "{doc}");
    }
}

#[test]
fn rules_by_calendar() {
    // 2026-11-22 is a Sunday.
    #[rustfmt::skip]
    let cases: &[(&str, &'static str, Policy, &str)] = &[
        ("The newest of each of the last days with a backup.",
            "F1:9 F2:3 F3:3 F4:1 F5:0 F6:0", periods(3, 0, 0, 0), "F3 F4 F6"),
        ("Days without a backup do not count.",
            "F1:90 F2:50 F3:10", periods(2, 0, 0, 0), "F2 F3"),
        ("A week begins on Monday.",
            "F1:14 F2:13 F3:7 F4:6 F5:0", periods(0, 3, 0, 0), "F1 F3 F5"),
        ("Months and years.",
            "F1:700 F2:400 F3:330 F4:60 F5:40 F6:22 F7:1", periods(0, 0, 2, 0), "F6 F7"),
        ("Months and years.",
            "F1:700 F2:400 F3:330 F4:60 F5:40 F6:22 F7:1", periods(0, 0, 0, 9), "F1 F3 F7"),
        ("Rules are a union.",
            "F1:700 F2:400 F3:60 F4:40 F5:9 F6:1 F7:0", periods(2, 0, 2, 2), "F2 F4 F6 F7"),
        ("What is picked keeps what it builds on, and that alone.",
            "F1:9 I1:8 I2:7 D1:6 I3:5 F2:4 I4:3", periods(2, 2, 0, 0), "F1 I1 I2 F2 I4"),
        ("A backup without page errors is picked before a newer one with them.",
            "F1:3 F2:3! F3:1! F4:0", periods(3, 0, 0, 0), "F1 F3 F4"),
        ("Together with retention-full they keep more, never less.",
            "F1:400 F2:60 D1:59 F3:9 D2:8 F4:1", Policy { full: Some(2), ..periods(0, 0, 0, 2) }, "F1 F3 D2 F4"),
        ("A hold, too.",
            "F1:3h F2:2 F3:1 F4:0", periods(1, 0, 0, 0), "F1 F4"),
    ];
    for (doc, spec, policy, kept) in cases {
        assert_eq!(world(spec).kept(policy), *kept, "{doc}");
    }
}

#[test]
fn wal_stays_as_the_documentation_says() {
    let archive = |archive_type, count| Policy { archive: Some(count), archive_type, ..Policy::default() };
    let following = |archive_type| Policy { archive_type, diff: Some(2), ..Policy::default() };
    #[rustfmt::skip]
    let cases: &[(&str, &'static str, Policy, &str)] = &[
        ("Archive is expired because WAL segments were generated before the oldest backup.",
            "F1:9 F2:8", full(2), "10-99"),
        ("The default expires WAL for full backups based on the repo1-retention-full option.",
            "F1:9 I1:8 F2:7 F3:6", full(2), "30-99"),
        ("(too few backups: too soon to expire WAL)",
            "F1:9", full(2), "0-99"),
        ("If this value is not set, archive defaults to the repo-retention-diff value where the type is diff.",
            "F1:9 D1:8 D2:7 I1:6", following(BackupType::Diff), "10-11 20-99"),
        ("This option must be set if repo-retention-archive-type is set to incr.",
            "F1:9 D1:8 D2:7 I1:6", following(BackupType::Incr), "0-99"),
        ("WAL segments required to make a backup consistent are always retained until the backup is expired.",
            "F1:9 I1:8 F2:7 I2:6 F3:5", archive(BackupType::Full, 1), "10-11 20-21 30-31 40-41 50-99"),
        ("diff: keep archive logs for the number of full and differential backups defined by repo-retention-archive.",
            "F1:9 F2:8 D1:7 D2:6 I1:5", archive(BackupType::Diff, 1), "10-11 20-21 30-31 40-99"),
        ("If the last backup taken was a full backup, it will be counted as a differential.",
            "F1:9 D1:8 D2:7 F2:6", archive(BackupType::Diff, 1), "10-11 20-21 30-31 40-99"),
        ("incr: for the number of full, differential, and incremental backups.",
            "F1:9 D1:8 I1:7 I2:6", archive(BackupType::Incr, 2), "10-11 20-21 30-99"),
        ("Time: removing archives that are earlier than the oldest full backup retained after satisfying the setting.",
            "F1:45 F2:35 F3:25 I1:0", days(30), "20-99"),
        ("(time-based archive retention not met: archive logs will not be expired)",
            "F1:25 I1:0", days(30), "0-99"),
        ("Unless repo-retention-archive is explicitly set.",
            "F1:45 F2:35 F3:25 I1:0", Policy { archive: Some(1), ..days(30) }, "20-21 30-99"),
        ("(nothing is set)",
            "F1:9 F2:8", Policy::default(), "0-99"),
        ("pgbr: a backup on hold beyond the retention keeps what makes it consistent.",
            "F1:9h F2:8 F3:7 F4:6", full(2), "10-11 30-99"),
        ("pgbr: a backup on hold beyond the days does so as well.",
            "F1:90h F2:35 F3:25 I1:0", days(30), "10-11 20-99"),
        ("pgbr: nobody knows what an unreadable backup needs.",
            "F1:9? F2:8 F3:7 F4:6", full(1), "0-99"),
        ("pgbr: rules by calendar alone keep all WAL from the oldest backup that stays.",
            "F1:9 F2:8 F3:7 F4:6", periods(2, 0, 0, 0), "30-99"),
        ("pgbr: with retention-full WAL follows that, and older backups stay consistent.",
            "F1:400 F2:60 F3:9 F4:1", Policy { full: Some(2), ..periods(0, 0, 0, 2) }, "10-11 30-99"),
    ];
    for (doc, spec, policy, kept) in cases {
        assert_eq!(world(spec).wal(policy, Asked::Policy), *kept, "{doc}");
    }
}

#[test]
fn only_wal_before_a_given_segment_goes() {
    let before = |number, policy: Policy| Policy { archive_before: Some(segment(1, number)), ..policy };
    let wal = |spec, policy| world(spec).wal(&policy, Asked::Policy);
    // It spares WAL that would go,
    assert_eq!(wal("F1:9 F2:8", before(12, full(1))), "12-99");
    // never takes what a backup needs,
    assert_eq!(wal("F1:9 F2:8", before(25, full(1))), "20-99");
    // and works where no retention is set.
    assert_eq!(wal("F1:9 F2:8", before(5, Policy::default())), "5-99");
    assert_eq!(wal("F1:9 F2:8", before(15, Policy::default())), "10-99");
    let mut none = world("F1:9");
    none.backups.clear();
    none.names.clear();
    assert_eq!(none.wal(&before(7, Policy::default()), Asked::Policy), "7-99");
    let plan = none.plan(&before(7, Policy::default()), Asked::Policy).unwrap();
    // What has a higher position on another timeline is not before it.
    assert_ne!(plan.archives[0].decide(segment(2, 3)), WalReason::Unneeded);
    let later = Policy { archive_before: Some(segment(2, 7)), ..Policy::default() };
    let plan = none.plan(&later, Asked::Policy).unwrap();
    assert_eq!(wal_kept(&plan.archives[0]), "7-99");
}

#[test]
fn timelines_stay_from_the_oldest_backup_on() {
    let mut two = world("F1:9 F2:8 F3:7");
    two.facts("F2").wal = Span { start: segment(2, 15), stop: segment(2, 16) };
    two.facts("F3").wal = Span { start: segment(3, 14), stop: segment(3, 15) };
    let plan = two.plan(&full(2), Asked::Policy).unwrap();
    let archive = &plan.archives[0];
    let stays = |timeline, number| archive.decide(segment(timeline, number)) != WalReason::Unneeded;
    // Recovery from F2 on timeline 2 never comes back to timeline 1, at whatever position.
    assert!(!stays(1, 10) && !stays(1, 99) && !stays(2, 14));
    assert!(stays(2, 15) && stays(2, 99) && stays(3, 0) && stays(9, 0));
    // Two clusters in one stanza: the newer backup is on the lower timeline.
    two.facts("F3").wal = Span { start: segment(1, 30), stop: segment(1, 31) };
    let plan = two.plan(&full(2), Asked::Policy).unwrap();
    let stays = |timeline, number| plan.archives[0].decide(segment(timeline, number)) != WalReason::Unneeded;
    assert!(!stays(1, 29) && stays(1, 30) && stays(1, 99) && stays(2, 15));
}

#[test]
fn directories_are_decided_whole_where_they_can_be() {
    let plan = world("F1:9h F2:8 F3:7").plan(&full(1), Asked::Policy).unwrap();
    let archive = &plan.archives[0];
    let log = |timeline: u32, log: u32| {
        let name = |last: u32| format!("{timeline:08X}{log:08X}{last:08X}").parse().unwrap();
        archive.decide_log(name(0), name(u32::MAX))
    };
    assert_eq!(log(1, 0), LogVerdict::Mixed);
    assert!(matches!(log(1, 1), LogVerdict::Stays(WalReason::From(_))));
    assert!(matches!(log(2, 0), LogVerdict::Stays(_)));
    assert_eq!(log(0, 7), LogVerdict::Goes);
}

#[test]
fn archives_of_other_clusters() {
    let mut two = world("F1:9 F2:8 F3:7 F4:6");
    two.current = "16-2".parse().unwrap();
    for name in ["F3", "F4"] {
        two.facts(name).archive = two.current;
    }
    let both = |policy: &Policy| {
        let plan = two.plan(policy, Asked::Policy).unwrap();
        plan.archives
            .iter()
            .map(|a| if a.goes() { "goes".to_owned() } else { wal_kept(a) })
            .collect::<Vec<_>>()
    };
    // Counts go over all clusters. Where none of an older one is within the count, its newest backup keeps all after it.
    assert_eq!(both(&full(3)), ["20-99", "30-99"]);
    assert_eq!(both(&Policy { archive: Some(1), ..full(4) }), ["10-11 20-99", "30-31 40-99"]);
    assert_eq!(both(&full(2)), ["goes", "30-99"]);
    // The WAL of a new cluster waits for its first backup.
    two.current = "17-3".parse().unwrap();
    let plan = two.plan(&full(2), Asked::Policy).unwrap();
    assert_eq!(plan.archives.last().unwrap().all, Some(WalReason::NoBackup));
}

#[test]
fn sets_go_when_they_are_named() {
    let three = world("F1:9 D1:8 I1:7 D2:6 F2:5 I2:4");
    let named = |name| three.plan(&full(1), Asked::Set(three.label(name))).unwrap();
    // "The backup label provided and all of its dependent backups will be expired regardless of backup retention rules."
    assert_eq!(three.names_kept(&named("F1")), "F2 I2");
    assert_eq!(three.names_kept(&named("D1")), "F1 D2 F2 I2");
    assert_eq!(three.names_kept(&named("I1")), "F1 D1 D2 F2 I2");
    let newest = named("I2");
    assert!(newest.newest_goes && !newest.unknown);
    // "Except that at least one full backup must remain in the repository."
    let fails = |world: &World, asked| world.plan(&full(1), asked).unwrap_err();
    let only = world("F1:9 I1:8");
    let error = fails(&only, Asked::Set(only.label("F1")));
    let text = "cannot be expired until another full backup has been created on this repo";
    assert!(matches!(&error, Error::Protected { reason } if reason.ends_with(text)), "{error}");
    // Or the only one of its cluster, while it is the newest.
    let mut upgraded = world("F1:9 F2:8");
    upgraded.facts("F2").archive = "16-2".parse().unwrap();
    assert!(upgraded.plan(&full(1), Asked::Set(upgraded.label("F2"))).is_err());
    assert!(upgraded.plan(&full(1), Asked::Set(upgraded.label("F1"))).is_ok());
    // What is on hold or in use stays, and so does what it builds on.
    for spec in ["F1:9 I1:8h F2:7", "F1:9 I1:8u F2:7"] {
        let busy = world(spec);
        assert!(matches!(fails(&busy, Asked::Set(busy.label("F1"))), Error::Protected { .. }));
        assert!(busy.plan(&full(1), Asked::Set(busy.label("F2"))).is_ok());
    }
    // One that cannot be read can be named, and what may build on it is not left behind.
    let damaged = world("F1:9 D1:8 I1:7? F2:6");
    assert_eq!(
        damaged.names_kept(&damaged.plan(&full(1), Asked::Set(damaged.label("I1"))).unwrap()),
        "F1 D1 F2"
    );
    assert!(damaged.plan(&full(1), Asked::Set(damaged.label("D1"))).is_err());
    assert_eq!(damaged.names_kept(&damaged.plan(&full(1), Asked::Set(damaged.label("F1"))).unwrap()), "F2");
    // One that does not exist.
    let plan = three.plan(&full(1), Asked::Set("20200101-000000F".parse().unwrap())).unwrap();
    assert!(plan.unknown && plan.sets.is_empty());
}

#[test]
fn the_oldest_goes_when_it_is_asked_for() {
    let three = world("F1:9h F2:8 I1:7 F3:6");
    let plan = three.plan(&full(9), Asked::Oldest).unwrap();
    assert_eq!(three.names_kept(&plan), "F1 F3");
    // Its WAL goes with it, although the policy would keep more backups.
    let unheld = world("F1:9 F2:8 F3:7");
    assert_eq!(unheld.wal(&full(9), Asked::Oldest), "20-99");
    assert_eq!(unheld.wal(&days(30), Asked::Oldest), "20-99");
    for spec in ["F1:9", "F1:9h F2:8", "F1:9 I1:8"] {
        assert!(matches!(world(spec).plan(&full(1), Asked::Oldest), Err(Error::Protected { .. })), "{spec}");
    }
}

#[test]
fn nothing_expires_by_a_clock_that_is_wrong() {
    let at = |spec, policy: Policy, asked: Asked, now| {
        let world = world(spec);
        let (backups, current) = (&world.backups, world.current);
        let input = ExpireInput { backups, archives: &[current], current, policy: &policy, asked, now };
        plan_expire(&input).map(|plan| world.names_kept(&plan))
    };
    let set = |name| Asked::Set(world("F1:9 F2:0").label(name));
    assert!(at("F1:9 F2:0", full(1), Asked::Policy, NOW - DAY).is_ok());
    for asked in [Asked::Policy, Asked::Oldest, set("F1")] {
        let error = at("F1:9 F2:0", full(1), asked, NOW - DAY - 1).unwrap_err();
        assert!(
            matches!(&error, Error::Clock { reason } if reason.contains("the clock stands 1 day(s)")),
            "{error}"
        );
    }
    // A backup made by a clock that was ahead can be removed by name.
    assert_eq!(at("F1:9 F2:0", full(1), set("F2"), NOW - 5 * DAY).unwrap(), "F1");
    assert!(matches!(at("F1:9 F2:0", full(1), Asked::Policy, NOW + 3661 * DAY), Err(Error::Clock { .. })));
    // Where ages decide, the newest must not stand alone far ahead of the others.
    assert!(matches!(at("F1:500 F2:450 F3:0", days(30), Asked::Policy, NOW), Err(Error::Clock { .. })));
    assert_eq!(at("F1:500 F2:450 F3:1 I1:0", days(30), Asked::Policy, NOW).unwrap(), "F2 F3 I1");
    assert_eq!(at("F1:500 F2:450 F3:0", full(1), Asked::Policy, NOW).unwrap(), "F3");
}

#[test]
fn what_goes_together_is_named_together() {
    let three = world("F1:9 D1:8 I1:7 F2:6 D2:5 I2:4 D3:3");
    let plan = three.plan(&Policy { diff: Some(1), ..full(1) }, Asked::Policy).unwrap();
    let sets: Vec<(Reason, usize)> = plan.sets.iter().map(|set| (set.reason, set.labels.len())).collect();
    assert_eq!(sets, [(Reason::BeyondFullCount(1), 3), (Reason::BeyondDiffCount(1), 2)]);
    let order: Vec<BackupLabel> = plan.removals().collect();
    let expected: Vec<BackupLabel> = ["I1", "D1", "F1", "I2", "D2"].map(|name| three.label(name)).to_vec();
    assert_eq!(order, expected);
}

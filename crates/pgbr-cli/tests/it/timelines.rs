//! Archives with several timelines in them: the way to each end of each, and what leads nowhere.

use pgbr_testkit::{Cluster, StopMode};

use crate::world::{Mark, World, archive_all, archiving, last_mark, newest, restore_args, set_mark};

/// Where the rows of this test's cluster went:
///
/// ```text
/// timeline 1:  A  1  2  3  C  4  .            A, B, C: backups
/// timeline 2:           3' B  4' 5' 6' .      digits: marks
/// timeline 3:                       6" 7" .
/// ```
struct Branches {
    world: World,
    a: String,
    b: String,
    c: String,
    first: Vec<Mark>,
    second: Vec<Mark>,
    /// The clusters that wrote timelines 2 and 3.
    _later: [Cluster; 2],
}

impl Branches {
    fn grow() -> Self {
        let world = World::of(newest());
        let a = world.backup();
        let mut first: Vec<Mark> = (0..3).map(|_| world.mark()).collect();
        let c = world.backup();
        first.push(world.mark());
        world.archive_all();
        world.cluster.stop(StopMode::Fast);

        let two = fork(&world, &["--type=time", &format!("--target={}", first[1].after)]);
        let mut second = vec![set_mark(&two)];
        let b = world.backup();
        second.extend((0..3).map(|_| set_mark(&two)));
        archive_all(&two);
        two.stop(StopMode::Fast);

        let three = fork(&world, &["--type=lsn", &format!("--target={}", second[2].commit_lsn)]);
        set_mark(&three);
        set_mark(&three);
        archive_all(&three);
        three.stop(StopMode::Fast);
        Self { world, a, b, c, first, second, _later: [two, three] }
    }

    /// The last mark and how the timeline that a restore opens came to be: "1-2" is one that forked from 2, which forked from 1.
    fn reached(&self, options: &[&str]) -> (u32, String, Cluster) {
        let copy = self.world.opened(options);
        let log = copy.log();
        let selected = log.lines().find_map(|line| line.split("selected new timeline ID: ").nth(1));
        let number: u32 = selected.and_then(|n| n.trim().parse().ok()).expect("the server has said it");
        let history = copy.data_dir().join(format!("pg_wal/{number:08X}.history"));
        let text = std::fs::read_to_string(history).expect("a promoted server has a history");
        let way: Vec<&str> =
            text.lines().filter_map(|line| line.split('\t').next()).filter(|w| !w.is_empty()).collect();
        (last_mark(&copy), way.join("-"), copy)
    }
}

/// Restores, promotes, and lets the new timeline go into the same archive, from the cluster that the stanza is of from then on.
fn fork(world: &World, options: &[&str]) -> Cluster {
    let mut next = archiving(Cluster::builder(world.cluster.major())).empty();
    // As in the restored settings, which the builder's own would hide.
    next.set_override("archive_command", &world.pgbr.archive_command());
    let words: Vec<&str> = options.iter().copied().chain(["--target-action=promote"]).collect();
    world.restore_to(&next, &words);
    world.pgbr.set_cluster(1, &next);
    next.start();
    next.wait_promoted();
    next
}

#[test]
fn every_end_of_every_timeline_can_be_reached() {
    let branches = Branches::grow();
    let Branches { world, a, b, c, first, second, .. } = &branches;
    let promote = "--target-action=promote";
    let (set_a, set_b, set_c) = (format!("--set={a}"), format!("--set={b}"), format!("--set={c}"));
    let time = format!("--target={}", first[2].after);
    for (options, wanted, way) in [
        (vec![], 7, "1-2-3"),
        (vec!["--target-timeline=latest"], 7, "1-2-3"),
        // From the first backup through both forks.
        (vec![set_a.as_str()], 7, "1-2-3"),
        (vec![set_b.as_str()], 7, "1-2-3"),
        (vec!["--target-timeline=current"], 6, "1-2"),
        (vec!["--target-timeline=2"], 6, "1-2"),
        (vec!["--target-timeline=0x2", &set_a], 6, "1-2"),
        (vec!["--target-timeline=3"], 7, "1-2-3"),
        // The end of the first, which was given up.
        (vec!["--target-timeline=1"], 4, "1"),
        (vec!["--target-timeline=1", &set_a], 4, "1"),
        (vec!["--target-timeline=current", &set_c], 4, "1"),
        // A name that two timelines have.
        (vec!["--type=name", "--target=mark-3", "--target-timeline=1", &set_a, promote], 3, "1"),
        (vec!["--type=name", "--target=mark-4", "--target-timeline=2", promote], 4, "1-2"),
        // A time that two timelines have passed.
        (vec!["--type=time", &time, "--target-timeline=1", promote], 3, "1"),
        // The timeline followed counts as a parent even where recovery stops before it begins.
        (vec!["--type=time", &time, promote], 2, "1-2-3"),
    ] {
        let (last, found, copy) = branches.reached(&options);
        assert_eq!((last, found.as_str()), (wanted, way), "{options:?}");
        let of_third = copy.sql(
            "postgres",
            "select coalesce(max(pg_xact_commit_timestamp(xmin))::text, '') from mark where id = 3",
        );
        let written = match (wanted, way) {
            (2, _) => "",
            (_, "1") => &first[2].committed,
            _ => &second[0].committed,
        };
        assert_eq!(of_third, written, "{options:?}");
    }
    let (_, _, copy) = branches.reached(&["--set", c, "--target-timeline=1"]);
    copy.assert_clean();
    let (_, _, copy) = branches.reached(&[&set_a]);
    copy.assert_clean();

    let nowhere = Cluster::builder(world.cluster.major()).empty();
    for (options, code, why) in [
        (vec![set_b.as_str(), "--target-timeline=1"], 75, "cannot be used"),
        (vec![set_c.as_str()], 75, "left its timeline 1 before"),
        (vec![set_c.as_str(), "--target-timeline=2"], 75, "left its timeline 1 before"),
        (vec!["--target-timeline=9"], 32, "history file is not in the archive"),
        (vec!["--target-timeline=nonsense"], 32, "nonsense"),
    ] {
        let failed = world.pgbr.fails(code, restore_args(&nowhere, &options));
        let said = format!("{}{}", failed.stdout, failed.stderr);
        assert!(said.contains(why), "{options:?}: {failed:#?}");
    }
    let left = std::fs::read_dir(nowhere.data_dir()).expect("the directory is there").count();
    assert_eq!(left, 0, "a refused restore has written something");
    lost_histories(&branches, &nowhere);
}

/// The server would take the timeline before a lost history for the newest, and say nothing.
fn lost_histories(branches: &Branches, nowhere: &Cluster) {
    let world = &branches.world;
    let objects = world.pgbr.objects();
    let of = |timeline: u32| {
        let name = format!("{timeline:08X}.history");
        (format!("pgbr/demo/archive/{}-1/{name}", world.cluster.major()), name)
    };
    let set_a = format!("--set={}", branches.a);
    let lost = |timeline: u32, refused: &[&[&str]], done: &[&[&str]]| {
        let (key, name) = of(timeline);
        let kept = objects.get(&key);
        objects.remove(&key);
        for options in refused {
            let failed = world.pgbr.fails(55, restore_args(nowhere, options));
            let said = format!("{}{}", failed.stdout, failed.stderr);
            assert!(
                said.contains(&name) && said.contains("--target-timeline=current"),
                "{options:?}: {said}"
            );
        }
        for options in done {
            let options: Vec<&str> = options.iter().copied().chain(["--dry-run"]).collect();
            world.pgbr.ok(restore_args(nowhere, &options));
        }
        objects.put(&key, &kept);
    };
    let current = "--target-timeline=current";
    lost(
        3,
        &[&[], &[&set_a], &["--target-timeline=latest"]],
        &[&[current], &["--target-timeline=2"], &["--type=immediate"]],
    );
    // From the second timeline on, the way to the third does not lead through the history of the second.
    lost(2, &[&[&set_a]], &[&[], &["--target-timeline=3", &set_a], &[current, &set_a]]);
}

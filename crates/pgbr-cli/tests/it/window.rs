//! To which moments one can go back, as info tells it, and what check says of what is too old.

use std::fs::{File, FileTimes};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgbr_testkit::{Cluster, Finished, Pgbr, StopMode, StoreKind, run, wait_until};
use serde_json::{Value, json};

use crate::rig::{LIMIT, MAJOR, Rig, STANZA, assert_one_error, cluster, restore_into, said};
use crate::world::archive_all;

/// With a repository in a directory, where a test can say when a segment was archived.
fn rig_of(cluster: Cluster) -> Rig {
    let pgbr = Pgbr::on(StoreKind::Posix, env!("CARGO_BIN_EXE_pgbr"), STANZA, &cluster);
    Rig::around(cluster, pgbr, |_| ())
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.as_secs().try_into().expect("it is not the end of time")
}

/// Says that a segment was archived at this second.
fn archived_at(rig: &Rig, segment: &str, at: i64) {
    let time = UNIX_EPOCH + Duration::from_secs(at.try_into().expect("it is later than 1970"));
    let file = File::options().write(true).open(rig.wal_object(segment)).expect("it is in the archive");
    file.set_times(FileTimes::new().set_modified(time)).expect("this test may do so");
}

/// The archive as info shows it.
fn archive(rig: &Rig, options: &[&str]) -> Value {
    let text = rig.pgbr.ok(["info", "--output=json", "--log-level-console=off"].iter().chain(options));
    let info: Value = serde_json::from_str(&text).expect("info prints JSON");
    info.pointer("/0/archive/0").expect("there is an archive").clone()
}

/// Info as text, by the clock of Greenwich.
fn text(rig: &Rig) -> String {
    let mut command: Command = rig.pgbr.command(["info"]);
    let finished = run(command.env("TZ", "UTC"), "", LIMIT);
    assert!(finished.success(), "{finished:#?}");
    finished.stdout
}

/// A moment as info shows it.
fn shown(at: &Value) -> String {
    let at = jiff::Timestamp::from_second(at.as_i64().expect("a moment")).expect("it is not far off");
    format!("{}+00", at.strftime("%Y-%m-%d %H:%M:%S"))
}

/// First and last segment of a backup, and the first second after its end by its server's clock, which runs with that of the program here.
fn backup(rig: &Rig, label: &str) -> (String, String, i64) {
    let info = rig.info();
    let backups = info.pointer("/0/backup").and_then(Value::as_array).expect("there are backups");
    let of = backups.iter().find(|backup| backup["label"] == label).expect("it is listed");
    let wal = |name: &str| of["archive"][name].as_str().expect("a segment").to_owned();
    (wal("start"), wal("stop"), of["timestamp"]["stop"].as_i64().expect("a moment"))
}

/// A moment is that of the end of a backup, to the second that two looks at one clock may lie apart.
#[track_caller]
fn assert_end(at: &Value, of: i64) {
    let at = at.as_i64().expect("a moment");
    assert!((of - 1..=of + 1).contains(&at), "{at} is not {of}");
}

#[test]
fn a_lost_segment_cuts_the_moments_in_two() {
    let rig = rig_of(cluster());
    assert_eq!(archive(&rig, &[])["recovery"], json!({"gap": [], "unusable": [], "window": []}));
    assert!(text(&rig).contains("        repo1: recovery window: none\n"));
    let first = rig.backup();
    let segments: Vec<String> = (0..3).map(|_| rig.archived_segment()).collect();
    let second = rig.backup();
    let last = rig.archived_segment();
    let (start, _, ended) = backup(&rig, &first);
    let (next_start, _, next_ended) = backup(&rig, &second);
    // An hour behind all that is shown otherwise.
    let end = now() - 3600;
    archived_at(&rig, &last, end);
    let whole = archive(&rig, &[]);
    assert_eq!(whole["max"], json!(last));
    assert_eq!(whole["newest"]["archived"], json!(end));
    assert!((3600..3700).contains(&whole["newest"]["age"].as_i64().expect("an age")), "{whole}");
    let windows = &whole["recovery"]["window"];
    assert_eq!(windows.as_array().map(Vec::len), Some(1), "{whole}");
    assert_eq!(windows[0]["archive"], json!({"start": start, "stop": last}));
    assert_eq!((&windows[0]["timeline"], &windows[0]["backup"]), (&json!(1), &json!([first, second])));
    assert_end(&windows[0]["timestamp"]["start"], ended);
    // No window ends before its last backup, whatever the clocks say.
    assert_end(&windows[0]["timestamp"]["stop"], next_ended);
    assert_eq!(whole["recovery"]["gap"], json!([]));

    rig.objects().remove(&rig.wal_key(&segments[1]));
    // What follows is old: it is not waited for.
    archived_at(&rig, &segments[2], now() - 3600);
    let (cut, end) = (now() + 100, now() + 1000);
    archived_at(&rig, &segments[0], cut);
    archived_at(&rig, &last, end);
    let found = archive(&rig, &[]);
    let windows = &found["recovery"]["window"];
    assert_eq!(windows.as_array().map(Vec::len), Some(2), "{found}");
    assert_eq!(windows[0]["archive"], json!({"start": start, "stop": segments[0]}));
    assert_eq!(windows[1]["archive"], json!({"start": next_start, "stop": last}));
    assert_eq!((&windows[0]["backup"], &windows[1]["backup"]), (&json!([first]), &json!([second])));
    assert_end(&windows[0]["timestamp"]["start"], ended);
    assert_eq!(windows[0]["timestamp"]["stop"], json!(cut));
    assert_end(&windows[1]["timestamp"]["start"], next_ended);
    assert_eq!(windows[1]["timestamp"]["stop"], json!(end));
    let wanted = json!([{
        "reason": "missing",
        "timestamp": {"start": cut, "stop": windows[1]["timestamp"]["start"]},
        "archive": {"start": segments[1], "stop": segments[1]},
        "segments": 1,
        "backup": [first],
    }]);
    assert_eq!(found["recovery"]["gap"], wanted);
    let text = text(&rig);
    for line in [
        format!("wal archived up to: {} (0s ago)", shown(&json!(end))),
        format!(
            "recovery window (timeline 1): {} / {}",
            shown(&windows[0]["timestamp"]["start"]),
            shown(&json!(cut))
        ),
        format!(
            "recovery window (timeline 1): {} / {}",
            shown(&windows[1]["timestamp"]["start"]),
            shown(&json!(end))
        ),
        format!(
            "recovery gap: {} / {}: wal {} missing",
            shown(&json!(cut)),
            shown(&windows[1]["timestamp"]["start"]),
            segments[1]
        ),
    ] {
        assert!(text.contains(&format!("        repo1: {line}\n")), "{line}: {text}");
    }
    // What was there before stands where it stood.
    let bounds = format!("    db (current)\n        wal archive min/max ({MAJOR}): ");
    assert!(text.contains(&bounds), "{text}");

    // Both can be switched off: the age costs nothing.
    let without = archive(&rig, &["--no-recovery-window"]);
    assert_eq!((&without["newest"]["archived"], without.get("recovery")), (&json!(end), None));
    rig.pgbr.set("global:info", "recovery-window", "n");
    assert!(!rig.pgbr.ok(["info"]).contains("recovery"));
}

#[test]
fn each_timeline_has_its_moments() {
    let rig = rig_of(cluster());
    let first = rig.backup();
    let given_up = rig.archived_segment();
    rig.cluster.stop(StopMode::Fast);
    // Wound back to the end of the backup: what came after is given up.
    let mut later = Cluster::builder(MAJOR).conf("archive_mode", "on").empty();
    later.set_override("archive_command", &rig.pgbr.archive_command());
    let words = restore_into(&later);
    rig.pgbr.ok(words.iter().map(String::as_str).chain(["--target-action=promote", "--type=immediate"]));
    rig.pgbr.set_cluster(1, &later);
    later.start();
    later.wait_promoted();
    archive_all(&later);
    let second = rig.backup();
    archive_all(&later);

    // The old server has archived more when it ended.
    let old_end = rig.names("archive/15-1").into_iter().filter(|name| name.starts_with("00000001"));
    let old_end = old_end.filter(|name| !name.contains('.')).max().expect("it has archived").split_off(17);
    assert!(old_end >= given_up);
    let found = archive(&rig, &[]);
    let windows = found["recovery"]["window"].as_array().expect("a list").clone();
    let told = |window: &Value| json!([window["timeline"], window["archive"]["stop"], window["backup"]]);
    let wanted = [json!([1, old_end, [first]]), json!([2, found["max"], [first, second]])];
    assert_eq!(windows.iter().map(told).collect::<Vec<_>>(), wanted, "{found:#}");
    assert_eq!((&found["recovery"]["gap"], &found["recovery"]["unusable"]), (&json!([]), &json!([])));
    assert!(text(&rig).contains("repo1: recovery window (timeline 2): "));

    // The way to the new timeline is lost with its first segment, or with its history.
    let names = rig.names("archive/15-1");
    let fork =
        names.iter().find(|name| name.starts_with("00000002") && !name.contains('.')).expect("it is there");
    let fork = fork.rsplit('/').next().expect("a name").to_owned();
    let key = rig.wal_key(&fork);
    let kept = rig.objects().get(&key);
    rig.objects().remove(&key);
    let found = archive(&rig, &[]);
    let gaps = found["recovery"]["gap"].as_array().expect("a list");
    assert_eq!(gaps.len(), 1, "{found:#}");
    assert_eq!((&gaps[0]["archive"]["start"], &gaps[0]["backup"]), (&json!(fork), &json!([first])));
    let windows =
        found["recovery"]["window"].as_array().expect("a list").iter().map(told).collect::<Vec<_>>();
    assert_eq!(windows, [json!([1, old_end, [first]]), json!([2, found["max"], [second]])]);
    rig.objects().put(&key, &kept);
    rig.objects().remove(&rig.key("archive/15-1/00000002.history"));
    let found = archive(&rig, &[]);
    let windows =
        found["recovery"]["window"].as_array().expect("a list").iter().map(told).collect::<Vec<_>>();
    assert_eq!(windows, [json!([1, old_end, [first]]), json!([2, found["max"], [second]])]);
}

#[test]
fn retention_leaves_older_backups_their_own_end() {
    // The first backup lies in the first segment of a log, whose name does not tell how large segments are.
    let cluster = Cluster::builder(MAJOR).conf("archive_mode", "on").wal_segsize(1).init();
    cluster.data_program("pg_resetwal", &["-l", "000000010000000100000FFF"]);
    cluster.start();
    let rig = rig_of(cluster);
    let first = rig.backup();
    let (start, stop, ended) = backup(&rig, &first);
    assert_eq!(start, "000000010000000200000000");
    let alone = archive(&rig, &[]);
    assert_eq!(alone["recovery"]["window"][0]["archive"], json!({"start": start, "stop": stop}));
    for _ in 0..2 {
        rig.archived_segment();
    }
    let second = rig.backup();
    rig.archived_segment();
    let third = rig.backup();
    let last = rig.archived_segment();
    rig.pgbr.set("global", "repo1-retention-full", "3");
    rig.pgbr.set("global", "repo1-retention-archive", "1");
    rig.pgbr.ok(["expire"]);

    let found = archive(&rig, &[]);
    let windows = &found["recovery"]["window"];
    let told: Vec<_> = windows
        .as_array()
        .expect("a list")
        .iter()
        .map(|w| json!([w["archive"]["stop"], w["backup"]]))
        .collect();
    let second_stop = backup(&rig, &second).1;
    assert_eq!(told, [json!([stop, [first]]), json!([second_stop, [second]]), json!([last, [third]])]);
    for window in [&windows[0], &windows[1]] {
        assert_eq!(window["timestamp"]["start"], window["timestamp"]["stop"], "{found:#}");
    }
    assert_end(&windows[0]["timestamp"]["stop"], ended);
    let gaps = found["recovery"]["gap"].as_array().expect("a list");
    assert_eq!(gaps.iter().map(|gap| &gap["reason"]).collect::<Vec<_>>(), ["retention", "retention"]);
    for (gap, before) in gaps.iter().zip([0, 1]) {
        assert_eq!(gap["timestamp"]["start"], windows[before]["timestamp"]["stop"], "{found:#}");
        assert_eq!(gap["timestamp"]["stop"], windows[before + 1]["timestamp"]["start"], "{found:#}");
    }
    assert_eq!(text(&rig).matches(" removed by retention\n").count(), 2);

    // A backup that lacks a segment of its own begins nothing.
    rig.objects().remove(&rig.wal_key(&second_stop));
    let found = archive(&rig, &[]);
    assert_eq!(found["recovery"]["unusable"], json!([{"label": second, "missing": second_stop}]));
    assert_eq!(found["recovery"]["window"].as_array().map(Vec::len), Some(2), "{found:#}");
    let line = format!("repo1: backup {second} cannot be made consistent: wal {second_stop} is missing\n");
    assert!(text(&rig).contains(&line));
}

#[test]
fn check_warns_of_what_is_too_old_in_each_repository() {
    let rig = rig_of(cluster());
    let second = rig.pgbr.scratch().dir("second");
    let check = |options: &[&str]| rig.pgbr.run(["check"].iter().chain(options));
    let old = |finished: &Finished, warnings: &[&str]| {
        let text = said(finished);
        assert_eq!(text.matches("WARN: ").count(), warnings.len(), "{text}");
        for warning in warnings {
            assert!(text.contains(warning), "{warning}: {text}");
        }
    };
    let all = ["--backup-age-max=1d", "--wal-age-max=1h", "--drill-age-max=4w"];
    // Nothing is there yet; the rest is checked all the same, and makes the first segment.
    let never = check(&all);
    old(
        &never,
        &[
            "repo1: there is no backup of this cluster, and backup-age-max is 1d: make one with",
            "repo1: there is no WAL of this cluster, and wal-age-max is 1h: see pg_stat_archiver",
            "repo1: no backup that is there was proven by a drill, and drill-age-max is 28d: make one with",
        ],
    );
    assert_one_error(&never, 84, &["older than allowed: backup-age-max, wal-age-max, drill-age-max"]);
    assert!(said(&never).contains("successfully archived to"), "{never:#?}");

    let label = rig.backup();
    let fresh = check(&all[..2]);
    assert!(fresh.success(), "{fresh:#?}");
    old(&fresh, &[]);
    let names = rig.names("archive/15-1");
    for name in names.iter().filter(|name| !name.contains('.')) {
        archived_at(&rig, name.rsplit('/').next().expect("a name"), now() - 7500);
    }
    // As a monitor does it: from the config file, and the segment that the check itself makes does not count.
    rig.pgbr.set("global", "wal-age-max", "2h");
    let stale = check(&[]);
    old(&stale, &[" was archived 2h 5m ago, and wal-age-max is 2h: see pg_stat_archiver"]);
    assert!(said(&stale).contains("WARN: repo1: the newest WAL segment 0000"), "{stale:#?}");
    assert_one_error(&stale, 84, &["older than allowed: wal-age-max\n"]);
    assert!(check(&[]).success(), "a segment has come meanwhile");

    // What else is wrong comes first.
    rig.cluster.set_conf("archive_command", "/bin/true");
    rig.cluster.reload();
    let wrong = check(&["--drill-age-max=1d"]);
    assert_one_error(&wrong, 68, &[]);
    old(&wrong, &["drill-age-max is 1d"]);
    rig.pgbr.archive_from(&rig.cluster);

    rig.pgbr.set("global", "repo2-path", &second.display().to_string());
    rig.pgbr.ok(["stanza-create"]);
    let two = check(&["--no-archive-check", "--backup-age-max=1d"]);
    old(&two, &["repo2: there is no backup of this cluster", "repo2: there is no WAL of this cluster"]);
    let text = said(&two);
    assert!(text.contains("ERROR: [084]: repo2: older than allowed: backup-age-max, wal-age-max"), "{text}");
    assert!(two.code == Some(84) && text.contains("ERROR: [084]: check command failed on repo2"), "{text}");

    let ended = backup(&rig, &label).2;
    wait_until(LIMIT, "the backup to be older than a second", || now() > ended + 2);
    let aged = check(&["--no-archive-check", "--backup-age-max=1s"]);
    assert!(said(&aged).contains(&format!("repo1: the newest backup {label} ended ")), "{aged:#?}");
    assert_eq!(check(&["--backup-age-max=0s"]).code, Some(32));
}

//! The passphrase is nowhere but in the config file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgbr_testkit::{run, variable};

use crate::rig::{LIMIT, PASS, Rig, restore_into, said};

const TRACE: [&str; 3] = ["--log-level-console=trace", "--log-level-stderr=trace", "--log-level-file=trace"];

/// Files below a directory that hold the passphrase.
fn leaks(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(PASS.len()).any(|w| w == PASS.as_bytes()))
            {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_passphrase_stays_in_the_config_file() {
    let rig = Rig::sealed();
    rig.slow_down();
    let target = rig.target();
    let into = restore_into(&target);
    rig.backup();
    let segment = rig.archived_segment();
    let pushed = format!("pg_wal/{segment}");
    let got = target.scratch().path().join("got").display().to_string();
    let commands: [&[&str]; 11] = [
        &["stanza-create"],
        &["check"],
        &["backup", "--type=full"],
        &["archive-push", &pushed],
        &["archive-get", &segment, &got],
        &[&into[0], &into[1]],
        &["info", "--output=json"],
        &["help", "backup", "repo-cipher-pass"],
        // And those that fail.
        &["backup", "--bogus"],
        &[&into[0], &into[1]],
        &["restore", "--set=20200101-000000F"],
    ];
    for command in commands {
        let levels = if command[0] == "help" { &[][..] } else { &TRACE[..] };
        let words = command.iter().chain(levels).copied();
        let finished = rig.pgbr.run(words);
        assert!(!said(&finished).contains(PASS), "{command:?}: {finished:#?}");
    }
    // By an environment variable. The server does not have it, so nothing that needs its archiver.
    rig.pgbr.unset("global", "repo1-cipher-pass");
    let words = ["archive-get", &segment, &got];
    let mut command = rig.pgbr.command(words.iter().chain(&TRACE).copied());
    let finished = run(command.env(variable("repo1-cipher-pass"), PASS), "", LIMIT);
    assert!(finished.success() && !said(&finished).contains(PASS), "{finished:#?}");
    rig.pgbr.set("global", "repo1-cipher-pass", PASS);
    // On the command line it is refused, and not repeated.
    let finished = rig.pgbr.fails(31, ["backup", &format!("--repo1-cipher-pass={PASS}")]);
    assert!(!said(&finished).contains(PASS), "{finished:#?}");

    // While it runs: what every user can see.
    let frozen = rig.frozen_backup();
    let line = fs::read(format!("/proc/{}/cmdline", frozen.pid())).unwrap();
    let line = String::from_utf8_lossy(&line);
    assert!(line.contains("--stanza=demo") && !line.contains(PASS), "{line}");
    let finished = frozen.thaw();
    assert!(finished.success(), "{finished:#?}");

    assert_eq!(leaks(rig.pgbr.scratch().path()), [rig.pgbr.config_path()]);
    assert_eq!(leaks(rig.cluster.scratch().path()), [""; 0].map(PathBuf::from));
    assert_eq!(leaks(target.scratch().path()), [""; 0].map(PathBuf::from));
    let logs = fs::read_dir(rig.pgbr.log_dir()).unwrap().count();
    assert!(logs > 0, "there are log files to look at");
}

#[test]
fn a_config_file_that_everybody_can_read_is_warned_of() {
    let rig = Rig::sealed();
    let path = rig.pgbr.config_path();
    let words = ["WARN: configuration file", "holds a secret and can be read by every user", "chmod o-r"];
    for (mode, warned) in [(0o640, false), (0o600, false), (0o644, true)] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let text = said(&rig.pgbr.run(["check"]));
        assert!(words.iter().all(|word| text.contains(word) == warned), "{mode:o}: {text}");
        // Monitoring takes both outputs together.
        let both = said(&rig.pgbr.run(["info", "--output=json"]));
        assert!(both.starts_with('[') && both.trim_end().ends_with(']'), "{mode:o}: {both}");
    }
    // Without a secret in it there is nothing to hide.
    let plain = Rig::plain();
    fs::set_permissions(plain.pgbr.config_path(), Permissions::from_mode(0o644)).unwrap();
    assert!(!said(&plain.pgbr.run(["check"])).contains("WARN"));
}

//! What pgBackRest still holds beside ours: told by expire, removed by name alone, and never what anybody needs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pgbr_testkit::{Cluster, PgBackRest, as_operator, run, wait_until};

use crate::rig::{LIMIT, MAJOR};
use crate::swap::{Swap, everything, files};

/// The swap has been made, and both sides have a backup; another stanza is pgBackRest's alone.
struct Both {
    swap: Swap,
    other: Cluster,
}

impl Both {
    fn new() -> Self {
        // Asynchronously: a process of ours holds the lock of the archive for some seconds after each segment.
        let swap = Swap::new(vec![("bundle", "y".to_owned())], &[("archive-async", "y".to_owned())]);
        let config = swap.theirs.scratch().path().join("pgbackrest.conf");
        let other = Cluster::builder(MAJOR).conf("archive_mode", "on").init();
        let text = fs::read_to_string(&config).expect("it is there");
        let text = text.replace("repo1-retention-full=9", "repo1-retention-full=2");
        let more = format!(
            "\n[other]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\npg1-port={}\n",
            other.data_dir().display(),
            other.socket_dir().display(),
            other.port()
        );
        fs::write(&config, text + &more).expect("it is ours");
        let both = Self { swap, other };
        both.set_archive_command();
        both.theirs_of_other(&["--no-online", "stanza-create"]);
        both.other.start();
        both.theirs_of_other(&["--type=full", "backup"]);

        let swap = &both.swap;
        swap.cluster.start();
        swap.cluster.sql("postgres", "create table rows (name text)");
        swap.ok(&["--type=full", "backup"]);
        swap.moment("theirs");
        swap.ok(&["--type=incr", "backup"]);
        swap.swap();
        swap.moment("ours");
        both
    }

    fn set_archive_command(&self) {
        let config = self.swap.theirs.scratch().path().join("pgbackrest.conf");
        let command =
            format!("/usr/bin/pgbackrest --config={} --stanza=other archive-push %p", config.display());
        self.other.set_conf("archive_command", &command);
    }

    /// Debian's program on the other stanza.
    fn theirs_of_other(&self, args: &[&str]) -> String {
        let config = self.swap.theirs.scratch().path().join("pgbackrest.conf");
        let mut command = Command::new("/usr/bin/pgbackrest");
        as_operator(&mut command)
            .arg(format!("--config={}", config.display()))
            .arg("--stanza=other")
            .args(args);
        let finished = run(&mut command, "", LIMIT);
        assert!(finished.success(), "{args:?}: {finished:#?}");
        everything(&finished)
    }

    fn theirs(&self) -> &PgBackRest {
        &self.swap.theirs
    }

    fn roots(&self) -> [PathBuf; 2] {
        ["archive/main", "backup/main"].map(|root| self.theirs().repository(1).join(root))
    }

    fn is_there(&self) -> bool {
        self.roots().iter().any(|root| root.exists())
    }

    /// A process that holds a lock as one of pgBackRest would.
    fn hold(&self, name: &str) -> Child {
        let path = self.theirs().scratch().path().join("lock").join(name);
        let mut command = Command::new("/usr/bin/flock");
        as_operator(&mut command).arg("--no-fork").arg(&path).args(["sleep", "60"]);
        let child = command.stdin(Stdio::null()).spawn().expect("util-linux has it");
        wait_until(LIMIT, "the lock to be held", || {
            let mut look = Command::new("/usr/bin/flock");
            as_operator(&mut look).arg("-n").arg(&path).arg("true");
            run(&mut look, "", LIMIT).code == Some(1)
        });
        child
    }
}

const REMOVE: [&str; 3] = ["--log-level-console=info", "expire", "--pgbackrest-remove"];

#[test]
fn it_is_told_once_ours_is_enough_and_removed_by_name() {
    let both = Both::new();
    let swap = &both.swap;
    let holds = "pgBackRest still holds";
    // Ours has no backup, and then fewer than are to be kept.
    swap.fails(&REMOVE, 75, "there is no backup of ours");
    let told = everything(&swap.ok(&["--log-level-console=info", "--type=full", "backup"]));
    assert!(!told.contains(holds), "{told}");
    let told = everything(&swap.ok(&["--log-level-console=info", "--repo1-retention-full=1", "expire"]));
    assert!(told.contains(holds), "{told}");
    assert!(told.contains("--stanza=main expire --pgbackrest-remove'"), "{told}");
    let told = everything(&swap.ok(&["--log-level-console=info", "--type=full", "backup"]));
    assert!(told.contains(holds), "the expire behind a backup says it too: {told}");
    for other in ["--set=20261122-120000F", "--oldest"] {
        swap.fails(
            &["expire", "--pgbackrest-remove", other],
            31,
            "is not valid with option 'pgbackrest-remove'",
        );
    }

    let before = both.roots().map(|root| files(&root));
    let told = everything(&swap.ok(&[&REMOVE[..], &["--dry-run"]].concat()));
    assert!(told.contains("would be removed"), "{told}");
    // Locks of either form, of whatever it is that pgBackRest does.
    for name in ["main-backup.lock", "main-archive.lock", "main-restore-1.lock"] {
        let mut child = both.hold(name);
        swap.fails(&REMOVE, 50, name);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    assert!(both.roots().map(|root| files(&root)) == before);

    // Our own worker is at work.
    swap.moment("worker");
    assert!(both.theirs().scratch().path().join("lock/main-archive-1.lock").exists());
    let told = everything(&swap.ok(&REMOVE));
    assert!(told.contains("what pgBackRest had of stanza 'main' is removed"), "{told}");
    assert!(!both.is_there());
    let told = everything(&swap.ok(&REMOVE));
    assert!(told.contains("pgBackRest has nothing of stanza 'main'"), "{told}");
    let told = everything(&swap.ok(&["--log-level-console=info", "expire"]));
    assert!(!told.contains(holds), "{told}");

    // pgBackRest finds its other stanza as it was, and can begin this one anew.
    let told = both.theirs_of_other(&["info"]);
    assert!(told.contains("status: ok") && told.contains("full backup: "), "{told}");
    both.theirs_of_other(&["check"]);
    let told = both.theirs_of_other(&["--log-level-console=info", "verify"]);
    assert!(told.contains("completed successfully") && !told.contains("invalid,"), "{told}");
    let told = both.theirs().ok(["info"]).stdout;
    assert!(told.contains("missing stanza path"), "{told}");
    // What is ours is restored as ever.
    let now = swap.moment("last");
    // Something has to be committed behind it.
    swap.moment("more");
    assert_eq!(swap.rows_at(&now), "last ours theirs worker");
    both.theirs().ok(["stanza-create"]);
}

#[test]
fn a_removal_that_cannot_go_on_is_completed_by_the_next() {
    let both = Both::new();
    let swap = &both.swap;
    swap.ok(&["--type=full", "backup"]);
    let [archive, backup] = both.roots();
    // Somebody had put the backups onto another disk.
    let disk = swap.theirs.scratch().path().join("disk");
    fs::rename(&backup, &disk).expect("it can be moved");
    symlink(&disk, &backup).expect("it is ours");
    let segments = archive.join("15-1/0000000100000000");
    fs::set_permissions(&segments, Permissions::from_mode(0o500)).expect("it is ours");
    swap.fails(&REMOVE, 60, "0000000100000000");
    assert!(backup.symlink_metadata().is_err() && files(&disk).is_empty());
    assert!(!archive.join("archive.info").exists() && segments.exists());
    // Neither program takes what is left for a backup.
    let told = everything(&swap.ok(&["info"]));
    assert_eq!(told.matches("backup: ").count(), 1, "{told}");
    let told = both.theirs().ok(["info"]).stdout;
    assert!(told.contains("status: error") && !told.contains("backup: "), "{told}");
    let told = everything(&swap.ok(&["--log-level-console=info", "--repo1-retention-full=1", "expire"]));
    assert!(told.contains("pgBackRest still holds"), "{told}");
    fs::set_permissions(&segments, Permissions::from_mode(0o700)).expect("it is ours");
    swap.ok(&REMOVE);
    assert!(!both.is_there());
}

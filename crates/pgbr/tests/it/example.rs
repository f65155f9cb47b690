//! The example does what it says, as a program of its own that knows no command line of ours.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pgbr_testkit::{Cluster, StopMode, as_operator, run};

/// The example, copied to where the operator can run it. Cargo builds it beside the tests.
fn example(cluster: &Cluster) -> PathBuf {
    let tests = std::env::current_exe().expect("the tests are a program");
    let built = tests.ancestors().nth(2).expect("it lies in deps/").join("examples/backup_and_restore");
    assert!(built.exists(), "{} is missing: run cargo build -p pgbr --examples", built.display());
    let copy = cluster.scratch().path().join("backup_and_restore");
    std::fs::copy(&built, &copy).expect("the example can be copied");
    copy
}

#[test]
fn the_example_backs_up_and_restores() {
    let cluster = Cluster::builder(15).conf("archive_mode", "on").start();
    let program = example(&cluster);
    let repo = cluster.scratch().dir("repo");
    let push = format!("{} push {} %p", program.display(), repo.display());
    cluster.set_conf("archive_command", &push);
    cluster.reload();
    cluster.sql("postgres", "create table t as select g, md5(g::text) from generate_series(1, 5000) g");
    let before = cluster.table_digest("postgres");

    let target = Cluster::builder(15).empty();
    let mut command = Command::new(&program);
    as_operator(&mut command)
        .arg(cluster.data_dir())
        .arg(cluster.socket_dir())
        .arg(cluster.port().to_string())
        .arg(&repo)
        .arg(target.data_dir());
    let finished = run(&mut command, "", Duration::from_secs(120));
    assert!(finished.success(), "{finished:#?}");
    assert!(finished.stdout.starts_with("backup 2"), "{finished:#?}");

    // Rows that came after the backup come back from the archive.
    cluster.sql("postgres", "insert into t values (0, 'later')");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment);
    let after = cluster.table_digest("postgres");
    assert_ne!(before, after);
    cluster.stop(StopMode::Immediate);
    target.start();
    target.wait_promoted();
    assert_eq!(target.table_digest("postgres"), after);
    target.assert_clean();
}

#[test]
fn the_example_says_what_is_wrong() {
    let cluster = Cluster::builder(15).init();
    let program = example(&cluster);
    let call = |args: &[&str]| {
        let mut command = Command::new(&program);
        run(as_operator(&mut command).args(args), "", Duration::from_secs(60))
    };
    let usage = call(&["nothing"]);
    assert_eq!((usage.code, usage.stderr.contains("usage:")), (Some(2), true), "{usage:#?}");

    let repo = cluster.scratch().path().join("none").display().to_string();
    let file = cluster.scratch().file("00000002.history", "1\t0/3000000\tno recovery target specified\n");
    let pushed = call(&["push", &repo, &file.display().to_string()]);
    assert_eq!((pushed.code, pushed.stderr.contains(&repo)), (Some(1), true), "{pushed:#?}");
}

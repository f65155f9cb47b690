//! What `archive-get` exits with where its options cannot even be read: a server in recovery must not take that for the end of the WAL.

use std::path::Path;
use std::process::Command;

use pgbr_testkit::runnable;

/// Runs `archive-get` in a data directory with these signal files, as the server does, and gives its exit code.
fn exit_of(signals: &[&str], args: &[&str]) -> Option<i32> {
    let data = tempfile::tempdir().expect("a directory can be made");
    for signal in signals {
        std::fs::write(data.path().join(signal), "").expect("a file can be written");
    }
    let mut command = Command::new(runnable(Path::new(env!("CARGO_BIN_EXE_pgbr"))));
    command.current_dir(data.path()).env_clear().args(args);
    command.args(["archive-get", "000000010000000000000001", "pg_wal/RECOVERYXLOG"]);
    command.output().expect("the program runs").status.code()
}

#[test]
fn a_slip_in_the_configuration_does_not_end_a_recovery() {
    let missing = ["--config=/no/such/file.conf", "--stanza=demo"];
    let unknown = ["--no-config", "--stanza=demo", "--bogus=1"];
    let no_path = ["--no-config", "--stanza=demo"];
    for (args, plain) in [(&missing[..], 55), (&unknown, 31), (&no_path, 37)] {
        assert_eq!(exit_of(&["recovery.signal"], args), Some(250), "{args:?}");
        // A standby tries again on anything, and its signal file wins.
        assert_eq!(exit_of(&["standby.signal"], args), Some(plain), "{args:?}");
        assert_eq!(exit_of(&["recovery.signal", "standby.signal"], args), Some(plain), "{args:?}");
        assert_eq!(exit_of(&[], args), Some(plain), "{args:?}");
    }
}

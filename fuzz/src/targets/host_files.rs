//! Small files on the host that other processes wrote: locks, what an archiver says, what an observer has seen, the server's own.

use std::time::Duration;

use pgbr_repo::Watch;

pub(crate) fn run(bytes: &[u8]) {
    pgbr_repo::fuzzing::locks(bytes);
    pgbr_pg::fuzzing::pid_file(bytes);
    let Ok(text) = str::from_utf8(bytes) else { return };
    pgbr::fuzzing::spool_failure(text);
    let mut watch = Watch::restore(text, "boot");
    let saved = watch.save("boot");
    assert_eq!(Watch::restore(&saved, "boot").save("boot"), saved);
    assert_eq!(watch.observe("new", "1", Duration::ZERO), Duration::ZERO);
}

//! Ways in for the fuzz targets, to parsers and decisions that are this crate's own business. They are there with `--cfg fuzzing` alone.

/// What is found in an archive and of backups; numbers of segments are small.
#[derive(Debug, Clone, Default)]
#[expect(clippy::exhaustive_structs, reason = "made by the fuzz target")]
pub struct Found {
    /// Timeline, number, and whether it is sound.
    pub segments: Vec<(u8, u8, bool)>,
    /// A timeline, and its ancestors, each with the segment in which it was left.
    pub histories: Vec<(u8, Vec<(u8, u8)>)>,
    /// Timeline of a backup, the first segment that it needs, and how many follow.
    pub backups: Vec<(u8, u8, u8)>,
}

/// What one process says to another of a failure: what is read is written and read again.
pub fn spool_failure(text: &str) {
    crate::archive::read_failure(text);
}

/// A path in the view of a repository that tools made for pgBackRest have.
pub fn view_path(text: &str) {
    crate::browse::read_path(text);
}

/// How far WAL leads, beside a naive opinion that goes segment by segment.
pub fn reach(found: &Found) {
    crate::reach::compare_reach(found);
}

/// Where tablespaces go by foreign names: into the directory that was given for them, or nowhere.
pub fn places(names: &[(u32, &str, &str)], links: &[(&str, &str)]) {
    crate::restore::compare_places(names, links);
}

/// The record of a repository that is kept elsewhere.
pub fn witness(bytes: &[u8]) {
    crate::witness::read_record(bytes);
}

/// An exported key, as it was written down.
pub fn key_block(text: &[u8]) {
    crate::keys::read_block(text);
}

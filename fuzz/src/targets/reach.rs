//! How far WAL leads from each backup, beside a naive opinion.

use pgbr::fuzzing::Found;

type Ancestors = Vec<(u8, u8)>;

pub(crate) fn run(input: (Vec<(u8, u8, bool)>, Vec<(u8, Ancestors)>, Vec<(u8, u8, u8)>)) {
    let (segments, histories, backups) = input;
    // Few timelines and segments, so that they meet.
    let near = |number: u8| number % 32;
    let line = |timeline: u8| timeline % 5 + 1;
    let segments = segments.into_iter().map(|(t, n, sound)| (line(t), near(n), sound)).collect();
    let ancestors = |of: Ancestors| of.into_iter().map(|(t, n)| (line(t), near(n))).collect();
    let histories = histories.into_iter().map(|(t, of)| (line(t), ancestors(of))).collect();
    let backups = backups.into_iter().map(|(t, n, more)| (line(t), near(n), more)).collect();
    pgbr::fuzzing::reach(&Found { segments, histories, backups });
}

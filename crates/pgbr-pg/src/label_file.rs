//! `backup_label` and `tablespace_map`: what the server gives at the end of a backup and wants back at a restore.

use std::path::{Path, PathBuf};

use pgbr_manifest::{Lsn, PgVersion, TimelineId, WalSegmentName};

use crate::error::{Error, Result};

/// The largest of these files that is read, in bytes: a hundred lines of `MAXPGPATH`.
const MAX_BYTES: usize = 16 << 20;

/// What a `backup_label` says (src/backend/access/transam/xlogbackup.c, xlogrecovery.c).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupLabelFile {
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// The segment in which that lies.
    pub start_segment: WalSegmentName,
    /// The checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// `streamed` for every backup that can be restored by this program.
    pub method: Option<String>,
    /// Whether it was taken from a standby; the control file must come from the same one then.
    pub from_standby: bool,
    /// The server's local time at the start.
    pub start_time: Option<String>,
    /// The label that was given.
    pub label: Option<String>,
    /// The timeline at the start.
    pub timeline: Option<TimelineId>,
    /// Whether it belongs to an incremental backup of the server's own (17 and later), which no server starts from.
    pub incremental: bool,
}

impl BackupLabelFile {
    /// Reads the file's lines; unknown ones are passed over, as the server does.
    ///
    /// # Errors
    /// When the start or the checkpoint is missing or does not parse.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::LabelFile { what: "backup_label", reason: reason.to_owned() };
        if text.len() > MAX_BYTES {
            return Err(bad("it is too large"));
        }
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let start = line("START WAL LOCATION").ok_or_else(|| bad("no line 'START WAL LOCATION'"))?;
        let (lsn, rest) = start.split_once(' ').ok_or_else(|| bad("the start names no file"))?;
        let file = rest.strip_prefix("(file ").and_then(|rest| rest.strip_suffix(')'));
        let checkpoint = line("CHECKPOINT LOCATION").ok_or_else(|| bad("no line 'CHECKPOINT LOCATION'"))?;
        let timeline = line("START TIMELINE")
            .map(|text| text.trim().parse().map_err(|_| bad("its timeline is no number")));
        Ok(Self {
            start_lsn: lsn.parse()?,
            start_segment: file.ok_or_else(|| bad("the start names no file"))?.parse()?,
            checkpoint_lsn: checkpoint.trim().parse()?,
            method: line("BACKUP METHOD").map(str::to_owned),
            from_standby: line("BACKUP FROM") == Some("standby"),
            start_time: line("START TIME").map(str::to_owned),
            label: line("LABEL").map(str::to_owned),
            timeline: timeline.transpose()?.map(TimelineId::new),
            incremental: line("INCREMENTAL FROM LSN").is_some(),
        })
    }
}

/// One line of a `tablespace_map`: the server makes a link to `path` at `pg_tblspc/<oid>` when it starts from a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a line has these two fields and callers make them")]
pub struct TablespaceMapEntry {
    /// The tablespace.
    pub oid: u32,
    /// Its directory.
    pub path: PathBuf,
}

/// Reads a `tablespace_map`.
///
/// # Errors
/// When a line is not `<oid> <path>`.
pub fn parse_tablespace_map(version: PgVersion, text: &str) -> Result<Vec<TablespaceMapEntry>> {
    let bad = |reason: &str| Error::LabelFile { what: "tablespace_map", reason: reason.to_owned() };
    if text.len() > MAX_BYTES {
        return Err(bad("it is too large"));
    }
    map_lines(version, text)
        .into_iter()
        .map(|line| {
            let (oid, path) = line.split_once(' ').ok_or_else(|| bad("a line is not 'OID PATH'"))?;
            let oid = oid.parse().map_err(|_| bad("a line does not begin with an OID"))?;
            if path.is_empty() {
                return Err(bad("a line has no path"));
            }
            Ok(TablespaceMapEntry { oid, path: path.into() })
        })
        .collect()
}

/// Writes a `tablespace_map` as the server of this version does.
///
/// # Errors
/// When a path is not UTF-8: the server knows paths as text. When it ends with a backslash on 13, which would read that and
/// the end of the line as part of a longer path.
pub fn render_tablespace_map(version: PgVersion, entries: &[TablespaceMapEntry]) -> Result<String> {
    let mut text = String::new();
    for entry in entries {
        text.push_str(&format!("{} ", entry.oid));
        let path = path_text(&entry.path)?;
        if path.ends_with('\\') && !escapes_backslash(version) {
            let reason =
                format!("PostgreSQL {version} cannot read path '{path}', which ends with a backslash");
            return Err(Error::LabelFile { what: "tablespace_map", reason });
        }
        for c in path.chars() {
            if c == '\n' || c == '\r' || (c == '\\' && escapes_backslash(version)) {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('\n');
    }
    Ok(text)
}

/// 13 escapes line ends only; later ones the backslash too (`do_pg_backup_start`, `read_tablespace_map`).
fn escapes_backslash(version: PgVersion) -> bool {
    version >= PgVersion::V14
}

/// The lines with their escapes undone.
fn map_lines(version: PgVersion, text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if escapes_backslash(version) => line.extend(chars.next()),
            '\\' if matches!(chars.peek(), Some('\n' | '\r')) => line.extend(chars.next()),
            '\n' | '\r' => lines.push(std::mem::take(&mut line)),
            other => line.push(other),
        }
    }
    lines.push(line);
    lines.retain(|line| !line.is_empty());
    lines
}

fn path_text(path: &Path) -> Result<&str> {
    let reason = || format!("path '{}' is not UTF-8", path.display());
    path.to_str().ok_or_else(|| Error::LabelFile { what: "tablespace_map", reason: reason() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LABEL_15: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-22 13:27:29 UTC\nLABEL: pgbr backup: x\nSTART TIMELINE: 1\n";

    #[test]
    fn a_path_that_the_server_would_misread_is_refused() {
        let entries = [TablespaceMapEntry { oid: 1, path: "/a\\".into() }];
        assert!(render_tablespace_map(PgVersion::V13, &entries).is_err());
        let text = render_tablespace_map(PgVersion::V14, &entries).unwrap();
        assert_eq!(parse_tablespace_map(PgVersion::V14, &text).unwrap(), entries);
    }

    #[test]
    fn reads_the_label_of_every_version() {
        let label = BackupLabelFile::parse(LABEL_15).unwrap();
        assert_eq!(label.start_lsn, Lsn::new(0x200_0028));
        assert_eq!(label.checkpoint_lsn, Lsn::new(0x200_0060));
        assert_eq!(label.start_segment.to_string(), "000000010000000000000002");
        assert_eq!(label.label.as_deref(), Some("pgbr backup: x"));
        assert_eq!(label.timeline, Some(TimelineId::new(1)));
        assert!(!label.from_standby && !label.incremental);
        let padded = LABEL_15.replace("0/2000028", "0/02000028").replace("primary", "standby");
        let label = BackupLabelFile::parse(&padded).unwrap();
        assert_eq!(label.start_lsn, Lsn::new(0x200_0028));
        assert!(label.from_standby);
        assert!(BackupLabelFile::parse(&LABEL_15.replace("primary", "master")).is_ok());
        assert!(
            BackupLabelFile::parse(&format!("{LABEL_15}INCREMENTAL FROM LSN: 0/1\n")).unwrap().incremental
        );
    }

    #[test]
    fn refuses_labels_that_say_too_little() {
        for bad in ["", "LABEL: x\n", "START WAL LOCATION: 0/2000028\n", "START WAL LOCATION: zz (file x)\n"]
        {
            assert!(BackupLabelFile::parse(bad).is_err(), "{bad}");
        }
        assert!(BackupLabelFile::parse(&LABEL_15.replace("TIMELINE: 1", "TIMELINE: x")).is_err());
        assert!(BackupLabelFile::parse(&LABEL_15.replace("CHECKPOINT", "CHECK")).is_err());
    }

    #[test]
    fn escapes_differ_between_13_and_14() {
        let entries = [TablespaceMapEntry { oid: 16384, path: "/a\\b\nc".into() }];
        assert_eq!(render_tablespace_map(PgVersion::V13, &entries).unwrap(), "16384 /a\\b\\\nc\n");
        assert_eq!(render_tablespace_map(PgVersion::V14, &entries).unwrap(), "16384 /a\\\\b\\\nc\n");
        for bad in ["x /a\n", "1\n", "1 \n"] {
            assert!(parse_tablespace_map(PgVersion::V15, bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn maps_round_trip(paths in prop::collection::vec("/[a-z \\\\\n\r]{0,6}[a-z]", 0..4)) {
            let entries: Vec<_> = (1_u32..).zip(paths).map(|(oid, p)| TablespaceMapEntry { oid, path: p.into() }).collect();
            for version in PgVersion::ALL {
                let text = render_tablespace_map(version, &entries).unwrap();
                // 13 itself cannot tell a backslash before a line end from an escape.
                if version == PgVersion::V13 && text.contains("\\\\") {
                    continue;
                }
                prop_assert_eq!(&parse_tablespace_map(version, &text).unwrap(), &entries);
            }
        }
    }
}

//! backup_label, and tablespace_map: what is read of it is written and read again.

use pgbr_manifest::PgVersion;
use pgbr_pg::{BackupLabelFile, parse_tablespace_map, render_tablespace_map};

pub(crate) fn run(text: &str) {
    let _ = BackupLabelFile::parse(text);
    for version in PgVersion::ALL {
        if let Ok(map) = parse_tablespace_map(version, text)
            && let Ok(written) = render_tablespace_map(version, &map)
        {
            assert_eq!(parse_tablespace_map(version, &written).expect("it was written just now"), map);
        }
    }
}

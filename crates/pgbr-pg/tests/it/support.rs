//! What the tests here share.

use std::path::Path;

use pgbr_manifest::{PgVersion, RelPath};
use pgbr_pg::{ConnectOptions, EntryKind, FileReader, PageContext, Scan, ScanEntry, ScanOptions, Session};
use pgbr_testkit::Cluster;

/// Bytes that are read at a time: 32 pages.
const RUN: usize = 256 << 10;

/// How to reach a cluster as its superuser.
pub(crate) fn options(cluster: &Cluster) -> ConnectOptions {
    ConnectOptions {
        socket_path: Some(cluster.socket_dir().to_owned()),
        port: cluster.port(),
        user: Some(cluster.superuser().to_owned()),
        application_name: "pgbr [test]".to_owned(),
        ..ConnectOptions::default()
    }
}

pub(crate) async fn connect(cluster: &Cluster) -> Session {
    Session::connect(&options(cluster)).await.unwrap()
}

pub(crate) fn version(cluster: &Cluster) -> PgVersion {
    PgVersion::from_major(cluster.major()).unwrap()
}

pub(crate) fn scan_options(cluster: &Cluster) -> ScanOptions {
    ScanOptions {
        pg_data: cluster.data_dir().to_owned(),
        version: version(cluster),
        exclude: Vec::new(),
        external_config: Vec::new(),
        stopped: false,
        standby: None,
    }
}

pub(crate) fn scan(cluster: &Cluster) -> Scan {
    Scan::open(scan_options(cluster)).unwrap()
}

/// Reads a file to its end, hands on each run, and gives the pages that are wrong.
pub(crate) fn read(entry: &ScanEntry, context: &PageContext, mut each: impl FnMut(&[u8])) -> Vec<u32> {
    let EntryKind::File { relation, page_checksums, .. } = &entry.kind else { return Vec::new() };
    let Some(reader) = FileReader::open(&entry.source).unwrap() else { return Vec::new() };
    let segment_start = relation.map_or(0, |file| file.first_block(131_072));
    let context = PageContext { segment_start, ..context.clone() };
    let mut bad = Vec::new();
    let mut buf = vec![0; RUN];
    let mut offset = 0;
    loop {
        let found = reader.read_run(offset, &mut buf).unwrap();
        let run = &mut buf[..found];
        if *page_checksums {
            bad.extend(reader.check_pages(run, u32::try_from(offset / 8192).unwrap(), &context).unwrap());
        }
        each(run);
        offset += found as u64;
        if found < RUN {
            return bad;
        }
    }
}

/// Where an entry belongs below a restored data directory; tablespaces go to `tablespaces/<oid>`.
pub(crate) fn place(path: &RelPath, pg_data: &Path, tablespaces: &Path) -> std::path::PathBuf {
    let text = path.to_string();
    match text.strip_prefix("pg_tblspc/") {
        Some(rest) => tablespaces.join(rest),
        None => pg_data.join(text.strip_prefix("pg_data").unwrap().trim_start_matches('/')),
    }
}

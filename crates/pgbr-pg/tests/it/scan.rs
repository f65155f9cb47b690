//! What a scan finds, held against pg_basebackup.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pgbr_pg::{EntryKind, FileMeta, ScanEntry};
use pgbr_testkit::{Cluster, PgInstall, operator_name, own};

use crate::support::{connect, scan};

/// Files that pg_basebackup adds to what it copies.
const ADDED: [&str; 3] = ["pg_data/backup_label", "pg_data/backup_manifest", "pg_data/tablespace_map"];

/// A cluster with everything that lists of files can get wrong.
fn eventful(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).start();
    let linked = cluster.scratch().dir("linked");
    let inside = cluster.data_dir().join("inside");
    std::fs::create_dir(&inside).unwrap();
    own(&inside);
    for (name, place) in [("linked", &linked), ("inside", &inside)] {
        cluster.sql("postgres", &format!("create tablespace {name} location '{}'", place.display()));
        cluster.sql("postgres", &format!("create table in_{name} tablespace {name} as select 1 as one"));
        cluster.sql(
            "postgres",
            &format!("create unlogged table u_{name} (one int primary key) tablespace {name}"),
        );
    }
    cluster.sql("postgres", "create unlogged table u as select g from generate_series(1, 10000) g; vacuum u");
    cluster.sql("postgres", "create table empty (); create database other; vacuum; checkpoint");
    // As another version's server sharing the place, and as one that crashed while sorting, would leave.
    for stray in ["PG_12_201909212/5/1", "pgsql_tmp/pgsql_tmp1.0"] {
        std::fs::create_dir_all(linked.join(stray).parent().unwrap()).unwrap();
        std::fs::write(linked.join(stray), "x").unwrap();
    }
    cluster
}

/// The entries below `root` in a plain backup, as paths of ours.
fn listed(root: &Path, prefix: &str, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            into.insert(format!("{path}/"));
            listed(&entry.path(), &path, into);
        } else if !kind.is_symlink() && !ADDED.contains(&path.as_str()) {
            into.insert(path);
        }
    }
}

fn path(entry: &ScanEntry) -> String {
    let slash = if entry.kind == EntryKind::Directory { "/" } else { "" };
    format!("{}{slash}", entry.path)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_files_as_pg_basebackup() {
    for install in PgInstall::all() {
        let cluster = eventful(install.major());
        let config = format!(
            "host={} port={} user=postgres dbname=postgres",
            cluster.socket_dir().display(),
            cluster.port()
        );
        let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        let served = tokio::spawn(connection);
        client
            .batch_execute("create temporary table temp as select g from generate_series(1, 10000) g")
            .await
            .unwrap();
        let temporary = client.simple_query("select pg_relation_filepath('temp')").await.unwrap();
        assert!(format!("{temporary:?}").contains("/t"), "{temporary:?}");

        let spaces = connect(&cluster).await.tablespaces().await.unwrap();
        let target = cluster.scratch().path().join("copy");
        let mut command = cluster.client("pg_basebackup");
        command.args(["-X", "none", "-c", "fast", "--no-sync", "-D"]).arg(&target);
        for space in &spaces {
            let copy = cluster.scratch().path().join(format!("copy-{}", space.oid));
            command.arg(format!("--tablespace-mapping={}={}", space.location.display(), copy.display()));
        }
        let finished = pgbr_testkit::run(&mut command, "", std::time::Duration::from_secs(120));
        assert!(finished.success(), "{finished:?}");

        let mut theirs = BTreeSet::from(["pg_data/".to_owned()]);
        listed(&target, "pg_data", &mut theirs);
        for space in &spaces {
            let root = format!("pg_tblspc/{}", space.oid);
            theirs.insert(format!("{root}/"));
            listed(&cluster.scratch().path().join(format!("copy-{}", space.oid)), &root, &mut theirs);
        }
        // The place of a tablespace inside the data directory is left out by the server, and made by us.
        theirs.insert("pg_data/inside/".to_owned());
        let entries: Vec<ScanEntry> = scan(&cluster).map(Result::unwrap).collect();
        let ours: BTreeSet<String> = entries.iter().map(path).collect();
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
        assert_eq!(
            (only(&ours, &theirs), only(&theirs, &ours)),
            (Vec::new(), Vec::new()),
            "only ours, only theirs"
        );
        assert_eq!(ours.len(), entries.len(), "nothing twice");
        assert!(entries.windows(2).all(|pair| pair[0].path < pair[1].path), "in order");
        assert!(entries.iter().any(|entry| entry.path.to_string().ends_with("_init")));
        drop(client);
        served.await.unwrap().unwrap();
    }
}

#[test]
fn modes_and_owners_are_the_servers() {
    let cluster = Cluster::builder(PgInstall::newest().major()).initdb_args(["-g"]).start();
    let owner = std::fs::metadata(cluster.data_dir()).unwrap();
    for entry in scan(&cluster) {
        let entry = entry.unwrap();
        let mode = std::fs::metadata(&entry.source).unwrap().mode() & 0o7777;
        let FileMeta { mode: found, user, group } = &entry.meta;
        assert_eq!((*found, user.as_str()), (mode, operator_name()), "{}", entry.path);
        assert!(!group.is_empty());
        if entry.kind == EntryKind::Directory {
            assert_eq!(mode, 0o750, "{}", entry.path);
        }
    }
    assert_eq!(owner.mode() & 0o777, 0o750);
}

#[test]
fn a_database_may_be_dropped_meanwhile() {
    let cluster = Cluster::builder(PgInstall::newest().major()).start();
    cluster.sql("postgres", "create database doomed");
    let oid = cluster.sql("postgres", "select oid from pg_database where datname = 'doomed'");
    let mut dropped = false;
    let mut seen = 0;
    for entry in scan(&cluster) {
        let path = entry.unwrap().path.to_string();
        let in_doomed = path.starts_with(&format!("pg_data/base/{oid}/"));
        seen += u32::from(in_doomed);
        if in_doomed && !dropped {
            dropped = true;
            cluster.sql("postgres", "drop database doomed; checkpoint");
        }
    }
    assert!(dropped);
    assert_eq!(seen, 1);
}

//! Page checksums of real relations: quiet, damaged and under load.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use pgbr_manifest::Lsn;
use pgbr_pg::{EntryKind, PageContext, UpperLsn};
use pgbr_testkit::{Cluster, PgInstall, StopMode};

use crate::support::{connect, read, scan};

/// Nothing is excused: no position is this high.
fn strict() -> PageContext {
    let end = Lsn::new(u64::MAX);
    PageContext { start_lsn: end, upper_lsn: UpperLsn::new(end), block_size: 8192, segment_start: 0 }
}

#[test]
fn every_page_of_a_cluster_is_good_until_one_is_damaged() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major()).start();
        cluster.sql("postgres", "create table t as select g, repeat('x', 500) from generate_series(1, 2000) g; create index on t (g)");
        cluster.sql("postgres", "vacuum t; create unlogged table u as select 1 as one; checkpoint");
        let file = cluster.sql("postgres", "select pg_relation_filepath('t')");
        cluster.stop(StopMode::Fast);

        let mut checked = 0;
        for entry in scan(&cluster) {
            let entry = entry.unwrap();
            assert_eq!(read(&entry, &strict(), |_| ()), Vec::<u32>::new(), "{}", entry.path);
            checked += u32::from(matches!(entry.kind, EntryKind::File { page_checksums: true, .. }));
        }
        assert!(checked > 500, "{checked} files");

        let damaged = OpenOptions::new().write(true).open(cluster.data_dir().join(&file)).unwrap();
        damaged.write_all_at(b"!", 7 * 8192 + 4000).unwrap();
        damaged.write_all_at(&[0xFF; 8], 40 * 8192).unwrap();
        let context =
            PageContext { start_lsn: Lsn::new(u64::MAX >> 1), upper_lsn: UpperLsn::default(), ..strict() };
        let entry =
            scan(&cluster).map(Result::unwrap).find(|entry| entry.path.to_string().ends_with(&file)).unwrap();
        assert_eq!(read(&entry, &context, |_| ()), [7, 40]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_under_load_raise_no_alarm() {
    for install in PgInstall::all() {
        let cluster = Cluster::builder(install.major())
            .conf("bgwriter_delay", "10ms")
            .conf("bgwriter_lru_maxpages", "1000")
            .start();
        cluster.pgbench_init(4);
        let mut load = cluster.pgbench_start(4, 300);
        let running = connect(&cluster).await.start_backup("x", true).await.unwrap();
        let context = PageContext {
            start_lsn: running.start_lsn(),
            upper_lsn: UpperLsn::new(running.start_lsn()),
            ..strict()
        };
        let (mut rounds, mut pages) = (0, 0);
        let begun = std::time::Instant::now();
        while rounds < 2 || begun.elapsed().as_secs() < 4 {
            context.upper_lsn.advance(running.insert_lsn().await.unwrap());
            cluster.sql("postgres", "checkpoint");
            for entry in scan(&cluster) {
                let entry = entry.unwrap();
                let bad = read(&entry, &context, |run| pages += run.len() / 8192);
                assert_eq!(bad, Vec::<u32>::new(), "{}", entry.path);
            }
            rounds += 1;
        }
        assert!(load.is_running(), "pgbench ended early");
        load.stop();
        assert!(pages > 10_000);
        running.stop().await.unwrap();
    }
}

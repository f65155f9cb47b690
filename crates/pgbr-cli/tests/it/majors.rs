//! The whole way, with every major version of PostgreSQL, and with every way of storing.

use pgbr_testkit::{Cluster, PgInstall};

use crate::world::{World, assert_pgbench_whole, last_mark, newest};

#[test]
fn every_major_version_is_backed_up_and_recovered() {
    for install in PgInstall::all() {
        let major = install.major();
        let world = World::of(Cluster::builder(major));
        let cluster = &world.cluster;
        cluster.pgbench_init(1);
        let space = cluster.scratch().dir("space");
        cluster.sql(
            "postgres",
            &format!(
                "create tablespace space location '{}'; create table t (id int primary key, v text) tablespace space;
                 insert into t select n, md5(n::text) from generate_series(1, 1000) n;
                 create unlogged table u (id int primary key); insert into u values (1);",
                space.display()
            ),
        );
        let load = cluster.pgbench_start(1, 600);
        world.backup();
        load.stop();
        let first = world.mark();
        cluster.sql("postgres", "delete from t where id % 10 <> 0; vacuum t; checkpoint");
        let second = world.mark();
        let digest = cluster.table_digest("postgres");
        world.archive_all();

        for (options, mark, rows) in [
            (vec![], &second, "100|0"),
            (
                vec![
                    "--type=time".to_owned(),
                    format!("--target={}", first.after),
                    "--target-action=promote".to_owned(),
                ],
                &first,
                "1000|0",
            ),
        ] {
            let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
            let target = Cluster::builder(major).empty();
            let spaces = format!("--tablespace-map-all={}", target.scratch().path().join("spaces").display());
            words.push(&spaces);
            world.restore_to(&target, &words);
            target.start();
            target.wait_promoted();
            assert_eq!(last_mark(&target), mark.id, "{major}");
            assert_eq!(
                target.sql("postgres", "select (select count(*) from t), (select count(*) from u)"),
                rows,
                "{major}"
            );
            if mark.id == second.id {
                assert_eq!(target.table_digest("postgres"), digest, "{major}");
            }
            assert_pgbench_whole(&target);
            target.assert_clean();
        }
    }
}

#[test]
fn every_compression_is_read_back_with_and_without_encryption() {
    for cipher in ["none", "aes-256-gcm"] {
        let world = World::with(newest(), |pgbr| {
            if cipher != "none" {
                pgbr.encrypt(1, cipher, "correct horse battery staple");
            }
        });
        let cluster = &world.cluster;
        cluster.sql("postgres", "create table t (id int primary key, v text)");
        for compression in ["none", "gz", "bz2", "lz4", "zst"] {
            // WAL as well: what is written from here on is archived with it.
            world.pgbr.set("global", "compress-type", compression);
            cluster.sql(
                "postgres",
                &format!(
                    "insert into t select coalesce((select max(id) from t), 0) + n, '{compression}' || md5(n::text) from generate_series(1, 500) n"
                ),
            );
            world.backup();
            let mark = world.mark();
            let digest = cluster.table_digest("postgres");
            world.archive_all();
            let copy =
                world.opened(&["--type=xid", &format!("--target={}", mark.xid), "--target-action=promote"]);
            assert_eq!(copy.table_digest("postgres"), digest, "{compression}, cipher {cipher}");
            copy.assert_clean();
        }
        // From the oldest backup through WAL of every kind.
        let info: serde_json::Value =
            serde_json::from_str(&world.pgbr.ok(["info", "--output=json", "--log-level-console=off"]))
                .unwrap();
        let oldest = info[0]["backup"][0]["label"].as_str().unwrap();
        let copy = world.opened(&[&format!("--set={oldest}")]);
        assert_eq!(copy.table_digest("postgres"), cluster.table_digest("postgres"));
        assert_eq!(info[0]["cipher"].as_str().unwrap(), cipher);
    }
}

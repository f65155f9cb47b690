//! What "restored right" means: equal rows, index counts that agree, sound relations and page checksums.

use std::fmt::Write;

use crate::cluster::{Cluster, StopMode, succeed};

/// Tables (and materialized views) of users, largest objects aside, as quoted names. No temporary ones.
const USER_TABLES: &str = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'm') and c.relpersistence = 'p' and n.nspname not in ('pg_catalog', 'information_schema')
      and n.nspname !~ '^pg_(toast|temp)' order by 1";

/// Those of them that have a btree index over all their rows, so that counting by index only is possible.
const INDEXED_TABLES: &str = "select distinct c.oid::regclass::text from pg_class c
    join pg_namespace n on n.oid = c.relnamespace join pg_index i on i.indrelid = c.oid
    join pg_class x on x.oid = i.indexrelid join pg_am a on a.oid = x.relam
    where c.relkind in ('r', 'm') and c.relpersistence = 'p' and a.amname = 'btree' and i.indpred is null and i.indisvalid
      and n.nspname !~ '^pg_(toast|temp)' order by 1";

impl Cluster {
    /// One line per table of a database: its name, the number of its rows and two sums over their hashes, whatever order
    /// they lie in; then one for the large objects. Equal texts mean equal contents. Left out are unlogged and temporary
    /// tables, and sequences: a server that recovers finds them up to 32 values further on.
    ///
    /// # Panics
    /// When a query fails.
    pub fn table_digest(&self, db: &str) -> String {
        // Everything at one moment, so that a digest taken under load belongs to one.
        let mut query = String::from("begin isolation level repeatable read;\n");
        for table in self.sql(db, USER_TABLES).lines() {
            let name = table.replace('\'', "''");
            writeln!(
                query,
                "select '{name}', count(*), coalesce(sum(('x' || left(h, 15))::bit(60)::bigint), 0),
                 coalesce(sum(('x' || right(h, 15))::bit(60)::bigint), 0) from (select md5(t::text) h from {table} t) s;"
            )
            .expect("writing to a string does not fail");
        }
        query.push_str(
            "select 'large objects', count(*), md5(string_agg(loid || ' ' || pageno || ' ' || md5(data), ',' order by loid, pageno))
               from pg_largeobject;
             commit;",
        );
        self.sql(db, &query)
    }

    /// Checks for every table with a suitable index that counting by the index alone (which trusts the visibility map)
    /// gives what reading the whole table gives.
    ///
    /// # Panics
    /// When a table's counts differ.
    pub fn assert_index_counts(&self, db: &str) {
        let tables = self.sql(db, INDEXED_TABLES);
        let count = |settings: &str| {
            let mut query = format!("set max_parallel_workers_per_gather = 0; {settings}\n");
            for table in tables.lines() {
                let name = table.replace('\'', "''");
                writeln!(query, "select '{name}', count(*) from {table};")
                    .expect("writing to a string does not fail");
            }
            self.sql(db, &query)
        };
        let by_index = count("set enable_seqscan = off; set enable_bitmapscan = off;");
        let by_table =
            count("set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off;");
        for (index, table) in by_index.lines().zip(by_table.lines()) {
            assert_eq!(index, table, "database {db}: counts by index and by table differ");
        }
        assert_eq!(by_index.lines().count(), by_table.lines().count());
    }

    /// Checks everything that can be checked of a cluster that takes writes: index counts of all databases, relations
    /// against their indexes (`pg_amcheck --heapallindexed`; before 14 `bt_index_check`, where the installation has the
    /// extension), then, stopped, all page checksums if it has any. Leaves it stopped.
    ///
    /// # Panics
    /// When something is wrong, with what the tool said.
    pub fn assert_clean(&self) {
        let databases = self.sql("postgres", "select datname from pg_database where datallowconn order by 1");
        for db in databases.lines() {
            self.assert_index_counts(db);
        }
        if self.install().has("pg_amcheck") {
            let mut command = self.client("pg_amcheck");
            succeed(command.args(["--all", "--install-missing", "--heapallindexed"]), "");
        } else {
            for db in databases.lines() {
                self.check_indexes(db);
            }
        }
        let checksums = self.sql("postgres", "show data_checksums") == "on";
        self.stop(StopMode::Fast);
        if checksums {
            self.data_program("pg_checksums", &["--check"]);
        }
    }

    /// What `pg_amcheck` does to btree indexes, for servers that came before it.
    fn check_indexes(&self, db: &str) {
        let available = self.sql(db, "select count(*) from pg_available_extensions where name = 'amcheck'");
        if available == "0" || self.sql(db, "show transaction_read_only") == "on" {
            return;
        }
        self.sql(
            db,
            "set client_min_messages = warning; create extension if not exists amcheck;
             select count(bt_index_check(x.oid, true)) from pg_class x join pg_am a on a.oid = x.relam
               join pg_index i on i.indexrelid = x.oid
             where a.amname = 'btree' and x.relkind = 'i' and x.relpersistence = 'p' and i.indisvalid and i.indisready;",
        );
    }
}

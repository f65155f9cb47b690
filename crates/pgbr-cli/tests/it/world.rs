//! A cluster that archives into a repository of its own, the marks that tests set in it, and restored copies of it.

use std::time::Duration;

use pgbr_testkit::{Cluster, ClusterBuilder, PgInstall, Pgbr, StopMode, run, wait_until};

/// Longer than anything that a server does here takes.
const LIMIT: Duration = Duration::from_secs(120);

/// A running cluster and the program, with a stanza made and archiving on.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) pgbr: Pgbr,
}

/// A moment: the table `mark` holds `1..=id` then.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) id: u32,
    /// The transaction that set it.
    pub(crate) xid: String,
    /// When it was committed, as the server recorded it.
    pub(crate) committed: String,
    /// A time after its commit and before anything later.
    pub(crate) after: String,
    /// Where the record of its commit begins.
    pub(crate) commit_lsn: String,
    /// A restore point after it.
    pub(crate) name: String,
}

impl World {
    /// A plain one of the newest version.
    pub(crate) fn new() -> Self {
        Self::of(newest())
    }

    /// One of a cluster described by the caller.
    pub(crate) fn of(builder: ClusterBuilder) -> Self {
        Self::with(builder, |_| {})
    }

    /// One with more options in the config file before the stanza is made.
    pub(crate) fn with(builder: ClusterBuilder, configure: impl FnOnce(&Pgbr)) -> Self {
        Self::around(archiving(builder).start(), configure)
    }

    /// One around a cluster that runs with `archive_mode=on` already.
    pub(crate) fn around(cluster: Cluster, configure: impl FnOnce(&Pgbr)) -> Self {
        let pgbr = Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), "demo", &cluster);
        pgbr.set("global", "process-max", "2");
        configure(&pgbr);
        pgbr.ok(["stanza-create"]);
        pgbr.archive_from(&cluster);
        cluster.sql("postgres", "create table mark (id int primary key)");
        Self { cluster, pgbr }
    }

    /// Makes a full backup and returns its label.
    pub(crate) fn backup(&self) -> String {
        self.backup_with(&[])
    }

    /// The same with more options.
    pub(crate) fn backup_with(&self, options: &[&str]) -> String {
        self.pgbr.ok(["backup", "--type=full"].iter().chain(options));
        self.newest_backup()
    }

    /// Makes a backup with these options, its type among them, and returns its label.
    pub(crate) fn backup_as(&self, options: &[&str]) -> String {
        self.pgbr.ok(["backup"].iter().chain(options));
        self.newest_backup()
    }

    /// The label of the newest backup.
    pub(crate) fn newest_backup(&self) -> String {
        let info: serde_json::Value =
            serde_json::from_str(&self.pgbr.ok(["info", "--output=json", "--log-level-console=off"]))
                .expect("info prints JSON");
        let backups = info[0]["backup"].as_array().expect("a list of backups");
        backups.last().and_then(|b| b["label"].as_str()).expect("a backup with a label").to_owned()
    }

    /// Sets the next mark.
    pub(crate) fn mark(&self) -> Mark {
        set_mark(&self.cluster)
    }

    /// Sees that everything written so far is in the archive.
    pub(crate) fn archive_all(&self) {
        archive_all(&self.cluster);
    }

    /// Restores into a fresh directory, beside the cluster.
    pub(crate) fn restored(&self, options: &[&str]) -> Cluster {
        let target = Cluster::builder(self.cluster.major()).empty();
        self.restore_to(&target, options);
        target
    }

    /// Restores into the directory of `target`, and returns the log.
    pub(crate) fn restore_to(&self, target: &Cluster, options: &[&str]) -> String {
        self.pgbr.ok(restore_args(target, options))
    }

    /// Restores into a fresh directory, starts, and waits until it takes writes.
    pub(crate) fn opened(&self, options: &[&str]) -> Cluster {
        let target = self.restored(options);
        target.start();
        target.wait_promoted();
        target
    }

    /// Stops the server and takes its data directory away.
    pub(crate) fn destroy(&self) {
        self.cluster.stop(StopMode::Immediate);
        let data = self.cluster.data_dir();
        std::fs::remove_dir_all(data).expect("the data directory can be removed");
        std::fs::create_dir(data).expect("the data directory can be made");
        set_mode(data, 0o700);
        pgbr_testkit::own(data);
    }
}

/// The words of a restore into the directory of `target`.
pub(crate) fn restore_args(target: &Cluster, options: &[&str]) -> Vec<String> {
    let path = format!("--pg1-path={}", target.data_dir().display());
    ["restore".to_owned(), path].into_iter().chain(options.iter().map(|o| (*o).to_owned())).collect()
}

/// A cluster of the newest version.
pub(crate) fn newest() -> ClusterBuilder {
    Cluster::builder(PgInstall::newest().major())
}

/// With archiving switched on, and nothing that writes by itself at a time of its own choosing.
pub(crate) fn archiving(builder: ClusterBuilder) -> ClusterBuilder {
    let quiet = builder.conf("autovacuum", "off").conf("track_commit_timestamp", "on");
    quiet.conf("archive_mode", "on").conf("archive_command", "true")
}

/// Sets the next mark in a cluster whose table `mark` exists.
pub(crate) fn set_mark(cluster: &Cluster) -> Mark {
    let set = cluster.sql(
        "postgres",
        "select pg_current_wal_lsn();
         begin; insert into mark select coalesce(max(id), 0) + 1 from mark returning id; select txid_current(); commit;",
    );
    let mut set = set.lines();
    let mut next = || set.next().expect("three rows").to_owned();
    let (before, id, xid) = (next(), next(), next());
    let name = format!("mark-{id}");
    let rest = cluster.sql(
        "postgres",
        &format!(
            "select pg_current_wal_flush_lsn(); select pg_xact_commit_timestamp('{xid}'::xid); select clock_timestamp();
             select from pg_create_restore_point('{name}'); select pg_sleep(0.002)"
        ),
    );
    let mut rest = rest.lines();
    let mut next = || rest.next().expect("three rows").to_owned();
    let (end, committed, after) = (next(), next(), next());
    let commit_lsn = commit_lsn(cluster, &before, &end, &xid);
    let id = id.parse().expect("a number");
    Mark { id, xid, committed, after, commit_lsn, name }
}

/// Where the commit record of a transaction begins.
fn commit_lsn(cluster: &Cluster, start: &str, end: &str, xid: &str) -> String {
    // Not from the control file: after a promotion it takes a checkpoint until that has it.
    let segment = cluster.sql("postgres", "select pg_walfile_name(pg_current_wal_lsn())");
    let timeline = u32::from_str_radix(&segment[..8], 16).expect("hexadecimal digits").to_string();
    let mut command = cluster.program("pg_waldump");
    command.arg("-p").arg(cluster.data_dir().join("pg_wal")).args(["-t", &timeline, "-x", xid]);
    let dumped = run(command.args(["-r", "Transaction", "-s", start, "-e", end]), "", LIMIT).stdout;
    let line = dumped.lines().find(|line| line.contains("COMMIT"));
    let line = line.unwrap_or_else(|| panic!("no commit of {xid} between {start} and {end}: {dumped}"));
    let lsn = line.split("lsn: ").nth(1).and_then(|rest| rest.split(',').next());
    lsn.expect("a line of pg_waldump has a position").to_owned()
}

/// Ends the current segment and waits until it is archived.
pub(crate) fn archive_all(cluster: &Cluster) {
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment);
}

/// The number of the last mark. That all before it are there, and none twice, is checked.
#[track_caller]
pub(crate) fn last_mark(cluster: &Cluster) -> u32 {
    let row =
        cluster.sql("postgres", "select count(*), coalesce(min(id), 1), coalesce(max(id), 0) from mark");
    let numbers: Vec<u32> = row.split('|').map(|n| n.parse().expect("a number")).collect();
    assert_eq!((numbers[0], numbers[1]), (numbers[2], 1), "marks have gaps");
    numbers[2]
}

/// What holds at every moment of a pgbench run, and at none that mixes two: all four sums are equal.
#[track_caller]
pub(crate) fn assert_pgbench_whole(cluster: &Cluster) {
    let sums = cluster.sql(
        "postgres",
        "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
                (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "pgbench's sums differ: {sums:?}");
}

/// Waits until a server has ended by itself.
pub(crate) fn wait_ended(cluster: &Cluster) {
    wait_until(LIMIT, "the server to end", || !cluster.is_running());
}

/// Waits until a query gives `wanted`.
pub(crate) fn wait_for(cluster: &Cluster, query: &str, wanted: &str) {
    wait_until(LIMIT, &format!("{query} to give {wanted}"), || {
        cluster.try_sql("postgres", query).as_deref() == Ok(wanted)
    });
}

/// The field of `pg_controldata`.
pub(crate) fn control(cluster: &Cluster, field: &str) -> String {
    let text = cluster.data_program("pg_controldata", &[]);
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("pg_controldata has no {field}: {text}")).trim().to_owned()
}

pub(crate) fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the mode can be set");
}

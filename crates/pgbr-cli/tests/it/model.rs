//! Random histories of a real cluster against a model of what each backup holds: nothing but the state at its end.
//!
//! A step changes the cluster a few times and then does one thing with backups; after it, the newest backup and another
//! one are restored, and now and then all of them. `PGBR_MODEL_STEPS` and `PGBR_MODEL_SEED` give a longer or another history.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgbr_testkit::{Cluster, StopMode};

use crate::rig::MAJOR;
use crate::state::{check_pages, databases, open_backup, state};
use crate::world::World;

/// Steps of the test run; as many by hand as one has the time for.
const STEPS: u64 = 14;
const SEED: u64 = 42;

#[test]
fn every_listed_backup_restores_to_the_state_it_was_made_in() {
    let (steps, seed) = (number("PGBR_MODEL_STEPS", STEPS), number("PGBR_MODEL_SEED", SEED));
    tell(&format!("{steps} steps, seed {seed}"));
    let mut model = Model::new(seed);
    for step in 1..=steps {
        tell(&format!("step {step}"));
        model.step();
        model.check(step % 20 == 0 || step == steps);
    }
    tell(&format!("done: {:?}", model.done));
    assert!(model.done.contains_key("incr") && model.done.contains_key("diff"), "{:?}", model.done);
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[expect(clippy::print_stderr, reason = "the history is what a failure is understood by")]
fn tell(text: &str) {
    eprintln!("model: {text}");
}

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(from.len()).expect("a short list");
        let at = if len == 0 { 0 } else { self.below(len) };
        from.get(usize::try_from(at).expect("a place in a list"))
    }

    /// One of the names, as often as its weight says.
    pub(crate) fn weighted(&mut self, from: &[(u64, &'static str)]) -> &'static str {
        let mut at = self.below(from.iter().map(|(weight, _)| weight).sum());
        for (weight, name) in from {
            if at < *weight {
                return name;
            }
            at -= weight;
        }
        unreachable!("it is below the sum")
    }
}

/// Empties the directories of tablespaces below `parent` that a cluster has none of: they are left from backups that had them,
/// and a restore does not write where it finds the files of it knows not whom.
fn clear_unlinked(cluster: &Cluster, parent: &Path) {
    let links = fs::read_dir(cluster.data_dir().join("pg_tblspc")).into_iter().flatten().flatten();
    let used: Vec<PathBuf> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
    for dir in fs::read_dir(parent).expect("it is there").flatten().map(|entry| entry.path()) {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_space = name.strip_prefix('s').is_some_and(|n| n.parse::<u64>().is_ok());
        if !is_space || used.contains(&dir) {
            continue;
        }
        for left in fs::read_dir(&dir).expect("it is there").flatten() {
            fs::remove_dir_all(left.path()).expect("what was a tablespace can be removed");
        }
    }
}

/// A backup that is listed.
#[derive(Debug, Clone)]
struct Known {
    label: String,
    prior: Option<String>,
    state: String,
}

impl Known {
    /// The full that it builds on.
    fn full(&self) -> &str {
        self.label.split('_').next().unwrap_or_default()
    }
}

struct Model {
    world: World,
    rng: Rng,
    known: Vec<Known>,
    /// What restores are tried in, again and again, with whatever the last one has left.
    target: Cluster,
    /// Whether the target holds a cluster.
    used: bool,
    /// For names that are new.
    count: u64,
    /// Whether the cluster was set back since the last full: then not every listed backup is a parent.
    forked: bool,
    /// The type of a backup that was killed last step: often the next one is of this type, and takes up what it left.
    killed: Option<&'static str>,
    /// How often each thing was done.
    done: BTreeMap<&'static str, u32>,
}

impl Model {
    fn new(seed: u64) -> Self {
        // Small packs, so that a broken run has left some.
        let world =
            World::with(Cluster::builder(MAJOR), |pgbr| pgbr.set("global", "repo1-pack-size", "1MiB"));
        let target = Cluster::builder(MAJOR).empty();
        target.scratch().dir("ts");
        let (known, done, rng) = (Vec::new(), BTreeMap::new(), Rng(seed));
        let mut model =
            Self { world, rng, known, target, used: false, count: 0, forked: false, killed: None, done };
        for _ in 0..3 {
            model.create_table();
        }
        model
    }

    fn step(&mut self) {
        for _ in 0..=self.rng.below(4) {
            self.change();
        }
        let acts = [
            (14, "full"),
            (20, "diff"),
            (32, "incr"),
            (12, "kill"),
            (6, "crash"),
            (9, "expire"),
            (9, "rewind"),
        ];
        // Without a backup there is nothing to expire.
        let act = match self.killed.take() {
            Some(kind) if self.rng.below(3) > 0 => kind,
            _ if self.known.is_empty() => "full",
            _ => self.rng.weighted(&acts),
        };
        *self.done.entry(act).or_default() += 1;
        tell(act);
        match act {
            "kill" => self.killed_backup(),
            "crash" => self.crash(),
            "expire" => self.expire(),
            "rewind" => self.rewind(),
            kind => self.backup(kind),
        }
    }

    /// What is listed is what is known, the newest and another one are what they were; or all of them.
    fn check(&mut self, all: bool) {
        let labels: Vec<String> = self.listed().into_iter().map(|(label, _)| label).collect();
        let known: Vec<&String> = self.known.iter().map(|known| &known.label).collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), known);
        let mut chosen = self.known.clone();
        if !all {
            let other = self.rng.pick(&self.known).cloned();
            chosen = self.known.last().cloned().into_iter().chain(other).collect();
            chosen.dedup_by(|a, b| a.label == b.label);
        }
        for known in chosen {
            self.restore(&known, all);
        }
    }

    fn restore(&mut self, known: &Known, deep: bool) {
        let delta = self.used && self.rng.below(4) > 0;
        tell(&format!("restore {}{}", known.label, if delta { " --delta" } else { "" }));
        if !delta {
            self.target = Cluster::builder(MAJOR).empty();
            self.target.scratch().dir("ts");
        }
        let map = format!("--tablespace-map-all={}", self.target.scratch().path().join("ts").display());
        clear_unlinked(&self.target, &self.target.scratch().path().join("ts"));
        let options: &[&str] = if delta { &[&map, "--delta"] } else { &[&map] };
        open_backup(&self.world.pgbr, &self.target, &known.label, options);
        self.used = true;
        assert_eq!(state(&self.target), known.state, "{} is not what it was", known.label);
        // It may be used before the next restore sets it right.
        if self.rng.below(3) == 0 {
            self.target.sql("postgres", "create table foreign_to_it as select generate_series(1, 5000) g");
        }
        if deep {
            self.target.assert_clean();
        } else {
            check_pages(&self.target);
        }
    }

    /// Labels and what they build on.
    fn listed(&self) -> Vec<(String, Option<String>)> {
        let text = self.world.pgbr.ok(["info", "--output=json", "--log-level-console=off"]);
        let info: serde_json::Value = serde_json::from_str(&text).expect("info prints JSON");
        let backups = info[0]["backup"].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        backups
            .iter()
            .map(|b| (text(&b["label"]).expect("a backup has a label"), text(&b["prior"])))
            .collect()
    }

    fn name(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}", self.count)
    }
}

/// Things done with backups.
impl Model {
    fn backup(&mut self, kind: &str) {
        let mut args = vec!["backup".to_owned(), format!("--type={kind}")];
        let compress = self.rng.pick(&["none", "lz4", "zst"]).expect("three");
        args.push(format!("--compress-type={compress}"));
        if self.rng.below(5) == 0 {
            args.push("--delta".to_owned());
        }
        if self.rng.below(8) == 0 {
            args.push("--no-resume".to_owned());
        }
        let said = self.world.pgbr.ok(&args);
        if said.contains("resume backup ") {
            *self.done.entry("resumed").or_default() += 1;
        }
        assert!(self.learn(), "a backup is listed");
        self.assert_prior(kind);
    }

    /// Takes down a backup that is new in the list, with the state that the cluster is in; whether there is one.
    fn learn(&mut self) -> bool {
        let listed = self.listed();
        let Some((label, prior)) = listed.last() else { return false };
        if self.known.iter().any(|known| known.label == *label) {
            return false;
        }
        let known = Known { label: label.clone(), prior: prior.clone(), state: state(&self.world.cluster) };
        tell(&format!("made {label} on {prior:?}"));
        self.known.push(known);
        true
    }

    /// The newest builds on what its type says.
    fn assert_prior(&mut self, kind: &str) {
        let (newest, before) = self.known.split_last().expect("one was just made");
        if newest.prior.is_none() {
            assert!(kind == "full" || before.is_empty() || self.forked, "{} became a full", newest.label);
            self.forked = false;
            return;
        }
        let wanted = match kind {
            "incr" => before.last(),
            "diff" => before.iter().rfind(|known| known.prior.is_none()),
            _ => None,
        };
        if !self.forked {
            assert_eq!(newest.prior.as_ref(), wanted.map(|known| &known.label), "{kind} {}", newest.label);
        }
    }

    /// A backup that is killed at some moment; it may have come to its end by then.
    fn killed_backup(&mut self) {
        let kind = *self.rng.pick(&["full", "diff", "incr"]).expect("three");
        let mut command = self.world.pgbr.command(["backup", &format!("--type={kind}"), "--process-max=1"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("the program can be started");
        std::thread::sleep(Duration::from_millis(50 + self.rng.below(700)));
        child.kill().expect("a child that was not waited for can be killed");
        child.wait().expect("a child can be waited for");
        if self.learn() {
            self.assert_prior(kind);
        } else {
            self.killed = Some(kind);
        }
    }

    fn crash(&mut self) {
        if self.rng.below(2) == 0 {
            self.world.cluster.kill9();
        } else {
            self.world.cluster.stop(StopMode::Immediate);
        }
        self.world.cluster.start();
    }

    fn expire(&mut self) {
        if self.rng.below(3) == 0 {
            return self.expire_one();
        }
        let keep = 1 + self.rng.below(3);
        self.world.pgbr.ok(["expire", &format!("--repo1-retention-full={keep}")]);
        let fulls: Vec<&Known> = self.known.iter().filter(|known| known.prior.is_none()).collect();
        let first = fulls.len().saturating_sub(usize::try_from(keep).expect("a small number"));
        let mut kept: Vec<String> = fulls.iter().skip(first).map(|known| known.label.clone()).collect();
        let rule = kept.clone();
        // The newest stays with what it builds on, however old that is.
        let mut next = self.known.last();
        while let Some(known) = next {
            kept.push(known.label.clone());
            next = self.known.iter().find(|other| known.prior.as_ref() == Some(&other.label));
        }
        self.known
            .retain(|known| kept.contains(&known.label) || rule.iter().any(|label| label == known.full()));
    }

    /// One backup by its name, with all that builds on it. The last full cannot go.
    fn expire_one(&mut self) {
        let Some(chosen) = self.rng.pick(&self.known).cloned() else { return };
        let fulls = self.known.iter().filter(|known| known.prior.is_none()).count();
        let finished = self.world.pgbr.run(["expire", &format!("--set={}", chosen.label)]);
        tell(&format!("expire --set={}: {:?}", chosen.label, finished.code));
        if chosen.prior.is_none() && fulls == 1 {
            assert!(!finished.success(), "{finished:#?}");
            return;
        }
        assert!(finished.success(), "{finished:#?}");
        let mut gone = vec![chosen.label];
        for known in &self.known {
            if known.prior.as_ref().is_some_and(|prior| gone.contains(prior)) {
                gone.push(known.label.clone());
            }
        }
        self.known.retain(|known| !gone.contains(&known.label));
    }

    /// The cluster is set back to the end of a backup, and goes on from there on a timeline of its own.
    fn rewind(&mut self) {
        let Some(chosen) = self.rng.pick(&self.known).cloned() else { return };
        tell(&format!("back to {}", chosen.label));
        let cluster = &self.world.cluster;
        cluster.stop(if self.rng.below(2) == 0 { StopMode::Fast } else { StopMode::Immediate });
        clear_unlinked(cluster, cluster.scratch().path());
        open_backup(&self.world.pgbr, cluster, &chosen.label, &["--delta"]);
        assert_eq!(state(cluster), chosen.state, "{} is not what it was", chosen.label);
        self.forked = true;
    }
}

/// Things done to the cluster.
impl Model {
    fn change(&mut self) {
        let changes = [
            (14, "insert"),
            (14, "update"),
            (8, "delete"),
            (4, "truncate"),
            (6, "vacuum"),
            (4, "vacuum full"),
            (4, "vacuum freeze"),
            (6, "read"),
            (5, "rollback"),
            (5, "shrink and grow"),
            (5, "old mtime"),
            (4, "checkpoint"),
            (5, "create table"),
            (3, "drop table"),
            (4, "create index"),
            (3, "cluster"),
            (3, "alter type"),
            (3, "persistence"),
            (4, "move table"),
            (3, "create database"),
            (2, "drop database"),
            (2, "move database"),
            (2, "create tablespace"),
            (2, "drop tablespace"),
        ];
        let change = self.rng.weighted(&changes);
        tell(change);
        match change {
            "create table" => self.create_table(),
            "create database" => self.create_database(),
            "drop database" | "move database" => self.change_database(change),
            "create tablespace" => self.create_tablespace(),
            "drop tablespace" => self.drop_tablespace(),
            "checkpoint" => drop(self.world.cluster.sql("postgres", "checkpoint")),
            "old mtime" => self.change_with_old_mtime(),
            _ => self.change_table(change),
        }
    }

    fn create_table(&mut self) {
        let (db, rows) = (self.database(), 100 + self.rng.below(8000));
        let name = self.name("t");
        let persistence = if self.rng.below(6) == 0 { "unlogged" } else { "" };
        let space = self.tablespace();
        self.world.cluster.sql(
            &db,
            &format!(
                "create {persistence} table {name} (id int primary key, n int, v text) tablespace {space};
                 insert into {name} select g, 0, md5(g::text) from generate_series(1, {rows}) g"
            ),
        );
    }

    /// A database and a table in it.
    fn table(&mut self) -> Option<(String, String)> {
        let mut all = Vec::new();
        for db in databases(&self.world.cluster).into_iter().filter(|db| !db.starts_with("template")) {
            let tables = self.world.cluster.sql(
                &db,
                "select relname from pg_class where relkind = 'r' and relname ~ '^t[0-9]' order by 1",
            );
            all.extend(tables.lines().map(|table| (db.clone(), table.to_owned())));
        }
        self.rng.pick(&all).cloned()
    }

    fn database(&mut self) -> String {
        let mut all = databases(&self.world.cluster);
        all.retain(|db| !db.starts_with("template"));
        self.rng.pick(&all).cloned().expect("the database postgres is never dropped")
    }

    fn tablespaces(&self) -> Vec<String> {
        let names = self
            .world
            .cluster
            .sql("postgres", "select spcname from pg_tablespace where spcname <> 'pg_global' order by 1");
        names.lines().map(str::to_owned).collect()
    }

    fn tablespace(&mut self) -> String {
        let all = self.tablespaces();
        self.rng.pick(&all).cloned().expect("there is always pg_default")
    }

    fn change_table(&mut self, change: &str) {
        let Some((db, t)) = self.table() else { return };
        let (k, n) = (2 + self.rng.below(300), 1 + self.rng.below(3000));
        let r = self.rng.below(k);
        let query = match change {
            "insert" => format!(
                "insert into {t} select (select coalesce(max(id), 0) from {t}) + g, {k}, md5((g * {k})::text) from generate_series(1, {n}) g"
            ),
            "update" => format!("update {t} set n = n + 1, v = md5(v) where id % {k} = {r}"),
            "delete" => format!("delete from {t} where id % {k} = {r}"),
            "rollback" => format!("begin; update {t} set n = n + 1 where id % {k} = {r}; rollback"),
            // The same size as before, with other rows in the pages.
            "shrink and grow" => format!(
                "begin; create temp table tail as select * from {t} where id > (select max(id) / 2 from {t}); delete from {t} where id > (select max(id) / 2 from {t}); commit;
                 vacuum {t}; insert into {t} select id, n + 1, md5(v) from tail"
            ),
            "read" => format!("select count(*), sum(n) from {t}"),
            "drop table" => format!("drop table {t}"),
            "create index" => format!("create index on {t} (v) tablespace {}", self.tablespace()),
            "cluster" => format!("cluster {t} using {t}_pkey"),
            "alter type" => format!("alter table {t} alter n type bigint; alter table {t} alter n type int"),
            "persistence" => format!(
                "select format('alter table {t} set %s', case relpersistence when 'p' then 'unlogged' else 'logged' end) from pg_class where relname = '{t}' \\gexec"
            ),
            "move table" => format!("alter table {t} set tablespace {}", self.tablespace()),
            // truncate, vacuum and its kinds
            _ => format!("{change} {t}"),
        };
        self.world.cluster.sql(&db, &query);
    }

    /// A change whose file looks as old as it was before.
    fn change_with_old_mtime(&mut self) {
        let Some((db, t)) = self.table() else { return };
        let path = self.world.cluster.sql(&db, &format!("select pg_relation_filepath('{t}')"));
        let path = self.world.cluster.data_dir().join(path);
        let mtime = path.metadata().and_then(|meta| meta.modified()).expect("a table has a file");
        self.world
            .cluster
            .sql(&db, &format!("checkpoint; update {t} set n = n + 1 where id % 50 = 1; checkpoint"));
        let file = File::options().write(true).open(&path).expect("the file of a table can be opened");
        file.set_modified(mtime).expect("its time can be set");
    }

    fn create_database(&mut self) {
        if databases(&self.world.cluster).len() > 5 {
            return;
        }
        let (template, name) = (self.database(), self.name("d"));
        let template = if template == "postgres" { "template1".to_owned() } else { template };
        let strategy = if self.rng.below(2) == 0 { "file_copy" } else { "wal_log" };
        let space = self.tablespace();
        let make =
            format!("create database {name} template {template} strategy {strategy} tablespace {space}");
        // A tablespace that holds some of the template's tables, and is not its own, is refused.
        let made = self.world.cluster.try_sql("postgres", &make);
        assert!(
            made.as_ref().is_ok_and(String::is_empty) || made.is_err_and(|why| why.contains("conflict")),
            "{make}"
        );
    }

    fn change_database(&mut self, change: &str) {
        let db = self.database();
        if db == "postgres" {
            return;
        }
        let query = if change == "drop database" {
            format!("drop database {db}")
        } else {
            format!("alter database {db} set tablespace {}", self.tablespace())
        };
        // A tablespace that already holds some of the database's tables is refused, and that is well.
        let moved = self.world.cluster.try_sql("postgres", &query);
        assert!(moved.is_ok() || change == "move database", "{moved:?}");
    }

    fn create_tablespace(&mut self) {
        if self.tablespaces().len() > 3 {
            return;
        }
        let name = self.name("s");
        let place = self.world.cluster.scratch().dir(&name);
        self.world
            .cluster
            .sql("postgres", &format!("create tablespace {name} location '{}'", place.display()));
    }

    /// Only an empty one can go.
    fn drop_tablespace(&mut self) {
        let name = self.tablespace();
        if name != "pg_default" {
            drop(self.world.cluster.try_sql("postgres", &format!("drop tablespace {name}")));
        }
    }
}

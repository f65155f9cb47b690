//! Repositories of every kind, written once for all tests: one cluster, backed up into all of them between the same changes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use pgbr_pgbackrest::{Compression, Directory, Passphrase, Repository, Stanza};
use pgbr_testkit::{Cluster, PgBackRest, StopMode, operator_name, own};

pub(crate) const STANZA: &str = "main";
pub(crate) const PASSPHRASE: &str = "a passphrase with = and \"quotes\"";

/// How a repository is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) cipher: bool,
    pub(crate) compression: Compression,
    pub(crate) storage: Storage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// An object for each file.
    Own,
    /// Small files in bundles.
    Bundles,
    /// The same, and files as blocks.
    Blocks,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cipher = if self.cipher { "encrypted" } else { "plain" };
        write!(f, "{cipher}, {}, {:?}", self.compression, self.storage)
    }
}

/// One of the repositories.
pub(crate) struct Written {
    pub(crate) kind: Kind,
    /// Its number in pgBackRest's config.
    pub(crate) number: usize,
    pub(crate) path: PathBuf,
}

impl Written {
    pub(crate) fn passphrase(&self) -> Option<Passphrase> {
        self.kind.cipher.then(|| Passphrase::new(PASSPHRASE))
    }

    pub(crate) fn stanza(&self) -> Stanza {
        let repository = Repository::new(Arc::new(Directory::new(&self.path)), self.passphrase());
        repository.stanza(STANZA.parse().unwrap())
    }

    /// All of it in memory, to be damaged.
    pub(crate) fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let mut objects = BTreeMap::new();
        collect(&self.path, &self.path, &mut objects);
        objects
    }

    /// The stanza of such objects.
    pub(crate) fn stanza_of(&self, objects: BTreeMap<String, Vec<u8>>) -> Stanza {
        Repository::new(Arc::new(objects), self.passphrase()).stanza(STANZA.parse().unwrap())
    }
}

fn collect(root: &Path, directory: &Path, objects: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        match path.is_dir() {
            true => collect(root, &path, objects),
            false => {
                let key = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                objects.insert(key, fs::read(&path).unwrap());
            }
        }
    }
}

/// The cluster, pgBackRest and what it has written.
pub(crate) struct All {
    pub(crate) program: PgBackRest,
    pub(crate) cluster: Cluster,
    pub(crate) repositories: Vec<Written>,
    /// Segments that were archived, with their content.
    pub(crate) segments: Vec<(String, Vec<u8>)>,
}

impl All {
    /// The first repository of this kind of storage and encryption.
    pub(crate) fn find(&self, cipher: bool, storage: Storage) -> Option<&Written> {
        let fits = |written: &&Written| (written.kind.cipher, written.kind.storage) == (cipher, storage);
        self.repositories.iter().find(fits)
    }

    /// The same where there always is one: not with blocks.
    pub(crate) fn one(&self, cipher: bool, storage: Storage) -> &Written {
        self.find(cipher, storage).expect("some repository is of each kind")
    }
}

/// All of it, made by whoever asks first.
pub(crate) fn all() -> &'static All {
    static ALL: OnceLock<All> = OnceLock::new();
    ALL.get_or_init(write)
}

/// Whether every combination is to be written, which takes minutes.
pub(crate) fn dense() -> bool {
    std::env::var_os("PGBR_TEST_DENSE").is_some_and(|value| value == "1")
}

fn kinds() -> Vec<Kind> {
    use Compression::{Bz2, Gz, Lz4, None, Zst};
    use Storage::{Blocks, Bundles, Own};
    let kind = |cipher, compression, storage| Kind { cipher, compression, storage };
    // What 2.45 does with blocks is its beta, and another format.
    let blocks = PgBackRest::version() > (2, 45);
    let wanted = |kind: &Kind| blocks || kind.storage != Blocks;
    if !dense() {
        // Each compression, each storage with and without encryption.
        let kinds = [
            kind(false, Gz, Own),
            kind(true, Lz4, Own),
            kind(false, Bz2, Bundles),
            kind(true, Zst, Bundles),
            kind(false, None, Bundles),
            kind(false, Lz4, Blocks),
            kind(true, Zst, Blocks),
        ];
        return kinds.into_iter().filter(wanted).collect();
    }
    let each = |cipher| {
        let storages = [Own, Bundles, Blocks];
        storages
            .into_iter()
            .flat_map(move |storage| Compression::ALL.map(|compression| kind(cipher, compression, storage)))
    };
    each(false).chain(each(true)).filter(wanted).collect()
}

fn options(kind: Kind) -> Vec<(&'static str, String)> {
    let mut options = Vec::new();
    if kind.cipher {
        options.push(("cipher-type", "aes-256-cbc".to_owned()));
        options.push(("cipher-pass", PASSPHRASE.to_owned()));
    }
    if kind.storage != Storage::Own {
        options.push(("bundle", "y".to_owned()));
        // So that some files are too large for a bundle.
        options.push(("bundle-limit", "256KiB".to_owned()));
    }
    if kind.storage == Storage::Blocks {
        options.push(("block", "y".to_owned()));
    }
    options
}

fn write() -> All {
    let builder = Cluster::builder(15).wal_segsize(1).conf("archive_mode", "on").conf("autovacuum", "off");
    let cluster = builder.init();
    // What a data directory may have outside of itself.
    let outside = cluster.scratch().dir("outside");
    for name in ["pg_logical", "pg_ident.conf"] {
        fs::rename(cluster.data_dir().join(name), outside.join(name)).unwrap();
        symlink(outside.join(name), cluster.data_dir().join(name)).unwrap();
    }
    let repositories: Vec<_> = kinds().into_iter().map(options).collect();
    let program = PgBackRest::new(STANZA, &cluster, &repositories, &[("archive-check", "n".to_owned())]);
    cluster.start();
    program.ok(["stanza-create"]);
    let written = (1..).zip(kinds());
    let written = written.map(|(number, kind)| Written { kind, number, path: program.repository(number) });
    let repositories = written.collect();
    let mut all = All { program, cluster, repositories, segments: Vec::new() };
    all.fill();
    let chain = |kind: Kind| dense() || (kind.cipher, kind.storage) == (false, Storage::Bundles);
    all.back_up("full", |_| true);
    all.change(1);
    all.back_up("diff", |kind| chain(kind) && !alone(kind));
    all.change(2);
    all.back_up("incr", |kind| !alone(kind));
    all.archive();
    all.switch_timeline();
    all.change(3);
    all.back_up("incr", |kind| chain(kind) && !alone(kind));
    all.cluster.stop(StopMode::Fast);
    all
}

/// Whether a repository is left with its full backup.
pub(crate) fn alone(kind: Kind) -> bool {
    !dense() && (kind.compression == Compression::None || (kind.cipher, kind.storage) == (true, Storage::Own))
}

/// Whether the cluster is stopped for the backups of a repository. Those of a running one take seconds, which pgBackRest sleeps: one chain
/// of them is enough to see how they differ.
pub(crate) fn offline(kind: Kind) -> bool {
    !dense() && kind.compression != Compression::Bz2
}

impl All {
    fn fill(&self) {
        let directory = self.cluster.scratch().dir("space");
        // The files of a cluster should be few here: there is no need for templates.
        self.cluster.sql("postgres", "update pg_database set datistemplate = false");
        for template in ["template0", "template1"] {
            self.cluster.sql("postgres", &format!("drop database {template}"));
        }
        self.cluster.sql("postgres", &format!("create tablespace side location '{}'", directory.display()));
        self.cluster.sql(
            "postgres",
            "create table large as select n, md5(n::text) as t from generate_series(1, 20000) n;
             create table aside tablespace side as select n, md5(n::text) as t from generate_series(1, 3000) n;
             create table small as select n from generate_series(1, 700) n;
             create table empty (n int); checkpoint;",
        );
    }

    /// Changes pages in the midst of files, at their ends, makes new files and removes some.
    fn change(&self, round: u32) {
        self.cluster.sql(
            "postgres",
            &format!(
                "update large set t = 'changed in {round}' where n % 4000 between {round} and {round} + 40;
                 insert into aside select n, 'more' from generate_series(1, 900) n;
                 create table new_{round} as select n from generate_series(1, 5000) n;
                 drop table if exists new_1; truncate empty; checkpoint;"
            ),
        );
    }

    fn back_up(&self, kind: &str, wanted: impl Fn(Kind) -> bool) {
        let wanted = self.repositories.iter().filter(|written| wanted(written.kind));
        let (stopped, running): (Vec<_>, Vec<_>) = wanted.partition(|written| offline(written.kind));
        for written in running {
            self.back_up_one(kind, "--online", written);
        }
        if !stopped.is_empty() {
            self.cluster.stop(StopMode::Fast);
            for written in stopped {
                self.back_up_one(kind, "--no-online", written);
            }
            self.cluster.start();
        }
    }

    fn back_up_one(&self, kind: &str, online: &str, written: &Written) {
        self.program.ok([
            online.to_owned(),
            format!("--repo={}", written.number),
            format!("--type={kind}"),
            format!("--compress-type={}", written.kind.compression),
            "--annotation=who=the tests".to_owned(),
            "backup".to_owned(),
        ]);
    }

    /// Archives a segment in each kind of compression, all into every repository.
    fn archive(&mut self) {
        for compression in Compression::ALL {
            let name = self.cluster.switch_wal();
            let source = self.cluster.data_dir().join("pg_wal").join(&name);
            let copy = self.program.scratch().file(&name, fs::read(source).unwrap());
            let option = format!("--compress-type={compression}");
            self.program.ok([option.as_str(), "archive-push", copy.to_str().unwrap()]);
            self.segments.push((name, fs::read(copy).unwrap()));
        }
    }

    /// Starts a timeline by a recovery that finds nothing, and archives what that leaves.
    fn switch_timeline(&self) {
        self.cluster.stop(StopMode::Fast);
        let signal = self.cluster.data_dir().join("recovery.signal");
        fs::write(&signal, "").unwrap();
        own(&signal);
        self.cluster.set_conf("restore_command", "false");
        self.cluster.set_conf("archive_command", &self.program.archive_command("--compress-type=gz"));
        self.cluster.start();
        self.cluster.wait_promoted();
        let segment = self.cluster.switch_wal();
        assert!(segment.starts_with("00000002"), "{} is on timeline 2", segment);
        self.cluster.wait_archived(&segment);
        self.cluster.set_conf("archive_command", "true");
        self.cluster.reload();
    }

    /// What pgBackRest makes of a backup: the data directory, whose links lead to the tablespaces beside it.
    pub(crate) fn restore(&self, written: &Written, label: &str) -> PathBuf {
        let root = self.program.scratch().path().join(format!("restored-{}-{label}", written.number));
        let (data, spaces) = (root.join("data"), root.join("spaces"));
        for directory in [&root, &data, &spaces] {
            fs::create_dir(directory).unwrap();
            own(directory);
        }
        self.program.ok([
            format!("--repo={}", written.number),
            format!("--set={label}"),
            "--type=none".to_owned(),
            format!("--pg1-path={}", data.display()),
            format!("--tablespace-map-all={}", spaces.display()),
            "restore".to_owned(),
        ]);
        data
    }
}

/// Whose files a cluster's are.
pub(crate) fn owner() -> &'static str {
    operator_name()
}

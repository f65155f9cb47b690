//! The pgbr program under test, with a config file of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::cluster::{Cluster, SUPERUSER};
use crate::name::program_name;
use crate::objects::Objects;
use crate::operator::{as_operator, is_other_user};
use crate::proxy::Proxy;
use crate::run::{Finished, run};
use crate::scratch::Scratch;
use crate::stores::{Bucket, StoreKind};

/// No single command of a test takes longer.
const LIMIT: Duration = Duration::from_secs(600);

/// Where a repository lies in its bucket.
const PREFIX: &str = "repo";

/// The pgbr program, one config file and one stanza. Logs, locks and spool lie in a scratch directory, and so does the repository
/// unless it is to lie in an object store.
#[derive(Debug)]
pub struct Pgbr {
    binary: PathBuf,
    stanza: String,
    /// Before the server, once somebody wanted it.
    proxy: OnceLock<Proxy>,
    objects: OnceLock<Objects>,
    /// Of `repo1`; none when that is a directory.
    bucket: Option<Bucket>,
    scratch: Scratch,
    /// Section, then option; a list option has several values.
    config: Mutex<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
}

impl Pgbr {
    /// Sets up a stanza for a cluster with one unencrypted repository in the store that `PGBR_TEST_STORE` names. `binary` is the
    /// program: `env!("CARGO_BIN_EXE_pgbr")` in the tests of its crate.
    ///
    /// # Panics
    /// When the directories or the config file cannot be made.
    pub fn new(binary: impl AsRef<Path>, stanza: &str, cluster: &Cluster) -> Self {
        Self::on(StoreKind::chosen(), binary, stanza, cluster)
    }

    /// The same with the repository in a store of this kind.
    ///
    /// # Panics
    /// As [`Pgbr::new`], and when the store's server is missing.
    pub fn on(kind: StoreKind, binary: impl AsRef<Path>, stanza: &str, cluster: &Cluster) -> Self {
        let bucket = (kind != StoreKind::Posix).then(|| Bucket::of(kind));
        Self::with_bucket(bucket, binary, stanza, cluster)
    }

    /// The same with the repository in this bucket, or in a directory.
    ///
    /// # Panics
    /// As [`Pgbr::new`].
    pub fn with_bucket(
        bucket: Option<Bucket>,
        binary: impl AsRef<Path>,
        stanza: &str,
        cluster: &Cluster,
    ) -> Self {
        let scratch = Scratch::new();
        let pgbr = Self {
            binary: runnable(binary.as_ref()),
            stanza: stanza.to_owned(),
            proxy: OnceLock::new(),
            objects: OnceLock::new(),
            bucket,
            config: Mutex::default(),
            scratch,
        };
        for (option, name) in
            [("repo1-path", "repo"), ("log-path", "log"), ("lock-path", "lock"), ("spool-path", "spool")]
        {
            let dir = pgbr.scratch.dir(name);
            pgbr.set("global", option, &dir.display().to_string());
        }
        if let Some(bucket) = &pgbr.bucket {
            fs::remove_dir(pgbr.scratch.path().join("repo")).expect("it was just made");
            pgbr.set("global", "repo1-path", &format!("/{PREFIX}"));
            pgbr.set_repo(1, &bucket.options());
        }
        pgbr.set("global", "log-level-console", "info");
        pgbr.set("global", "start-fast", "y");
        pgbr.set_cluster(1, cluster);
        pgbr
    }

    /// Points the stanza's `pg<index>` options at a cluster.
    pub fn set_cluster(&self, index: u32, cluster: &Cluster) {
        let set =
            |option: &str, value: String| self.set(&self.stanza, &format!("pg{index}-{option}"), &value);
        set("path", cluster.data_dir().display().to_string());
        set("socket-path", cluster.socket_dir().display().to_string());
        set("port", cluster.port().to_string());
        set("user", SUPERUSER.to_owned());
    }

    /// Sets options of `repo<index>`; names without `repo<index>-`, as [`Bucket::options`] gives them.
    pub fn set_repo(&self, index: u32, options: &[(&'static str, String)]) {
        for (option, value) in options {
            self.set("global", &format!("repo{index}-{option}"), value);
        }
    }

    /// Sets an option in a section of the config file (`global`, `global:backup`, the stanza's name, …), replacing the
    /// values it had.
    pub fn set(&self, section: &str, option: &str, value: &str) {
        self.edit(section, |options| drop(options.insert(option.to_owned(), vec![value.to_owned()])));
    }

    /// Adds one more value of a list option.
    pub fn add(&self, section: &str, option: &str, value: &str) {
        self.edit(section, |options| options.entry(option.to_owned()).or_default().push(value.to_owned()));
    }

    /// Takes an option out of a section.
    pub fn unset(&self, section: &str, option: &str) {
        self.edit(section, |options| drop(options.remove(option)));
    }

    /// Encrypts the repository `repo<index>`. Only before `stanza-create`.
    pub fn encrypt(&self, index: u32, cipher: &str, pass: &str) {
        self.set("global", &format!("repo{index}-cipher-type"), cipher);
        self.set("global", &format!("repo{index}-cipher-pass"), pass);
    }

    /// Runs a command for the stanza, as the operator.
    ///
    /// # Panics
    /// When it cannot be started or takes longer than ten minutes. Any exit code is returned.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Finished {
        run(&mut self.command(args), "", LIMIT)
    }

    /// Runs a command that must succeed and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> String {
        let mut command = self.command(args);
        let finished = run(&mut command, "", LIMIT);
        assert!(finished.success(), "{command:?} failed: {finished:#?}");
        finished.stdout
    }

    /// Runs a command that must end with an exit code other than 0, and returns what it wrote.
    ///
    /// # Panics
    /// When it ends in any other way.
    pub fn fails<I: IntoIterator<Item: AsRef<OsStr>>>(&self, code: i32, args: I) -> Finished {
        let mut command = self.command(args);
        let finished = run(&mut command, "", LIMIT);
        assert_eq!(finished.code, Some(code), "{command:?} was to end with {code}: {finished:#?}");
        finished
    }

    /// The command that [`Pgbr::run`] runs, to be run otherwise (with other variables, killed in the middle, …).
    pub fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = Command::new(&self.binary);
        as_operator(&mut command);
        command
            .arg(format!("--config={}", self.config_path().display()))
            .arg(format!("--stanza={}", self.stanza));
        command.args(args);
        command
    }

    /// The same without `--config` and `--stanza`.
    pub fn bare_command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = Command::new(&self.binary);
        as_operator(&mut command).args(args);
        command
    }

    /// What belongs into `archive_command`.
    pub fn archive_command(&self) -> String {
        format!(
            "{} --config={} --stanza={} archive-push %p",
            self.binary.display(),
            self.config_path().display(),
            self.stanza
        )
    }

    /// What `restore` is expected to write as `restore_command`, for recoveries that are set up by hand.
    pub fn restore_command(&self) -> String {
        let config = self.config_path();
        format!(
            "{} --config={} --stanza={} archive-get %f \"%p\"",
            self.binary.display(),
            config.display(),
            self.stanza
        )
    }

    /// Turns archiving into the repository on in a cluster that was made with `archive_mode=on`.
    pub fn archive_from(&self, cluster: &Cluster) {
        cluster.set_conf("archive_command", &self.archive_command());
        cluster.reload();
    }

    /// A link to the program under another name, as in a drop-in replacement.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn link_as(&self, name: &str) -> PathBuf {
        let link = self.scratch.path().join(name);
        symlink(&self.binary, &link)
            .unwrap_or_else(|error| panic!("could not link {}: {error}", link.display()));
        link
    }

    /// The program, where the operator can run it.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The stanza.
    pub fn stanza(&self) -> &str {
        &self.stanza
    }

    /// The config file.
    pub fn config_path(&self) -> PathBuf {
        self.scratch.path().join("pgbr.conf")
    }

    /// The directory of `repo1`: for tests that are about files.
    ///
    /// # Panics
    /// When it lies in an object store.
    pub fn repo_dir(&self) -> PathBuf {
        assert!(
            self.bucket.is_none(),
            "this test is about a repository in a directory: run it without PGBR_TEST_STORE"
        );
        self.scratch.path().join("repo")
    }

    /// The bucket of `repo1`, if it lies in one.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// The objects of `repo1`.
    pub fn objects(&self) -> &Objects {
        self.objects.get_or_init(|| match &self.bucket {
            None => Objects::in_directory(self.repo_dir()),
            Some(bucket) => Objects::in_bucket(bucket.client(), PREFIX),
        })
    }

    /// A proxy through which all commands reach `repo1` from the first call on. The time limit of I/O becomes short then, for tests
    /// are to see the end of it.
    ///
    /// # Panics
    /// When the repository is a directory.
    pub fn proxy(&self) -> &Proxy {
        let bucket = self.bucket.as_ref().expect("a proxy stands before an object store");
        self.proxy.get_or_init(|| {
            let proxy = Proxy::before(bucket);
            self.set_repo(1, &bucket.options_at(&proxy.endpoint()));
            self.set("global", "io-timeout", "5");
            proxy
        })
    }

    /// The directory of its log files.
    pub fn log_dir(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// Everything of it lies here.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    fn edit(&self, section: &str, change: impl FnOnce(&mut BTreeMap<String, Vec<String>>)) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        change(config.entry(section.to_owned()).or_default());
        let mut text = String::new();
        for (section, options) in config.iter() {
            writeln!(text, "[{section}]").expect("writing to a string does not fail");
            for (option, values) in options {
                for value in values {
                    writeln!(text, "{option}={value}").expect("writing to a string does not fail");
                }
            }
            text.push('\n');
        }
        self.scratch.file("pgbr.conf", text);
    }
}

/// A path under which the operator can run the program by the name that tests are to call it by ([`program_name`]): its own, that of a
/// link where it has another name, or that of a copy where the operator cannot get at it (a build directory below root's home). One a
/// process and program; it is removed when the process ends.
///
/// # Panics
/// When it is not there or cannot be copied.
pub fn runnable(binary: &Path) -> PathBuf {
    static COPIES: OnceLock<Mutex<BTreeMap<PathBuf, (Scratch, PathBuf)>>> = OnceLock::new();
    let binary = fs::canonicalize(binary)
        .unwrap_or_else(|error| panic!("there is no program {}: {error}", binary.display()));
    let mut test = Command::new("test");
    let usable = !is_other_user() || run(as_operator(&mut test).arg("-x").arg(&binary), "", LIMIT).success();
    if usable && binary.file_name().is_some_and(|name| name == program_name()) {
        return binary;
    }
    let mut copies = COPIES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let (_, copy) = copies.entry(binary.clone()).or_insert_with(|| {
        let scratch = Scratch::new();
        let copy = scratch.path().join(program_name());
        let made = match usable {
            true => symlink(&binary, &copy),
            false => fs::copy(&binary, &copy)
                .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))),
        };
        made.unwrap_or_else(|error| panic!("could not make {}: {error}", copy.display()));
        (scratch, copy)
    });
    copy.clone()
}

//! A PostgreSQL cluster in a directory of its own: made, started, stopped, killed and asked.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::install::PgInstall;
use crate::operator::{as_operator, own};
use crate::run::{Finished, free_port, run, wait_until};
use crate::scratch::Scratch;
use crate::template;

/// The superuser of every cluster, whoever the operator is.
pub(crate) const SUPERUSER: &str = "postgres";

/// In MiB, as `initdb` itself has it.
const DEFAULT_SEGSIZE: u32 = 16;

/// Longer than anything here takes on a busy machine with two cores.
const LIMIT: Duration = Duration::from_secs(180);

/// How a server is asked to stop (as by `pg_ctl stop -m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until all clients have gone.
    Smart,
    /// Ends all sessions and shuts down cleanly.
    Fast,
    /// Gives up at once; the next start recovers.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// What a cluster is to be made with. By default: page checksums, 16 MiB WAL segments, UTF-8, C collation, `trust`
/// authentication, only a Unix socket, `fsync=off`, WAL segments that are not written out when they are made, 16 MiB of shared buffers, time
/// zone UTC.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    install: PgInstall,
    checksums: bool,
    wal_segsize: u32,
    initdb_args: Vec<String>,
    conf: Vec<(String, String)>,
    tcp: bool,
    fsync: bool,
}

impl ClusterBuilder {
    /// More arguments for `initdb`.
    #[must_use]
    pub fn initdb_args<I: IntoIterator<Item: Into<String>>>(mut self, args: I) -> Self {
        self.initdb_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One setting in `postgresql.conf`; the value is quoted here.
    #[must_use]
    pub fn conf(mut self, name: &str, value: &str) -> Self {
        self.conf.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The size of WAL segments in MiB: a power of two from 1 to 1024.
    #[must_use]
    pub fn wal_segsize(mut self, mib: u32) -> Self {
        self.wal_segsize = mib;
        self
    }

    /// With or without page checksums.
    #[must_use]
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// Listens on 127.0.0.1 too, on a free port ([`Cluster::port`]).
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Whether the server syncs its files. Only tests that measure need it.
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// Makes the cluster and starts it.
    ///
    /// # Panics
    /// When either fails.
    pub fn start(self) -> Cluster {
        let cluster = self.init();
        cluster.start();
        cluster
    }

    /// Makes the cluster and leaves it stopped. Where nothing but checksums was asked for, `initdb` has run once in this process and the
    /// cluster is a copy, with a system identifier of its own.
    ///
    /// # Panics
    /// When `initdb` fails.
    pub fn init(self) -> Cluster {
        let conf = self.conf.clone();
        let args = self.words_for_initdb();
        let special = !self.initdb_args.is_empty() || self.wal_segsize != DEFAULT_SEGSIZE;
        let cluster = self.place(false);
        let initdb = |data: &Path| {
            succeed(cluster.program("initdb").arg("-D").arg(data).args(&args), "");
        };
        if special {
            initdb(&cluster.data);
        } else {
            let key = format!("{} {}", cluster.bin("initdb").display(), args.join(" "));
            template::copy(&key, &cluster.data, initdb);
        }
        let defaults = [
            ("shared_buffers", "16MB"),
            ("max_connections", "40"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("log_line_prefix", "%m [%p] "),
            // A new WAL segment is 16 MiB of zeros either way. Written out, it takes a switch of segments most of its time.
            ("wal_init_zero", "off"),
        ];
        for (name, value) in defaults {
            cluster.set_conf(name, value);
        }
        for (name, value) in conf {
            cluster.set_conf(&name, &value);
        }
        cluster
    }

    fn words_for_initdb(&self) -> Vec<String> {
        let mut args: Vec<String> = ["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
            .map(str::to_owned)
            .to_vec();
        args.push(format!("--wal-segsize={}", self.wal_segsize));
        match (self.checksums, self.install.major()) {
            (true, _) => args.push("--data-checksums".to_owned()),
            (false, 18..) => args.push("--no-data-checksums".to_owned()),
            (false, _) => {}
        }
        args.extend(self.initdb_args.iter().cloned());
        args
    }

    /// Makes an empty data directory with a socket directory and a log beside it, to restore into. When such a cluster
    /// is started, `archive_mode` is off, whatever the restored settings say: it is not to write to the archive that it
    /// came from ([`Cluster::set_override`] changes that).
    pub fn empty(self) -> Cluster {
        let conf = self.conf.clone();
        let mut cluster = self.place(true);
        fs::create_dir(&cluster.data)
            .unwrap_or_else(|error| panic!("could not make a data directory: {error}"));
        set_private(&cluster.data);
        own(&cluster.data);
        cluster.set_override("archive_mode", "off");
        for (name, value) in conf {
            cluster.set_override(&name, &value);
        }
        cluster
    }

    /// The directories of a cluster, without its data directory.
    fn place(self, foreign_conf: bool) -> Cluster {
        let scratch = Scratch::new();
        let sockets = scratch.dir("s");
        let port = if self.tcp { free_port() } else { 5432 };
        let mut cluster = Cluster {
            data: scratch.path().join("data"),
            log: scratch.path().join("server.log"),
            sockets,
            port,
            overrides: Vec::new(),
            server: Mutex::new(None),
            install: self.install,
            scratch,
        };
        // These win over any file, so that a restored postgresql.conf cannot lead a server to another one's socket.
        let sockets = cluster.sockets.display().to_string();
        cluster.set_override("listen_addresses", if self.tcp { "127.0.0.1" } else { "" });
        cluster.set_override("port", &port.to_string());
        cluster.set_override("unix_socket_directories", &sockets);
        cluster.set_override("logging_collector", "off");
        cluster.set_override("fsync", if self.fsync { "on" } else { "off" });
        if foreign_conf {
            cluster.set_override("external_pid_file", "");
        }
        cluster
    }
}

/// A PostgreSQL cluster. Dropping it stops the server at once and removes its directory.
#[derive(Debug)]
pub struct Cluster {
    install: PgInstall,
    data: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    port: u16,
    /// Settings given on the server's command line.
    overrides: Vec<(String, String)>,
    server: Mutex<Option<Child>>,
    scratch: Scratch,
}

impl Cluster {
    /// Starts to describe a cluster of a major version.
    ///
    /// # Panics
    /// When that version is not installed.
    pub fn builder(major: u32) -> ClusterBuilder {
        ClusterBuilder {
            install: PgInstall::find(major),
            checksums: true,
            wal_segsize: DEFAULT_SEGSIZE,
            initdb_args: Vec::new(),
            conf: Vec::new(),
            tcp: false,
            fsync: false,
        }
    }

    /// Starts the server and waits until it answers (in a recovery: until it is consistent).
    ///
    /// # Panics
    /// When it does not start; the text holds the server's log.
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start:\n{log}"));
    }

    /// Starts the server like [`Cluster::start`]. It is a direct child, since a killed one has to be waited for: where
    /// nobody does that, PostgreSQL takes the zombie for a running server and refuses to start again.
    ///
    /// # Errors
    /// What the server logged in this attempt, when it ended or did not answer in time (it is killed then).
    ///
    /// # Panics
    /// When it runs already.
    pub fn try_start(&self) -> Result<(), String> {
        assert!(!self.is_running(), "the server runs already");
        let before = self.log().len();
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.unwrap_or_else(|error| panic!("could not open {}: {error}", self.log.display()));
        own(&self.log);
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data);
        for (name, value) in &self.overrides {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let errors = log.try_clone().expect("a file handle can be duplicated");
        // A group of its own, so that Ctrl-C leaves the end of the server to the watchdog.
        let child = command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        *self.server() = Some(child.unwrap_or_else(|error| panic!("could not start {command:?}: {error}")));
        let start = Instant::now();
        while self.is_running() && start.elapsed() < LIMIT {
            if self.says_ready() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.is_running() {
            self.kill9();
        }
        let log = self.log();
        Err(log.get(before..).unwrap_or(&log).to_owned())
    }

    /// Stops the server and waits until it has gone.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&self, mode: StopMode) {
        let pid = self.pid().expect("the server runs");
        kill(pid, mode.signal());
        let start = Instant::now();
        while self.is_running() {
            assert!(start.elapsed() < LIMIT, "the server does not stop ({mode:?}):\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server (fast) and starts it again.
    pub fn restart(&self) {
        self.stop(StopMode::Fast);
        self.start();
    }

    /// Kills the server as the kernel would (SIGKILL to the postmaster), and waits until all its processes have gone.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill9(&self) {
        let pid = self.pid().expect("the server runs");
        let children = children_of(pid);
        kill(pid, Signal::KILL);
        wait_until(LIMIT, "the killed server and its processes to go", || {
            !self.is_running() && children.iter().all(|child| !is_alive(*child))
        });
    }

    /// Makes the server read its settings again.
    pub fn reload(&self) {
        let mut command = self.program("pg_ctl");
        succeed(command.arg("reload").arg("-D").arg(&self.data), "");
    }

    /// Ends the recovery of a standby and waits until it takes writes.
    pub fn promote(&self) {
        let mut command = self.program("pg_ctl");
        succeed(command.arg("promote").arg("-D").arg(&self.data).args(["-w", "-t", "120"]), "");
    }

    /// Whether the server runs.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// The process id of the running server (the postmaster).
    ///
    /// # Panics
    /// When its state cannot be asked for.
    pub fn pid(&self) -> Option<u32> {
        let mut server = self.server();
        let child = server.as_mut()?;
        match child.try_wait() {
            Ok(None) => Some(child.id()),
            Ok(Some(_)) => {
                *server = None;
                None
            }
            Err(error) => panic!("could not ask for the state of the server: {error}"),
        }
    }

    /// Waits until the server answers queries.
    pub fn wait_ready(&self) {
        wait_until(LIMIT, "the server to answer", || self.try_sql("postgres", "select 1").is_ok());
    }

    /// Waits until a recovery has ended and the server takes writes.
    ///
    /// # Panics
    /// When the server ends instead or recovery does not end; the text holds the server's log.
    pub fn wait_promoted(&self) {
        let start = Instant::now();
        loop {
            if self.try_sql("postgres", "select pg_is_in_recovery()").as_deref() == Ok("f") {
                return;
            }
            assert!(self.is_running(), "the server ended in recovery:\n{}", self.log());
            assert!(start.elapsed() < LIMIT, "recovery did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Appends a setting to `postgresql.conf`; the last one of a name counts. A running server needs
    /// [`Cluster::reload`] or [`Cluster::restart`] to see it.
    pub fn set_conf(&self, name: &str, value: &str) {
        let path = self.data.join("postgresql.conf");
        let quoted = value.replace('\\', "\\\\").replace('\'', "''");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{name} = '{quoted}'"))
            .unwrap_or_else(|error| panic!("could not add to {}: {error}", path.display()));
    }

    /// Sets a setting on the command line of the server's next start, where it wins over every file.
    pub fn set_override(&mut self, name: &str, value: &str) {
        self.overrides.retain(|(other, _)| other != name);
        self.overrides.push((name.to_owned(), value.to_owned()));
    }

    /// Runs SQL (any number of statements, each on its own unless there is a `begin`) in a database as superuser and
    /// returns what it printed: unaligned, fields divided by `|`, rows by newlines, without the last newline.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn sql(&self, db: &str, query: &str) -> String {
        self.try_sql(db, query).unwrap_or_else(|error| panic!("SQL failed: {query}\n{error}"))
    }

    /// Runs SQL that must fail and returns the error text.
    ///
    /// # Panics
    /// When it does not fail.
    pub fn sql_err(&self, db: &str, query: &str) -> String {
        match self.try_sql(db, query) {
            Ok(output) => panic!("SQL was to fail: {query}\nit printed: {output}"),
            Err(error) => error,
        }
    }

    /// Runs SQL like [`Cluster::sql`].
    ///
    /// # Errors
    /// What `psql` wrote to standard error when a statement or the connection failed.
    pub fn try_sql(&self, db: &str, query: &str) -> Result<String, String> {
        let mut command = self.client("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", db, "-f", "-"]);
        let finished = run(&mut command, query, Duration::from_secs(600));
        if finished.success() {
            Ok(finished.stdout.trim_end_matches('\n').to_owned())
        } else {
            Err(finished.stderr)
        }
    }

    /// Ends the current WAL segment and returns its name. Something is always written to it first, so there is one to
    /// end. Does not wait for the archiver: see [`Cluster::wait_archived`].
    pub fn switch_wal(&self) -> String {
        let output = self.sql(
            "postgres",
            "select from pg_logical_emit_message(true, 'pgbr-testkit', 'switch');
             select pg_walfile_name(pg_switch_wal());",
        );
        output.trim().to_owned()
    }

    /// Waits until the archiver is done with a WAL segment.
    pub fn wait_archived(&self, segment: &str) {
        let status = self.data.join("pg_wal/archive_status");
        let (ready, done) = (status.join(format!("{segment}.ready")), status.join(format!("{segment}.done")));
        let file = self.data.join("pg_wal").join(segment);
        wait_until(LIMIT, &format!("{segment} to be archived"), || {
            !ready.exists() && (done.exists() || !file.exists())
        });
    }

    /// Makes a stopped standby that streams from this running server (`pg_basebackup -R`).
    pub fn standby(&self) -> Self {
        self.standby_with(&[])
    }

    /// The same with other places for tablespaces: from where to where.
    pub fn standby_with(&self, tablespaces: &[(&Path, &Path)]) -> Self {
        let builder = Self::builder(self.install.major());
        let mut standby = builder.place(true);
        standby.set_override("archive_mode", "off");
        let mut command = self.client("pg_basebackup");
        command.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&standby.data);
        for (from, to) in tablespaces {
            command.arg("-T").arg(format!("{}={}", from.display(), to.display()));
        }
        succeed(&mut command, "");
        standby
    }

    /// Waits until a standby has replayed everything that this server has written so far.
    pub fn wait_replayed(&self, standby: &Self) {
        // After a switch of segments the write position is one that no record ends at, so one is written here.
        let lsn = self.sql(
            "postgres",
            "select from pg_logical_emit_message(true, 'pgbr-testkit', 'replay'); select pg_current_wal_lsn();",
        );
        let query = format!("select pg_last_wal_replay_lsn() >= '{}'", lsn.trim());
        let start = Instant::now();
        while standby.sql("postgres", &query) != "t" {
            assert!(
                start.elapsed() < LIMIT,
                "the standby does not follow to {}:\n{}",
                lsn.trim(),
                standby.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server has logged since it was made.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The directory of its Unix socket: also the host name that connects to it.
    pub fn socket_dir(&self) -> &Path {
        &self.sockets
    }

    /// Its port, for the Unix socket's name and for TCP if that was asked for.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of its superuser, who needs no password.
    pub fn superuser(&self) -> &'static str {
        SUPERUSER
    }

    /// Its major version.
    pub fn major(&self) -> u32 {
        self.install.major()
    }

    /// The installation that it runs from.
    pub fn install(&self) -> &PgInstall {
        &self.install
    }

    /// The directory that everything of it lies in, removed with it: room for what a test keeps beside the cluster.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The path of one of its programs ([`PgInstall::bin`]).
    pub fn bin(&self, name: &str) -> PathBuf {
        self.install.bin(name)
    }

    /// A command that runs one of its programs as the operator.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin(name));
        as_operator(&mut command);
        command
    }

    /// The same for a client program, with host, port and superuser already given.
    pub fn client(&self, name: &str) -> Command {
        let mut command = self.program(name);
        command.arg("-h").arg(&self.sockets).args(["-p", &self.port.to_string(), "-U", SUPERUSER]);
        command
    }

    /// Runs one of its programs with `-D` and the data directory, and returns what it printed (`pg_controldata`, …).
    ///
    /// # Panics
    /// When it fails.
    pub fn data_program(&self, name: &str, args: &[&str]) -> String {
        let mut command = self.program(name);
        succeed(command.arg("-D").arg(&self.data).args(args), "").stdout
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the running server has written into its pid file that it takes connections, as `pg_ctl -w` looks for it.
    fn says_ready(&self) -> bool {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let ours = lines.first().and_then(|pid| pid.parse().ok()) == self.pid();
        ours && matches!(lines.get(7), Some(&"ready" | &"standby"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_running() {
            self.stop(StopMode::Immediate);
        }
    }
}

/// Runs a command that must succeed.
pub(crate) fn succeed(command: &mut Command, input: &str) -> Finished {
    let finished = run(command, input, LIMIT);
    assert!(finished.success(), "{command:?} failed: {finished:#?}");
    finished
}

fn set_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .unwrap_or_else(|error| panic!("could not set the mode of {}: {error}", path.display()));
}

/// Whether a process lives. A zombie that nobody has waited for yet does not.
fn is_alive(pid: u32) -> bool {
    stat_of(pid).is_some_and(|stat| stat.state != "Z")
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("this is Linux");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat_of(*pid).is_some_and(|stat| stat.parent == parent)).collect()
}

struct ProcStat {
    state: String,
    parent: u32,
}

/// From `/proc/<pid>/stat`: `pid (any name) state parent …`.
fn stat_of(pid: u32) -> Option<ProcStat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit(')').next()?.split_whitespace();
    Some(ProcStat { state: fields.next()?.to_owned(), parent: fields.next()?.parse().ok()? })
}

fn kill(pid: u32, signal: Signal) {
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id from a pid file of a live server");
    if let Err(error) = kill_process(raw, signal) {
        assert!(!is_alive(pid), "could not signal process {pid}: {error}");
    }
}

//! Patroni makes a replica by our program, under pgBackRest's name and by the method that its manual gives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use pgbr_testkit::{Cluster, Scratch, as_operator, free_port, patroni, run, runnable};

use crate::rig::{LIMIT, MAJOR};

/// Runs a program with its output in the file `$1` until standard input ends, then asks it to end and waits.
const GUARD: &str = r#"
log=$1; shift
"$@" </dev/null >"$log" 2>&1 &
read -r _
kill -TERM $!
wait $!
"#;

/// A program of Patroni's that ends with the test.
struct Daemon {
    guard: Child,
    leash: Option<ChildStdin>,
    log: PathBuf,
}

impl Daemon {
    fn start(scratch: &Scratch, program: &str, name: &str, config: &Path) -> Self {
        let log = scratch.file(&format!("{name}.log"), "");
        let mut command = Command::new("sh");
        as_operator(&mut command).args(["-c", GUARD, "guard"]).arg(&log).arg(patroni(program)).arg(config);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut guard = command.spawn().expect("sh can be started");
        let leash = guard.stdin.take();
        Self { guard, leash, log }
    }

    #[track_caller]
    fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < LIMIT, "waited in vain for {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.leash.take());
        drop(self.guard.wait());
    }
}

/// A node of Patroni's cluster: ports and places.
struct Node {
    name: &'static str,
    rest: u16,
    raft: u16,
    port: u16,
    data: PathBuf,
}

impl Node {
    fn new(scratch: &Scratch, name: &'static str) -> Self {
        let data = scratch.dir(name).join("data");
        Self { name, rest: free_port(), raft: free_port(), port: free_port(), data }
    }

    /// What `GET /primary` and `/replica` answer: 200 where it is one.
    fn is(&self, what: &str) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.rest))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET /{what} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.lines().next().is_some_and(|line| line.contains(" 200 ")))
    }

    fn sql(&self, bin: &Path, query: &str) -> String {
        let mut command = Command::new(bin.join("psql"));
        let port = self.port.to_string();
        as_operator(&mut command).args([
            "-XAtq",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &port,
            "-c",
            query,
        ]);
        let finished = run(&mut command, "", LIMIT);
        assert!(finished.success(), "{query}: {finished:#?}");
        finished.stdout.trim().to_owned()
    }

    /// Its configuration, and the one of our program for it.
    fn config(&self, scratch: &Scratch, program: &Path, bin: &Path, others: [u16; 2]) -> (PathBuf, PathBuf) {
        let place = |name: &str| scratch.dir(&format!("{}-{name}", self.name)).display().to_string();
        let ours = format!(
            "[global]\nstart-fast=y\nlog-level-file=off\narchive-timeout=60\nlock-path={}\nspool-path={}\nrepo1-path={}\n
             [demo]\npg1-path={}\npg1-port={}\npg1-socket-path=/tmp\npg1-user=postgres\n",
            place("lock"),
            place("spool"),
            scratch.path().join("repo").display(),
            self.data.display(),
            self.port,
        );
        let ours = scratch.file(&format!("{}.conf", self.name), ours);
        let call = format!("{} --config={} --stanza=demo", program.display(), ours.display());
        let (name, rest, raft, port, bin) = (self.name, self.rest, self.raft, self.port, bin.display());
        let raft_dir = place("raft");
        let data = self.data.display();
        let text = format!(
            "scope: demo
name: {name}
restapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}
raft:
  data_dir: {raft_dir}
  self_addr: '127.0.0.1:{raft}'
  partner_addrs: ['127.0.0.1:{other}', '127.0.0.1:{third}']
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 1
    retry_timeout: 5
    postgresql:
      parameters: {{archive_mode: 'on', archive_command: '{call} archive-push %p', fsync: 'off'}}
  initdb: [data-checksums, {{encoding: UTF8}}, {{auth: trust}}]
postgresql:
  listen: '127.0.0.1:{port}'
  connect_address: '127.0.0.1:{port}'
  data_dir: {data}
  bin_dir: {bin}
  pgpass: {raft_dir}/pgpass
  authentication:
    superuser: {{username: postgres}}
    replication: {{username: postgres}}
  pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']
  parameters: {{unix_socket_directories: /tmp}}
  create_replica_methods: [pgbackrest]
  pgbackrest:
    command: {call} --delta restore
    keep_data: True
    no_params: True
",
            other = others[0],
            third = others[1],
        );
        (scratch.file(&format!("{name}.yml"), text), ours)
    }
}

#[test]
fn a_replica_is_made_from_the_repository() {
    let scratch = Scratch::new();
    let install = Cluster::builder(MAJOR).empty();
    let bin = install.bin("postgres").parent().expect("it lies in a directory").to_owned();
    let program = scratch.path().join("pgbackrest");
    std::os::unix::fs::symlink(runnable(Path::new(env!("CARGO_BIN_EXE_pgbr"))), &program).expect("a link");
    scratch.dir("repo");
    let (one, two, third) = (Node::new(&scratch, "one"), Node::new(&scratch, "two"), free_port());
    let voter = format!(
        "raft:\n  data_dir: {}\n  self_addr: '127.0.0.1:{third}'\n  partner_addrs: ['127.0.0.1:{}', '127.0.0.1:{}']\n",
        scratch.dir("voter").display(),
        one.raft,
        two.raft
    );
    let _voter =
        Daemon::start(&scratch, "patroni_raft_controller", "voter", &scratch.file("voter.yml", voter));
    let (config, ours) = one.config(&scratch, &program, &bin, [two.raft, third]);
    let first = Daemon::start(&scratch, "patroni", "one", &config);
    first.wait("the first node to be the primary", || one.is("primary"));

    let call = |args: &[&str]| {
        let mut command = Command::new(&program);
        as_operator(&mut command).arg(format!("--config={}", ours.display())).arg("--stanza=demo").args(args);
        let finished = run(&mut command, "", LIMIT);
        assert!(finished.success(), "{args:?}: {finished:#?}\n{}", first.said());
    };
    call(&["stanza-create"]);
    one.sql(&bin, "create table t as select generate_series(1, 1000) as n");
    call(&["backup", "--type=full"]);
    one.sql(&bin, "insert into t select generate_series(1001, 1500)");

    let (config, _) = two.config(&scratch, &program, &bin, [one.raft, third]);
    let second = Daemon::start(&scratch, "patroni", "two", &config);
    second.wait("the second node to be a replica", || two.is("replica"));
    assert!(second.said().contains("replica has been created using pgbackrest"), "{}", second.said());
    // It follows, with what was written after the backup and what is written now.
    one.sql(&bin, "insert into t values (0)");
    second.wait("the replica to follow", || two.sql(&bin, "select count(*) from t") == "1501");
    assert_eq!(two.sql(&bin, "select pg_is_in_recovery()"), "t");
    let own = std::fs::read_to_string(two.data.join("postgresql.auto.conf")).expect("it was restored");
    // Patroni has taken the settings of the recovery over, and left the line that tells of them.
    assert!(own.contains("# Recovery settings generated by pgBackRest restore on "), "{own}");
}

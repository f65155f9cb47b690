//! Bad input on a real cluster: each case ends in a clear message and its exit code, and changes nothing.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgbr_testkit::{Pgbr, StopMode, as_operator, own, program_name, run, words_of};

use crate::rig::{LIMIT, PASS, Rig, STANZA, assert_one_error, assert_untouched, cluster, restore_into, said};

const BACKUP: [&str; 2] = ["backup", "--type=full"];

#[test]
fn a_wrong_passphrase_is_one_error_before_anything_is_touched() {
    let rig = Rig::sealed();
    rig.backup();
    let segment = rig.archived_segment();
    let pushed = format!("pg_wal/{segment}");
    let target = rig.target();
    let into = restore_into(&target);
    let got = target.scratch().path().join("got").display().to_string();
    let commands: [&[&str]; 7] = [
        &["stanza-create"],
        &["check"],
        &BACKUP,
        &["archive-push", &pushed],
        &["archive-get", &segment, &got],
        &[&into[0], &into[1]],
        &["info"],
    ];
    let every_command_says = |words: &[&str]| {
        let before = rig.snapshot();
        for command in commands {
            rig.refused(95, words, command.iter().copied());
            assert_untouched(&target);
            assert!(!Path::new(&got).exists());
        }
        assert_eq!(rig.snapshot(), before);
        rig.assert_no_backup_mode();
    };
    // Keys that were derived before are kept on the host: they must not open anything for another passphrase.
    rig.pgbr.set("global", "repo1-cipher-pass", "Not-the-passphrase");
    every_command_says(&["passphrase"]);
    rig.pgbr.unset("global", "repo1-cipher-pass");
    rig.pgbr.unset("global", "repo1-cipher-type");
    every_command_says(&["encrypted", "repo1-cipher-pass"]);
    rig.pgbr.encrypt(1, "aes-256-gcm", PASS);
    rig.still_archives();
    rig.backup();
}

/// As pgBackRest's: roles that set a host up look with `info` whether there is a stanza, and make no directory.
#[test]
fn a_repository_whose_directory_is_not_there_is_an_empty_one_to_who_looks_and_is_made_by_stanza_create() {
    let rig = Rig::plain();
    let segment = rig.archived_segment();
    let place = rig.pgbr.scratch().path().join("not/there/yet");
    rig.pgbr.set("global", "repo1-path", &place.display().to_string());
    let mut command = rig.pgbr.command(["info"]);
    assert!(run(&mut command, "", LIMIT).stdout.contains("missing stanza path"));
    let told: serde_json::Value =
        serde_json::from_str(&rig.pgbr.ok(["info", "--output=json"])).expect("JSON");
    assert_eq!(told[0]["status"]["code"], 1, "{told}");
    assert_eq!(rig.pgbr.ok(["repo-ls"]), "");
    assert_eq!(rig.pgbr.run(["repo-get", "backup/demo/backup.info", "--ignore-missing"]).code, Some(1));
    // Whoever needs it is told that it cannot be reached: a disk may not be mounted.
    for command in [&["check"][..], &BACKUP, &["archive-push", &format!("pg_wal/{segment}")], &["expire"]] {
        let refused = rig.pgbr.run(command);
        assert!(
            refused.code == Some(42) && said(&refused).contains("is the repository mounted"),
            "{refused:#?}"
        );
    }
    assert!(!place.exists());
    rig.pgbr.ok(["stanza-create"]);
    rig.pgbr.ok(["check"]);
    rig.backup();
}

#[test]
fn a_cipher_that_the_repository_does_not_have_is_refused() {
    let rig = Rig::plain();
    rig.backup();
    let segment = rig.archived_segment();
    let target = rig.target();
    let into = restore_into(&target);
    rig.pgbr.encrypt(1, "aes-256-cbc", PASS);
    let before = rig.snapshot();
    for command in [
        &["stanza-create"][..],
        &["check"],
        &BACKUP,
        &["archive-push", &format!("pg_wal/{segment}")],
        &["archive-get", &segment, "/tmp/never-written"],
        &[&into[0], &into[1]],
        &["info"],
    ] {
        rig.refused(95, &["not encrypted", "repo1-cipher-type"], command.iter().copied());
    }
    assert_eq!(rig.snapshot(), before);
    assert_untouched(&target);
    rig.pgbr.unset("global", "repo1-cipher-pass");
    rig.pgbr.unset("global", "repo1-cipher-type");
    rig.still_archives();
}

#[test]
fn words_that_are_not_understood_and_stanzas_that_are_not_there() {
    let rig = Rig::plain();
    for (code, words, args) in [
        (31, "invalid option '--bogus'", "backup --bogus"),
        (31, "option 'target' not valid for command 'backup'", "backup --target=x"),
        (32, "'middling' is not", "backup --type=middling"),
        (32, "compress-type", "backup --compress-type=rar"),
        (32, "process-max", "backup --process-max=0"),
        (31, "repo1-cipher-pass", "backup --repo1-cipher-pass=x"),
        (48, "invalid command 'bakcup'", "bakcup"),
        (43, "WAL segment to push required", "archive-push"),
        (43, "WAL segment to get required", "archive-get"),
        (43, "path to copy WAL segment required", "archive-get 000000010000000000000001"),
        (96, "extra parameters found", "archive-get 000000010000000000000001 /tmp/never-written more"),
        (96, "'junk'", "archive-get junk /tmp/never-written"),
        (32, "0/XYZ", "restore --type=lsn --target=0/XYZ"),
    ] {
        rig.refused(code, &[words], args.split(' '));
    }
    let mut command = rig.pgbr.bare_command(["backup", "--config=/nowhere/pgbr.conf"]);
    assert_one_error(&run(&mut command, "", LIMIT), 55, &["missing file '/nowhere/pgbr.conf'"]);

    let other = Pgbr::new(env!("CARGO_BIN_EXE_pgbr"), "other", &rig.cluster);
    other.set("global", "repo1-path", &rig.pgbr.repo_dir().display().to_string());
    other.set("global", "archive-timeout", "1");
    let target = rig.target();
    let into = restore_into(&target);
    let before = rig.snapshot();
    for command in [
        &["check"][..],
        &BACKUP,
        &["archive-push", "pg_wal/000000010000000000000001"],
        &["archive-get", "000000010000000000000001", "/tmp/never-written"],
    ] {
        let finished = other.fails(55, command);
        assert_one_error(&finished, 55, &["stanza 'other'", "stanza-create"]);
    }
    let words = ["no backup set found to restore: stanza 'other' does not exist", "stanza-create"];
    assert_one_error(&other.fails(75, &into), 75, &words);
    let nowhere = format!("--repo1-path={}", other.scratch().dir("nothing").display());
    let finished = other.fails(75, [&into[0], &into[1], &nowhere]);
    assert_one_error(&finished, 75, &["no backup set found to restore: ", "is the repository mounted?"]);
    assert!(other.ok(["info"]).contains("error (missing stanza path)"));
    assert_eq!(rig.snapshot(), before);
    assert_untouched(&target);
    rig.still_archives();
}

#[test]
fn a_config_file_with_other_bytes_in_it() {
    let rig = Rig::plain();
    let config = rig.pgbr.config_path();
    let text = fs::read(&config).expect("it is there");
    let write =
        |more: &[u8]| fs::write(&config, [b"# caf\xe9\n", &text[..], more].concat()).expect("it is ours");
    write(b"\n[other]\npg1-path=/na\xefve\n[\xe9]\npg1-path=/x\n");
    rig.pgbr.ok(["check"]);
    rig.still_archives();
    write(b"\n[demo:info]\nlog-level-console=\xe9\n");
    rig.still_archives();
    let line = text.iter().filter(|byte| **byte == b'\n').count() + 4;
    let words =
        format!("value is not valid UTF-8 at line {line} of configuration file '{}'", config.display());
    rig.refused(29, &[&words], ["info"]);
}

#[test]
fn another_cluster_is_not_let_into_a_stanza() {
    let rig = Rig::plain();
    rig.backup();
    let other = cluster();
    let segment = other.switch_wal();
    rig.pgbr.set_cluster(1, &other);
    // The first cluster keeps its own config file, or its archiver would be led astray too.
    rig.cluster.set_conf("archive_command", "false");
    rig.cluster.reload();
    let unlike =
        "backup and archive info files exist but do not match the database: stanza 'demo' is of cluster";
    let words = &[unlike, "stanza-upgrade"];
    for command in ["stanza-create", "check"] {
        rig.refused(28, words, [command]);
    }
    rig.refused(51, &["ERROR: [051]: stanza 'demo'"], BACKUP);
    let before = rig.snapshot();
    rig.refused(44, &[&segment, "not of this stanza"], ["archive-push", &format!("pg_wal/{segment}")]);
    assert_eq!(rig.snapshot(), before);
    rig.refused(28, words, ["stanza-create", "--no-online"]);
    rig.pgbr.set_cluster(1, &rig.cluster);
    rig.pgbr.archive_from(&rig.cluster);
    rig.still_archives();
    rig.backup();
}

#[test]
fn a_server_that_does_not_answer_or_does_not_archive() {
    let rig = Rig::plain();
    rig.pgbr.set("global", "archive-timeout", "1");
    rig.cluster.set_conf("archive_command", "cp %p /nowhere/%f");
    rig.cluster.reload();
    for command in [&["check"][..], &BACKUP] {
        rig.refused(68, &["cp %p /nowhere/%f", "archive-push"], command.iter().copied());
    }
    rig.pgbr.ok(["check", "--no-archive-check"]);
    // It names the program and does nothing: only looking into the archive can tell.
    rig.cluster.set_conf("archive_command", &format!("true {}", program_name()));
    rig.cluster.reload();
    for command in [&["check"][..], &BACKUP] {
        let words = ["WAL segment 0000000100000000", "archive_command"];
        let waited = rig.refused(82, &words, command.iter().copied()).elapsed;
        assert!(waited < Duration::from_secs(40), "a minute is the default: {waited:?}");
    }
    rig.assert_no_backup_mode();
    rig.cluster.set_conf("archive_mode", "off");
    rig.cluster.restart();
    for command in [&["check"][..], &BACKUP] {
        for mode_check in ["--archive-mode-check", "--no-archive-mode-check"] {
            let args = command.iter().copied().chain([mode_check]);
            rig.refused(87, &["archive_mode must be enabled"], args);
        }
    }
    rig.pgbr.ok(["check", "--no-archive-check"]);
    rig.cluster.set_conf("archive_mode", "always");
    rig.cluster.restart();
    for command in [&["check"][..], &BACKUP] {
        rig.refused(67, &["archive_mode=always not supported"], command.iter().copied());
    }
    // What is refused without that option is tried with it.
    rig.refused(82, &["WAL segment 0000000100000000"], ["check", "--no-archive-mode-check"]);
    assert_eq!(rig.labels(), [""; 0]);

    rig.cluster.stop(StopMode::Fast);
    for command in [&["check"][..], &BACKUP, &["stanza-create"]] {
        rig.refused(56, &["PostgreSQL running"], command.iter().copied());
    }
    // Its files tell enough.
    rig.pgbr.ok(["stanza-create", "--no-online"]);
    rig.cluster.set_conf("archive_mode", "on");
    rig.cluster.start();
    rig.pgbr.unset("global", "archive-timeout");
    rig.pgbr.archive_from(&rig.cluster);
    rig.still_archives();
    rig.backup();
}

#[test]
fn rights_that_are_missing() {
    let rig = Rig::plain();
    rig.cluster.sql("postgres", "create role weak login");
    rig.pgbr.set(STANZA, "pg1-user", "weak");
    rig.refused(57, &["'data_directory'", "pg_read_all_settings"], BACKUP);
    rig.cluster.sql("postgres", "grant pg_read_all_settings to weak");
    rig.refused(57, &["permission denied for function pg_create_restore_point"], BACKUP);
    rig.assert_no_backup_mode();
    rig.pgbr.set(STANZA, "pg1-user", rig.cluster.superuser());

    // A file of the cluster that the operator may not read.
    let secret = rig.cluster.data_dir().join("base/secret.txt");
    fs::write(&secret, "secret").unwrap();
    own(&secret);
    fs::set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
    rig.refused(41, &["base/secret.txt", "Permission denied"], BACKUP);
    rig.assert_no_backup_mode();
    fs::remove_file(&secret).unwrap();

    // A repository that the operator may not write to.
    let label = rig.backup();
    let (backups, archive) = (rig.stanza_dir().join("backup"), rig.stanza_dir().join("archive/15-1"));
    let wal = archive.join("0000000100000000");
    for dir in [&backups, &wal] {
        fs::set_permissions(dir, Permissions::from_mode(0o550)).unwrap();
    }
    rig.pgbr.set("global", "archive-timeout", "1");
    let before = rig.snapshot();
    let segment = rig.cluster.switch_wal();
    rig.refused(
        41,
        &[&segment, "Permission denied"],
        ["archive-push", "--no-archive-header-check", &format!("pg_wal/{segment}")],
    );
    fs::set_permissions(&wal, Permissions::from_mode(0o750)).unwrap();
    rig.wait_archived(&segment);
    rig.refused(41, &["backup/", "Permission denied"], BACKUP);
    fs::set_permissions(&backups, Permissions::from_mode(0o750)).unwrap();
    assert!(before.iter().all(|(path, object)| rig.snapshot().get(path) == Some(object)));
    assert_eq!(rig.labels(), [label]);
    rig.still_archives();
    rig.backup();

    // A config file that the operator may not read.
    fs::set_permissions(rig.pgbr.config_path(), Permissions::from_mode(0o000)).unwrap();
    rig.refused(41, &["pgbr.conf", "Permission denied"], BACKUP);
}

#[test]
fn a_full_disk() {
    let rig = Rig::plain();
    rig.cluster.pgbench_init(1);
    let label = rig.backup();
    rig.archived_segment();

    // EFBIG: a limit on the size of files, for whoever runs the tests.
    let words = rig.pgbr.command(BACKUP);
    let mut limited = Command::new("sh");
    as_operator(&mut limited).args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "sh"]);
    limited.args(words_of(&words));
    let before = rig.snapshot_without_wal();
    let finished = run(&mut limited, "", LIMIT);
    assert_eq!(finished.code, Some(64), "{finished:#?}");
    assert_one_error(&finished, 64, &["backup/", "File too large"]);
    assert_eq!(rig.snapshot_without_wal(), before, "what was stored is swept");
    rig.assert_no_backup_mode();
    rig.still_archives();

    // ENOSPC: a file system that is full. Only root can make one.
    if !rustix::process::geteuid().is_root() {
        assert_eq!(rig.labels(), [label]);
        return;
    }
    let disk = Disk::mount(&rig.pgbr.repo_dir());
    rig.pgbr.ok(["stanza-create"]);
    rig.still_archives();
    disk.fill(1 << 20);
    let before = rig.snapshot_without_wal();
    let finished = rig.pgbr.fails(64, BACKUP);
    assert_one_error(&finished, 64, &["backup/", "No space left on device", "free space"]);
    assert_eq!(rig.snapshot_without_wal(), before, "what was stored is swept");
    assert_eq!(rig.labels(), [""; 0]);
    rig.assert_no_backup_mode();
    disk.fill(0);
    // A segment of random bytes does not fit either: the server keeps it and comes again.
    rig.cluster.sql(
        "postgres",
        "create table noise as select string_agg(md5(random()::text), '') from generate_series(1, 40000)",
    );
    let segment = rig.cluster.switch_wal();
    let pushed = rig.pgbr.fails(64, ["archive-push", &format!("pg_wal/{segment}")]);
    assert_one_error(&pushed, 64, &[&segment, "No space left on device"]);
    assert!(!rig.wal_object(&segment).exists());
    disk.free();
    rig.wait_archived(&segment);
    assert!(rig.wal_object(&segment).exists());
    rig.still_archives();
    rig.backup();
}

/// A small file system of its own over a directory.
struct Disk {
    path: std::path::PathBuf,
}

impl Disk {
    fn mount(path: &Path) -> Self {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs"]).arg(path);
        let finished = run(&mut command, "", LIMIT);
        assert!(finished.success(), "root cannot mount a tmpfs here: {finished:#?}");
        own(path);
        Self { path: path.to_owned() }
    }

    /// Fills it up, but for so many bytes.
    fn fill(&self, free: u64) {
        let state = rustix::fs::statvfs(&self.path).expect("it is mounted");
        let path = self.path.join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("root may write there");
        let room = (state.f_bfree * state.f_frsize).saturating_sub(free);
        file.write_all(&vec![0; usize::try_from(room).expect("it is small")]).expect("it is there");
    }

    fn free(&self) {
        fs::remove_file(self.path.join("filler")).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: an archiver may be at it.
        drop(run(Command::new("umount").arg("-l").arg(&self.path), "", LIMIT));
    }
}

#[test]
fn a_page_with_a_wrong_checksum_is_named_and_the_backup_completes() {
    let rig = Rig::plain();
    rig.cluster.sql("postgres", "create table t as select generate_series(1, 5000) x; checkpoint");
    let path = rig.cluster.sql("postgres", "select pg_relation_filepath('t')");
    rig.cluster.stop(StopMode::Fast);
    let file = rig.cluster.data_dir().join(&path);
    flip(&file, 8192 + 4000);
    rig.cluster.start();
    let finished = rig.pgbr.run(BACKUP);
    assert!(finished.success(), "{finished:#?}");
    let text = said(&finished);
    assert!(
        text.contains(&format!("WARN: invalid page checksums in 'pg_data/{path}' at page 1\n")),
        "{text}"
    );
    let json = rig.info();
    assert_eq!(json.pointer("/0/backup/0/error"), Some(&true.into()), "{json}");
    assert!(rig.pgbr.ok(["info"]).contains("error(s) detected during backup"));

    // The page comes back as it was, and the operator is told.
    let target = rig.target();
    let finished = rig.pgbr.run(restore_into(&target));
    assert!(
        finished.success() && said(&finished).contains("1 page(s) had a wrong checksum"),
        "{finished:#?}"
    );
    assert_eq!(fs::read(target.data_dir().join(&path)).unwrap(), fs::read(&file).unwrap());

    // A backup of a sound cluster is not marked.
    flip(&file, 8192 + 4000);
    rig.backup();
    assert_eq!(rig.info().pointer("/0/backup/1/error"), Some(&false.into()));
}

fn flip(path: &Path, offset: u64) {
    let mut file =
        OpenOptions::new().read(true).write(true).open(path).expect("the file of a stopped server");
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).expect("the file of a stopped server");
    file.read_exact(&mut byte).expect("the file of a stopped server");
    file.seek(SeekFrom::Start(offset)).expect("the file of a stopped server");
    file.write_all(&[byte[0] ^ 0x55]).expect("the file of a stopped server");
}

#[test]
fn wal_that_does_not_belong_into_the_archive() {
    let rig = Rig::sealed();
    let segment = rig.archived_segment();
    let object = rig.wal_object(&segment);
    let stored = fs::read(&object).unwrap();
    let dir = rig.cluster.scratch().dir("wal");
    let content = fs::read(rig.cluster.data_dir().join("pg_wal").join(&segment)).unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        own(&path);
        path.display().to_string()
    };

    // The same content again is a success and changes nothing.
    let same = rig.pgbr.run(["archive-push", &put(&segment, &content)]);
    assert!(same.success() && said(&same).contains("already exists"), "{same:#?}");
    assert_eq!(fs::read(&object).unwrap(), stored);

    // Other content under the same name is not, and the first copy stays.
    let mut changed = content.clone();
    changed[100_000] ^= 1;
    rig.refused(45, &[&segment], ["archive-push", &put(&segment, &changed)]);
    assert_eq!(fs::read(&object).unwrap(), stored);

    // A header of another cluster, of another place in the log, of no WAL, and too short a file.
    let next = format!("{}F", &segment[..23]);
    let before = rig.snapshot();
    let mut foreign = content.clone();
    foreign[24] ^= 1;
    rig.refused(44, &[&next, "not of this stanza"], ["archive-push", &put(&next, &foreign)]);
    rig.refused(44, &[&next], ["archive-push", &put(&next, &content)]);
    rig.refused(44, &[&next], ["archive-push", &put(&next, &vec![0; content.len()])]);
    rig.refused(44, &[&segment], ["archive-push", &put(&segment, &content[..content.len() / 2])]);
    rig.refused(44, &[&next], ["archive-push", &put(&next, b"")]);
    rig.refused(55, &[&next], ["archive-push", &format!("/nowhere/{next}")]);
    rig.refused(96, &["not-a-segment"], ["archive-push", &put("not-a-segment", &content)]);
    assert_eq!(rig.snapshot(), before);
    rig.still_archives();
}

#[test]
fn targets_that_no_backup_can_reach() {
    let rig = Rig::plain();
    let early = rig.cluster.sql("postgres", "select now()");
    let early_lsn = rig.cluster.sql("postgres", "select pg_current_wal_lsn()");
    std::thread::sleep(Duration::from_millis(5));
    let target = rig.target();
    let into = restore_into(&target);
    let refused = |code: i32, words: &[&str], args: &[&str]| {
        let args = [&into[0], &into[1]].into_iter().map(String::as_str).chain(args.iter().copied());
        rig.refused(code, words, args);
        assert_untouched(&target);
    };
    refused(75, &["no backup set"], &[]);
    let label = rig.backup();
    let time = format!("--target={early}");
    refused(75, &["no backup set", &label, "target time"], &["--type=time", &time]);
    refused(75, &[&label, "target time"], &["--type=time", &time, &format!("--set={label}")]);
    let lsn = format!("--target={early_lsn}");
    refused(75, &["no backup set", &label, "consistent"], &["--type=lsn", &lsn]);
    refused(75, &["20200101-000000F"], &["--set=20200101-000000F"]);
    refused(32, &["latest-and-greatest"], &["--set=latest-and-greatest"]);
    refused(32, &["timeline", "7"], &["--target-timeline=7"]);
    refused(32, &["timeline", "soon"], &["--target-timeline=soon"]);
    rig.still_archives();
}

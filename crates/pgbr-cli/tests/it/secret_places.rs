//! Secrets that stand in files or come from commands instead of the config file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgbr_cli::options::Command;

use crate::rig::{PASS, Rig, said};
use crate::{all, fails, run, with_config};

const SEALED: &str = "[global]\nrepo1-cipher-type=aes-256-gcm\n";

#[test]
fn a_place_counts_as_the_secret_itself() {
    for place in ["file=/s", "command=cat /s"] {
        let settings = with_config("info", &format!("{SEALED}repo1-cipher-pass-{place}\n")).unwrap();
        let (ending, value) = place.split_once('=').unwrap();
        assert_eq!(settings.indexed("repo", 1, "cipher-pass").display(), value);
        // It is shown by its name: neither path nor command is a secret.
        let begin = settings.begin_message();
        let shown = if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() };
        assert!(begin.contains(&format!(" --repo1-cipher-pass-{ending}={shown}")), "{begin}");
    }
    // The highest source wins, whatever the place.
    let config = format!("{SEALED}repo1-cipher-pass=x\n");
    let settings = with_config("info --repo1-cipher-pass-file=/cli", &config).unwrap();
    assert_eq!(settings.indexed("repo", 1, "cipher-pass").display(), "/cli");
    let settings = all("info", &[("PGBR_REPO1_CIPHER_PASS_FILE", "/env")], &config).unwrap();
    assert_eq!(settings.indexed("repo", 1, "cipher-pass").display(), "/env");
    // It is handed on to the command that a restored server runs; the secret never is.
    let settings =
        with_config("restore --stanza=d --pg1-path=/p --repo1-cipher-pass-file=/cli", SEALED).unwrap();
    let forwarded = settings.forwarded(Command::ArchiveGet);
    assert!(forwarded.contains(&"--repo1-cipher-pass-file=/cli".to_owned()), "{forwarded:?}");
    let env = [("PGBR_REPO1_CIPHER_PASS", "x")];
    let settings = all("restore --stanza=d --pg1-path=/p", &env, SEALED).unwrap();
    assert!(!settings.forwarded(Command::ArchiveGet).iter().any(|word| word.contains("cipher-pass")));
}

#[test]
fn a_secret_has_one_place() {
    let both = format!("{SEALED}repo1-cipher-pass=x\nrepo1-cipher-pass-file=/s\n");
    let text = "configuration file contains duplicate options ('repo1-cipher-pass-file', 'repo1-cipher-pass') in section '[global]'";
    assert_eq!(fails(with_config("info", &both)), (31, text.to_owned()));
    let env = [("PGBR_REPO1_CIPHER_PASS", "x"), ("PGBR_REPO1_CIPHER_PASS_COMMAND", "y")];
    let text = "environment contains duplicate options ('repo1-cipher-pass-command', 'repo1-cipher-pass')";
    assert_eq!(fails(all("info", &env, SEALED)), (31, text.to_owned()));
    for (args, code, text) in [
        (
            "info --repo1-cipher-type=aes-256-gcm --repo1-cipher-pass-file=s",
            32,
            "'s' must begin with / for 'repo1-cipher-pass-file' option",
        ),
        ("info --repo-cipher-pass-file=/s", 31, "option 'repo-cipher-pass-file' requires an index"),
        ("info --repo1-path-file=/s", 31, "invalid option '--repo1-path-file'"),
        ("info --no-repo1-s3-key-file", 31, "invalid option '--no-repo1-s3-key-file'"),
        (
            "info --repo1-s3-key-file=/s",
            31,
            "option 'repo1-s3-key-file' not valid without option 'repo1-s3-key-type'",
        ),
    ] {
        let (found, message) = fails(run(args));
        assert!(found == code && message.starts_with(text), "{args}: {found} {message}");
    }
    let (code, text) = fails(with_config("info --repo1-cipher-pass=x", SEALED));
    assert!(
        code == 31 && text.ends_with("HINT: or say where it is: --repo1-cipher-pass-file=PATH."),
        "{text}"
    );
}

/// A rig whose passphrase is not in the config file.
fn moved() -> Rig {
    let rig = Rig::sealed();
    rig.pgbr.unset("global", "repo1-cipher-pass");
    rig
}

/// A file of the operator's.
fn write(rig: &Rig, content: &str, mode: u32) -> PathBuf {
    let path = rig.pgbr.scratch().file("pass", content);
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the file is there");
    path
}

#[test]
fn a_passphrase_in_a_file() {
    let rig = moved();
    let file = write(&rig, &format!("{PASS}\n"), 0o640);
    let option = format!("--repo1-cipher-pass-file={}", file.display());
    rig.pgbr.set("global", "repo1-cipher-pass-file", &file.display().to_string());
    // The server's own commands find it as well.
    rig.pgbr.ok(["check"]);
    rig.backup();
    let finished = rig.pgbr.run(["info", "--log-level-console=trace"]);
    assert!(finished.success() && !said(&finished).contains(PASS) && !said(&finished).contains("WARN"));
    rig.pgbr.unset("global", "repo1-cipher-pass-file");

    write(&rig, PASS, 0o644);
    let finished = rig.pgbr.run(["info", &option]);
    let warning = "of option 'repo1-cipher-pass-file' holds a secret and can be read by every user";
    assert!(finished.success() && said(&finished).contains(warning), "{finished:#?}");

    for (content, code, why) in [
        ("", 28, "it is empty"),
        ("a\nb\n", 28, "it has more than one line"),
        (&"x".repeat(65537), 28, "it is too large for a secret"),
        ("something else", 95, "the passphrase opens none of the repository's key slots"),
    ] {
        write(&rig, content, 0o600);
        let finished = rig.pgbr.fails(code, ["check", &option]);
        assert!(said(&finished).contains(why), "{finished:#?}");
    }
    let dir = rig.pgbr.scratch().path();
    let missing = format!("--repo1-cipher-pass-file={}", dir.join("none").display());
    let finished = rig.pgbr.fails(55, ["check", &missing]);
    assert!(
        said(&finished).contains("of option 'repo1-cipher-pass-file': [2] No such file"),
        "{finished:#?}"
    );
    let finished = rig.pgbr.fails(28, ["check", "--repo1-cipher-pass-file=/dev/null"]);
    assert!(said(&finished).contains("it is not a regular file"), "{finished:#?}");
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let pipe = format!("--repo1-cipher-pass-file={}", dir.join("pipe").display());
    rig.pgbr.fails(28, ["check", &pipe]);
}

#[test]
fn a_secret_that_cannot_be_had_keeps_nobody_from_the_other_repositories() {
    let rig = Rig::sealed();
    let file = write(&rig, "another one", 0o600);
    let second = rig.pgbr.scratch().dir("second").display().to_string();
    for (option, value) in [("type", "posix"), ("path", &second), ("cipher-type", "aes-256-gcm")] {
        rig.pgbr.set("global", &format!("repo2-{option}"), value);
    }
    rig.pgbr.set("global", "repo2-cipher-pass-file", &file.display().to_string());
    rig.pgbr.ok(["stanza-create"]);
    let segment = rig.archived_segment();
    fs::remove_file(&file).expect("the file is there");
    let finished = rig.pgbr.fails(103, ["check"]);
    assert!(
        said(&finished).contains("of option 'repo2-cipher-pass-file': [2] No such file"),
        "{finished:#?}"
    );
    rig.pgbr.ok(["info", "--repo=1"]);
    let got = rig.pgbr.scratch().path().join("got").display().to_string();
    rig.pgbr.ok(["archive-get", &segment, &got]);
    let info = rig.info();
    let codes: Vec<_> = (0..2).map(|n| info[0]["repo"][n]["status"]["code"].as_i64()).collect();
    assert_eq!(codes, [Some(2), Some(99)]);
    let finished = rig.pgbr.run(["backup", "--repo=1,2", "--no-archive-check"]);
    assert!(
        !finished.success() && said(&finished).contains("backup command failed on repo2"),
        "{finished:#?}"
    );
    let info = rig.info();
    assert_eq!(info[0]["backup"].as_array().map(Vec::len), Some(1));
    // Where it is the only one, the code is that of the reason.
    rig.pgbr.fails(55, ["info", "--repo=2"]);
}

#[test]
fn a_passphrase_that_a_command_prints() {
    let rig = moved();
    let file = write(&rig, PASS, 0o600);
    let cat = format!("cat '{}'", file.display());
    rig.pgbr.set("global", "repo1-cipher-pass-command", &cat);
    rig.pgbr.ok(["check"]);
    rig.pgbr.unset("global", "repo1-cipher-pass-command");

    // What it says is told, but not the secret.
    let chatty = format!("sh -c 'echo hello >&2; cat {0} >&2; cat {0}'", file.display());
    let option = format!("--repo1-cipher-pass-command={chatty}");
    let finished = rig.pgbr.run(["info", "--log-level-console=detail", &option]);
    let text = said(&finished);
    for line in ["hello", "<redacted>"] {
        let line = format!("DETAIL: command of option 'repo1-cipher-pass-command': {line}");
        assert!(finished.success() && text.contains(&line), "{text}");
    }
    assert!(!text.contains(PASS), "{text}");

    for (command, code, words) in [
        ("/no/such/program", 102, "cannot be run: '/no/such/program': [2] No such file"),
        ("false", 102, "failed: exit status: 1"),
        ("true", 102, "printed no secret: it is empty"),
        ("yes", 102, "printed more than 65536 bytes"),
        ("sleep 60", 102, "took longer than 1 seconds"),
        // It has ended, and what it has started holds its output open.
        ("sh -c 'sleep 60 & echo x'", 102, "took longer than 1 seconds"),
        ("cat 'x", 32, "a quote is not closed"),
    ] {
        let option = format!("--repo1-cipher-pass-command={command}");
        let finished = rig.pgbr.fails(code, ["check", "--io-timeout=1", &option]);
        assert!(said(&finished).contains(words), "{command}: {finished:#?}");
    }
}

//! Syntax of the command line, with every error text.

use pgbr_cli::options::{Command, Role};

use crate::{BACKUP, fails, run};

#[test]
fn the_command_may_stand_anywhere() {
    for args in [
        "backup --stanza=demo --pg1-path=/pg",
        "--stanza=demo backup --pg1-path /pg",
        "--stanza demo --pg1-path=/pg backup",
    ] {
        let settings = run(args).unwrap();
        assert_eq!((settings.command(), settings.stanza()), (Command::Backup, Some("demo")), "{args}");
        assert_eq!(settings.indexed("pg", 1, "path").as_str(), Some("/pg"));
    }
}

#[test]
fn later_words_are_parameters() {
    let settings = run("--stanza=d archive-get 000000010000000000000001 --pg1-path=/pg /to").unwrap();
    assert_eq!(settings.params(), ["000000010000000000000001", "/to"]);
    assert_eq!(fails(run("info demo")), (96, "command does not allow parameters".into()));
}

#[test]
fn values_follow_the_option_or_an_equals_sign() {
    assert_eq!(run("info --set=a=b --stanza=d").unwrap().get_str("set"), Some("a=b"));
    assert_eq!(run("repo-ls --sort desc").unwrap().get_str("sort"), Some("desc"));
    // The next word is the value, whatever it looks like.
    assert_eq!(
        run("restore --stanza=d --pg1-path=/p --target-timeline --x").unwrap().get_str("target-timeline"),
        Some("--x")
    );
    for (args, message) in [
        ("info --set", "option '--set' requires an argument"),
        ("info -s", "option '-s' must begin with --"),
        ("info -repo1-cipher-pass=x", "option '-repo1-cipher-pass' must begin with --"),
        ("info --no-set=x", "option 'no-set' cannot be negated"),
        ("backup --no-online=n", "option 'no-online' does not allow an argument"),
        ("backup --reset-delta=y", "option 'reset-delta' does not allow an argument"),
        ("info --bogus=secret", "invalid option '--bogus'"),
        ("info --", "invalid option '--'"),
    ] {
        let (code, text) = fails(run(args));
        assert_eq!(code, 31, "{args}");
        assert!(text.starts_with(message), "{args}: {text}");
        assert!(!text.contains("secret"));
    }
}

#[test]
fn booleans() {
    let delta = |args: &str| run(&format!("{BACKUP} {args}")).map(|settings| settings.get_bool("delta"));
    assert!(!delta("").unwrap());
    assert!(delta("--delta").unwrap());
    assert!(delta("--delta=y").unwrap());
    assert!(!delta("--delta=n").unwrap());
    assert!(!delta("--no-delta").unwrap());
    assert_eq!(
        fails(run("backup --delta=yes")),
        (32, "boolean option '--delta' argument must be 'y' or 'n'".into())
    );
    // Options for the command line only cannot be negated or reset, but for a few.
    assert_eq!(fails(run("expire --no-dry-run")), (31, "option 'no-dry-run' cannot be negated".into()));
    assert_eq!(fails(run("expire --reset-dry-run")), (31, "option 'reset-dry-run' cannot be reset".into()));
    assert!(!run(&format!("{BACKUP} --no-online")).unwrap().get_bool("online"));
    assert!(run("info --no-config").is_ok());
}

#[test]
fn a_choice_that_was_a_boolean() {
    for (args, value) in [
        ("--backup-standby", "y"),
        ("--backup-standby=y", "y"),
        ("--backup-standby=prefer", "prefer"),
        ("--no-backup-standby", "n"),
        ("--backup-standby=n", "n"),
    ] {
        let settings = run(&format!("{BACKUP} {args}")).unwrap();
        assert_eq!(settings.get_str("backup-standby"), Some(value), "{args}");
    }
}

#[test]
fn unique_prefixes() {
    let settings =
        run("backup --stan=demo --pg1-pa=/pg --no-onl --process-m 4 --repo1-pat=/r --repo2-path=/s").unwrap();
    assert_eq!(settings.stanza(), Some("demo"));
    assert!(!settings.get_bool("online"));
    assert_eq!(settings.get_int("process-max"), Some(4));
}

#[test]
fn ambiguous_prefixes_are_refused_with_the_candidates() {
    let (code, text) = fails(run("backup --process"));
    assert_eq!((code, text.as_str()), (31, "option '--process' requires an argument"));
    let (code, text) = fails(run("backup --link"));
    assert_eq!(
        (code, text.as_str()),
        (31, "invalid option '--link'\nHINT: it could mean link-all, link-map.")
    );
    // pgBackRest takes this for the former name of archive-push-queue-max, with which WAL is dropped.
    assert_eq!(fails(run("archive-push --stanza=d --arch=1 x")), (31, "invalid option '--arch'".into()));
    let (code, text) = fails(run("backup --repo1-retention-f=1"));
    assert_eq!(code, 31);
    assert!(text.starts_with("invalid option '--repo1-retention-f'\n"), "{text}");
}

#[test]
fn an_exact_name_beats_longer_ones() {
    assert_eq!(
        run("restore --stanza=d --pg1-path=/p --type=time --target=x").unwrap().get_str("target"),
        Some("x")
    );
    assert_eq!(run("info --repo=1").unwrap().get_int("repo"), Some(1));
}

#[test]
fn indexes() {
    let settings = run(&format!(
        "{BACKUP} --repo1-path=/r1 --repo256-path=/far --repo2-path=/r2 --repo256-retention-full=1 --repo2-retention-full=1"
    ));
    let settings = settings.unwrap();
    assert_eq!(settings.keys("repo"), [1, 2, 256]);
    assert_eq!(settings.indexed("repo", 256, "path").as_str(), Some("/far"));
    for (args, message) in [
        ("backup --repo0-path=/x", "option 'repo0-path' key must be between 1 and 256"),
        ("backup --repo257-path=/x", "option 'repo257-path' key must be between 1 and 256"),
        (
            "backup --repo99999999999999999999-path=/x",
            "option 'repo99999999999999999999-path' key must be between 1 and 256",
        ),
        ("backup --1-path=/x", "option '1-path' cannot begin with a number"),
        ("backup ---path=/x", "option '-path' cannot begin with a dash"),
        ("backup --buffer1-size=1MiB", "option 'buffer1-size' cannot have an index"),
        (
            "backup --repo-host=x",
            "option 'repo-host' requires an index\nHINT: add the required index, e.g. repo1-host.",
        ),
        ("backup --repo1-bogus=x", "invalid option '--repo1-bogus'"),
    ] {
        assert_eq!(fails(run(args)), (31, message.into()), "{args}");
    }
    let long = "x".repeat(65);
    assert_eq!(
        fails(run(&format!("backup --{long}"))),
        (31, format!("option '{long}' exceeds maximum size of 64"))
    );
}

#[test]
fn former_names() {
    let settings =
        run("backup --stanza=d --db-path=/a --db2-path=/b --repo-path=/r --retention-full=3").unwrap();
    assert_eq!(settings.indexed("pg", 1, "path").as_str(), Some("/a"));
    assert_eq!(settings.indexed("pg", 2, "path").as_str(), Some("/b"));
    assert_eq!(settings.indexed("repo", 1, "path").as_str(), Some("/r"));
    assert_eq!(settings.indexed("repo", 1, "retention-full").as_int(), Some(3));
    // By prefix as well, and with the other name the option is set already.
    assert_eq!(run("backup --stanza=d --db-pa=/a").unwrap().indexed("pg", 1, "path").as_str(), Some("/a"));
    assert_eq!(
        fails(run("backup --db-path=/a --pg1-path=/b")),
        (31, "option 'pg1-path' cannot be set multiple times".into())
    );
    assert_eq!(fails(run("backup --hardlink1=y")), (31, "invalid option '--hardlink1'".into()));
    assert_eq!(
        fails(run("backup --retention1-full=1")),
        (31, "deprecated option 'retention1-full' cannot have an index".into())
    );
    assert_eq!(
        fails(run("backup --repo-azure-host=x")),
        (
            31,
            "deprecated option 'repo-azure-host' requires an index\n\
             HINT: add the required index, e.g. repo1-azure-host.\n\
             HINT: consider using the non-deprecated name, e.g. repo1-storage-host."
                .into()
        )
    );
}

#[test]
fn twice_is_refused_in_every_combination() {
    for (args, problem) in [
        ("--delta --delta", "option 'delta' cannot be set multiple times"),
        ("--type=full --type=full", "option 'type' cannot be set multiple times"),
        ("--repo2-path=/a --repo2-path=/a", "option 'repo2-path' cannot be set multiple times"),
        ("--no-delta --no-delta", "option 'delta' is negated multiple times"),
        ("--reset-delta --reset-delta", "option 'delta' is reset multiple times"),
        ("--no-delta --reset-delta", "option 'delta' cannot be negated and reset"),
        ("--reset-delta --no-delta", "option 'delta' cannot be negated and reset"),
        ("--delta --no-delta", "option 'delta' cannot be set and negated"),
        ("--no-delta --delta", "option 'delta' cannot be set and negated"),
        ("--delta --reset-delta", "option 'delta' cannot be set and reset"),
        ("--reset-delta --delta", "option 'delta' cannot be set and reset"),
    ] {
        assert_eq!(fails(run(&format!("{BACKUP} {args}"))), (31, problem.into()), "{args}");
    }
}

#[test]
fn secrets_are_refused() {
    let (code, text) = fails(run("info --repo3-cipher-pass=hidden"));
    assert_eq!(code, 31);
    assert_eq!(
        text,
        "option 'repo3-cipher-pass' is not allowed on the command-line\n\
         HINT: this option could expose secrets in the process list.\n\
         HINT: specify the option in a configuration file or an environment variable instead.\n\
         HINT: or say where it is: --repo3-cipher-pass-file=PATH."
    );
}

#[test]
fn commands_and_roles() {
    assert_eq!(fails(run("bogus")), (48, "invalid command 'bogus'".into()));
    assert_eq!(fails(run("BACKUP")), (48, "invalid command 'BACKUP'".into()));
    assert_eq!(fails(run("backup:bogus")), (48, "invalid command role 'bogus'".into()));
    assert_eq!(fails(run("backup:async")), (48, "invalid command/role combination 'backup:async'".into()));
    assert_eq!(fails(run("backup:remote")).0, 67);
    assert_eq!(fails(run("--stanza=x")), (30, "no command found".into()));
    assert_eq!(fails(run("backup --sort=asc")), (31, "option 'sort' not valid for command 'backup'".into()));
    assert_eq!(fails(run("help --sort=asc")), (31, "option 'sort' not valid for command 'help'".into()));
    assert_eq!(
        fails(run("help archive-push:async")),
        (48, "help is not available for the 'async' role".into())
    );
    let settings = run("archive-push:async --stanza=d").unwrap();
    assert_eq!((settings.command(), settings.role()), (Command::ArchivePush, Role::Async));
    assert_eq!(run("create-instance --stanza=d --pg1-path=/p").unwrap().command(), Command::StanzaCreate);
}

#[test]
fn help_and_version_without_a_command() {
    for args in ["", "help", "--help", "--version"] {
        let settings = run(args).unwrap();
        assert_eq!((settings.command(), settings.is_help()), (Command::Help, false), "{args}");
    }
    for args in ["help backup", "backup --help", "help backup delta"] {
        let settings = run(args).unwrap();
        assert_eq!((settings.command(), settings.is_help()), (Command::Backup, true), "{args}");
    }
}

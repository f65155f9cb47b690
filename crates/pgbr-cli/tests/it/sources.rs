//! Where values come from, and which source wins.

use pgbr_cli::flavor::Flavor;
use pgbr_cli::parse;
use pgbr_cli::settings::Source;

use crate::{BACKUP, all, fails, with_config};

#[test]
fn command_line_beats_environment_beats_file_beats_default() {
    let config = "[global]\nprocess-max=2\n";
    let env = [("PGBR_PROCESS_MAX", "3")];
    for (args, env, config, value, source) in [
        ("--process-max=4", &env[..], config, 4, Source::CommandLine),
        ("", &env[..], config, 3, Source::Environment),
        ("", &[], config, 2, Source::Config),
        ("", &[], "", 1, Source::Default),
        ("--reset-process-max", &env[..], config, 1, Source::Default),
    ] {
        let settings = all(&format!("{BACKUP} {args}"), env, config).unwrap();
        assert_eq!(
            (settings.get_int("process-max"), settings.source("process-max")),
            (Some(value), source),
            "{args}"
        );
    }
    assert!(Source::Default < Source::Config && Source::Environment < Source::CommandLine);
}

#[test]
fn sections_of_the_file_in_their_order() {
    let config = "[global]\nprocess-max=1\n[global:backup]\nprocess-max=2\n[demo]\nprocess-max=3\n\
                  [demo:backup]\nprocess-max=4\n[other:backup]\nprocess-max=9\n[demo:restore]\nprocess-max=8\n";
    let value = |config: &str| with_config(BACKUP, config).unwrap().get_int("process-max");
    assert_eq!(value(config), Some(4));
    assert_eq!(value(&config.replace("[demo:backup]", "[x]")), Some(3));
    assert_eq!(value(&config.replace("[demo:backup]", "[x]").replace("[demo]", "[y]")), Some(2));
    assert_eq!(
        value(
            &config
                .replace("[demo:backup]", "[x]")
                .replace("[demo]", "[y]")
                .replace("[global:backup]", "[z]")
        ),
        Some(1)
    );
    // Without a stanza only the global sections count.
    assert_eq!(
        with_config("info", "[global]\nlog-path=/g\n[demo]\nlog-path=/d\n").unwrap().get_str("log-path"),
        Some("/g")
    );
    // The stanza may come from the environment.
    let settings = all("info", &[("PGBR_STANZA", "demo")], "[demo]\nlog-path=/d\n").unwrap();
    assert_eq!(settings.get_str("log-path"), Some("/d"));
}

#[test]
fn what_cannot_stand_in_a_file_is_warned_about_and_skipped() {
    let config = "[global]\nrepo1-retention-full=1\npg1-path=/no\nbogus=1\nno-delta=y\nreset-delta=y\ntype=full\n\
                  [global:backup]\nsort=asc\nlink-all=y\n[demo]\nlink-all=y\ndelta=y\n";
    let settings = with_config(BACKUP, config).unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "configuration file contains command-line only option 'sort'",
            "configuration file contains option 'link-all' invalid for section 'global:backup'",
            "configuration file contains stanza-only option 'pg1-path' in global section 'global'",
            "configuration file contains invalid option 'bogus'",
            "configuration file contains negate option 'no-delta'",
            "configuration file contains reset option 'reset-delta'",
            "configuration file contains command-line only option 'type'",
        ]
    );
    assert!(settings.get_bool("delta"));
    assert_eq!(settings.get_str("type"), Some("incr"));
}

#[test]
fn errors_of_the_file() {
    for (config, code, text) in [
        ("[global]\nprocess-max=\n", 32, "section 'global', key 'process-max' must have a value"),
        ("[demo]\ndelta=yes\n", 32, "boolean option 'delta' must be 'y' or 'n'"),
        ("[global]\nprocess-max=1\nprocess-max=2\n", 31, "option 'process-max' cannot be set multiple times"),
        ("[demo]\npg1-path=/a\npg1-path=/b\n", 31, "option 'pg1-path' cannot be set multiple times"),
        (
            "[demo]\ndb-path=/a\npg1-path=/b\n",
            31,
            "configuration file contains duplicate options ('pg1-path', 'db-path') in section '[demo]'",
        ),
        (
            "[demo]\npg-path=/a\n",
            31,
            "option 'pg-path' requires an index\nHINT: add the required index, e.g. pg1-path.",
        ),
        ("[demo]\npg1-path=/p\nprocess-max=many\n", 32, "'many' is not valid for 'process-max' option"),
        ("process-max=1\n", 29, "key/value found outside of section at line 1"),
    ] {
        assert_eq!(fails(with_config("backup --stanza=demo", config)), (code, text.into()), "{config}");
    }
}

#[test]
fn no_prefixes_outside_of_the_command_line() {
    let settings =
        all(BACKUP, &[("PGBR_PROC", "1")], "[global]\nproces=2\nrepo1-retention-full=1\n").unwrap();
    assert_eq!(
        settings.warnings(),
        ["environment contains invalid option 'proc'", "configuration file contains invalid option 'proces'"]
    );
}

#[test]
fn environment() {
    let env = [
        ("PGBR_STANZA", "demo"),
        ("PGBR_PG1_PATH", "/pg"),
        ("PGBR_DELTA", "n"),
        ("PGBR_START_FAST", "y"),
        ("PGBR_EXCLUDE", "a:b/c"),
        ("PGBR_ANNOTATION", "k=v:k2=v2"),
        ("PGBR_REPO2_PATH", "/r2"),
        ("PGBR_RETENTION_FULL", "1"),
        ("PGBR_REPO2_RETENTION_FULL", "1"),
        ("PGBACKREST_PROCESS_MAX", "9"),
        ("PGBR_LINK_ALL", "not for backup"),
        ("PATH", "/bin"),
    ];
    let settings = all("backup", &env, "").unwrap();
    assert!(settings.get_bool("start-fast") && !settings.get_bool("delta"));
    assert_eq!(settings.get_list("exclude"), ["a", "b/c"]);
    assert_eq!(settings.get_hash("annotation"), [("k".into(), "v".into()), ("k2".into(), "v2".into())]);
    assert_eq!((settings.get_int("process-max"), settings.keys("repo")), (Some(1), &[1, 2][..]));
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());

    let settings =
        all("info", &[("PGBR_NO_DELTA", "y"), ("PGBR_RESET_DELTA", "y"), ("PGBR_X", "")], "").unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "environment contains invalid negate option 'no-delta'",
            "environment contains invalid reset option 'reset-delta'",
            "environment contains invalid option 'x'",
        ]
    );
    for (name, value, code, text) in [
        ("PGBR_PROCESS_MAX", "", 32, "environment variable 'process-max' must have a value"),
        ("PGBR_DELTA", "true", 32, "environment boolean option 'delta' must be 'y' or 'n'"),
        (
            "PGBR_REPO_HOST",
            "h",
            31,
            "option 'repo-host' requires an index\nHINT: add the required index, e.g. repo1-host.",
        ),
    ] {
        assert_eq!(fails(all(BACKUP, &[(name, value)], "")), (code, text.into()));
    }
}

#[test]
fn help_and_version_look_at_neither() {
    for args in ["help", "version"] {
        let settings =
            all(args, &[("PGBR_OUTPUT", "nonsense"), ("PGBR_BOGUS", "")], "[global]\nbogus=1\n").unwrap();
        assert!(settings.warnings().is_empty());
    }
}

#[test]
fn the_other_name_of_the_program() {
    let args = ["/usr/bin/pgbackrest", "info"];
    let env = [("PGBACKREST_PROTOCOL_TIMEOUT", "99m"), ("PGBR_PROTOCOL_TIMEOUT", "77m")];
    let settings = parse::settings_of(&args, &env, "", Flavor::Pgbackrest).unwrap();
    assert_eq!(settings.entry("protocol-timeout").display(), "99m");
    for (name, theirs, ours) in [
        ("lock-path", "/tmp/pgbackrest", "/tmp/pgbr"),
        ("log-path", "/var/log/pgbackrest", "/var/log/pgbr"),
        ("config", "/etc/pgbackrest/pgbackrest.conf", "/etc/pgbr/pgbr.conf"),
    ] {
        assert_eq!(settings.get_str(name), Some(theirs));
        let ours_now = parse::settings_of(&["pgbr", "info"], &[], "", Flavor::Pgbr).unwrap();
        assert_eq!(ours_now.get_str(name), Some(ours));
    }
    assert_eq!(settings.indexed("repo", 1, "path").as_str(), Some("/var/lib/pgbackrest"));
    let restore = parse::settings_of(
        &["/usr/bin/pgbackrest", "restore", "--stanza=d", "--pg1-path=/p"],
        &[],
        "",
        Flavor::Pgbackrest,
    );
    let restore = restore.unwrap();
    assert_eq!(
        (restore.get_str("spool-path"), restore.get_str("cmd")),
        (Some("/var/spool/pgbackrest"), Some("/usr/bin/pgbackrest"))
    );
}

//! Types, ranges, dependencies, what is required, what is not supported.

use std::time::Duration;

use crate::{BACKUP, all, fails, flavor, run, with_config};

const MIB: u64 = 1024 * 1024;

#[test]
fn typed_lookups() {
    let settings = run(&format!(
        "{BACKUP} --delta --archive-timeout=2m --buffer-size=4mb --compress-level=-5 --repo1-pack-size=1MiB \
         --exclude=a --exclude=b --annotation=k=v=w --log-path=/l/ --lock-path=/"
    ))
    .unwrap();
    assert!(settings.get_bool("delta"));
    assert_eq!(settings.get_time("archive-timeout"), Some(Duration::from_secs(120)));
    assert_eq!(settings.get_time("db-timeout"), Some(Duration::from_secs(1800)));
    assert_eq!(settings.get_size("buffer-size"), Some(4 * MIB));
    assert_eq!(settings.get_int("compress-level"), Some(-5));
    assert_eq!(settings.indexed("repo", 1, "pack-size").as_size(), Some(MIB));
    assert_eq!(settings.get_list("exclude"), ["a", "b"]);
    assert_eq!(settings.get_hash("annotation"), [("k".into(), "v=w".into())]);
    assert_eq!(settings.get_path("log-path"), Some(std::path::Path::new("/l")));
    assert_eq!(settings.get_str("lock-path"), Some("/"));
    assert_eq!(settings.entry("checksum-page").as_bool(), None);
    assert_eq!(settings.entry("link-all").as_bool(), None, "not an option of backup");
}

#[test]
fn bad_values() {
    for (args, text) in [
        ("--process-max=x", "'x' is not valid for 'process-max' option"),
        ("--process-max=1.5", "'1.5' is not valid for 'process-max' option"),
        (
            "--process-max=0",
            "'0' is out of range for 'process-max' option\nHINT: allowed range is 1 to 999 inclusive",
        ),
        ("--manifest-save-threshold=1x", "'1x' is not valid for 'manifest-save-threshold' option"),
        (
            "--manifest-save-threshold=2TiB",
            "'2TiB' is out of range for 'manifest-save-threshold' option\nHINT: allowed range is 1B to 1TiB inclusive",
        ),
        ("--archive-timeout=1.5", "'1.5' is not valid for 'archive-timeout' option"),
        (
            "--archive-timeout=99ms",
            "'99ms' is out of range for 'archive-timeout' option\nHINT: allowed range is 100ms to 1d inclusive",
        ),
        (
            "--buffer-size=3MiB",
            "'3MiB' is not allowed for 'buffer-size' option\nHINT: allowed values are '16KiB', '32KiB', '64KiB', \
             '128KiB', '256KiB', '512KiB', '1MiB', '2MiB', '4MiB', '8MiB', '16MiB'",
        ),
        (
            "--type=all",
            "'all' is not allowed for 'type' option\nHINT: allowed values are 'full', 'diff', 'incr'",
        ),
        (
            "--compress-level=23",
            "'23' is out of range for 'compress-level' option when 'compress-type' option = 'zst'\n\
             HINT: allowed range is -7 to 22 inclusive",
        ),
        (
            "--compress-type=gz --compress-level=10",
            "'10' is out of range for 'compress-level' option when 'compress-type' option = 'gz'\n\
             HINT: allowed range is -1 to 9 inclusive",
        ),
        ("--log-path=rel", "'rel' must begin with / for 'log-path' option"),
        ("--log-path=/a//b", "'/a//b' cannot contain // for 'log-path' option"),
        ("--log-path=", "'' must be >= 1 character for 'log-path' option"),
        ("--pg1-user=", "'' must be >= 1 character for 'pg1-user' option"),
        (
            "--pg1-port=65536",
            "'65536' is out of range for 'pg1-port' option\nHINT: allowed range is 0 to 65535 inclusive",
        ),
        ("--repo=2", "key '2' is not valid for 'repo' option"),
    ] {
        assert_eq!(fails(run(&format!("{BACKUP} {args}"))), (32, text.into()), "{args}");
    }
    assert_eq!(
        fails(run(&format!("{BACKUP} --annotation=novalue"))),
        (31, "key/value 'novalue' not valid for 'annotation' option".into())
    );
    for stanza in ["../x", ".x", "a/b"] {
        assert_eq!(fails(run(&format!("info --stanza={stanza}"))).0, 32, "{stanza}");
    }
}

#[test]
fn the_same_key_twice_is_a_warning() {
    let settings =
        run(&format!("{BACKUP} --repo1-retention-full=1 --annotation=k=1 --annotation=k=2")).unwrap();
    assert_eq!(settings.get_hash("annotation"), [("k".into(), "2".into())]);
    assert_eq!(settings.warnings(), ["key 'k' value '1' is overwritten with '2' for 'annotation' option"]);
}

#[test]
fn defaults_that_depend_on_another_option() {
    for (kind, level) in [("bz2", 9), ("gz", 6), ("lz4", 1), ("zst", 3), ("none", 0)] {
        let settings = run(&format!("{BACKUP} --compress-type={kind}")).unwrap();
        assert_eq!(settings.get_int("compress-level"), Some(level), "{kind}");
    }
    let settings = run(&format!("{BACKUP} --no-archive-check")).unwrap();
    assert!(!settings.get_bool("archive-mode-check") && !settings.get_bool("archive-copy"));
    let settings = run(&format!("{BACKUP} --no-online")).unwrap();
    assert!(!settings.get_bool("archive-check") && !settings.get_bool("archive-mode-check"));
}

#[test]
fn defaults_and_values_of_single_commands() {
    assert!(run("restore --stanza=d --pg1-path=/p").unwrap().get_bool("allow-root"));
    assert!(!run("info").unwrap().get_bool("allow-root"));
    assert_eq!(run("verify --stanza=d").unwrap().get_str("output"), Some("none"));
    assert_eq!(run("version --output=num").unwrap().get_str("output"), Some("num"));
    assert_eq!(run("restore --stanza=d --pg1-path=/p").unwrap().get_str("set"), Some("latest"));
    assert_eq!(run("info").unwrap().get_str("set"), None);
    assert_eq!(run("info").unwrap().get_str("type"), None);
    assert_eq!(
        fails(run("verify --stanza=d --output=num")),
        (
            32,
            "'num' is not allowed for 'output' option\nHINT: allowed values are 'none', 'text', 'json'"
                .into()
        )
    );
}

#[test]
fn unmet_dependencies() {
    for (args, text) in [
        ("backup --stanza=d --pg1-path=/p --force", "option 'force' not valid without option 'no-online'"),
        (
            "backup --stanza=d --pg1-path=/p --no-archive-check --archive-copy",
            "option 'archive-copy' not valid without option 'archive-check'",
        ),
        ("expire --oldest", "expire command requires option: stanza"),
        ("info --set=x", "option 'set' not valid without option 'stanza'"),
        (
            "backup --stanza=d --pg1-path=/p --pg2-port=1",
            "backup command requires option: pg2-path\nHINT: does this stanza exist?",
        ),
        ("info --repo1-s3-bucket=x", "option 'repo1-s3-bucket' not valid without option 'repo1-type' = 's3'"),
        (
            "restore --stanza=d --pg1-path=/p --target=x",
            "option 'target' not valid without option 'type' in ('lsn', 'name', 'time', 'xid')",
        ),
        ("info --repo2-host-user=x", "option 'repo2-host-user' not valid without option 'repo2-host-type'"),
        (
            "archive-push --stanza=d --spool-path=/s x",
            "option 'spool-path' not valid without option 'archive-async'",
        ),
        ("info --repo-target-time=2026-01-01", "option 'repo-target-time' not valid without option 'repo'"),
    ] {
        let (code, found) = fails(run(args));
        assert_eq!(found, text, "{args}");
        assert!(code == 31 || code == 37, "{args}");
    }
    // From other sources the option is left out in silence.
    let config = "[global]\nspool-path=/s\narchive-copy=y\nno=1\n[demo]\npg1-path=/p\n";
    let settings = all("archive-push --stanza=demo x", &[("PGBR_SPOOL_PATH", "/t")], config).unwrap();
    assert_eq!(settings.get_str("spool-path"), None);
    let settings = with_config("archive-push --stanza=demo --archive-async x", config).unwrap();
    assert_eq!(settings.get_str("spool-path"), Some("/s"));
}

#[test]
fn what_is_required() {
    assert_eq!(fails(run("backup")), (37, "backup command requires option: stanza".into()));
    assert_eq!(
        fails(run("backup --stanza=d")),
        (37, "backup command requires option: pg1-path\nHINT: does this stanza exist?".into())
    );
    assert_eq!(
        fails(run("restore --stanza=d --pg1-path=/p --type=time")),
        (37, "restore command requires option: target".into())
    );
    assert_eq!(
        fails(with_config("info", "[global]\nrepo1-cipher-type=aes-256-gcm\n")),
        (37, "info command requires option: repo1-cipher-pass".into())
    );
    for (config, option) in [
        ("repo1-type=s3", "repo1-s3-bucket"),
        ("repo1-type=s3\nrepo1-s3-bucket=b\nrepo1-s3-endpoint=e\nrepo1-s3-region=r", "repo1-s3-key"),
        ("repo1-type=azure", "repo1-azure-account"),
        ("repo1-type=gcs\nrepo1-gcs-bucket=b", "repo1-gcs-key"),
    ] {
        let found = fails(with_config("info", &format!("[global]\n{config}\n")));
        assert_eq!(found, (37, format!("info command requires option: {option}")));
    }
    assert_eq!(
        fails(run("annotate --stanza=d --set=x")),
        (37, "annotate command requires option: annotation".into())
    );
    // An optional stanza, and a cluster that archive-push can do without.
    assert!(run("check").is_ok());
    assert!(run("archive-push --stanza=d x").is_ok());
    assert_eq!(fails(run("check --stanza=d")).0, 37);
}

#[test]
fn indexes_in_use() {
    let keys = |args: &str, config: &str| {
        let settings = with_config(args, config).unwrap();
        (
            settings.keys("pg").to_vec(),
            settings.keys("repo").to_vec(),
            settings.repo_key(),
            settings.repo_keys(),
        )
    };
    let base = "stanza-create --stanza=demo --pg1-path=/p";
    assert_eq!(keys(base, ""), (vec![1], vec![1], 1, vec![1]));
    assert_eq!(keys(base, "[global]\nrepo4-path=/r\nrepo2-path=/s\n"), (vec![1], vec![2, 4], 2, vec![2, 4]));
    // An index whose only option does not meet its condition goes away; the last one becomes 1.
    assert_eq!(keys(base, "[global]\nrepo1-path=/r\nrepo3-s3-bucket=x\n").1, [1]);
    assert_eq!(keys(base, "[global]\nrepo3-s3-bucket=x\n").1, [1]);
    let settings = with_config(base, "[global]\nrepo3-s3-bucket=x\n").unwrap();
    let default = flavor().path("/var/lib/pgbackrest");
    assert_eq!(settings.indexed("repo", 1, "path").as_str(), Some(default.as_str()));
    assert!(!settings.indexed("repo", 3, "path").is_set());
    // A reset index does not count.
    assert_eq!(
        keys(&format!("{base} --reset-repo2-path"), "[global]\nrepo1-path=/r\nrepo2-path=/s\n").1,
        [1]
    );
    // One repository is chosen.
    let settings = with_config("info --repo=4", "[global]\nrepo4-path=/r\nrepo2-path=/s\n").unwrap();
    assert_eq!((settings.repo_key(), settings.repo_keys()), (4, vec![4]));
    // The first cluster always counts.
    assert_eq!(
        fails(run("stanza-create --stanza=d --pg2-path=/p")),
        (37, "stanza-create command requires option: pg1-path\nHINT: does this stanza exist?".into())
    );
}

#[test]
fn what_is_not_supported() {
    let host = fails(with_config("info", "[global]\nrepo2-host=h\n"));
    assert_eq!(host, (67, "option 'repo2-host' is not supported yet".into()));
    for result in [with_config("info", "[global]\nrepo1-type=sftp\n"), run("info --repo1-type=sftp")] {
        let (code, text) = fails(result);
        assert_eq!(code, 67);
        assert!(text.starts_with("option 'repo1-type' with value 'sftp' is not supported\nHINT: "), "{text}");
        assert!(text.contains("use type s3, azure or gcs, or posix"), "{text}");
    }
    let check = "check --stanza=demo";
    let remote = fails(with_config(check, "[demo]\npg1-path=/p\npg1-host=h\n"));
    assert_eq!(remote, (67, "option 'pg1-host' is not supported yet".into()));
    assert_eq!(fails(run("check --report")), (31, "option 'report' is not supported yet".into()));
    let forced = "[demo]\npg1-path=/p\npg-version-force=15\n";
    for command in ["check", "backup", "stanza-create", "stanza-upgrade"] {
        for result in [
            with_config(&format!("{command} --stanza=demo"), forced),
            run(&format!("{command} --stanza=demo --pg1-path=/p --pg-version-force=15")),
        ] {
            let (code, text) = fails(result);
            assert_eq!(code, 67, "{command}: {text}");
            assert!(text.starts_with("option 'pg-version-force' is not supported\nHINT: "), "{text}");
        }
    }
    assert!(with_config("restore --stanza=demo", forced).is_ok(), "what was backed up comes back");
    // A server whose WAL is not taken stands still when its disk is full: that a program was put in the place of another must not do.
    let pushed = with_config("archive-push --stanza=demo pg_wal/1", forced).expect("WAL is archived");
    assert_eq!(
        pushed.notes(),
        ["option 'pg-version-force' has no effect: a segment says itself of which version it is"]
    );
    // Harmless in a file, and harmless when it says no more than the default.
    let harmless = "[global]\nrepo1-local=n\nrepo1-type=posix\nbackup-standby=n\n[demo]\npg1-path=/p\n";
    assert!(with_config(check, harmless).is_ok());
    assert!(run("check --no-repo1-local").is_ok());
}

#[test]
fn options_without_effect_are_noted() {
    let config = "[global]\nrepo1-bundle=y\nrepo1-block=y\nrepo1-retention-full=1\n";
    let settings =
        with_config(&format!("{BACKUP} --cmd-ssh=ssh2"), &config.replace("repo1-retention-full=1\n", ""))
            .unwrap();
    assert_eq!(
        settings.notes(),
        [
            "option 'cmd-ssh' has no effect: no other host is contacted",
            "option 'repo1-block' has no effect: the repository format always stores changed pages only",
            "option 'repo1-bundle' has no effect: the repository format always packs files together",
        ]
    );
}

#[test]
fn root_is_refused_where_it_does_harm() {
    let (info, restore) = (run("info").unwrap(), run("restore --stanza=d --pg1-path=/p").unwrap());
    assert_eq!(info.check_root(false), Ok(()));
    assert_eq!(restore.check_root(true), Ok(()));
    assert_eq!(run("version").unwrap().check_root(true), Ok(()));
    assert_eq!(run("info --allow-root").unwrap().check_root(true), Ok(()));
    let error = info.check_root(true).unwrap_err();
    assert_eq!(
        (error.code.number(), error.message.as_str()),
        (31, "the 'info' command must not be run as the root user")
    );
}

#[test]
fn what_a_restore_was_told_goes_into_its_command_as_far_as_that_takes_it() {
    let restore =
        "restore --stanza=demo --pg1-path=/pg --repo1-path=/r --lock-path=/l --archive-mode=off --delta";
    let settings = run(&format!("{restore} --spool-path=/s")).expect("it is right");
    let forwarded = settings.forwarded(pgbr_cli::options::Command::ArchiveGet);
    assert_eq!(forwarded, ["--lock-path=/l", "--pg1-path=/pg", "--repo1-path=/r"]);
    // Without archive-async, which only archive-get knows of, it would refuse the path of the spool.
    run(&format!("archive-get --stanza=demo {} a b", forwarded.join(" "))).expect("it takes them");
    assert_eq!(fails(run("archive-get --stanza=demo --pg1-path=/pg --spool-path=/s a b")).0, 31);
}

//! Rules that span several options.

use std::time::Duration;

use pgbr_cli::settings::Source;

use crate::{BACKUP, fails, run, with_config};

#[test]
fn stanza_delete_needs_to_know_which_repository() {
    let delete = "stanza-delete --stanza=d --pg1-path=/p";
    assert!(run(delete).is_ok());
    let expected = (
        37,
        "stanza-delete command requires option: repo\nHINT: this command requires a specific repository to operate on"
            .to_owned(),
    );
    assert_eq!(fails(run(&format!("{delete} --repo1-path=/a --repo2-path=/b"))), expected);
    assert_eq!(fails(run(&format!("{delete} --repo2-path=/b"))), expected);
    assert!(run(&format!("{delete} --repo2-path=/b --repo=2")).is_ok());
}

#[test]
fn local_repositories_lie_apart() {
    assert_eq!(
        fails(run("info --repo1-path=/a --repo2-path=/a")),
        (32, "local repo1 and repo2 paths are both '/a' but must be different".into())
    );
    assert!(run("info --repo1-path=/a --repo2-path=/b").is_ok());
}

#[test]
fn bucket_names_fit_certificates() {
    let bucket = |style: &str, verify: &str| {
        let config = "repo1-type=s3\nrepo1-s3-bucket=a.b\nrepo1-s3-endpoint=e\nrepo1-s3-region=r\nrepo1-s3-key-type=auto\n";
        with_config(
            "info",
            &format!("[global]\n{config}repo1-s3-uri-style={style}\nrepo1-storage-verify-tls={verify}\n"),
        )
    };
    let (code, text) = fails(bucket("host", "y"));
    assert_eq!(code, 32);
    assert!(text.starts_with("'a.b' is not valid for option 'repo1-s3-bucket'\nHINT: RFC-2818"), "{text}");
    assert!(bucket("path", "y").is_ok() && bucket("host", "n").is_ok());
}

#[test]
fn the_protocol_outlasts_the_database() {
    let times = |args: &str| {
        let settings = run(&format!("{BACKUP} {args}")).unwrap();
        ["db-timeout", "protocol-timeout"]
            .map(|name| settings.get_time(name).unwrap_or(Duration::ZERO).as_secs())
    };
    assert_eq!(times(""), [1800, 1860]);
    assert_eq!(times("--db-timeout=1h"), [3600, 3630]);
    assert_eq!(times("--protocol-timeout=60"), [30, 60]);
    assert_eq!(times("--protocol-timeout=20"), [10, 20]);
    assert_eq!(
        fails(run(&format!("{BACKUP} --db-timeout=5 --protocol-timeout=4s"))),
        (
            32,
            "'4s' is not valid for 'protocol-timeout' option\n\
             HINT 'protocol-timeout' option (4s) should be greater than 'db-timeout' option (5)."
                .into()
        )
    );
}

#[test]
fn retention() {
    let expire = |args: &str| run(&format!("expire --stanza=d {args}")).unwrap();
    let settings = expire("");
    assert_eq!(
        settings.warnings(),
        [
            "option 'repo1-retention-full' is not set for 'repo1-retention-full-type=count', the repository may run out of \
          space\nHINT: to retain full backups indefinitely (without warning), set option 'repo1-retention-full' to the \
          maximum."
        ]
    );
    let archive = |args: &str| expire(args).indexed("repo", 1, "retention-archive").as_int();
    assert_eq!(archive("--repo1-retention-full=3"), Some(3));
    assert_eq!(archive("--repo1-retention-full=3 --repo1-retention-full-type=time"), None);
    assert_eq!(archive("--repo1-retention-full=3 --repo1-retention-archive=1"), Some(1));
    assert_eq!(archive("--repo1-retention-archive-type=diff --repo1-retention-diff=4"), Some(4));
    for (args, warning) in [
        (
            "--repo1-retention-archive-type=diff",
            "WAL segments will not be expired: option 'repo1-retention-archive-type=diff' but neither option \
             'repo1-retention-archive' nor option 'repo1-retention-diff' is set",
        ),
        (
            "--repo1-retention-archive-type=incr",
            "WAL segments will not be expired: option 'repo1-retention-archive-type=incr' but option \
             'repo1-retention-archive' is not set",
        ),
        (
            "--repo1-retention-archive-type=diff --repo1-retention-archive=2",
            "option 'repo1-retention-diff' is not set for 'repo1-retention-archive-type=diff'\nHINT: to retain \
             differential backups indefinitely (without warning), set option 'repo1-retention-diff' to the maximum.",
        ),
    ] {
        assert_eq!(expire(&format!("--repo1-retention-full=1 {args}")).warnings(), [warning]);
    }
    assert!(run("help expire").unwrap().warnings().is_empty());
}

#[test]
fn rules_by_calendar_limit_full_backups_as_well() {
    for rule in ["daily", "weekly", "monthly", "yearly"] {
        let args = format!("expire --stanza=d --repo1-retention-{rule}=2");
        assert!(run(&args).unwrap().warnings().is_empty());
    }
    // A backup expires afterwards, and says the same.
    let backup = |args: &str| run(&format!("backup --stanza=d --pg1-path=/p {args}")).unwrap();
    assert!(backup("").warnings()[0].starts_with("option 'repo1-retention-full' is not set"));
    assert!(backup("--repo1-retention-full=1").warnings().is_empty());
}

#[test]
fn compress_gives_way_to_compress_type() {
    let kind = |args: &str| {
        let settings = run(&format!("{BACKUP} --repo1-retention-full=1 {args}")).unwrap();
        let text = settings.get_str("compress-type").map(str::to_owned);
        (text, settings.get_int("compress-level"), settings.warnings().len())
    };
    assert_eq!(kind(""), (Some("zst".into()), Some(3), 0));
    assert_eq!(kind("--no-compress"), (Some("none".into()), Some(0), 0));
    assert_eq!(kind("--compress"), (Some("zst".into()), Some(3), 0));
    assert_eq!(kind("--no-compress --compress-type=gz"), (Some("gz".into()), Some(6), 1));
    let settings = with_config(BACKUP, "[global]\ncompress=n\n").unwrap();
    assert_eq!(settings.source("compress-type"), Source::Config);
}

#[test]
fn stop_auto_is_warned_about() {
    let settings = with_config(BACKUP, "[global]\nstop-auto=y\n").unwrap();
    assert!(
        settings
            .warnings()
            .iter()
            .any(|warning| warning.starts_with("option 'stop-auto' is deprecated\nHINT: "))
    );
}

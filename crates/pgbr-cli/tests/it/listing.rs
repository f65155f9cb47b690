//! The "command begin" and "command end" lines, and the log file's name.

use std::time::Duration;

use pgbr_cli::exit::ErrorCode;
use pgbr_cli::flavor::Flavor;
use pgbr_cli::options::Command;
use pgbr_cli::parse;

use crate::{BACKUP, all, flavor, run, with_config};

#[test]
fn options_are_sorted_and_secrets_redacted() {
    let config = "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=hidden\nrepo2-path=/r2\n\
                  repo2-retention-full=1\n[demo]\nexclude=b\nexclude=a c\n";
    let env = [("PGBR_ANNOTATION", "z=1:y=2")];
    let settings = all(&format!("{BACKUP} --no-online --delta --reset-process-max"), &env, config).unwrap();
    assert_eq!(
        settings.begin_message(),
        format!(
            "backup command begin {}: --annotation=z=1 --annotation=y=2 --delta --exclude=b --exclude=\"a c\" --no-online \
             --pg1-path=/pg --reset-process-max --repo1-cipher-pass=<redacted> --repo1-cipher-type=aes-256-cbc \
             --repo2-path=/r2 --repo2-retention-full=1 --stanza=demo",
            flavor().version()
        )
    );
    assert_eq!(settings.indexed("repo", 1, "cipher-pass").display(), "<redacted>");
    assert_eq!(
        settings.indexed("repo", 1, "cipher-pass").as_secret().map(|pass| pass.as_str()),
        Some("hidden")
    );
    assert_eq!(settings.indexed("repo", 1, "cipher-pass").as_str(), None);
    assert!(!format!("{settings:?}").contains("hidden"));
}

#[test]
fn parameters_come_first() {
    let args =
        ["pgbackrest", "archive-get", "--stanza=d", "--pg1-path=/p", "000000010000000000000001", "/to a"];
    let settings = parse::settings_of(&args, &[], "", Flavor::Pgbackrest).unwrap();
    assert_eq!(
        settings.begin_message(),
        "archive-get command begin 2.59.1: [000000010000000000000001, \"/to a\"] --pg1-path=/p --stanza=d"
    );
}

#[test]
fn the_identifier_of_the_run() {
    let mut settings = run("archive-push:async --stanza=d").unwrap();
    settings.set_exec_id("77-0123abcd");
    settings.set_exec_id("78-ffffffff");
    assert!(settings.begin_message().starts_with("archive-push:async command begin "));
    assert!(settings.begin_message().ends_with(": --exec-id=77-0123abcd --stanza=d"));
    let log = flavor().path("/var/log/pgbackrest/d-archive-push-async.log");
    assert_eq!(settings.log_file().as_deref(), Some(std::path::Path::new(&log)));
}

#[test]
fn the_end() {
    let settings = run(BACKUP).unwrap();
    let took = Duration::from_millis(2637);
    assert_eq!(settings.end_message(took, None), "backup command end: completed successfully (2637ms)");
    assert_eq!(
        settings.end_message(took, Some(ErrorCode::LockAcquire)),
        "backup command end: aborted with exception [050]"
    );
    let settings = run(&format!("{BACKUP} --no-log-timestamp")).unwrap();
    assert_eq!(settings.end_message(took, None), "backup command end: completed successfully");
}

#[test]
fn expire_after_backup_lists_its_own_options() {
    let mut settings = run(&format!("{BACKUP} --delta --log-path=/l")).unwrap();
    assert_eq!(settings.log_file().as_deref(), Some(std::path::Path::new("/l/demo-backup.log")));
    settings.switch_command(Command::Expire);
    assert_eq!(settings.log_file().as_deref(), Some(std::path::Path::new("/l/demo-expire.log")));
    let line = settings.begin_message();
    assert!(line.starts_with("expire command begin") && !line.contains("--delta"), "{line}");
}

#[test]
fn log_files() {
    assert_eq!(
        run("start --log-path=/l").unwrap().log_file().as_deref(),
        Some(std::path::Path::new("/l/all-start.log"))
    );
    for args in ["info", "check", "archive-push --stanza=d x", "repo-ls", "version", "help backup"] {
        assert_eq!(run(args).unwrap().log_file(), None, "{args}");
    }
}

#[test]
fn log_options_follow_the_settings() {
    use pgbr_cli::log::{Level, LogOptions};
    let config = "[global]\nlog-level-console=off\nlog-level-stderr=detail\nlog-timestamp=n\n";
    let options = LogOptions::from_settings(&with_config("info --output=json", config).unwrap());
    assert_eq!((options.console, options.stderr, options.file), (Level::Off, Level::Detail, Level::Info));
    assert!(options.data_on_stdout && !options.timestamp);
    assert!(!LogOptions::from_settings(&run("info").unwrap()).data_on_stdout);
    assert!(LogOptions::from_settings(&run("repo-get x").unwrap()).data_on_stdout);
    let options = LogOptions::from_settings(&run("expire --stanza=d --dry-run").unwrap());
    assert!(options.dry_run && options.timestamp);
}

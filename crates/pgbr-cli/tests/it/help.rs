//! Help and version texts, as whole snapshots under `tests/snapshots`.
//!
//! Run with `UPDATE_SNAPSHOTS=1` to write them anew, then look at the difference.

use pgbr_cli::flavor::Flavor;
use pgbr_cli::options::{Allow, COMMANDS, OPTIONS};
use pgbr_cli::{help, parse};

use crate::{all, fails, flavor, run};

fn text(args: &str, flavor: Flavor) -> String {
    let args: Vec<&str> = std::iter::once(flavor.program()).chain(args.split_whitespace()).collect();
    let settings = parse::settings_of(&args, &[], "", flavor).expect("the arguments are right");
    help::render(&settings).expect("there is help")
}

#[track_caller]
fn matches_snapshot(name: &str, text: &str) {
    let path = format!("{}/tests/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).expect("the snapshot can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the snapshot is in the tree");
    assert!(text == expected, "{name} differs from its snapshot; it is now:\n{text}");
}

#[test]
fn snapshots() {
    matches_snapshot("help", &text("help", Flavor::Pgbr));
    matches_snapshot("help-pgbackrest", &text("help", Flavor::Pgbackrest));
    matches_snapshot("help-backup", &text("help backup", Flavor::Pgbr));
    matches_snapshot("help-repo-copy", &text("help repo-copy", Flavor::Pgbr));
    matches_snapshot("help-restore-pgbackrest", &text("help restore", Flavor::Pgbackrest));
    matches_snapshot("help-backup-compress-type", &text("help backup compress-type", Flavor::Pgbr));
    matches_snapshot("help-backup-compress-level", &text("help backup compress-level", Flavor::Pgbr));
    matches_snapshot("help-info-repo-cipher-pass", &text("help info repo-cipher-pass", Flavor::Pgbackrest));
}

#[test]
fn versions() {
    assert_eq!(text("version", Flavor::Pgbr), format!("pgbr {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(text("version", Flavor::Pgbackrest), "pgBackRest 2.59.1\n");
    assert_eq!(text("version --output=num", Flavor::Pgbackrest), "2059001");
    assert_eq!(text("--version", Flavor::Pgbackrest), "pgBackRest 2.59.1\n");
    // As check_pgbackrest asks, and as pgBackRest answers.
    assert_eq!(
        text("version --config=/none --stanza=demo --repo=1", Flavor::Pgbackrest),
        "pgBackRest 2.59.1\n"
    );
    assert_eq!(fails(run("version --output=json")).0, 32);
}

#[test]
fn current_values_are_shown_but_no_secrets() {
    let config =
        "[global]\nrepo1-path=/a\nrepo2-path=/b\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=hidden\n";
    let help = |args: &str| help::render(&all(args, &[], config).unwrap()).unwrap();
    let default = flavor().path("/var/lib/pgbackrest");
    let words = help("help info").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&format!("[current=<multi>, default={default}]")), "{words}");
    assert!(!help("help info").contains("hidden"));
    assert!(
        help("help info repo-path")
            .ends_with(&format!("current:\n  repo1: /a\n  repo2: /b\ndefault: {default}\n"))
    );
    let secret = help("help info repo-cipher-pass");
    assert!(secret.contains("current: <redacted>\n") && !secret.contains("hidden"), "{secret}");
    assert!(help("help backup --delta").contains("[current=y, default=n]"));
}

#[test]
fn every_command_and_option_has_help_within_the_width() {
    for rule in &COMMANDS {
        let whole = text(&format!("help {}", rule.name), Flavor::Pgbackrest);
        assert!(whole.lines().all(|line| line.len() <= 80), "{whole}");
        for option in OPTIONS.iter().filter(|option| option.valid_for(rule.command)) {
            let shown = whole.contains(&format!("\n  --{} ", option.name));
            assert_eq!(shown, !option.internal_for(rule.command), "{} {}", rule.name, option.name);
            let one = text(&format!("help {} {}", rule.name, option.name), Flavor::Pgbr);
            assert!(one.contains(&format!("'{}' option help", option.name)), "{one}");
        }
    }
}

/// How the completion for bash that is in use takes help apart (by awk): commands are the first words of indented lines, options those that
/// begin with dashes, values what stands behind an asterisk at the beginning of a line, sizes the words of a sentence of two lines.
#[test]
fn shells_complete_from_it() {
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let help = |args: &str| text(&format!("help {args}"), Flavor::Pgbackrest);
    let indented =
        |text: &str| -> Vec<String> { text.lines().filter(|l| l.starts_with(' ')).map(first).collect() };
    let mut commands = indented(&help(""));
    commands.retain(|word| !word.contains("pgbackrest"));
    let known: Vec<_> = COMMANDS.iter().filter(|rule| !rule.internal).map(|rule| rule.name).collect();
    assert_eq!(commands, known);
    for rule in COMMANDS.iter().filter(|rule| !rule.internal) {
        let shown = OPTIONS.iter().filter(|option| option.valid_for(rule.command));
        let shown: Vec<_> = shown.filter(|option| !option.internal_for(rule.command)).collect();
        let mut words = indented(&help(rule.name));
        words.retain(|word| word.starts_with("--"));
        words.sort_unstable();
        let names: Vec<String> = shown.iter().map(|option| format!("--{}", option.name)).collect();
        assert_eq!(words, names, "{}", rule.name);
        for option in shown {
            let Allow::Values(values) = option.allow_for(rule.command) else { continue };
            let one = help(&format!("{} {}", rule.name, option.name));
            let listed = one.lines().filter_map(|line| line.strip_prefix("* ")).map(first);
            let sentence = one.lines().skip_while(|line| !line.starts_with("Allowed values ")).take(2);
            let sizes =
                sentence.flat_map(str::split_whitespace).filter(|word| word.starts_with(char::is_numeric));
            let sizes = sizes.filter_map(|word| word.strip_suffix([',', '.'])).map(str::to_owned);
            assert_eq!(listed.chain(sizes).collect::<Vec<_>>(), values, "{} {}", rule.name, option.name);
        }
    }
}

#[test]
fn errors() {
    let render = |args: &str| run(args).and_then(|settings| help::render(&settings).map(|_| settings));
    assert_eq!(
        fails(render("help backup bogus")),
        (31, "option 'bogus' is not valid for command 'backup'".into())
    );
    assert_eq!(
        fails(render("help backup sort")),
        (31, "option 'sort' is not valid for command 'backup'".into())
    );
    assert_eq!(
        fails(render("help backup delta type")),
        (96, "only one option allowed for option help".into())
    );
}

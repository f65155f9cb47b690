//! The option machinery from the outside: arguments, environment and config text in; settings, texts and errors out.

mod annotations;
mod archive_get;
mod asynchronous;
mod away;
mod bad_input;
mod bad_objects;
mod bad_stores;
mod brought_wal;
mod browse;
mod check_all;
mod command_line;
mod compatibility;
mod delta;
mod disk;
mod drill;
mod dry_run;
mod effects;
mod every_option;
mod flaky_store;
mod forge;
mod guards;
mod help;
mod hostile;
mod info_theirs;
mod keys;
mod kills;
mod layouts;
mod listing;
mod majors;
mod manifest;
mod model;
mod monitoring;
mod no_links;
mod old_repositories;
mod patroni;
mod power_loss;
mod props;
mod random_kills;
mod recovery;
mod recovery_exit;
mod repo_copy;
mod restore_theirs;
mod retention;
mod rig;
mod rules;
mod scenarios;
mod secrecy;
mod secret_places;
mod secrets;
mod selective;
mod several_archives;
mod several_repos;
mod several_targets;
mod shuffled_objects;
mod signals;
mod sources;
mod standbys;
mod state;
mod stopping;
mod store_away;
mod store_options;
mod stores;
mod storm;
mod strace;
mod swap;
mod table;
mod takeover;
mod their_rest;
mod timelines;
mod upgrade;
mod values;
mod verify;
mod verify_theirs;
mod window;
mod witness;
mod world;
mod writers;

use pgbr_cli::exit::CliError;
use pgbr_cli::flavor::Flavor;
use pgbr_cli::parse;
use pgbr_cli::settings::Settings;
use pgbr_testkit::program_name;

/// What the name says that the program is called by in these tests.
fn flavor() -> Flavor {
    Flavor::from_program(program_name())
}

/// Settings of `pgbr ARGS` with an environment and the text of a config file. Under the other name the prefixes of both change places.
fn all(args: &str, env: &[(&str, &str)], config: &str) -> Result<Settings, CliError> {
    let flavor = flavor();
    let args: Vec<&str> = std::iter::once(flavor.program()).chain(args.split_whitespace()).collect();
    if flavor == Flavor::Pgbr {
        return parse::settings_of(&args, env, config, flavor);
    }
    let (ours, theirs) = (Flavor::Pgbr.env_prefix(), flavor.env_prefix());
    let renamed = |name: &str| match (name.strip_prefix(ours), name.strip_prefix(theirs)) {
        (Some(option), _) => format!("{theirs}{option}"),
        (None, Some(option)) => format!("{ours}{option}"),
        (None, None) => name.to_owned(),
    };
    let env: Vec<(String, &str)> = env.iter().map(|(name, value)| (renamed(name), *value)).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    parse::settings_of(&args, &env, config, flavor)
}

/// Settings of `pgbr ARGS` alone.
fn run(args: &str) -> Result<Settings, CliError> {
    all(args, &[], "")
}

/// Settings of `pgbr ARGS` with a config file.
fn with_config(args: &str, config: &str) -> Result<Settings, CliError> {
    all(args, &[], config)
}

/// Code and whole text of the error that must come.
#[track_caller]
fn fails(result: Result<Settings, CliError>) -> (u8, String) {
    let error = result.expect_err("it must be refused");
    (error.code.number(), error.text())
}

/// A backup that lacks nothing.
const BACKUP: &str = "backup --stanza=demo --pg1-path=/pg";

#[test]
fn every_file_of_tests_is_compiled() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap();
        assert!(module == "main" || main.contains(&format!("\nmod {module};")), "{name} is forgotten");
    }
}

//! Command line, environment and config file, parted by NUL; arguments and variables are lines.

use pgbr_cli::flavor::Flavor;
use pgbr_cli::parse::settings_of;

pub(crate) fn run(text: &str) {
    let mut parts = text.split('\0');
    let mut part = || parts.next().unwrap_or_default();
    let args: Vec<&str> = std::iter::once("pgbr").chain(part().lines()).collect();
    let env: Vec<(&str, &str)> = part().lines().filter_map(|line| line.split_once('=')).collect();
    let config = part();
    let _ = settings_of(&args, &env, config, Flavor::Pgbr);
    let _ = settings_of(&args, &env, config, Flavor::Pgbackrest);
}

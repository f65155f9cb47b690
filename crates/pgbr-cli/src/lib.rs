//! The pgbr program as a library: commands and options, config files, settings, log and help.
//!
//! What it does: turns an argument list, an environment and config files into [`settings::Settings`] by pgBackRest's
//! rules, and renders log lines, help and errors as pgBackRest does. What it does not: back up, restore or look into a
//! repository; that is the engine's part.
//!
//! ```
//! use pgbr_cli::{flavor::Flavor, parse};
//!
//! let args = ["pgbr", "backup", "--stanza=demo", "--pg1-path=/data", "--no-online", "--type", "full"];
//! let settings = parse::settings_of(&args, &[], "", Flavor::Pgbr)?;
//! assert_eq!(settings.get_str("type"), Some("full"));
//! assert!(!settings.get_bool("online"));
//! # Ok::<(), pgbr_cli::exit::CliError>(())
//! ```

mod commands;
pub mod config;
pub mod exit;
mod failure;
pub mod flavor;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod help;
pub mod ini;
pub mod libpq_env;
pub mod log;
pub mod options;
pub mod parse;
mod progress;
mod request;
mod resolve;
mod rules;
pub mod run;
mod secrets;
pub mod settings;
pub mod size;
mod variables;
mod zone;

//! The pgbr program: reads its options, opens its log and runs the command.

use std::io::Write;
use std::process::ExitCode;

use pgbr_cli::exit::{CliError, ErrorCode};
use pgbr_cli::log::{LogOptions, Logger};
use pgbr_cli::options::Command;
use pgbr_cli::settings::Settings;
use pgbr_cli::{config, help};

fn main() -> ExitCode {
    match config::settings(std::env::args_os(), std::env::vars_os()) {
        Ok(settings) => run(&settings),
        Err(error) => {
            writeln!(std::io::stderr(), "{}", error.render()).ok();
            ExitCode::from(error.code.number())
        }
    }
}

fn run(settings: &Settings) -> ExitCode {
    let log = Logger::new(LogOptions::from_settings(settings));
    let result = match settings.command() {
        Command::Help | Command::Version => show(settings),
        _ if settings.is_help() => show(settings),
        command => {
            for warning in settings.warnings() {
                log.warn(warning);
            }
            let message = format!("command '{}' is not supported yet", command.name());
            settings
                .check_root(rustix::process::geteuid().is_root())
                .and(Err(CliError::new(ErrorCode::FeatureNotSupported, message)))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.error(&error);
            ExitCode::from(error.code.number())
        }
    }
}

/// Prints help or version. A reader that has gone away is no error.
fn show(settings: &Settings) -> Result<(), CliError> {
    let text = help::render(settings)?;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::new(ErrorCode::FileWrite, format!("unable to write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

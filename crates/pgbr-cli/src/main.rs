//! The pgbr program.

fn main() -> std::process::ExitCode {
    pgbr_cli::run::run(std::env::args_os(), std::env::vars_os())
}

//! The command line: options and command in any order.

use zeroize::Zeroizing;

use super::{CommandLine, Raw, RawOptions, bad_value, invalid, is_no};
use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::options::{self, Command, Found, Kind, OPTIONS, Role, Spelling};
use crate::settings::Source;
use crate::variables::Variables;

/// Reads the command line; the program's path comes first.
///
/// # Errors
/// `option-invalid`, `option-invalid-value`, `command-required`, `command-invalid`, `param-invalid`,
/// `feature-not-supported` (pgBackRest's helper roles).
pub fn command_line<S: AsRef<str>>(args: &[S], flavor: Flavor) -> Result<CommandLine, CliError> {
    let mut args = args.iter().map(AsRef::as_ref);
    let program = args.next().filter(|program| !program.is_empty()).unwrap_or(flavor.program()).to_owned();
    let mut words = Words::default();
    let mut raw = RawOptions::new();
    while let Some(arg) = args.next() {
        if arg.starts_with('-') {
            take_option(&mut raw, arg, &mut args)?;
        } else {
            words.take(arg)?;
        }
    }
    let mut line = CommandLine {
        program,
        flavor,
        command: words.command.unwrap_or(Command::Help),
        role: words.role.unwrap_or(Role::Main),
        help: words.help && words.command.is_some(),
        params: words.params,
        raw,
        warnings: Vec::new(),
        variables: Variables::default(),
    };
    if words.command.is_some() {
        line.take_help_option();
        line.pass_over_options_of_others();
    } else if !words.help && line.raw.keys().any(|(id, _)| !OPTIONS[*id].valid_for(Command::Help)) {
        return Err(CliError::new(ErrorCode::CommandRequired, "no command found"));
    }
    if !line.params.is_empty() && !line.help && !line.command.rule().parameters {
        return Err(CliError::new(ErrorCode::ParamInvalid, "command does not allow parameters"));
    }
    Ok(line)
}

impl CommandLine {
    /// `COMMAND --help` is `help COMMAND`.
    fn take_help_option(&mut self) {
        let help = options::id_of("help").map(|id| (id, 1));
        if self.command != Command::Help && help.is_some_and(|key| self.raw.remove(&key).is_some()) {
            self.help = true;
        }
    }

    /// Monitoring asks for the version with the options that it gives to all commands, and pgBackRest does not mind.
    fn pass_over_options_of_others(&mut self) {
        if self.command == Command::Version && !self.help {
            self.raw.retain(|(id, _), _| OPTIONS[*id].valid_for(Command::Version));
        }
    }
}

/// The words that are not options.
#[derive(Default)]
struct Words {
    help: bool,
    command: Option<Command>,
    role: Option<Role>,
    params: Vec<String>,
}

impl Words {
    fn take(&mut self, word: &str) -> Result<(), CliError> {
        if self.command.is_some() {
            self.params.push(word.to_owned());
            return Ok(());
        }
        let (name, role_name) = match word.split_once(':') {
            Some((name, role)) => (name, Some(role)),
            None => (word, None),
        };
        let command =
            Command::from_name(name).ok_or_else(|| not_a_command(format!("invalid command '{word}'")))?;
        if command == Command::Help && !self.help {
            self.help = true;
            return Ok(());
        }
        let role = match role_name {
            None => Role::Main,
            Some(role) => Role::from_name(role)
                .ok_or_else(|| not_a_command(format!("invalid command role '{role}'")))?,
        };
        match role {
            Role::Async if !command.rule().has_async => {
                return Err(not_a_command(format!("invalid command/role combination '{word}'")));
            }
            Role::Local | Role::Remote => {
                return Err(CliError::new(
                    ErrorCode::FeatureNotSupported,
                    format!("command '{word}' is not supported yet"),
                )
                .hint("pgBackRest on another host cannot work with pgbr on this one."));
            }
            Role::Async if self.help => {
                return Err(not_a_command("help is not available for the 'async' role".to_owned()));
            }
            Role::Main | Role::Async => {}
        }
        self.command = Some(command);
        self.role = Some(role);
        Ok(())
    }
}

fn take_option<'a>(
    raw: &mut RawOptions,
    arg: &str,
    rest: &mut impl Iterator<Item = &'a str>,
) -> Result<(), CliError> {
    let Some(text) = arg.strip_prefix("--") else {
        return Err(invalid(format!("option '{}' must begin with --", name_of(arg))));
    };
    let (name, mut value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(Zeroizing::new(value.to_owned()))),
        None => (text, None),
    };
    let Some(mut found) = options::find_spelled(name, Spelling::Prefix)? else {
        return Err(unknown(name));
    };
    let rule = found.rule();
    if found.negate || found.reset {
        if value.is_some() {
            return Err(invalid(format!("option '{name}' does not allow an argument")));
        }
    } else if rule.kind == Kind::Boolean {
        if let Some(value) = value.take() {
            found.negate = is_no(&value)
                .ok_or_else(|| bad_value(format!("boolean option '--{name}' argument must be 'y' or 'n'")))?;
        }
    } else if value.is_none() {
        value = if rule.bool_like { Some("y".to_owned()) } else { rest.next().map(str::to_owned) }
            .map(Zeroizing::new);
        if value.is_none() {
            return Err(invalid(format!("option '--{name}' requires an argument")));
        }
    }
    if found.negate && rule.bool_like {
        found.negate = false;
        value = Some(Zeroizing::new("n".to_owned()));
    }
    if found.is_secret() {
        return Err(invalid(format!("option '{}' is not allowed on the command-line", found.name()))
            .hint("this option could expose secrets in the process list.")
            .hint("specify the option in a configuration file or an environment variable instead.")
            .hint(format!("or say where it is: --{}-file=PATH.", found.name())));
    }
    store(raw, &found, value)
}

fn store(raw: &mut RawOptions, found: &Found, value: Option<Zeroizing<String>>) -> Result<(), CliError> {
    let Some(known) = raw.get_mut(&(found.id, found.key)) else {
        let new = Raw {
            values: value.into_iter().collect(),
            negate: found.negate,
            reset: found.reset,
            source: Source::CommandLine,
            from: found.from,
        };
        raw.insert((found.id, found.key), new);
        return Ok(());
    };
    let problem = if known.negate && found.negate {
        "is negated multiple times"
    } else if known.reset && found.reset {
        "is reset multiple times"
    } else if (known.reset && found.negate) || (known.negate && found.reset) {
        "cannot be negated and reset"
    } else if known.negate != found.negate {
        "cannot be set and negated"
    } else if known.reset != found.reset {
        "cannot be set and reset"
    } else {
        match value {
            Some(value) if found.rule().kind.is_multi() => {
                known.values.push(value);
                return Ok(());
            }
            _ => "cannot be set multiple times",
        }
    };
    Err(invalid(format!("option '{}' {problem}", found.name())))
}

/// The part of an argument that is no value: a mistyped option may hold a secret after its `=`.
fn name_of(arg: &str) -> &str {
    arg.split('=').next().unwrap_or(arg)
}

fn unknown(name: &str) -> CliError {
    let error = invalid(format!("invalid option '--{name}'"));
    match options::candidates(name).as_slice() {
        names @ [_, _, ..] if names.len() <= 8 => error.hint(format!("it could mean {}.", names.join(", "))),
        _ => error,
    }
}

fn not_a_command(message: String) -> CliError {
    CliError::new(ErrorCode::CommandInvalid, message)
}

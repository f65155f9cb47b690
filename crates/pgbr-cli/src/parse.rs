//! Arguments, environment and config file in; command, parameters and raw options out. Pure.
//!
//! The highest of these sources wins, option by option: command line, environment, config file (first hit in
//! `[stanza:command]`, `[stanza]`, `[global:command]`, `[global]`), default. What the options mean is found afterwards,
//! by [`CommandLine::resolve`].

use std::collections::{BTreeMap, HashMap, btree_map};
use std::ffi::OsString;
use std::fmt;

use zeroize::Zeroizing;

use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::ini::Ini;
use crate::options::{self, Command, Found, Kind, OPTIONS, Role, Section, Support, ValueFrom};
use crate::resolve;
use crate::settings::{Settings, Source};
use crate::variables::Variables;

mod arguments;

pub use arguments::command_line;

/// What was written, option by option, before it is known whether it makes sense.
#[derive(Debug)]
pub struct CommandLine {
    /// Path of the program as it was called.
    pub program: String,
    /// What the program's name asks for.
    pub flavor: Flavor,
    /// The command, or the one that help is wanted on.
    pub command: Command,
    /// Its role.
    pub role: Role,
    /// Whether help on the command is wanted instead of the command.
    pub help: bool,
    /// Words after the command.
    pub params: Vec<String>,
    pub(crate) raw: RawOptions,
    pub(crate) warnings: Vec<String>,
    pub(crate) variables: Variables,
}

/// Options as written, by place in [`OPTIONS`] and index.
pub(crate) type RawOptions = BTreeMap<(usize, u16), Raw>;

/// One option as written.
pub(crate) struct Raw {
    pub(crate) values: Vec<Zeroizing<String>>,
    pub(crate) negate: bool,
    pub(crate) reset: bool,
    pub(crate) source: Source,
    pub(crate) from: ValueFrom,
}

/// The whole way for callers that have everything at hand: arguments (with the program's path first), environment and the
/// text of a config file.
///
/// # Errors
/// Whatever is wrong in one of them, by pgBackRest's codes.
pub fn settings_of<S: AsRef<str>>(
    args: &[S],
    env: &[(&str, &str)],
    config: &str,
    flavor: Flavor,
) -> Result<Settings, CliError> {
    let mut line = command_line(args, flavor)?;
    if line.reads_files() {
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        line.read_environment(&env)?;
        let ini =
            Ini::parse(config, None).map_err(|error| CliError::new(ErrorCode::Format, error.to_string()))?;
        line.read_config(&ini)?;
    }
    line.resolve()
}

impl CommandLine {
    /// Whether environment and config files count: `help` and `version` do without, so that they cannot fail on them.
    pub fn reads_files(&self) -> bool {
        !matches!(self.command, Command::Help | Command::Version)
    }

    /// What `--stanza` or its variable says so far; it chooses the sections of the config file.
    pub fn stanza(&self) -> Option<&str> {
        self.raw_text("stanza")
    }

    /// Takes options from environment variables with the flavor's prefix. Unknown ones are warned about.
    ///
    /// # Errors
    /// `option-invalid-value` for an empty value and for booleans other than `y` and `n`; `option-invalid` for a name that
    /// breaks a rule of indexes; values that are not UTF-8.
    pub fn read_environment(&mut self, env: &[(OsString, OsString)]) -> Result<(), CliError> {
        self.variables = Variables::from_env(env);
        let mut ours: Vec<_> = env
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(self.flavor.env_prefix())?, value)))
            .collect();
        ours.sort_unstable();
        for (name, value) in ours {
            let key = name.to_lowercase().replace('_', "-");
            let Some(value) = value.to_str() else {
                return Err(bad_value(format!("environment variable '{key}' is not valid UTF-8")));
            };
            self.take_variable(&key, value)?;
        }
        Ok(())
    }

    /// Takes options from a config file. What cannot count there is warned about.
    ///
    /// # Errors
    /// `option-invalid` for an option written under two names in one section, for a repeated one that is no list, and for
    /// names that break a rule of indexes; `option-invalid-value` for an empty value and for booleans other than `y`, `n`.
    pub fn read_config(&mut self, ini: &Ini) -> Result<(), CliError> {
        let command = self.command.name();
        let stanza = self.stanza().map(str::to_owned);
        let mut sections = Vec::new();
        if let Some(stanza) = &stanza {
            sections.push((format!("{stanza}:{command}"), true, false));
            sections.push((stanza.clone(), false, false));
        }
        sections.push((format!("global:{command}"), true, true));
        sections.push(("global".to_owned(), false, true));
        for (name, of_command, is_global) in sections {
            let section = ConfigSection { name, of_command, is_global };
            let mut seen = HashMap::new();
            for entry in ini.section(&section.name) {
                self.take_entry(&section, entry, &mut seen)?;
            }
        }
        Ok(())
    }

    /// Refuses a command that is not there yet, whatever its options are.
    ///
    /// # Errors
    /// `feature-not-supported`
    pub fn check_supported(&self) -> Result<(), CliError> {
        if self.help || self.command.rule().support != Support::NotYet {
            return Ok(());
        }
        let message = format!("command '{}' is not supported yet", self.command.name());
        let hint =
            format!("'{} help' lists the commands and says which of them work.", self.flavor.program());
        Err(CliError::new(ErrorCode::FeatureNotSupported, message).hint(hint))
    }

    /// Finds out what the options mean: defaults, dependencies, types, ranges, and the rules that span options.
    ///
    /// # Errors
    /// `option-invalid`, `option-invalid-value`, `option-required`, `config`, or `feature-not-supported` for an option that
    /// pgbr does not know how to follow yet and must not ignore.
    pub fn resolve(self) -> Result<Settings, CliError> {
        resolve::resolve(self)
    }

    /// The single value of an option without index, as written.
    pub(crate) fn raw_text(&self, name: &str) -> Option<&str> {
        let raw = self.raw.get(&(options::id_of(name)?, 1))?;
        raw.values.first().map(|value| value.as_str())
    }

    fn take_variable(&mut self, key: &str, value: &str) -> Result<(), CliError> {
        let warn = |what| Err(format!("environment contains invalid {what}option '{key}'"));
        let found = match options::find(key)? {
            None => warn(""),
            Some(found) if found.negate => warn("negate "),
            Some(found) if found.reset => warn("reset "),
            Some(found) => Ok(found),
        };
        let found = match found {
            Ok(found) => found,
            Err(warning) => {
                self.warnings.push(warning);
                return Ok(());
            }
        };
        let rule = found.rule();
        if !rule.valid_for(self.command) {
            return Ok(());
        }
        if value.is_empty() {
            return Err(bad_value(format!("environment variable '{key}' must have a value")));
        }
        if let Some(known) = self.raw.get(&(found.id, found.key)) {
            let elsewhere = known.from != found.from && known.source == Source::Environment;
            return if elsewhere { Err(two_values(&found, known.from)) } else { Ok(()) };
        }
        let mut raw = Raw { from: found.from, ..Raw::new(Source::Environment) };
        match rule.kind {
            Kind::Boolean => {
                raw.negate = is_no(value).ok_or_else(|| {
                    bad_value(format!("environment boolean option '{key}' must be 'y' or 'n'"))
                })?;
            }
            kind if kind.is_multi() => {
                raw.values = value.split(':').map(|part| part.to_owned().into()).collect();
            }
            _ => raw.values = vec![value.to_owned().into()],
        }
        self.raw.insert((found.id, found.key), raw);
        Ok(())
    }

    fn take_entry(
        &mut self,
        section: &ConfigSection,
        entry: &crate::ini::Entry,
        seen: &mut HashMap<(usize, u16), String>,
    ) -> Result<(), CliError> {
        let key = &entry.key;
        let found = match self.usable_in_config(key)? {
            Ok(found) => found,
            Err(warning) => {
                self.warnings.push(warning);
                return Ok(());
            }
        };
        let rule = found.rule();
        if let Some(other) = seen.insert((found.id, found.key), key.clone()) {
            let name = &section.name;
            return Err(invalid(format!(
                "configuration file contains duplicate options ('{key}', '{other}') in section '[{name}]'"
            )));
        }
        if !rule.valid_for(self.command) {
            if section.of_command {
                let name = &section.name;
                self.warnings
                    .push(format!("configuration file contains option '{key}' invalid for section '{name}'"));
            }
            return Ok(());
        }
        if rule.section == Section::Stanza && section.is_global {
            let name = &section.name;
            self.warnings.push(format!(
                "configuration file contains stanza-only option '{key}' in global section '{name}'"
            ));
            return Ok(());
        }
        if let btree_map::Entry::Vacant(place) = self.raw.entry((found.id, found.key)) {
            place.insert(config_value(&found, section, entry)?);
        }
        Ok(())
    }

    /// The option a key of a config file means, or why it cannot stand there.
    fn usable_in_config(&self, key: &str) -> Result<Result<Found, String>, CliError> {
        let warn = |what| Ok(Err(format!("configuration file contains {what} option '{key}'")));
        match options::find(key)? {
            None => warn("invalid"),
            Some(found) if found.negate => warn("negate"),
            Some(found) if found.reset => warn("reset"),
            Some(found) if found.rule().section == Section::CommandLine => warn("command-line only"),
            Some(found) => Ok(Ok(found)),
        }
    }
}

struct ConfigSection {
    name: String,
    of_command: bool,
    is_global: bool,
}

impl Raw {
    pub(crate) fn new(source: Source) -> Self {
        Self { values: Vec::new(), negate: false, reset: false, source, from: ValueFrom::Itself }
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw")
            .field("values", &self.values.len())
            .field("negate", &self.negate)
            .field("reset", &self.reset)
            .field("source", &self.source)
            .field("from", &self.from)
            .finish()
    }
}

fn config_value(found: &Found, section: &ConfigSection, entry: &crate::ini::Entry) -> Result<Raw, CliError> {
    if let Some(fault) = &entry.fault {
        return Err(CliError::new(ErrorCode::Format, fault.to_string()));
    }
    let kind = OPTIONS[found.id].kind;
    let mut raw = Raw { from: found.from, ..Raw::new(Source::Config) };
    match entry.values.as_slice() {
        [value] => {
            let key = &entry.key;
            if value.is_empty() {
                let section = &section.name;
                return Err(bad_value(format!("section '{section}', key '{key}' must have a value")));
            }
            if kind == Kind::Boolean {
                raw.negate = is_no(value)
                    .ok_or_else(|| bad_value(format!("boolean option '{key}' must be 'y' or 'n'")))?;
            } else {
                raw.values = vec![value.clone()];
            }
        }
        values if kind.is_multi() => raw.values = values.to_vec(),
        _ => return Err(invalid(format!("option '{}' cannot be set multiple times", found.name()))),
    }
    Ok(raw)
}

/// A secret that stands in one place under two names.
fn two_values(found: &Found, other: ValueFrom) -> CliError {
    let other = Found { from: other, ..*found };
    invalid(format!("environment contains duplicate options ('{}', '{}')", found.name(), other.name()))
}

/// `y` or `n`; nothing else is a boolean.
fn is_no(value: &str) -> Option<bool> {
    match value {
        "y" => Some(false),
        "n" => Some(true),
        _ => None,
    }
}

fn invalid(message: String) -> CliError {
    CliError::new(ErrorCode::OptionInvalid, message)
}

fn bad_value(message: String) -> CliError {
    CliError::new(ErrorCode::OptionInvalidValue, message)
}

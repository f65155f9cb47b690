//! The resolved options of a command, looked up by name and type.
//!
//! A name or type that the table of options does not have is a slip of the caller: tests stop on it (`debug_assert`),
//! a release build answers as if the option were not set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::options::{self, Command, Group, Kind, OPTIONS, OptionRule, Role, ValueFrom};
use crate::variables::Variables;

/// Where a value comes from; a higher one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nothing set it.
    Default,
    /// A config file.
    Config,
    /// An environment variable.
    Environment,
    /// The command line.
    CommandLine,
}

/// A value by its type.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Boolean(bool),
    Integer(i64),
    /// Bytes.
    Size(u64),
    Time(Duration),
    /// Text, choice, path.
    Text(String),
    Secret(Zeroizing<String>),
    /// Where a secret is: the path of a file, or a command. The setting says which.
    Elsewhere(String),
    List(Vec<String>),
    Hash(Vec<(String, String)>),
}

/// One option with one index.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) value: Option<Value>,
    /// The value as it was written or as the table has it; never a secret.
    pub(crate) display: Cow<'static, str>,
    pub(crate) source: Source,
    pub(crate) negated: bool,
    pub(crate) reset: bool,
    /// Where the value is, or was until it was fetched.
    pub(crate) from: ValueFrom,
}

/// What a command is to do: the command, its parameters and the value of every option it takes.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) flavor: Flavor,
    pub(crate) program: String,
    pub(crate) command: Command,
    pub(crate) role: Role,
    pub(crate) help: bool,
    pub(crate) params: Vec<String>,
    pub(crate) values: BTreeMap<(usize, u16), Setting>,
    pub(crate) pg_keys: Vec<u16>,
    pub(crate) repo_keys: Vec<u16>,
    pub(crate) warnings: Vec<String>,
    /// Of the environment, what other programs read as well.
    pub(crate) variables: Variables,
    /// Why a repository cannot be used: a secret of it could not be had.
    pub(crate) unusable: BTreeMap<u16, CliError>,
    /// For a command on all stanzas of the config files: what each of them is called, and its own settings or why there are none.
    pub(crate) stanzas: Vec<(String, Result<Self, CliError>)>,
}

/// The value of one option, or none; a wrong type answers like none.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    setting: Option<&'a Setting>,
}

impl Settings {
    /// The command.
    pub fn command(&self) -> Command {
        self.command
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether help on the command is wanted instead of the command.
    pub fn is_help(&self) -> bool {
        self.help
    }

    /// What the program's name asked for.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Path of the program as it was called.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Words after the command.
    pub fn params(&self) -> &[String] {
        &self.params
    }

    /// The stanza.
    pub fn stanza(&self) -> Option<&str> {
        self.get_str("stanza")
    }

    /// What the operator should be told at level WARN; hints are on lines of their own.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Options that are set and change nothing, with the reason, for level DETAIL.
    pub fn notes(&self) -> Vec<String> {
        let set = self.values.iter().filter(|(_, setting)| setting.source != Source::Default);
        set.filter_map(|((id, key), _)| match OPTIONS[*id].support_for(self.command) {
            options::Support::NoEffect(reason) => {
                Some(format!("option '{}' has no effect: {reason}", options::key_name(&OPTIONS[*id], *key)))
            }
            _ => None,
        })
        .collect()
    }

    /// An option without index.
    pub fn entry(&self, name: &str) -> Entry<'_> {
        self.lookup(name, 1)
    }

    /// An option of an indexed family: `indexed("repo", 1, "path")`.
    pub fn indexed(&self, group: &str, key: u16, name: &str) -> Entry<'_> {
        self.lookup(&format!("{group}-{name}"), key)
    }

    /// A boolean; false when the command does not take it or it is not set.
    pub fn get_bool(&self, name: &str) -> bool {
        self.typed(name, &[Kind::Boolean]).as_bool().unwrap_or(false)
    }

    /// An integer.
    pub fn get_int(&self, name: &str) -> Option<i64> {
        self.typed(name, &[Kind::Integer]).as_int()
    }

    /// A size in bytes.
    pub fn get_size(&self, name: &str) -> Option<u64> {
        self.typed(name, &[Kind::Size]).as_size()
    }

    /// A time.
    pub fn get_time(&self, name: &str) -> Option<Duration> {
        self.typed(name, &[Kind::Time]).as_time()
    }

    /// A text, choice or path.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.typed(name, &[Kind::Text, Kind::Choice, Kind::Path]).as_str()
    }

    /// A path.
    pub fn get_path(&self, name: &str) -> Option<&Path> {
        self.typed(name, &[Kind::Path, Kind::Text]).as_path()
    }

    /// A list; empty when not set.
    pub fn get_list(&self, name: &str) -> &[String] {
        self.typed(name, &[Kind::List]).as_list()
    }

    /// Pairs of a hash in the order they were first written; empty when not set.
    pub fn get_hash(&self, name: &str) -> &[(String, String)] {
        self.typed(name, &[Kind::Hash]).as_hash()
    }

    /// Where the value of an option without index comes from.
    pub fn source(&self, name: &str) -> Source {
        self.entry(name).source()
    }

    /// Indexes of a family that are in use, ascending; at least one (1 where nothing is set).
    pub fn keys(&self, group: &str) -> &[u16] {
        match group {
            "pg" => &self.pg_keys,
            "repo" => &self.repo_keys,
            _ => {
                debug_assert!(false, "no option group '{group}'");
                &[]
            }
        }
    }

    /// The repository that a command on one repository works on: `--repo`, else the first configured.
    pub fn repo_key(&self) -> u16 {
        self.selected("repo").unwrap_or_else(|| self.repo_keys.first().copied().unwrap_or(1))
    }

    /// The repositories that a command on all of them works on: those that `--repo` names, else every configured one.
    pub fn repo_keys(&self) -> Vec<u16> {
        let named = self.selected("repo").map(|key| vec![key]).or_else(|| self.listed_repos());
        named.unwrap_or_else(|| self.repo_keys.clone())
    }

    /// The repositories that a backup goes to: `--repo=all` and `--repo=1,2` ask for several, else it is one.
    pub fn backup_keys(&self) -> Vec<u16> {
        self.listed_repos().unwrap_or_else(|| vec![self.repo_key()])
    }

    /// Repositories of a list that is still the command's concern; none where there is no list.
    fn listed_repos(&self) -> Option<Vec<u16>> {
        let list = self.lookup("repo", 1).as_list();
        let named = |key: &u16| list.iter().any(|item| item == "all" || *item == key.to_string());
        (!list.is_empty()).then(|| self.repo_keys.iter().copied().filter(named).collect())
    }

    /// Level, file and so on of the log follow the options of another command from now on (expire after backup).
    pub fn switch_command(&mut self, command: Command) {
        self.command = command;
        self.role = Role::Main;
    }

    /// The command goes on with these repositories alone.
    pub fn keep_repos(&mut self, keys: &[u16]) {
        self.repo_keys.retain(|key| keys.contains(key));
    }

    /// Sets the identifier of this run (`PID-8hex`), which the log and the lock files show, unless it was given.
    pub fn set_exec_id(&mut self, exec_id: &str) {
        if self.get_str("exec-id").is_none()
            && let Some(id) = options::id_of("exec-id").filter(|id| OPTIONS[*id].valid_for(self.command))
        {
            self.values.insert((id, 1), Setting::text(exec_id.to_owned(), Source::CommandLine));
        }
    }

    /// Refuses a command that must not be run as root.
    ///
    /// # Errors
    /// `option-invalid` if `is_root` and the option `allow-root` is off.
    pub fn check_root(&self, is_root: bool) -> Result<(), CliError> {
        match self.entry("allow-root").as_bool() {
            Some(false) if is_root && !self.help => Err(CliError::new(
                ErrorCode::OptionInvalid,
                format!("the '{}' command must not be run as the root user", self.command.name()),
            )
            .hint("running as root can create files that the regular user cannot access, causing later commands to fail.")
            .hint("set the 'allow-root' option to allow running this command as root.")),
            _ => Ok(()),
        }
    }

    /// The "command begin" log message: version, parameters, and every option that is set, secrets redacted.
    pub fn begin_message(&self) -> String {
        format!("{} command begin {}:{}", self.command_role(), self.flavor.version(), self.listing())
    }

    /// The "command end" log message: the time that the command took, or the code it ended with.
    pub fn end_message(&self, took: Duration, error: Option<ErrorCode>) -> String {
        let how = match error {
            Some(code) => format!("aborted with exception [{code}]"),
            None if self.get_bool("log-timestamp") => {
                format!("completed successfully ({}ms)", took.as_millis())
            }
            None => "completed successfully".to_owned(),
        };
        format!("{} command end: {how}", self.command_role())
    }

    /// `archive-push:async`, or just the command.
    pub fn command_role(&self) -> String {
        match self.role.name() {
            Some(role) => format!("{}:{role}", self.command.name()),
            None => self.command.name().to_owned(),
        }
    }

    /// The log file of the command (`LOGPATH/STANZA-COMMAND.log`); `None` where it writes none.
    pub fn log_file(&self) -> Option<std::path::PathBuf> {
        if self.help || !(self.command.rule().log_file || self.role == Role::Async) {
            return None;
        }
        let stanza = self.stanza().unwrap_or("all");
        let role = self.role.name().map(|role| format!("-{role}")).unwrap_or_default();
        let name = format!("{stanza}-{}{role}.log", self.command.name());
        Some(self.get_path("log-path")?.join(name))
    }

    /// What this run was told and a config file cannot know, for another command of the same stanza: words for a shell, without
    /// secrets, without the stanza.
    pub fn forwarded(&self, command: Command) -> Vec<String> {
        let mut words = Vec::new();
        for ((id, key), setting) in &self.values {
            let rule = &OPTIONS[*id];
            let told = setting.source == Source::CommandLine || setting.source == Source::Environment;
            let own = ["stanza", "exec-id", "cmd", "process-max"].contains(&rule.name)
                || rule.name.starts_with("log-");
            let secret = rule.secret && setting.from == ValueFrom::Itself;
            // Whether a condition is met that only the other command has, nobody knows here: it would refuse the option.
            let unsure = rule.needs_for(command) != rule.needs_for(self.command);
            if !told || own || secret || unsure || !rule.valid_for(command) {
                continue;
            }
            let name = options::key_name(rule, *key) + setting.from.ending();
            match &setting.value {
                _ if setting.negated => words.push(format!("--no-{name}")),
                _ if setting.reset => words.push(format!("--reset-{name}")),
                Some(Value::Boolean(value)) => {
                    words.push(format!("--{name}={}", if *value { "y" } else { "n" }));
                }
                _ => words
                    .extend(setting.shown().iter().map(|value| format!("--{name}={}", shell_word(value)))),
            }
        }
        words
    }

    /// The options of this run's command line, for another process of the same command: its environment and its config file are the same.
    /// Secrets are never on a command line.
    pub fn repeated(&self) -> Vec<String> {
        let mut words = Vec::new();
        for ((id, key), setting) in &self.values {
            let rule = &OPTIONS[*id];
            if setting.source != Source::CommandLine || rule.secret || rule.name == "exec-id" {
                continue;
            }
            let name = options::key_name(rule, *key);
            match &setting.value {
                _ if setting.negated => words.push(format!("--no-{name}")),
                _ if setting.reset => words.push(format!("--reset-{name}")),
                Some(Value::Boolean(value)) => {
                    words.push(format!("--{name}={}", if *value { "y" } else { "n" }));
                }
                _ => words.extend(setting.shown().iter().map(|value| format!("--{name}={value}"))),
            }
        }
        words
    }

    /// All options of this command as they are, without secrets: two processes with the same text do the same.
    pub fn scope(&self) -> String {
        let mut text =
            format!("{} {} {}", self.flavor.version(), env!("CARGO_PKG_VERSION"), self.command.name());
        for ((id, key), setting) in &self.values {
            let rule = &OPTIONS[*id];
            if rule.secret || rule.name == "exec-id" {
                continue;
            }
            let values = setting.shown().join("\u{1f}");
            text += &format!("\u{1e}{}={values}", options::key_name(rule, *key));
        }
        text
    }

    /// Every option that is set, as ` --opt=value`, sorted by name, after the parameters; secrets redacted.
    fn listing(&self) -> String {
        let mut text = String::new();
        if !self.params.is_empty() {
            let params: Vec<_> = self.params.iter().map(|param| quoted(param)).collect();
            text = format!(" [{}]", params.join(", "));
        }
        for ((id, key), setting) in &self.values {
            let rule = &OPTIONS[*id];
            if rule.valid_for(self.command) {
                setting.list(rule, *key, &mut text);
            }
        }
        text
    }

    pub(crate) fn keys_of(&self, group: Group) -> &[u16] {
        self.keys(group.name())
    }

    pub(crate) fn set(&mut self, name: &str, key: u16, setting: Setting) {
        if let Some(id) = options::id_of(name) {
            self.values.insert((id, key), setting);
        }
    }

    fn selected(&self, name: &str) -> Option<u16> {
        self.get_int(name).and_then(|key| u16::try_from(key).ok())
    }

    fn lookup(&self, name: &str, key: u16) -> Entry<'_> {
        let id = options::id_of(name);
        debug_assert!(id.is_some(), "no option '{name}'");
        Entry { setting: id.and_then(|id| self.values.get(&(id, key))) }
    }

    fn typed(&self, name: &str, kinds: &[Kind]) -> Entry<'_> {
        debug_assert!(
            options::id_of(name).is_none_or(|id| kinds.contains(&OPTIONS[id].kind)),
            "option '{name}' has another type"
        );
        self.entry(name)
    }
}

impl<'a> Entry<'a> {
    /// Whether it has a value.
    pub fn is_set(&self) -> bool {
        self.value().is_some()
    }

    /// Where the value comes from.
    pub fn source(&self) -> Source {
        self.setting.map_or(Source::Default, |setting| setting.source)
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value()? {
            Value::Boolean(value) => Some(*value),
            _ => None,
        }
    }

    /// An integer.
    pub fn as_int(&self) -> Option<i64> {
        match self.value()? {
            Value::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// A size in bytes.
    pub fn as_size(&self) -> Option<u64> {
        match self.value()? {
            Value::Size(value) => Some(*value),
            _ => None,
        }
    }

    /// A time.
    pub fn as_time(&self) -> Option<Duration> {
        match self.value()? {
            Value::Time(value) => Some(*value),
            _ => None,
        }
    }

    /// A text, choice or path; not a secret.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.value()? {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }

    /// A path.
    pub fn as_path(&self) -> Option<&'a Path> {
        self.as_str().map(Path::new)
    }

    /// A secret. Do not print it, and copy it only into types that wipe it.
    pub fn as_secret(&self) -> Option<&'a Zeroizing<String>> {
        match self.value()? {
            Value::Secret(value) => Some(value),
            _ => None,
        }
    }

    /// A list; empty when not set.
    pub fn as_list(&self) -> &'a [String] {
        match self.value() {
            Some(Value::List(value)) => value,
            _ => &[],
        }
    }

    /// Pairs of a hash; empty when not set.
    pub fn as_hash(&self) -> &'a [(String, String)] {
        match self.value() {
            Some(Value::Hash(value)) => value,
            _ => &[],
        }
    }

    /// The value as it was written, for messages; secrets are redacted.
    pub fn display(&self) -> &'a str {
        self.setting.filter(|setting| setting.value.is_some()).map_or("", |setting| &setting.display)
    }

    fn value(&self) -> Option<&'a Value> {
        self.setting?.value.as_ref()
    }
}

/// What stands for a secret wherever options are shown.
pub(crate) const REDACTED: &str = "<redacted>";

impl Setting {
    pub(crate) fn text(text: String, source: Source) -> Self {
        let display = Cow::Owned(text.clone());
        let from = ValueFrom::Itself;
        Self { value: Some(Value::Text(text)), display, source, negated: false, reset: false, from }
    }

    /// Values as written, one a repetition; secrets redacted.
    pub(crate) fn shown(&self) -> Vec<Cow<'_, str>> {
        match &self.value {
            Some(Value::List(list)) => list.iter().map(|item| Cow::Borrowed(item.as_str())).collect(),
            Some(Value::Hash(pairs)) => {
                pairs.iter().map(|(key, value)| format!("{key}={value}").into()).collect()
            }
            Some(_) => vec![Cow::Borrowed(&self.display)],
            None => Vec::new(),
        }
    }

    fn list(&self, rule: &OptionRule, key: u16, text: &mut String) {
        let name = options::key_name(rule, key) + self.from.ending();
        if self.negated {
            *text += &format!(" --no-{name}");
        } else if self.reset {
            *text += &format!(" --reset-{name}");
        } else if self.source != Source::Default {
            if rule.kind == Kind::Boolean {
                *text += &format!(" --{name}");
                return;
            }
            for value in self.shown() {
                *text += &format!(" --{name}={}", quoted(&value));
            }
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Size(value) => value.fmt(f),
            Self::Time(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
            Self::Secret(_) => f.write_str(REDACTED),
            Self::Elsewhere(place) => place.fmt(f),
            Self::List(value) => value.fmt(f),
            Self::Hash(value) => value.fmt(f),
        }
    }
}

/// A word as a shell takes it back.
pub(crate) fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', "'\\''")).into()
}

fn quoted(value: &str) -> Cow<'_, str> {
    if value.contains(' ') { format!("\"{value}\"").into() } else { value.into() }
}

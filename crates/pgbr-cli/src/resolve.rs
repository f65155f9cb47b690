//! From options as written to options as meant: indexes in use, dependencies, defaults, types, ranges, what is required.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use crate::exit::{CliError, ErrorCode};
use crate::options::{
    self, Allow, Command, Fallback, Group, KEY_MAX, Kind, Needs, OPTIONS, OptionRule, Section, Support,
    ValueFrom, key_name,
};
use crate::parse::{CommandLine, Raw};
use crate::rules;
use crate::settings::{REDACTED, Setting, Settings, Source, Value};
use crate::size;

/// Finds out what the options of a command line mean.
pub(crate) fn resolve(line: CommandLine) -> Result<Settings, CliError> {
    check_commands(&line)?;
    let mut settings = Settings {
        flavor: line.flavor,
        program: line.program.clone(),
        command: line.command,
        role: line.role,
        help: line.help,
        params: line.params.clone(),
        values: BTreeMap::new(),
        pg_keys: keys_in_use(&line, Group::Pg),
        repo_keys: keys_in_use(&line, Group::Repo),
        warnings: line.warnings.clone(),
        variables: line.variables.clone(),
        unusable: BTreeMap::new(),
        stanzas: Vec::new(),
    };
    for id in order(&line) {
        let rule = &OPTIONS[id];
        let keys = rule.group.map_or_else(|| vec![1], |group| settings.keys_of(group).to_vec());
        for key in keys {
            let one = One { line: &line, settings: &settings, rule, key, raw: line.raw.get(&(id, key)) };
            let mut warnings = Vec::new();
            let setting = one.resolve(&mut warnings)?;
            settings.warnings.append(&mut warnings);
            if let Some(setting) = setting {
                settings.values.insert((id, key), setting);
            }
        }
    }
    drop_default_keys(&mut settings, Group::Pg);
    drop_default_keys(&mut settings, Group::Repo);
    check_selected(&settings)?;
    rules::apply(&mut settings)?;
    Ok(settings)
}

/// Options of the command line that the command does not take. (Other sources skip them.)
fn check_commands(line: &CommandLine) -> Result<(), CliError> {
    match line.raw.keys().map(|(id, _)| &OPTIONS[*id]).find(|rule| !rule.valid_for(line.command)) {
        None => Ok(()),
        Some(rule) => {
            let message = format!("option '{}' not valid for command '{}'", rule.name, line.command.name());
            Err(CliError::new(ErrorCode::OptionInvalid, message))
        }
    }
}

/// Options of the command, the stanza first, then by depth of dependency, then by name.
fn order(line: &CommandLine) -> Vec<usize> {
    let depth = |mut rule: &OptionRule| {
        let mut depth = 0u8;
        while let Some(id) = rule.needs_for(line.command).and_then(|needs| options::id_of(needs.option)) {
            // A test shows that dependencies have no circle; this makes sure that one could not hang us.
            if depth == u8::MAX {
                break;
            }
            depth += 1;
            rule = &OPTIONS[id];
        }
        depth
    };
    let mut ids: Vec<(bool, u8, usize)> = (0..OPTIONS.len())
        .filter(|id| OPTIONS[*id].valid_for(line.command))
        .map(|id| (OPTIONS[id].name != "stanza", depth(&OPTIONS[id]), id))
        .collect();
    ids.sort_unstable();
    ids.into_iter().map(|(_, _, id)| id).collect()
}

/// Indexes of a family that are written somewhere. For clusters index 1 always counts; without any, it is 1.
fn keys_in_use(line: &CommandLine, group: Group) -> Vec<u16> {
    let of_group = |id: usize| OPTIONS[id].group == Some(group) && OPTIONS[id].valid_for(line.command);
    let mut keys: Vec<u16> = line
        .raw
        .iter()
        .filter(|((id, _), raw)| of_group(*id) && !raw.reset)
        .map(|((_, key), _)| *key)
        .collect();
    if keys.is_empty() || group == Group::Pg {
        keys.push(1);
    }
    keys.sort_unstable();
    keys.dedup();
    debug_assert!(keys.iter().all(|key| (1..=KEY_MAX).contains(key)), "names are checked when they are read");
    keys
}

/// Drops indexes that turned out to have nothing but defaults (their options did not meet their conditions).
fn drop_default_keys(settings: &mut Settings, group: Group) {
    let kept = |key: u16| {
        settings.values.iter().any(|((id, k), setting)| {
            *k == key && OPTIONS[*id].group == Some(group) && setting.source != Source::Default
        })
    };
    let all = settings.keys_of(group).to_vec();
    let mut keys: Vec<u16> = all.iter().copied().filter(|key| kept(*key)).collect();
    if keys.is_empty() {
        // One stays, and it is the first, whose defaults are those of any other.
        keys.push(1);
        rename_key(settings, group, all.first().copied().unwrap_or(1));
    }
    settings.values.retain(|(id, key), _| OPTIONS[*id].group != Some(group) || keys.contains(key));
    match group {
        Group::Pg => settings.pg_keys = keys,
        Group::Repo => settings.repo_keys = keys,
    }
}

fn rename_key(settings: &mut Settings, group: Group, from: u16) {
    if from == 1 {
        return;
    }
    let ids: Vec<usize> = (0..OPTIONS.len()).filter(|id| OPTIONS[*id].group == Some(group)).collect();
    for id in ids {
        if let Some(setting) = settings.values.remove(&(id, from)) {
            settings.values.insert((id, 1), setting);
        }
    }
}

/// `--repo` and `--pg` must name an index that is in use.
fn check_selected(settings: &Settings) -> Result<(), CliError> {
    for group in [Group::Pg, Group::Repo] {
        let name = group.name();
        let known = |key: i64| settings.keys_of(group).iter().any(|known| i64::from(*known) == key);
        let listed = settings.entry(name).as_list().iter();
        let listed = listed.filter_map(|key| key.parse().ok());
        let unknown = settings.entry(name).as_int().into_iter().chain(listed).find(|key| !known(*key));
        if let Some(key) = unknown {
            let message = format!("key '{key}' is not valid for '{name}' option");
            return Err(CliError::new(ErrorCode::OptionInvalidValue, message));
        }
    }
    Ok(())
}

/// One option with one index on its way.
struct One<'a> {
    line: &'a CommandLine,
    settings: &'a Settings,
    rule: &'static OptionRule,
    key: u16,
    raw: Option<&'a Raw>,
}

impl One<'_> {
    fn resolve(&self, warnings: &mut Vec<String>) -> Result<Option<Setting>, CliError> {
        let mut matched = None;
        if let Some(needs) = self.rule.needs_for(self.line.command) {
            match self.met(&needs) {
                Some(value) => matched = value,
                None if self.raw.is_some_and(|raw| self.is_set(raw) && raw.source == Source::CommandLine) => {
                    return Err(self.unmet(&needs));
                }
                None => return needs.or_else.map(|value| self.convert_default(value, None)).transpose(),
            }
        }
        let Some(raw) = self.raw else {
            return self.fall_back(matched);
        };
        if self.is_set(raw) {
            let setting = self.convert(raw, matched, warnings)?;
            self.check_support(&setting)?;
            return Ok(Some(setting));
        }
        if raw.negate {
            let (source, negated) = (raw.source, true);
            return Ok(Some(Setting {
                value: None,
                display: Cow::Borrowed(""),
                source,
                negated,
                reset: false,
                from: ValueFrom::Itself,
            }));
        }
        let unset = Setting {
            value: None,
            display: "".into(),
            source: Source::Default,
            negated: false,
            reset: true,
            from: ValueFrom::Itself,
        };
        Ok(Some(self.fall_back(matched)?.map_or(unset, |setting| Setting { reset: true, ..setting })))
    }

    fn name(&self) -> String {
        let from = self.raw.map_or(ValueFrom::Itself, |raw| raw.from);
        key_name(self.rule, self.key) + from.ending()
    }

    fn is_set(&self, raw: &Raw) -> bool {
        !raw.reset && (self.rule.kind == Kind::Boolean || !raw.negate)
    }

    /// The index under which the other option of a condition is found.
    fn key_of(&self, other: usize) -> u16 {
        if OPTIONS[other].group.is_some() { self.key } else { 1 }
    }

    fn other(&self, needs: &Needs) -> Option<&Setting> {
        let id = options::id_of(needs.option)?;
        self.settings.values.get(&(id, self.key_of(id))).filter(|setting| setting.value.is_some())
    }

    /// `Some` if the condition holds, with the value of the other option if the condition lists values.
    fn met(&self, needs: &Needs) -> Option<Option<&'static str>> {
        let other = self.other(needs)?;
        if needs.values.is_empty() {
            return Some(None);
        }
        let actual = match &other.value {
            Some(Value::Boolean(true)) => "y",
            Some(Value::Boolean(false)) => "n",
            _ => &other.display,
        };
        needs.values.iter().find(|value| **value == actual).map(|value| Some(*value))
    }

    fn unmet(&self, needs: &Needs) -> CliError {
        let mut other = needs.option.to_owned();
        let mut is_boolean = false;
        if let Some(id) = options::id_of(needs.option) {
            other = key_name(&OPTIONS[id], self.key_of(id));
            is_boolean = OPTIONS[id].kind == Kind::Boolean;
        }
        let mut wanted = String::new();
        if self.other(needs).is_some() {
            let values: Vec<String> = needs.values.iter().map(|value| format!("'{value}'")).collect();
            match values.as_slice() {
                _ if is_boolean && needs.values == ["n"] => other = format!("no-{other}"),
                _ if is_boolean => {}
                [value] => wanted = format!(" = {value}"),
                _ => wanted = format!(" in ({})", values.join(", ")),
            }
        }
        let name = self.name();
        CliError::new(
            ErrorCode::OptionInvalid,
            format!("option '{name}' not valid without option '{other}'{wanted}"),
        )
    }

    /// The default, or an error where the command cannot do without a value.
    fn fall_back(&self, matched: Option<&'static str>) -> Result<Option<Setting>, CliError> {
        let command = self.line.command;
        let text: Cow<'static, str> = match self.rule.default_for(command) {
            Fallback::Value(value) => value.into(),
            Fallback::Path(path) => self.line.flavor.path(path).into(),
            Fallback::Program => self.line.program.clone().into(),
            Fallback::Map(map) => match map.iter().find(|(case, _)| Some(*case) == matched) {
                Some((_, value)) => (*value).into(),
                None => return self.missing(),
            },
            Fallback::Unset => return self.missing(),
        };
        self.convert_default(text, matched).map(Some)
    }

    fn missing(&self) -> Result<Option<Setting>, CliError> {
        if self.line.help || !self.rule.required_for(self.line.command) {
            return Ok(None);
        }
        let message = format!("{} command requires option: {}", self.line.command.name(), self.name());
        let error = CliError::new(ErrorCode::OptionRequired, message);
        Err(if self.rule.section == Section::Stanza { error.hint("does this stanza exist?") } else { error })
    }

    fn convert_default(
        &self,
        text: impl Into<Cow<'static, str>>,
        matched: Option<&'static str>,
    ) -> Result<Setting, CliError> {
        let display = text.into();
        let value = match self.rule.kind {
            Kind::Boolean => Value::Boolean(display == "y"),
            // A default is right by itself (a test holds the table to that); its range may not apply, as with "else".
            _ => self.typed(&display, matched, false)?,
        };
        let (source, from) = (Source::Default, ValueFrom::Itself);
        Ok(Setting { value: Some(value), display, source, negated: false, reset: false, from })
    }

    fn convert(
        &self,
        raw: &Raw,
        matched: Option<&'static str>,
        warnings: &mut Vec<String>,
    ) -> Result<Setting, CliError> {
        let texts = || raw.values.iter().map(|value| value.to_string());
        let first = raw.values.first().map_or("", |value| value.as_str());
        let mut display: Cow<'static, str> = "".into();
        let value = match self.rule.kind {
            Kind::Boolean => {
                display = if raw.negate { "n" } else { "y" }.into();
                Value::Boolean(!raw.negate)
            }
            Kind::List => Value::List(texts().collect()),
            Kind::Hash => Value::Hash(self.pairs(raw, warnings)?),
            _ if self.rule.secret && raw.from == ValueFrom::File => {
                display = self.path(first)?.into();
                Value::Elsewhere(display.clone().into_owned())
            }
            _ if self.rule.secret && raw.from == ValueFrom::Command => {
                self.not_empty(first)?;
                display = first.to_owned().into();
                Value::Elsewhere(first.to_owned())
            }
            _ if self.rule.secret => {
                self.not_empty(first)?;
                display = REDACTED.into();
                Value::Secret(Zeroizing::new(first.to_owned()))
            }
            _ => {
                let value = self.typed(first, matched, true)?;
                display = first.to_owned().into();
                value
            }
        };
        let (source, negated, from) = (raw.source, raw.negate, raw.from);
        Ok(Setting { value: Some(value), display, source, negated, reset: false, from })
    }

    fn pairs(&self, raw: &Raw, warnings: &mut Vec<String>) -> Result<Vec<(String, String)>, CliError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in &raw.values {
            let name = self.name();
            let Some((key, value)) = pair.split_once('=') else {
                let message = format!("key/value '{}' not valid for '{name}' option", pair.as_str());
                return Err(CliError::new(ErrorCode::OptionInvalid, message));
            };
            match pairs.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) => {
                    warnings.push(format!(
                        "key '{key}' value '{old}' is overwritten with '{value}' for '{name}' option"
                    ));
                    *old = value.to_owned();
                }
                None => pairs.push((key.to_owned(), value.to_owned())),
            }
        }
        Ok(pairs)
    }

    /// A single value by its type, within the values and ranges allowed.
    fn typed(&self, text: &str, matched: Option<&'static str>, check: bool) -> Result<Value, CliError> {
        let not_valid = || self.bad(format!("'{text}' is not valid for '{}' option", self.name()));
        if let Some(several) = self.repositories(text) {
            return several.ok_or_else(not_valid);
        }
        let value = match self.rule.kind {
            Kind::Integer => Value::Integer(size::parse_integer(text).ok_or_else(not_valid)?),
            Kind::Size => Value::Size(size::parse_size(text).ok_or_else(not_valid)?),
            Kind::Time => Value::Time(size::parse_time(text).ok_or_else(not_valid)?),
            Kind::Path => Value::Text(self.path(text)?),
            Kind::Text => {
                self.not_empty(text)?;
                Value::Text(text.to_owned())
            }
            _ => Value::Text(text.to_owned()),
        };
        if check {
            self.check_allowed(text, &value, matched)?;
            if self.rule.name == "stanza" && !is_stanza_name(text) {
                return Err(not_valid().hint("a stanza name cannot be a path or begin with a dot."));
            }
        }
        Ok(value)
    }

    /// The value of an option `repo` that names several repositories, for the command that works on several at once: `all`, or keys with
    /// commas between them; within, none where it cannot be understood.
    fn repositories(&self, text: &str) -> Option<Option<Value>> {
        if self.rule.name != "repo" || self.line.command != Command::Backup {
            return None;
        }
        if text == "all" {
            return Some(Some(Value::List(vec![text.to_owned()])));
        }
        let keys = text.contains(',').then(|| text.split(','))?;
        let keys: Option<BTreeSet<u16>> =
            keys.map(|key| key.parse().ok().filter(|key| (1..=KEY_MAX).contains(key))).collect();
        Some(keys.map(|keys| Value::List(keys.iter().map(ToString::to_string).collect())))
    }

    fn not_empty(&self, text: &str) -> Result<(), CliError> {
        if text.is_empty() {
            return Err(self.bad(format!("'' must be >= 1 character for '{}' option", self.name())));
        }
        Ok(())
    }

    fn path(&self, text: &str) -> Result<String, CliError> {
        self.not_empty(text)?;
        if !text.starts_with('/') {
            return Err(self.bad(format!("'{text}' must begin with / for '{}' option", self.name())));
        }
        if text.contains("//") {
            return Err(self.bad(format!("'{text}' cannot contain // for '{}' option", self.name())));
        }
        Ok(match text.strip_suffix('/') {
            Some("") | None => text.to_owned(),
            Some(path) => path.to_owned(),
        })
    }

    fn check_allowed(
        &self,
        text: &str,
        value: &Value,
        matched: Option<&'static str>,
    ) -> Result<(), CliError> {
        match self.rule.allow_for(self.line.command) {
            Allow::Any => Ok(()),
            Allow::Values(values) => {
                if values.iter().any(|allowed| self.same(allowed, text, value)) {
                    return Ok(());
                }
                let list: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
                Err(self
                    .bad(format!("'{text}' is not allowed for '{}' option", self.name()))
                    .hint(format!("allowed values are {}", list.join(", "))))
            }
            Allow::Range(from, to) => self.check_range(text, value, (from, to), String::new()),
            Allow::RangeMap(map) => match map.iter().find(|(case, _, _)| Some(*case) == matched) {
                Some((case, from, to)) => {
                    let other = self.rule.needs_for(self.line.command).map_or("", |needs| needs.option);
                    let other = options::id_of(other)
                        .map_or_else(String::new, |id| key_name(&OPTIONS[id], self.key_of(id)));
                    self.check_range(text, value, (from, to), format!(" when '{other}' option = '{case}'"))
                }
                None => Ok(()),
            },
        }
    }

    fn check_range(
        &self,
        text: &str,
        value: &Value,
        (from, to): (&'static str, &'static str),
        when: String,
    ) -> Result<(), CliError> {
        let number = |text: &str| self.typed(text, None, false).ok().and_then(|value| number_of(&value));
        let in_range = match (number(from), number_of(value), number(to)) {
            (Some(from), Some(number), Some(to)) => (from..=to).contains(&number),
            _ => false,
        };
        if in_range {
            return Ok(());
        }
        Err(self
            .bad(format!("'{text}' is out of range for '{}' option{when}", self.name()))
            .hint(format!("allowed range is {from} to {to} inclusive")))
    }

    fn same(&self, allowed: &str, text: &str, value: &Value) -> bool {
        match self.rule.kind {
            Kind::Choice => allowed == text,
            _ => self.typed(allowed, None, false).is_ok_and(|allowed| allowed == *value),
        }
    }

    /// Refuses what is not supported, unless it says no more than the default.
    fn check_support(&self, setting: &Setting) -> Result<(), CliError> {
        let rule = self.rule;
        let on_command_line = setting.source == Source::CommandLine;
        let is_default = rule.default_for(self.line.command) == Fallback::Value("n")
            && setting.value == Some(Value::Boolean(false));
        let support = rule.support_for(self.line.command);
        let option = support == Support::NotYet && (on_command_line || rule.refused) && !is_default;
        let value = rule.refused_values.iter().any(|refused| *refused == setting.display);
        if self.line.help {
            return Ok(());
        }
        let name = self.name();
        if let Support::Refused(why) = support {
            let message = format!("option '{name}' is not supported");
            let error = CliError::new(ErrorCode::FeatureNotSupported, message);
            return Err(why.iter().copied().fold(error, CliError::hint));
        }
        if !(option || value) {
            return Ok(());
        }
        if value {
            let message = format!("option '{name}' with value '{}' is not supported", setting.display);
            let error = CliError::new(ErrorCode::FeatureNotSupported, message);
            return Err(rule.refused_why.iter().copied().fold(error, CliError::hint));
        }
        let code = if on_command_line { ErrorCode::OptionInvalid } else { ErrorCode::FeatureNotSupported };
        Err(CliError::new(code, format!("option '{name}' is not supported yet")))
    }

    fn bad(&self, message: String) -> CliError {
        CliError::new(ErrorCode::OptionInvalidValue, message)
    }
}

fn number_of(value: &Value) -> Option<i128> {
    match value {
        Value::Integer(number) => Some(i128::from(*number)),
        Value::Size(number) => Some(i128::from(*number)),
        Value::Time(time) => i128::try_from(time.as_millis()).ok(),
        _ => None,
    }
}

/// A stanza's name becomes part of paths.
fn is_stanza_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.chars().any(|c| c == '/' || c.is_control())
}

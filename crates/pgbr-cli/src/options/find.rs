//! Finding the option that a written name means: indexes, prefixes, negation, reset and former names.

use super::{KEY_MAX, OPTIONS, OptionRule};
use crate::exit::{CliError, ErrorCode};

/// Longest name that is looked at.
const NAME_MAX: usize = 64;

/// Where the value of an option is: a secret need not stand in a config file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValueFrom {
    /// What is written is the value.
    #[default]
    Itself,
    /// Written with `-file` after the name: the path of a file that holds it.
    File,
    /// Written with `-command` after the name: a command that prints it.
    Command,
}

impl ValueFrom {
    /// What is put after the option's name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Itself => "",
            Self::File => "-file",
            Self::Command => "-command",
        }
    }
}

/// What a written name means.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Place of the option in [`OPTIONS`].
    pub id: usize,
    /// Index as written, 1 where none is; 1 for options without an index.
    pub key: u16,
    /// Written with `no-` before it.
    pub negate: bool,
    /// Written with `reset-` before it.
    pub reset: bool,
    /// Written with an ending that says where the value is.
    pub from: ValueFrom,
}

impl Found {
    /// The option's entry.
    pub fn rule(&self) -> &'static OptionRule {
        &OPTIONS[self.id]
    }

    /// The option's present name with its index, and its ending.
    pub fn name(&self) -> String {
        key_name(self.rule(), self.key) + self.from.ending()
    }

    /// Whether what is written is a secret.
    pub fn is_secret(&self) -> bool {
        self.rule().secret && self.from == ValueFrom::Itself
    }
}

/// Which shortcuts a written name may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// The whole name (environment, config files).
    Whole,
    /// A unique prefix will do (command line).
    Prefix,
    /// The whole name, and the index may be left out (help).
    NoIndex,
}

/// Finds the option of a whole name; `Ok(None)` if there is none.
///
/// # Errors
/// `option-invalid` when there is one but the name breaks a rule: index missing, out of range or not allowed; negation or
/// reset not allowed.
pub fn find(written: &str) -> Result<Option<Found>, CliError> {
    find_spelled(written, Spelling::Whole)
}

/// Place in [`OPTIONS`] of the option with exactly this name, without index.
pub(crate) fn id_of(name: &str) -> Option<usize> {
    OPTIONS.binary_search_by(|rule| rule.name.cmp(name)).ok()
}

/// Name of an option with its index: `repo2-path`.
pub fn key_name(rule: &OptionRule, key: u16) -> String {
    match rule.group {
        Some(group) => {
            let rest = rule.name.strip_prefix(group.name()).unwrap_or(rule.name);
            format!("{}{key}{rest}", group.name())
        }
        None => rule.name.to_owned(),
    }
}

pub(crate) fn find_spelled(written: &str, spelling: Spelling) -> Result<Option<Found>, CliError> {
    if written.len() > NAME_MAX {
        return Err(invalid(format!("option '{written}' exceeds maximum size of {NAME_MAX}")));
    }
    let (negate, reset, bare) = match (written.strip_prefix("no-"), written.strip_prefix("reset-")) {
        (Some(bare), _) => (true, false, bare),
        (None, Some(bare)) => (false, true, bare),
        (None, None) => (false, false, written),
    };
    let (name, key) = split_key(written, bare)?;
    let Some((id, old_name)) = search(&name, spelling) else {
        return if negate || reset { Ok(None) } else { find_elsewhere(written, &name, key, spelling) };
    };
    let rule = &OPTIONS[id];
    if negate && !rule.negatable {
        return Err(invalid(format!("option '{written}' cannot be negated")));
    }
    if reset && !rule.resettable() {
        return Err(invalid(format!("option '{written}' cannot be reset")));
    }
    if spelling != Spelling::NoIndex || key.is_some() {
        check_key(written, bare, rule, old_name, key)?;
    }
    Ok(Some(Found { id, key: key.unwrap_or(1), negate, reset, from: ValueFrom::Itself }))
}

/// The secret that a name with an ending means: its value is elsewhere.
fn find_elsewhere(
    written: &str,
    name: &str,
    key: Option<u16>,
    spelling: Spelling,
) -> Result<Option<Found>, CliError> {
    for from in [ValueFrom::File, ValueFrom::Command] {
        let stem = name.strip_suffix(from.ending()).and_then(id_of).filter(|id| OPTIONS[*id].secret);
        let Some(id) = stem else { continue };
        if key.is_none() && OPTIONS[id].group.is_some() && spelling != Spelling::NoIndex {
            let example = key_name(&OPTIONS[id], 1) + from.ending();
            return Err(invalid(format!("option '{written}' requires an index"))
                .hint(format!("add the required index, e.g. {example}.")));
        }
        return Ok(Some(Found { id, key: key.unwrap_or(1), negate: false, reset: false, from }));
    }
    Ok(None)
}

/// Names that a prefix could mean, for a hint.
pub(crate) fn candidates(written: &str) -> Vec<&'static str> {
    let bare = written.strip_prefix("no-").or_else(|| written.strip_prefix("reset-")).unwrap_or(written);
    match split_key(written, bare) {
        Ok((name, _)) if !name.is_empty() => {
            OPTIONS.iter().map(|rule| rule.name).filter(|known| known.starts_with(&name)).collect()
        }
        _ => Vec::new(),
    }
}

/// Takes the index out: `repo12-path` gives `repo-path` and 12.
fn split_key(written: &str, bare: &str) -> Result<(String, Option<u16>), CliError> {
    let Some((head, rest)) = bare.split_once('-') else {
        return Ok((bare.to_owned(), None));
    };
    if head.is_empty() {
        return Err(invalid(format!("option '{written}' cannot begin with a dash")));
    }
    let family = head.trim_end_matches(|c: char| c.is_ascii_digit());
    if family.is_empty() {
        return Err(invalid(format!("option '{written}' cannot begin with a number")));
    }
    let digits = head.strip_prefix(family).unwrap_or("");
    if digits.is_empty() {
        return Ok((bare.to_owned(), None));
    }
    match digits.parse::<u16>() {
        Ok(key) if (1..=KEY_MAX).contains(&key) => Ok((format!("{family}-{rest}"), Some(key))),
        _ => Err(invalid(format!("option '{written}' key must be between 1 and {KEY_MAX}"))),
    }
}

/// The option that a name without index means, and the former name it was found under: exact, then by unique prefix,
/// then by former name, then by unique prefix of a former name. A prefix of several present names means none of them.
fn search(name: &str, spelling: Spelling) -> Option<(usize, Option<String>)> {
    if let Some(id) = id_of(name) {
        return Some((id, None));
    }
    let prefix = spelling == Spelling::Prefix;
    let mut present = OPTIONS.iter().enumerate().filter(|(_, rule)| prefix && rule.name.starts_with(name));
    match (present.next(), present.next()) {
        (Some((id, _)), None) => return Some((id, None)),
        (Some(_), Some(_)) => return None,
        (None, _) => {}
    }
    let exact = old_names().find(|(_, old)| old == name);
    exact
        .or_else(|| prefix.then(|| only(old_names().filter(|(_, old)| old.starts_with(name))))?)
        .map(|(id, old)| (id, Some(old)))
}

/// Former names without their index mark, each once, with the option they belong to.
fn old_names() -> impl Iterator<Item = (usize, String)> {
    OPTIONS.iter().enumerate().flat_map(|(id, rule)| {
        let mut names: Vec<String> = rule.old_names.iter().map(|name| name.replace('?', "")).collect();
        names.dedup();
        names.into_iter().map(move |name| (id, name))
    })
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// Checks that an index is there exactly where it has to be.
fn check_key(
    written: &str,
    bare: &str,
    rule: &OptionRule,
    old_name: Option<String>,
    key: Option<u16>,
) -> Result<(), CliError> {
    // A former name may equal the present one without its index (`repo-path`).
    let old = old_name.or_else(|| {
        (key.is_none() && rule.group.is_some() && rule.old_names.contains(&rule.name))
            .then(|| rule.name.to_owned())
    });
    let example = key_name(rule, 1);
    match (old, key) {
        (Some(old), Some(_))
            if !rule.old_names.iter().any(|name| name.contains('?') && name.replace('?', "") == old) =>
        {
            Err(invalid(format!("deprecated option '{written}' cannot have an index")))
        }
        (Some(old), None) if !rule.old_names.contains(&old.as_str()) => {
            let (head, rest) = bare.split_once('-').unwrap_or((bare, ""));
            Err(invalid(format!("deprecated option '{written}' requires an index"))
                .hint(format!("add the required index, e.g. {head}1-{rest}."))
                .hint(format!("consider using the non-deprecated name, e.g. {example}.")))
        }
        (None, Some(_)) if rule.group.is_none() => {
            Err(invalid(format!("option '{written}' cannot have an index")))
        }
        (None, None) if rule.group.is_some() => Err(invalid(format!("option '{written}' requires an index"))
            .hint(format!("add the required index, e.g. {example}."))),
        _ => Ok(()),
    }
}

fn invalid(message: String) -> CliError {
    CliError::new(ErrorCode::OptionInvalid, message)
}

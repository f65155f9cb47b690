//! Texts of `help`, `help COMMAND`, `help COMMAND OPTION` and `version`.
//!
//! The layout is pgBackRest's, because shell completion reads it: options are indented by two spaces, values are `* value`.

use std::collections::BTreeMap;

use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::options::{
    self, Allow, COMMANDS, Command, Fallback, Kind, Listed, OPTIONS, OptionRule, Spelling, Support, key_name,
};
use crate::settings::{REDACTED, Settings, Source};

/// Width that texts are wrapped to.
const WIDTH: usize = 80;

/// Stands for values that differ between the indexes of an option.
const MULTI: &str = "<multi>";

/// The text that `help`, `version` and help on a command or an option print, with its last line feed if it has one.
///
/// # Errors
/// `param-invalid` for more than one option; `option-invalid` for an option that the command does not take.
pub fn render(settings: &Settings) -> Result<String, CliError> {
    let flavor = settings.flavor();
    let command = settings.command();
    if settings.is_help() {
        return match settings.params() {
            [] => Ok(command_text(settings)),
            [option] => option_text(settings, option),
            _ => Err(CliError::new(ErrorCode::ParamInvalid, "only one option allowed for option help")),
        };
    }
    let only_version = settings.get_bool("version") && !settings.get_bool("help");
    Ok(match command {
        Command::Version if settings.get_str("output") == Some("num") => flavor.version_number().to_string(),
        Command::Version => title(flavor) + "\n",
        _ if only_version => title(flavor) + "\n",
        _ => general_text(flavor),
    })
}

fn title(flavor: Flavor) -> String {
    format!("{} {}", flavor.product(), flavor.version())
}

fn more(flavor: Flavor, what: &str) -> String {
    format!("\nUse '{} help {what}' for more information.\n", flavor.program())
}

fn general_text(flavor: Flavor) -> String {
    let mut text = format!(
        "{} - General help\n\nUsage:\n    {} [options] [command]\n\nCommands:\n",
        title(flavor),
        flavor.program()
    );
    let shown: Vec<_> = COMMANDS.iter().filter(|rule| !rule.internal).collect();
    let width = shown.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    for rule in shown {
        let mut summary = lowered(&flavor.text(rule.help));
        if let Some(mark) = mark(rule.support) {
            summary += &format!(" [{mark}]");
        }
        let summary = wrapped(&summary, width + 6, false);
        text += &format!("    {:width$}  {summary}\n", rule.name);
    }
    text + &more(flavor, "[command]")
}

fn command_text(settings: &Settings) -> String {
    let (flavor, command) = (settings.flavor(), settings.command());
    let rule = command.rule();
    let mut description = flavor.text(rule.description);
    if rule.support == Support::NotYet {
        description += " Not supported yet.";
    }
    let mut text = format!(
        "{} - '{}' command help\n\n{}\n\n{}\n",
        title(flavor),
        rule.name,
        wrapped(&flavor.text(rule.help), 0, true),
        wrapped(&description, 0, true)
    );
    let mut headings: BTreeMap<Listed, Vec<&OptionRule>> = BTreeMap::new();
    for option in OPTIONS.iter().filter(|rule| rule.valid_for(command) && !rule.internal_for(command)) {
        headings.entry(option.listed_for(command)).or_default().push(option);
    }
    let width = headings.values().flatten().map(|rule| rule.name.len()).max().unwrap_or(0);
    for (heading, options) in &headings {
        text += &format!("\n{heading:?} Options:\n\n");
        for option in options {
            let mut summary = lowered(&flavor.text(option.help_for(command)));
            let values = [("current", current(settings, option)), ("default", default(settings, option))];
            let values = values.into_iter().filter_map(|(what, value)| Some(format!("{what}={}", value?)));
            let values: Vec<String> = values.chain(mark(option.support_for(command))).collect();
            if !values.is_empty() {
                summary += &format!(" [{}]", values.join(", "));
            }
            text += &format!("  --{:width$}  {}\n", option.name, wrapped(&summary, width + 6, false));
        }
    }
    text + &more(flavor, &format!("{} [option]", rule.name))
}

fn option_text(settings: &Settings, name: &str) -> Result<String, CliError> {
    let (flavor, command) = (settings.flavor(), settings.command());
    let rule = match options::find_spelled(name, Spelling::NoIndex)? {
        Some(found) if found.rule().valid_for(command) => found.rule(),
        _ => {
            let message = format!("option '{name}' is not valid for command '{}'", command.name());
            return Err(CliError::new(ErrorCode::OptionInvalid, message));
        }
    };
    let mut text = format!(
        "{} - '{}' command - '{}' option help\n\n{}\n",
        title(flavor),
        command.name(),
        rule.name,
        wrapped(&flavor.text(rule.help_for(command)), 0, true)
    );
    for paragraph in facts(rule, command) {
        text += &format!("\n{}\n", wrapped(&flavor.text(&paragraph), 0, true));
    }
    let (current, default) = (current_lines(settings, rule), default(settings, rule));
    if current.is_some() || default.is_some() {
        text += "\n";
    }
    text += &current.unwrap_or_default();
    if let Some(default) = default {
        text += &format!("default: {default}\n");
    }
    let mut old: Vec<String> = rule.old_names.iter().map(|name| name.replace('?', "")).collect();
    old.retain(|name| name != rule.name);
    old.dedup();
    if !old.is_empty() {
        let s = if old.len() == 1 { "" } else { "s" };
        text += &format!("\ndeprecated name{s}: {}\n", old.join(", "));
    }
    Ok(text)
}

/// What a list says of something that does not work.
fn mark(support: Support) -> Option<String> {
    match support {
        Support::Works => None,
        Support::NoEffect(_) => Some("no effect".to_owned()),
        Support::NotYet => Some("not supported yet".to_owned()),
        Support::Refused(_) => Some("not supported".to_owned()),
    }
}

/// What the table knows of an option, as paragraphs.
fn facts(rule: &OptionRule, command: Command) -> Vec<String> {
    let mut facts = Vec::new();
    match rule.allow_for(command) {
        Allow::Any => {}
        // Shells that complete what is typed read sizes from a sentence, and words from a list.
        Allow::Values([rest @ .., last]) if rule.kind == Kind::Size => {
            facts.push(format!("Allowed values are {}, and {last}.", rest.join(", ")));
        }
        Allow::Values(values) => {
            let lines = values.iter().map(|value| match rule.refused_values.contains(value) {
                true => format!("* {value} - not supported"),
                false => format!("* {value}"),
            });
            facts.push("The following values are allowed:".to_owned());
            facts.push(lines.collect::<Vec<_>>().join("\n"));
        }
        Allow::Range(from, to) => facts.push(format!("The allowed range is {from} to {to}.")),
        Allow::RangeMap(map) => {
            let needed = rule.needs_for(command).map_or("", |needs| needs.option);
            facts.push(format!("The allowed range depends on the {needed} option:"));
            let lines: Vec<String> =
                map.iter().map(|(case, from, to)| format!("* {case} - {from} to {to}")).collect();
            facts.push(lines.join("\n"));
        }
    }
    match rule.kind {
        Kind::Hash => facts.push("The option may be repeated; each value is a key=value pair.".to_owned()),
        Kind::List => facts.push("The option may be repeated.".to_owned()),
        _ => {}
    }
    if let Some(group) = rule.group {
        let (one, two) = (key_name(rule, 1), key_name(rule, 2));
        let what = if group.name() == "pg" { "cluster" } else { "repository" };
        facts.push(format!("The name takes the number of the {what}: {one}, {two} and so on."));
    }
    if let Some(needs) = rule.needs_for(command) {
        let with = match needs.values {
            [] => String::new(),
            values => format!(" = {}", values.join(", ")),
        };
        facts.push(format!("Valid only with option {}{with}.", needs.option));
    }
    if rule.secret {
        facts.push("The option is a secret: it is not allowed on the command line.".to_owned());
        let name = key_name(rule, 1);
        facts.push(format!(
            "Instead of the secret its place may be given: {name}-file is the path of a file that holds it, {name}-command a command that prints it."
        ));
    }
    match rule.support_for(command) {
        Support::Works => {}
        Support::NoEffect(reason) => facts.push(format!("The option is accepted without effect: {reason}.")),
        Support::NotYet => facts.push("The option is not supported yet.".to_owned()),
        Support::Refused(why) => facts.push(format!("The option is not supported: {}", why.join(" "))),
    }
    facts
}

/// The value that something has set for an index.
fn current_of(settings: &Settings, rule: &OptionRule, key: u16) -> Option<String> {
    let id = options::id_of(rule.name)?;
    let setting = settings.values.get(&(id, key)).filter(|setting| setting.source != Source::Default)?;
    let shown = setting.shown();
    (!shown.is_empty()).then(|| shown.join(", "))
}

fn keys<'a>(settings: &'a Settings, rule: &OptionRule) -> &'a [u16] {
    rule.group.map_or(&[1], |group| settings.keys_of(group))
}

fn current(settings: &Settings, rule: &OptionRule) -> Option<String> {
    let mut values = keys(settings, rule).iter().map(|key| current_of(settings, rule, *key));
    let first = values.next().flatten();
    if values.any(|value| value != first) {
        return Some(if rule.secret { REDACTED } else { MULTI }.to_owned());
    }
    first
}

fn current_lines(settings: &Settings, rule: &OptionRule) -> Option<String> {
    let current = current(settings, rule)?;
    if current != MULTI {
        return Some(format!("current: {current}\n"));
    }
    let group = rule.group.map_or("", options::Group::name);
    let lines = keys(settings, rule)
        .iter()
        .filter_map(|key| Some(format!("  {group}{key}: {}\n", current_of(settings, rule, *key)?)));
    Some("current:\n".to_owned() + &lines.collect::<String>())
}

fn default(settings: &Settings, rule: &OptionRule) -> Option<String> {
    let command = settings.command();
    match rule.default_for(command) {
        Fallback::Unset => None,
        Fallback::Value(value) => Some(value.to_owned()),
        Fallback::Path(path) => Some(settings.flavor().path(path)),
        Fallback::Program => Some(settings.program().to_owned()),
        Fallback::Map(map) => {
            let other = options::id_of(rule.needs_for(command)?.option)?;
            let key = if OPTIONS[other].group.is_some() { *keys(settings, rule).first()? } else { 1 };
            let actual = &settings.values.get(&(other, key))?.display;
            map.iter().find(|(case, _)| case == actual).map(|(_, value)| (*value).to_owned())
        }
    }
}

/// A sentence as part of a list: without its period, and its first letter small unless the word is a name.
fn lowered(sentence: &str) -> String {
    let text = sentence.strip_suffix('.').unwrap_or(sentence);
    let word: String =
        text.split(' ').next().unwrap_or_default().chars().filter(|c| c.is_alphabetic()).collect();
    let capitals = word.chars().filter(|c| c.is_uppercase()).count();
    let mut rest = text.chars();
    match rest.next() {
        Some(first) if capitals == 1 && word.chars().count() > 1 => {
            first.to_lowercase().chain(rest).collect()
        }
        _ => text.to_owned(),
    }
}

/// A text wrapped to the width, further lines indented; the first one too if `indent_first`.
fn wrapped(text: &str, indent: usize, indent_first: bool) -> String {
    let room = WIDTH - indent;
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    let pad = " ".repeat(indent);
    let first = if indent_first { pad.as_str() } else { "" };
    format!("{first}{}", lines.join(&format!("\n{pad}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_keep_names() {
        for (sentence, part) in [
            ("Backup a database cluster.", "backup a database cluster"),
            ("PostgreSQL port.", "PostgreSQL port"),
            ("S3 repository bucket.", "S3 repository bucket"),
            ("I/O timeout.", "I/O timeout"),
            ("pgBackRest command.", "pgBackRest command"),
        ] {
            assert_eq!(lowered(sentence), part);
        }
    }

    #[test]
    fn long_texts_are_wrapped_and_indented() {
        let text = wrapped(&"word ".repeat(20), 60, false);
        assert!(text.lines().all(|line| line.trim_start().len() <= 20), "{text}");
        assert!(text.lines().skip(1).all(|line| line.starts_with(&" ".repeat(60))));
        assert_eq!(wrapped("a\nb", 2, true), "  a\n  b");
    }
}

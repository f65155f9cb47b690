//! docs/compatibility.md lists every command and option with its state, as the table of the program has them.
//!
//! Run with `UPDATE_SNAPSHOTS=1` to write the list anew, then look at the difference.

use std::fmt::Write;

use pgbr_cli::options::{ALL, COMMANDS, Command, Group, OPTIONS, OptionRule, Support};

const BEGIN: &str = "<!-- generated: options -->\n";
const STRING: &str = "a string takes what is written";
const END: &str = "<!-- end of generated -->\n";

#[test]
fn the_list_in_the_documentation_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compatibility.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the list");
    let (found, after) = rest.split_once(END).expect("the list has an end");
    let expected = list();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        return std::fs::write(path, [before, BEGIN, &expected, END, after].concat()).unwrap();
    }
    assert!(found == expected, "the list differs from the table: run this test with UPDATE_SNAPSHOTS=1");
}

fn list() -> String {
    let mut text = "\n### Commands\n\n| command | state |\n|---|---|\n".to_owned();
    for rule in &COMMANDS {
        writeln!(text, "| `{}` | {} |", rule.name, state(rule.support, rule.ours)).expect(STRING);
    }
    text += "\n### Options\n\n| option | commands | state |\n|---|---|---|\n";
    for rule in &OPTIONS {
        writeln!(text, "| `{}` | {} | {} |", name(rule), commands(rule), states(rule)).expect(STRING);
    }
    text + "\n"
}

fn name(rule: &OptionRule) -> String {
    let group = rule.group.map_or("", Group::name);
    match rule.name.strip_prefix(group) {
        Some(rest) if rule.group.is_some() => format!("{group}N{rest}"),
        _ => rule.name.to_owned(),
    }
}

fn known() -> impl Iterator<Item = Command> {
    COMMANDS.iter().map(|rule| rule.command)
}

fn quoted(commands: &[Command]) -> String {
    let names: Vec<String> = commands.iter().map(|command| format!("`{}`", command.name())).collect();
    names.join(", ")
}

/// Names of the commands, or of those that are left out where these are fewer.
fn commands(rule: &OptionRule) -> String {
    let (with, without): (Vec<Command>, Vec<Command>) =
        known().filter(|command| ALL & (1 << *command as u8) != 0).partition(|c| rule.valid_for(*c));
    let others: Vec<Command> = known().filter(|c| rule.valid_for(*c) && !with.contains(c)).collect();
    match (with.as_slice(), without.as_slice()) {
        ([], []) => unreachable!("there are commands"),
        ([], _) if others.is_empty() => "helper processes only".to_owned(),
        ([], _) => quoted(&others),
        (_, []) => "all".to_owned(),
        (_, few) if few.len() < with.len() => format!("all but {}", quoted(few)),
        _ => quoted(&with),
    }
}

fn state(support: Support, ours: bool) -> String {
    match support {
        Support::Works if ours => "ours".to_owned(),
        Support::Works => "works".to_owned(),
        Support::NoEffect(reason) => format!("no effect: {reason}"),
        Support::NotYet => "not there yet".to_owned(),
        Support::Refused(why) => {
            format!("refused wherever it is set: {}", why.first().map_or("", |why| why.trim_end_matches('.')))
        }
    }
}

/// The state for most commands, then what differs for others, then what is refused.
fn states(rule: &OptionRule) -> String {
    let mut by_state: Vec<(String, Vec<Command>)> = Vec::new();
    let most = most(rule);
    for command in known().filter(|command| rule.valid_for(*command)) {
        let state = state(rule.support_for(command), rule.ours);
        match by_state.iter_mut().find(|(known, _)| *known == state) {
            Some((_, commands)) => commands.push(command),
            None => by_state.push((state, vec![command])),
        }
    }
    let mut parts = vec![most.clone()];
    for (state, commands) in by_state.iter().filter(|(state, _)| *state != most) {
        parts.push(format!("{}: {state}", quoted(commands)));
    }
    if rule.refused {
        parts.push("refused wherever it is set".to_owned());
    }
    for value in rule.refused_values {
        let why = rule.refused_why.first().map_or("", |why| why.trim_end_matches('.'));
        parts.push(format!("`{value}` refused: {why}"));
    }
    parts.join("; ")
}

fn most(rule: &OptionRule) -> String {
    let states =
        || known().filter(|command| rule.valid_for(*command)).map(|c| state(rule.support_for(c), rule.ours));
    let count = |wanted: &String| states().filter(|state| state == wanted).count();
    states().max_by_key(count).unwrap_or_else(|| state(Support::NotYet, false))
}

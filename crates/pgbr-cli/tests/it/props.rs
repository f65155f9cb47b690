//! Whatever comes in, what comes out is settings or an error of a documented code, never a panic.

use pgbr_cli::flavor::Flavor;
use pgbr_cli::ini::Ini;
use pgbr_cli::options::{COMMANDS, OPTIONS};
use pgbr_cli::settings::Source;
use pgbr_cli::{help, parse};
use proptest::prelude::*;

/// Words that are likely to mean something.
fn word() -> impl Strategy<Value = String> {
    let names: Vec<&str> = OPTIONS.iter().map(|rule| rule.name).collect();
    let commands: Vec<&str> = COMMANDS.iter().map(|rule| rule.name).collect();
    let value = prop_oneof!["[0-9a-z/.:=-]{0,6}", Just("y".to_owned()), Just("posix".to_owned()), "\\PC*"];
    let key = prop_oneof![Just(String::new()), "[0-9]{1,4}"];
    let prefix = prop_oneof![Just(""), Just("no-"), Just("reset-")];
    let option = (prefix, prop::sample::select(names), key, value, any::<bool>(), 0usize..40).prop_map(
        |(prefix, name, key, value, has_value, cut)| {
            let name = name.replacen('-', &format!("{key}-"), 1);
            let name: String = name.chars().take(name.len().saturating_sub(cut / 8)).collect();
            if has_value { format!("--{prefix}{name}={value}") } else { format!("--{prefix}{name}") }
        },
    );
    prop_oneof![6 => option, 2 => prop::sample::select(commands).prop_map(str::to_owned), 1 => "\\PC*"]
}

fn config_text() -> impl Strategy<Value = String> {
    let names: Vec<&str> = OPTIONS.iter().map(|rule| rule.name).collect();
    let section = prop_oneof![Just("[global]"), Just("[demo]"), Just("[demo:backup]"), Just("[global:info]")];
    let entry = (prop::sample::select(names), prop_oneof![Just(""), Just("1"), Just("2")], "[0-9a-z/=]{0,5}")
        .prop_map(|(name, key, value)| format!("{}={value}", name.replacen('-', &format!("{key}-"), 1)));
    let line = prop_oneof![3 => entry, 1 => section.prop_map(str::to_owned), 1 => "\\PC{0,8}"];
    prop::collection::vec(line, 0..8).prop_map(|lines| format!("[global]\n{}", lines.join("\n")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_arguments_environment_and_file(
        words in prop::collection::vec(word(), 0..6),
        env in prop::collection::vec(("[A-Z0-9_]{0,12}", "\\PC{0,6}"), 0..4),
        config in config_text(),
    ) {
        let args: Vec<&str> = std::iter::once("pgbr").chain(words.iter().map(String::as_str)).collect();
        let env: Vec<(String, String)> = env.into_iter().map(|(name, value)| (format!("PGBR_{name}"), value)).collect();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match parse::settings_of(&args, &env, &config, Flavor::Pgbr) {
            Ok(settings) => {
                settings.begin_message();
                settings.notes();
                if settings.is_help() {
                    help::render(&settings).ok();
                }
                prop_assert!(!settings.keys("repo").is_empty() && settings.keys("pg").contains(&1));
            }
            Err(error) => prop_assert!((25..=125).contains(&error.code.number()), "{error:?}"),
        }
    }

    #[test]
    fn any_config_file(text in "\\PC*|(\\[[a-z:]*\\]\n|[a-z0-9-]*=[a-z]*\n)*") {
        if Ini::parse(&text, None).is_ok() {
            let result = parse::settings_of(&["pgbr", "info"], &[], &text, Flavor::Pgbr);
            prop_assert!(result.is_ok_and(|s| s.source("stanza") == Source::Default) || !text.is_empty());
        }
    }

    #[test]
    fn a_set_integer_comes_back(number in 1i64..=999) {
        let option = format!("--process-max={number}");
        let args = ["pgbr", "verify", "--stanza=d", &option];
        let settings = parse::settings_of(&args, &[], "", Flavor::Pgbr).expect("it is in range");
        prop_assert_eq!(settings.get_int("process-max"), Some(number));
        prop_assert!(settings.begin_message().contains(&option));
    }
}

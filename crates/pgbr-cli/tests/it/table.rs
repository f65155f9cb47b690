//! The table of options is consistent in itself and has the facts that it was made from.

use pgbr_cli::config;
use pgbr_cli::exit::ErrorCode;
use pgbr_cli::options::{
    Allow, COMMANDS, Command, CommandRule, Fallback, Group, Kind, OPTIONS, OptionRule, Section, Support,
};
use pgbr_cli::size::{parse_integer, parse_size, parse_time};

fn rule(name: &str) -> &'static OptionRule {
    OPTIONS.iter().find(|rule| rule.name == name).unwrap_or_else(|| panic!("no option {name}"))
}

fn names(wanted: impl Fn(&OptionRule) -> bool) -> Vec<&'static str> {
    OPTIONS.iter().filter(|rule| wanted(rule)).map(|rule| rule.name).collect()
}

#[test]
fn names_are_sorted_and_bounded() {
    assert!(OPTIONS.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!((names(|r| !r.ours).len(), names(|r| r.ours).len()), (199, 38));
    assert_eq!(COMMANDS.iter().filter(|rule| !rule.ours).count(), 22);
    for rule in &OPTIONS {
        assert!(rule.name.len() < 60 && !rule.name.starts_with("no-") && !rule.name.starts_with("reset-"));
        let group = rule.name.split_once('-').map(|(head, _)| head);
        match rule.group {
            Some(known) => assert_eq!(group, Some(known.name()), "{}", rule.name),
            None => {
                assert!(
                    !rule.name.starts_with("pg-") || ["pg-bin-path", "pg-version-force"].contains(&rule.name),
                    "{}",
                    rule.name
                );
            }
        }
    }
}

#[test]
fn how_many_there_are() {
    // pgBackRest's own numbers, plus ours: `restore-config` (a path), `repo-pack-size` (a size), four rules of retention by calendar,
    // `hold` and `hold-reason`, `to-repo`, `verify` and `wal` of `repo-copy`, seven of the commands about keys, `budget` and `quick` of `verify`,
    // three about a record elsewhere, nine of `drill`, three ages of `check`, `recovery-window` of `info`, and `pgbackrest-remove` of `expire`.
    assert_eq!(names(|r| r.section == Section::CommandLine).len(), 33 + 19);
    assert_eq!(names(|r| r.section == Section::Stanza).len(), 14);
    assert_eq!(names(|r| r.group == Some(Group::Pg)).len(), 18);
    assert_eq!(names(|r| r.group == Some(Group::Repo)).len(), 79 + 6);
    for (kind, count) in [
        (Kind::Boolean, 42 + 9),
        (Kind::Choice, 25 + 1),
        (Kind::Hash, 9 + 1),
        (Kind::Integer, 22 + 5),
        (Kind::List, 6 + 1),
        (Kind::Path, 16 + 7),
        (Kind::Size, 11 + 1),
        (Kind::Text, 63 + 9),
        (Kind::Time, 5 + 4),
    ] {
        assert_eq!(names(|r| r.kind == kind).len(), count, "{kind:?}");
    }
    for (command, count) in [
        (Command::Annotate, 93 + 3),
        (Command::ArchiveGet, 105 + 1),
        (Command::ArchivePush, 109 + 1),
        (Command::Backup, 153 + 9),
        (Command::Check, 114 + 4),
        (Command::Drill, 115),
        (Command::Expire, 102 + 8),
        (Command::Help, 2),
        (Command::Info, 95 + 2),
        (Command::KeyAdd, 97),
        (Command::KeyChange, 96),
        (Command::KeyExport, 94),
        (Command::KeyImport, 95),
        (Command::KeyList, 93),
        (Command::KeyRemove, 94),
        (Command::KeyRotate, 96),
        (Command::Manifest, 110 + 1),
        (Command::RepoCopy, 103),
        (Command::RepoGet, 93 + 1),
        (Command::RepoLs, 95 + 1),
        (Command::RepoRm, 91 + 2),
        (Command::Restore, 117 + 4),
        (Command::Server, 28),
        (Command::ServerPing, 23),
        (Command::StanzaCreate, 113 + 1),
        (Command::StanzaDelete, 113 + 1),
        (Command::StanzaUpgrade, 112 + 1),
        (Command::Start, 15),
        (Command::Stop, 16),
        (Command::Verify, 99 + 6),
        (Command::Version, 1),
    ] {
        assert_eq!(names(|r| r.valid_for(command)).len(), count, "{command:?}");
    }
}

#[test]
fn sets_that_matter() {
    assert_eq!(
        names(|r| r.secret),
        [
            "export-pass",
            "new-cipher-pass",
            "repo-azure-account",
            "repo-azure-endpoint",
            "repo-azure-key",
            "repo-cipher-pass",
            "repo-gcs-key",
            "repo-pgbackrest-cipher-pass",
            "repo-s3-key",
            "repo-s3-key-secret",
            "repo-s3-sse-customer-key",
            "repo-s3-token",
            "repo-sftp-private-key-passphrase",
        ]
    );
    assert_eq!(
        names(|r| r.kind == Kind::Hash),
        [
            "annotation",
            "drill-option",
            "link-map",
            "recovery-option",
            "repo-block-age-map",
            "repo-block-checksum-size-map",
            "repo-block-size-map",
            "repo-storage-tag",
            "tablespace-map",
            "tls-server-auth",
        ]
    );
    assert_eq!(names(|r| r.refused), ["pg-host", "repo-host"]);
    assert_eq!(names(|r| !r.refused_values.is_empty()), ["repo-type"]);
    assert_eq!(names(|r| r.bool_like), ["backup-standby"]);
    // Every boolean of a config file can be negated; of the others only four.
    assert_eq!(
        names(|r| r.negatable && (r.section == Section::CommandLine || r.kind != Kind::Boolean)),
        ["backup-standby", "config", "hold", "online", "verify"]
    );
    assert!(
        OPTIONS.iter().all(|r| r.negatable || r.kind != Kind::Boolean || r.section == Section::CommandLine)
    );
}

#[test]
fn defaults_that_differ_from_pgbackrest_are_these() {
    assert_eq!(rule("compress-type").default_for(Command::Backup), Fallback::Value("zst"));
    assert_eq!(rule("repo-pack-size").default_for(Command::Backup), Fallback::Value("16MiB"));
    assert_eq!(rule("repo-pack-size").allow_for(Command::Backup), Allow::Range("1MiB", "128MiB"));
    assert_eq!(
        rule("repo-cipher-type").allow_for(Command::Info),
        Allow::Values(&["none", "aes-256-cbc", "aes-256-gcm"])
    );
    let paths: Vec<_> = OPTIONS
        .iter()
        .filter_map(|r| match r.default_for(Command::Backup) {
            Fallback::Path(path) => Some((r.name, path)),
            _ => None,
        })
        .collect();
    assert_eq!(paths.len(), 13, "{paths:?}");
    assert!(paths.iter().all(|(_, path)| path.contains("pgbackrest")));
}

#[test]
fn defaults_and_ranges_are_values_of_their_type() {
    for rule in &OPTIONS {
        let is_value = |text: &str| match rule.kind {
            Kind::Boolean => matches!(text, "y" | "n"),
            Kind::Integer => parse_integer(text).is_some(),
            Kind::Size => parse_size(text).is_some(),
            Kind::Time => parse_time(text).is_some(),
            Kind::Path => text.starts_with('/') && !text.ends_with('/'),
            _ => !text.is_empty(),
        };
        for command in COMMANDS.iter().map(|known| known.command).filter(|command| rule.valid_for(*command)) {
            let name = rule.name;
            let allowed = |text: &str| match rule.allow_for(command) {
                Allow::Values(values) => values.contains(&text),
                _ => true,
            };
            match rule.default_for(command) {
                Fallback::Value(value) | Fallback::Path(value) => {
                    assert!(is_value(value) && allowed(value), "{name}: {value}");
                }
                Fallback::Map(map) => assert!(map.iter().all(|(_, value)| is_value(value)), "{name}"),
                Fallback::Program => assert_eq!(rule.kind, Kind::Text, "{name}"),
                Fallback::Unset => {}
            }
            match rule.allow_for(command) {
                Allow::Any => assert_ne!(rule.kind, Kind::Choice, "{name}"),
                Allow::Values(values) => assert!(values.iter().all(|value| is_value(value)), "{name}"),
                Allow::Range(from, to) => assert!(is_value(from) && is_value(to), "{name}"),
                Allow::RangeMap(map) => {
                    assert!(map.iter().all(|(_, a, b)| is_value(a) && is_value(b)), "{name}");
                }
            }
            assert!(rule.refused_values.iter().all(|value| allowed(value)), "{name}");
            assert!(rule.help_for(command).ends_with('.'), "{name}");
        }
    }
}

#[test]
fn dependencies_end_and_are_known_to_the_same_commands() {
    for first in &OPTIONS {
        for command in COMMANDS.iter().map(|known| known.command).filter(|command| first.valid_for(*command))
        {
            let (mut current, mut steps) = (first, 0);
            while let Some(needs) = current.needs_for(command) {
                let other = rule(needs.option);
                assert!(other.valid_for(command), "{} needs {} in {command:?}", current.name, other.name);
                assert!(other.group.is_none() || other.group == first.group, "{}", first.name);
                if let (Allow::Values(values), false) = (other.allow_for(command), needs.values.is_empty()) {
                    assert!(needs.values.iter().all(|value| values.contains(value)), "{}", current.name);
                }
                current = other;
                steps += 1;
                assert!(steps < 5, "{} depends in a circle", first.name);
            }
        }
    }
}

#[test]
fn former_names_mean_one_option_each() {
    let mut seen = std::collections::HashMap::new();
    for rule in &OPTIONS {
        for name in rule.old_names.iter().map(|name| name.replace('?', "")) {
            let other = seen.insert(name.clone(), rule.name);
            assert!(other.is_none_or(|other| other == rule.name), "{name}");
        }
    }
    assert_eq!(seen.len(), 39);
    assert_eq!(seen.get("archive-queue-max"), Some(&"archive-push-queue-max"));
    assert_eq!(seen.get("repo-s3-verify-ssl"), Some(&"repo-storage-verify-tls"));
}

#[test]
fn what_is_not_supported_is_said() {
    // What an operator may rely on must not be ignored in silence.
    for name in ["pg-host", "repo-host"] {
        assert_eq!(rule(name).support_for(Command::Restore), Support::NotYet);
    }
    assert_eq!(rule("delta").support_for(Command::Backup), Support::Works);
    assert_eq!(rule("delta").support_for(Command::Restore), Support::Works);
    for command in COMMANDS.iter().map(|known| known.command) {
        let support = |r: &OptionRule| r.support_for(command);
        assert!(
            names(|r| matches!(support(r), Support::NoEffect(reason) if reason.ends_with('.'))).is_empty()
        );
    }
}

#[test]
fn commands_that_are_not_there_yet_say_so() {
    let refused = |rule: &&CommandRule| rule.support == Support::NotYet;
    let names: Vec<_> = COMMANDS.iter().filter(refused).map(|rule| rule.name).collect();
    assert_eq!(names, ["server", "server-ping"]);
    for name in names {
        // Options that would be wrong must not hide the reason.
        for args in [vec!["pgbr", name], vec!["pgbr", "--stanza=d", name, "--type=full"]] {
            let error = config::settings(args.iter().map(Into::into), []).expect_err("it must be refused");
            assert_eq!(error.code, ErrorCode::FeatureNotSupported);
            assert_eq!(error.message, format!("command '{name}' is not supported yet"));
        }
    }
}

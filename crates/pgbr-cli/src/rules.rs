//! Rules that span several options, applied once every option is known.

use std::time::Duration;

use crate::exit::{CliError, ErrorCode, with_hints};
use crate::options::Command;
use crate::settings::{Setting, Settings, Source, Value};
use crate::size::format_seconds;

/// How much longer than a database query the protocol waits by default.
const PROTOCOL_MARGIN: Duration = Duration::from_secs(30);

/// Below this a database timeout made from the protocol timeout is its half instead.
const DB_TIMEOUT_MIN: Duration = Duration::from_secs(15);

/// Applies the rules to resolved options.
///
/// # Errors
/// As the rules say: `option-required`, `option-invalid`, `option-invalid-value`.
pub(crate) fn apply(settings: &mut Settings) -> Result<(), CliError> {
    if !settings.help {
        stanza_delete_names_its_repository(settings)?;
        annotate_does_something(settings)?;
    }
    local_repositories_differ(settings)?;
    bucket_names_fit_certificates(settings)?;
    protocol_outlasts_database(settings)?;
    if !settings.help {
        full_retention_is_set(settings);
    }
    archive_retention_follows(settings);
    compress_sets_type(settings);
    target_time_names_its_repository(settings)?;
    stop_auto_is_deprecated(settings);
    Ok(())
}

fn stanza_delete_names_its_repository(settings: &Settings) -> Result<(), CliError> {
    if settings.command == Command::StanzaDelete
        && !settings.entry("repo").is_set()
        && settings.repo_keys != [1]
    {
        let message = format!("{} command requires option: repo", settings.command.name());
        return Err(CliError::new(ErrorCode::OptionRequired, message)
            .hint("this command requires a specific repository to operate on"));
    }
    Ok(())
}

fn annotate_does_something(settings: &Settings) -> Result<(), CliError> {
    let nothing = !settings.entry("annotation").is_set() && !settings.entry("hold").is_set();
    if settings.command == Command::Annotate && nothing {
        let message = format!("{} command requires option: annotation", settings.command.name());
        return Err(CliError::new(ErrorCode::OptionRequired, message));
    }
    Ok(())
}

fn local_repositories_differ(settings: &Settings) -> Result<(), CliError> {
    let keys = &settings.repo_keys;
    let path = |key| settings.indexed("repo", key, "path");
    let kind = |key| settings.indexed("repo", key, "type").as_str();
    let is_local =
        |key| !settings.indexed("repo", key, "host").is_set() && matches!(kind(key), Some("posix" | "cifs"));
    for (place, one) in keys.iter().enumerate() {
        for two in keys.iter().skip(place + 1) {
            let same = kind(*one) == kind(*two) && path(*one).as_str() == path(*two).as_str();
            if is_local(*one) && is_local(*two) && same {
                let path = path(*two).display();
                return Err(CliError::new(
                    ErrorCode::OptionInvalidValue,
                    format!("local repo{one} and repo{two} paths are both '{path}' but must be different"),
                ));
            }
        }
    }
    Ok(())
}

fn bucket_names_fit_certificates(settings: &Settings) -> Result<(), CliError> {
    for key in &settings.repo_keys {
        let entry = |name| settings.indexed("repo", *key, name);
        let dotted = entry("s3-bucket").as_str().filter(|bucket| bucket.contains('.'));
        let verified = entry("storage-verify-tls").as_bool() == Some(true);
        if let Some(bucket) = dotted.filter(|_| verified && entry("s3-uri-style").as_str() == Some("host")) {
            let message = format!("'{bucket}' is not valid for option 'repo{key}-s3-bucket'");
            return Err(CliError::new(ErrorCode::OptionInvalidValue, message)
                .hint("RFC-2818 forbids dots in wildcard matches.")
                .hint("TLS/SSL verification cannot proceed with this bucket name.")
                .hint("remove dots from the bucket name."));
        }
    }
    Ok(())
}

fn protocol_outlasts_database(settings: &mut Settings) -> Result<(), CliError> {
    let (Some(db), Some(protocol)) = (settings.get_time("db-timeout"), settings.get_time("protocol-timeout"))
    else {
        return Ok(());
    };
    if protocol > db {
        return Ok(());
    }
    if settings.source("protocol-timeout") == Source::Default {
        settings.set("protocol-timeout", 1, default_time(db.saturating_add(PROTOCOL_MARGIN)));
    } else if settings.source("db-timeout") == Source::Default {
        let shorter = protocol.saturating_sub(PROTOCOL_MARGIN);
        let db = if shorter >= DB_TIMEOUT_MIN { shorter } else { protocol / 2 };
        settings.set("db-timeout", 1, default_time(db));
    } else {
        let (protocol, db) =
            (settings.entry("protocol-timeout").display(), settings.entry("db-timeout").display());
        return Err(CliError::new(
            ErrorCode::OptionInvalidValue,
            format!(
                "'{protocol}' is not valid for 'protocol-timeout' option\nHINT 'protocol-timeout' option ({protocol}) \
                 should be greater than 'db-timeout' option ({db})."
            ),
        ));
    }
    Ok(())
}

fn default_time(time: Duration) -> Setting {
    Setting { value: Some(Value::Time(time)), ..Setting::text(format_seconds(time), Source::Default) }
}

fn full_retention_is_set(settings: &mut Settings) {
    for key in settings.repo_keys.clone() {
        let kind = settings.indexed("repo", key, "retention-full-type");
        // Rules by calendar limit full backups as well.
        let by_calendar = ["daily", "weekly", "monthly", "yearly"]
            .iter()
            .any(|rule| settings.indexed("repo", key, &format!("retention-{rule}")).is_set());
        if kind.is_set() && !by_calendar && !settings.indexed("repo", key, "retention-full").is_set() {
            let message = format!(
                "option 'repo{key}-retention-full' is not set for 'repo{key}-retention-full-type={}', the repository \
                 may run out of space",
                kind.display()
            );
            let hint = format!(
                "to retain full backups indefinitely (without warning), set option 'repo{key}-retention-full' to the \
                 maximum."
            );
            settings.warnings.push(with_hints(&message, &[hint]));
        }
    }
}

/// Without a retention of its own, WAL is kept as long as the backups whose type it follows.
fn archive_retention_follows(settings: &mut Settings) {
    for key in settings.repo_keys.clone() {
        let get = |name| settings.indexed("repo", key, name);
        let Some(kind) = get("retention-archive-type").as_str() else { continue };
        let is_set = get("retention-archive").is_set();
        let off =
            format!("WAL segments will not be expired: option 'repo{key}-retention-archive-type={kind}' but");
        let (mut follow, mut warning) = (None, None);
        match (kind, is_set) {
            ("full", false) if get("retention-full-type").as_str() == Some("count") => {
                follow = get("retention-full").as_int();
            }
            ("diff", false) => {
                follow = get("retention-diff").as_int();
                warning = follow.is_none().then(|| {
                    format!(
                        "{off} neither option 'repo{key}-retention-archive' nor option 'repo{key}-retention-diff' is set"
                    )
                });
            }
            ("incr", false) => {
                warning = Some(format!("{off} option 'repo{key}-retention-archive' is not set"));
            }
            ("diff", true) if !get("retention-diff").is_set() => {
                warning = Some(format!(
                    "option 'repo{key}-retention-diff' is not set for 'repo{key}-retention-archive-type=diff'\n\
                     HINT: to retain differential backups indefinitely (without warning), set option \
                     'repo{key}-retention-diff' to the maximum."
                ));
            }
            _ => {}
        }
        settings.warnings.extend(warning);
        if let Some(count) = follow {
            let setting = Setting::text(count.to_string(), Source::Default);
            let setting = Setting { value: Some(Value::Integer(count)), ..setting };
            settings.set("repo-retention-archive", key, setting);
        }
    }
}

/// The older option `compress` gives way to `compress-type`.
fn compress_sets_type(settings: &mut Settings) {
    let compress = settings.entry("compress");
    let source = compress.source();
    if source == Source::Default {
        return;
    }
    let off = compress.as_bool() == Some(false);
    if settings.source("compress-type") != Source::Default {
        settings.warnings.push(with_hints(
            "'compress' and 'compress-type' options should not both be set",
            &["'compress-type' is preferred and 'compress' is deprecated.".to_owned()],
        ));
    } else if off {
        settings.set("compress-type", 1, Setting::text("none".to_owned(), source));
        let level = Setting::text("0".to_owned(), Source::Default);
        settings.set("compress-level", 1, Setting { value: Some(Value::Integer(0)), ..level });
    }
}

fn target_time_names_its_repository(settings: &Settings) -> Result<(), CliError> {
    if settings.entry("repo-target-time").is_set() && settings.source("repo") == Source::Default {
        return Err(CliError::new(
            ErrorCode::OptionInvalid,
            "option 'repo-target-time' not valid without option 'repo'",
        ));
    }
    Ok(())
}

fn stop_auto_is_deprecated(settings: &mut Settings) {
    if settings.source("stop-auto") != Source::Default {
        settings.warnings.push(with_hints(
            "option 'stop-auto' is deprecated",
            &[
                "all supported versions use non-exclusive backup.".to_owned(),
                "stop using this option to avoid an error when it is removed.".to_owned(),
            ],
        ));
    }
}

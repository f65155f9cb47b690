//! The commands about keys.

use std::fmt::Write;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgbr::{
    Entropy, Host, KeyChange, KeyReport, KeySlot, NewSlot, OsEntropy, Passphrase, RepoAccess, key_change,
    key_export, key_import, key_list,
};
use zeroize::Zeroizing;

use super::witness;
use crate::config::reason;
use crate::exit::{CliError, ErrorCode};
use crate::log::Logger;
use crate::options::Command;
use crate::request;
use crate::run::{Context, Outcome, print};

/// The most that is read of a file with an exported key, in bytes: more than there can be in one.
const EXPORT_MAX: u64 = 2 << 20;

pub(super) async fn list(context: &Context, host: &Host) -> Outcome {
    let (key, repo) = repository(context)?;
    let report = key_list(&context.host_of(host, key), &repo).await.map_err(|e| context.failure(&e))?;
    match context.settings.get_str("output") {
        Some("json") => print(&format!("{}\n", serde_json::to_value(&report).unwrap_or_default()))?,
        _ => print(&text_of(&report))?,
    }
    Ok(0)
}

/// Changes what opens a repository, and says what does from now on.
pub(super) async fn change(context: &Context, host: &Host) -> Outcome {
    let (key, repo) = repository(context)?;
    let (change, generated) = asked(context, &repo)?;
    let changed = key_change(&context.host_of(host, key), &repo, change).await;
    request::forget_facts(&context.settings);
    let report = changed.map_err(|e| context.failure(&e))?;
    witness::keep_keys(context, host, key, &report).await;
    // Nobody can ask for it again.
    if let Some(passphrase) = generated {
        print(&format!("{}\n", passphrase.expose()))?;
    }
    context.log.info(&format!("repo{key}: {}", done(context.settings.command(), &report)));
    for line in text_of(&report).lines() {
        context.log.detail(&format!("repo{key}: {line}"));
    }
    Ok(0)
}

/// Prints the key of a repository, for the safe.
pub(super) async fn export(context: &Context, host: &Host) -> Outcome {
    let (key, repo) = repository(context)?;
    let (passphrase, generated) = new_passphrase(context, &repo)?;
    let exported = key_export(&context.host_of(host, key), &repo, passphrase, generated).await;
    let exported = exported.map_err(|e| context.failure(&e))?;
    print(&exported.text)?;
    context.log.info(&format!(
        "repo{key}: key {} and {} earlier key(s) are exported",
        exported.key_id, exported.retired
    ));
    if generated && std::io::stdout().is_terminal() {
        context
            .log
            .warn("what was printed opens the repository by itself: clear the screen and what it remembers");
    }
    Ok(0)
}

/// Brings a repository back by an exported key.
pub(super) async fn import(context: &Context, host: &Host) -> Outcome {
    let (key, repo) = repository(context)?;
    let settings = &context.settings;
    let given = settings.entry("export-pass");
    if given.is_set() && given.as_secret().is_none() {
        // It could not be read.
        return Err(settings.unusable.get(&1).cloned().unwrap_or_else(|| {
            CliError::new(ErrorCode::OptionInvalid, "option 'export-pass' is not valid")
        }));
    }
    let passphrase = given.as_secret().map(|given| Passphrase::new(given.as_str()));
    let text = exported_key(settings.get_path("export-file").unwrap_or(Path::new("/")), &context.log)?;
    let imported = key_import(&context.host_of(host, key), &repo, &text, passphrase).await;
    request::forget_facts(settings);
    let report = imported.map_err(|e| context.failure(&e))?;
    witness::keep_keys(context, host, key, &report.keys).await;
    let log = &context.log;
    let done = if report.made { "repo.json is made anew" } else { "a passphrase is added" };
    log.info(&format!("repo{key}: {done}: the one in the configuration opens the repository"));
    for unknown in &report.unknown {
        log.warn(&format!(
            "repo{key}: key {unknown} came after the export: what was sealed under it does not open\nHINT: is there a newer export?"
        ));
    }
    if report.writers_gone {
        log.warn(&format!(
            "repo{key}: no passphrase for writing only opens the repository any more\nHINT: add those of the database hosts again, by key-add --write-only."
        ));
    }
    for line in text_of(&report.keys).lines() {
        log.detail(&format!("repo{key}: {line}"));
    }
    Ok(0)
}

/// What key-export printed.
fn exported_key(path: &Path, log: &Logger) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let fail = |error: &std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let code = if missing { ErrorCode::FileMissing } else { ErrorCode::FileRead };
        CliError::new(
            code,
            format!("unable to read '{}' of option 'export-file': {}", path.display(), reason(error)),
        )
    };
    let file = std::fs::File::open(path).map_err(|e| fail(&e))?;
    let mode = file.metadata().map_err(|e| fail(&e))?.permissions().mode();
    let mut text = Zeroizing::new(Vec::new());
    file.take(EXPORT_MAX).read_to_end(&mut text).map_err(|e| fail(&e))?;
    if mode & 0o004 != 0 {
        let path = path.display();
        log.warn(&format!(
            "file '{path}' holds a key and can be read by every user\nHINT: chmod o-r '{path}'"
        ));
    }
    Ok(text)
}

fn done(command: Command, report: &KeyReport) -> String {
    let writers = report.slots.iter().filter(|slot| slot.write_only).count();
    let readers = match report.slots.len() - writers {
        1 => "1 passphrase opens".to_owned(),
        count => format!("{count} passphrases open"),
    };
    let count = match writers {
        0 => readers,
        _ => format!("{readers} and {writers} for writing only open"),
    };
    match command {
        Command::KeyChange => format!(
            "the passphrase is changed: every configuration needs the new one now ({count} the repository)"
        ),
        Command::KeyRotate => format!(
            "objects are sealed under key {} from now on; {} earlier key(s) open what is there ({count} the repository)",
            report.key_id, report.retired
        ),
        _ => format!("{count} the repository"),
    }
}

/// The repository that is meant: where there are several it has to be said.
fn repository(context: &Context) -> Result<(u16, RepoAccess), CliError> {
    let settings = &context.settings;
    if settings.repo_keys().len() > 1 {
        let message = format!("{} command requires option: repo", settings.command().name());
        let hint = "there are several repositories, and each has passphrases of its own.";
        return Err(CliError::new(ErrorCode::OptionRequired, message).hint(hint));
    }
    let key = settings.repo_key();
    Ok((key, request::repo_of(settings, key)?))
}

/// What is asked for, and the passphrase if it is made here.
fn asked(context: &Context, repo: &RepoAccess) -> Result<(KeyChange, Option<Passphrase>), CliError> {
    let command = context.settings.command();
    if command == Command::KeyRemove {
        return Ok((KeyChange::Remove(slot(context)?), None));
    }
    let (passphrase, generated) = new_passphrase(context, repo)?;
    let name = context.settings.get_str("slot-name").map(str::to_owned);
    let new = NewSlot { name, ..NewSlot::new(passphrase.clone()) };
    let change = match command {
        Command::KeyAdd if context.settings.get_bool("write-only") => KeyChange::AddWriter(new),
        Command::KeyAdd => KeyChange::Add(new),
        Command::KeyChange => KeyChange::Change(new),
        _ => KeyChange::Rotate(new),
    };
    Ok((change, generated.then_some(passphrase)))
}

fn slot(context: &Context) -> Result<[u8; 8], CliError> {
    let slot = context.settings.get_str("slot").unwrap_or_default();
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(slot.as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        let message = format!("'{slot}' is not valid for 'slot' option");
        CliError::new(ErrorCode::OptionInvalidValue, message)
            .hint("key-list shows the ids: 16 hex digits each.")
    })
}

/// The new passphrase, and whether it was made here.
fn new_passphrase(context: &Context, repo: &RepoAccess) -> Result<(Passphrase, bool), CliError> {
    let settings = &context.settings;
    let (given, generate) = (settings.entry("new-cipher-pass"), settings.get_bool("generate"));
    if given.is_set() && generate {
        let message = "option 'generate' is not valid with option 'new-cipher-pass'";
        return Err(CliError::new(ErrorCode::OptionInvalid, message));
    }
    if generate {
        let mut bytes = Zeroizing::new([0; 32]);
        OsEntropy.fill(&mut *bytes).map_err(|e| context.failure(&e.into()))?;
        return Ok((Passphrase::generated(&bytes), true));
    }
    match (given.as_secret(), &repo.passphrase) {
        (Some(given), _) => Ok((Passphrase::new(given.as_str()), false)),
        // It could not be read.
        (None, _) if given.is_set() => {
            Err(settings.unusable.get(&1).cloned().unwrap_or_else(|| missing(context)))
        }
        (None, Some(present)) if settings.command() == Command::KeyRotate => Ok((present.clone(), false)),
        (None, _) => Err(missing(context)),
    }
}

fn missing(context: &Context) -> CliError {
    let message = format!("{} command requires option: new-cipher-pass", context.settings.command().name());
    CliError::new(ErrorCode::OptionRequired, message)
        .hint("use --new-cipher-pass-file=PATH or --new-cipher-pass-command, or let --generate make one and print it.")
}

fn text_of(report: &KeyReport) -> String {
    let mut text = String::new();
    for KeySlot { id, name, generated, write_only, in_use } in &report.slots {
        let kind = if *generated { "generated" } else { "passphrase" };
        let only = if *write_only { ", for writing only" } else { "" };
        let name = name.as_ref().map(|name| format!(" \"{}\"", name.escape_default())).unwrap_or_default();
        let used = if *in_use { ", in use here" } else { "" };
        // Writing to a string does not fail.
        writeln!(text, "slot {id}{name}: {kind}{only}{used}").ok();
    }
    writeln!(text, "key {}, {} earlier key(s)", report.key_id, report.retired).ok();
    text
}

//! `info` as text, laid out as pgBackRest's: scripts look for its words.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgbr::{ClusterId, LockHolder, Summary};

use super::info::Shown;
use crate::size::format_size;

/// All stanzas.
pub(super) fn render(stanzas: &[Shown<'_>], zone: &TimeZone) -> String {
    if stanzas.is_empty() {
        return "No stanzas exist in the repository.\n".to_owned();
    }
    let mut text = String::new();
    for (at, shown) in stanzas.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        // Writing to a string does not fail.
        stanza(&mut text, shown, zone).ok();
    }
    text
}

fn stanza(text: &mut String, shown: &Shown<'_>, zone: &TimeZone) -> std::fmt::Result {
    writeln!(text, "stanza: {}", shown.info.name)?;
    writeln!(text, "    status: {}", status(shown))?;
    if shown.status.code == 99 {
        for line in shown.status.message.lines() {
            writeln!(text, "            {line}")?;
        }
    }
    if shown.info.clusters.is_empty() {
        return Ok(());
    }
    writeln!(text, "    cipher: {}", shown.cipher)?;
    let current = shown.info.clusters.last().map(|cluster| cluster.number);
    for cluster in &shown.info.clusters {
        let is_current = Some(cluster.number) == current;
        let has_any = shown.backups().any(|backup| backup.database.id == cluster.number);
        let archive = shown.info.archives.iter().find(|(id, _)| id.number() == cluster.number);
        if is_current || has_any || archive.is_some() {
            database(text, shown, cluster, is_current, zone)?;
        }
    }
    Ok(())
}

fn status(shown: &Shown<'_>) -> String {
    let mut status = match shown.status.code {
        0 => "ok".to_owned(),
        99 => "error (other)".to_owned(),
        _ => format!("error ({})", shown.status.message),
    };
    let mut running = |what: &str, holder: &Option<LockHolder>| {
        let Some(holder) = holder else { return };
        let percent = holder.progress.percent;
        let percent = percent.map_or(String::new(), |p| format!(" - {}.{:02}% complete", p / 100, p % 100));
        status.push_str(&format!(" ({what} running{percent})"));
    };
    running("backup/expire", &shown.backup);
    running("restore", &shown.restore);
    status
}

fn database(
    text: &mut String,
    shown: &Shown<'_>,
    cluster: &ClusterId,
    current: bool,
    zone: &TimeZone,
) -> std::fmt::Result {
    writeln!(text, "\n    db ({})", if current { "current" } else { "prior" })?;
    let bounds = shown
        .info
        .archives
        .iter()
        .find(|(id, _)| id.number() == cluster.number)
        .and_then(|(_, bounds)| *bounds);
    let bounds = bounds.map_or("none present".to_owned(), |(min, max)| format!("{min}/{max}"));
    writeln!(text, "        wal archive min/max ({}): {bounds}", cluster.version)?;
    for summary in shown.backups().filter(|backup| backup.database.id == cluster.number) {
        backup(text, shown, summary, zone)?;
    }
    Ok(())
}

fn backup(text: &mut String, shown: &Shown<'_>, backup: &Summary, zone: &TimeZone) -> std::fmt::Result {
    let in_full = shown.info.set.as_ref().filter(|(set, _)| set.label == backup.label);
    writeln!(text, "\n        {} backup: {}", backup.kind, backup.label)?;
    let (start, stop) = (time(backup.time.start, zone), time(backup.time.stop, zone));
    writeln!(text, "            timestamp start/stop: {start} / {stop}")?;
    writeln!(text, "            wal start/stop: {} / {}", backup.wal.start, backup.wal.stop)?;
    if in_full.is_some() {
        writeln!(text, "            lsn start/stop: {} / {}", backup.lsn.start, backup.lsn.stop)?;
    }
    let sizes = &backup.sizes;
    let (database, delta) = (format_size(sizes.database), format_size(sizes.delta));
    writeln!(text, "            database size: {database}, database backup size: {delta}")?;
    let (set, own) = (format_size(sizes.stored), format_size(sizes.stored_delta));
    writeln!(text, "            repo{}: backup set size: {set}, backup size: {own}", shown.repo_key)?;
    let references = shown.references(backup);
    if !references.is_empty() && in_full.is_some() {
        writeln!(text, "            backup reference list: {}", references.join(", "))?;
    } else if !references.is_empty() {
        writeln!(text, "            backup reference total: {}", reference_total(&references))?;
    }
    if let Some((_, body)) = in_full {
        details(text, body)?;
    }
    let damaged: Vec<_> = shown.error_list().filter(|_| in_full.is_some()).collect();
    if !damaged.is_empty() {
        writeln!(text, "            error list: {}", damaged.join(", "))?;
    } else if backup.error {
        writeln!(text, "            error(s) detected during backup")?;
    }
    for hold in shown.holds(backup) {
        match &hold.record {
            Some(record) if record.reason.is_empty() => {
                writeln!(text, "            hold since {}", time(record.created, zone))?;
            }
            Some(record) => {
                let reason = record.reason.replace(char::is_control, " ");
                writeln!(text, "            hold since {}: {reason}", time(record.created, zone))?;
            }
            None => writeln!(text, "            hold {} cannot be read, and counts", hold.id)?,
        }
    }
    if in_full.is_some() && !backup.annotation.is_empty() {
        writeln!(text, "            annotation(s)")?;
        for (key, value) in &backup.annotation {
            writeln!(text, "                {key}: {value}")?;
        }
    }
    for error in shown.note_errors(backup) {
        writeln!(text, "            annotation(s) that cannot be read: {error}")?;
    }
    Ok(())
}

fn details(text: &mut String, body: &pgbr::Body) -> std::fmt::Result {
    let databases: Vec<_> =
        body.databases.iter().filter(|d| !d.template).map(|d| format!("{} ({})", d.name, d.oid)).collect();
    let databases = if databases.is_empty() { "none".to_owned() } else { databases.join(", ") };
    writeln!(text, "            database list: {databases}")?;
    if !body.links.is_empty() {
        writeln!(text, "            symlinks:")?;
        for link in &body.links {
            writeln!(text, "                {} => {}", link.name, link.destination)?;
        }
    }
    if !body.tablespaces.is_empty() {
        writeln!(text, "            tablespaces:")?;
        for tablespace in &body.tablespaces {
            writeln!(
                text,
                "                {} ({}) => {}",
                tablespace.name, tablespace.oid, tablespace.location
            )?;
        }
    }
    Ok(())
}

fn reference_total(references: &[String]) -> String {
    let count = |letter: char| references.iter().filter(|label| label.ends_with(letter)).count();
    let counts = [(count('F'), "full"), (count('D'), "diff"), (count('I'), "incr")];
    let parts: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect();
    parts.join(", ")
}

/// Local time with its zone, as `2026-11-22 13:27:32+00`.
fn time(seconds: i64, zone: &TimeZone) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or_default().to_zoned(zone.clone());
    let offset = time.offset().seconds();
    let (sign, offset) = if offset < 0 { ('-', -offset) } else { ('+', offset) };
    let minutes = offset / 60 % 60;
    let minutes = if minutes == 0 { String::new() } else { format!(":{minutes:02}") };
    format!("{}{sign}{:02}{minutes}", time.strftime("%Y-%m-%d %H:%M:%S"), offset / 3600)
}

//! `info` as text, laid out as pgBackRest's: scripts look for its words.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgbr::{
    ArchiveInfo, CheckResult, Database, DrillFacts, GapReason, Link, LockHolder, RecoveryGap,
    RecoveryWindows, Tablespace, WalSegmentName,
};

use super::info::{AnyBackup, Shown, ShownBackup, ShownRepo, ShownTheirs, Status, age, of_data_directory};
use crate::size::{format_age, format_size};

/// All stanzas, or what is under way in them. Ages are counted up to `now`, in Unix seconds.
pub(super) fn render(stanzas: &[Shown<'_>], progress_only: bool, zone: &TimeZone, now: i64) -> String {
    if stanzas.is_empty() {
        return "No stanzas exist in the repository.\n".to_owned();
    }
    let mut text = String::new();
    for (at, shown) in stanzas.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        // Writing to a string does not fail.
        match progress_only {
            true => progress(&mut text, shown).ok(),
            false => stanza(&mut text, shown, zone, now).ok(),
        };
    }
    text
}

fn progress(text: &mut String, shown: &Shown<'_>) -> std::fmt::Result {
    // Which repositories differ is not told: it is an error like another.
    let state = match shown.status.code {
        4 => format!("error ({})", shown.status.message),
        _ => state(&shown.status),
    };
    writeln!(text, "stanza: {}", shown.name)?;
    writeln!(text, "    status: {}", status(state, shown))
}

fn stanza(text: &mut String, shown: &Shown<'_>, zone: &TimeZone, now: i64) -> std::fmt::Result {
    writeln!(text, "stanza: {}", shown.name)?;
    writeln!(text, "    status: {}", status(state(&shown.status), shown))?;
    for (key, done, size) in sizes(shown).into_iter().filter(|_| sizes(shown).len() > 1) {
        writeln!(text, "        repo{key} backup: {} complete", percent(hundredths(done, size)))?;
    }
    if shown.is_several() && [4, 5, 99].contains(&shown.status.code) {
        for repo in &shown.repos {
            writeln!(text, "        repo{}: {}", repo.key, state(&repo.status))?;
            message(text, &repo.status)?;
        }
    } else {
        message(text, &shown.status)?;
    }
    let groups = groups(shown);
    if groups.is_empty() {
        return Ok(());
    }
    writeln!(text, "    cipher: {}", shown.cipher)?;
    if shown.cipher == "mixed" {
        for repo in &shown.repos {
            writeln!(text, "        repo{}: {}", repo.key, repo.cipher)?;
        }
    }
    if let Some(last) = shown.last_drill() {
        writeln!(text, "    last drill: {}, {}", last.label, drill(last.facts, zone))?;
    }
    for group in &groups {
        database(text, shown, group, zone, now)?;
    }
    Ok(())
}

/// What is wrong, where that takes more than a word.
fn message(text: &mut String, status: &Status) -> std::fmt::Result {
    for line in status.message.lines().filter(|_| status.code == 99) {
        writeln!(text, "            {line}")?;
    }
    Ok(())
}

fn state(status: &Status) -> String {
    match status.code {
        0 => "ok".to_owned(),
        4 => "mixed".to_owned(),
        99 => "error (other)".to_owned(),
        _ => format!("error ({})", status.message),
    }
}

/// How much is done of how much by the backup that is written to each repository, where that is known.
fn sizes(shown: &Shown<'_>) -> Vec<(u16, u64, u64)> {
    let of = |repo: &ShownRepo<'_>| {
        let progress = &repo.backup.as_ref()?.progress;
        Some((repo.key, progress.size_complete?, progress.size?))
    };
    shown.repos.iter().filter_map(of).collect()
}

/// How far something is, in hundredths of a percent.
fn hundredths(done: u64, size: u64) -> u64 {
    u64::try_from(u128::from(done) * 10_000 / u128::from(size.max(1))).unwrap_or(u64::MAX).min(10_000)
}

fn percent(hundredths: u64) -> String {
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// The state, and in its parentheses what is under way.
fn status(state: String, shown: &Shown<'_>) -> String {
    let running = |what: &str, done: Option<u64>| {
        let percent = done.map_or(String::new(), |done| format!(" - {} complete", percent(done)));
        format!("{what} running{percent}")
    };
    let of_holder = |holder: &LockHolder| holder.progress.percent.map(u64::from);
    let holders = || shown.repos.iter().filter_map(|repo| repo.backup.as_ref());
    // All locks of a command are held; where several tell how far it is, it is as far as they are together.
    let sizes = sizes(shown);
    let done = match sizes.len() {
        0 | 1 => holders().find_map(of_holder),
        _ => {
            let sum = |part: fn(&(u16, u64, u64)) -> u64| sizes.iter().map(part).fold(0, u64::saturating_add);
            Some(hundredths(sum(|(_, done, _)| *done), sum(|(_, _, size)| *size)))
        }
    };
    let backup = holders().next().map(|_| running("backup/expire", done));
    let restore = shown.restore.as_ref().map(|holder| running("restore", of_holder(holder)));
    let all: Vec<String> = backup.into_iter().chain(restore).collect();
    match (all.join(", "), state.strip_suffix(')')) {
        (running, _) if running.is_empty() => state,
        (running, Some(open)) => format!("{open}, {running})"),
        (running, None) => format!("{state} ({running})"),
    }
}

/// A cluster, as all repositories know it.
struct Group<'a> {
    /// System identifier and version.
    identity: (u64, String),
    /// Whether WAL and backups are of this one now.
    current: bool,
    /// The oldest and newest WAL segment.
    bounds: Option<(WalSegmentName, WalSegmentName)>,
    /// Its archive in each repository that has one.
    archives: Vec<(u16, &'a ArchiveInfo)>,
}

/// The clusters of which there is something to show: former ones first.
fn groups<'a>(shown: &'a Shown<'a>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for repo in &shown.repos {
        let ours = repo.info.iter().flat_map(|info| &info.clusters);
        let newest = ours.clone().last().map(|cluster| cluster.number);
        for cluster in ours {
            let archives = repo.info.iter().flat_map(|info| &info.archives);
            let archive = archives.clone().find(|archive| archive.id.number() == cluster.number);
            let bounds = archive.and_then(|archive| archive.bounds).map(|bounds| (bounds.first, bounds.last));
            add(
                &mut groups,
                Group {
                    identity: (cluster.system_id.as_u64(), cluster.version.to_string()),
                    current: Some(cluster.number) == newest,
                    bounds,
                    archives: archive.map(|archive| (repo.key, archive)).into_iter().collect(),
                },
            );
        }
        // Where we have the stanza, too, ours says which cluster is the current one.
        let theirs = repo.theirs().into_iter().flat_map(|theirs| &theirs.clusters);
        let last = theirs.clone().last().map(|cluster| cluster.number).filter(|_| newest.is_none());
        for cluster in theirs {
            let archives = repo.theirs().into_iter().flat_map(|theirs| &theirs.archives);
            let archive = archives.clone().find(|archive| archive.id.history().as_u32() == cluster.number);
            add(
                &mut groups,
                Group {
                    identity: (cluster.system_id, cluster.version.clone()),
                    current: Some(cluster.number) == last,
                    bounds: archive.and_then(|archive| archive.bounds),
                    archives: Vec::new(),
                },
            );
        }
    }
    let has_any = |group: &Group<'_>| shown.all_backups().iter().any(|backup| backup.is_of(&group.identity));
    groups.retain(|group| {
        group.current || group.bounds.is_some() || !group.archives.is_empty() || has_any(group)
    });
    groups.sort_by_key(|group| group.current);
    groups
}

/// Takes note of a cluster as one repository has it.
fn add<'a>(groups: &mut Vec<Group<'a>>, new: Group<'a>) {
    let Some(known) = groups.iter_mut().find(|group| group.identity == new.identity) else {
        groups.push(new);
        return;
    };
    known.current |= new.current;
    known.archives.extend(new.archives);
    known.bounds = match (known.bounds, new.bounds) {
        (Some((min, max)), Some((other_min, other_max))) => Some((min.min(other_min), max.max(other_max))),
        (one, other) => one.or(other),
    };
}

fn database(
    text: &mut String,
    shown: &Shown<'_>,
    group: &Group<'_>,
    zone: &TimeZone,
    now: i64,
) -> std::fmt::Result {
    writeln!(text, "\n    db ({})", if group.current { "current" } else { "prior" })?;
    let bounds = group.bounds.map_or("none present".to_owned(), |(min, max)| format!("{min}/{max}"));
    writeln!(text, "        wal archive min/max ({}): {bounds}", group.identity.1)?;
    for (key, archive) in &group.archives {
        if let Some(newest) = archive.bounds.filter(|_| group.current) {
            let (at, age) = (time(newest.modified, zone), format_age(age(newest.modified, now)));
            writeln!(text, "        repo{key}: wal archived up to: {at} ({age} ago)")?;
        }
        if let Some(windows) = &archive.recovery {
            recovery(text, *key, windows, zone)?;
        }
    }
    for of in shown.all_backups().into_iter().filter(|of| of.is_of(&group.identity)) {
        match of {
            AnyBackup::Ours(of) => backup(text, of, zone)?,
            AnyBackup::Theirs(of) => their_backup(text, of, shown.set.is_some(), zone)?,
        }
    }
    Ok(())
}

/// How far the WAL of a repository goes, and to which moments one can go back with it.
fn recovery(text: &mut String, key: u16, recovery: &RecoveryWindows, zone: &TimeZone) -> std::fmt::Result {
    for window in &recovery.windows {
        let (from, to) = (time(window.from, zone), time(window.to, zone));
        writeln!(text, "        repo{key}: recovery window (timeline {}): {from} / {to}", window.timeline)?;
    }
    if recovery.windows.is_empty() {
        writeln!(text, "        repo{key}: recovery window: none")?;
    }
    for gap in &recovery.gaps {
        writeln!(text, "        repo{key}: recovery gap: {}", self::gap(gap, zone))?;
    }
    for (label, segment) in &recovery.unusable {
        writeln!(
            text,
            "        repo{key}: backup {label} cannot be made consistent: wal {segment} is missing"
        )?;
    }
    Ok(())
}

fn gap(gap: &RecoveryGap, zone: &TimeZone) -> String {
    let until = gap.to.map_or_else(|| "the next backup".to_owned(), |to| time(to, zone));
    let why = match gap.reason {
        GapReason::Missing => "missing",
        GapReason::Retention => "removed by retention",
        GapReason::Unsure => "missing, or being removed just now",
    };
    let wal = match gap.segments {
        1 => gap.first.to_string(),
        count => format!("{}/{} ({count})", gap.first, gap.last),
    };
    format!("{} / {until}: wal {wal} {why}", time(gap.from, zone))
}

fn backup(text: &mut String, of: ShownBackup<'_>, zone: &TimeZone) -> std::fmt::Result {
    let (backup, in_full) = (of.summary, of.body());
    writeln!(text, "\n        {} backup: {}", backup.kind, backup.label)?;
    let (start, stop) = (time(backup.time.start, zone), time(backup.time.stop, zone));
    writeln!(text, "            timestamp start/stop: {start} / {stop}")?;
    match backup.offline {
        true => writeln!(text, "            wal start/stop: n/a")?,
        false => writeln!(text, "            wal start/stop: {} / {}", backup.wal.start, backup.wal.stop)?,
    }
    if in_full.is_some() && !backup.offline {
        writeln!(text, "            lsn start/stop: {} / {}", backup.lsn.start, backup.lsn.stop)?;
    }
    let sizes = &backup.sizes;
    let (database, delta) = (format_size(sizes.database), format_size(sizes.delta));
    writeln!(text, "            database size: {database}, database backup size: {delta}")?;
    let (set, own) = (format_size(sizes.stored), format_size(sizes.stored_delta));
    writeln!(text, "            repo{}: backup set size: {set}, backup size: {own}", of.repo.key)?;
    let references = of.references();
    if !references.is_empty() && in_full.is_some() {
        writeln!(text, "            backup reference list: {}", references.join(", "))?;
    } else if !references.is_empty() {
        writeln!(text, "            backup reference total: {}", reference_total(&references))?;
    }
    if let Some(body) = in_full {
        details(text, &body.databases, &body.links, &body.tablespaces)?;
    }
    let damaged: Vec<_> = of.error_list().collect();
    if !damaged.is_empty() {
        writeln!(text, "            error list: {}", damaged.join(", "))?;
    } else if backup.error {
        writeln!(text, "            error(s) detected during backup")?;
    }
    holds(text, of, zone)?;
    if let Some(facts) = of.drill() {
        writeln!(text, "            drill: {}", drill(facts, zone))?;
    }
    if in_full.is_some() && !backup.annotation.is_empty() {
        writeln!(text, "            annotation(s)")?;
        for (key, value) in &backup.annotation {
            writeln!(text, "                {key}: {value}")?;
        }
    }
    for error in of.note_errors() {
        writeln!(text, "            annotation(s) that cannot be read: {error}")?;
    }
    Ok(())
}

/// A backup of pgBackRest's, as it tells of it itself.
fn their_backup(text: &mut String, of: ShownTheirs<'_>, in_full: bool, zone: &TimeZone) -> std::fmt::Result {
    let (backup, sizes) = (of.entry, &of.entry.sizes);
    writeln!(text, "\n        {} backup: {}", backup.kind, backup.label)?;
    let (start, stop) = (time(backup.started, zone), time(backup.stopped, zone));
    writeln!(text, "            timestamp start/stop: {start} / {stop}")?;
    match (backup.wal.start, backup.wal.stop) {
        (Some(start), Some(stop)) => writeln!(text, "            wal start/stop: {start} / {stop}")?,
        _ => writeln!(text, "            wal start/stop: n/a")?,
    }
    if let (Some(start), Some(stop), true) = (backup.wal.start_lsn, backup.wal.stop_lsn, in_full) {
        writeln!(text, "            lsn start/stop: {start} / {stop}")?;
    }
    let (database, delta) = (format_size(sizes.original), format_size(sizes.original_delta));
    writeln!(text, "            database size: {database}, database backup size: {delta}")?;
    let own = format_size(sizes.stored_delta);
    match sizes.maps {
        // How much of the other backups it needs is not known where they are put together from blocks.
        Some(_) => writeln!(text, "            repo{}: backup size: {own}", of.key)?,
        None => {
            let set = format_size(sizes.stored);
            writeln!(text, "            repo{}: backup set size: {set}, backup size: {own}", of.key)?;
        }
    }
    let references: Vec<_> = backup.references.iter().map(ToString::to_string).collect();
    if !references.is_empty() && in_full {
        writeln!(text, "            backup reference list: {}", references.join(", "))?;
    } else if !references.is_empty() {
        writeln!(text, "            backup reference total: {}", reference_total(&references))?;
    }
    let damaged: Vec<_> =
        of.set().iter().flat_map(|set| &set.errors).map(|path| of_data_directory(path)).collect();
    if let Some(set) = of.set() {
        details(text, &set.databases, &set.links, &set.tablespaces)?;
    }
    if !damaged.is_empty() {
        writeln!(text, "            error list: {}", damaged.join(", "))?;
    } else if backup.page_errors == Some(true) {
        writeln!(text, "            error(s) detected during backup")?;
    }
    if in_full && !backup.annotations.is_empty() {
        writeln!(text, "            annotation(s)")?;
        for (key, value) in &backup.annotations {
            writeln!(text, "                {key}: {value}")?;
        }
    }
    Ok(())
}

fn holds(text: &mut String, of: ShownBackup<'_>, zone: &TimeZone) -> std::fmt::Result {
    for hold in of.holds() {
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
    Ok(())
}

/// How a drill ended, in a line.
fn drill(facts: &DrillFacts, zone: &TimeZone) -> String {
    let at = time(facts.stop, zone);
    let took = |ms: Option<u64>, what| {
        let seconds = |ms: u64| format!(", {what} in {}s", ms.div_ceil(1000));
        ms.map(seconds).unwrap_or_default()
    };
    let took = [took(facts.restore_ms, "restored"), took(facts.recovery_ms, "recovered")].concat();
    if facts.ok {
        return format!("proven {at}{took}");
    }
    let failed = facts.checks.iter().filter(|check| check.result == CheckResult::Failed);
    let names: Vec<&str> = failed.map(|check| check.name.as_str()).collect();
    let why = facts.failure.clone().unwrap_or_else(|| format!("failed checks: {}", names.join(", ")));
    format!("FAILED {at}{took}: {}", why.replace(char::is_control, " "))
}

fn details(
    text: &mut String,
    databases: &[Database],
    links: &[Link],
    tablespaces: &[Tablespace],
) -> std::fmt::Result {
    let databases: Vec<_> =
        databases.iter().filter(|d| !d.template).map(|d| format!("{} ({})", d.name, d.oid)).collect();
    let databases = if databases.is_empty() { "none".to_owned() } else { databases.join(", ") };
    writeln!(text, "            database list: {databases}")?;
    if !links.is_empty() {
        writeln!(text, "            symlinks:")?;
        for link in links {
            writeln!(text, "                {} => {}", link.name, link.destination)?;
        }
    }
    if !tablespaces.is_empty() {
        writeln!(text, "            tablespaces:")?;
        for tablespace in tablespaces {
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

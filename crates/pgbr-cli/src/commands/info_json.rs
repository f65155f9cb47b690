//! `info --output=json`: pgBackRest's contract, field by field. New facts get new fields; none of its own is left out.

use serde_json::{Map, Value, json};

use pgbr::{
    Database, DrillFacts, Link, LockHolder, RecoveryGap, RecoveryWindow, RecoveryWindows, Tablespace,
    WalBounds,
};

use super::info::{AnyBackup, Shown, ShownBackup, ShownRepo, ShownTheirs, age, of_data_directory};

/// The document: an array of stanzas, keys sorted, no spaces, no newline. Ages are counted up to `now`, in Unix seconds.
pub(super) fn render(stanzas: &[Shown<'_>], progress_only: bool, now: i64) -> String {
    let all = stanzas.iter().map(|shown| if progress_only { progress(shown) } else { stanza(shown, now) });
    Value::Array(all.collect()).to_string()
}

fn progress(shown: &Shown<'_>) -> Value {
    json!({"name": shown.name, "status": status(shown)})
}

fn stanza(shown: &Shown<'_>, now: i64) -> Value {
    let repo = shown.repos.iter().map(|repo| {
        let status = json!({"code": repo.status.code, "message": repo.status.message});
        json!({"key": repo.key, "cipher": repo.cipher, "status": status})
    });
    let mut value = json!({
        "name": shown.name,
        "cipher": shown.cipher,
        "status": status(shown),
        "repo": repo.collect::<Vec<_>>(),
        "db": shown.repos.iter().flat_map(clusters).collect::<Vec<_>>(),
        "archive": shown.repos.iter().flat_map(|repo| archives(repo, now)).collect::<Vec<_>>(),
        "backup": shown.all_backups().into_iter().map(|b| any_backup(shown, b)).collect::<Vec<_>>(),
    });
    if let Some(last) = shown.last_drill()
        && let Some(fields) = value.as_object_mut()
    {
        let mut drill = drill(last.facts);
        drill["label"] = json!(last.label.to_string());
        drill["repo-key"] = json!(last.key);
        drill["age"] = json!(age(last.facts.stop, now));
        fields.insert("drill".to_owned(), drill);
    }
    value
}

fn clusters(repo: &ShownRepo<'_>) -> Vec<Value> {
    let key = repo.key;
    let cluster = |number: u32, system_id: u64, version: &str| json!({"id": number, "repo-key": key, "system-id": system_id, "version": version});
    let ours = repo.info.iter().flat_map(|info| &info.clusters);
    let mut all: Vec<(u32, Value)> =
        ours.map(|c| (c.number, cluster(c.number, c.system_id.as_u64(), &c.version.to_string()))).collect();
    for c in repo.theirs().into_iter().flat_map(|theirs| &theirs.clusters) {
        let entry = (c.number, cluster(c.number, c.system_id, &c.version));
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, entry)| entry).collect()
}

fn archives(repo: &ShownRepo<'_>, now: i64) -> Vec<Value> {
    let archives = repo.info.iter().flat_map(|info| &info.archives);
    let newest = |bounds: WalBounds| json!({"archived": bounds.modified, "age": age(bounds.modified, now)});
    let archive = archives.map(|archive| {
        let (id, bounds) = (archive.id, archive.bounds);
        let mut value = json!({
            "id": id.to_string(),
            "database": {"id": id.number(), "repo-key": repo.key},
            "min": bounds.map(|bounds| bounds.first.to_string()),
            "max": bounds.map(|bounds| bounds.last.to_string()),
            "newest": bounds.map(newest),
        });
        if let Some(recovery) = &archive.recovery {
            value["recovery"] = windows(recovery);
        }
        value
    });
    let mut all: Vec<Value> = archive.collect();
    for theirs in repo.theirs().into_iter().flat_map(|theirs| &theirs.archives) {
        let (id, bounds) = (theirs.id.to_string(), theirs.bounds);
        let (min, max) = (bounds.map(|(min, _)| min.to_string()), bounds.map(|(_, max)| max.to_string()));
        match all.iter_mut().find(|known| known["id"] == id.as_str()) {
            Some(known) => widen(known, min, max),
            None => all.push(json!({
                "id": id,
                "database": {"id": theirs.id.history().as_u32(), "repo-key": repo.key},
                "min": min,
                "max": max,
            })),
        }
    }
    // The last one is taken for the archive of the current cluster.
    all.sort_by_key(|archive| archive["database"]["id"].as_u64());
    all
}

/// Of an archive that is partly pgBackRest's, the ends of both parts together.
fn widen(archive: &mut Value, min: Option<String>, max: Option<String>) {
    for (field, found, first) in [("min", min, true), ("max", max, false)] {
        let Some(found) = found else { continue };
        let known = archive[field].as_str();
        if known.is_none_or(|known| (found.as_str() < known) == first) {
            archive[field] = found.into();
        }
    }
}

/// To which moments one can go back.
fn windows(recovery: &RecoveryWindows) -> Value {
    let labels = |labels: &[pgbr::BackupLabel]| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let window = |window: &RecoveryWindow| {
        json!({
            "timeline": window.timeline.as_u32(),
            "timestamp": {"start": window.from, "stop": window.to},
            "archive": {"start": window.first.to_string(), "stop": window.last.to_string()},
            "backup": labels(&window.backups),
        })
    };
    let gap = |gap: &RecoveryGap| {
        json!({
            "reason": gap.reason.as_str(),
            "timestamp": {"start": gap.from, "stop": gap.to},
            "archive": {"start": gap.first.to_string(), "stop": gap.last.to_string()},
            "segments": gap.segments,
            "backup": labels(&gap.backups),
        })
    };
    let unusable = recovery
        .unusable
        .iter()
        .map(|(label, segment)| json!({"label": label.to_string(), "missing": segment.to_string()}));
    json!({
        "window": recovery.windows.iter().map(window).collect::<Vec<_>>(),
        "gap": recovery.gaps.iter().map(gap).collect::<Vec<_>>(),
        "unusable": unusable.collect::<Vec<_>>(),
    })
}

fn status(shown: &Shown<'_>) -> Value {
    json!({
        "code": shown.status.code,
        "message": shown.status.message,
        "lock": {"backup": backup_lock(&shown.repos), "restore": restore_lock(shown.restore.as_ref())},
    })
}

/// How much there is to do and how much is done, where that is known.
fn sizes(holder: &LockHolder) -> Option<(u64, u64)> {
    holder.progress.size.zip(holder.progress.size_complete)
}

/// Sizes are those of all repositories that are worked on.
fn backup_lock(repos: &[ShownRepo<'_>]) -> Value {
    let mut lock = json!({"held": repos.iter().any(|repo| repo.backup.is_some())});
    let sizes: Vec<_> =
        repos.iter().filter_map(|repo| Some((repo.key, sizes(repo.backup.as_ref()?)?))).collect();
    if let Some(fields) = lock.as_object_mut().filter(|_| !sizes.is_empty()) {
        let sum = |part: fn(&(u16, (u64, u64))) -> u64| sizes.iter().map(part).fold(0, u64::saturating_add);
        fields.insert("size".to_owned(), sum(|(_, (size, _))| *size).into());
        fields.insert("size-cplt".to_owned(), sum(|(_, (_, done))| *done).into());
        let repos =
            sizes.iter().map(|(key, (size, done))| json!({"key": key, "size": size, "size-cplt": done}));
        fields.insert("repo".to_owned(), repos.collect());
    }
    lock
}

fn restore_lock(holder: Option<&LockHolder>) -> Value {
    match holder.and_then(sizes) {
        Some((size, done)) => json!({"held": true, "size": size, "size-cplt": done}),
        None => json!({"held": holder.is_some()}),
    }
}

fn any_backup(shown: &Shown<'_>, of: AnyBackup<'_>) -> Value {
    match of {
        AnyBackup::Ours(of) => backup(shown, of),
        AnyBackup::Theirs(of) => their_backup(of),
    }
}

/// A backup of pgBackRest's, as it tells of it itself.
fn their_backup(of: ShownTheirs<'_>) -> Value {
    let backup = of.entry;
    let references: Vec<_> = backup.references.iter().map(ToString::to_string).collect();
    let sizes = &backup.sizes;
    let mut repository = json!({"delta": sizes.stored_delta});
    match (sizes.maps, sizes.maps_delta) {
        (Some(maps), Some(own)) => {
            (repository["size-map"], repository["delta-map"]) = (maps.into(), own.into());
        }
        _ => repository["size"] = sizes.stored.into(),
    }
    let mut value = json!({
        "label": backup.label.to_string(),
        "type": backup.kind.to_string(),
        "prior": backup.prior.map(|label| label.to_string()),
        "reference": if references.is_empty() { Value::Null } else { json!(references) },
        "error": backup.page_errors,
        "timestamp": {"start": backup.started, "stop": backup.stopped},
    "archive": {"start": backup.wal.start.map(|wal| wal.to_string()), "stop": backup.wal.stop.map(|wal| wal.to_string())},
        "backrest": {"format": 5, "version": backup.written_by},
        "database": {"id": backup.cluster.as_u32(), "repo-key": of.key},
        "info": {"size": sizes.original, "delta": sizes.original_delta, "repository": repository},
    });
    if let Some(fields) = value.as_object_mut() {
        if let (Some(start), Some(stop)) = (backup.wal.start_lsn, backup.wal.stop_lsn) {
            fields.insert("lsn".to_owned(), json!({"start": start.to_string(), "stop": stop.to_string()}));
        }
        if !backup.annotations.is_empty() {
            fields.insert("annotation".to_owned(), json!(backup.annotations));
        }
        if backup.page_errors.is_none() {
            fields.remove("error");
        }
        if let Some(set) = of.set() {
            let errors = set.errors.iter().map(|path| of_data_directory(path).into()).collect();
            in_full(fields, &set.databases, &set.links, &set.tablespaces, errors);
        }
    }
    value
}

/// What is told of one backup that was asked for.
fn in_full(
    fields: &mut Map<String, Value>,
    databases: &[Database],
    links: &[Link],
    tablespaces: &[Tablespace],
    errors: Vec<Value>,
) {
    let databases = databases.iter().filter(|d| !d.template).map(|d| json!({"name": d.name, "oid": d.oid}));
    let links = links.iter().map(|l| json!({"name": l.name, "destination": l.destination}));
    let spaces = tablespaces.iter().map(|t| json!({"name": t.name, "oid": t.oid, "destination": t.location}));
    fields.insert("database-ref".to_owned(), databases.collect());
    fields.insert("link".to_owned(), or_null(links.collect()));
    fields.insert("tablespace".to_owned(), or_null(spaces.collect()));
    if !errors.is_empty() {
        fields.insert("error-list".to_owned(), errors.into());
    }
}

fn backup(shown: &Shown<'_>, of: ShownBackup<'_>) -> Value {
    let (backup, references) = (of.summary, of.references());
    // What was stopped needs no WAL, and pgBackRest tells none.
    let wal = (!backup.offline).then_some(backup.wal);
    let mut value = json!({
        "label": backup.label.to_string(),
        "type": backup.kind.to_string(),
        "prior": backup.prior.map(|label| label.to_string()),
        "reference": if references.is_empty() { Value::Null } else { json!(references) },
        "error": backup.error,
        "timestamp": {"start": backup.time.start, "stop": backup.time.stop},
        "archive": {"start": wal.map(|wal| wal.start.to_string()), "stop": wal.map(|wal| wal.stop.to_string())},
        "backrest": {"format": 5, "version": shown.version.unwrap_or(&backup.program)},
        "database": {"id": backup.database.id, "repo-key": of.repo.key},
        "info": {
            "size": backup.sizes.database,
            "delta": backup.sizes.delta,
            "repository": {"size": backup.sizes.stored, "delta": backup.sizes.stored_delta},
        },
    });
    let Some(fields) = value.as_object_mut() else { return value };
    if !backup.offline {
        let lsn = json!({"start": backup.lsn.start.to_string(), "stop": backup.lsn.stop.to_string()});
        fields.insert("lsn".to_owned(), lsn);
    }
    if !backup.annotation.is_empty() {
        fields.insert("annotation".to_owned(), json!(backup.annotation));
    }
    let holds = of.holds().map(|hold| {
        let record = hold.record.as_ref();
        json!({
            "id": hold.id.to_string(),
            "reason": record.map(|record| &record.reason),
            "holder": record.map(|record| &record.holder),
            "created": record.map(|record| record.created),
        })
    });
    let holds: Vec<_> = holds.collect();
    if !holds.is_empty() {
        fields.insert("hold".to_owned(), holds.into());
    }
    if let Some(facts) = of.drill() {
        fields.insert("drill".to_owned(), drill(facts));
    }
    let note_errors = of.note_errors();
    if !note_errors.is_empty() {
        fields.insert("annotation-error".to_owned(), json!(note_errors));
    }
    if let Some(body) = of.body() {
        let errors = of.error_list().map(Value::from).collect();
        in_full(fields, &body.databases, &body.links, &body.tablespaces, errors);
    }
    value
}

fn drill(facts: &DrillFacts) -> Value {
    json!({
        "timestamp": {"start": facts.start, "stop": facts.stop},
        "ok": facts.ok,
        "restore-ms": facts.restore_ms,
        "recovery-ms": facts.recovery_ms,
        "goal": facts.goal,
    })
}

fn or_null(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}

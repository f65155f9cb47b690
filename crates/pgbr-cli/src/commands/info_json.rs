//! `info --output=json`: pgBackRest's contract, field by field. New facts get new fields; none of its own is left out.

use serde_json::{Value, json};

use pgbr::{DrillFacts, LockHolder, RecoveryGap, RecoveryWindow, RecoveryWindows, WalBounds};

use super::info::{Shown, ShownBackup, ShownRepo, age};

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
        "backup": shown.backups().map(|b| backup(shown, b)).collect::<Vec<_>>(),
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
    let clusters = repo.info.iter().flat_map(|info| &info.clusters);
    clusters.map(|cluster| {
        json!({"id": cluster.number, "repo-key": key, "system-id": cluster.system_id, "version": cluster.version.to_string()})
    }).collect()
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
    archive.collect()
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

fn backup(shown: &Shown<'_>, of: ShownBackup<'_>) -> Value {
    let (backup, references) = (of.summary, of.references());
    let mut value = json!({
        "label": backup.label.to_string(),
        "type": backup.kind.to_string(),
        "prior": backup.prior.map(|label| label.to_string()),
        "reference": if references.is_empty() { Value::Null } else { json!(references) },
        "error": backup.error,
        "timestamp": {"start": backup.time.start, "stop": backup.time.stop},
        "lsn": {"start": backup.lsn.start.to_string(), "stop": backup.lsn.stop.to_string()},
        "archive": {"start": backup.wal.start.to_string(), "stop": backup.wal.stop.to_string()},
        "backrest": {"format": 5, "version": shown.version.unwrap_or(&backup.program)},
        "database": {"id": backup.database.id, "repo-key": of.repo.key},
        "info": {
            "size": backup.sizes.database,
            "delta": backup.sizes.delta,
            "repository": {"size": backup.sizes.stored, "delta": backup.sizes.stored_delta},
        },
    });
    let Some(fields) = value.as_object_mut() else { return value };
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
        let databases =
            body.databases.iter().filter(|d| !d.template).map(|d| json!({"name": d.name, "oid": d.oid}));
        let links = body.links.iter().map(|l| json!({"name": l.name, "destination": l.destination}));
        let spaces =
            body.tablespaces.iter().map(|t| json!({"name": t.name, "oid": t.oid, "destination": t.location}));
        fields.insert("database-ref".to_owned(), databases.collect());
        fields.insert("link".to_owned(), or_null(links.collect()));
        fields.insert("tablespace".to_owned(), or_null(spaces.collect()));
        fields.insert("error-list".to_owned(), or_null(of.error_list().map(Value::from).collect()));
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

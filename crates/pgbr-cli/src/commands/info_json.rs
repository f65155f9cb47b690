//! `info --output=json`: pgBackRest's contract, field by field. New facts get new fields; none of its own is left out.

use serde_json::{Value, json};

use pgbr::LockHolder;

use super::info::{Shown, ShownBackup, ShownRepo};

/// The document: an array of stanzas, keys sorted, no spaces, no newline.
pub(super) fn render(stanzas: &[Shown<'_>], progress_only: bool) -> String {
    let all = stanzas.iter().map(|shown| if progress_only { progress(shown) } else { stanza(shown) });
    Value::Array(all.collect()).to_string()
}

fn progress(shown: &Shown<'_>) -> Value {
    json!({"name": shown.name, "status": status(shown)})
}

fn stanza(shown: &Shown<'_>) -> Value {
    let repo = shown.repos.iter().map(|repo| {
        let status = json!({"code": repo.status.code, "message": repo.status.message});
        json!({"key": repo.key, "cipher": repo.cipher, "status": status})
    });
    json!({
        "name": shown.name,
        "cipher": shown.cipher,
        "status": status(shown),
        "repo": repo.collect::<Vec<_>>(),
        "db": shown.repos.iter().flat_map(clusters).collect::<Vec<_>>(),
        "archive": shown.repos.iter().flat_map(archives).collect::<Vec<_>>(),
        "backup": shown.backups().map(|b| backup(shown, b)).collect::<Vec<_>>(),
    })
}

fn clusters(repo: &ShownRepo<'_>) -> Vec<Value> {
    let key = repo.key;
    let clusters = repo.info.iter().flat_map(|info| &info.clusters);
    clusters.map(|cluster| {
        json!({"id": cluster.number, "repo-key": key, "system-id": cluster.system_id, "version": cluster.version.to_string()})
    }).collect()
}

fn archives(repo: &ShownRepo<'_>) -> Vec<Value> {
    let archives = repo.info.iter().flat_map(|info| &info.archives);
    let archive = archives.map(|(id, bounds)| {
        json!({
            "id": id.to_string(),
            "database": {"id": id.number(), "repo-key": repo.key},
            "min": bounds.map(|(min, _)| min.to_string()),
            "max": bounds.map(|(_, max)| max.to_string()),
        })
    });
    archive.collect()
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
    if let Some(drill) = of.drill() {
        let drill = json!({
            "timestamp": {"start": drill.start, "stop": drill.stop},
            "ok": drill.ok,
            "restore-ms": drill.restore_ms,
            "recovery-ms": drill.recovery_ms,
            "goal": drill.goal,
        });
        fields.insert("drill".to_owned(), drill);
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

fn or_null(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}

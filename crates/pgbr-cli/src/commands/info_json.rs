//! `info --output=json`: pgBackRest's contract, field by field. New facts get new fields; none of its own is left out.

use serde_json::{Map, Value, json};

use pgbr::{LockHolder, Summary};

use super::info::Shown;

/// The document: an array of stanzas, keys sorted, no spaces, no newline.
pub(super) fn render(stanzas: &[Shown<'_>], progress_only: bool) -> String {
    let all = stanzas.iter().map(|shown| if progress_only { progress(shown) } else { stanza(shown) });
    Value::Array(all.collect()).to_string()
}

fn progress(shown: &Shown<'_>) -> Value {
    json!({"name": shown.info.name.as_str(), "status": status(shown)})
}

fn stanza(shown: &Shown<'_>) -> Value {
    let key = shown.repo_key;
    let db = shown.info.clusters.iter().map(|cluster| {
        json!({"id": cluster.number, "repo-key": key, "system-id": cluster.system_id, "version": cluster.version.to_string()})
    });
    let archive = shown.info.archives.iter().map(|(id, bounds)| {
        json!({
            "id": id.to_string(),
            "database": {"id": id.number(), "repo-key": key},
            "min": bounds.map(|(min, _)| min.to_string()),
            "max": bounds.map(|(_, max)| max.to_string()),
        })
    });
    json!({
        "name": shown.info.name.as_str(),
        "cipher": shown.cipher,
        "status": status(shown),
        "repo": [{"key": key, "cipher": shown.cipher, "status": {"code": shown.status.code, "message": shown.status.message}}],
        "db": db.collect::<Vec<_>>(),
        "archive": archive.collect::<Vec<_>>(),
        "backup": shown.backups().map(|b| backup(shown, b)).collect::<Vec<_>>(),
    })
}

fn status(shown: &Shown<'_>) -> Value {
    let backup = lock(shown.backup.as_ref(), Some(shown.repo_key));
    let restore = lock(shown.restore.as_ref(), None);
    json!({
        "code": shown.status.code,
        "message": shown.status.message,
        "lock": {"backup": backup, "restore": restore},
    })
}

fn lock(holder: Option<&LockHolder>, repo_key: Option<u16>) -> Value {
    let mut fields = Map::new();
    fields.insert("held".to_owned(), holder.is_some().into());
    if let Some(LockHolder { progress, .. }) = holder
        && let (Some(size), Some(done)) = (progress.size, progress.size_complete)
    {
        fields.insert("size".to_owned(), size.into());
        fields.insert("size-cplt".to_owned(), done.into());
        if let Some(key) = repo_key {
            fields.insert("repo".to_owned(), json!([{"key": key, "size": size, "size-cplt": done}]));
        }
    }
    Value::Object(fields)
}

fn backup(shown: &Shown<'_>, backup: &Summary) -> Value {
    let references = shown.references(backup);
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
        "database": {"id": backup.database.id, "repo-key": shown.repo_key},
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
    let holds = shown.holds(backup).map(|hold| {
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
    let note_errors = shown.note_errors(backup);
    if !note_errors.is_empty() {
        fields.insert("annotation-error".to_owned(), json!(note_errors));
    }
    if let Some((_, body)) = shown.info.set.as_ref().filter(|(set, _)| set.label == backup.label) {
        let databases =
            body.databases.iter().filter(|d| !d.template).map(|d| json!({"name": d.name, "oid": d.oid}));
        let links = body.links.iter().map(|l| json!({"name": l.name, "destination": l.destination}));
        let spaces =
            body.tablespaces.iter().map(|t| json!({"name": t.name, "oid": t.oid, "destination": t.location}));
        fields.insert("database-ref".to_owned(), databases.collect());
        fields.insert("link".to_owned(), or_null(links.collect()));
        fields.insert("tablespace".to_owned(), or_null(spaces.collect()));
        fields.insert("error-list".to_owned(), or_null(shown.error_list().map(Value::from).collect()));
    }
    value
}

fn or_null(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}

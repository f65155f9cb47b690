//! The texts of `archive.info` and `backup.info`, as pgBackRest would write them for what is in the repository.

use std::collections::BTreeMap;
use std::fmt::Write;

use pgbr_manifest::manifest::Summary;
use pgbr_pgbackrest::{BackupEntry as TheirBackup, BackupInfo as TheirList, Cluster as TheirCluster};
use pgbr_repo::ClusterId;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Value, json};

/// pgBackRest's number of its repository format.
const FORMAT: u32 = 5;

/// A section: its name and its pairs, whose values are JSON.
type Section = (&'static str, Vec<(String, Value)>);

/// The text of `archive.info`. `program` is the version that it says it was written by.
pub(super) fn archive_info(history: &[ClusterId], program: &str) -> String {
    let db = history.last().map(|current| {
        vec![
            ("db-id".to_owned(), json!(current.number)),
            ("db-system-id".to_owned(), json!(current.system_id.as_u64())),
            ("db-version".to_owned(), json!(current.version.to_string())),
        ]
    });
    let of = |cluster: &ClusterId| {
        let value = json!({"db-id": cluster.system_id.as_u64(), "db-version": cluster.version.to_string()});
        (cluster.number.to_string(), value)
    };
    render(program, [("db", db.unwrap_or_default()), ("db:history", history.iter().map(of).collect())])
}

/// Whether the clusters of pgBackRest's list and ours can stand in one: no number means one cluster here and another there.
pub(super) fn agree(history: &[ClusterId], theirs: &TheirList) -> bool {
    history.iter().all(|ours| {
        let same = theirs.history.iter().find(|cluster| cluster.id.as_u32() == ours.number);
        same.is_none_or(|cluster| {
            (cluster.system_id, cluster.version) == (ours.system_id, ours.version.into())
        })
    })
}

/// The text of `backup.info`, with the backups that can be read, and those of pgBackRest's list, with which ours agrees.
pub(super) fn backup_info(
    history: &[ClusterId],
    backups: &[Summary],
    theirs: Option<&TheirList>,
    program: &str,
) -> String {
    let ours = history.iter().map(|cluster| (cluster.number.to_string(), facts(cluster)));
    let others = theirs.iter().flat_map(|list| &list.history);
    let clusters: BTreeMap<String, Value> = others
        .map(|cluster| (cluster.id.as_u32().to_string(), facts_of_theirs(cluster)))
        .chain(ours)
        .collect();
    let db = history.last().map(|current| {
        let mut pairs: Vec<(String, Value)> = facts(current)
            .as_object()
            .map(|pairs| pairs.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
            .unwrap_or_default();
        pairs.push(("db-id".to_owned(), json!(current.number)));
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs
    });
    let ours = backups.iter().map(|backup| (backup.label.to_string(), entry(backup, backups)));
    let others = theirs.iter().flat_map(|list| &list.backups);
    let current: BTreeMap<String, Value> =
        others.map(|backup| (backup.label.to_string(), entry_of_theirs(backup))).chain(ours).collect();
    let (current, history) = (current.into_iter().collect(), clusters.into_iter().collect());
    render(program, [("backup:current", current), ("db", db.unwrap_or_default()), ("db:history", history)])
}

fn facts(cluster: &ClusterId) -> Value {
    json!({
        "db-catalog-version": cluster.catalog_version,
        "db-control-version": cluster.control_version,
        "db-system-id": cluster.system_id.as_u64(),
        "db-version": cluster.version.to_string(),
    })
}

fn facts_of_theirs(cluster: &TheirCluster) -> Value {
    json!({
        "db-catalog-version": cluster.catalog_version,
        "db-control-version": cluster.control_version,
        "db-system-id": cluster.system_id.as_u64(),
        "db-version": cluster.version.to_string(),
    })
}

/// The line of a backup of pgBackRest's, as that writes it.
fn entry_of_theirs(backup: &TheirBackup) -> Value {
    let (options, sizes) = (&backup.options, &backup.sizes);
    let mut value = json!({
        "backrest-format": FORMAT,
        "backrest-version": backup.written_by,
        "backup-archive-start": backup.wal.start,
        "backup-archive-stop": backup.wal.stop,
        "backup-info-repo-size": sizes.stored,
        "backup-info-repo-size-delta": sizes.stored_delta,
        "backup-info-size": sizes.original,
        "backup-info-size-delta": sizes.original_delta,
        "backup-timestamp-start": backup.started,
        "backup-timestamp-stop": backup.stopped,
        "backup-type": backup.kind.to_string(),
        "db-id": backup.cluster.as_u32(),
        "option-archive-check": options.archive_check,
        "option-archive-copy": options.archive_copy,
        "option-backup-standby": options.backup_standby,
        "option-checksum-page": options.checksum_page,
        "option-compress": options.compress,
        "option-hardlink": options.hardlink,
        "option-online": options.online,
    });
    let Some(fields) = value.as_object_mut() else { return value };
    let references = (!backup.references.is_empty()).then(|| json!(backup.references));
    let annotations = (!backup.annotations.is_empty()).then(|| json!(backup.annotations));
    for (name, found) in [
        ("backup-annotation", annotations),
        ("backup-error", backup.page_errors.map(|wrong| json!(wrong))),
        ("backup-info-repo-size-map", sizes.maps.map(|size| json!(size))),
        ("backup-info-repo-size-map-delta", sizes.maps_delta.map(|size| json!(size))),
        ("backup-lsn-start", backup.wal.start_lsn.map(|lsn| json!(lsn))),
        ("backup-lsn-stop", backup.wal.stop_lsn.map(|lsn| json!(lsn))),
        ("backup-prior", backup.prior.map(|prior| json!(prior))),
        ("backup-reference", references),
    ] {
        if let Some(found) = found {
            fields.insert(name.to_owned(), found);
        }
    }
    value
}

/// A backup's line. Sizes are those that `info` shows.
fn entry(backup: &Summary, all: &[Summary]) -> Value {
    // What was stopped needs no WAL, and pgBackRest writes none.
    let wal = (!backup.offline).then_some(backup.wal);
    let mut value = json!({
        "backrest-format": FORMAT,
        "backrest-version": backup.program,
        "backup-archive-start": wal.map(|wal| wal.start.to_string()),
        "backup-archive-stop": wal.map(|wal| wal.stop.to_string()),
        "backup-error": backup.error,
        "backup-info-repo-size": backup.sizes.stored,
        "backup-info-repo-size-delta": backup.sizes.stored_delta,
        "backup-info-size": backup.sizes.database,
        "backup-info-size-delta": backup.sizes.delta,
        "backup-timestamp-start": backup.time.start,
        "backup-timestamp-stop": backup.time.stop,
        "backup-type": backup.kind.to_string(),
        "db-id": backup.database.id,
        // pgBackRest reads no entry without these. Where the summary does not say what was in force they are its defaults.
        "option-archive-check": !backup.offline,
        "option-archive-copy": backup.wal_inside && !backup.offline,
        "option-backup-standby": false,
        "option-checksum-page": true,
        "option-compress": true,
        "option-hardlink": false,
        "option-online": !backup.offline,
    });
    let Some(fields) = value.as_object_mut() else { return value };
    if !backup.offline {
        fields.insert("backup-lsn-start".to_owned(), json!(backup.lsn.start.to_string()));
        fields.insert("backup-lsn-stop".to_owned(), json!(backup.lsn.stop.to_string()));
    }
    if !backup.annotation.is_empty() {
        fields.insert("backup-annotation".to_owned(), json!(backup.annotation));
    }
    if let Some(prior) = backup.prior {
        fields.insert("backup-prior".to_owned(), json!(prior.to_string()));
        let mut references = Vec::new();
        let mut next = Some(prior);
        while let Some(label) = next {
            references.push(label.to_string());
            next = all.iter().find(|other| other.label == label).and_then(|other| other.prior);
        }
        references.reverse();
        fields.insert("backup-reference".to_owned(), json!(references));
    }
    value
}

/// Sections as text: pgBackRest's own come first with format and version, and last with the checksum of all.
fn render<const N: usize>(program: &str, sections: [Section; N]) -> String {
    let own = (
        "backrest",
        vec![("backrest-format".to_owned(), json!(FORMAT)), ("backrest-version".to_owned(), json!(program))],
    );
    let all: Vec<Section> =
        std::iter::once(own).chain(sections).filter(|(_, pairs)| !pairs.is_empty()).collect();
    let mut text = String::new();
    for (name, pairs) in &all {
        // Writing to a string does not fail.
        writeln!(text, "[{name}]").ok();
        for (key, value) in pairs {
            writeln!(text, "{key}={value}").ok();
        }
        text.push('\n');
    }
    text + &format!("[backrest]\nbackrest-checksum=\"{}\"\n", checksum(&all))
}

/// The checksum of pgBackRest's info files.
fn checksum(sections: &[Section]) -> String {
    let section = |(name, pairs): &Section| {
        let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
        format!("{}:{{{}", json!(name), pairs.join(","))
    };
    let text: Vec<String> = sections.iter().map(section).collect();
    let text = format!("{{{}}}}}", text.join("},"));
    data_encoding::HEXLOWER.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_pgbackrests() {
        let pair = |key: &str, value: Value| (key.to_owned(), value);
        let sections = [
            ("cipher", vec![pair("cipher-pass", json!("custom"))]),
            (
                "db",
                vec![
                    pair("db-id", json!(1)),
                    pair("db-system-id", json!(6_846_378_200_844_646_865_u64)),
                    pair("db-version", json!("12")),
                ],
            ),
            (
                "db:history",
                vec![pair("1", json!({"db-id": 6_846_378_200_844_646_865_u64, "db-version": "12"}))],
            ),
            ("backrest", vec![pair("backrest-format", json!(5))]),
        ];
        // From pgBackRest's own tests.
        assert_eq!(checksum(&sections), "9d37594e0e77ff16024abd2224b75dfc0323c864");
    }

    fn cluster(number: u32, system_id: u64, version: &str) -> ClusterId {
        let json = json!({
            "number": number, "system-id": system_id, "version": version, "catalog-version": 1, "control-version": 2, "added": 3,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn no_number_means_two_clusters() {
        let list = |history: &[ClusterId]| {
            let text = backup_info(history, &[], None, "2.59.1");
            TheirList::parse("backup.info", text.as_bytes()).unwrap()
        };
        let (old, new) = (cluster(1, 77, "14"), cluster(2, 78, "15"));
        let theirs = list(&[old, new]);
        for ours in [&[old, new][..], &[old], &[old, new, cluster(3, 78, "16")], &[cluster(3, 79, "15")]] {
            assert!(agree(ours, &theirs), "{ours:?}");
        }
        for ours in [&[cluster(1, 77, "15")][..], &[old, cluster(2, 79, "15")], &[cluster(2, 77, "14")]] {
            assert!(!agree(ours, &theirs), "{ours:?}");
        }
        // What only one of them knows is in what is made of both.
        let both = backup_info(&[old, new, cluster(3, 78, "16")], &[], Some(&theirs), "2.59.1");
        let found = TheirList::parse("backup.info", both.as_bytes()).unwrap();
        assert_eq!((found.history.len(), found.current.id.as_u32()), (3, 3));
    }

    #[test]
    fn an_info_file_begins_and_ends_with_what_is_said_of_itself() {
        let text = render("2.60.0", [("db", vec![("db-id".to_owned(), json!(1))]), ("empty", Vec::new())]);
        let begin = "[backrest]\nbackrest-format=5\nbackrest-version=\"2.60.0\"\n\n[db]\ndb-id=1\n\n[backrest]\nbackrest-checksum=\"";
        assert!(text.starts_with(begin) && text.ends_with("\"\n"), "{text}");
    }
}

//! From lines to a manifest, and the rules that hold for all of it.

use std::collections::{BTreeSet, HashSet};
use std::io::BufRead;

use pgbr_manifest::{BackupLabel, BackupType, RelPath};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::file::{Given, LeftOut, Names, RawOwner, parse_oid, read_file, read_path};
use super::places::check_places;
use super::{
    Database, Directory, File, Link, MAX_BYTES, MAX_MEMORY, Manifest, Mode, Options, Owner, PageCheck,
    Target, TargetKind,
};
use crate::archive_info::current_id_in;
use crate::backup_info::{WalRange, read_cluster};
use crate::compression::Compression;
use crate::error::Fault;
use crate::info_file::{Facts, InfoReader, Pair, required};

/// What an entry costs beside its own size and its texts: what is allocated, and what the rules of places are looked up in.
const ENTRY_COSTS: usize = 64;
const _: () = assert!(size_of::<File>() + ENTRY_COSTS < 400, "the documentation of Manifest::parse says so");

/// What is read of a manifest, line by line. Attributes that a line leaves out come from defaults, which stand behind the lines.
#[derive(Default)]
struct Lines {
    facts: Facts,
    names: Names,
    targets: Vec<Target>,
    databases: Vec<Database>,
    files: List<File>,
    links: List<Link>,
    directories: List<Directory>,
    file_default: Defaults,
    link_default: Defaults,
    directory_default: Defaults,
    memory: u64,
}

/// Entries of a kind in file order, and beside them what their lines left out.
struct List<T> {
    entries: Vec<T>,
    left_out: Vec<LeftOut>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), left_out: Vec::new() }
    }
}

impl<T> List<T> {
    fn push(&mut self, entry: T, left_out: LeftOut) {
        self.entries.push(entry);
        self.left_out.push(left_out);
    }
}

/// What defaults are filled into.
struct Slots<'a> {
    path: &'a RelPath,
    /// A link has none.
    mode: Option<&'a mut Mode>,
    user: &'a mut Owner,
    group: &'a mut Owner,
}

#[derive(Debug, Clone, Default)]
struct Defaults {
    mode: Option<Mode>,
    user: Option<Owner>,
    group: Option<Owner>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct TargetLine {
    path: String,
    r#type: String,
    file: Option<String>,
    tablespace_id: Option<String>,
    tablespace_name: Option<Name>,
}

/// The name of something in the database, which has the encoding of whoever gave it: what is not UTF-8 in it is replaced.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Name;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }

            fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Name, E> {
                Ok(Name(String::from_utf8_lossy(name).into_owned()))
            }
        }
        from.deserialize_bytes(Visitor)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DatabaseLine {
    db_id: u32,
    #[serde(default)]
    db_last_system_id: u32,
}

#[derive(Deserialize)]
struct LinkLine<'a> {
    destination: String,
    #[serde(borrow)]
    group: Option<RawOwner<'a>>,
    #[serde(borrow)]
    user: Option<RawOwner<'a>>,
}

#[derive(Deserialize)]
struct DirectoryLine<'a> {
    #[serde(borrow)]
    group: Option<RawOwner<'a>>,
    mode: Option<Mode>,
    #[serde(borrow)]
    user: Option<RawOwner<'a>>,
}

impl Manifest {
    pub(crate) fn read(input: impl BufRead) -> Result<Self, Fault> {
        let mut reader = InfoReader::new(input, MAX_BYTES);
        let mut lines = Lines::default();
        while let Some(pair) = reader.next()? {
            lines.add(&pair)?;
        }
        let manifest = lines.finish(reader.version())?;
        check_label(&manifest)?;
        check_places(&manifest)?;
        Ok(manifest)
    }
}

impl Lines {
    fn add(&mut self, pair: &Pair<'_>) -> Result<(), Fault> {
        match pair.section {
            "target:file" => {
                let (file, left_out) = read_file(pair, &mut self.names)?;
                let pages = if let Some(PageCheck::Bad(runs)) = &file.pages { runs.len() } else { 0 };
                self.take_memory(
                    size_of::<File>() + file.path.as_bytes().len() + pages * size_of::<(u64, u64)>(),
                )?;
                self.files.push(file, left_out);
            }
            "target:path" => {
                let (path, DirectoryLine { group, mode, user }) = (read_path(pair)?, pair.parse()?);
                let Given { mode, user, group, left_out } = self.names.given(mode, user, group);
                self.take_memory(size_of::<Directory>() + path.as_bytes().len())?;
                self.directories.push(Directory { path, mode, user, group }, left_out);
            }
            "target:link" => {
                let (path, LinkLine { destination, group, user }) = (read_path(pair)?, pair.parse()?);
                check_foreign_path(pair, &destination)?;
                let Given { user, group, left_out, .. } = self.names.given(None, user, group);
                self.take_memory(size_of::<Link>() + path.as_bytes().len() + destination.len())?;
                self.links.push(Link { path, destination, user, group }, left_out);
            }
            "target:file:default" => self.names.default(&mut self.file_default, pair)?,
            "target:path:default" => self.names.default(&mut self.directory_default, pair)?,
            "target:link:default" => self.names.default(&mut self.link_default, pair)?,
            "backup:target" => {
                self.take_memory(size_of::<Target>() + pair.key.len() + pair.value.len())?;
                self.targets.push(read_target(pair)?);
            }
            "db" => {
                self.take_memory(size_of::<Database>() + pair.key.len())?;
                let DatabaseLine { db_id: oid, db_last_system_id: last_system_oid } = pair.parse()?;
                let name = String::from_utf8_lossy(pair.key).into_owned();
                self.databases.push(Database { name, oid, last_system_oid });
            }
            _ => self.facts.add(pair)?,
        }
        Ok(())
    }

    /// Counts what an entry takes.
    fn take_memory(&mut self, bytes: usize) -> Result<(), Fault> {
        self.memory = self.memory.saturating_add((bytes + ENTRY_COSTS) as u64);
        let fault =
            || Fault::invalid("the list of files", format!("takes more than {MAX_MEMORY} bytes of memory"));
        if self.memory <= MAX_MEMORY { Ok(()) } else { Err(fault()) }
    }

    fn finish(mut self, version: &str) -> Result<Manifest, Fault> {
        let passphrase = self.facts.take_passphrase();
        let facts = &self.facts;
        let label: BackupLabel = needed(facts, "backup-label")?;
        let files = fill("target:file", self.files, &self.file_default, |file| Slots {
            path: &file.path,
            mode: Some(&mut file.mode),
            user: &mut file.user,
            group: &mut file.group,
        })?;
        let links = fill("target:link", self.links, &self.link_default, |link| Slots {
            path: &link.path,
            mode: None,
            user: &mut link.user,
            group: &mut link.group,
        })?;
        let directories =
            fill("target:path", self.directories, &self.directory_default, |directory| Slots {
                path: &directory.path,
                mode: Some(&mut directory.mode),
                user: &mut directory.user,
                group: &mut directory.group,
            })?;
        Ok(Manifest {
            written_by: version.to_owned(),
            label,
            kind: needed(facts, "backup-type")?,
            prior: facts.word("backup", "backup-prior")?,
            references: read_references(facts, label, &files)?,
            wal: WalRange {
                start: facts.word("backup", "backup-archive-start")?,
                stop: facts.word("backup", "backup-archive-stop")?,
                start_lsn: facts.word("backup", "backup-lsn-start")?,
                stop_lsn: facts.word("backup", "backup-lsn-stop")?,
            },
            started: read_time(facts, "backup-timestamp-start")?,
            copy_started: read_time(facts, "backup-timestamp-copy-start")?,
            stopped: read_time(facts, "backup-timestamp-stop")?,
            cluster: read_cluster(facts, "backup:db", current_id_in(facts, "backup:db")?)?,
            options: read_options(facts)?,
            targets: sorted("backup:target", self.targets, |target| target.name.as_bytes())?,
            databases: self.databases,
            annotations: facts.table("metadata", "annotation")?,
            files: sorted("target:file", files, |file| file.path.as_bytes())?,
            links: sorted("target:link", links, |link| link.path.as_bytes())?,
            directories: sorted("target:path", directories, |directory| directory.path.as_bytes())?,
            passphrase,
        })
    }
}

impl Names {
    /// A line of a section of defaults.
    fn default(&mut self, default: &mut Defaults, pair: &Pair<'_>) -> Result<(), Fault> {
        match pair.key {
            b"user" => default.user = Some(self.owner(pair.parse()?)),
            b"group" => default.group = Some(self.owner(pair.parse()?)),
            b"mode" => default.mode = Some(pair.parse()?),
            _ => drop(pair.parse::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// Fills in what the lines left out.
fn fill<T>(
    section: &str,
    list: List<T>,
    default: &Defaults,
    slots: impl Fn(&mut T) -> Slots<'_>,
) -> Result<Vec<T>, Fault> {
    let mut entries = list.entries;
    for (entry, left_out) in entries.iter_mut().zip(list.left_out) {
        let mut slots = slots(entry);
        slots
            .fill(left_out, default)
            .map_err(|reason| Fault::invalid(format!("[{section}] {}", slots.path), reason))?;
    }
    Ok(entries)
}

impl Slots<'_> {
    fn fill(&mut self, left_out: LeftOut, default: &Defaults) -> Result<(), &'static str> {
        for (missing, slot, default) in [
            (left_out.user, &mut *self.user, &default.user),
            (left_out.group, &mut *self.group, &default.group),
        ] {
            if missing {
                slot.clone_from(default.as_ref().ok_or("has no owner")?);
            }
        }
        match &mut self.mode {
            Some(slot) if left_out.mode => **slot = default.mode.ok_or("has no mode")?,
            _ => {}
        }
        Ok(())
    }
}

/// In the order of the paths' bytes, each path once.
fn sorted<T>(section: &str, mut list: Vec<T>, path: impl Fn(&T) -> &[u8]) -> Result<Vec<T>, Fault> {
    list.sort_unstable_by(|a, b| path(a).cmp(path(b)));
    match list.windows(2).find(|two| path(&two[0]) == path(&two[1])) {
        Some(two) => Err(Fault::invalid(
            format!("[{section}] {}", String::from_utf8_lossy(path(&two[0]))),
            "is there twice",
        )),
        None => Ok(list),
    }
}

fn needed<T: std::str::FromStr<Err: ToString>>(facts: &Facts, key: &str) -> Result<T, Fault> {
    required(facts.word("backup", key)?, "backup", key)
}

fn read_time(facts: &Facts, key: &str) -> Result<i64, Fault> {
    let seconds = required(facts.number("backup", key)?, "backup", key)?;
    i64::try_from(seconds).map_err(|_| Fault::invalid(format!("[backup] {key}"), "is not a time"))
}

/// The backups referred to. Before 2.42 the files alone told them, and there were no block maps to index the list.
fn read_references(facts: &Facts, label: BackupLabel, files: &[File]) -> Result<Vec<BackupLabel>, Fault> {
    let what = "[backup] backup-reference";
    let found = || files.iter().filter_map(|file| file.reference);
    let mut references = match facts.text("backup", "backup-reference")? {
        None => found().chain([label]).collect::<BTreeSet<_>>().into_iter().collect(),
        Some(text) => text
            .split(',')
            .map(|word| word.parse::<BackupLabel>().map_err(|error| Fault::invalid(what, error.to_string())))
            .collect::<Result<Vec<_>, _>>()?,
    };
    // Only an unfinished one is without itself.
    if references.last() != Some(&label) {
        references.retain(|reference| *reference != label);
        references.push(label);
    }
    let known: HashSet<_> = references.iter().copied().collect();
    if known.len() != references.len() {
        return Err(Fault::invalid(what, "names a backup twice"));
    }
    if let Some(other) = references.iter().find(|reference| reference.full() != label.full()) {
        return Err(Fault::invalid(what, format!("names {other}, which is not of its set")));
    }
    if let Some(file) =
        files.iter().find(|file| file.reference.is_some_and(|r| !known.contains(&r) || r == label))
    {
        return Err(Fault::invalid(
            format!("[target:file] {}", file.path),
            "lies in a backup that is not referred to",
        ));
    }
    Ok(references)
}

fn read_options(facts: &Facts) -> Result<Options, Fault> {
    let flag = |section: &str, key: &str| Ok::<_, Fault>(facts.flag(section, key)?.unwrap_or(false));
    let option = |key: &str| flag("backup:option", key);
    let compression = match facts.word("backup:option", "option-compress-type")? {
        Some(compression) => compression,
        None if option("option-compress")? => Compression::Gz,
        None => Compression::None,
    };
    Ok(Options {
        compression,
        bundle: flag("backup", "backup-bundle")?,
        bundle_raw: flag("backup", "backup-bundle-raw")?,
        block_incr: flag("backup", "backup-block-incr")?,
        archive_check: option("option-archive-check")?,
        archive_copy: option("option-archive-copy")?,
        backup_standby: option("option-backup-standby")?,
        checksum_page: option("option-checksum-page")?,
        delta: option("option-delta")?,
        hardlink: option("option-hardlink")?,
        online: option("option-online")?,
    })
}

fn read_target(pair: &Pair<'_>) -> Result<Target, Fault> {
    let (name, line) = (read_path(pair)?, pair.parse::<TargetLine>()?);
    check_foreign_path(pair, &line.path)?;
    let tablespace = name.strip("pg_tblspc").map(parse_oid);
    let kind = match (line.r#type.as_str(), tablespace) {
        ("path", None) if name.as_bytes() == b"pg_data" => TargetKind::DataDirectory,
        ("link", Some(Some(oid))) => {
            if line.tablespace_id.is_some_and(|id| id != oid.to_string()) {
                return Err(pair.invalid("has another tablespace-id than its name says"));
            }
            let Name(name) = line.tablespace_name.ok_or_else(|| pair.invalid("has no tablespace-name"))?;
            TargetKind::Tablespace { oid, name }
        }
        ("link", None) if name.as_bytes() != b"pg_data" => match line.file {
            None => TargetKind::LinkedDirectory,
            Some(file) if !file.is_empty() && !file.contains(['/', '\0']) && file != "." && file != ".." => {
                TargetKind::LinkedFile(file)
            }
            Some(_) => return Err(pair.invalid("has a file that is not a name")),
        },
        _ => return Err(pair.invalid("is not a target of a kind that is known")),
    };
    Ok(Target { name, kind, path: line.path })
}

/// A path of the host that was backed up: what becomes of it is up to whoever restores.
fn check_foreign_path(pair: &Pair<'_>, path: &str) -> Result<(), Fault> {
    match path.is_empty() || path.len() > pgbr_manifest::MAX_PATH_BYTES || path.contains('\0') {
        true => Err(pair.invalid("leads to what is not a path")),
        false => Ok(()),
    }
}

/// What it is must fit its label.
fn check_label(manifest: &Manifest) -> Result<(), Fault> {
    let of_set = |prior: BackupLabel| prior.full() == manifest.label.full() && prior != manifest.label;
    let fits = match manifest.kind {
        BackupType::Full => manifest.prior.is_none() && manifest.references.len() == 1,
        BackupType::Diff | BackupType::Incr => manifest.prior.is_some_and(of_set),
    };
    match fits && manifest.kind == manifest.label.backup_type() {
        true => Ok(()),
        false => {
            let reason = "has a type, a prior backup and references that do not fit its label";
            Err(Fault::invalid("[backup]", reason))
        }
    }
}

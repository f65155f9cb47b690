//! Where a restore puts things: the directories it was given, checked before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use pgbr_manifest::RelPath;
use pgbr_manifest::manifest::{Body, Link, Tablespace};
use pgbr_pg::{ServerState, TEMPORARY_SUFFIX, server_state};

use super::hand::{LOST_AND_FOUND, list};
use super::select::Selection;
use crate::error::{Error, Result};

/// Says that a restore has begun and has not ended; the server does not start on such a directory, for it has no control file.
pub(crate) const MARKER: &str = "pgbr.restore";
/// More than the paths of many tablespaces.
const MAX_MARKER_BYTES: u64 = 1 << 20;
/// The file without which no server starts.
pub(super) const CONTROL: &str = "global/pg_control";

/// What decides about a recovery, in servers from version 12 on and before. A standby that lost its signal would open as a second primary.
const RECOVERY_SETTINGS: [&str; 4] =
    ["postgresql.auto.conf", "recovery.conf", "recovery.signal", "standby.signal"];

/// Where the operator wants things.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The data directory.
    pub pg_data: PathBuf,
    /// New locations of tablespaces, by name or OID.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// A directory in which tablespaces that are not mapped get one each, by their name.
    pub tablespace_map_all: Option<PathBuf>,
    /// New destinations of links, by their path in the data directory. What is no link in the backup becomes one.
    pub link_map: Vec<(String, PathBuf)>,
    /// Whether links that are not mapped are made again as they were. Without it what they led to takes their place.
    pub link_all: bool,
    /// Where config files go that lay outside of the data directory; without it they are named and not written.
    pub config: Option<PathBuf>,
    /// What becomes of directories that hold a cluster, or an unfinished restore.
    pub existing: Existing,
}

/// What becomes of what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "a restore must decide for each")]
pub enum Existing {
    /// The restore is refused.
    #[default]
    Refuse,
    /// It is removed first.
    Replace,
    /// It is compared, and what differs is mended: pages that are right are not fetched.
    Delta,
}

/// What goes where, decided: nothing was touched yet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) pg_data: PathBuf,
    pub(super) tablespaces: Vec<(Tablespace, PathBuf)>,
    pub(super) links: BTreeMap<Vec<u8>, PathBuf>,
    /// Those that the backup does not have: directories and files that become links.
    pub(super) new_links: BTreeSet<Vec<u8>>,
    pub(super) config: Option<PathBuf>,
    pub(super) version_directory: String,
    pub(super) existing: Existing,
    pub(super) selection: Selection,
    /// Whether the recovery settings in the data directory stay as they are.
    pub(super) preserve: bool,
}

/// What a backup has outside of its data directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outside<'a> {
    pub(crate) tablespaces: &'a [Tablespace],
    pub(crate) links: &'a [Link],
}

impl<'a> From<&'a Body> for Outside<'a> {
    fn from(body: &'a Body) -> Self {
        Self { tablespaces: &body.tablespaces, links: &body.links }
    }
}

/// Decides what goes where.
pub(crate) fn plan_places(
    places: &Places,
    outside: Outside<'_>,
    version_directory: String,
    selection: Selection,
) -> Result<Plan> {
    let pg_data = places.pg_data.clone();
    let tablespaces = plan_tablespaces(places, outside.tablespaces)?;
    let (links, new_links) = plan_links(places, outside.links)?;
    let mut taken = vec![(real(&pg_data), "the data directory".to_owned())];
    let mut take = |what: String, path: &Path| {
        let place = real(path);
        let other = taken.iter().find(|(other, _)| place.starts_with(other) || other.starts_with(&place));
        if let Some((_, other)) = other {
            let reason = format!("its place '{}' overlaps with {other}", path.display());
            return Err(Error::Map { what, reason });
        }
        taken.push((place, what));
        Ok(())
    };
    for (tablespace, location) in &tablespaces {
        take(format!("tablespace '{}'", name_of(tablespace)), location)?;
    }
    for (name, destination) in &links {
        take(format!("link '{}'", String::from_utf8_lossy(name)), destination)?;
    }
    Ok(Plan {
        pg_data,
        tablespaces,
        links,
        new_links,
        config: places.config.clone(),
        version_directory,
        existing: places.existing,
        selection,
        preserve: false,
    })
}

fn name_of(tablespace: &Tablespace) -> String {
    if tablespace.name.is_empty() { tablespace.oid.to_string() } else { tablespace.name.clone() }
}

fn plan_tablespaces(places: &Places, tablespaces: &[Tablespace]) -> Result<Vec<(Tablespace, PathBuf)>> {
    let is = |t: &Tablespace, key: &str| t.name == key || t.oid.to_string() == key;
    for (key, _) in &places.tablespace_map {
        if !tablespaces.iter().any(|t| is(t, key)) {
            let reason = "the backup has no such tablespace".to_owned();
            return Err(Error::Map { what: format!("tablespace '{key}'"), reason });
        }
    }
    let place = |t: &Tablespace| {
        let what = format!("tablespace '{}'", name_of(t));
        let mapped = places.tablespace_map.iter().find(|(key, _)| is(t, key));
        match (mapped, &places.tablespace_map_all) {
            (Some((_, path)), _) => absolute(&what, path),
            (None, Some(all)) => inside(&what, all, &name_of(t)),
            (None, None) => absolute(&what, Path::new(&t.location)),
        }
    };
    tablespaces.iter().map(|t| Ok((t.clone(), place(t)?))).collect()
}

/// The place of this name in a directory. Names come from a backup: one that is written as a path must not lead out.
fn inside(what: &str, directory: &Path, name: &str) -> Result<PathBuf> {
    let (directory, place) = (absolute(what, directory)?, absolute(what, &directory.join(name))?);
    if place == directory || !place.starts_with(&directory) {
        let reason = format!("by its name it does not lie in '{}'", directory.display());
        return Err(Error::Map { what: what.to_owned(), reason });
    }
    Ok(place)
}

/// Where links lead, by their path in the data directory, and which of them are new.
type PlannedLinks = (BTreeMap<Vec<u8>, PathBuf>, BTreeSet<Vec<u8>>);

fn plan_links(places: &Places, links: &[Link]) -> Result<PlannedLinks> {
    let (mut planned, mut new) = (BTreeMap::new(), BTreeSet::new());
    for (name, path) in &places.link_map {
        if links.iter().any(|link| link.name == *name) {
            continue;
        }
        let what = format!("link '{name}'");
        if RelPath::new(name.as_str()).is_err() || !can_be_link(name) {
            return Err(Error::Map { what, reason: "it cannot become a link".to_owned() });
        }
        planned.insert(name.clone().into_bytes(), absolute(&what, path)?);
        new.insert(name.clone().into_bytes());
    }
    for link in links {
        let mapped =
            places.link_map.iter().find(|(name, _)| *name == link.name).map(|(_, path)| path.clone());
        let all = || {
            let parent = places.pg_data.join(&link.name);
            places.link_all.then(|| parent.parent().unwrap_or(&parent).join(&link.destination))
        };
        if let Some(path) = mapped.or_else(all) {
            planned
                .insert(link.name.clone().into_bytes(), absolute(&format!("link '{}'", link.name), &path)?);
        }
    }
    Ok((planned, new))
}

/// Whether a file or directory of the backup may become a link. Without the control file at its place nobody knows whether this is a cluster;
/// tablespaces have a map of their own; and what a restore writes itself is a file.
fn can_be_link(name: &str) -> bool {
    let is_of_tablespace = name.split('/').next() == Some("pg_tblspc");
    let is_written = RECOVERY_SETTINGS.contains(&name) || ["backup_label", "tablespace_map"].contains(&name);
    !Path::new(CONTROL).starts_with(name) && !is_of_tablespace && !is_written
}

/// What to write into a link that leads from `link` to `destination`: the relative words of the backup where these lead there, too, by name and
/// by what the links on the way say. A tree with relative links can be moved.
pub(super) fn words_of_link(link: &Path, words: &[u8], destination: &Path) -> PathBuf {
    let words = Path::new(OsStr::from_bytes(words));
    let leads = parent(link).join(words);
    let by_name = || absolute("", &leads).is_ok_and(|plain| plain == destination);
    if words.is_relative() && by_name() && real(&leads) == real(destination) {
        return words.to_owned();
    }
    destination.to_owned()
}

/// Paths from a backup or an operator are made plain, so that comparing them means something.
fn absolute(what: &str, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::Map {
            what: what.to_owned(),
            reason: format!("'{}' is not an absolute path", path.display()),
        });
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    Ok(plain)
}

impl Plan {
    /// The first thing that would be written to a place that is not below `directory`.
    pub(super) fn outside(&self, directory: &Path) -> Option<(String, PathBuf)> {
        let spaces = self.tablespaces.iter().map(|(t, path)| (format!("tablespace '{}'", name_of(t)), path));
        let links =
            self.links.iter().map(|(n, path)| (format!("link '{}'", String::from_utf8_lossy(n)), path));
        let own = [("the data directory".to_owned(), &self.pg_data)];
        let config = self.config.iter().map(|path| ("the config directory".to_owned(), path));
        let mut all = spaces.chain(links).chain(own).chain(config);
        // Paths are plain: the dots of a name were followed.
        all.find(|(_, path)| !path.starts_with(directory)).map(|(what, path)| (what, path.clone()))
    }

    /// Looks at everything that will be written to, and touches nothing.
    pub(crate) fn check(&self) -> Result<()> {
        // One that is not there is made; what leads nowhere may be a file system that is not mounted.
        if !self.pg_data.is_dir() && fs::symlink_metadata(&self.pg_data).is_ok() {
            return Err(Error::MissingPath { path: self.pg_data.clone() });
        }
        if server_state(&self.pg_data)? != ServerState::Stopped {
            return Err(Error::Running { path: self.pg_data.join("postmaster.pid") });
        }
        if !is_empty(&self.pg_data)? {
            if self.existing == Existing::Refuse {
                return Err(Error::NotEmpty { path: self.pg_data.clone() });
            }
            if !["PG_VERSION", MARKER, CONTROL].iter().any(|name| self.pg_data.join(name).exists()) {
                return Err(Error::NotACluster { path: self.pg_data.clone() });
            }
        }
        let own_places = self.own_places()?;
        let check = |place: &Path, path: &Path| match () {
            () if self.existing == Existing::Refuse => Err(Error::NotEmpty { path: path.to_owned() }),
            () if own_places.contains(&real(place)) => Ok(()),
            () => Err(Error::OtherData { path: path.to_owned(), pg_data: self.pg_data.clone() }),
        };
        for (_, location) in &self.tablespaces {
            let own = location.join(&self.version_directory);
            if own.is_dir() && !is_empty(&own)? {
                check(location, &own)?;
            }
        }
        for destination in self.links.values() {
            if destination.is_file() || (destination.is_dir() && !is_empty(destination)?) {
                check(destination, destination)?;
            }
        }
        Ok(())
    }

    /// Names of the files of the data directory that stay, whatever the backup has: those that are there.
    pub(super) fn preserved(&self) -> Vec<&'static str> {
        let is_there =
            |name: &&str| fs::symlink_metadata(self.pg_data.join(name)).is_ok_and(|about| about.is_file());
        if self.preserve { RECOVERY_SETTINGS.into_iter().filter(is_there).collect() } else { Vec::new() }
    }

    /// The locations of tablespaces that hold more than their own directory: what else lies there is of somebody else.
    pub(super) fn shared_locations(&self) -> Result<BTreeSet<PathBuf>> {
        let mut shared = BTreeSet::new();
        for (_, location) in &self.tablespaces {
            let own = |path: &Path| {
                path.file_name()
                    .is_some_and(|name| name == LOST_AND_FOUND || name == self.version_directory.as_str())
            };
            if list(location)?.iter().any(|(path, _)| !own(path)) {
                shared.insert(location.clone());
            }
        }
        Ok(shared)
    }

    /// The places outside of the data directory that are its own: its links lead there, or a restore that did not end was filling them.
    /// What lies anywhere else may be of a cluster that runs.
    fn own_places(&self) -> Result<BTreeSet<PathBuf>> {
        let spaces = self.pg_data.join("pg_tblspc");
        let spaces = match fs::read_dir(&spaces) {
            Ok(entries) => entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
        .map_err(Error::io("list", &spaces))?;
        let links = self.links.keys().map(|name| self.pg_data.join(OsStr::from_bytes(name)));
        let led = spaces.into_iter().chain(links).filter_map(|link| {
            let destination = fs::read_link(&link).ok()?;
            Some(real(&parent(&link).join(destination)))
        });
        let mut places: BTreeSet<_> = led.collect();
        places.extend(self.marked_places()?);
        Ok(places)
    }

    /// The places that a restore that did not end was filling.
    fn marked_places(&self) -> Result<Vec<PathBuf>> {
        let path = self.pg_data.join(MARKER);
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("open", &path))?,
        };
        let mut text = Vec::new();
        file.take(MAX_MARKER_BYTES).read_to_end(&mut text).map_err(Error::io("read", &path))?;
        let mut parts = text.split(|byte| *byte == 0);
        // A last one without its end was cut.
        parts.next_back();
        Ok(parts.skip(1).map(|place| PathBuf::from(OsStr::from_bytes(place))).collect())
    }

    /// Says that a restore has begun, and which places outside of the data directory it fills.
    pub(super) fn mark(&self) -> Result<()> {
        let mut places = self.own_places()?;
        places.extend(self.tablespaces.iter().map(|(_, path)| real(path)));
        places.extend(self.links.values().map(|path| real(path)));
        let mut text = b"a restore has begun here and has not ended\n\0".to_vec();
        for place in places {
            text.extend(place.as_os_str().as_bytes());
            text.push(0);
        }
        pgbr_pg::write_durable(self.pg_data.join(MARKER), &text, 0o600)?;
        Ok(())
    }
}

/// Plans for a backup with these tablespaces and links: where a directory is given for all of them, nothing lies anywhere else.
#[cfg(fuzzing)]
pub(crate) fn compare_places(names: &[(u32, &str, &str)], links: &[(&str, &str)]) {
    let body = include_bytes!("../../../pgbr-manifest/tests/vectors/body-full.json");
    let mut body = Body::from_json(body).expect("a vector");
    let space = |(oid, name, location): &(u32, &str, &str)| Tablespace {
        oid: *oid,
        name: (*name).to_owned(),
        location: (*location).to_owned(),
    };
    body.tablespaces = names.iter().map(space).collect();
    let link = |(name, destination): &(&str, &str)| Link {
        name: (*name).to_owned(),
        destination: (*destination).to_owned(),
    };
    body.links = links.iter().map(link).collect();
    let given = Path::new("/given");
    let mut places = Places {
        pg_data: given.join("data"),
        tablespace_map_all: Some(given.join("spaces")),
        ..Places::default()
    };
    let plan = |places: &Places| plan_places(places, (&body).into(), "PG_15".to_owned(), Selection::All);
    if let Ok(plan) = plan(&places) {
        assert_eq!(plan.outside(given), None);
        assert!(plan.links.is_empty());
    }
    (places.link_all, places.tablespace_map_all) = (true, None);
    if let Ok(plan) = plan(&places) {
        // What overlaps would be written to twice.
        let all: Vec<_> = plan.tablespaces.iter().map(|(_, path)| path).chain(plan.links.values()).collect();
        for (n, one) in all.iter().enumerate() {
            assert!(one.is_absolute() && !one.starts_with("/given/data"), "{}", one.display());
            assert!(all[n + 1..].iter().all(|other| !other.starts_with(one) && !one.starts_with(other)));
        }
    }
}

fn is_empty(dir: &Path) -> Result<bool> {
    let unfinished = unfinished_marker();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other.map_err(Error::io("list", dir))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io("list", dir))?.file_name();
        // `lost+found` belongs to a file system, not to what lies in it.
        if name != LOST_AND_FOUND && name != unfinished.as_str() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The marker of a restore that was killed before it had written anything else.
fn unfinished_marker() -> String {
    format!("{MARKER}{TEMPORARY_SUFFIX}")
}

/// A path as comparing needs it: without links as far as it exists.
fn real(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match existing {
        Some((above, found)) => found.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
        None => path.to_owned(),
    }
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

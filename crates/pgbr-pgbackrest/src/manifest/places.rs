//! Everything lies in a directory of the list, and nothing is two things.

use std::collections::HashSet;

use super::{Manifest, TargetKind};
use crate::error::Fault;

/// The paths that others may lie below.
struct Places<'a> {
    directories: HashSet<&'a [u8]>,
    links: HashSet<&'a [u8]>,
    targets: HashSet<&'a [u8]>,
}

pub(super) fn check_places(manifest: &Manifest) -> Result<(), Fault> {
    if !manifest.targets.iter().any(|target| target.kind == TargetKind::DataDirectory) {
        return Err(Fault::invalid("[backup:target]", "has no pg_data"));
    }
    let places = Places {
        directories: manifest.directories.iter().map(|directory| directory.path.as_bytes()).collect(),
        links: manifest.links.iter().map(|link| link.path.as_bytes()).collect(),
        targets: manifest.targets.iter().map(|target| target.name.as_bytes()).collect(),
    };
    let checked = [
        (
            "target:path",
            first_wrong(&manifest.directories, |d| (d.path.as_bytes(), places.misplaced(d.path.as_bytes()))),
        ),
        (
            "target:link",
            first_wrong(&manifest.links, |link| {
                (link.path.as_bytes(), places.misplaced(link.path.as_bytes()))
            }),
        ),
        (
            "target:file",
            first_wrong(&manifest.files, |file| {
                (file.path.as_bytes(), places.wrong_file(file.path.as_bytes()))
            }),
        ),
    ];
    match checked.into_iter().find_map(|(section, wrong)| wrong.map(|wrong| (section, wrong))) {
        None => Ok(()),
        Some((section, (path, reason))) => {
            Err(Fault::invalid(format!("[{section}] {}", String::from_utf8_lossy(path)), reason))
        }
    }
}

type Wrong<'a> = (&'a [u8], &'static str);

fn first_wrong<T>(list: &[T], look: impl Fn(&T) -> (&[u8], Option<&'static str>)) -> Option<Wrong<'_>> {
    list.iter().map(look).find_map(|(path, reason)| reason.map(|reason| (path, reason)))
}

impl Places<'_> {
    fn wrong_file(&self, path: &[u8]) -> Option<&'static str> {
        if self.directories.contains(path) || self.is_root(path) {
            return Some("is a directory as well");
        }
        // What a link leads to is listed under the name of the link, and is a target; nothing else may be.
        if self.links.contains(path) && !self.targets.contains(path) {
            return Some("is a link as well");
        }
        self.misplaced(path)
    }

    fn misplaced(&self, path: &[u8]) -> Option<&'static str> {
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &path[..at]);
        let placed = self.is_root(path) || self.directories.contains(parent);
        (!placed || !self.is_in_known_tablespace(path)).then_some("lies in no directory of the list")
    }

    /// The data directory, a tablespace, or where the tablespaces are.
    fn is_root(&self, path: &[u8]) -> bool {
        let tablespace = path.starts_with(b"pg_tblspc/") && self.targets.contains(path);
        tablespace || path == b"pg_data" || path == b"pg_tblspc"
    }

    /// True of what lies in no tablespace, too.
    fn is_in_known_tablespace(&self, path: &[u8]) -> bool {
        let root = b"pg_tblspc/";
        let Some(below) = path.strip_prefix(root) else { return true };
        let oid = below.iter().take_while(|byte| **byte != b'/').count();
        self.targets.contains(&path[..root.len() + oid])
    }
}

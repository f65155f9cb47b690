//! A disk that loses at power loss whatever was not synced, fed with the calls of a trace.
//!
//! It is stricter than any file system: content survives only if its file was synced after the last change, a name (made, moved or
//! taken away) only if its directory was synced after that, and a sync covers only what had ended before it began. What the trace did
//! not touch counts as durable. All paths are taken to lie on one file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::strace::{Call, Event};

/// What a power loss at one moment would take away.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Which file each name leads to, by its place in `changed`.
    names: BTreeMap<PathBuf, usize>,
    /// For each file the line of its last change that was not synced.
    changed: Vec<Option<usize>>,
    /// Names that were made, moved or taken away, and the line; their directory was not synced since.
    unsynced: BTreeMap<PathBuf, usize>,
}

/// Something that is not durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lost {
    Content(PathBuf),
    Name(PathBuf),
    /// A name that is gone and may come back.
    Removal(PathBuf),
}

impl Lost {
    pub(crate) fn path(&self) -> &Path {
        let (Self::Content(path) | Self::Name(path) | Self::Removal(path)) = self;
        path
    }
}

impl Disk {
    /// The disk as it is just before a line of the trace.
    pub(crate) fn before(events: &[Event], line: usize) -> Self {
        let mut disk = Self::default();
        // They are sorted by their ends.
        events.iter().take_while(|event| event.end < line).for_each(|event| disk.apply(event));
        disk
    }

    /// What would be lost at or below `root`, or of the directories that lead to it.
    pub(crate) fn lost(&self, root: &Path) -> Vec<Lost> {
        let below = |path: &Path| path.starts_with(root);
        let content = self.names.iter().filter(|(path, _)| below(path));
        let content = content.filter(|(_, file)| self.changed[**file].is_some());
        let names = self.unsynced.keys().filter(|path| below(path) || root.starts_with(path));
        let names = names.map(|path| match self.names.contains_key(path) {
            true => Lost::Name(path.clone()),
            false => Lost::Removal(path.clone()),
        });
        content.map(|(path, _)| Lost::Content(path.clone())).chain(names).collect()
    }

    /// Whether a name leads to something, as far as the trace tells.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.names.contains_key(path)
    }

    fn apply(&mut self, event: &Event) {
        let line = event.end;
        match &event.call {
            Call::Make(path) => {
                let file = self.file(path);
                if file.is_none() {
                    self.changed.push(Some(line));
                    self.names.insert(path.clone(), self.changed.len() - 1);
                    self.unsynced.insert(path.clone(), line);
                }
                self.change(path, line);
            }
            Call::Change(path) => self.change(path, line),
            Call::Link { from, to } => {
                let file = self.known(from);
                self.names.insert(to.clone(), file);
                self.unsynced.insert(to.clone(), line);
            }
            Call::Rename { from, to } => {
                let file = self.known(from);
                self.names.remove(from);
                self.names.insert(to.clone(), file);
                self.unsynced.insert(from.clone(), line);
                self.unsynced.insert(to.clone(), line);
            }
            Call::Remove(path) => {
                self.names.remove(path);
                self.unsynced.insert(path.clone(), line);
            }
            Call::Sync(path) => {
                if let Some(file) = self.file(path) {
                    let changed = &mut self.changed[file];
                    *changed = changed.filter(|line| *line >= event.begin);
                }
                self.unsynced.retain(|name, line| name.parent() != Some(path) || *line >= event.begin);
            }
            Call::SyncAll => {
                self.changed.iter_mut().for_each(|c| *c = c.filter(|line| *line >= event.begin));
                self.unsynced.retain(|_, line| *line >= event.begin);
            }
            Call::Say(_) | Call::Exit(_) => {}
        }
    }

    fn file(&self, path: &Path) -> Option<usize> {
        self.names.get(path).copied()
    }

    /// The file of a name that may be older than the trace: then it is durable.
    fn known(&mut self, path: &Path) -> usize {
        self.file(path).unwrap_or_else(|| {
            self.changed.push(None);
            self.names.insert(path.to_owned(), self.changed.len() - 1);
            self.changed.len() - 1
        })
    }

    fn change(&mut self, path: &Path, line: usize) {
        let file = self.known(path);
        self.changed[file] = Some(line);
    }
}

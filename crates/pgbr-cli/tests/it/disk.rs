//! A disk that loses at power loss whatever was not synced, fed with the calls of a trace.
//!
//! It is stricter than any file system: content survives only if its file was synced after the last change, a name (made, moved or
//! taken away) only if its directory was synced after that, and a sync covers only what had ended before it began. What the trace did
//! not touch counts as durable. Any directory may be a file system of its own: to sync one by a path covers what lies below that path.

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
    /// Symbolic links that were made, and what they lead to.
    links: BTreeMap<PathBuf, PathBuf>,
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

    /// Where a path leads when the links on its way are followed; if it is a link itself, it stays one.
    fn real(&self, path: &Path) -> PathBuf {
        let mut real = PathBuf::new();
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let above = real.clone();
            real.push(part);
            if let (Some(target), true) = (self.links.get(&real), parts.peek().is_some()) {
                real = above.join(target);
            }
        }
        real
    }

    fn located(&self, call: &Call) -> Call {
        let real = |path: &PathBuf| self.real(path);
        match call {
            Call::Make(path) => Call::Make(real(path)),
            Call::Symlink { target, at } => Call::Symlink { target: target.clone(), at: real(at) },
            Call::Change(path) => Call::Change(real(path)),
            Call::Link { from, to } => Call::Link { from: real(from), to: real(to) },
            Call::Rename { from, to } => Call::Rename { from: real(from), to: real(to) },
            Call::Remove(path) => Call::Remove(real(path)),
            other => other.clone(),
        }
    }

    fn apply(&mut self, event: &Event) {
        let line = event.end;
        match &self.located(&event.call) {
            Call::Make(path) => self.make(path, line),
            Call::Symlink { target, at } => {
                self.make(at, line);
                self.links.insert(at.clone(), target.clone());
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
                self.links.remove(path);
                self.unsynced.insert(path.clone(), line);
            }
            Call::Sync(path) => {
                self.sync_content(event.begin, |name| name == path);
                self.sync_names(event.begin, |name| name.parent() == Some(path));
            }
            Call::SyncFs(path) => {
                self.sync_content(event.begin, |name| name.starts_with(path));
                // A directory that was made lies on the file system of the one above it.
                self.sync_names(event.begin, |name| name.starts_with(path) || path.starts_with(name));
            }
            Call::SyncAll => {
                self.sync_content(event.begin, |_| true);
                self.sync_names(event.begin, |_| true);
            }
            Call::Say(_) | Call::Exit(_) => {}
        }
    }

    fn file(&self, path: &Path) -> Option<usize> {
        self.names.get(path).copied()
    }

    fn make(&mut self, path: &Path, line: usize) {
        if self.file(path).is_none() {
            self.changed.push(Some(line));
            self.names.insert(path.to_owned(), self.changed.len() - 1);
            self.unsynced.insert(path.to_owned(), line);
        }
        self.change(path, line);
    }

    /// What had changed before a line is durable, in the files of these names.
    fn sync_content(&mut self, line: usize, covers: impl Fn(&Path) -> bool) {
        for file in self.names.iter().filter(|(name, _)| covers(name)).map(|(_, file)| *file) {
            let changed = &mut self.changed[file];
            *changed = changed.filter(|change| *change >= line);
        }
    }

    fn sync_names(&mut self, line: usize, covers: impl Fn(&Path) -> bool) {
        self.unsynced.retain(|name, change| !covers(name) || *change >= line);
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

//! Looking at what is there: runs of a file compared with the hashes that they should have, on the workers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use pgbr_manifest::{GRAIN, HashKey, is_zero};

use super::write::Target;
use crate::error::{Error, Result};
use crate::run::RUN;

/// What a stretch of a file must hold.
pub(crate) enum Wanted {
    /// Grains that a source has, from a place in its stream on.
    Stored { source: usize, stream: u64, hashes: Vec<u64> },
    /// This many grains of zeros.
    Zeros(u64),
}

/// A run of one file that is compared.
pub(crate) struct Look {
    pub(crate) target: Arc<Target>,
    /// Where it begins, in bytes.
    pub(crate) offset: u64,
    /// How long it is.
    pub(crate) len: usize,
    /// What it must hold, without gaps.
    pub(crate) wanted: Vec<Wanted>,
}

impl Look {
    pub(crate) const fn new(target: Arc<Target>, offset: u64) -> Self {
        Self { target, offset, len: 0, wanted: Vec::new() }
    }

    /// How many grains fit in yet.
    pub(crate) const fn room(&self) -> u64 {
        (RUN.saturating_sub(self.len) / GRAIN) as u64
    }
}

/// Grains that are not there as they must be.
pub(crate) struct Need {
    pub(crate) source: usize,
    /// Where they are in the stream of that source.
    pub(crate) stream: u64,
    /// Where they go, in bytes.
    pub(crate) offset: u64,
    /// How many bytes they are.
    pub(crate) len: u64,
    pub(crate) hashes: Vec<u64>,
}

/// What looking has found.
pub(crate) struct Looked {
    /// The file, where something is needed.
    pub(crate) needed: Option<(Arc<Target>, Vec<Need>)>,
    /// Bytes that are right.
    pub(crate) kept: u64,
}

/// Compares a run. Zeros that are missing are written at once; a file that nothing else is out for is completed.
pub(crate) fn look(look: Look, key: &HashKey, buffer: &mut Vec<u8>) -> Result<Looked> {
    let file = look.target.existing()?;
    let found = match &file {
        Some(file) => read(file, &look, buffer)?,
        None => 0,
    };
    let found = buffer.get(..found).unwrap_or_default();
    let mut run = Run { key, look: &look, found, at: 0, kept: 0, needs: Vec::new(), wrong_zeros: Vec::new() };
    for wanted in &look.wanted {
        match wanted {
            Wanted::Stored { source, stream, hashes } => run.stored(*source, *stream, hashes),
            Wanted::Zeros(count) => run.zeros(*count),
        }
    }
    let Run { kept, needs, wrong_zeros, .. } = run;
    if let Some(file) = &file {
        wrong_zeros
            .into_iter()
            .try_for_each(|(at, len)| look.target.write_zeros(file, look.offset + at, len))?;
    }
    drop(file);
    if !needs.is_empty() {
        return Ok(Looked { needed: Some((look.target, needs)), kept });
    }
    if look.target.piece_done() {
        look.target.finish()?;
    }
    Ok(Looked { needed: None, kept })
}

fn read(file: &File, look: &Look, buffer: &mut Vec<u8>) -> Result<usize> {
    buffer.resize(RUN, 0);
    let buffer = buffer.get_mut(..look.len).unwrap_or_default();
    let mut at = 0;
    while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, look.offset + at as u64) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", look.target.path())(error)),
        }
    }
    Ok(at)
}

/// A run while it is compared.
struct Run<'a> {
    key: &'a HashKey,
    look: &'a Look,
    /// What the file holds there, shorter where it ends.
    found: &'a [u8],
    /// How far it was compared.
    at: usize,
    kept: u64,
    needs: Vec<Need>,
    wrong_zeros: Vec<(u64, usize)>,
}

impl Run<'_> {
    /// The bytes of the next grain as far as they are there, and how many it has.
    fn next(&mut self) -> (&[u8], usize) {
        let start = self.at;
        let end = (start + GRAIN).min(self.look.len);
        self.at = end;
        (self.found.get(start..end.min(self.found.len())).unwrap_or_default(), end - start)
    }

    fn stored(&mut self, source: usize, stream: u64, hashes: &[u64]) {
        let mut open: Option<Need> = None;
        for (n, hash) in (0..).zip(hashes) {
            let (key, offset) = (self.key, self.look.offset + self.at as u64);
            let (grain, len) = self.next();
            if grain.len() == len && key.grain(grain) == *hash {
                self.kept += len as u64;
                self.needs.extend(open.take());
                continue;
            }
            let stream = stream + n * GRAIN as u64;
            let need =
                open.get_or_insert_with(|| Need { source, stream, offset, len: 0, hashes: Vec::new() });
            need.len += len as u64;
            need.hashes.push(*hash);
        }
        self.needs.extend(open);
    }

    fn zeros(&mut self, count: u64) {
        for _ in 0..count {
            let at = self.at as u64;
            let (grain, len) = self.next();
            // What lies behind the end of the file becomes zeros when the file gets its size.
            if is_zero(grain) {
                self.kept += grain.len() as u64;
            } else {
                self.wrong_zeros.push((at, len));
            }
        }
    }
}

//! The content of a file as a stream that is right when it has ended.

use std::io::{self, Read};

use sha1::{Digest, Sha1};

use crate::error::{Error, Result};
use crate::names::Checksum;

/// What the content of a file must be.
pub(crate) struct Expected {
    /// The file, for messages.
    pub(crate) file: String,
    /// The object that it is read from, for messages.
    pub(crate) object: String,
    pub(crate) size: Size,
    pub(crate) checksum: Option<Checksum>,
}

/// How many bytes there must be.
#[derive(Clone, Copy)]
pub(crate) enum Size {
    Exactly(u64),
    AtMost(u64),
}

/// The content of a file. Bytes that were given are right only once the end was reached: size and checksum are looked at there.
///
/// An error is final: whatever was read before it is not to be used, and the reader gives nothing any more.
pub struct Content {
    source: Box<dyn Read + Send>,
    expected: Expected,
    hash: Sha1,
    given: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed,
}

impl Content {
    pub(crate) fn new(source: impl Read + Send + 'static, expected: Expected) -> Self {
        Self { source: Box::new(source), expected, hash: Sha1::new(), given: 0, state: State::Open }
    }

    /// Fills the beginning of `into`; 0 says that the content has ended, and is right.
    ///
    /// # Errors
    /// Where the object could not be read or is damaged, or the content is not what it must be.
    pub fn next(&mut self, into: &mut [u8]) -> Result<usize> {
        match self.state {
            State::Ended => return Ok(0),
            State::Failed => return Err(Error::Failed { file: self.expected.file.clone() }),
            State::Open if into.is_empty() => return Ok(0),
            State::Open => {}
        }
        // An error in between leaves it so.
        self.state = State::Failed;
        let amount = self.step(into)?;
        self.state = if amount == 0 { State::Ended } else { State::Open };
        Ok(amount)
    }

    /// All of it, if it has at most `max` bytes.
    ///
    /// # Errors
    /// As [`Content::next`]; [`Error::TooLarge`].
    pub fn into_bytes(mut self, max: usize) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            match self.next(&mut piece)? {
                0 => return Ok(content),
                amount if content.len() + amount > max => {
                    return Err(Error::TooLarge { object: self.expected.object.clone(), max: max as u64 });
                }
                amount => content.extend_from_slice(&piece[..amount]),
            }
        }
    }

    fn step(&mut self, into: &mut [u8]) -> Result<usize> {
        let amount = loop {
            match self.source.read(into) {
                Ok(amount) => break amount,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::from_stream(&self.expected.object, error)),
            }
        };
        if amount == 0 {
            return self.check_end().map(|()| 0);
        }
        self.given += amount as u64;
        let (Size::Exactly(max) | Size::AtMost(max)) = self.expected.size;
        if self.given > max {
            return Err(self.mismatch(format!("it has more than {max} bytes")));
        }
        if let Some(piece) = into.get(..amount).filter(|_| self.expected.checksum.is_some()) {
            self.hash.update(piece);
        }
        Ok(amount)
    }

    fn check_end(&mut self) -> Result<()> {
        match self.expected.size {
            Size::Exactly(size) if self.given < size => {
                return Err(self.mismatch(format!("it has {} bytes, not {size}", self.given)));
            }
            Size::Exactly(_) | Size::AtMost(_) => {}
        }
        let found = Checksum::new(std::mem::take(&mut self.hash).finalize().into());
        match self.expected.checksum {
            Some(expected) if expected != found => {
                Err(self.mismatch(format!("it has the checksum {found}, not {expected}")))
            }
            _ => Ok(()),
        }
    }

    fn mismatch(&self, reason: String) -> Error {
        let Expected { file, object, .. } = &self.expected;
        Error::ContentMismatch { file: file.clone(), object: object.clone(), reason }
    }
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.next(into)?)
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("file", &self.expected.file)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

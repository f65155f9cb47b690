//! Reads WAL files back, checks them, and finds the one that verifies.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FsPath, PathBuf};

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use pgbr_codec::{WalTrailer, check_wal, open_wal};
use pgbr_manifest::{ArchiveId, WalFileName};

use super::{MAX_OBJECT, WalEntry, WalStore, check_name, max_content};
use crate::error::{Error, Result};
use crate::keys::{Layout, WalDigest};
use crate::repo_file::Repo;

/// What became of a get.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a file that could be looked for is there or it is not")]
pub enum WalGet<T> {
    /// It is in the archive.
    Found(T),
    /// The repository was reached, and it is not in the archive.
    Missing,
}

/// A file in memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct WalFound {
    /// Its content, checked.
    pub content: Vec<u8>,
    /// What its object says about it.
    pub trailer: WalTrailer,
    /// What the operator should know: damaged objects that were passed over.
    pub warnings: Vec<String>,
}

/// A file that was written to a path.
#[derive(Debug)]
#[non_exhaustive]
pub struct WalSaved {
    /// What its object says about it.
    pub trailer: WalTrailer,
    /// What the operator should know: damaged objects that were passed over.
    pub warnings: Vec<String>,
}

/// A file that was opened into a sink.
struct Opened<W> {
    sink: W,
    trailer: WalTrailer,
    warnings: Vec<String>,
}

impl WalStore {
    /// Gives a file's content.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and its like where no object of it verifies, [`Error::WalAmbiguous`] where two with different content do; as
    /// the store failed. Only [`WalGet::Missing`] says that the file is not in the archive.
    pub async fn get(&self, archive: ArchiveId, file: &WalFileName) -> Result<WalGet<WalFound>> {
        Ok(match self.open_file(archive, file, || Ok(Vec::new())).await? {
            Some(Opened { sink, trailer, warnings }) => {
                WalGet::Found(WalFound { content: sink, trailer, warnings })
            }
            None => WalGet::Missing,
        })
    }

    /// Reads a file and checks it, without keeping its content in memory; gives what its object says about it.
    ///
    /// # Errors
    /// As [`WalStore::get`].
    pub async fn check(&self, archive: ArchiveId, file: &WalFileName) -> Result<WalGet<WalTrailer>> {
        Ok(match self.open_file(archive, file, || Ok(io::sink())).await? {
            Some(Opened { trailer, .. }) => WalGet::Found(trailer),
            None => WalGet::Missing,
        })
    }

    /// Writes a file's content to a path, which has it as a whole or not at all: it is written beside, checked and renamed.
    ///
    /// # Errors
    /// As [`WalStore::get`]; [`Error::Local`] where it cannot be written.
    pub async fn get_to_path(
        &self,
        archive: ArchiveId,
        file: &WalFileName,
        path: &FsPath,
    ) -> Result<WalGet<WalSaved>> {
        let mut staged = path.as_os_str().to_owned();
        staged.push(".pgbr.tmp");
        let staged = PathBuf::from(staged);
        let saved = self.save(archive, file, &staged, path).await;
        if !matches!(saved, Ok(WalGet::Found(_))) {
            // There may be none; and one that stays is overwritten by the next try.
            std::fs::remove_file(&staged).ok();
        }
        saved
    }

    /// Reads one object of the archive and checks it against its name and itself: what `verify` does.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is gone, [`Error::Corrupt`] and its like where it does not verify, and as the store failed.
    pub async fn verify(&self, entry: &WalEntry) -> Result<WalTrailer> {
        let (trailer, _) = self.fetch(&entry.key, &entry.file, || Ok(io::sink())).await?;
        match entry.digest {
            Some(digest) if digest != WalDigest::of(&trailer.digest) => {
                Err(Error::corrupt(&entry.key, "its content has another digest than its name"))
            }
            _ => Ok(trailer),
        }
    }

    async fn save(
        &self,
        archive: ArchiveId,
        file: &WalFileName,
        staged: &FsPath,
        path: &FsPath,
    ) -> Result<WalGet<WalSaved>> {
        // The mode that PostgreSQL gives its own WAL files.
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let create = || options.open(staged).map_err(|e| Error::local("create", staged, e));
        let Some(opened) = self.open_file(archive, file, create).await? else { return Ok(WalGet::Missing) };
        let Opened { sink, trailer, warnings } = opened;
        drop(sink);
        std::fs::rename(staged, path).map_err(|e| Error::local("rename", staged, e))?;
        Ok(WalGet::Found(WalSaved { trailer, warnings }))
    }

    /// Opens the object of a file that verifies into a new sink.
    async fn open_file<W: Write + Send + 'static>(
        &self,
        archive: ArchiveId,
        file: &WalFileName,
        new_sink: impl Fn() -> Result<W>,
    ) -> Result<Option<Opened<W>>> {
        let mut damage = None;
        if self.store().create_honoured() {
            let key = Layout::new().wal(&self.stanza, archive, file);
            match self.fetch(&key, file, &new_sink).await {
                Ok((trailer, sink)) => return Ok(Some(Opened { sink, trailer, warnings: Vec::new() })),
                Err(error) if error.is_not_found() => {}
                Err(error) if error.is_unverified() => damage = Some(error),
                Err(error) => return Err(error),
            }
        }
        let mut found: Option<(Path, WalTrailer, W)> = None;
        let mut warnings: Vec<String> = damage.iter().map(ToString::to_string).collect();
        for entry in self.variants(archive, file).await? {
            let error = match &found {
                None => match self.fetch(&entry.key, file, &new_sink).await {
                    Ok((trailer, sink)) => {
                        found = Some((entry.key, trailer, sink));
                        continue;
                    }
                    Err(error) => error,
                },
                Some((first, trailer, _)) => match self.fetch(&entry.key, file, || Ok(io::sink())).await {
                    Ok((other, _)) if other.digest == trailer.digest => continue,
                    Ok(_) => {
                        return Err(Error::WalAmbiguous {
                            file: file.to_string(),
                            first: first.to_string(),
                            second: entry.key.to_string(),
                        });
                    }
                    Err(error) => error,
                },
            };
            match error {
                gone if gone.is_not_found() => {}
                unsound if unsound.is_unverified() => {
                    warnings.push(unsound.to_string());
                    damage = damage.or(Some(unsound));
                }
                error => return Err(error),
            }
        }
        match (found, damage) {
            (Some((_, trailer, sink)), _) => Ok(Some(Opened { sink, trailer, warnings })),
            (None, Some(damage)) => Err(damage),
            (None, None) => Ok(None),
        }
    }

    async fn fetch<W: Write + Send + 'static>(
        &self,
        key: &Path,
        file: &WalFileName,
        new_sink: impl Fn() -> Result<W>,
    ) -> Result<(WalTrailer, W)> {
        let object = self.store().get(key, MAX_OBJECT).await?;
        open(&self.repo, key, file, object, new_sink()?).await
    }
}

/// Checks an object as the file of this name without opening its content.
pub(super) async fn check(repo: &Repo, key: &Path, file: &WalFileName, object: Bytes) -> Result<WalTrailer> {
    let keyring = repo.keyring().clone();
    let work = tokio::task::spawn_blocking(move || check_wal(&keyring, &object));
    let checked = work.await.map_err(|crash| Error::local("open", key.as_ref(), io::Error::other(crash)))?;
    let trailer = checked.map_err(|e| Error::from_codec(key, e))?;
    check_name(key, file, &trailer)?;
    Ok(trailer)
}

/// Opens an object as the file of this name, into a sink, which is given back. What the sink got is right only if this succeeds.
pub(super) async fn open<W: Write + Send + 'static>(
    repo: &Repo,
    key: &Path,
    file: &WalFileName,
    object: Bytes,
    sink: W,
) -> Result<(WalTrailer, W)> {
    let (keyring, max) = (repo.keyring().clone(), max_content(file));
    let work = tokio::task::spawn_blocking(move || {
        let mut object = object.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let (mut sink, mut failed, mut size) = (sink, None, 0);
        let opened = open_wal(&keyring, &mut object, &mut |piece| {
            size += piece.len() as u64;
            // A small object can hold far more than any file of its name has.
            if size > max {
                return Err(pgbr_codec::Error::TooLarge { what: "content", len: size, max });
            }
            sink.write_all(piece).map_err(|error| {
                failed = Some(error);
                pgbr_codec::Error::Unwritable { reason: "the content could not be written" }
            })
        });
        (opened, failed, sink)
    });
    let (opened, failed, sink) = match work.await {
        Ok(done) => done,
        Err(crash) => return Err(Error::local("open", key.as_ref(), io::Error::other(crash))),
    };
    if let Some(error) = failed {
        return Err(Error::Local { action: "write", path: file.to_string().into(), source: error });
    }
    let trailer = opened.map_err(|e| Error::from_codec(key, e))?;
    check_name(key, file, &trailer)?;
    Ok((trailer, sink))
}

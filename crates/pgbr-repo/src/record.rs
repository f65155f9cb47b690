//! Records: small sealed JSON objects that say what they are and under which name they are stored.

use bytes::Bytes;
use object_store::path::Path;
use pgbr_codec::{KeyId, ObjectHeader, open_record, seal_record};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::repo_file::Repo;

/// The largest record object, in bytes: its JSON and what sealing adds, generously.
pub(crate) const MAX_OBJECT: u64 = pgbr_codec::RECORD_MAX as u64 + 4096;

/// A record's content: it carries its kind and the key that it is stored under, so that none can be put in another's place.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// What the field `record` says.
    const KIND: &'static str;
    /// What the fields `record` and `name` say.
    fn identity(&self) -> (&str, &str);
}

/// Seals a record in a lane of its own.
pub(crate) fn seal<R: Record>(repo: &Repo, record: &R) -> Result<Bytes> {
    let failed = |source| Error::Codec { object: record.identity().1.to_owned(), source };
    let json = serde_json::to_vec(record)
        .map_err(|source| failed(pgbr_codec::Error::Json { what: R::KIND, source }))?;
    Ok(seal_record(repo.keyring(), repo.lane_seed()?, &json).map_err(failed)?.into())
}

/// Opens what was read from `key` as the record of the name `name` (which differs for a copy).
pub(crate) fn open<R: Record>(repo: &Repo, key: &Path, name: &Path, object: &[u8]) -> Result<R> {
    let json = open_record(repo.keyring(), object).map_err(|e| Error::from_codec(key, e))?;
    let record: R = serde_json::from_slice(&json).map_err(|e| Error::corrupt(key, e))?;
    match record.identity() == (R::KIND, name.as_ref()) {
        true => Ok(record),
        false => Err(Error::corrupt(
            key,
            format_args!("it is the {} record of '{}'", record.identity().0, record.identity().1),
        )),
    }
}

/// Reads a record.
pub(crate) async fn read<R: Record>(repo: &Repo, key: &Path) -> Result<R> {
    Ok(read_keyed(repo, key).await?.0)
}

/// Reads a record, and tells the key that it is sealed under.
pub(crate) async fn read_keyed<R: Record>(repo: &Repo, key: &Path) -> Result<(R, KeyId)> {
    let object = repo.store().get(key, MAX_OBJECT).await?;
    let record = open(repo, key, key, &object)?;
    let header = ObjectHeader::parse(&object).map_err(|e| Error::from_codec(key, e))?;
    Ok((record, header.key_id))
}

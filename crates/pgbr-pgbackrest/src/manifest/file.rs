//! The line of one file.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use pgbr_manifest::RelPath;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde_json::Value;

use super::{Blocks, File, Mode, Owner, PageCheck, Place};
use crate::error::Fault;
use crate::info_file::Pair;
use crate::names::Checksum;

/// What block sizes are multiples of.
const BLOCK_UNIT: u64 = 8192;
/// The largest block that is read; those of pgBackRest have some 350 KiB at most.
const MAX_BLOCK: u64 = 32 << 20;
/// The longest checksum of a block.
const MAX_WIDTH: u8 = 16;
/// The largest block map that is read.
const MAX_MAP: u64 = 256 << 20;
/// Sizes and offsets are below this, so that their sums do not overflow.
const MAX_SIZE: u64 = 1 << 62;

/// Names of users and groups, each kept once.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// What a line gives of the three, for an entry whose others are still to be filled in.
    pub(super) fn given(
        &mut self,
        mode: Option<Mode>,
        user: Option<RawOwner<'_>>,
        group: Option<RawOwner<'_>>,
    ) -> Given {
        let left_out = LeftOut { mode: mode.is_none(), user: user.is_none(), group: group.is_none() };
        let mut owner = |raw: Option<RawOwner<'_>>| raw.map_or(Owner(None), |raw| self.owner(raw));
        Given { mode: mode.unwrap_or(Mode(0)), user: owner(user), group: owner(group), left_out }
    }

    pub(super) fn owner(&mut self, raw: RawOwner<'_>) -> Owner {
        let RawOwner(Some(name)) = raw else { return Owner(None) };
        if let Some(known) = self.0.get(name.as_ref()) {
            return Owner(Some(Arc::clone(known)));
        }
        let name: Arc<str> = name.as_ref().into();
        self.0.insert(Arc::clone(&name));
        Owner(Some(name))
    }
}

/// A name, or `false` where there is none.
#[derive(Debug)]
pub(super) struct RawOwner<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for RawOwner<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RawOwner<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or false")
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
                if value { Err(E::custom("an owner cannot be true")) } else { Ok(RawOwner(None)) }
            }

            fn visit_borrowed_str<E: serde::de::Error>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(RawOwner(Some(Cow::Borrowed(value))))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
                Ok(RawOwner(Some(Cow::Owned(value.to_owned()))))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        let octal = text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = octal.then(|| u16::from_str_radix(&text, 8).ok()).flatten();
        mode.map(Self).ok_or_else(|| D::Error::custom("a mode has four octal digits"))
    }
}

/// Permissions and owners of an entry, as far as its line has them.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) mode: Mode,
    pub(super) user: Owner,
    pub(super) group: Owner,
    pub(super) left_out: LeftOut,
}

/// What the line of an entry leaves to the defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeftOut {
    pub(super) mode: bool,
    pub(super) user: bool,
    pub(super) group: bool,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawFile<'a> {
    #[serde(default)]
    bi: u64,
    bic: Option<u8>,
    #[serde(default)]
    bim: u64,
    bni: Option<u64>,
    #[serde(default)]
    bno: u64,
    #[serde(borrow)]
    checksum: Option<Cow<'a, str>>,
    checksum_page: Option<bool>,
    checksum_page_error: Option<Vec<Value>>,
    #[serde(borrow)]
    group: Option<RawOwner<'a>>,
    mode: Option<Mode>,
    #[serde(borrow)]
    rck: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reference: Option<Cow<'a, str>>,
    repo_size: Option<u64>,
    size: u64,
    szo: Option<u64>,
    timestamp: i64,
    #[serde(borrow)]
    user: Option<RawOwner<'a>>,
}

/// The file of a line, and what of it is still to be filled in.
pub(super) fn read_file(pair: &Pair<'_>, names: &mut Names) -> Result<(File, LeftOut), Fault> {
    let mut raw: RawFile<'_> = pair.parse()?;
    let Given { mode, user, group, left_out } = names.given(raw.mode, raw.user.take(), raw.group.take());
    let checksum = |text: &str| text.parse::<Checksum>().map_err(|reason| pair.invalid(reason));
    let stored_size = raw.repo_size.unwrap_or(raw.size);
    let file = File {
        path: read_path(pair)?,
        size: raw.size,
        size_at_start: raw.szo.unwrap_or(raw.size),
        modified: raw.timestamp,
        checksum: match raw.checksum.as_deref() {
            Some(text) => checksum(text)?,
            None if raw.size == 0 => Checksum::EMPTY,
            None => return Err(pair.invalid("has no checksum")),
        },
        stored_checksum: raw.rck.as_deref().map(checksum).transpose()?,
        stored_size,
        place: match raw.bni {
            None => Place::Own,
            Some(0) => return Err(pair.invalid("lies in a bundle of number 0")),
            Some(id) => Place::Bundle { id, offset: raw.bno },
        },
        reference: match raw.reference.as_deref() {
            Some(label) => {
                Some(label.parse().map_err(|_| pair.invalid("has a reference that is not a label"))?)
            }
            None => None,
        },
        blocks: read_blocks(&raw, stored_size).map_err(|reason| pair.invalid(reason))?,
        pages: read_pages(&raw).ok_or_else(|| pair.invalid("has page errors that are not page numbers"))?,
        mode,
        user,
        group,
    };
    if [raw.size, file.size_at_start, stored_size, raw.bno].iter().any(|size| *size >= MAX_SIZE) {
        return Err(pair.invalid("has a size or an offset that no file has"));
    }
    if file.size == 0 && file.checksum != Checksum::EMPTY {
        return Err(pair.invalid("has no bytes and another checksum than that of none"));
    }
    Ok((file, left_out))
}

/// A path below `pg_data` or a tablespace.
pub(super) fn read_path(pair: &Pair<'_>) -> Result<RelPath, Fault> {
    let path = RelPath::new(pair.key).map_err(|error| pair.invalid(format!("has a wrong path: {error}")))?;
    let root = {
        let mut components = path.components();
        match components.next() {
            Some(b"pg_data") => true,
            Some(b"pg_tblspc") => components.next().is_none_or(|oid| parse_oid(oid).is_some()),
            _ => false,
        }
    };
    if root { Ok(path) } else { Err(pair.invalid("lies neither in pg_data nor in a tablespace")) }
}

/// An OID in digits, written in the one way there is.
pub(super) fn parse_oid(text: &[u8]) -> Option<u32> {
    let oid: u32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (oid.to_string().as_bytes() == text).then_some(oid)
}

fn read_blocks(raw: &RawFile<'_>, stored_size: u64) -> Result<Option<Blocks>, &'static str> {
    // A block size alone was left by a run that broke off.
    if raw.bim == 0 {
        return Ok(None);
    }
    let size = raw.bi.checked_mul(BLOCK_UNIT).filter(|size| (1..=MAX_BLOCK).contains(size));
    let size = size.ok_or("has a block map and no block size that is known")?;
    let checksum_width = raw.bic.unwrap_or(6);
    if !(1..=MAX_WIDTH).contains(&checksum_width) {
        return Err("has block checksums of a width that there is not");
    }
    if raw.bim > stored_size || raw.bim > MAX_MAP {
        return Err("has a block map that is larger than it can be");
    }
    Ok(Some(Blocks { size, checksum_width, map_size: raw.bim }))
}

/// Inner `None`: they were not looked at.
fn read_pages(raw: &RawFile<'_>) -> Option<Option<PageCheck>> {
    let range = |value: &Value| match value {
        Value::Number(page) => page.as_u64().map(|page| (page, page)),
        Value::Array(ends) => match ends.as_slice() {
            [first, last] => Some((first.as_u64()?, last.as_u64()?)).filter(|(first, last)| first <= last),
            _ => None,
        },
        _ => None,
    };
    Some(match (raw.checksum_page, &raw.checksum_page_error) {
        (None, _) => None,
        (Some(true), _) => Some(PageCheck::Good),
        (Some(false), None) => Some(PageCheck::Torn),
        (Some(false), Some(pages)) => {
            Some(PageCheck::Bad(pages.iter().map(range).collect::<Option<Vec<_>>>()?))
        }
    })
}

//! WAL that a backup brings along (`archive-copy`): read back from the archive, where it has arrived for good, and added behind all else.

use futures::stream::{self, StreamExt};
use pgbr_codec::Compressor;
use pgbr_manifest::{RelPath, WalFileName, WalSegmentName, WalSegmentSize};
use pgbr_repo::WalGet;
use tokio::sync::mpsc;

use super::copy::{Branch, discard};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::observe::Event;
use crate::place::StanzaPlace;

/// Segments that are read at once have about this many bytes together; one is read in any case.
const AHEAD: u32 = 64 << 20;

/// Adds segments to what was copied.
///
/// # Errors
/// When one is not in the archive, or is damaged there; as [`Branch::add_segment`].
pub(super) async fn add(
    host: &Host,
    place: &StanzaPlace,
    (mut branch, mut compressor): (Box<Branch>, Compressor),
    segments: &[WalSegmentName],
    size: WalSegmentSize,
) -> Result<(Box<Branch>, Compressor)> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Ok((branch, compressor));
    };
    host.tell(Event::Note { text: format!("copy WAL segments {first} to {last} into the backup") });
    let (send, mut receive) = mpsc::channel::<(RelPath, Vec<u8>)>(1);
    let own = host.clone();
    let adding = tokio::task::spawn_blocking(move || {
        while let Some((path, content)) = receive.blocking_recv() {
            own.stop.check()?;
            let (name, size) = (path.to_string(), content.len() as u64);
            branch.add_segment(path, &content, own.clock.now_ns(), &mut compressor)?;
            own.tell(Event::File { path: name, size });
        }
        Ok((branch, compressor))
    });
    let at_once = (AHEAD / size.bytes()).max(1);
    let reads = segments.iter().map(|segment| read(place, *segment, size));
    let mut reads = stream::iter(reads).buffered(usize::try_from(at_once).unwrap_or(1));
    let mut lost = None;
    loop {
        let segment = tokio::select! {
            segment = reads.next() => segment,
            stopped = host.stop.requested() => Some(Err(stopped)),
        };
        match segment {
            None => break,
            Some(Err(error)) => {
                lost = Some(error);
                break;
            }
            // Who does not take any more has failed.
            Some(Ok(segment)) => {
                if send.send(segment).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(send);
    let added = adding.await.map_err(|_| Error::Internal { what: "adding WAL to a backup panicked" })?;
    match lost {
        None => added,
        Some(error) => {
            discard(added).await;
            Err(error)
        }
    }
}

async fn read(
    place: &StanzaPlace,
    segment: WalSegmentName,
    size: WalSegmentSize,
) -> Result<(RelPath, Vec<u8>)> {
    let path = RelPath::new(format!("{}/{segment}", RelPath::PG_WAL))?;
    let unfit = |what: &str| Error::Unfit { reason: format!("WAL segment {segment} {what}") };
    match place.wal.get(place.stanza.archive_id(), &WalFileName::Segment(segment)).await? {
        WalGet::Found(found) if found.content.len() as u64 == u64::from(size.bytes()) => {
            Ok((path, found.content))
        }
        WalGet::Found(_) => Err(unfit("in the archive does not have the size of a segment")),
        WalGet::Missing => Err(unfit("is not in the archive any more")),
    }
}

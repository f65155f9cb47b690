//! Trees of foreign index nodes, walked as an index and as a frame table.

use pgbr_manifest::index::{FrameCursor, IndexCursor, NodeKind, NodePlace, NodeSource, Root};
use pgbr_manifest::{Error, Result};

/// Gives the nodes by number, and not without end: a fence may name a node a thousand times.
struct Nodes<'a> {
    nodes: &'a [&'a [u8]],
    left: usize,
}

impl NodeSource for Nodes<'_> {
    type Error = Error;

    fn get(&mut self, _: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        let none = || Error::Source { reason: "no such node".to_owned() };
        self.left = self.left.checked_sub(1).ok_or_else(none)?;
        let node = usize::try_from(place.number).ok().and_then(|number| self.nodes.get(number));
        Ok(node.ok_or_else(none)?.to_vec())
    }
}

pub(crate) fn run(data: &[u8]) {
    let Some((&level, rest)) = data.split_first() else { return };
    let nodes = crate::plain::pieces(rest);
    let root = Some(Root { level: level.into(), place: NodePlace { number: 0, pack: 0, offset: 0, len: 0 } });
    let (mut cursor, mut source) = (IndexCursor::new(root), Nodes { nodes: &nodes, left: 100 });
    while let Ok(Some(_)) = cursor.next_record(&mut source) {}
    let (mut cursor, mut source) = (FrameCursor::new(root), Nodes { nodes: &nodes, left: 100 });
    while let Ok(Some(_)) = cursor.next_frame(&mut source) {}
}

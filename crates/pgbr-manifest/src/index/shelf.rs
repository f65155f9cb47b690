//! Nodes in memory, for tests.

use std::collections::HashMap;

use super::{NodeKind, NodePlace, NodeSink, NodeSource};
use crate::error::{Error, Result};

/// Nodes in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(pub(crate) HashMap<(NodeKind, u64), Vec<u8>>);

impl NodeSink for Shelf {
    type Error = Error;

    fn put(&mut self, kind: NodeKind, number: u64, raw: &[u8]) -> Result<NodePlace> {
        assert!(self.0.insert((kind, number), raw.to_vec()).is_none(), "a number is used twice");
        Ok(NodePlace { number, pack: 0, offset: 0, len: u32::try_from(raw.len()).unwrap() })
    }
}

impl NodeSource for &Shelf {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        let none = || Error::Source { reason: "no such node".to_owned() };
        self.0.get(&(kind, place.number)).cloned().ok_or_else(none)
    }
}

impl NodeSource for Shelf {
    type Error = Error;

    fn get(&mut self, kind: NodeKind, place: &NodePlace) -> Result<Vec<u8>> {
        (&*self).get(kind, place)
    }
}

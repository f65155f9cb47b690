//! The index of a backup: which files and grains it holds, in order, as nodes of bounded size.
//!
//! [`Record`]s stand in [`Leaf`](NodeKind::Leaf) nodes; fences above them lead from a path to its leaf, and the frame table from a place in
//! the stream of grains to the frame that holds it. Writers hand finished nodes to a [`NodeSink`] (which compresses, seals and packs
//! them) and get back where they lie; readers ask a [`NodeSource`]. Neither holds more than a few nodes at a time.

mod bytes;
mod record;
#[cfg(test)]
pub(crate) mod shelf;
mod table;
mod tree;

pub use record::{
    BadPages, Fields, FileFlags, FileRecord, LeafReader, LeafWriter, MAX_LEAF_BYTES, Meta, Record,
};
pub use table::{FrameCursor, FramePlace, FrameTableWriter, PackFrames};
pub use tree::{
    IndexCursor, IndexKey, IndexWriter, NodeKind, NodePlace, NodeSink, NodeSource, Placed, Root,
    TARGET_NODE_BYTES,
};

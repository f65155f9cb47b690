//! Frames, packs, compression, authenticated sealing and keys for backup repositories, without any I/O.

//! Compressed payloads of every codec: foreign ones, and what the compressors make.

use pgbr_codec::{Codec, Compression, Compressor, Decompressor};

pub(crate) fn run(input: (u8, u16, &[u8])) {
    let (codec, raw_len, payload) = input;
    let codec = Codec::ALL[usize::from(codec) % Codec::ALL.len()];
    let (mut decompressor, mut raw) = (Decompressor::new(), Vec::new());
    let result = decompressor.decompress(codec, payload, raw_len.into(), &mut raw);
    assert_eq!(raw.len(), if result.is_ok() { raw_len.into() } else { 0 });

    let compression = Compression::new(codec, Some(*codec.level_range().start())).expect("it has that level");
    let (mut packed, mut again) = (Vec::new(), Vec::new());
    let used = Compressor::new(compression).and_then(|mut c| c.compress(payload, &mut packed));
    let used = used.expect("a small payload is compressed");
    decompressor.decompress(used, &packed, payload.len(), &mut again).expect("it was compressed just now");
    assert_eq!(again, payload);
}

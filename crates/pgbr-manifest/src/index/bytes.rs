//! The integers and byte strings that nodes are made of, read with every length checked.

use crate::error::{Error, Result};

/// Appends unsigned LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7F).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// Appends a signed number, small ones of either sign short.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

/// Reads the fields of a node in order; every error names the node's kind and the byte.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// Goes on at a place that [`Reader::position`] gave for the same bytes.
    pub(crate) fn resume(what: &'static str, bytes: &'a [u8], at: usize) -> Self {
        Self { what, bytes, at: at.min(bytes.len()) }
    }

    pub(crate) const fn at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) const fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { what: self.what, at: self.at, reason }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return Err(self.damaged("a number is too large"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.damaged("a number is longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(self.damaged("a number is too long"))
    }

    pub(crate) fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A number that becomes a length or a count: at most `max`.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize> {
        let value = self.varint()?;
        usize::try_from(value).ok().filter(|v| *v <= max).ok_or_else(|| self.damaged("a count is too large"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.damaged("a number is too large"))
    }

    pub(crate) fn hashes(&mut self, count: usize) -> Result<Vec<u64>> {
        let len = count.checked_mul(8).ok_or_else(|| self.damaged("a count is too large"))?;
        let (chunks, _) = self.take(len)?.as_chunks::<8>();
        Ok(chunks.iter().map(|c| u64::from_le_bytes(*c)).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(unsigned: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, unsigned);
            put_zigzag(&mut out, signed);
            let mut reader = Reader::new("test", &out);
            prop_assert_eq!(reader.varint().unwrap(), unsigned);
            prop_assert_eq!(reader.zigzag().unwrap(), signed);
            prop_assert!(reader.at_end());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new("test", &bytes);
            while reader.varint().is_ok() {}
        }
    }

    #[test]
    fn superfluous_and_huge_numbers_are_refused() {
        for bytes in [
            &[0x80, 0x00][..],
            &[0xFF; 10],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02],
            &[0x80],
        ] {
            assert!(Reader::new("test", bytes).varint().is_err(), "{bytes:?}");
        }
        let max = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(Reader::new("test", &max).varint(), Ok(u64::MAX));
    }
}

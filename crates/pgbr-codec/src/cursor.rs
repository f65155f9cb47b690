//! Bounded reading and writing of little-endian fields and varints.

use crate::{Error, Result};

/// What is left to read of some bytes.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes`; `what` names them in errors.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.short(N as u64));
        };
        self.rest = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((head, rest)) = split else {
            return Err(self.short(len));
        };
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Unsigned LEB128 of at most 10 bytes, without superfluous zero bytes.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Error::corrupt(self.what, "varint above 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift != 0 {
                    return Err(Error::corrupt(self.what, "varint with superfluous bytes"));
                }
                return Ok(value);
            }
        }
        Err(Error::corrupt(self.what, "varint longer than 10 bytes"))
    }

    /// Refuses what is not zero.
    pub(crate) fn zeros<const N: usize>(&mut self) -> Result<()> {
        if self.array::<N>()? == [0; N] {
            Ok(())
        } else {
            Err(Error::corrupt(self.what, "reserved bytes are not zero"))
        }
    }

    /// Refuses anything left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::corrupt(self.what, "bytes behind the end")) }
    }

    fn short(&self, need: u64) -> Error {
        Error::Truncated { what: self.what, need, have: self.rest.len() as u64 }
    }
}

/// Appends unsigned LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_have_one_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes, "test");
            assert_eq!(cursor.varint().unwrap(), value);
            cursor.end().unwrap();
            for cut in 0..bytes.len() {
                assert!(Cursor::new(&bytes[..cut], "test").varint().is_err());
            }
        }
        for bad in [
            &[0x80, 0][..],
            &[0xff, 0x80, 0],
            &[0xff; 11],
            &[0xff, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ] {
            assert!(Cursor::new(bad, "test").varint().is_err(), "{bad:x?}");
        }
    }
}

//! The format's encryption: AES-256-CBC under a key that OpenSSL's `EVP_BytesToKey` makes of a passphrase by SHA-1.
//!
//! Nothing in it tells forged or damaged bytes from right ones: that is left to the checksums of what was encrypted. A wrong passphrase shows
//! by what comes out, so it is looked for where that is known: at the beginning of an info file.

use std::fmt;
use std::io::{self, BufRead, Read};

use aes::Aes256;
use cbc::cipher::{Array, BlockModeDecrypt, KeyIvInit};
use sha1::{Digest, Sha1};
use zeroize::Zeroizing;

/// What an encrypted stream begins with, unless it is raw.
pub(crate) const MAGIC: &[u8; 8] = b"Salted__";
const SALT: usize = 8;
const BLOCK: usize = 16;
const KEY: usize = 32;
/// How much is decrypted at once.
const STEP: usize = 64 << 10;

/// What opens the objects of an encrypted repository. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase as the operator or an info file gave it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Whether the beginning of an encrypted stream, which is not raw, begins with these bytes; at most 16 of them are looked at.
    pub(crate) fn opens(&self, head: &[u8], beginning: &[u8]) -> bool {
        let salt = head.get(MAGIC.len()..MAGIC.len() + SALT).and_then(|salt| salt.try_into().ok());
        let block = head.get(MAGIC.len() + SALT..MAGIC.len() + SALT + BLOCK);
        let (Some(salt), Some(block)) = (salt, block.and_then(|block| <[u8; BLOCK]>::try_from(block).ok()))
        else {
            return false;
        };
        let mut block = block.into();
        self.cipher(salt).decrypt_block(&mut block);
        let length = beginning.len().min(BLOCK);
        block[..length] == beginning[..length]
    }

    /// The cipher with the key and the initialisation vector for a salt.
    fn cipher(&self, salt: [u8; SALT]) -> cbc::Decryptor<Aes256> {
        let mut derived = Zeroizing::new([0; 60]);
        let mut previous: &[u8] = &[];
        for place in derived.chunks_mut(20) {
            let mut hash = Sha1::new();
            hash.update(previous);
            hash.update(self.0.as_bytes());
            hash.update(salt);
            place.copy_from_slice(&hash.finalize());
            previous = place;
        }
        let mut key = Zeroizing::new(Array::<u8, _>::from([0; KEY]));
        key.copy_from_slice(&derived[..KEY]);
        let mut iv = [0; BLOCK];
        iv.copy_from_slice(&derived[KEY..KEY + BLOCK]);
        cbc::Decryptor::new(&key, &iv.into())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// What a compressed or encrypted stream has about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the format has these two")]
pub enum Framing {
    /// The library's usual header and checksum.
    Normal,
    /// Less of both: in super blocks, block maps and the members of newer bundles.
    Raw,
}

/// Decrypts a stream.
pub(crate) struct Decrypt<R> {
    input: R,
    passphrase: Passphrase,
    framing: Framing,
    cipher: Option<cbc::Decryptor<Aes256>>,
    /// Plain bytes that were not given yet, then bytes that were read and not decrypted: at least one until the end, as the last block is
    /// padded.
    buffer: Zeroizing<Vec<u8>>,
    start: usize,
    plain: usize,
    ended: bool,
}

impl<R: BufRead> Decrypt<R> {
    pub(crate) fn new(input: R, passphrase: &Passphrase, framing: Framing) -> Self {
        Self {
            input,
            passphrase: passphrase.clone(),
            framing,
            cipher: None,
            buffer: Zeroizing::new(Vec::new()),
            start: 0,
            plain: 0,
            ended: false,
        }
    }

    /// Decrypts the next bytes. There may be none of them though the stream has not ended.
    fn step(&mut self) -> io::Result<()> {
        if self.cipher.is_none() {
            self.cipher = Some(self.read_header()?);
        }
        let Some(cipher) = &mut self.cipher else { return Err(bad("no cipher")) };
        self.buffer.copy_within(self.plain.., 0);
        let held = self.buffer.len() - self.plain;
        (self.start, self.plain) = (0, 0);
        // Never longer than this, so that the buffer is not moved and leaves nothing behind.
        self.buffer.resize(STEP + BLOCK, 0);
        let read = read_fully(&mut self.input, &mut self.buffer[held..])?;
        self.buffer.truncate(held + read);
        self.ended = self.buffer.len() < STEP + BLOCK;
        let whole = match self.ended {
            true if self.buffer.is_empty() || !self.buffer.len().is_multiple_of(BLOCK) => {
                return Err(bad("what is encrypted is not whole"));
            }
            true => self.buffer.len(),
            false => STEP,
        };
        let (blocks, _) = Array::slice_as_chunks_mut(&mut self.buffer[..whole]);
        cipher.decrypt_blocks(blocks);
        self.plain = whole;
        if self.ended {
            // An error leaves nothing to be given.
            self.plain = 0;
            self.plain = unpad(&self.buffer)?;
            let plain = self.plain;
            self.buffer.truncate(plain);
        }
        Ok(())
    }

    fn read_header(&mut self) -> io::Result<cbc::Decryptor<Aes256>> {
        let mut magic = [0; MAGIC.len()];
        let mut salt = [0; SALT];
        if self.framing == Framing::Normal {
            read_fully(&mut self.input, &mut magic)?;
            if magic != *MAGIC {
                return Err(bad("it is not encrypted"));
            }
        }
        if read_fully(&mut self.input, &mut salt)? < SALT {
            return Err(bad("what is encrypted is not whole"));
        }
        self.buffer = Zeroizing::new(Vec::with_capacity(STEP + BLOCK));
        Ok(self.passphrase.cipher(salt))
    }
}

impl<R: BufRead> BufRead for Decrypt<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.plain && !self.ended {
            self.step()?;
        }
        Ok(&self.buffer[self.start..self.plain])
    }

    fn consume(&mut self, amount: usize) {
        self.start = self.start.saturating_add(amount).min(self.plain);
    }
}

impl<R: BufRead> Read for Decrypt<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(into)?;
        self.consume(amount);
        Ok(amount)
    }
}

/// The length of what is left without its padding.
fn unpad(text: &[u8]) -> io::Result<usize> {
    let length = usize::from(text.last().copied().unwrap_or(0));
    let (kept, padding) = text.split_at(text.len().saturating_sub(length));
    match (1..=BLOCK).contains(&length) && padding.iter().all(|byte| usize::from(*byte) == length) {
        true => Ok(kept.len()),
        false => Err(bad("it does not decrypt")),
    }
}

/// Reads until `into` is full or the input ends.
fn read_fully(input: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match input.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(amount) => filled += amount,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn bad(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'hello, reader' | openssl enc -aes-256-cbc -md sha1 -pass pass:secret -S 0001020304050607`, behind magic and salt.
    const HELLO: &str = "53616c7465645f5f0001020304050607c2b705698decbdfef712b486e1e114be";

    fn decrypt(bytes: &[u8], passphrase: &str, framing: Framing) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decrypt::new(bytes, &Passphrase::new(passphrase), framing).read_to_end(&mut out)?;
        Ok(out)
    }

    fn hello() -> Vec<u8> {
        data_encoding::HEXLOWER.decode(HELLO.as_bytes()).unwrap()
    }

    #[test]
    fn opens_what_openssl_made() {
        let bytes = hello();
        assert_eq!(decrypt(&bytes, "secret", Framing::Normal).unwrap(), b"hello, reader");
        assert_eq!(decrypt(&bytes[8..], "secret", Framing::Raw).unwrap(), b"hello, reader");
    }

    #[test]
    fn refuses_what_is_cut_or_plain() {
        let bytes = hello();
        for end in 0..bytes.len() {
            assert!(decrypt(&bytes[..end], "secret", Framing::Normal).is_err(), "{end}");
        }
        let error = decrypt(b"[backrest]\nbackrest-format=5\n....", "secret", Framing::Normal).unwrap_err();
        assert_eq!(error.to_string(), "it is not encrypted");
    }

    #[test]
    fn a_passphrase_is_not_shown() {
        assert_eq!(format!("{:?}", Passphrase::new("secret")), "Passphrase(..)");
    }
}

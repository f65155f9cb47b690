//! An exported key as text: for a file in a safe, for paper, for a message.
//!
//! Lines for people; then, between two lines of dashes, the bytes in base32 and the beginning of their digest, which tells a slip of the pen from
//! a wrong passphrase. Upper and lower case, blanks and the lengths of lines do not matter.

use data_encoding::BASE32_NOPAD;
use pgbr_codec::Passphrase;
use zeroize::Zeroizing;

/// The largest text that is read, in bytes.
pub(super) const MAX: usize = 1 << 20;
const BEGIN: &str = "-----BEGIN PGBR KEY-----";
const END: &str = "-----END PGBR KEY-----";
/// Before a passphrase that stands in the text itself.
const PASSPHRASE: &str = "passphrase: ";
/// Digits in a line, and how many stand together.
const LINE: usize = 64;
/// Before the digest.
const CHECK: char = '=';
/// How many of the digest's bytes stand there: eight digits.
const CHECK_LEN: usize = 5;

/// What stands in a text.
pub(super) struct Block {
    pub(super) exported: Vec<u8>,
    /// Where the text opens by itself.
    pub(super) passphrase: Option<Passphrase>,
}

/// The text, with lines for people above it.
pub(super) fn render(head: &[String], exported: &[u8], passphrase: Option<&Passphrase>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    for line in head {
        text.push_str(line);
        text.push('\n');
    }
    if let Some(passphrase) = passphrase {
        text.push_str(PASSPHRASE);
        text.push_str(passphrase.expose());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(BEGIN);
    let digits = Zeroizing::new(Zeroizing::new(BASE32_NOPAD.encode(exported)).to_ascii_lowercase());
    for (number, digit) in digits.chars().enumerate() {
        if number % LINE == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text.push('\n');
    text.push(CHECK);
    text.push_str(&check(exported).to_ascii_lowercase());
    text.push('\n');
    text.push_str(END);
    text.push('\n');
    text
}

/// Reads such a text. What stands before the block, between it and its end, or behind, is for people.
pub(super) fn parse(text: &[u8]) -> Result<Block, String> {
    if text.len() > MAX {
        return Err(format!("it has more than {MAX} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|_| "it is not text".to_owned())?;
    let lines = || text.lines().map(str::trim);
    let begins = lines().position(|line| line == BEGIN).ok_or_else(|| format!("it has no line '{BEGIN}'"))?;
    let ends = lines().position(|line| line == END).filter(|end| *end > begins);
    let ends = ends.ok_or_else(|| format!("it has no line '{END}'"))?;
    let inner = || lines().take(ends).skip(begins + 1);
    let mut check_line = None;
    let mut digits = String::new();
    for (number, line) in inner().enumerate() {
        let line: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        match line.strip_prefix(CHECK) {
            Some(rest) => check_line = Some(rest.to_ascii_uppercase()),
            None if check_line.is_some() => return Err("something stands behind its last line".to_owned()),
            None => {
                if let Some(bad) = line.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '2'..='7')) {
                    return Err(format!("line {} of the block has a '{bad}'", number + 1));
                }
                digits.push_str(&line.to_ascii_uppercase());
            }
        }
    }
    let exported = BASE32_NOPAD.decode(digits.as_bytes());
    let exported = exported.map_err(|_| "a digit is missing in it, or is too many".to_owned())?;
    if check_line.as_deref() != Some(check(&exported).as_str()) {
        return Err("a digit in it is wrong: its digest does not fit".to_owned());
    }
    let passphrase = lines().take(begins).find_map(|line| line.strip_prefix(PASSPHRASE));
    Ok(Block { exported, passphrase: passphrase.map(|text| Passphrase::new(text.trim())) })
}

fn check(exported: &[u8]) -> String {
    let digest = blake3::hash(exported);
    BASE32_NOPAD.encode(digest.as_bytes().get(..CHECK_LEN).unwrap_or_default())
}

/// A text that somebody has typed or copied: what is read is written and read again.
#[cfg(fuzzing)]
pub(crate) fn read_block(text: &[u8]) {
    let Ok(block) = parse(text) else { return };
    let written = render(&[], &block.exported, block.passphrase.as_ref());
    let again = parse(written.as_bytes()).expect("it was written");
    assert_eq!(again.exported, block.exported);
    let exposed = |block: &Block| block.passphrase.as_ref().map(|passphrase| passphrase.expose().to_owned());
    assert_eq!(exposed(&again), exposed(&block));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<u8>, String> {
        parse(text.as_bytes()).map(|block| block.exported)
    }

    #[test]
    fn what_is_written_is_read_however_it_was_copied() {
        let pass = Passphrase::new("pgbr-key-abc");
        for len in [1, 2, 3, 4, 5, 39, 40, 41, 700] {
            let bytes: Vec<u8> = (0..len).map(|n: u16| (n * 7).to_le_bytes()[0]).collect();
            let text = render(&["for people".to_owned()], &bytes, None);
            assert!(
                text.starts_with("for people\n\n-----BEGIN") && text.lines().all(|line| line.len() <= 64)
            );
            assert_eq!(read(&text).unwrap(), bytes);
            assert_eq!(read(&text.replace('\n', "\r\n")).unwrap(), bytes);
            let spaced = text.replace('a', "A ").replace("-----BEGIN", "  -----BEGIN");
            assert_eq!(read(&format!("mail\n{spaced}\nend")).unwrap(), bytes);
            assert!(parse(text.as_bytes()).unwrap().passphrase.is_none());
            let open = render(&[], &bytes, Some(&pass));
            assert_eq!(parse(open.as_bytes()).unwrap().passphrase.unwrap().expose(), pass.expose());
        }
    }

    #[test]
    fn every_slip_of_the_pen_is_noticed() {
        let bytes: Vec<u8> = (0..100).collect();
        let text = render(&[], &bytes, None);
        let begin = text.find(BEGIN).unwrap() + BEGIN.len() + 1;
        let end = text.find(END).unwrap();
        for at in (begin..end).filter(|at| text.as_bytes()[*at].is_ascii_alphanumeric()) {
            for other in ['a', 'q', '7'] {
                let mut changed = text.to_string();
                changed.replace_range(at..=at, &other.to_string());
                assert!(changed == *text || read(&changed).is_err(), "{at} {other}");
            }
            let mut short = text.to_string();
            short.remove(at);
            assert!(read(&short).is_err(), "{at}");
            let mut wrong = text.to_string();
            wrong.replace_range(at..=at, "1");
            assert!(read(&wrong).is_err(), "{at}");
        }
        for bad in
            ["", BEGIN, "-----END PGBR KEY-----\n-----BEGIN PGBR KEY-----", &text[..end], &text[begin..]]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(parse(&[0xff; 10]).is_err() && parse(&vec![b'a'; MAX + 1]).is_err());
    }
}

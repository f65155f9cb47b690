//! HTTP/1.1 as far as the servers and the proxy of the testkit need it: one message at a time, whole bodies in memory.

use std::io::{self, BufRead, Error, ErrorKind, Read, Write};

/// No request or answer of a test is larger.
const LIMIT: usize = 256 << 20;

/// A request or an answer.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its first line.
    pub(crate) start: String,
    /// Names as they came.
    pub(crate) headers: Vec<(String, String)>,
    /// The whole body, chunks put together.
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn request(method: &str, target: &str, body: Vec<u8>) -> Self {
        let mut made = Self { start: format!("{method} {target} HTTP/1.1"), headers: Vec::new(), body };
        made.set("content-length", &made.body.len().to_string());
        made
    }

    pub(crate) fn answer(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let mut made =
            Self { start: format!("HTTP/1.1 {status} Said"), headers: Vec::new(), body: body.into() };
        made.set("content-length", &made.body.len().to_string());
        made
    }

    /// The same with a header.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.set(name, &value.to_string());
        self
    }

    /// The value of a header; the case of its name does not matter.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// Of a request.
    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Of a request: path and query, as they came.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// Reads a request; nothing when the peer has closed the connection instead.
    pub(crate) fn read_request(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(mut message) = Self::read_head(from)? else { return Ok(None) };
        if message.is_chunked() || message.header("content-length").is_some() {
            message.read_body(from)?;
        }
        Ok(Some(message))
    }

    /// Reads the answer to a request of `method`. What comes in between (`100 Continue`) is passed over.
    pub(crate) fn read_answer(from: &mut impl BufRead, method: &str) -> io::Result<Self> {
        loop {
            let Some(mut message) = Self::read_head(from)? else {
                return Err(Error::new(ErrorKind::UnexpectedEof, "no answer"));
            };
            match message.status() {
                100..200 => continue,
                204 | 304 => {}
                _ if method == "HEAD" => {}
                _ => message.read_body(from)?,
            }
            return Ok(message);
        }
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.head())?;
        to.write_all(&self.body)?;
        to.flush()
    }

    /// First line and headers.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn read_head(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(start) = read_line(from)? else { return Ok(None) };
        let mut headers = Vec::new();
        while let Some(line) = read_line(from)?.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        Ok(Some(Self { start, headers, body: Vec::new() }))
    }

    /// Afterwards the message says its length and is in one piece.
    fn read_body(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        if self.is_chunked() {
            loop {
                let line = read_line(from)?.ok_or_else(|| bad("a body without an end"))?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let length =
                    usize::from_str_radix(digits, 16).map_err(|_| bad("a chunk without a length"))?;
                read_exactly(from, length, &mut self.body)?;
                read_line(from)?;
                if length == 0 {
                    break;
                }
            }
            self.remove("transfer-encoding");
        } else if let Some(length) = self.header("content-length") {
            let length = length.parse().map_err(|_| bad("a length that is no number"))?;
            read_exactly(from, length, &mut self.body)?;
        } else {
            from.take(LIMIT as u64).read_to_end(&mut self.body)?;
        }
        self.set("content-length", &self.body.len().to_string());
        Ok(())
    }
}

/// Sends a request over a fresh connection, and gives the answer.
pub(crate) fn exchange(mut stream: impl Read + Write, request: &Message) -> io::Result<Message> {
    let mut request = request.clone();
    request.set("connection", "close");
    request.write(&mut stream)?;
    Message::read_answer(&mut io::BufReader::new(stream), request.method())
}

/// Puts percent signs before everything that has a meaning in a URL, or takes them away.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                decoded.push(value);
                at += 3;
            }
            (b'+', _) => {
                decoded.push(b' ');
                at += 1;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.take(64 << 10).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

fn read_exactly(from: &mut impl BufRead, length: usize, to: &mut Vec<u8>) -> io::Result<()> {
    if to.len() + length > LIMIT {
        return Err(bad("a body beyond the limit"));
    }
    let read = from.take(length as u64).read_to_end(to)?;
    if read == length { Ok(()) } else { Err(Error::new(ErrorKind::UnexpectedEof, "a body that is cut")) }
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_by_length_in_chunks_or_to_the_end() {
        let read = |text: &str| Message::read_answer(&mut text.as_bytes(), "GET").expect("it is an answer");
        let length = read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd");
        let chunks = read(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        );
        let end = read("HTTP/1.0 404 No\r\n\r\nabc");
        for message in [&length, &chunks, &end] {
            assert_eq!(message.body, b"abc");
            assert_eq!(message.header("content-LENGTH"), Some("3"));
        }
        assert_eq!((length.status(), end.status()), (200, 404));
        assert!(
            Message::read_answer(&mut &b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc"[..], "GET")
                .is_err()
        );
        assert!(Message::read_request(&mut &b""[..]).expect("an end is none").is_none());
    }

    #[test]
    fn names_are_decoded() {
        assert_eq!(decode("a%2Fb%2fc+d%zz%2"), "a/b/c d%zz%2");
    }
}

//! Hosts as options name them: a host, a host and port, or a URL.

use std::fmt;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Whether TLS is spoken.
    pub(super) secure: bool,
    /// The host; an IPv6 address without its brackets.
    host: String,
    port: Option<u16>,
}

impl Endpoint {
    /// Reads a host as pgBackRest does: without a scheme it is https, and a path after the host does not count.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (true, text),
        };
        let authority = rest.split('/').next()?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(address) => {
                let (address, port) = address.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (address, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) {
            return None;
        }
        let port = match port {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Some(port.parse::<u16>().ok().filter(|p| *p > 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        Some(Self { secure, host: host.to_owned(), port })
    }

    /// The port, or the scheme's.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.secure { 443 } else { 80 })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "https://" } else { "http://" })?;
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Reads what may be a host; what is read is printed and read again.
#[cfg(fuzzing)]
pub(crate) fn read(text: &str) {
    if let Some(read) = Endpoint::parse(text) {
        assert_eq!(Endpoint::parse(&read.to_string()), Some(read));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_pgbackrest_reads_them() {
        for (text, url, port) in [
            ("s3.amazonaws.com", "https://s3.amazonaws.com", 443),
            ("minio:9000", "https://minio:9000", 9000),
            ("http://127.0.0.1", "http://127.0.0.1", 80),
            ("http://127.0.0.1:9000/x/y", "http://127.0.0.1:9000", 9000),
            ("https://[::1]:9000", "https://[::1]:9000", 9000),
            ("[fe80::1]", "https://[fe80::1]", 443),
        ] {
            let read = Endpoint::parse(text).unwrap();
            assert_eq!((read.to_string().as_str(), read.port()), (url, port), "{text}");
        }
        for text in [
            "", "https://", "ftp://x", "a b", "h:", "h:0", "h:70000", "h:+1", "u@h", "[::1", "[x]", "[::1]9",
            "h:1:2",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }
}

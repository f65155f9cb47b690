//! What the server of a store said: its status, its own code, and what that means.

use std::error::Error as StdError;

/// How much of a server's own words is shown.
const LONGEST_MESSAGE: usize = 300;
/// How `object_store` begins what a server said.
const BEGINNINGS: [&str; 2] = ["Server returned non-2xx status code: ", "Server returned error response: "];

/// An answer that was no success.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    status: Option<u16>,
    code: Option<String>,
    /// Status, code and message in one line.
    pub(crate) text: String,
}

/// What an answer means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The bucket or container, or the account, is not there.
    StoreMissing,
    /// Nobody is known by these credentials, or they have expired.
    Credentials,
    /// The clocks differ.
    Clock,
    /// It is not allowed.
    Denied,
    /// There is no room.
    NoSpace,
    /// Anything else.
    Other,
}

impl Told {
    /// What a server said, where it was a server that failed the request.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if let Some(said) = BEGINNINGS.iter().find_map(|beginning| text.strip_prefix(beginning)) {
                return Some(Self::parse(said));
            }
            next = error.source();
        }
        None
    }

    /// Reads `404 Not Found: <Error><Code>NoSuchKey</Code>…`; without a status where a success carried an error.
    pub(crate) fn parse(said: &str) -> Self {
        let (head, body) = said.split_once(": ").unwrap_or((said.trim_end_matches(':'), ""));
        let status = head.split(' ').next().and_then(|number| number.parse().ok());
        let body = if status.is_some() { body } else { said };
        let code = element(body, "Code").map(|code| line(code).to_owned());
        let message = match element(body, "Message") {
            Some(message) => message,
            None if code.is_some() || body.trim_start().starts_with('<') => "",
            None => body,
        };
        let parts = [status.map(|_| line(head)), code.as_deref(), Some(line(message))];
        let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        Self { status, text: parts.join(": "), code }
    }

    /// Whether the server said that this object, and nothing above it, is missing. An answer without a code may be anybody's.
    pub(crate) fn is_missing_object(&self) -> bool {
        matches!(
            self.code.as_deref(),
            Some("NoSuchKey" | "NoSuchVersion" | "BlobNotFound" | "NoSuchObject" | "KeyNotFound")
        )
    }

    pub(crate) fn meaning(&self) -> Meaning {
        match (self.code.as_deref().unwrap_or_default(), self.status) {
            (
                "NoSuchBucket"
                | "ContainerNotFound"
                | "ContainerBeingDeleted"
                | "ContainerDisabled"
                | "AccountIsDisabled"
                | "ResourceNotFound",
                _,
            ) => Meaning::StoreMissing,
            ("RequestTimeTooSkewed" | "RequestInTheFuture", _) => Meaning::Clock,
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "AuthorizationHeaderMalformed"
                | "AuthenticationFailed"
                | "AuthenticationRequired"
                | "InvalidAuthenticationInfo"
                | "InvalidSecurity"
                | "InvalidClientTokenId"
                | "NoAuthenticationInformation",
                _,
            )
            | (_, Some(401)) => Meaning::Credentials,
            ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity", _) | (_, Some(507)) => {
                Meaning::NoSpace
            }
            ("BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" | "MethodNotAllowed", _)
            | (_, Some(403)) => Meaning::Denied,
            _ => Meaning::Other,
        }
    }
}

/// The text of the first XML element of this name.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

/// The first line of a text, as far as it is shown.
fn line(text: &str) -> &str {
    let line = text.trim().lines().next().unwrap_or_default();
    let end = line.char_indices().nth(LONGEST_MESSAGE).map_or(line.len(), |(at, _)| at);
    line.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_messages_are_found_and_secrets_are_not() {
        let said = Told::parse(
            "403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>It does not \
             match.\nMore</Message><StringToSign>secret</StringToSign></Error>",
        );
        assert_eq!(said.text, "403 Forbidden: SignatureDoesNotMatch: It does not match.");
        assert_eq!(said.meaning(), Meaning::Credentials);

        let said = Told::parse("404 Not Found: ");
        assert_eq!((said.text.as_str(), said.is_missing_object()), ("404 Not Found", false));
        let said = Told::parse("404 Not Found: <html><body>secret</body></html>");
        assert_eq!((said.text.as_str(), said.is_missing_object()), ("404 Not Found", false));
        let said = Told::parse("403 Forbidden: <Error><Code>Access\nDenied</Code></Error>");
        assert_eq!(said.text, "403 Forbidden: Access", "a server writes no lines of the log");
        let said = Told::parse("503 Service Unavailable: try later\nplease");
        assert_eq!(
            (said.text.as_str(), said.meaning()),
            ("503 Service Unavailable: try later", Meaning::Other)
        );
        let said = Told::parse("<Error><Code>InternalError</Code><Message>again: x</Message></Error>");
        assert_eq!(said.text, "InternalError: again: x");
        assert!(Told::parse(&"x".repeat(5000)).text.len() <= LONGEST_MESSAGE);
    }
}

//! How to reach a server: socket or host, port, user, password and patience.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::{Config, NoTls};
use zeroize::Zeroizing;

use crate::error::{Error, Result, ServerError};
use crate::session::Session;

/// Where libpq of Debian and of the PGDG packages looks for the socket.
const DEBIAN_SOCKET_DIRECTORY: &str = "/var/run/postgresql";
/// Where a server built from source puts its socket.
const SOURCE_SOCKET_DIRECTORY: &str = "/tmp";

/// A password: never printed, wiped when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(<redacted>)")
    }
}

/// Where a server listens and how long to wait for it.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "it is filled in by callers, field by field")]
pub struct ConnectOptions {
    /// Directory of the unix socket; without it and without a host the usual ones are tried.
    pub socket_path: Option<PathBuf>,
    /// Host name or address for TCP; ignored when `socket_path` is given.
    pub host: Option<String>,
    /// Port, also part of the socket's name.
    pub port: u16,
    /// Database user; the operating system's user when not given.
    pub user: Option<String>,
    /// Database to connect to.
    pub database: String,
    /// Password, where the server asks for one.
    pub password: Option<Password>,
    /// What `pg_stat_activity` shows, as `pgbr [backup]`.
    pub application_name: String,
    /// How long to wait for the connection.
    pub connect_timeout: Duration,
    /// How long to wait for the answer to one statement, the start of a backup (a checkpoint) among them.
    pub query_timeout: Duration,
}

impl Default for ConnectOptions {
    /// Port 5432 on the usual socket, database `postgres`, 60 s to connect, half an hour for a statement.
    fn default() -> Self {
        Self {
            socket_path: None,
            host: None,
            port: 5432,
            user: None,
            database: "postgres".to_owned(),
            password: None,
            application_name: "pgbr".to_owned(),
            connect_timeout: Duration::from_secs(60),
            query_timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// The address that is used in the end.
enum Target<'a> {
    Socket(&'a Path),
    Host(&'a str),
}

impl ConnectOptions {
    fn target(&self) -> Target<'_> {
        match (&self.socket_path, &self.host) {
            (Some(path), _) => Target::Socket(path),
            (None, Some(host)) => Target::Host(host),
            (None, None) if Path::new(DEBIAN_SOCKET_DIRECTORY).is_dir() => {
                Target::Socket(Path::new(DEBIAN_SOCKET_DIRECTORY))
            }
            (None, None) => Target::Socket(Path::new(SOURCE_SOCKET_DIRECTORY)),
        }
    }

    /// The address in words, for messages.
    pub fn describe(&self) -> String {
        let place = match self.target() {
            Target::Socket(path) => format!("socket '{}/.s.PGSQL.{}'", path.display(), self.port),
            Target::Host(host) => format!("host '{host}' port {}", self.port),
        };
        match &self.user {
            Some(user) => format!("{place}, database '{}', user '{user}'", self.database),
            None => format!("{place}, database '{}'", self.database),
        }
    }

    fn config(&self) -> Result<Config> {
        let mut config = Config::new();
        match self.target() {
            Target::Socket(path) => config.host_path(path),
            Target::Host(host) => config.host(host),
        };
        let user = match &self.user {
            Some(user) => user.clone(),
            None => crate::owner::current_user().ok_or_else(|| {
                self.failed(ServerError::other(
                    "no user was given and the operating system knows no name for this one",
                ))
            })?,
        };
        config
            .port(self.port)
            .user(user)
            .dbname(&self.database)
            .application_name(&self.application_name)
            .connect_timeout(self.connect_timeout);
        if let Some(password) = &self.password {
            config.password(password.0.as_bytes());
        }
        Ok(config)
    }

    fn failed(&self, source: ServerError) -> Error {
        Error::Connect { target: self.describe(), source }
    }
}

impl Session {
    /// Opens a session and prepares it: no time limits of the server's, `pg_catalog` alone, ISO dates in UTC.
    ///
    /// The connection is served by a task on the current tokio runtime until the session is dropped.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or does not answer in time; when its version is not supported.
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        let config = options.config()?;
        let connecting = tokio::time::timeout(options.connect_timeout, config.connect(NoTls));
        let (client, connection) = match connecting.await {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(options.failed(error.into())),
            Err(_) => {
                return Err(Error::Timeout { what: "accept a connection", after: options.connect_timeout });
            }
        };
        // The task ends with the connection; what goes wrong there, the next statement reports.
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        Self::prepare(client, options.query_timeout).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        let options = ConnectOptions { password: Some(Password::new("sesame")), ..ConnectOptions::default() };
        assert!(!format!("{options:?}").contains("sesame"));
    }

    #[test]
    fn the_socket_goes_before_the_host() {
        let options = ConnectOptions {
            socket_path: Some("/x".into()),
            host: Some("h".to_owned()),
            user: Some("u".to_owned()),
            ..ConnectOptions::default()
        };
        assert_eq!(options.describe(), "socket '/x/.s.PGSQL.5432', database 'postgres', user 'u'");
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let options = ConnectOptions {
            socket_path: Some(directory.path().to_owned()),
            user: Some("u".to_owned()),
            ..ConnectOptions::default()
        };
        let error = Session::connect(&options).await.unwrap_err();
        let mut chain = vec![error.to_string()];
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            chain.push(next.to_string());
            cause = next.source();
        }
        let all = chain.join(": ");
        assert_eq!(all.matches("No such file").count(), 1, "{all}");
        assert!(all.starts_with("cannot connect to PostgreSQL at socket '"), "{all}");
    }
}

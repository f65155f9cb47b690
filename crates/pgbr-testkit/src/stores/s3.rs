//! S3, by moto.

use std::sync::OnceLock;

use super::{Bucket, Certificates, INSTALLER, Server, StoreKind, fresh_name, program};
use crate::http::Message;

/// A server that speaks S3 and keeps everything in its memory. It looks at no signature unless it was made to.
#[derive(Debug)]
pub struct S3Server {
    server: Server,
    /// The only bucket of a strict one.
    only: Option<String>,
}

impl S3Server {
    /// The key that tests use.
    pub const KEY: &'static str = "test-key";
    /// Its secret; looks like nothing else.
    pub const SECRET: &'static str = "Quagmire-s3-secret-47";
    /// The region that requests are signed for.
    pub const REGION: &'static str = "us-east-1";

    /// The one that the tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(None, &[]))
    }

    /// One with a certificate, shared as well.
    pub fn tls() -> &'static Self {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Some(Certificates::get()), &[]))
    }

    /// One that refuses every request whose key it does not know, and it knows none; shared as well.
    pub fn strict() -> &'static Self {
        static SHARED: OnceLock<S3Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let started = Self::start(None, &[("INITIAL_NO_AUTH_ACTION_COUNT", "1")]);
            let name = fresh_name();
            started.server.call(Message::request("PUT", &format!("/{name}"), Vec::new()));
            Self { only: Some(name), ..started }
        })
    }

    /// A fresh bucket. The strict server has one for all, into which nobody can put anything.
    pub fn bucket(&'static self) -> Bucket {
        match &self.only {
            Some(name) => {
                Bucket::new(StoreKind::S3, name.clone(), self.server.endpoint(), self.server.tls, |_| ())
            }
            None => self.made(&[]),
        }
    }

    /// A fresh bucket that keeps what is overwritten and deleted.
    pub fn versioned_bucket(&'static self) -> Bucket {
        let bucket = self.made(&[]);
        let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        self.server.call(Message::request("PUT", &format!("/{}?versioning", bucket.name()), body.into()));
        bucket
    }

    /// A fresh bucket that keeps versions, none of which can be deleted for a day.
    pub fn locked_bucket(&'static self) -> Bucket {
        let bucket = self.made(&[("x-amz-bucket-object-lock-enabled", "true")]);
        let body = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        self.server.call(Message::request("PUT", &format!("/{}?object-lock", bucket.name()), body.into()));
        bucket
    }

    fn made(&'static self, headers: &[(&str, &str)]) -> Bucket {
        let name = fresh_name();
        let request = Message::request("PUT", &format!("/{name}"), Vec::new());
        self.server.call(headers.iter().fold(request, |request, (name, value)| request.with(name, value)));
        Bucket::new(StoreKind::S3, name, self.server.endpoint(), self.server.tls, |name| self.empty(name))
    }

    /// Takes the objects of a bucket out of the server's memory.
    fn empty(&self, bucket: &str) {
        loop {
            let list =
                self.server.call(Message::request("GET", &format!("/{bucket}?list-type=2"), Vec::new()));
            let list = String::from_utf8_lossy(&list.body).into_owned();
            let keys: Vec<&str> =
                list.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
            if keys.is_empty() {
                return;
            }
            let objects: String =
                keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
            let body = format!("<Delete>{objects}</Delete>");
            self.server.call(Message::request("POST", &format!("/{bucket}?delete"), body.into()));
        }
    }

    fn start(tls: Option<&'static Certificates>, env: &[(&str, &str)]) -> Self {
        let server = Server::start(&program("moto/bin/moto_server", INSTALLER), tls, env, |port, _| {
            let mut words: Vec<String> = ["-H", "127.0.0.1", "-p"].map(str::to_owned).to_vec();
            words.push(port.to_string());
            if let Some(certificates) = tls {
                let files = [certificates.certificate(), certificates.key()];
                let [certificate, key] = files.map(|file| file.display().to_string());
                words.extend(["-s", "-c", &certificate, "-k", &key].map(str::to_owned));
            }
            words
        });
        Self { server, only: None }
    }
}

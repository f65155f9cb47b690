//! Azure's blob storage, by azurite.

use std::sync::OnceLock;

use data_encoding::BASE64;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use ring::hmac;

use super::{Bucket, Certificates, INSTALLER, Server, StoreKind, fresh_name, program};
use crate::http::Message;

/// A server that speaks Azure's interface of blobs and checks the signature of every request.
#[derive(Debug)]
pub struct AzureServer(Server);

impl AzureServer {
    /// The account that azurite has; part of its documentation.
    pub const ACCOUNT: &'static str = "devstoreaccount1";
    /// The key of this account, base64.
    pub const KEY: &'static str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// The one that the tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<AzureServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(None))
    }

    /// One with a certificate, shared as well.
    pub fn tls() -> &'static Self {
        static SHARED: OnceLock<AzureServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Some(Certificates::get())))
    }

    /// A fresh container.
    pub fn bucket(&'static self) -> Bucket {
        let name = fresh_name();
        self.0.call(signed("PUT", &name));
        Bucket::new(StoreKind::Azure, name, self.0.endpoint(), self.0.tls, |name| {
            self.0.call(signed("DELETE", name));
        })
    }

    fn start(tls: Option<&'static Certificates>) -> Self {
        Self(Server::start(&program("azurite/azurite-blob", INSTALLER), tls, &[], |port, dir| {
            let mut words: Vec<String> =
                ["--blobHost", "127.0.0.1", "--blobPort"].map(str::to_owned).to_vec();
            words.extend([port.to_string(), "--location".to_owned(), dir.display().to_string()]);
            words
                .extend(["--silent", "--skipApiVersionCheck", "--disableProductStyleUrl"].map(str::to_owned));
            words.push("--disableTelemetry".to_owned());
            if let Some(certificates) = tls {
                let files = [certificates.certificate(), certificates.key()];
                let [certificate, key] = files.map(|file| file.display().to_string());
                words.extend(["--cert", &certificate, "--key", &key].map(str::to_owned));
            }
            words
        }))
    }
}

/// A request about a container, signed with the account's key.
fn signed(method: &str, container: &str) -> Message {
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
    let date = date.expect("it is a year of four digits");
    let (account, version) = (AzureServer::ACCOUNT, "2023-11-03");
    let text = format!(
        "{method}\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{account}/{account}/{container}\nrestype:container"
    );
    let key = BASE64.decode(AzureServer::KEY.as_bytes()).expect("the key is base64");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    Message::request(method, &format!("/{account}/{container}?restype=container"), Vec::new())
        .with("x-ms-date", date)
        .with("x-ms-version", version)
        .with("authorization", format!("SharedKey {account}:{}", BASE64.encode(tag.as_ref())))
}

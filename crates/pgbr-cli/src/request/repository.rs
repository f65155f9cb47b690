//! From the options of one repository to how it is reached.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgbr::{
    AzureCredentials, AzureOptions, CloudConnect, CloudKind, CloudOptions, GcsCredentials, GcsOptions,
    Passphrase, RepoAccess, RepoPlace, S3Credentials, S3Options, Secret, TakeOver, UriStyle,
};

use super::endpoint::Endpoint;
use super::{all_pg_data, pg_data_here};
use crate::exit::{CliError, ErrorCode};
use crate::flavor::Flavor;
use crate::options::Command;
use crate::settings::{Entry, Settings, Source};
use crate::{variables, zone};

/// The only service name that requests are signed for.
const S3_SERVICE: &str = "s3";

/// Length of a customer's key in bytes.
const CUSTOMER_KEY_LEN: usize = 32;

/// How to reach the repository with this key.
///
/// # Errors
/// As pgBackRest: `option-required`, `option-invalid`, `option-invalid-value`, `format`; `feature-not-supported` for what pgbr cannot do.
pub(crate) fn repo_of(settings: &Settings, key: u16) -> Result<RepoAccess, CliError> {
    if let Some(error) = settings.unusable.get(&key) {
        return Err(error.clone());
    }
    let one = One { settings, key };
    let place = match one.text("type").unwrap_or("posix") {
        "posix" | "cifs" => one.directory()?,
        "s3" => one.cloud(CloudKind::S3(one.s3()?), one.connect()?)?,
        "azure" => one.azure()?,
        "gcs" => one.cloud(CloudKind::Gcs(one.gcs()?), one.connect()?)?,
        kind => {
            let message = format!("option '{}' with value '{kind}' is not supported", one.name("type"));
            return Err(CliError::new(ErrorCode::FeatureNotSupported, message));
        }
    };
    let encrypted = one.text("cipher-type").is_some_and(|cipher| cipher != "none");
    let passphrase =
        one.entry("cipher-pass").as_secret().filter(|_| encrypted).map(|pass| Passphrase::new(pass.as_str()));
    let theirs = one.entry("pgbackrest-cipher-pass").as_secret();
    let their_passphrase = theirs.map(|pass| Passphrase::new(pass.as_str()));
    // What root keeps there, the operator's own commands could not use later.
    let root = rustix::process::geteuid().is_root();
    let key_cache = (encrypted && !root)
        .then(|| settings.entry("lock-path").as_path())
        .flatten()
        .map(|dir| dir.join("key"));
    Ok(RepoAccess { place, passphrase, their_passphrase, key_cache, take_over: take_over(settings) })
}

/// Whether the command makes a stanza that is not there from what pgBackRest has of it: in the place of pgBackRest whatever writes to the stanza,
/// so that nothing fails between the swap of the program and a stanza-create.
fn take_over(settings: &Settings) -> Option<TakeOver> {
    let stands_in = settings.flavor() == Flavor::Pgbackrest;
    let pg_data = match settings.command() {
        Command::ArchivePush if stands_in => pg_data_here(settings).into_iter().collect(),
        Command::Backup | Command::Check if stands_in => all_pg_data(settings),
        Command::Expire
            if stands_in && !settings.get_bool("dry-run") && !settings.get_bool("pgbackrest-remove") =>
        {
            all_pg_data(settings)
        }
        // The cluster is another one by now.
        Command::StanzaUpgrade => Vec::new(),
        _ => return None,
    };
    Some(TakeOver { pg_data })
}

/// The options of one repository.
#[derive(Clone, Copy)]
struct One<'a> {
    settings: &'a Settings,
    key: u16,
}

impl<'a> One<'a> {
    fn name(self, option: &str) -> String {
        format!("repo{}-{option}", self.key)
    }

    fn entry(self, option: &str) -> Entry<'a> {
        self.settings.indexed("repo", self.key, option)
    }

    fn text(self, option: &str) -> Option<&'a str> {
        self.entry(option).as_str()
    }

    fn owned(self, option: &str) -> Option<String> {
        self.text(option).map(str::to_owned)
    }

    fn secret(self, option: &str) -> Option<Secret> {
        self.entry(option).as_secret().map(|secret| Secret::new(secret.as_str()))
    }

    /// What is not there although the table requires it, or requires it for a value of another option.
    fn missing(self, option: &str) -> CliError {
        let message =
            format!("{} command requires option: {}", self.settings.command().name(), self.name(option));
        CliError::new(ErrorCode::OptionRequired, message)
    }

    fn need(self, option: &str) -> Result<String, CliError> {
        self.owned(option).ok_or_else(|| self.missing(option))
    }

    fn need_secret(self, option: &str) -> Result<Secret, CliError> {
        self.secret(option).ok_or_else(|| self.missing(option))
    }

    fn variable(self, name: &str) -> Option<&'a str> {
        self.settings.variables.get(name)
    }

    fn path(self) -> &'a Path {
        self.entry("path").as_path().unwrap_or(Path::new("/"))
    }

    fn directory(self) -> Result<RepoPlace, CliError> {
        if self.settings.entry("repo-target-time").is_set() {
            let message = format!("option 'repo-target-time' is not valid for repo{}", self.key);
            return Err(CliError::new(ErrorCode::OptionInvalid, message)
                .hint("a directory keeps no versions: the option is for buckets of S3 that do."));
        }
        Ok(RepoPlace::Directory(self.path().to_owned()))
    }

    fn cloud(self, kind: CloudKind, connect: CloudConnect) -> Result<RepoPlace, CliError> {
        let tags = self.entry("storage-tag").as_hash().to_vec();
        let prefix = self.path().to_string_lossy().trim_matches('/').to_owned();
        Ok(RepoPlace::Cloud(Arc::new(CloudOptions { kind, prefix, connect, tags, as_of: self.as_of()? })))
    }

    /// The moment that everything is read as of, in Unix seconds.
    fn as_of(self) -> Result<Option<i64>, CliError> {
        // Commands that write do not take the option.
        let Some(text) = self.settings.get_str("repo-target-time") else { return Ok(None) };
        let zone = zone::local(self.variable(variables::TZ).map(std::ffi::OsStr::new));
        match pgbr::parse_time(text, &zone) {
            Some(micros) => Ok(Some(micros.div_euclid(1_000_000))),
            None => Err(CliError::new(ErrorCode::Format, format!("invalid date/time {text}"))
                .hint("option 'repo-target-time' takes the form YYYY-MM-DD HH:MM:SS with a zone, as +00.")),
        }
    }

    fn connect(self) -> Result<CloudConnect, CliError> {
        let defaults = CloudConnect::default();
        let (host, mut port) = match self.host()? {
            Some(host) => (Some(host.to_string()), Some(host.port())),
            None => (None, None),
        };
        let asked = self.entry("storage-port");
        if asked.source() != Source::Default {
            port = asked.as_int().and_then(|port| u16::try_from(port).ok());
        }
        let io_timeout = self.settings.get_time("io-timeout").unwrap_or(defaults.io_timeout);
        Ok(CloudConnect {
            host,
            port,
            ca_file: self.text("storage-ca-file").map(PathBuf::from),
            ca_path: self.text("storage-ca-path").map(PathBuf::from),
            verify_tls: self.entry("storage-verify-tls").as_bool().unwrap_or(true),
            io_timeout,
            retry: io_timeout.saturating_mul(2),
        })
    }

    /// The host to connect to instead of the endpoint's.
    fn host(self) -> Result<Option<Endpoint>, CliError> {
        self.text("storage-host").map(|text| self.url("storage-host", text)).transpose()
    }

    /// A value may be a secret (Azure's endpoint is): it is not repeated.
    fn url(self, option: &str, text: &str) -> Result<Endpoint, CliError> {
        Endpoint::parse(text).ok_or_else(|| {
            let message = format!("invalid URL for '{}' option", self.name(option));
            CliError::new(ErrorCode::Format, message)
                .hint("it takes a host, host:port, or an http(s) URL of them.")
        })
    }

    fn uri_style(self, option: &str) -> UriStyle {
        if self.text(option) == Some("path") { UriStyle::Path } else { UriStyle::Host }
    }

    fn s3(self) -> Result<S3Options, CliError> {
        if let Some(service) = self.text("s3-service").filter(|service| *service != S3_SERVICE) {
            let message =
                format!("option '{}' with value '{service}' is not supported", self.name("s3-service"));
            return Err(CliError::new(ErrorCode::FeatureNotSupported, message));
        }
        let mut endpoint = self.url("s3-endpoint", &self.need("s3-endpoint")?)?;
        if let Some(host) = self.host()? {
            // The bucket is named as the endpoint says, and spoken to as the host says.
            endpoint.secure = host.secure;
        }
        Ok(S3Options {
            bucket: self.need("s3-bucket")?,
            endpoint: endpoint.to_string(),
            region: self.need("s3-region")?,
            uri_style: self.uri_style("s3-uri-style"),
            credentials: self.s3_credentials()?,
            kms_key_id: self.owned("s3-kms-key-id"),
            sse_customer_key: self.customer_key()?,
            requester_pays: self.entry("s3-requester-pays").as_bool().unwrap_or(false),
        })
    }

    fn s3_credentials(self) -> Result<S3Credentials, CliError> {
        Ok(match self.text("s3-key-type").unwrap_or("shared") {
            "auto" => S3Credentials::Instance {
                role: self.owned("s3-role"),
                metadata: self.variable(variables::AWS_METADATA).map(str::to_owned),
            },
            "web-id" => {
                let names = (variables::AWS_ROLE_ARN, variables::AWS_WEB_IDENTITY_TOKEN_FILE);
                let (role, token_file) = self.both_variables("web-id", names)?;
                S3Credentials::WebId { role, token_file: token_file.into(), sts: self.need("s3-sts-host")? }
            }
            "pod-id" => {
                let names = (
                    variables::AWS_CONTAINER_CREDENTIALS_FULL_URI,
                    variables::AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE,
                );
                let (url, token_file) = self.both_variables("pod-id", names)?;
                S3Credentials::PodId { url, token_file: token_file.into() }
            }
            "process" => match self.entry("s3-process-cmd").as_list() {
                [] => return Err(self.missing("s3-process-cmd")),
                command => S3Credentials::Process { command: command.to_vec() },
            },
            _ => S3Credentials::Shared {
                key: self.need_secret("s3-key")?,
                secret: self.need_secret("s3-key-secret")?,
                token: self.secret("s3-token"),
            },
        })
    }

    fn both_variables(self, kind: &str, (one, two): (&str, &str)) -> Result<(String, String), CliError> {
        match (self.variable(one), self.variable(two)) {
            (Some(one), Some(two)) => Ok((one.to_owned(), two.to_owned())),
            _ => {
                let name = self.name("s3-key-type");
                let message = format!("option '{name}' is '{kind}' but '{one}' and '{two}' are not set");
                Err(CliError::new(ErrorCode::OptionInvalid, message)
                    .hint("the server that runs archive-push needs them in its environment as well."))
            }
        }
    }

    fn customer_key(self) -> Result<Option<Secret>, CliError> {
        let Some(key) = self.secret("s3-sse-customer-key") else { return Ok(None) };
        let decoded = data_encoding::BASE64.decode(key.expose().as_bytes()).map(zeroize::Zeroizing::new);
        if decoded.is_ok_and(|bytes| bytes.len() == CUSTOMER_KEY_LEN) {
            return Ok(Some(key));
        }
        let message = format!("invalid value for '{}' option", self.name("s3-sse-customer-key"));
        Err(CliError::new(ErrorCode::OptionInvalidValue, message)
            .hint(format!("value must be {CUSTOMER_KEY_LEN} bytes in base64.")))
    }

    fn azure(self) -> Result<RepoPlace, CliError> {
        let mut connect = self.connect()?;
        let mut uri_style = self.uri_style("azure-uri-style");
        let endpoint = match self.host()? {
            // With a host the endpoint counts no more, and paths name the account unless the style is set: pgBackRest's way.
            Some(host) => {
                if self.entry("azure-uri-style").source() == Source::Default {
                    uri_style = UriStyle::Path;
                }
                connect.host = None;
                host
            }
            None => {
                let entry = self.entry("azure-endpoint");
                let endpoint = entry.as_secret().map(|secret| secret.as_str()).or_else(|| entry.as_str());
                self.url("azure-endpoint", endpoint.ok_or_else(|| self.missing("azure-endpoint"))?)?
            }
        };
        let options = AzureOptions {
            account: self.need_secret("azure-account")?.expose().to_owned(),
            container: self.need("azure-container")?,
            endpoint: endpoint.to_string(),
            uri_style,
            credentials: self.azure_credentials()?,
        };
        self.cloud(CloudKind::Azure(options), connect)
    }

    fn azure_credentials(self) -> Result<AzureCredentials, CliError> {
        match self.text("azure-key-type").unwrap_or("shared") {
            "auto" => Ok(AzureCredentials::Managed {
                metadata: self.variable(variables::AZURE_METADATA).map(str::to_owned),
            }),
            "sas" => self.need_secret("azure-key").map(AzureCredentials::Sas),
            _ => {
                let key = self.need_secret("azure-key")?;
                if data_encoding::BASE64.decode(key.expose().as_bytes()).map(zeroize::Zeroizing::new).is_ok()
                {
                    return Ok(AzureCredentials::Shared(key));
                }
                let message =
                    format!("invalid value for '{}' option: base64 is not valid", self.name("azure-key"));
                let kind = self.name("azure-key-type");
                Err(CliError::new(ErrorCode::OptionInvalidValue, message)
                    .hint(format!("value must be valid base64 when '{kind} = shared'.")))
            }
        }
    }

    fn gcs(self) -> Result<GcsOptions, CliError> {
        let credentials = match self.text("gcs-key-type").unwrap_or("service") {
            "auto" => GcsCredentials::Instance {
                metadata: self.variable(variables::GCE_METADATA).map(str::to_owned),
            },
            "token" => GcsCredentials::Token(self.need_secret("gcs-key")?),
            _ => GcsCredentials::Service(self.need_secret("gcs-key")?.expose().into()),
        };
        Ok(GcsOptions {
            bucket: self.need("gcs-bucket")?,
            endpoint: self.url("gcs-endpoint", &self.need("gcs-endpoint")?)?.to_string(),
            credentials,
            user_project: self.owned("gcs-user-project"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::parse::settings_of;

    const S3: &str = "repo1-type=s3\nrepo1-path=/a/b\nrepo1-s3-bucket=bucket\nrepo1-s3-endpoint=s3.example.com\n\
                      repo1-s3-region=eu-1\n";
    const S3_KEY: &str = "repo1-s3-key=AKIA\nrepo1-s3-key-secret=hush\n";
    const AZURE: &str =
        "repo1-type=azure\nrepo1-path=/\nrepo1-azure-account=acc\nrepo1-azure-container=box\n";
    const GCS: &str = "repo1-type=gcs\nrepo1-gcs-bucket=bucket\n";

    fn access(config: &[&str], args: &[&str], env: &[(&str, &str)]) -> Result<RepoAccess, CliError> {
        let args: Vec<&str> = ["pgbr", "info"].iter().chain(args).copied().collect();
        let config = format!("[global]\n{}\n", config.join("\n"));
        repo_of(&settings_of(&args, env, &config, Flavor::Pgbr)?, 1)
    }

    fn cloud(config: &[&str], env: &[(&str, &str)]) -> Arc<CloudOptions> {
        match access(config, &[], env).unwrap().place {
            RepoPlace::Cloud(options) => options,
            place => panic!("{place} is no cloud store"),
        }
    }

    fn s3(config: &[&str], env: &[(&str, &str)]) -> (S3Options, CloudConnect) {
        match cloud(&[&[S3], config].concat(), env).as_ref().clone() {
            CloudOptions { kind: CloudKind::S3(s3), connect, .. } => (s3, connect),
            other => panic!("{other:?}"),
        }
    }

    fn azure(config: &[&str], env: &[(&str, &str)]) -> (AzureOptions, CloudConnect) {
        match cloud(&[&[AZURE], config].concat(), env).as_ref().clone() {
            CloudOptions { kind: CloudKind::Azure(azure), connect, .. } => (azure, connect),
            other => panic!("{other:?}"),
        }
    }

    fn gcs(config: &[&str], env: &[(&str, &str)]) -> GcsOptions {
        match cloud(&[&[GCS], config].concat(), env).as_ref().clone() {
            CloudOptions { kind: CloudKind::Gcs(gcs), .. } => gcs,
            other => panic!("{other:?}"),
        }
    }

    fn refused(config: &[&str], args: &[&str]) -> (u8, String) {
        let error = access(config, args, &[]).expect_err("it must be refused");
        (error.code.number(), error.text())
    }

    #[test]
    fn directories() {
        for kind in ["posix", "cifs"] {
            let config = format!("repo1-type={kind}\nrepo1-path=/r");
            let place = access(&[&config], &[], &[]).unwrap().place;
            assert!(matches!(place, RepoPlace::Directory(path) if path == Path::new("/r")));
            let (code, text) =
                refused(&[&config], &["--repo=1", "--repo-target-time=2026-11-22 10:00:00+00"]);
            assert_eq!(code, 31);
            assert!(text.starts_with("option 'repo-target-time' is not valid for repo1\nHINT: a directory"));
        }
    }

    #[test]
    fn an_s3_bucket_with_its_defaults() {
        let options = cloud(&[S3, S3_KEY], &[]);
        assert_eq!((options.prefix.as_str(), options.as_of, options.tags.len()), ("a/b", None, 0));
        let (s3, connect) = s3(&[S3_KEY], &[]);
        assert_eq!((s3.bucket.as_str(), s3.region.as_str()), ("bucket", "eu-1"));
        assert_eq!((s3.endpoint.as_str(), s3.uri_style), ("https://s3.example.com", UriStyle::Host));
        assert!(s3.kms_key_id.is_none() && s3.sse_customer_key.is_none() && !s3.requester_pays);
        let S3Credentials::Shared { key, secret, token } = s3.credentials else { panic!("not a key") };
        assert_eq!((key.expose(), secret.expose(), token), ("AKIA", "hush", None));
        let expected = CloudConnect { io_timeout: Duration::from_secs(60), ..CloudConnect::default() };
        assert_eq!(connect, expected);
    }

    #[test]
    fn all_that_an_s3_bucket_can_be_told() {
        let key = data_encoding::BASE64.encode(&[7; CUSTOMER_KEY_LEN]);
        let customer = format!("repo1-s3-sse-customer-key={key}");
        let config = [
            S3_KEY,
            "repo1-s3-token=tok\nrepo1-s3-uri-style=path\nrepo1-s3-kms-key-id=kms\nrepo1-s3-requester-pays=y",
            &customer,
            "repo1-storage-host=http://127.0.0.1:9000\nrepo1-storage-ca-file=/ca.pem\nrepo1-storage-ca-path=/ca",
            "repo1-storage-verify-tls=n\nrepo1-storage-tag=a=1\nrepo1-storage-tag=b=2\nio-timeout=5s",
        ];
        let options = cloud(&[&[S3], &config[..]].concat(), &[]);
        assert_eq!(options.tags, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let (s3_options, connect) = s3(&config, &[]);
        assert_eq!(
            (s3_options.endpoint.as_str(), s3_options.uri_style),
            ("http://s3.example.com", UriStyle::Path)
        );
        assert_eq!((s3_options.kms_key_id.as_deref(), s3_options.requester_pays), (Some("kms"), true));
        assert_eq!(s3_options.sse_customer_key.as_ref().map(Secret::expose), Some(key.as_str()));
        let expected = CloudConnect {
            host: Some("http://127.0.0.1:9000".to_owned()),
            port: Some(9000),
            ca_file: Some("/ca.pem".into()),
            ca_path: Some("/ca".into()),
            verify_tls: false,
            io_timeout: Duration::from_secs(5),
            retry: Duration::from_secs(10),
        };
        assert_eq!(connect, expected);
        // A port counts with and without a host.
        assert_eq!(s3(&[S3_KEY, "repo1-storage-port=9001"], &[]).1.port, Some(9001));
        let both = s3(&[S3_KEY, "repo1-storage-port=9001\nrepo1-storage-host=h:1"], &[]).1;
        assert_eq!((both.host.as_deref(), both.port), (Some("https://h:1"), Some(9001)));
        // No secret is shown.
        let shown = format!("{options:?}");
        assert!(!["AKIA", "hush", "tok\"", &key].iter().any(|secret| shown.contains(secret)), "{shown}");
    }

    #[test]
    fn credentials_for_s3() {
        let of = |config: &str, env: &[(&str, &str)]| s3(&[config], env).0.credentials;
        let auto = of(
            "repo1-s3-key-type=auto\nrepo1-s3-role=r",
            &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://m")],
        );
        assert!(
            matches!(auto, S3Credentials::Instance { role: Some(r), metadata: Some(m) } if r == "r" && m == "http://m")
        );
        let auto = of("repo1-s3-key-type=auto", &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")]);
        assert!(matches!(auto, S3Credentials::Instance { role: None, metadata: None }));
        let env = [("AWS_ROLE_ARN", "arn"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")];
        let web = of("repo1-s3-key-type=web-id", &env);
        assert!(matches!(web, S3Credentials::WebId { role, token_file, sts }
            if role == "arn" && token_file == Path::new("/t") && sts == "sts.amazonaws.com"));
        let env = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://c"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t"),
        ];
        let pod = of("repo1-s3-key-type=pod-id", &env);
        assert!(
            matches!(pod, S3Credentials::PodId { url, token_file } if url == "http://c" && token_file == Path::new("/t"))
        );
        let process =
            of("repo1-s3-key-type=process\nrepo1-s3-process-cmd=/bin/x\nrepo1-s3-process-cmd=a b", &[]);
        assert!(matches!(process, S3Credentials::Process { command } if command == ["/bin/x", "a b"]));

        let (code, text) = refused(&[S3, "repo1-s3-key-type=web-id"], &[]);
        assert_eq!(code, 31);
        assert!(text.starts_with(
            "option 'repo1-s3-key-type' is 'web-id' but 'AWS_ROLE_ARN' and 'AWS_WEB_IDENTITY_TOKEN_FILE' are not set"
        ));
        assert_eq!(refused(&[S3, "repo1-s3-key-type=pod-id"], &[]).0, 31);
    }

    #[test]
    fn azure_containers() {
        let shared = "repo1-azure-key=aHVzaA==";
        let (options, connect) = azure(&[shared], &[]);
        assert_eq!((options.account.as_str(), options.container.as_str()), ("acc", "box"));
        assert_eq!(
            (options.endpoint.as_str(), options.uri_style),
            ("https://blob.core.windows.net", UriStyle::Host)
        );
        assert!(matches!(options.credentials, AzureCredentials::Shared(key) if key.expose() == "aHVzaA=="));
        assert_eq!((connect.host, connect.port), (None, None));
        // A host takes the endpoint's place.
        let (options, connect) = azure(&[shared, "repo1-storage-host=http://127.0.0.1:10000"], &[]);
        assert_eq!(
            (options.endpoint.as_str(), options.uri_style),
            ("http://127.0.0.1:10000", UriStyle::Path)
        );
        assert_eq!(connect.host, None);
        let host = "repo1-storage-host=h\nrepo1-azure-uri-style=host";
        assert_eq!(azure(&[shared, host], &[]).0.uri_style, UriStyle::Host);
        let sas = azure(&["repo1-azure-key-type=sas\nrepo1-azure-key=?sv=1&sig=x"], &[]).0.credentials;
        assert!(matches!(sas, AzureCredentials::Sas(_)));
        let auto =
            azure(&["repo1-azure-key-type=auto"], &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://m")]);
        assert!(
            matches!(auto.0.credentials, AzureCredentials::Managed { metadata: Some(m) } if m == "http://m")
        );

        let (code, text) = refused(&[AZURE, "repo1-azure-key=not base64"], &[]);
        assert_eq!(code, 32);
        assert!(
            text.contains("invalid value for 'repo1-azure-key' option") && !text.contains("not base64"),
            "{text}"
        );
        assert_eq!(refused(&[AZURE], &[]), (37, "info command requires option: repo1-azure-key".to_owned()));
        let (code, text) = refused(&[AZURE, shared, "repo1-azure-endpoint=ftp://hidden"], &[]);
        assert_eq!(code, 29);
        assert!(
            text.starts_with("invalid URL for 'repo1-azure-endpoint' option") && !text.contains("hidden")
        );
    }

    #[test]
    fn google_buckets() {
        let options = gcs(&["repo1-gcs-key=/key.json\nrepo1-gcs-user-project=p"], &[]);
        assert!(
            matches!(options.credentials, GcsCredentials::Service(path) if path == Path::new("/key.json"))
        );
        assert_eq!(options.endpoint, "https://storage.googleapis.com");
        assert_eq!((options.bucket.as_str(), options.user_project.as_deref()), ("bucket", Some("p")));
        let token = gcs(&["repo1-gcs-key-type=token\nrepo1-gcs-key=tok"], &[]).credentials;
        assert!(matches!(token, GcsCredentials::Token(token) if token.expose() == "tok"));
        let auto = gcs(&["repo1-gcs-key-type=auto"], &[("GCE_METADATA_HOST", "127.0.0.1:1")]).credentials;
        assert!(matches!(auto, GcsCredentials::Instance { metadata: Some(m) } if m == "127.0.0.1:1"));
        let endpoint = "repo1-gcs-key=/k\nrepo1-gcs-endpoint=http://127.0.0.1:4443";
        assert_eq!(gcs(&[endpoint], &[]).endpoint, "http://127.0.0.1:4443");
    }

    #[test]
    fn a_moment_to_read_as_of() {
        let as_of = |time: &str, tz: &str| {
            let time = format!("--repo-target-time={time}");
            let place = access(&[S3, S3_KEY], &["--repo=1", &time], &[("TZ", tz)]).map(|access| access.place);
            match place {
                Ok(RepoPlace::Cloud(options)) => Ok(options.as_of),
                Ok(place) => panic!("{place}"),
                Err(error) => Err((error.code.number(), error.message)),
            }
        };
        for (time, tz) in [
            ("2026-11-22 13:27:32+00", "UTC0"),
            ("2026-11-22 14:27:32.5+01:00", "UTC0"),
            ("2026-11-22 16:27:32", "<+03>-3"),
        ] {
            assert_eq!(as_of(time, tz), Ok(Some(1_795_354_052)), "{time} {tz}");
        }
        for time in ["yesterday", "2026-13-01 00:00:00", "2026-11-22 13:27:32+00x"] {
            assert_eq!(as_of(time, "UTC0"), Err((29, format!("invalid date/time {time}"))));
        }
    }

    #[test]
    fn what_no_store_can_be_told() {
        let (code, text) = refused(&[S3, S3_KEY, "repo1-s3-service=s3-outposts"], &[]);
        assert_eq!(
            (code, text.as_str()),
            (67, "option 'repo1-s3-service' with value 's3-outposts' is not supported")
        );
        let (code, text) = refused(&[S3, S3_KEY, "repo1-s3-sse-customer-key=c2hvcnQ="], &[]);
        assert_eq!(code, 32);
        assert!(text.contains("32 bytes in base64") && !text.contains("c2hvcnQ"), "{text}");
    }
}

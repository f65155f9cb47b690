//! Environment variables of other programs that count here: where hosts in a cloud say how to get credentials.
//!
//! Their names are those that the clouds' own tools read. Nothing else of the environment is kept.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// The role that a web identity token stands for.
pub(crate) const AWS_ROLE_ARN: &str = "AWS_ROLE_ARN";
/// The file that holds the web identity token.
pub(crate) const AWS_WEB_IDENTITY_TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
/// The address that gives a pod its credentials.
pub(crate) const AWS_CONTAINER_CREDENTIALS_FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
/// The file that holds the token a pod asks with.
pub(crate) const AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
/// Where the metadata service of Amazon's machines is, if not at its usual address.
pub(crate) const AWS_METADATA: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
/// Where the metadata service of Google's machines is: a host, with a port if need be.
pub(crate) const GCE_METADATA: &str = "GCE_METADATA_HOST";
/// Where the identity service of Azure's machines is.
pub(crate) const AZURE_METADATA: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
/// The local time zone.
pub(crate) const TZ: &str = "TZ";

const KNOWN: [&str; 8] = [
    AWS_ROLE_ARN,
    AWS_WEB_IDENTITY_TOKEN_FILE,
    AWS_CONTAINER_CREDENTIALS_FULL_URI,
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE,
    AWS_METADATA,
    GCE_METADATA,
    AZURE_METADATA,
    TZ,
];

/// The variables that were set to something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variables(BTreeMap<&'static str, OsString>);

impl Variables {
    pub(crate) fn from_env(env: &[(OsString, OsString)]) -> Self {
        let of = |name: &&'static str| {
            let (_, value) = env.iter().find(|(known, value)| known == name && !value.is_empty())?;
            Some((*name, value.clone()))
        };
        Self(KNOWN.iter().filter_map(of).collect())
    }

    /// A variable's value; one that is not UTF-8 counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str()
    }
}

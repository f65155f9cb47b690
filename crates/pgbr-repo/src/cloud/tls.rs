//! What is trusted of a server that is spoken to by TLS: rustls with ring, given explicitly, so that no provider is set for the process.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::CloudConnect;

/// The configuration of all connections to a store. Only with `needed` is it an error that there is nothing to trust.
pub(super) fn config(connect: &CloudConnect, needed: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    if !connect.verify_tls {
        let verifier = Arc::new(AnyCertificate(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let roots = if needed || connect.ca_file.is_some() || connect.ca_path.is_some() {
        roots(connect)?
    } else {
        RootCertStore::empty()
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates to trust: those of the file and the directory, or else the system's.
fn roots(connect: &CloudConnect) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if connect.ca_file.is_none() && connect.ca_path.is_none() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return match roots.is_empty() {
            true => Err("this host has no certificates of authorities to trust".to_owned()),
            false => Ok(roots),
        };
    }
    for (file, directory) in [(connect.ca_file.as_deref(), None), (None, connect.ca_path.as_deref())] {
        let Some(path) = file.or(directory) else { continue };
        add(&mut roots, path, file, directory)?;
    }
    Ok(roots)
}

fn add(
    roots: &mut RootCertStore,
    path: &Path,
    file: Option<&Path>,
    directory: Option<&Path>,
) -> Result<(), String> {
    let loaded = rustls_native_certs::load_certs_from_paths(file, directory);
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    match (added, loaded.errors.first()) {
        (0, Some(error)) => Err(format!("unable to read certificates from '{}': {error}", path.display())),
        (0, None) => Err(format!("there is no certificate in '{}'", path.display())),
        _ => Ok(()),
    }
}

/// Takes any certificate, and still asks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

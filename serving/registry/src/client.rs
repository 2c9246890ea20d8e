//! The HTTP client of fetches: the proxies of HTTPS_PROXY, HTTP_PROXY and NO_PROXY, the system's certificates
//! (SSL_CERT_FILE and SSL_CERT_DIR choose others), and those of a bundle in addition.
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, redirect};

use crate::failure::FetchFailed;

const CONNECT: Duration = Duration::from_secs(10);
/// No bundle of certificates is larger.
const LARGEST_BUNDLE: u64 = 8 << 20;

/// rustls needs to know its cryptography once in a process; later calls change nothing.
pub fn install_cryptography() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("the process already has a provider of cryptography");
    }
}

/// A client that follows no redirects by itself; `install_cryptography` must have been called.
pub fn client(stall: Duration, bundle: Option<&Path>) -> Result<Client, FetchFailed> {
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT.min(stall))
        .user_agent(concat!("windlass-registry/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = bundle {
        builder = builder.tls_certs_merge(certificates(path)?);
    }
    builder.build().map_err(FetchFailed::Client)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, FetchFailed> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_BUNDLE).read_to_end(&mut pem))
        .map_err(|source| FetchFailed::io("reading the CA bundle", path, source))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(FetchFailed::InvalidBundle { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_certificate_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for text in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let message = client(CONNECT, Some(&path)).unwrap_err().to_string();
            assert!(message.contains("ca.pem"), "{message}");
        }
        assert!(matches!(
            client(CONNECT, Some(&folder.path().join("absent"))),
            Err(FetchFailed::Io { .. })
        ));
    }
}

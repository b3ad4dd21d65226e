//! TLS with rustls. The certificate and its key are read once, before the sandbox closes; a new one needs a new start.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use crate::ServeError;

/// The certificate of a server, and its key.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

/// Keys are not printed.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates in a PEM file; the reason why there are none.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("found no certificate, expected PEM: -----BEGIN CERTIFICATE-----".to_owned()),
        Err(error) => Err(format!("expected certificates in PEM: {error}")),
    }
}

impl Tls {
    /// Reads PEM files: the server's certificate, followed by those of the authorities that signed it, if any; and its private key.
    ///
    /// # Errors
    /// A file cannot be read or is no PEM, or the key is not that of the certificate.
    pub fn read(chain: &Path, key: &Path) -> Result<Tls, ServeError> {
        let fail = |path: &Path, reason: String| ServeError::Tls { path: path.to_owned(), reason };
        let certificates = certificates(chain).map_err(|reason| fail(chain, reason))?;
        let bytes = std::fs::read(key).map_err(|error| fail(key, error.to_string()))?;
        let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => fail(
                key,
                "found no private key, expected PEM without a password: -----BEGIN PRIVATE KEY-----".to_owned(),
            ),
            error => fail(key, format!("expected a private key in PEM: {error}")),
        })?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| fail(chain, error.to_string()))?.with_no_client_auth();
        let config = builder.with_single_cert(certificates, private);
        let mut config = config.map_err(|error| {
            fail(key, format!("expected the key of the first certificate in {}: {error}", chain.display()))
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.0).into()
    }
}

/// A connection to a server, made by [`connect`].
pub type TlsStream<S> = StreamOwned<ClientConnection, S>;

/// Speaks TLS over a connection to `host`, whose certificate must be signed by one in the PEM file `authorities`, or be one.
///
/// # Errors
/// The file has no certificate, or `host` is no name. The handshake itself takes place with the first bytes.
pub fn connect<S: Read + Write>(stream: S, host: &str, authorities: &Path) -> io::Result<TlsStream<S>> {
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let mut roots = RootCertStore::empty();
    for certificate in
        certificates(authorities).map_err(|reason| wrong(format!("{}: {reason}", authorities.display())))?
    {
        roots.add(certificate).map_err(|error| wrong(format!("{}: {error}", authorities.display())))?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| wrong(format!("{host}: {error}")))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(connection, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificate_or_key_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let [ours, other] = [1, 2].map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let (certificate, key) = (file("cert", &ours.cert.pem()), file("key", &ours.signing_key.serialize_pem()));
        let (wrong, empty) = (file("other", &other.signing_key.serialize_pem()), file("empty", "# nothing\n"));
        let damaged = file("damaged", &ours.cert.pem().replace("MII", "!!!"));
        assert!(Tls::read(&certificate, &key).is_ok());
        for (chain, key, part) in [
            (&empty, &key, "empty: found no certificate"),
            (&key, &key, "key: found no certificate"),
            (&damaged, &key, "damaged: expected certificates in PEM"),
            (&certificate, &empty, "empty: found no private key"),
            (&certificate, &certificate, "cert: found no private key"),
            (&certificate, &wrong, "other: expected the key of the first certificate in"),
            (&certificate, &folder.path().join("none"), "none: "),
        ] {
            let error = Tls::read(chain, key).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

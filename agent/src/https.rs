//! A client over TLS that believes one CA, perhaps with a certificate of its own: of etcd's gateway and of Kubernetes' API.
//! Files are read anew for each client, so that renewed ones count. Whoever renews them replaces one after the other: a new
//! certificate with an old key is an error here, and a panic in ureq.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fs;
use std::time::Duration;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// A client. `ca`, and the certificate and key of `pair`, are paths of PEM files; a request takes `bound` at most.
pub(crate) fn client(ca: &str, pair: Option<(&str, &str)>, bound: Duration) -> Result<ureq::Agent, String> {
    let read = |path: &str| fs::read(path).map_err(|e| format!("{path}: {e}"));
    let certificate = |path: &str| -> Result<Vec<Certificate<'static>>, String> {
        Ok(vec![Certificate::from_pem(&read(path)?).map_err(|e| format!("{path}: {e}"))?.to_owned()])
    };
    let own = |(cert, key): (&str, &str)| -> Result<ClientCert, String> {
        let chain = certificate(cert)?;
        let private = PrivateKey::from_pem(&read(key)?).map_err(|e| format!("{key}: {e}"))?;
        are_a_pair(&chain, &private).map_err(|e| format!("{cert} and {key}: {e}"))?;
        Ok(ClientCert::new_with_certs(&chain, private))
    };
    let tls = TlsConfig::builder()
        .client_cert(pair.map(own).transpose()?)
        .root_certs(RootCerts::new_with_certs(&certificate(ca)?))
        .unversioned_rustls_crypto_provider(crate::pki::provider())
        .build();
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(bound))
        .http_status_as_error(false)
        .tls_config(tls)
        .proxy(None)
        .build();
    let connector = ureq::unversioned::transport::DefaultConnector::default();
    Ok(ureq::Agent::with_parts(config, connector, crate::net::dns::Resolver))
}

/// An error where the key is another's.
fn are_a_pair(chain: &[Certificate<'_>], key: &PrivateKey<'_>) -> Result<(), String> {
    let chain = chain.iter().map(|c| CertificateDer::from(c.der()).into_owned()).collect();
    let key = PrivateKeyDer::try_from(key.der())?.clone_key();
    CertifiedKey::from_der(chain, key, &crate::pki::provider()).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_certificate_with_an_old_key_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (cert, key) = (path("client.crt"), path("client.key"));
        let make = || {
            let key = rcgen::KeyPair::generate().expect("a key");
            let cert = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
            (cert.pem(), key.serialize_pem())
        };
        let client = || {
            let client = client(&cert, Some((&cert, &key)), Duration::from_secs(1))?;
            // Nobody is there; but by then ureq has made its TLS configuration.
            let _ = client.get("https://127.0.0.1:1/").call();
            Ok::<_, String>(())
        };
        let (old, new) = (make(), make());
        for (pair, is_one) in [((&old.0, &old.1), true), ((&new.0, &old.1), false), ((&new.0, &new.1), true)] {
            fs::write(&cert, pair.0).expect("written");
            fs::write(&key, pair.1).expect("written");
            match client() {
                Ok(()) => assert!(is_one),
                Err(e) => assert!(!is_one && e.contains("client.key: ") && e.contains("KeyMismatch"), "{e}"),
            }
        }
    }
}

//! A client over TLS that believes one CA, perhaps with a certificate of its own: of etcd's gateway and of Kubernetes' API.
//! Files are read anew for each client, so that renewed ones count.

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
        let key = PrivateKey::from_pem(&read(key)?).map_err(|e| format!("{key}: {e}"))?;
        Ok(ClientCert::new_with_certs(&certificate(cert)?, key))
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

//! How probes speak TLS: with one CA that they believe, and a certificate of their own where one is asked for.

use anyhow::Result;
use std::sync::Arc;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// PEM of a client: certificate and key.
pub type Pair<'a> = (&'a str, &'a str);

/// An HTTP client's settings.
pub fn agent(ca: &str, pair: Option<Pair<'_>>) -> Result<ConfigBuilder<AgentScope>> {
    let own = pair
        .map(|(cert, key)| -> Result<ClientCert> {
            let chain = [Certificate::from_pem(cert.as_bytes())?.to_owned()];
            Ok(ClientCert::new_with_certs(&chain, PrivateKey::from_pem(key.as_bytes())?))
        })
        .transpose()?;
    let tls = TlsConfig::builder()
        .client_cert(own)
        .root_certs(RootCerts::new_with_certs(&[Certificate::from_pem(ca.as_bytes())?.to_owned()]))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(ureq::Agent::config_builder().http_status_as_error(false).proxy(None).tls_config(tls))
}

//! A CA and one leaf for everything on the loopback address: for programs that run on this machine as a peer.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::path::Path;

/// PEM.
#[derive(Debug)]
pub struct HostPki {
    /// The CA's certificate.
    pub ca: String,
    /// The leaf's certificate.
    pub cert: String,
    /// The leaf's key.
    pub key: String,
}

impl HostPki {
    /// Makes both and writes `ca.crt`, `leaf.crt` and `leaf.key`.
    pub fn make(dir: &Path) -> Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of another name than the leaf: OpenSSL takes a certificate whose issuer has its own name for a self-signed one.
        ca.distinguished_name.push(DnType::CommonName, "this machine's CA");
        let ca_cert = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::from_params(&ca, &ca_key);
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let pki = Self { ca: ca_cert, cert: leaf.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() };
        for (name, text) in [("ca.crt", &pki.ca), ("leaf.crt", &pki.cert), ("leaf.key", &pki.key)] {
            std::fs::write(dir.join(name), text)?;
        }
        Ok(pki)
    }
}

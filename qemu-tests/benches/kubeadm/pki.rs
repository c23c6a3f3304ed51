//! The peer's CAs, which kubeadm takes where it finds them, and a client of each: so whoever measures is let in at once.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A CA and a client of it, PEM.
#[derive(Debug)]
pub(crate) struct Authority {
    /// The CA's certificate.
    pub(crate) cert: String,
    /// The CA's key.
    pub(crate) key: String,
    /// The client's certificate and key.
    pub(crate) client: (String, String),
}

impl Authority {
    /// With a client of this organization.
    pub(crate) fn make(name: &str, organization: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, name);
        ca.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let cert = ca.self_signed(&key)?.pem();
        let issuer = Issuer::from_params(&ca, &key);
        let client_key = KeyPair::generate()?;
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, "measures");
        client.distinguished_name.push(DnType::OrganizationName, organization);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client = (client.signed_by(&client_key, &issuer)?.pem(), client_key.serialize_pem());
        Ok(Self { cert, key: key.serialize_pem(), client })
    }
}

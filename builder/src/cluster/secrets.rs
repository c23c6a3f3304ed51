//! What is made once and never overwritten: the cluster's id and its CAs (`<name>.secrets/`, 0700, files 0600).

use crate::store::write_whole_mode;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// CAs live ten years and are back-dated by a day: a node whose clock is behind must already trust them.
const CA_LIFE: Duration = Duration::days(3652);
const BACKDATED: Duration = Duration::days(1);
/// The admin's certificate.
const ADMIN_LIFE: Duration = Duration::days(365);

/// The CAs: file and common name. etcd has three: a stolen client cannot pose as a server, a stolen server not as a member.
const AUTHORITIES: [(&str, &str); 5] = [
    ("cluster-ca", "kubernetes"),
    ("front-proxy-ca", "front-proxy-ca"),
    ("etcd-peer-ca", "etcd-peer-ca"),
    ("etcd-server-ca", "etcd-server-ca"),
    ("etcd-client-ca", "etcd-client-ca"),
];
/// Signs service-account tokens.
const SERVICE_ACCOUNT: &str = "service-account.key";

/// The secrets of a cluster.
#[derive(Debug)]
pub(crate) struct Secrets {
    /// 16 hex digits.
    pub(crate) id: String,
    dir: PathBuf,
}

/// A CA: PEM certificate and key.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Secrets {
    /// Reads them, and makes what is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        if !dir.exists() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(dir)
                .with_context(|| format!("making {}", dir.display()))?;
        }
        let id_path = dir.join("id");
        if !id_path.exists() {
            let random = KeyPair::generate().context("making the cluster's id")?;
            let digest = crate::digest::sha256(random.serialize_der().as_slice());
            keep(&id_path, &format!("{}\n", &digest[..16]))?;
        }
        for (file, cn) in AUTHORITIES {
            let (cert, key) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
            // The key is written first: a certificate without its key can only mean that somebody removed the key.
            if !cert.exists() && !key.exists() {
                let made = authority(cn)?;
                keep(&key, &made.key)?;
                keep(&cert, &made.cert)?;
            }
        }
        let service_account = dir.join(SERVICE_ACCOUNT);
        if !service_account.exists() {
            let key = KeyPair::generate().context("making the service-account key")?;
            keep(&service_account, &key.serialize_pem())?;
        }
        let id = read(&id_path)?.trim().to_owned();
        Ok(Self { id, dir: dir.into() })
    }

    /// One of the CAs.
    pub(crate) fn authority(&self, name: &str) -> Result<Authority> {
        let path = |ending: &str| self.dir.join(format!("{name}.{ending}"));
        Ok(Authority { cert: read(&path("crt"))?, key: read(&path("key"))? })
    }

    /// The key that signs service-account tokens, PEM.
    pub(crate) fn service_account(&self) -> Result<String> {
        read(&self.dir.join(SERVICE_ACCOUNT))
    }

    /// A client certificate for the operator, of the etcd client CA: PEM certificate and key.
    pub(crate) fn etcd_admin(&self) -> Result<Authority> {
        let ca = self.authority("etcd-client-ca")?;
        let issuer_key = KeyPair::from_pem(&ca.key).context("reading etcd-client-ca.key")?;
        let issuer = Issuer::from_ca_cert_pem(&ca.cert, issuer_key).context("reading etcd-client-ca.crt")?;
        let key = KeyPair::generate()?;
        let mut params = params("etcd-admin", ADMIN_LIFE);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &issuer)?;
        Ok(Authority { cert: cert.pem(), key: key.serialize_pem() })
    }

    /// Where they lie.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading the secret {}", path.display()))
}

/// Writes a secret that is not there yet.
pub(crate) fn keep(path: &Path, text: &str) -> Result<()> {
    write_whole_mode(path, text.as_bytes(), 0o600)
}

#[expect(clippy::disallowed_methods, reason = "a certificate begins now")]
fn params(cn: &str, life: Duration) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, cn);
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    params
}

fn authority(cn: &str) -> Result<Authority> {
    let key = KeyPair::generate().context("making a CA's key")?;
    let mut params = params(cn, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Authority { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn are_made_once_and_kept_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("demo.secrets");
        let first = Secrets::open(&path).expect("made");
        let ca = first.authority("etcd-peer-ca").expect("there");
        let again = Secrets::open(&path).expect("read");
        assert_eq!(first.id, again.id);
        assert_eq!(first.id.len(), 16);
        assert_eq!(again.authority("etcd-peer-ca").expect("there").key, ca.key);
        let mode = |p: &Path| std::fs::metadata(p).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for entry in std::fs::read_dir(&path).expect("listed").flatten() {
            assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        }
        assert!(first.etcd_admin().expect("issued").cert.contains("BEGIN CERTIFICATE"));
    }
}

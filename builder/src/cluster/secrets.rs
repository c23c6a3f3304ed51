//! What is made once and never overwritten: the cluster's id, its CAs, keys and tokens (`<name>.secrets/`, 0700, files 0600), and
//! what is signed with them for the operator.

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

/// Encrypts Kubernetes' secrets at rest: 64 hex digits.
const ENCRYPTION: &str = "encryption-key";

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
            keep(&id_path, &format!("{}\n", &random()?[..16]))?;
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
        let encryption = dir.join(ENCRYPTION);
        if !encryption.exists() {
            keep(&encryption, &format!("{}\n", random()?))?;
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

    /// The key that Kubernetes' secrets are encrypted with at rest: 32 bytes, base64.
    pub(crate) fn encryption_key(&self) -> Result<String> {
        use base64::Engine;
        let hex = read(&self.dir.join(ENCRYPTION))?;
        let bytes: Vec<u8> = hex
            .trim()
            .as_bytes()
            .chunks(2)
            .filter_map(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok())
            .collect();
        anyhow::ensure!(bytes.len() == 32, "{}: expected 64 hex digits", self.dir.join(ENCRYPTION).display());
        Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    /// The token that a worker asks for its first certificate with, made when it is first asked for: `id.secret`. The id
    /// follows from the node's name, so that no two nodes have the same.
    pub(crate) fn bootstrap_token(&self, node: &str) -> Result<String> {
        let path = self.dir.join("tokens").join(node);
        if !path.exists() {
            let id = crate::digest::sha256(format!("{}/{node}", self.id).as_bytes());
            keep(&path, &format!("{}.{}\n", &id[..6], &random()?[..16]))?;
        }
        Ok(read(&path)?.trim().to_owned())
    }

    /// A client certificate for the operator, of the etcd client CA: PEM certificate and key.
    pub(crate) fn etcd_admin(&self) -> Result<Authority> {
        self.client("etcd-client-ca", "etcd-admin", None)
    }

    /// A client certificate for the operator, of the cluster CA, as kubeadm's `admin.conf` has it.
    pub(crate) fn kubernetes_admin(&self) -> Result<Authority> {
        self.client("cluster-ca", "kubernetes-admin", Some("kubeadm:cluster-admins"))
    }

    fn client(&self, ca: &str, cn: &str, group: Option<&str>) -> Result<Authority> {
        let authority = self.authority(ca)?;
        let issuer_key = KeyPair::from_pem(&authority.key).with_context(|| format!("reading {ca}.key"))?;
        let issuer =
            Issuer::from_ca_cert_pem(&authority.cert, issuer_key).with_context(|| format!("reading {ca}.crt"))?;
        let key = KeyPair::generate()?;
        let mut params = params(cn, ADMIN_LIFE);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
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

/// 64 hex digits that nobody can guess: the digest of a private key that is made for this and thrown away.
fn random() -> Result<String> {
    let key = KeyPair::generate().context("making something random")?;
    Ok(crate::digest::sha256(key.serialize_der().as_slice()))
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

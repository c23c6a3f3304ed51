//! Leaf certificates: made on the node, on tmpfs, by the CAs of its own domain. No leaf ever travels in metadata.
//!
//! Contents as kubeadm's (which of them a node has stands in `leaves.rs`), with three CAs for etcd instead of one (peer,
//! server, client). ECDSA P-256.

pub(crate) mod files;
pub(crate) mod leaves;

use contract::node::{Ca, NodeConfig, Pki};
use contract::{paths, users};
use leaves::{Leaf, leaves};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use sha2::Digest;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

/// A year.
const LEAF_MINUTES: u64 = 365 * 24 * 60;
/// Clocks of nodes differ; at most as long as it is used.
const BACKDATED_MINUTES: u64 = 60;

/// The only provider of cryptography.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A made leaf: PEM.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Makes a leaf and its key.
pub(crate) fn issue(leaf: &Leaf, ca: &Ca, life_minutes: u64, now: u64) -> Result<Made, String> {
    let key = KeyPair::generate().map_err(|e| format!("{} of {}: making a key: {e}", leaf.file, leaf.ca))?;
    Ok(Made { cert: issue_for(leaf, &key, ca, life_minutes, now)?, key: key.serialize_pem() })
}

/// Makes the certificate of a leaf whose key another has: PEM. `now` is in seconds since the epoch.
pub(crate) fn issue_for(
    leaf: &Leaf,
    key: &impl PublicKeyData,
    ca: &Ca,
    life_minutes: u64,
    now: u64,
) -> Result<String, String> {
    let bad = |what: &str, e: &dyn std::fmt::Display| format!("{} of {}: {what}: {e}", leaf.file, leaf.ca);
    let ca_key = ca.key.as_deref().ok_or_else(|| bad("its key", &"is missing"))?;
    let ca_key = KeyPair::from_pem(ca_key).map_err(|e| bad("its key", &e))?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, ca_key).map_err(|e| bad("its certificate", &e))?;
    let mut p = CertificateParams::default();
    if let Some(group) = leaf.group {
        p.distinguished_name.push(DnType::OrganizationName, group);
    }
    p.distinguished_name.push(DnType::CommonName, &leaf.cn);
    let begin = i64::try_from(now)
        .ok()
        .and_then(|n| OffsetDateTime::from_unix_timestamp(n).ok())
        .ok_or_else(|| bad("the clock", &now))?;
    let minutes = |m: u64| Duration::minutes(i64::try_from(m).unwrap_or(i64::MAX / 60));
    p.not_before = begin - minutes(BACKDATED_MINUTES.min(life_minutes * 2 / 3));
    p.not_after = begin + minutes(life_minutes);
    // kubeadm's: a positive 63-bit number. A key's digest is as random as can be; the time, for a key that is certified again.
    let digest = sha2::Sha256::new().chain_update(key.der_bytes()).chain_update(now.to_be_bytes()).finalize();
    let mut serial = digest[..8].to_vec();
    serial[0] &= 0x7f;
    p.serial_number = Some(SerialNumber::from_slice(&serial));
    p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    p.use_authority_key_identifier_extension = true;
    if leaf.server {
        p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if leaf.client {
        p.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    for name in &leaf.dns {
        p.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(|e| bad(name, &e))?));
    }
    p.subject_alt_names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    let cert = p.signed_by(key, &issuer).map_err(|e| bad("signing", &e))?;
    Ok(cert.pem())
}

/// The life of a node's leaves, minutes.
pub(crate) fn life(config: &NodeConfig) -> u64 {
    config.pki.leaf_minutes.unwrap_or(LEAF_MINUTES)
}

/// Makes all leaves and puts them, with the CAs that verify others, where their readers look.
pub(crate) fn write_all(config: &NodeConfig, now: u64) -> Result<(), String> {
    let p = &config.pki;
    for leaf in leaves(config) {
        let ca = authority(p, leaf.ca).ok_or_else(|| format!("quorate.pki.{} is missing", leaf.ca))?;
        let made = issue(&leaf, ca, life(config), now)?;
        // The key first: a reader between the two writes sees a pair that does not match and tries again, which is
        // what etcd does at its next handshake.
        put(&format!("{}.key", leaf.file), &made.key, 0o600, leaf.owner)?;
        put(&format!("{}.crt", leaf.file), &made.cert, 0o644, leaf.owner)?;
    }
    for file in files::files(config)? {
        put(&file.name, &file.content, file.mode, file.owner)?;
    }
    if let (Some(peer), Some(server), Some(client)) = (&p.etcd_peer_ca, &p.etcd_server_ca, &p.etcd_client_ca) {
        put("etcd/peer-ca.crt", &peer.cert, 0o644, users::ROOT)?;
        put("etcd/server-ca.crt", &server.cert, 0o644, users::ROOT)?;
        // A member's own agent is a client with a certificate that the member issued itself.
        put("etcd/client-trust.crt", &format!("{}{}", ended(&client.cert), server.cert), 0o644, users::ROOT)?;
    }
    Ok(())
}

fn authority<'a>(p: &'a Pki, name: &str) -> Option<&'a Ca> {
    match name {
        leaves::PEER_CA => p.etcd_peer_ca.as_ref(),
        leaves::SERVER_CA => p.etcd_server_ca.as_ref(),
        leaves::CLIENT_CA => p.etcd_client_ca.as_ref(),
        leaves::CLUSTER_CA => p.cluster_ca.as_ref(),
        leaves::FRONT_PROXY_CA => p.front_proxy_ca.as_ref(),
        _ => None,
    }
}

fn ended(pem: &str) -> String {
    if pem.ends_with('\n') { pem.into() } else { format!("{pem}\n") }
}

fn put(file: &str, text: &str, mode: u32, owner: u32) -> Result<(), String> {
    let path = Path::new(paths::PKI).join(file);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    write_file(&path, text, mode, owner).map_err(|e| format!("{}: {e}", path.display()))
}

/// Replaces a file: written beside, synced, renamed.
pub(crate) fn write_file(path: &Path, text: &str, mode: u32, owner: u32) -> std::io::Result<()> {
    use std::io::Write;
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    chown(&beside, Some(owner), Some(owner))?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa};

    pub(crate) fn ca() -> Ca {
        let key = KeyPair::generate().expect("a key");
        let mut p = CertificateParams::default();
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca { cert: p.self_signed(&key).expect("a certificate").pem(), key: Some(key.serialize_pem()) }
    }

    pub(crate) fn config() -> NodeConfig {
        serde_json::from_value(serde_json::json!({
            "version": 1, "roles": ["etcd"], "state": "ephemeral",
            "node": { "name": "etcd-1", "address": "10.77.0.31" },
            "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55" },
            "members": { "etcd-1": "10.77.0.31", "etcd-2": "10.77.0.32", "etcd-3": "10.77.0.33" },
        }))
        .expect("a configuration")
    }

    #[test]
    fn an_etcd_members_leaves() {
        insta::assert_snapshot!(format!("{:#?}", leaves(&config())));
    }

    #[test]
    fn leaves_are_issued_and_keys_match() {
        for leaf in leaves(&config()) {
            let made = issue(&leaf, &ca(), 30, 1_790_000_000).expect("issued");
            assert!(made.cert.contains("BEGIN CERTIFICATE") && made.key.contains("PRIVATE KEY"));
        }
        let no_key = Ca { key: None, ..ca() };
        let e = issue(&leaves(&config())[0], &no_key, 30, 1_790_000_000).expect_err("no key");
        assert!(e.contains("etcd/peer of etcd_peer_ca: its key: is missing"), "{e}");
    }
}

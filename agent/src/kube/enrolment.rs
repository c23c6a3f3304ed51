//! A worker's first certificate: a key is made here, a certificate signing request is sent with the node's token, and what
//! comes back is left where the kubelet looks, as the kubelet itself would have left it
//! (`https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/`). It renews it from then on.

use super::api::{Api, Failure};
use crate::pki::files::kubeconfig;
use crate::pki::write_file;
use base64::Engine;
use contract::node::NodeConfig;
use contract::{kube, paths, users};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use x509_parser::pem::Pem;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// A certificate, and its key beside it, are a few kilobytes.
const CHAIN_MAX: usize = 60 << 10;
const PAIR_MAX: u64 = 64 << 10;

/// Whether the kubelet has a certificate that is valid at `now`, seconds since the epoch, or will be.
pub(super) fn is_enrolled(now: u64) -> bool {
    let path = Path::new(kube::KUBELET_OWN_CERT);
    let is_small = fs::metadata(path).is_ok_and(|m| m.len() <= PAIR_MAX);
    is_small && Path::new(kube::KUBELET_OWN_CONF).exists() && fs::read(path).is_ok_and(|pem| ends_after(&pem, now))
}

/// Whether the first certificate of a PEM file ends after `now`. A clock that is behind is no reason for a new one.
fn ends_after(pem: &[u8], now: u64) -> bool {
    let end = Pem::iter_from_buffer(pem)
        .filter_map(Result::ok)
        .find(|p| p.label == "CERTIFICATE")
        .and_then(|p| p.parse_x509().ok().map(|c| c.validity().not_after.timestamp()));
    end.is_some_and(|end| u64::try_from(end).is_ok_and(|end| end > now))
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Enrolment {
    node: String,
    endpoint: String,
    key: KeyPair,
}

impl Enrolment {
    /// With a key of its own.
    pub(super) fn new(config: &NodeConfig) -> Result<Self, String> {
        let endpoint = config.cluster.endpoint.clone().ok_or("quorate.cluster.endpoint is missing")?;
        Ok(Self { node: config.name().into(), endpoint, key: key()? })
    }

    /// Of the request, from its key: one whose answer was lost is found again instead of made twice.
    fn name(&self) -> String {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(self.key.public_key_raw());
        let hex: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
        format!("node-csr-{hex}")
    }

    /// One step: what it waits for, if the certificate is not there yet. `now` is in seconds since the epoch.
    pub(super) fn go_on(&mut self, api: &Api, now: u64) -> Result<Option<String>, Failure> {
        let name = self.name();
        let request = match api.get(&format!("{PATH}/{name}")) {
            // Not made yet, or cleared away, as requests are after a time.
            Err(Failure::NotFound) => api.post(PATH, &self.ask(&name)?)?,
            other => other?,
        };
        let why = match granted(&request, now) {
            Granted::Certificate(pem) => return self.keep(&pem).map_err(Failure::Other).map(|()| None),
            Granted::Waits(why) => return Ok(Some(format!("its certificate request {name} {why}"))),
            Granted::Useless(why) => why,
        };
        // Another key is another request.
        self.key = key().map_err(Failure::Other)?;
        Ok(Some(format!("its certificate request {name} came to nothing: {why}; it asks again")))
    }

    fn ask(&self, name: &str) -> Result<Value, Failure> {
        let other = |e: rcgen::Error| Failure::Other(format!("making a certificate request: {e}"));
        let mut p = CertificateParams::default();
        p.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        p.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let pem = p.serialize_request(&self.key).and_then(|r| r.pem()).map_err(other)?;
        Ok(json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "name": name },
            "spec": {
                "request": base64::engine::general_purpose::STANDARD.encode(pem),
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        }))
    }

    /// Files of the kubelet's certificate store: certificate and key in one, and a link to the current one.
    fn keep(&self, certificate: &str) -> Result<(), String> {
        let link = Path::new(kube::KUBELET_OWN_CERT);
        let dir = link.parent().ok_or("no directory")?;
        let at = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        fs::create_dir_all(dir).map_err(|e| at(dir, e))?;
        let first = dir.join("kubelet-client-first.pem");
        let pair = format!("{certificate}\n{}", self.key.serialize_pem());
        write_file(&first, &pair, 0o600, users::ROOT).map_err(|e| at(&first, e))?;
        let beside = link.with_extension("new");
        let _ = fs::remove_file(&beside);
        std::os::unix::fs::symlink(&first, &beside).map_err(|e| at(&beside, e))?;
        fs::rename(&beside, link).map_err(|e| at(link, e))?;
        let own = json!({ "client-certificate": kube::KUBELET_OWN_CERT, "client-key": kube::KUBELET_OWN_CERT });
        let ca = format!("{}/kubelet/ca.crt", paths::PKI);
        let text = kubeconfig(&format!("https://{}", self.endpoint), &ca, &own);
        let path = Path::new(kube::KUBELET_OWN_CONF);
        write_file(path, &text, 0o600, users::ROOT).map_err(|e| at(path, e))
    }
}

fn key() -> Result<KeyPair, String> {
    KeyPair::generate().map_err(|e| format!("making a key: {e}"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Granted {
    /// PEM.
    Certificate(String),
    Waits(&'static str),
    /// It was refused, or what came back is no certificate that the kubelet could use.
    Useless(String),
}

/// What became of a request (`certificates.k8s.io/v1`).
fn granted(request: &Value, now: u64) -> Granted {
    let status = &request["status"];
    if let Some(text) = status["certificate"].as_str() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text).ok().filter(|d| d.len() <= CHAIN_MAX);
        return match decoded.and_then(|d| String::from_utf8(d).ok()) {
            Some(pem) if ends_after(pem.as_bytes(), now) => Granted::Certificate(pem),
            Some(_) => Granted::Useless("the certificate has ended by this node's clock, or is none".into()),
            None => Granted::Useless("what came back is no certificate".into()),
        };
    }
    let conditions = status["conditions"].as_array();
    for c in conditions.into_iter().flatten() {
        if matches!(c["type"].as_str(), Some("Denied" | "Failed")) {
            let why = c["message"].as_str().unwrap_or("nobody says why").chars().take(300).collect();
            return Granted::Useless(why);
        }
    }
    let is_approved = conditions.is_some_and(|c| !c.is_empty());
    Granted::Waits(if is_approved { "is approved and not signed yet" } else { "is not approved (yet)" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEM, until 2033.
    fn certificate() -> String {
        let key = KeyPair::generate().expect("a key");
        let mut p = CertificateParams::default();
        p.not_after = time::OffsetDateTime::from_unix_timestamp(2_000_000_000).expect("a time");
        format!("{}{}", key.serialize_pem(), p.self_signed(&key).expect("a certificate").pem())
    }

    #[test]
    fn what_became_of_a_request() {
        let with = |status: Value| granted(&json!({ "status": status }), 1_999_999_999);
        let waits = Granted::Waits("is not approved (yet)");
        assert_eq!((with(json!({})), with(json!(7)), granted(&json!([]), 0)), (waits.clone(), waits.clone(), waits));
        let approved = json!({ "conditions": [{ "type": "Approved" }] });
        assert_eq!(with(approved), Granted::Waits("is approved and not signed yet"));
        let failed = json!({ "conditions": [{ "type": "Approved" }, { "type": "Failed", "message": "no key" }] });
        assert_eq!(with(failed), Granted::Useless("no key".into()));
    }

    #[test]
    fn only_a_certificate_that_can_be_used_is_kept() {
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let with = |text: String, now| granted(&json!({ "status": { "certificate": text } }), now);
        let good = certificate();
        assert_eq!(with(encoded(&good), 1_999_999_999), Granted::Certificate(good.clone()));
        let torn = &good[..good.len() / 2];
        let huge = "x".repeat(CHAIN_MAX + 1);
        for (text, now) in [
            (encoded(&good), 2_000_000_001),
            (encoded(torn), 0),
            (encoded(&huge), 0),
            (String::new(), 0),
            ("%".into(), 0),
        ] {
            assert!(matches!(with(text, now), Granted::Useless(_)));
        }
    }

    #[test]
    fn a_request_is_named_by_its_key() {
        let node = |key| Enrolment { node: "worker-1".into(), endpoint: "10.77.0.10:6443".into(), key };
        let one = node(key().expect("a key"));
        assert_eq!(one.name(), one.name());
        assert!(contract::check::is_label(&one.name()), "{}", one.name());
        assert_ne!(one.name(), node(key().expect("a key")).name());
    }
}

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
/// A certificate and a key are a few kilobytes.
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
    /// The name of the request, once it is made.
    request: Option<String>,
}

impl Enrolment {
    /// With a key of its own.
    pub(super) fn new(config: &NodeConfig) -> Result<Self, String> {
        let endpoint = config.cluster.endpoint.clone().ok_or("quorate.cluster.endpoint is missing")?;
        let key = KeyPair::generate().map_err(|e| format!("making a key: {e}"))?;
        Ok(Self { node: config.name().into(), endpoint, key, request: None })
    }

    /// One step: what it waits for, if the certificate is not there yet.
    pub(super) fn go_on(&mut self, api: &Api) -> Result<Option<String>, Failure> {
        let Some(name) = &self.request else {
            let made = api.post(PATH, &self.ask()?)?;
            self.request = made["metadata"]["name"].as_str().map(str::to_owned);
            return Ok(Some("for the certificate it asked for".into()));
        };
        let answered = match api.get(&format!("{PATH}/{name}")) {
            // Requests are cleared away after a time.
            Err(Failure::NotFound) => {
                self.request = None;
                return Ok(Some("its certificate request is gone, it asks again".into()));
            }
            other => other?,
        };
        match granted(&answered).map_err(Failure::Other)? {
            Granted::Certificate(pem) => self.keep(&pem).map_err(Failure::Other).map(|()| None),
            Granted::Waits(why) => Ok(Some(format!("its certificate request {name} {why}"))),
            Granted::Refused(why) => {
                self.request = None;
                Ok(Some(format!("its certificate request was refused: {why}")))
            }
        }
    }

    fn ask(&self) -> Result<Value, Failure> {
        let other = |e: rcgen::Error| Failure::Other(format!("making a certificate request: {e}"));
        let mut p = CertificateParams::default();
        p.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        p.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let pem = p.serialize_request(&self.key).and_then(|r| r.pem()).map_err(other)?;
        Ok(json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": { "generateName": "node-csr-" },
            "spec": {
                "request": base64::engine::general_purpose::STANDARD.encode(pem),
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "usages": ["digital signature", "client auth"],
            },
        }))
    }

    /// Files of the kubelet's certificate store: a file with a time in its name, and a link to the current one.
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

#[derive(Debug, PartialEq, Eq)]
enum Granted {
    /// PEM.
    Certificate(String),
    Waits(&'static str),
    Refused(String),
}

/// What became of a request (`certificates.k8s.io/v1`).
fn granted(request: &Value) -> Result<Granted, String> {
    let status = &request["status"];
    if let Some(text) = status["certificate"].as_str() {
        let pem =
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| format!("the certificate: {e}"))?;
        return String::from_utf8(pem).map(Granted::Certificate).map_err(|e| format!("the certificate: {e}"));
    }
    let conditions = status["conditions"].as_array();
    for c in conditions.into_iter().flatten() {
        if matches!(c["type"].as_str(), Some("Denied" | "Failed")) {
            return Ok(Granted::Refused(
                c["message"].as_str().unwrap_or("nobody says why").chars().take(300).collect(),
            ));
        }
    }
    let is_approved = conditions.is_some_and(|c| !c.is_empty());
    Ok(Granted::Waits(if is_approved { "is approved and not signed yet" } else { "is not approved (yet)" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_request() {
        let with = |status: Value| granted(&json!({ "status": status })).expect("understood");
        assert_eq!(with(json!({})), Granted::Waits("is not approved (yet)"));
        let approved = json!({ "conditions": [{ "type": "Approved" }] });
        assert_eq!(with(approved), Granted::Waits("is approved and not signed yet"));
        let failed = json!({ "conditions": [{ "type": "Approved" }, { "type": "Failed", "message": "no key" }] });
        assert_eq!(with(failed), Granted::Refused("no key".into()));
        assert_eq!(with(json!({ "certificate": "UEVN" })), Granted::Certificate("PEM".into()));
        assert!(granted(&json!({ "status": { "certificate": "%" } })).is_err());
    }

    #[test]
    fn a_certificate_that_has_ended_is_asked_for_anew() {
        let key = KeyPair::generate().expect("a key");
        let mut p = CertificateParams::default();
        p.not_after = time::OffsetDateTime::from_unix_timestamp(2_000_000_000).expect("a time");
        let pem = format!("{}{}", key.serialize_pem(), p.self_signed(&key).expect("a certificate").pem());
        assert!(ends_after(pem.as_bytes(), 1_999_999_999));
        assert!(!ends_after(pem.as_bytes(), 2_000_000_001));
        assert!(!ends_after(b"torn", 0));
    }
}

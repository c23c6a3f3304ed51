//! Which kubelet gets a certificate: the masters' answer to certificate signing requests.
//!
//! kubeadm lets every holder of any token have a certificate for any node, and nobody approves a kubelet's serving
//! certificate. Here a token is good for its own node's name only, and a serving certificate for the names and addresses
//! that the cluster's configuration gives the node. Whatever is not understood is left to others: nothing is ever denied.

use super::api::Api;
use crate::channel::Channel;
use base64::Engine;
use contract::node::{Kubernetes, NodeConfig};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};
use serde_json::{Value, json};
use std::time::Duration;

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// The API is away, or the watch was refused.
const RETRY: Duration = Duration::from_millis(500);
/// A request is a few hundred bytes.
const REQUEST_MAX: usize = 16 << 10;

/// For ever.
pub(super) fn watch(config: &NodeConfig, channel: Channel) -> Result<(), String> {
    let kubernetes = config.kubernetes();
    loop {
        let Ok(api) = Api::local(config) else {
            std::thread::sleep(RETRY);
            continue;
        };
        let seen = api.watch(PATH, |kind, request| {
            if matches!(kind, "ADDED" | "MODIFIED") && is_pending(request) {
                answer(&api, &kubernetes, request, channel);
            }
        });
        if seen.is_err() {
            std::thread::sleep(RETRY);
        }
    }
}

fn is_pending(request: &Value) -> bool {
    request["status"]["conditions"].as_array().is_none_or(Vec::is_empty)
}

fn answer(api: &Api, kubernetes: &Kubernetes, request: &Value, channel: Channel) {
    let name = request["metadata"]["name"].as_str().unwrap_or_default();
    let who = request["spec"]["username"].as_str().unwrap_or_default();
    let said = match decide(kubernetes, request) {
        Ok(None) => return,
        Ok(Some(node)) => match api.put(&format!("{PATH}/{name}/approval"), &approved(request)) {
            Ok(_) => channel
                .say(&contract::control::FromAgent::Tell { text: format!("{who} gets its certificate for {node}") }),
            // Another master was first.
            Err(_) => return,
        },
        Err(why) => channel.notice(format!("the certificate request {name} of {who} is not approved: {why}")),
    };
    if let Err(e) = said {
        eprintln!("{e}");
    }
}

fn approved(request: &Value) -> Value {
    let mut approved = request.clone();
    approved["status"]["conditions"] = json!([{
        "type": "Approved", "status": "True", "reason": "QuorateDeclared",
        "message": "the cluster's configuration names this node",
    }]);
    approved
}

/// The node whose certificate it is to be; none where others decide.
fn decide(kubernetes: &Kubernetes, request: &Value) -> Result<Option<String>, String> {
    let spec = &request["spec"];
    let who = spec["username"].as_str().unwrap_or_default();
    let usages: Vec<&str> = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (node, purpose) = match spec["signerName"].as_str().unwrap_or_default() {
        "kubernetes.io/kube-apiserver-client-kubelet" => {
            // A node that renews its own is kube-controller-manager's to approve.
            let Some(id) = who.strip_prefix("system:bootstrap:") else { return Ok(None) };
            let holder = kubernetes.bootstrap_tokens.iter().find(|(_, t)| t.split('.').next() == Some(id));
            (holder.ok_or("no node of this cluster has that token")?.0.clone(), "client auth")
        }
        "kubernetes.io/kubelet-serving" => match who.strip_prefix("system:node:") {
            Some(node) => (node.to_owned(), "server auth"),
            None => return Err("only a node may ask for a serving certificate".into()),
        },
        _ => return Ok(None),
    };
    if let Some(odd) = usages.iter().find(|u| !["digital signature", "key encipherment", purpose].contains(u)) {
        return Err(format!("the usage `{odd}`"));
    }
    let asked = parse(spec["request"].as_str().unwrap_or_default())?;
    if asked.cn != format!("system:node:{node}") || asked.groups != ["system:nodes"] {
        return Err(format!("it asks for `{}` in {:?}, but is {node}'s", asked.cn, asked.groups));
    }
    let address = kubernetes.workers.get(&node).map(ToString::to_string);
    let may = |name: &String| purpose == "server auth" && (*name == node || Some(name) == address.as_ref());
    match asked.names.iter().find(|n| !may(n)) {
        Some(odd) => Err(format!("the name `{odd}`, which {node} does not have in the cluster's configuration")),
        None => Ok(Some(node)),
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    cn: String,
    groups: Vec<String>,
    /// Names and addresses.
    names: Vec<String>,
}

/// PKCS#10, PEM, base64.
fn parse(text: &str) -> Result<Asked, String> {
    if text.len() > REQUEST_MAX {
        return Err(format!("it is longer than {REQUEST_MAX} bytes"));
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| format!("it is no base64: {e}"))?;
    let pem = String::from_utf8(pem).map_err(|e| format!("it is no text: {e}"))?;
    let csr = CertificateSigningRequestParams::from_pem(&pem).map_err(|e| format!("it cannot be read: {e}"))?;
    let word = |v: &DnValue| match v {
        DnValue::Utf8String(s) => s.clone(),
        DnValue::PrintableString(s) => s.as_str().to_owned(),
        other => format!("{other:?}"),
    };
    let (mut cn, mut groups) = (String::new(), Vec::new());
    for (kind, value) in csr.params.distinguished_name.iter() {
        match kind {
            DnType::CommonName => cn = word(value),
            DnType::OrganizationName => groups.push(word(value)),
            other => return Err(format!("a subject with {other:?}")),
        }
    }
    let names = csr.params.subject_alt_names.iter().map(|n| match n {
        SanType::DnsName(n) => n.as_str().to_owned(),
        SanType::IpAddress(ip) => ip.to_string(),
        other => format!("{other:?}"),
    });
    Ok(Asked { cn, groups, names: names.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    fn kubernetes() -> Kubernetes {
        serde_json::from_value(json!({
            "bootstrap_tokens": { "worker-1": "abcdef.0123456789abcdef", "worker-2": "fedcba.0123456789abcdef" },
            "workers": { "worker-1": "10.77.0.41", "worker-2": "10.77.0.42" },
        }))
        .expect("settings")
    }

    fn request(signer: &str, who: &str, cn: &str, group: &str, names: &[&str]) -> Value {
        let mut p = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
        p.distinguished_name = rcgen::DistinguishedName::new();
        p.distinguished_name.push(DnType::OrganizationName, group);
        p.distinguished_name.push(DnType::CommonName, cn);
        let pem = p.serialize_request(&KeyPair::generate().expect("a key")).expect("a request").pem().expect("PEM");
        let usage = if signer.ends_with("serving") { "server auth" } else { "client auth" };
        json!({ "metadata": { "name": "csr-1" }, "spec": {
            "signerName": format!("kubernetes.io/{signer}"), "username": who, "usages": ["digital signature", usage],
            "request": base64::engine::general_purpose::STANDARD.encode(pem),
        }})
    }

    const CLIENT: &str = "kube-apiserver-client-kubelet";
    const SERVING: &str = "kubelet-serving";

    #[test]
    fn a_token_is_good_for_its_own_name() {
        let of = |who: &str, cn: &str, group: &str, names: &[&str]| {
            decide(&kubernetes(), &request(CLIENT, who, cn, group, names))
        };
        let own = of("system:bootstrap:abcdef", "system:node:worker-1", "system:nodes", &[]);
        assert_eq!(own, Ok(Some("worker-1".into())));
        assert_eq!(of("system:node:worker-1", "system:node:worker-1", "system:nodes", &[]), Ok(None), "renewal");
        for (who, cn, group, names) in [
            ("system:bootstrap:abcdef", "system:node:worker-2", "system:nodes", &[][..]),
            ("system:bootstrap:abcdef", "system:node:worker-1", "system:masters", &[]),
            ("system:bootstrap:abcdef", "kubernetes-admin", "system:nodes", &[]),
            ("system:bootstrap:abcdef", "system:node:worker-1", "system:nodes", &["worker-1"]),
            ("system:bootstrap:000000", "system:node:worker-1", "system:nodes", &[]),
        ] {
            assert!(of(who, cn, group, names).is_err(), "{who} {cn} {group} {names:?}");
        }
    }

    #[test]
    fn a_serving_certificate_has_the_declared_names() {
        let of = |who: &str, names: &[&str]| {
            decide(&kubernetes(), &request(SERVING, who, "system:node:worker-1", "system:nodes", names))
        };
        assert_eq!(of("system:node:worker-1", &["worker-1", "10.77.0.41"]), Ok(Some("worker-1".into())));
        assert!(of("system:node:worker-1", &["worker-1", "10.77.0.10"]).is_err(), "the virtual IP");
        assert!(of("system:node:worker-1", &["kubernetes"]).is_err());
        assert!(of("system:node:worker-2", &["worker-1"]).is_err());
        assert!(of("system:bootstrap:abcdef", &["worker-1"]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A-Za-z0-9+/=]{0,400}", signer in "(kubernetes.io/)?[a-z-]{0,40}") {
            let request = json!({"spec": {"signerName": signer, "username": "system:node:a", "request": text}});
            let _ = decide(&kubernetes(), &request);
        }
    }
}

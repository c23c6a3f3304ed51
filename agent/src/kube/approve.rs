//! Which kubelet gets a certificate: the masters' answer to certificate signing requests.
//!
//! kubeadm lets every holder of any token have a certificate for any node, and nobody approves a kubelet's serving
//! certificate. Here a token is good for its own node's name only, and a serving certificate for the names and addresses
//! that the cluster's configuration gives the node. Whatever is not understood is left to others: nothing is ever denied.

use super::api::Api;
use crate::channel::Channel;
use base64::Engine;
use contract::node::{Kubernetes, NodeConfig};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

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
    let bad = |e: &dyn std::fmt::Display| format!("it cannot be read: {e}");
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|e| bad(&e))?;
    let (rest, csr) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| bad(&e))?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow it", rest.len()));
    }
    let info = &csr.certification_request_info;
    let mut asked = Asked { cn: String::new(), groups: Vec::new(), names: Vec::new() };
    // Every attribute, however often it stands there: who signs may read another one than who looked.
    for attribute in info.subject.iter_attributes() {
        let text = attribute.as_str().map_err(|e| bad(&e))?.to_owned();
        if *attribute.attr_type() == OID_X509_ORGANIZATION_NAME {
            asked.groups.push(text);
        } else if *attribute.attr_type() == OID_X509_COMMON_NAME && asked.cn.is_empty() {
            asked.cn = text;
        } else {
            return Err(format!("a subject with {}={text}", attribute.attr_type()));
        }
    }
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        for extension in &requested.extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                return Err(format!("the extension {}", extension.oid));
            };
            asked.names.extend(names.general_names.iter().map(name));
        }
    }
    Ok(asked)
}

/// As the configuration writes it; what is neither a name nor an address, in a form that no node is called by.
fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(n) => (*n).to_owned(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => IpAddr::from(four).to_string(),
            (_, Ok(six)) => IpAddr::from(six).to_string(),
            _ => format!("{bytes:?}"),
        },
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

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

    /// Made with `openssl req -subj "/O=system:masters/O=system:nodes/CN=system:node:worker-1"`.
    const TWO_GROUPS: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
MIIBCjCBsQIBADBPMRcwFQYDVQQKDA5zeXN0ZW06bWFzdGVyczEVMBMGA1UECgwM\n\
c3lzdGVtOm5vZGVzMR0wGwYDVQQDDBRzeXN0ZW06bm9kZTp3b3JrZXItMTBZMBMG\n\
ByqGSM49AgEGCCqGSM49AwEHA0IABFOyGwpUKxi719cvPkzUiL8ZGmPUmomAIE/+\n\
erzmA4vZm5co//IzpdlVYHWxeBkr22XzMWJfs5Hq+cFcde/KmEagADAKBggqhkjO\n\
PQQDAgNIADBFAiBH6/JHPqzRpxj2HlCCOTHfFLgxPQiZHRtHnYQP1AG3YwIhAIxY\n\
oBnBiczTuB9hi2YrCzIspcqkir1XOnWOMzlEwz+S\n\
-----END CERTIFICATE REQUEST-----\n\
";

    #[test]
    fn a_second_group_does_not_hide_behind_the_first() {
        let mut two = request(CLIENT, "system:bootstrap:abcdef", "system:node:worker-1", "system:nodes", &[]);
        two["spec"]["request"] = base64::engine::general_purpose::STANDARD.encode(TWO_GROUPS).into();
        let refused = decide(&kubernetes(), &two).expect_err("refused");
        assert!(refused.contains("system:masters"), "{refused}");
    }

    /// Made with Go's `x509.CreateCertificateRequest`, as the kubelet makes its own.
    const OF_A_KUBELET: &str = "-----BEGIN CERTIFICATE REQUEST-----\n\
MIIBHTCBxAIBADA2MRUwEwYDVQQKEwxzeXN0ZW06bm9kZXMxHTAbBgNVBAMTFHN5\n\
c3RlbTpub2RlOndvcmtlci0xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAExFHu\n\
of5fsXsuFy0gx6BdExFk8lPWSkshNV574Ak/DyjMKiCW0lTPBRZdIxWvitOotNRu\n\
DYG7BJhzGUInwjb9XaAsMCoGCSqGSIb3DQEJDjEdMBswGQYDVR0RBBIwEIIId29y\n\
a2VyLTGHBApNACkwCgYIKoZIzj0EAwIDSAAwRQIhAOLTgPAiVWQ8lo7NpPZoZcU4\n\
PV8a9l/a9Aa+iC+SiUb2AiAusqA9t3ChFqcLipfmH3LibGyjInnONPEKLzedvRoG\n\
Cg==\n\
-----END CERTIFICATE REQUEST-----\n\
";

    #[test]
    fn what_a_kubelet_makes_is_understood() {
        let mut own = request(SERVING, "system:node:worker-1", "", "", &[]);
        own["spec"]["request"] = base64::engine::general_purpose::STANDARD.encode(OF_A_KUBELET).into();
        assert_eq!(decide(&kubernetes(), &own), Ok(Some("worker-1".into())));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut odd = request(CLIENT, "system:bootstrap:abcdef", "system:node:worker-1", "system:nodes", &[]);
        let whole = odd["spec"]["request"].as_str().expect("base64").to_owned();
        for bad in ["", "AAAA", "no base64!", &whole[..whole.len() / 8 * 4], &"A".repeat(REQUEST_MAX + 4)] {
            odd["spec"]["request"] = bad.into();
            assert!(decide(&kubernetes(), &odd).is_err(), "{} bytes", bad.len());
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A-Za-z0-9+/=]{0,400}", signer in "(kubernetes.io/)?[a-z-]{0,40}") {
            let request = json!({"spec": {"signerName": signer, "username": "system:node:a", "request": text}});
            let _ = decide(&kubernetes(), &request);
        }
    }
}

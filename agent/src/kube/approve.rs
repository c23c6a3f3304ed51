//! Which kubelet gets a certificate: the masters' answer to certificate signing requests.
//!
//! kubeadm lets every holder of any token have a certificate for any node, and nobody approves a kubelet's serving
//! certificate. Here a token is good for its own node's name only, and a serving certificate for the names and addresses
//! that the cluster's configuration gives the node. Whatever is not understood is left to others: nothing is ever denied.
//!
//! What is approved is signed at once: kube-controller-manager signs it, too, but only when it has begun to work, which in a
//! cluster that starts is 1.5 s after the API answers, and a worker's kubelet waits for it. Whoever is first wins.

use super::api::Api;
use crate::channel::Channel;
use crate::clock::now;
use crate::pki::leaves::{Leaf, kubelet_client, kubelet_server};
use crate::pki::{issue_for, life};
use base64::Engine;
use contract::node::{Kubernetes, NodeConfig};
use rcgen::SubjectPublicKeyInfo;
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
                answer(&api, config, &kubernetes, request, channel);
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

fn answer(api: &Api, config: &NodeConfig, kubernetes: &Kubernetes, request: &Value, channel: Channel) {
    let name = request["metadata"]["name"].as_str().unwrap_or_default();
    let who = request["spec"]["username"].as_str().unwrap_or_default();
    let said = match decide(kubernetes, request) {
        Ok(None) => return,
        Ok(Some(granted)) => match api.put(&format!("{PATH}/{name}/approval"), &approved(request)) {
            Ok(approved) => {
                // Where it is refused, kube-controller-manager was first.
                if let Err(e) = signed(config, &granted, approved, now())
                    .map(|signed| api.put(&format!("{PATH}/{name}/status"), &signed))
                {
                    eprintln!("the certificate request {name} is left to kube-controller-manager: {e}");
                }
                let text = format!("{who} gets its certificate for {}", granted.node);
                channel.say(&contract::control::FromAgent::Tell { text })
            }
            // Another master was first.
            Err(_) => return,
        },
        Err(why) => channel.notice(format!("the certificate request {name} of {who} is not approved: {why}")),
    };
    if let Err(e) = said {
        eprintln!("{e}");
    }
}

/// What a node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Granted {
    node: String,
    leaf: Leaf,
    /// DER, SubjectPublicKeyInfo. That who asks has its private half is what the API saw to when it took the request.
    key: Vec<u8>,
}

/// The request with its certificate: as long as the cluster's leaves live, or as it asks for if that is shorter.
fn signed(config: &NodeConfig, granted: &Granted, mut request: Value, now: u64) -> Result<Value, String> {
    let ca = config.pki.cluster_ca.as_ref().ok_or("this node has no quorate.pki.cluster_ca")?;
    let key = SubjectPublicKeyInfo::from_der(&granted.key).map_err(|e| format!("its key: {e}"))?;
    let asked = request["spec"]["expirationSeconds"].as_u64().map_or(u64::MAX, |s| s / 60);
    let pem = issue_for(&granted.leaf, &key, ca, life(config).min(asked), now)?;
    request["status"]["certificate"] = base64::engine::general_purpose::STANDARD.encode(pem).into();
    Ok(request)
}

fn approved(request: &Value) -> Value {
    let mut approved = request.clone();
    approved["status"]["conditions"] = json!([{
        "type": "Approved", "status": "True", "reason": "QuorateDeclared",
        "message": "the cluster's configuration names this node",
    }]);
    approved
}

/// The certificate that it is to be; none where others decide.
fn decide(kubernetes: &Kubernetes, request: &Value) -> Result<Option<Granted>, String> {
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
    let address = kubernetes.workers.get(&node);
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for name in asked.names {
        match address.filter(|a| a.to_string() == name) {
            _ if purpose != "server auth" => return Err(format!("the name `{name}`, for a client")),
            Some(address) => ips.push(*address),
            None if name == node => dns.push(name),
            None => {
                return Err(format!("the name `{name}`, which {node} does not have in the cluster's configuration"));
            }
        }
    }
    let leaf = if purpose == "server auth" { kubelet_server(&node, dns, ips) } else { kubelet_client(&node) };
    Ok(Some(Granted { node, leaf, key: asked.key }))
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    cn: String,
    groups: Vec<String>,
    /// Names and addresses.
    names: Vec<String>,
    /// DER, SubjectPublicKeyInfo.
    key: Vec<u8>,
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
    let key = info.subject_pki.raw.to_vec();
    let mut asked = Asked { cn: String::new(), groups: Vec::new(), names: Vec::new(), key };
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

    fn node_of(request: &Value) -> Result<Option<String>, String> {
        Ok(decide(&kubernetes(), request)?.map(|granted| granted.node))
    }

    /// What stands in the certificate that a request gets: subject, names, purposes, whether its key is the request's, and
    /// its life in seconds.
    fn certificate(request: &Value) -> (String, Vec<String>, (bool, bool), bool, i64) {
        let mut config = crate::pki::tests::config();
        config.pki.cluster_ca = Some(crate::pki::tests::ca());
        config.pki.leaf_minutes = Some(90);
        let granted = decide(&kubernetes(), request).expect("understood").expect("granted");
        let signed = signed(&config, &granted, request.clone(), 1_790_000_000).expect("signed");
        let text = signed["status"]["certificate"].as_str().expect("a certificate");
        let pem = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        let (_, pem) = parse_x509_pem(&pem).expect("PEM");
        let cert = pem.parse_x509().expect("X.509");
        let ca = config.pki.cluster_ca.expect("a CA").cert;
        let (_, ca) = parse_x509_pem(ca.as_bytes()).expect("PEM");
        cert.verify_signature(Some(ca.parse_x509().expect("X.509").public_key())).expect("the CA's signature");
        let names = cert
            .subject_alternative_name()
            .expect("names")
            .map_or(vec![], |n| n.value.general_names.iter().map(name).collect());
        let purpose = cert.extended_key_usage().expect("usages").expect("some").value;
        let life = cert.validity().not_after.timestamp() - 1_790_000_000;
        (
            cert.subject().to_string(),
            names,
            (purpose.server_auth, purpose.client_auth),
            cert.public_key().raw == granted.key,
            life,
        )
    }

    const CLIENT: &str = "kube-apiserver-client-kubelet";
    const SERVING: &str = "kubelet-serving";

    #[test]
    fn a_token_is_good_for_its_own_name() {
        let of = |who: &str, cn: &str, group: &str, names: &[&str]| node_of(&request(CLIENT, who, cn, group, names));
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
        let of =
            |who: &str, names: &[&str]| node_of(&request(SERVING, who, "system:node:worker-1", "system:nodes", names));
        assert_eq!(of("system:node:worker-1", &["worker-1", "10.77.0.41"]), Ok(Some("worker-1".into())));
        assert!(of("system:node:worker-1", &["worker-1", "10.77.0.10"]).is_err(), "the virtual IP");
        assert!(of("system:node:worker-1", &["kubernetes"]).is_err());
        assert!(of("system:node:worker-2", &["worker-1"]).is_err());
        assert!(of("system:bootstrap:abcdef", &["worker-1"]).is_err());
    }

    #[test]
    fn what_is_approved_is_signed() {
        let subject = "CN=system:node:worker-1, O=system:nodes".to_owned();
        let mut client = request(CLIENT, "system:bootstrap:abcdef", "system:node:worker-1", "system:nodes", &[]);
        assert_eq!(certificate(&client), (subject.clone(), vec![], (false, true), true, 90 * 60));
        client["spec"]["expirationSeconds"] = 3600.into();
        assert_eq!(certificate(&client).4, 3600, "as it asks");
        let names = vec!["worker-1".to_owned(), "10.77.0.41".to_owned()];
        let server = request(
            SERVING,
            "system:node:worker-1",
            "system:node:worker-1",
            "system:nodes",
            &["worker-1", "10.77.0.41"],
        );
        assert_eq!(certificate(&server), (subject, names, (true, false), true, 90 * 60));
    }

    #[test]
    fn what_cannot_be_signed_is_left_to_others() {
        let request = request(CLIENT, "system:bootstrap:abcdef", "system:node:worker-1", "system:nodes", &[]);
        let granted = decide(&kubernetes(), &request).expect("understood").expect("granted");
        let mut config = crate::pki::tests::config();
        let why = |config: &NodeConfig, granted: &Granted| {
            signed(config, granted, request.clone(), 1_790_000_000).expect_err("not signed")
        };
        assert!(why(&config, &granted).contains("no quorate.pki.cluster_ca"));
        let ca = crate::pki::tests::ca();
        config.pki.cluster_ca = Some(contract::node::Ca { key: None, ..ca.clone() });
        assert!(why(&config, &granted).contains("is missing"));
        config.pki.cluster_ca = Some(ca);
        for length in [0, 1, granted.key.len() / 2, granted.key.len() - 1] {
            let torn = Granted { key: granted.key[..length].to_vec(), ..granted.clone() };
            assert!(why(&config, &torn).starts_with("its key: "), "{length} bytes");
        }
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
        assert_eq!(node_of(&own), Ok(Some("worker-1".into())));
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

//! etcd's JSON gateway (its `api/etcdserverpb/rpc.proto` as grpc-gateway maps it), with the agent's certificate: of the
//! member on this node, or of another one when this node joins. 64-bit numbers are strings in JSON.

use base64::Engine;
use contract::paths::PKI;
use contract::ports::ETCD_CLIENT;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A member answers in milliseconds; a change of the membership takes a round of consensus.
const SILENCE: Duration = Duration::from_secs(2);
/// The member on this node, which is asked while it starts: it listens some time before it answers, and whoever waits for
/// that answer would be late for the moment when it does.
const LOCAL_SILENCE: Duration = Duration::from_millis(200);
/// An answer is at most this long, in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    leader: String,
    /// It has no vote yet.
    #[serde(rename = "isLearner")]
    pub(crate) is_learner: bool,
    header: Header,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Header {
    member_id: String,
}

impl Status {
    /// Whether it sees a leader.
    pub(crate) fn sees_leader(&self) -> bool {
        !matches!(&*self.leader, "" | "0")
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.header.member_id
    }
}

/// A member as the cluster lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Member {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// Empty until it has started once.
    pub(crate) name: String,
    #[serde(rename = "peerURLs")]
    pub(crate) peer_urls: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    kvs: Vec<Value>,
}

/// A connection to one member.
#[derive(Debug)]
pub(crate) struct Gateway {
    agent: ureq::Agent,
    url: String,
}

impl Gateway {
    /// The member on this node.
    pub(crate) fn local() -> Result<Self, String> {
        Self::within(IpAddr::V4(Ipv4Addr::LOCALHOST), LOCAL_SILENCE)
    }

    /// The member at an address.
    pub(crate) fn to(address: IpAddr) -> Result<Self, String> {
        Self::within(address, SILENCE)
    }

    fn within(address: IpAddr, bound: Duration) -> Result<Self, String> {
        let read = |name: &str| fs::read(format!("{PKI}/etcd/{name}")).map_err(|e| format!("{name}: {e}"));
        let parse = |name: &str| -> Result<Vec<ureq::tls::Certificate<'static>>, String> {
            let pem = read(name)?;
            Ok(vec![ureq::tls::Certificate::from_pem(&pem).map_err(|e| format!("{name}: {e}"))?.to_owned()])
        };
        let key = ureq::tls::PrivateKey::from_pem(&read("agent-client.key")?).map_err(|e| e.to_string())?;
        let own = ureq::tls::ClientCert::new_with_certs(&parse("agent-client.crt")?, key);
        let roots = ureq::tls::RootCerts::new_with_certs(&parse("server-ca.crt")?);
        let tls = ureq::tls::TlsConfig::builder()
            .client_cert(Some(own))
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(crate::pki::provider())
            .build();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(bound))
            .http_status_as_error(false)
            .tls_config(tls)
            .proxy(None)
            .build();
        let connector = ureq::unversioned::transport::DefaultConnector::default();
        let agent = ureq::Agent::with_parts(config, connector, crate::net::dns::Resolver);
        Ok(Self { agent, url: format!("https://{}", SocketAddr::new(address, ETCD_CLIENT)) })
    }

    fn call<T: serde::de::DeserializeOwned>(&self, what: &str, body: &Value) -> Result<T, String> {
        let sent = self.agent.post(format!("{}/v3/{what}", self.url)).send(body.to_string());
        let response = sent.map_err(|e| format!("{what}: {e}"))?;
        let status = response.status();
        let read = response.into_body().into_with_config().limit(ANSWER_MAX).read_to_string();
        let text = read.map_err(|e| format!("{what}: {e}"))?;
        if !status.is_success() {
            return Err(format!("{what}: {}", refusal(&text)));
        }
        serde_json::from_str(&text).map_err(|e| format!("{what}: {e}"))
    }

    /// What the member says of itself.
    pub(crate) fn status(&self) -> Result<Status, String> {
        self.call("maintenance/status", &json!({}))
    }

    /// All members, as a majority knows them.
    pub(crate) fn members(&self) -> Result<Vec<Member>, String> {
        self.call::<Members>("cluster/member/list", &json!({ "linearizable": true })).map(|m| m.members)
    }

    /// Whether there is a key with a prefix, as a majority knows it.
    fn has_keys(&self, prefix: &[u8]) -> Result<bool, String> {
        let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        // The end of a prefix's range is its last byte plus one (etcd's API reference, "Key ranges").
        let mut end = prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let body = json!({ "key": encoded(prefix), "range_end": encoded(&end), "limit": 1, "keys_only": true });
        self.call::<Range>("kv/range", &body).map(|r| !r.kvs.is_empty())
    }

    /// Takes a member out; answers who is left.
    pub(crate) fn remove(&self, id: &str) -> Result<Vec<Member>, String> {
        self.call::<Members>("cluster/member/remove", &json!({ "ID": id })).map(|m| m.members)
    }

    /// Adds a member without a vote; answers all members.
    pub(crate) fn add_learner(&self, peer_url: &str) -> Result<Vec<Member>, String> {
        let body = json!({ "peerURLs": [peer_url], "isLearner": true });
        self.call::<Members>("cluster/member/add", &body).map(|m| m.members)
    }

    /// Gives a learner its vote.
    pub(crate) fn promote(&self, id: &str) -> Result<(), String> {
        self.call::<Value>("cluster/member/promote", &json!({ "ID": id })).map(|_| ())
    }
}

/// Whether the member on this node sees a leader.
pub(crate) fn sees_leader() -> bool {
    Gateway::local().and_then(|g| g.status()).is_ok_and(|s| s.sees_leader())
}

/// Whether etcd has a key with a prefix.
pub(crate) fn has_keys(prefix: &[u8]) -> Result<bool, String> {
    Gateway::within(IpAddr::V4(Ipv4Addr::LOCALHOST), SILENCE)?.has_keys(prefix)
}

/// etcd's words for why not.
fn refusal(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value["message"].as_str().unwrap_or(text).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_etcds_answers() {
        let led = r#"{"header":{"member_id":"372"},"version":"3.7.3","leader":"10276657743932975437","raftTerm":"2"}"#;
        let status: Status = serde_json::from_str(led).expect("a status");
        assert!(status.sees_leader() && !status.is_learner && status.id() == "372");
        for leaderless in [r#"{"leader":"0","isLearner":true}"#, "{}"] {
            assert!(!serde_json::from_str::<Status>(leaderless).expect("a status").sees_leader());
        }
        let list = r#"{"members":[{"ID":"7","name":"etcd-1","peerURLs":["https://10.77.0.31:2380"]},{"ID":"8","peerURLs":[],"isLearner":true}]}"#;
        let list: Members = serde_json::from_str(list).expect("members");
        assert_eq!((list.members[0].id.as_str(), list.members[1].name.as_str()), ("7", ""));
        assert_eq!(refusal(r#"{"code":9,"message":"etcdserver: unhealthy cluster"}"#), "etcdserver: unhealthy cluster");
        assert_eq!(refusal("no json"), "no json");
    }
}

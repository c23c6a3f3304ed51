//! etcd's JSON gateway (its `api/etcdserverpb/rpc.proto` as grpc-gateway maps it), of the member on this node or of
//! another one when this node joins, with the agent's certificate; of those that a master's apiserver has, with that one's.
//! 64-bit numbers are strings in JSON.
//!
//! | question | file |
//! |---|---|
//! | what is asked of etcd? | here |
//! | what do members need now and then? | `upkeep.rs` |
//! | does an apiserver wait for one that is gone? | `gone.rs` |
//! | who leads when the leader's disk is slow? | `lead.rs` |
//! | who asks a member that is slow, or hears no other? | `slow.rs` |
//! | does the etcd behind this node's apiserver do its work? | `health.rs` |
//! | over which connection is one asked all the time? | `connection.rs` |
//! | which snapshots are kept? | `rotation.rs` |
//! | how do they come and go? | `serve.rs` |

mod connection;
pub(crate) mod gone;
pub(crate) mod health;
pub(crate) mod lead;
pub(crate) mod rotation;
pub(crate) mod serve;
pub(crate) mod slow;
pub(crate) mod upkeep;

use base64::Engine;
use contract::kube::APISERVER;
use contract::node::{NodeConfig, Role};
use contract::paths::PKI;
use contract::ports::ETCD_CLIENT;
use gone::Heard;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::channel;
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
    /// Its file. Bytes, as the next two.
    #[serde(rename = "dbSize", deserialize_with = "number")]
    pub(crate) size: u64,
    /// What of it is in use.
    #[serde(rename = "dbSizeInUse", deserialize_with = "number")]
    pub(crate) in_use: u64,
    /// What it may be.
    #[serde(rename = "dbSizeQuota", deserialize_with = "number")]
    pub(crate) quota: u64,
    /// What is wrong with it, alarms among it.
    errors: Vec<String>,
}

fn number<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Header {
    member_id: String,
    revision: String,
}

impl Status {
    /// Whether it sees a leader.
    pub(crate) fn sees_leader(&self) -> bool {
        !matches!(&*self.leader, "" | "0")
    }

    /// Whether it is the leader.
    pub(crate) fn is_leader(&self) -> bool {
        self.sees_leader() && self.leader == self.header.member_id
    }

    /// Whether the quota was used up, so that nothing is written any more.
    pub(crate) fn has_alarm(&self) -> bool {
        self.errors.iter().any(|e| e.contains("NOSPACE"))
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> &str {
        &self.header.revision
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
struct Alarms {
    alarms: Vec<Value>,
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
        let own = |name: &str| format!("{PKI}/etcd/{name}");
        Self::with(address, &own("server-ca.crt"), (&own("agent-client.crt"), &own("agent-client.key")), bound)
    }

    /// As the apiserver of this node, whose members may all be elsewhere.
    fn as_apiserver(address: IpAddr, bound: Duration) -> Result<Self, String> {
        let own = |name: &str| format!("{}/{name}", APISERVER.dir());
        Self::with(address, &own("etcd-server-ca.crt"), (&own("etcd-client.crt"), &own("etcd-client.key")), bound)
    }

    fn with(address: IpAddr, ca: &str, pair: (&str, &str), bound: Duration) -> Result<Self, String> {
        let agent = crate::https::client(ca, Some(pair), bound)?;
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

    /// What the member counts, in Prometheus' text format.
    fn metrics(&self) -> Result<String, ureq::Error> {
        self.get("metrics")
    }

    /// To its end: the connection is for the next question, too.
    fn get(&self, what: &str) -> Result<String, ureq::Error> {
        let response = self.agent.get(format!("{}/{what}", self.url)).call()?;
        response.into_body().into_with_config().limit(ANSWER_MAX).read_to_string()
    }

    /// Whether the member answers at all. It reads a key of its own data for that, and asks no other (etcd's `livez`).
    fn is_there(&self) -> Heard {
        match self.get("livez") {
            Ok(_) => Heard::Answer,
            Err(e) if silent(&e) => Heard::Nothing,
            Err(_) => Heard::No,
        }
    }

    /// Whether the member knows what a majority knows: it reads a key that nobody has.
    fn agrees(&self) -> Result<bool, ureq::Error> {
        let response = self.agent.post(format!("{}/v3/kv/range", self.url)).send(r#"{"key":"AA=="}"#)?;
        let well = response.status().is_success();
        response.into_body().into_with_config().limit(ANSWER_MAX).read_to_string()?;
        Ok(well)
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

    /// Forgets revisions before this one (etcd calls it compaction).
    fn forget_before(&self, revision: &str) -> Result<(), String> {
        match self.call::<Value>("kv/compaction", &json!({ "revision": revision, "physical": true })) {
            // By somebody else, or by an earlier round: nothing was written since.
            Err(e) if e.contains("has been compacted") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// The member gives back what it does not use; it answers nobody meanwhile.
    fn defragment(&self) -> Result<(), String> {
        self.call::<Value>("maintenance/defragment", &json!({})).map(|_| ())
    }

    /// Takes all members' alarms of a used-up quota away.
    fn disarm(&self) -> Result<(), String> {
        let body = |member: &Value| json!({ "action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE" });
        let alarms: Alarms = self.call("maintenance/alarm", &json!({ "action": "GET" }))?;
        alarms
            .alarms
            .iter()
            .try_for_each(|a| self.call::<Value>("maintenance/alarm", &body(&a["memberID"])).map(|_| ()))
    }

    /// Writes a snapshot of the member's data, as `etcdctl snapshot save` has it.
    fn snapshot(&self, out: &mut dyn Write) -> Result<(), String> {
        let what = "maintenance/snapshot";
        let response =
            self.agent.post(format!("{}/v3/{what}", self.url)).send("{}").map_err(|e| format!("{what}: {e}"))?;
        let status = response.status();
        let mut lines = BufReader::new(response.into_body().into_reader());
        // The last part is the digest of those before it.
        let (mut sum, mut last) = (Sha256::new(), Vec::new());
        loop {
            let mut line = Vec::new();
            (&mut lines).take(ANSWER_MAX).read_until(b'\n', &mut line).map_err(|e| format!("{what}: {e}"))?;
            if line.is_empty() {
                break;
            }
            let said = serde_json::from_slice::<Value>(&line).map_err(|e| format!("{what}: {e}"))?;
            let Some(part) = said.get("result").filter(|_| status.is_success()) else {
                return Err(format!("{what}: {}", refusal(&said.get("error").unwrap_or(&said).to_string())));
            };
            let blob = part["blob"].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(blob).map_err(|e| format!("{what}: {e}"))?;
            out.write_all(&bytes).map_err(|e| format!("writing: {e}"))?;
            sum.update(&last);
            last = bytes;
        }
        if sum.finalize()[..] == last[..] { Ok(()) } else { Err(format!("{what}: it ended before its end")) }
    }

    /// This member, which leads, gives the lead to another one, and waits until that has it.
    fn give_lead(&self, id: &str) -> Result<(), String> {
        self.call::<Value>("maintenance/transfer-leadership", &json!({ "targetID": id })).map(drop)
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

/// Whether nobody said anything: not that there is no etcd, and not that a connection is over.
fn silent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(_) => true,
        ureq::Error::Io(e) => {
            matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
        }
        _ => false,
    }
}

/// Whether the member on this node sees a leader.
pub(crate) fn sees_leader() -> bool {
    Gateway::local().and_then(|g| g.status()).is_ok_and(|s| s.sees_leader())
}

/// The members that the apiserver of this node has: the one beside it, or all.
fn of_apiserver(config: &NodeConfig) -> Vec<IpAddr> {
    match config.roles.contains(&Role::Etcd) {
        true => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        false => config.members.values().copied().collect(),
    }
}

/// Whether a member that the apiserver of this node has sees a leader; else why not, of the last one.
pub(crate) fn serves_apiserver(config: &NodeConfig) -> Result<(), String> {
    first_of(of_apiserver(config), |address| {
        let bound = if address.is_loopback() { LOCAL_SILENCE } else { SILENCE };
        match Gateway::as_apiserver(address, bound).and_then(|g| g.status()) {
            Ok(status) if status.sees_leader() => Ok(()),
            Ok(_) => Err(format!("{address} sees no leader")),
            Err(e) => Err(format!("{address}: {e}")),
        }
    })
}

/// Whether the etcd of this node's apiserver has a key with a prefix.
pub(crate) fn has_keys(config: &NodeConfig, prefix: &'static [u8]) -> Result<bool, String> {
    first_of(of_apiserver(config), |address| Gateway::as_apiserver(address, SILENCE).and_then(|g| g.has_keys(prefix)))
}

/// The first good answer of members that are all asked at once: one without power is not waited for. Else the last one's error.
fn first_of<T: Send + 'static>(
    members: Vec<IpAddr>,
    ask: impl Fn(IpAddr) -> Result<T, String> + Copy + Send + 'static,
) -> Result<T, String> {
    let (tell, told) = channel();
    for address in members {
        let tell = tell.clone();
        // Whoever is late finds that nobody listens any more.
        std::thread::spawn(move || drop(tell.send(ask(address))));
    }
    drop(tell);
    let mut why = "there is no member".to_owned();
    for answer in told {
        match answer {
            Ok(good) => return Ok(good),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// etcd's words for why not.
fn refusal(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value["message"].as_str().unwrap_or(text).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_member_that_is_silent_is_not_waited_for() {
        // It answers when the test is over.
        static SILENT: Mutex<()> = Mutex::new(());
        let over = SILENT.lock().expect("free");
        let of = |members: &[u8]| {
            let members = members.iter().map(|m| IpAddr::from([192, 0, 2, *m])).collect();
            first_of(members, |address| match address.to_string().as_str() {
                "192.0.2.1" => SILENT.lock().map(drop).map_err(|e| e.to_string()),
                "192.0.2.2" => Err("refused".into()),
                _ => Ok(()),
            })
        };
        assert_eq!(of(&[1, 2, 3]), Ok(()));
        assert_eq!(of(&[2, 2]), Err("refused".into()));
        assert_eq!(of(&[]), Err("there is no member".into()));
        drop(over);
    }

    #[test]
    fn reads_etcds_answers() {
        let led = r#"{"header":{"member_id":"372","revision":"9"},"version":"3.7.3","leader":"10276657743932975437","raftTerm":"2","dbSize":"20480","dbSizeInUse":"16384","dbSizeQuota":"2147483648"}"#;
        let status: Status = serde_json::from_str(led).expect("a status");
        assert!(status.sees_leader() && !status.is_learner && status.id() == "372");
        assert!(!status.is_leader() && !status.has_alarm() && status.revision() == "9");
        assert_eq!((status.size, status.in_use, status.quota), (20_480, 16_384, 2_147_483_648));
        let full = r#"{"header":{"member_id":"7"},"leader":"7","errors":["memberID:7 alarm:NOSPACE "]}"#;
        let full: Status = serde_json::from_str(full).expect("a status");
        assert!(full.is_leader() && full.has_alarm());
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

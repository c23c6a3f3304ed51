//! A client of etcd's JSON gateway, over TLS with certificates of the seed's directory.

use crate::clock::Clock;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// An answer takes at most so much of the guest's time.
const ANSWER: Duration = Duration::from_secs(10);

/// The client.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    bound: Duration,
}

impl Client {
    /// With the operator's certificate.
    pub fn new(to: SocketAddr, seed: &Path, clock: Clock) -> Result<Self> {
        let read = |n: &str| std::fs::read_to_string(seed.join(n)).with_context(|| format!("reading {n}"));
        let (cert, key) = (read("etcd-admin.crt")?, read("etcd-admin.key")?);
        Self::with(to, &read("etcd-server-ca.crt")?, Some((&cert, &key)), clock)
    }

    /// With another certificate, or none.
    pub fn with(to: SocketAddr, ca: &str, pair: Option<super::tls::Pair<'_>>, clock: Clock) -> Result<Self> {
        let config = super::tls::agent(ca, pair)?.build();
        Ok(Self { agent: config.into(), url: format!("https://{to}"), bound: clock.host(ANSWER) })
    }

    fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let response = request.config().timeout_global(Some(self.bound)).build().send(body.to_string())?;
        let status = response.status();
        let text = response.into_body().read_to_string()?;
        if !status.is_success() {
            bail!("etcd answered {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("etcd said {text}"))
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.call("/v3/kv/put", &json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) })).map(|_| ())
    }

    /// Reads a key, linearizably.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let answer = self.call("/v3/kv/range", &json!({ "key": STANDARD.encode(key) }))?;
        let Some(value) = answer["kvs"][0]["value"].as_str() else { return Ok(None) };
        Ok(Some(String::from_utf8(STANDARD.decode(value)?)?))
    }

    /// All keys that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        // etcd's end of a prefix: its last byte, one higher.
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let body = json!({ "key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end), "keys_only": true });
        let answer = self.call("/v3/kv/range", &body)?;
        let keys = answer["kvs"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|k| Ok(String::from_utf8(STANDARD.decode(k["key"].as_str().unwrap_or_default())?)?)).collect()
    }

    /// Holds a connection with a watch on it for so long (host time). Answers when it was cut, and how, if it was.
    pub fn hold(&self, key: &str, lasts: Duration) -> Result<Option<(Duration, String)>> {
        let began = Instant::now();
        let request = self.agent.post(format!("{}/v3/watch", self.url)).config().timeout_recv_body(Some(lasts)).build();
        let body = json!({ "create_request": { "key": STANDARD.encode(key) } });
        let mut stream = request.send(body.to_string()).context("opening a watch")?.into_body().into_reader();
        let mut buffer = [0; 4096];
        loop {
            let how = match std::io::Read::read(&mut stream, &mut buffer) {
                Ok(n) if n > 0 => continue,
                Ok(_) => "closed".to_owned(),
                Err(e) => e.to_string(),
            };
            let elapsed = began.elapsed();
            return Ok((elapsed < lasts).then_some((elapsed, how)));
        }
    }

    /// How long a request may take, in guest time, instead of the default.
    pub fn patient(mut self, guest: Duration, clock: Clock) -> Self {
        self.bound = clock.host(guest);
        self
    }

    /// Gives the leadership to another member (by its id); asked of the leader.
    pub fn move_leader(&self, target: &str) -> Result<()> {
        self.call("/v3/maintenance/transfer-leadership", &json!({ "targetID": target })).map(|_| ())
    }

    /// This member's id, and its leader's; none where it sees none.
    pub fn leader(&self) -> Result<(String, Option<String>)> {
        let answer = self.call("/v3/maintenance/status", &json!({}))?;
        let id = answer["header"]["member_id"].as_str().context("no id")?.to_owned();
        Ok((id, answer["leader"].as_str().filter(|l| *l != "0").map(String::from)))
    }

    /// The term of its leader: how many elections there were.
    pub fn term(&self) -> Result<String> {
        let answer = self.call("/v3/maintenance/status", &json!({}))?;
        Ok(answer["raftTerm"].as_str().context("no term")?.to_owned())
    }

    /// The newest revision that this member knows.
    pub fn revision(&self) -> Result<u64> {
        let answer = self.call("/v3/maintenance/status", &json!({}))?;
        answer["header"]["revision"].as_str().unwrap_or("0").parse().context("a revision")
    }

    fn member_list(&self) -> Result<Vec<Value>> {
        let answer = self.call("/v3/cluster/member/list", &json!({}))?;
        answer["members"].as_array().cloned().context("no members")
    }

    /// Takes a member out; one that is out already is fine.
    pub fn remove(&self, name: &str) -> Result<()> {
        let members = self.member_list()?;
        let Some(member) = members.iter().find(|m| m["name"] == name) else { return Ok(()) };
        self.call("/v3/cluster/member/remove", &json!({ "ID": member["ID"] })).map(|_| ())
    }

    /// The cluster's members: ids, in order.
    pub fn member_ids(&self) -> Result<Vec<String>> {
        let mut ids: Vec<_> = self.member_list()?.iter().filter_map(|m| m["ID"].as_str().map(String::from)).collect();
        ids.sort();
        Ok(ids)
    }

    /// Names of members without a vote.
    pub fn learners(&self) -> Result<Vec<String>> {
        let learners = self.member_list()?.into_iter().filter(|m| m["isLearner"] == true);
        Ok(learners.map(|m| m["name"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// The cluster's members: names.
    pub fn members(&self) -> Result<Vec<String>> {
        Ok(self.member_list()?.iter().filter_map(|m| m["name"].as_str().map(String::from)).collect())
    }
}

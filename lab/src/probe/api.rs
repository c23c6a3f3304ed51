//! A client of Kubernetes' API, or of whatever stands in front of it or in its place: a new TLS connection for each request,
//! and streams that are held.

use crate::clock::Clock;
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// No stream is held for longer: one that is neither cut nor says anything would be for ever. Guest time.
const HOLD_MAX: Duration = Duration::from_secs(120);

/// A stream that is to be held may take so long until it begins. Guest time.
const OPEN: Duration = Duration::from_secs(5);

/// The client.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    bound: Duration,
}

/// What became of a stream that was held. Guest time.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// What HTTP said of it.
    pub status: u16,
    /// How it ended; none = it went on until it was told to stop.
    pub cut: Option<String>,
    /// How long it was held.
    pub lasted: Duration,
    /// The longest time without a word.
    pub silence: Duration,
}

/// What a refusal says: the message of a `Status` (Kubernetes' API conventions, "Response Status Kind"), or all of it.
fn words(text: &str) -> String {
    let status: Option<serde_json::Value> = serde_json::from_str(text).ok();
    status.and_then(|s| Some(s["message"].as_str()?.to_owned())).unwrap_or_else(|| text.to_owned())
}

impl Client {
    /// Believes the cluster's CA out of the seed's directory; a request is given up after so much guest time.
    pub fn new(to: SocketAddr, seed: &Path, patience: Duration, clock: Clock) -> Result<Self> {
        let path = seed.join("cluster-ca.crt");
        let ca = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::with(to, &ca, None, patience, clock)
    }

    /// Believes a CA, and shows a certificate of its own where one is given: PEM.
    pub fn with(
        to: SocketAddr,
        ca: &str,
        pair: Option<super::tls::Pair<'_>>,
        patience: Duration,
        clock: Clock,
    ) -> Result<Self> {
        let config = super::tls::agent(ca, pair)?.max_idle_connections(0).build();
        Ok(Self { agent: config.into(), url: format!("https://{to}"), bound: clock.host(patience) })
    }

    /// The body of an answer, over a connection of its own.
    pub fn get(&self, path: &str) -> Result<String> {
        let request = self.agent.get(format!("{}{path}", self.url)).config().timeout_global(Some(self.bound)).build();
        let response = request.call()?;
        let status = response.status();
        let text = response.into_body().read_to_string()?;
        ensure!(status.is_success(), "{path} answered {status}: {}", words(&text));
        Ok(text)
    }

    /// Makes something; the body of the answer. A connection of its own, as for all of these.
    pub fn post(&self, path: &str, body: &serde_json::Value) -> Result<String> {
        let request = self.agent.post(format!("{}{path}", self.url)).content_type("application/json");
        self.sent(path, request, body)
    }

    /// Changes the fields that `body` names (RFC 7386).
    pub fn merge(&self, path: &str, body: &serde_json::Value) -> Result<String> {
        let request = self.agent.patch(format!("{}{path}", self.url)).content_type("application/merge-patch+json");
        self.sent(path, request, body)
    }

    /// Takes something away; one that is not there is fine.
    pub fn delete(&self, path: &str) -> Result<String> {
        let request =
            self.agent.delete(format!("{}{path}", self.url)).config().timeout_global(Some(self.bound)).build();
        let response = request.call()?;
        let status = response.status();
        let text = response.into_body().read_to_string()?;
        ensure!(status.is_success() || status == 404, "{path} answered {status}: {}", words(&text));
        Ok(text)
    }

    fn sent(
        &self,
        path: &str,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &serde_json::Value,
    ) -> Result<String> {
        let response = request.config().timeout_global(Some(self.bound)).build().send(body.to_string())?;
        let status = response.status();
        let text = response.into_body().read_to_string()?;
        ensure!(status.is_success(), "{path} answered {status}: {}", words(&text));
        Ok(text)
    }

    /// Holds a stream that says something now and then, until `stop` is set or it is cut.
    pub fn hold(&self, path: &str, clock: Clock, stop: &AtomicBool) -> Result<Held> {
        self.hold_telling(path, clock, stop, || {})
    }

    /// Holds it for so long at most, guest time, because whoever is at the other end may be gone without a word; `heard` gets
    /// what it says, and answers whether that is enough.
    pub fn follow(&self, path: &str, clock: Clock, most: Duration, heard: impl FnMut(&[u8]) -> bool) -> Result<Held> {
        self.held(path, clock, &AtomicBool::new(false), most, || {}, heard)
    }

    /// Holds a stream as [`Client::hold`] does; tells when it is open.
    pub fn hold_telling(&self, path: &str, clock: Clock, stop: &AtomicBool, opened: impl FnOnce()) -> Result<Held> {
        self.held(path, clock, stop, HOLD_MAX, opened, |_| false)
    }

    fn held(
        &self,
        path: &str,
        clock: Clock,
        stop: &AtomicBool,
        most: Duration,
        opened: impl FnOnce(),
        mut heard: impl FnMut(&[u8]) -> bool,
    ) -> Result<Held> {
        let open = Some(clock.host(OPEN));
        let bounds = self.agent.get(format!("{}{path}", self.url)).config().timeout_connect(open);
        let bounds = bounds.timeout_recv_response(open).timeout_recv_body(Some(clock.host(most)));
        let answer = bounds.build().call()?;
        let status = answer.status().as_u16();
        let mut stream = answer.into_body().into_reader();
        opened();
        let began = Instant::now();
        let (mut last, mut silence) = (began, Duration::ZERO);
        let mut buffer = [0; 4096];
        let mut cut = None;
        let mut enough = false;
        while cut.is_none() && !enough && !stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                // The words of a refusal are not the stream's.
                Ok(n) if n > 0 => enough = status == 200 && heard(&buffer[..n]),
                Ok(_) => cut = Some("closed".to_owned()),
                Err(e) => cut = Some(e.to_string()),
            }
            silence = silence.max(last.elapsed());
            last = Instant::now();
        }
        Ok(Held { status, cut, lasted: clock.guest(began.elapsed()), silence: clock.guest(silence) })
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_refusal_in_its_own_words() {
        assert_eq!(words(r#"{"kind":"Status","metadata":{},"message":"not yet ready","code":403}"#), "not yet ready");
        assert_eq!(words("404 page not found"), "404 page not found");
    }
}

//! Kubernetes' API over HTTPS, as JSON: `https://kubernetes.io/docs/reference/using-api/api-concepts/`.

use crate::clock::named;
use contract::kube;
use contract::node::NodeConfig;
use contract::paths::PKI;
use contract::ports::API;
use rustls::CertificateError;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::time::Duration;

/// An apiserver that is busy answers late; what takes longer is asked again.
const SILENCE: Duration = Duration::from_secs(10);
/// While a cluster starts the virtual IP moves, and who was connected to its last holder hears nothing any more.
const SILENCE_AT_START: Duration = Duration::from_secs(2);
/// Whoever answers so late is no better than others.
const SILENCE_OF_SOME: Duration = Duration::from_secs(1);
/// A watch is ended by the server after this, and begun anew.
const WATCH: Duration = Duration::from_secs(240);
/// An answer, or a line of a watch, is at most this long, in bytes.
const ANSWER_MAX: u64 = 8 << 20;

/// What an answer was, if not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such thing.
    NotFound,
    /// Who asks is known, and may not.
    Forbidden,
    /// Who asks is not known.
    Unauthorized,
    /// Who answers has no certificate of this cluster's CA; in the transport's words.
    Stranger(String),
    /// Anything else, in the server's words or the transport's.
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such thing"),
            Self::Forbidden => f.write_str("that is forbidden"),
            Self::Unauthorized => f.write_str("the credentials are not known"),
            Self::Stranger(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// A way to the API.
#[derive(Debug)]
pub(super) struct Api {
    agent: ureq::Agent,
    base: String,
    /// Beside, or instead of, a certificate.
    token: Option<String>,
}

impl Api {
    /// The apiserver on this node, as the agent, who may do everything.
    pub(super) fn local(config: &NodeConfig) -> Result<Self, String> {
        let base = format!("https://{}", SocketAddr::new(config.node.address, API));
        let file = |name: &str| format!("{PKI}/agent/{name}");
        Self::with(base, &file("ca.crt"), Some((&file("client.crt"), &file("client.key"))), None, SILENCE)
    }

    /// Some apiserver that load balancers send this master's agent to, who does not wait long for it.
    pub(super) fn at_endpoint(config: &NodeConfig) -> Result<Self, String> {
        let endpoint = config.cluster.endpoint.as_deref().ok_or("quorate.cluster.endpoint is missing")?;
        let file = |name: &str| format!("{PKI}/agent/{name}");
        let pair = (file("client.crt"), file("client.key"));
        let bound = SILENCE_OF_SOME;
        Self::with(format!("https://{endpoint}"), &file("ca.crt"), Some((&pair.0, &pair.1)), None, bound)
    }

    /// The endpoint, as this worker's kubelet, which has its certificate by then.
    pub(super) fn as_kubelet(config: &NodeConfig) -> Result<Self, String> {
        let endpoint = config.cluster.endpoint.as_deref().ok_or("quorate.cluster.endpoint is missing")?;
        let ca = format!("{PKI}/kubelet/ca.crt");
        let own = kube::KUBELET_OWN_CERT;
        Self::with(format!("https://{endpoint}"), &ca, Some((own, own)), None, SILENCE)
    }

    /// The endpoint, as this worker before it has a certificate; health is asked as nobody.
    pub(super) fn with_token(config: &NodeConfig) -> Result<Self, String> {
        let endpoint = config.cluster.endpoint.as_deref().ok_or("quorate.cluster.endpoint is missing")?;
        let token = config.kubernetes().bootstrap_tokens.get(config.name()).cloned();
        Self::with(format!("https://{endpoint}"), &format!("{PKI}/kubelet/ca.crt"), None, token, SILENCE_AT_START)
    }

    fn with(
        base: String,
        ca: &str,
        pair: Option<(&str, &str)>,
        token: Option<String>,
        bound: Duration,
    ) -> Result<Self, String> {
        Ok(Self { agent: crate::https::client(ca, pair, bound)?, base, token })
    }

    /// Whether a health check answers with 200; else what it says.
    pub(super) fn is_well(&self, path: &str) -> Result<(), String> {
        let response = self.agent.get(format!("{}{path}", self.base)).call().map_err(|e| named(&e.to_string()))?;
        let status = response.status();
        let text = response.into_body().into_with_config().limit(ANSWER_MAX).read_to_string();
        let text = text.map_err(|e| e.to_string())?;
        if status.is_success() {
            return Ok(());
        }
        let failed: Vec<&str> =
            text.lines().filter(|l| l.starts_with("[-]")).map(|l| l.trim_start_matches("[-]")).collect();
        Err(if failed.is_empty() { message(&text) } else { failed.join(", ") })
    }

    /// An object, or a list of them.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        answer(self.known(self.agent.get(format!("{}{path}", self.base))).call())
    }

    /// With the token, where that is who asks.
    fn known<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Puts an object in the place of what is there.
    pub(super) fn put(&self, path: &str, value: &Value) -> Result<Value, Failure> {
        let request = self.agent.put(format!("{}{path}", self.base)).content_type("application/json");
        answer(request.send(value.to_string()))
    }

    /// Makes something.
    pub(super) fn post(&self, path: &str, value: &Value) -> Result<Value, Failure> {
        let request = self.known(self.agent.post(format!("{}{path}", self.base)));
        answer(request.content_type("application/json").send(value.to_string()))
    }

    /// Changes the fields that `value` names, null = takes them away (RFC 7386).
    pub(super) fn merge(&self, path: &str, value: &Value) -> Result<Value, Failure> {
        let request = self.agent.patch(format!("{}{path}", self.base)).content_type("application/merge-patch+json");
        answer(request.send(value.to_string()))
    }

    /// Server-side apply: the fields of `value` become this manager's, and what it says; other fields are left alone.
    pub(super) fn apply(&self, path: &str, value: &Value) -> Result<Value, Failure> {
        let url = format!("{}{path}?fieldManager=quorate&force=true", self.base);
        // JSON is YAML.
        answer(self.agent.patch(url).content_type("application/apply-patch+yaml").send(value.to_string()))
    }

    /// Everything that is there and that changes, until the server ends it: each event goes to `seen`.
    pub(super) fn watch(&self, path: &str, mut seen: impl FnMut(&str, &Value)) -> Result<(), Failure> {
        let url = format!("{}{path}?watch=true&timeoutSeconds={}", self.base, WATCH.as_secs());
        let request = self.agent.get(url).config().timeout_global(Some(WATCH + SILENCE)).build();
        let response = request.call().map_err(|e| other(&e))?;
        if !response.status().is_success() {
            return answer(Ok(response)).map(|_| ());
        }
        let mut lines = BufReader::new(response.into_body().into_reader());
        loop {
            let mut line = Vec::new();
            let n = lines.by_ref().take(ANSWER_MAX).read_until(b'\n', &mut line).map_err(|e| other(&e))?;
            if n == 0 {
                return Ok(());
            }
            let event: Value = serde_json::from_slice(&line).map_err(|e| other(&e))?;
            let kind = event["type"].as_str().unwrap_or_default();
            if kind == "ERROR" {
                return Err(Failure::Other(message(&event["object"].to_string())));
            }
            seen(kind, &event["object"]);
        }
    }
}

/// The transport's words, with the clock where they are about time.
fn other(e: &dyn std::fmt::Display) -> Failure {
    Failure::Other(named(&e.to_string()))
}

/// What no waiting cures; a certificate's time may be this node's clock, which is set when it hears a time server.
fn is_of_another_ca(e: &ureq::Error) -> bool {
    let ureq::Error::Io(e) = e else { return false };
    let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let certificate = tls.and_then(|e| if let rustls::Error::InvalidCertificate(why) = e { Some(why) } else { None });
    certificate.is_some_and(|why| matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature))
}

fn answer(sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
    let response = sent.map_err(|e| if is_of_another_ca(&e) { Failure::Stranger(e.to_string()) } else { other(&e) })?;
    let status = response.status();
    let text = response.into_body().into_with_config().limit(ANSWER_MAX).read_to_string().map_err(|e| other(&e))?;
    match status.as_u16() {
        401 => return Err(Failure::Unauthorized),
        403 => return Err(Failure::Forbidden),
        404 => return Err(Failure::NotFound),
        _ => {}
    }
    if !status.is_success() {
        return Err(Failure::Other(message(&text)));
    }
    serde_json::from_str(&text).map_err(|e| other(&e))
}

/// What a `Status` says (meta/v1), or the beginning of what is none.
fn message(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value["message"].as_str().unwrap_or(text).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::{Failure, answer, message};
    use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::time::Duration;

    fn ca() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).expect("a CA").pem(), Issuer::new(params, key))
    }

    /// Turns one client away as somebody whom it does not know.
    fn apiserver(ca: &Issuer<'static, KeyPair>) -> SocketAddr {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("a name");
        let chain = vec![params.signed_by(&key, ca).expect("signed").der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = ServerConfig::builder_with_provider(crate::pki::provider()).with_safe_default_protocol_versions();
        let tls = tls.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(tls)).expect("ready"), stream);
            // One that does not believe it goes in the handshake.
            if stream.read(&mut [0; 4096]).is_ok() {
                stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").expect("answered");
            }
        });
        address
    }

    #[test]
    fn an_apiserver_of_another_ca_is_told_from_one_that_does_not_know_who_asks() {
        let dir = tempfile::tempdir().expect("a directory");
        let (pem, own) = ca();
        let path = dir.path().join("ca.crt").display().to_string();
        std::fs::write(&path, pem).expect("written");
        let ask = |server: &Issuer<'static, KeyPair>| {
            let client = crate::https::client(&path, None, Duration::from_secs(5)).expect("a client");
            answer(client.get(format!("https://{}/", apiserver(server))).call()).expect_err("turned away")
        };
        assert_eq!(ask(&own), Failure::Unauthorized);
        let said = ask(&ca().1);
        assert!(matches!(&said, Failure::Stranger(e) if e.contains("invalid peer certificate")), "{said:?}");
    }

    #[test]
    fn refusals_in_the_servers_words() {
        assert_eq!(
            message(r#"{"kind":"Status","message":"nodes \"a\" not found","code":404}"#),
            r#"nodes "a" not found"#
        );
        assert_eq!(message("Client sent an HTTP request"), "Client sent an HTTP request");
    }
}

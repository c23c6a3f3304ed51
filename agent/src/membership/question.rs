//! The one question that members' agents ask each other, on port 2382: TLS with the peer CA on both sides, etcd not
//! needed. The one who is asked says one JSON line and closes.

use super::decide::Answer;
use contract::node::NodeConfig;
use contract::paths::PKI;
use contract::ports::MEMBERSHIP;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A member that is up answers in milliseconds; one whose machine is down must not hold up the others' boot.
const SILENCE: Duration = Duration::from_millis(500);
/// An answer is one short line.
const ANSWER_MAX: u64 = 4096;

/// Who this member is to the others, and whom it believes.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Identity {
    /// From the peer leaf and the peer CA, as they lie on tmpfs.
    pub(crate) fn read() -> Result<Self, String> {
        let text = |name: &str| std::fs::read(format!("{PKI}/etcd/{name}")).map_err(|e| format!("{name}: {e}"));
        Self::from_pem(&text("peer.crt")?, &text("peer.key")?, &text("peer-ca.crt")?)
    }

    /// From PEM.
    pub(crate) fn from_pem(cert: &[u8], key: &[u8], ca: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        Ok(Self {
            certificates: vec![CertificateDer::from_pem_slice(cert).map_err(|e| e.to_string())?],
            key: Arc::new(PrivateKeyDer::from_pem_slice(key).map_err(|e| e.to_string())?),
            roots: Arc::new(roots),
        })
    }

    fn server(&self) -> Result<ServerConfig, String> {
        let provider = crate::pki::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider))
            .build()
            .map_err(|e| e.to_string())?;
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| e.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.certificates.clone(), self.key.clone_key())
            .map_err(|e| e.to_string())
    }

    fn client(&self) -> Result<ClientConfig, String> {
        ClientConfig::builder_with_provider(crate::pki::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| e.to_string())?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_auth_cert(self.certificates.clone(), self.key.clone_key())
            .map_err(|e| e.to_string())
    }
}

/// Asks one member; none when it does not answer.
pub(crate) fn ask(identity: &Identity, member: IpAddr) -> Option<Answer> {
    ask_at(identity, SocketAddr::new(member, MEMBERSHIP)).ok()
}

fn ask_at(identity: &Identity, to: SocketAddr) -> Result<Answer, String> {
    let stream = TcpStream::connect_timeout(&to, SILENCE).map_err(|e| e.to_string())?;
    bound(&stream)?;
    let name = ServerName::IpAddress(to.ip().into());
    let tls = ClientConnection::new(Arc::new(identity.client()?), name).map_err(|e| e.to_string())?;
    let mut line = String::new();
    BufReader::new(StreamOwned::new(tls, stream).take(ANSWER_MAX)).read_line(&mut line).map_err(|e| e.to_string())?;
    serde_json::from_str(&line).map_err(|e| e.to_string())
}

/// Whether a member's etcd serves its peers: not only a listening port, but somebody who completes a handshake.
pub(crate) fn serves_peers(identity: &Identity, member: IpAddr) -> bool {
    shakes_hands(identity, SocketAddr::new(member, contract::ports::ETCD_PEER)).is_ok()
}

fn shakes_hands(identity: &Identity, to: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE).map_err(|e| e.to_string())?;
    bound(&stream)?;
    let name = ServerName::IpAddress(to.ip().into());
    let mut tls = ClientConnection::new(Arc::new(identity.client()?), name).map_err(|e| e.to_string())?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn bound(stream: &TcpStream) -> Result<(), String> {
    let set = stream.set_read_timeout(Some(SILENCE)).and_then(|()| stream.set_write_timeout(Some(SILENCE)));
    set.map_err(|e| e.to_string())
}

/// Asks all other members at once.
pub(crate) fn ask_all(identity: &Identity, config: &NodeConfig) -> std::collections::BTreeMap<String, Option<Answer>> {
    let others: Vec<_> = config.members.iter().filter(|(n, _)| n.as_str() != config.name()).collect();
    std::thread::scope(|s| {
        let asked: Vec<_> = others.iter().map(|(name, ip)| (name, s.spawn(|| ask(identity, **ip)))).collect();
        asked.into_iter().map(|(name, thread)| ((*name).clone(), thread.join().ok().flatten())).collect()
    })
}

/// Answers for ever. One connection at a time: a member asks seldom, and each is bounded.
pub(crate) fn serve(listener: &TcpListener, identity: &Identity, answer: impl Fn() -> Answer) -> Result<(), String> {
    let config = Arc::new(identity.server()?);
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // A stranger, a scanner, a member that went away: the next one gets its answer all the same.
        let _ = answer_one(&config, stream, &answer);
    }
    Ok(())
}

fn answer_one(config: &Arc<ServerConfig>, stream: TcpStream, answer: &impl Fn() -> Answer) -> Result<(), String> {
    bound(&stream)?;
    let mut tls = ServerConnection::new(Arc::clone(config)).map_err(|e| e.to_string())?;
    let mut socket = stream;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|e| e.to_string())?;
    }
    let mut line = serde_json::to_vec(&answer()).map_err(|e| e.to_string())?;
    line.push(b'\n');
    tls.writer().write_all(&line).map_err(|e| e.to_string())?;
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut socket).map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::mark::Mark;
    use crate::pki::{issue, leaves::leaves, tests as pki};
    use contract::node::Ca;

    fn identity(ca: &Ca) -> Identity {
        let mut config = pki::config();
        config.node.address = IpAddr::from([127, 0, 0, 1]);
        let leaf = leaves(&config).remove(0);
        // The verifier asks the clock of the machine that the test runs on.
        let made = issue(&leaf, ca, 60, crate::clock::now()).expect("issued");
        Identity::from_pem(made.cert.as_bytes(), made.key.as_bytes(), ca.cert.as_bytes()).expect("an identity")
    }

    #[test]
    fn members_answer_members_and_nobody_else() {
        let ca = pki::ca();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        let server = identity(&ca);
        std::thread::spawn(move || {
            serve(&listener, &server, || Answer { mark: Some(Mark::Formed), leader: true, restore: 2 })
        });
        let answer = ask_at(&identity(&ca), to).expect("answered");
        assert_eq!(answer, Answer { mark: Some(Mark::Formed), leader: true, restore: 2 });
        // Of another CA: neither believes the other.
        assert!(ask_at(&identity(&pki::ca()), to).is_err());
        shakes_hands(&identity(&ca), to).expect("a handshake");
        let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert!(
            shakes_hands(&identity(&ca), deaf.local_addr().expect("an address")).is_err(),
            "listens, but serves not"
        );
        // Without a word: the next one is answered.
        drop(TcpStream::connect(to).expect("connected"));
        ask_at(&identity(&ca), to).expect("answered");
    }
}

//! What it answers: an apiserver's health over TLS, long streams and large bodies; and the agent's word for load balancers.

use crate::mode;
use contract::ports::{API, READY};
use contract::seed::NodeSeed;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A request's head is at most this long, in bytes.
const HEAD_MAX: usize = 8 << 10;
/// A connection's thread needs little.
const STACK: usize = 128 << 10;
/// Between two lines of a watch.
const TICK: Duration = Duration::from_millis(50);

pub(crate) fn start(seed: &NodeSeed) -> Result<(), String> {
    let own = seed.node.node.address;
    mode::listen(own)?;
    agent(own)?;
    let config = Arc::new(tls(seed)?);
    let name: Arc<str> = seed.node.name().into();
    let listener = TcpListener::bind(SocketAddr::new(own, API)).map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, name) = (Arc::clone(&config), Arc::clone(&name));
            // A connection that gets no thread is closed.
            let _ = std::thread::Builder::new().stack_size(STACK).spawn(move || {
                mode::pause();
                let _ = ServerConnection::new(config)
                    .map_err(std::io::Error::other)
                    .and_then(|tls| answer(StreamOwned::new(tls, stream), &name));
            });
        }
    });
    Ok(())
}

/// One word for each connection.
fn agent(own: IpAddr) -> Result<(), String> {
    let listener = TcpListener::bind(SocketAddr::new(own, READY)).map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let word: &[u8] = if mode::is_ready() { b"ready\n" } else { b"drain\n" };
            let _ = stream.write_all(word);
        }
    });
    Ok(())
}

fn tls(seed: &NodeSeed) -> Result<ServerConfig, String> {
    let ca = seed.node.pki.cluster_ca.as_ref().ok_or("the seed has no cluster CA")?;
    let key = ca.key.as_deref().ok_or("the seed has no key of the cluster CA")?;
    let make = || -> Result<(String, String), rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&ca.cert, KeyPair::from_pem(key)?)?;
        let own = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // As a master does: an hour back, for whoever's clock is behind.
        params.not_before = time::OffsetDateTime::UNIX_EPOCH + now().saturating_sub(Duration::from_secs(3600));
        params.not_after = params.not_before + time::Duration::days(365);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let vip = seed.node.endpoint_address().map(|a| a.ip());
        let addresses = [Some(seed.node.node.address), vip, Some(Ipv4Addr::LOCALHOST.into())];
        params.subject_alt_names.extend(addresses.into_iter().flatten().map(SanType::IpAddress));
        Ok((params.signed_by(&own, &issuer)?.pem(), own.serialize_pem()))
    };
    let (cert, key) = make().map_err(|e| e.to_string())?;
    let cert = CertificateDer::from_pem_slice(cert.as_bytes()).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .map_err(|e| e.to_string())
}

#[expect(clippy::disallowed_methods, reason = "a certificate begins now")]
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Requests of one connection, until it closes.
fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>, name: &str) -> std::io::Result<()> {
    stream.sock.set_nodelay(true)?;
    loop {
        let Some(head) = head(&mut stream)? else { return Ok(()) };
        let target = head.split_whitespace().nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let closes = head.to_ascii_lowercase().contains("connection: close");
        mode::pause();
        match path {
            "/livez" | "/healthz" => reply(&mut stream, "200 OK", b"ok")?,
            // What is not ready is its etcd, unless it only starts.
            "/readyz" if mode::is_ready() || mode::has_started() && target.contains("exclude=etcd") => {
                reply(&mut stream, "200 OK", b"ok")?;
            }
            "/readyz" => reply(&mut stream, "500 Internal Server Error", b"not ready")?,
            "/name" => reply(&mut stream, "200 OK", name.as_bytes())?,
            "/watch" => return watch(&mut stream),
            _ => match path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
                Some(n) => body(&mut stream, n)?,
                None => reply(&mut stream, "404 Not Found", b"")?,
            },
        }
        if closes {
            stream.conn.send_close_notify();
            return stream.flush();
        }
    }
}

fn head(stream: &mut impl Read) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            n => head.extend_from_slice(&chunk[..n]),
        }
        if head.len() > HEAD_MAX {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn reply(stream: &mut impl Write, status: &str, body: &[u8]) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    text.extend_from_slice(body);
    stream.write_all(&text)?;
    stream.flush()
}

/// So many bytes.
fn body(stream: &mut impl Write, bytes: u64) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())?;
    let chunk = [b'x'; 16 << 10];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(chunk.len() as u64);
        stream.write_all(&chunk[..usize::try_from(n).unwrap_or(0)])?;
        left -= n;
    }
    stream.flush()
}

/// A line every [`TICK`], for ever.
fn watch(stream: &mut impl Write) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        mode::pause();
        stream.write_all(b"5\r\ntick\n\r\n")?;
        stream.flush()?;
        std::thread::sleep(TICK);
    }
}

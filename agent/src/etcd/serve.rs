//! Snapshots over the network, for the operator (`quorate etcd …`, or curl): https on port 2384 of a member, for whoever has a
//! certificate of the etcd client CA, who may read all data anyway. etcd itself need not run.
//!
//! | request | answer |
//! |---|---|
//! | `GET /snapshots` | those that this member keeps, JSON |
//! | `GET /snapshots/NAME` | one of them |
//! | `PUT /restore` | takes the snapshot that the node's seed names by its digest, while the node waits for it |

use super::rotation;
use contract::node::Restore;
use contract::paths::{PKI, SNAPSHOT_TO_RESTORE, SNAPSHOTS};
use contract::{ports, users};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whoever says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// So many are served at once: whoever connects and says nothing holds up nobody else.
const AT_ONCE: usize = 8;
/// A request's head, bytes.
const HEAD_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 32;

/// What this member waits for.
#[derive(Debug)]
pub(crate) struct Awaited {
    restore: Mutex<Option<Restore>>,
    /// Held by whoever sends it.
    sending: Mutex<()>,
    /// As long as etcd's data may be, bytes.
    max: u64,
}

impl Awaited {
    /// From here on it is taken.
    pub(crate) fn expect(&self, restore: &Restore) {
        *self.restore.lock().unwrap_or_else(PoisonError::into_inner) = Some(restore.clone());
    }

    fn get(&self) -> Option<Restore> {
        self.restore.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where the snapshot of a restore lies.
pub(crate) fn to_restore(number: u64) -> PathBuf {
    PathBuf::from(format!("{SNAPSHOT_TO_RESTORE}-{number}"))
}

/// Serves, in threads of their own.
pub(crate) fn start(address: IpAddr, max: u64) -> Result<Arc<Awaited>, String> {
    let port = ports::SNAPSHOTS;
    let listener =
        TcpListener::bind(SocketAddr::new(address, port)).map_err(|e| format!("listening on port {port}: {e}"))?;
    let awaited = Arc::new(Awaited { restore: Mutex::new(None), sending: Mutex::new(()), max });
    let shared = Arc::clone(&awaited);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            // The listener has one of it as well.
            if Arc::strong_count(&shared) > AT_ONCE {
                continue;
            }
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                // A stranger, a scanner, an operator's broken line: it ends with its connection.
                if let Err(e) = tls().and_then(|tls| serve(stream, tls, &shared)) {
                    eprintln!("serving snapshots: {e}");
                }
            });
        }
    });
    Ok(awaited)
}

/// Read anew for each connection, so that renewed certificates count.
fn tls() -> Result<ServerConfig, String> {
    let at = |name: &str| format!("{PKI}/etcd/{name}");
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let mut roots = RootCertStore::empty();
    for trusted in CertificateDer::pem_file_iter(at("client-trust.crt")).map_err(|e| said(&e))? {
        roots.add(trusted.map_err(|e| said(&e))?).map_err(|e| said(&e))?;
    }
    let own = CertificateDer::from_pem_file(at("server.crt")).map_err(|e| said(&e))?;
    let key = PrivateKeyDer::from_pem_file(at("server.key")).map_err(|e| said(&e))?;
    let provider = crate::pki::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| said(&e))?
        .with_client_cert_verifier(verifier.map_err(|e| said(&e))?)
        .with_single_cert(vec![own], key)
        .map_err(|e| said(&e))
}

fn serve(stream: TcpStream, tls: ServerConfig, awaited: &Awaited) -> Result<(), String> {
    let set = stream.set_read_timeout(Some(SILENCE)).and_then(|()| stream.set_write_timeout(Some(SILENCE)));
    set.map_err(|e| e.to_string())?;
    let tls = ServerConnection::new(Arc::new(tls)).map_err(|e| e.to_string())?;
    let mut stream = StreamOwned::new(tls, stream);
    answer(&mut stream, awaited)?;
    stream.conn.send_close_notify();
    stream.flush().map_err(|e| e.to_string())
}

/// A request as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    method: String,
    path: String,
    length: Option<u64>,
    /// `Expect: 100-continue`.
    expects: bool,
    /// Bytes of it.
    size: usize,
}

/// None: there is more to come.
fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(size) = request.parse(bytes).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let text = |name: &str| {
        let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.and_then(|h| std::str::from_utf8(h.value).ok())
    };
    let length =
        text("content-length").map(|l| l.trim().parse().map_err(|_| "content-length: expected a number".to_owned()));
    Ok(Some(Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: request.path.unwrap_or_default().to_owned(),
        length: length.transpose()?,
        expects: text("expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue")),
        size,
    }))
}

fn answer(stream: &mut (impl Read + Write), awaited: &Awaited) -> Result<(), String> {
    let mut bytes = Vec::new();
    let head = loop {
        let mut buffer = [0; 1024];
        let n = stream.read(&mut buffer).map_err(|e| e.to_string())?;
        bytes.extend_from_slice(&buffer[..n]);
        match head(&bytes) {
            Ok(Some(head)) => break head,
            Ok(None) if n > 0 && bytes.len() <= HEAD_MAX => {}
            Ok(None) => return Err("a request without an end".into()),
            Err(e) => return reply(stream, "400 Bad Request", &format!("{e}\n")),
        }
    };
    match (head.method.as_str(), head.path.as_str()) {
        ("GET", "/snapshots") => {
            let text = serde_json::to_string(&rotation::list()).map_err(|e| e.to_string())?;
            reply(stream, "200 OK", &format!("{text}\n"))
        }
        ("GET", path) => {
            // Only what is in the list has a name.
            let name = path.strip_prefix("/snapshots/").unwrap_or_default();
            match rotation::list().into_iter().find(|k| k.name == name) {
                Some(kept) => send(stream, &rotation::path_of(&kept.name)),
                None => reply(stream, "404 Not Found", "there is no such snapshot; GET /snapshots lists them\n"),
            }
        }
        ("PUT", "/restore") => {
            let Some(wanted) = awaited.get() else {
                return reply(
                    stream,
                    "409 Conflict",
                    "this member waits for no snapshot: it needs the new seed, and a reboot\n",
                );
            };
            let Ok(_sending) = awaited.sending.try_lock() else {
                return reply(stream, "409 Conflict", "somebody else is sending it\n");
            };
            let Some(length) = head.length.filter(|l| *l <= awaited.max) else {
                return reply(
                    stream,
                    "413 Content Too Large",
                    &format!("expected a length of at most {} bytes\n", awaited.max),
                );
            };
            if head.expects {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|e| e.to_string())?;
            }
            let mut body = bytes[head.size..].chain(&mut *stream).take(length);
            let to = to_restore(wanted.number);
            let received = receive(&mut body, length, &wanted.sha256, Path::new(SNAPSHOTS), &to);
            match received {
                Ok(()) => reply(stream, "201 Created", "it is restored now\n"),
                Err(e) => reply(stream, "422 Unprocessable Content", &format!("{e}\n")),
            }
        }
        _ => reply(stream, "405 Method Not Allowed", "expected GET /snapshots, GET /snapshots/NAME or PUT /restore\n"),
    }
}

fn reply(stream: &mut impl Write, status: &str, text: &str) -> Result<(), String> {
    let length = text.len();
    let all = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
    stream.write_all(all.as_bytes()).and_then(|()| stream.flush()).map_err(|e| e.to_string())
}

fn send(stream: &mut impl Write, path: &Path) -> Result<(), String> {
    let mut file = fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    std::io::copy(&mut file, stream).map_err(|e| e.to_string())?;
    stream.flush().map_err(|e| e.to_string())
}

/// On disk under its name only when it is whole, and the one that was named.
fn receive(body: &mut impl Read, length: u64, sha256: &str, dir: &Path, to: &Path) -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", to.display());
    let incoming = dir.join("incoming-restore");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&incoming);
    let mut out = Summed { file: file.map_err(|e| said(&e))?, sum: Sha256::new() };
    let copied = std::io::copy(body, &mut out).map_err(|e| said(&e))?;
    let found: String = out.sum.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if copied != length || !found.eq_ignore_ascii_case(sha256) {
        // Nobody's.
        let _ = fs::remove_file(&incoming);
        return Err(format!(
            "expected the snapshot with the digest {sha256}, found {copied} of {length} bytes, {found}"
        ));
    }
    out.file.sync_all().map_err(|e| said(&e))?;
    // Whoever makes etcd's data of it is etcd's user; where tests run as somebody else, so is the file.
    if nix::unistd::geteuid().is_root() {
        chown(&incoming, Some(users::ETCD), Some(users::ETCD)).map_err(|e| said(&e))?;
    }
    fs::rename(&incoming, to).map_err(|e| said(&e))?;
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| said(&e))
}

struct Summed {
    file: fs::File,
    sum: Sha256,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// What comes in, and what went out.
    struct Line(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Line {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn asked(request: &[u8]) -> Result<String, String> {
        let awaited = Awaited { restore: Mutex::new(None), sending: Mutex::new(()), max: 1000 };
        let mut line = Line(Cursor::new(request.to_vec()), Vec::new());
        answer(&mut line, &awaited)?;
        Ok(String::from_utf8_lossy(&line.1).into_owned())
    }

    #[test]
    fn what_is_asked_is_answered_or_refused() {
        for (request, want) in [
            ("GET /snapshots HTTP/1.1\r\nhost: a\r\n\r\n", "200 OK"),
            ("GET /snapshots/../../etc/passwd HTTP/1.1\r\n\r\n", "404"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("PUT /restore HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", "409"),
            ("PUT /restore HTTP/1.1\r\ncontent-length: x\r\n\r\n", "400"),
            ("DELETE /snapshots HTTP/1.1\r\n\r\n", "405"),
            ("\u{1}\u{2}\r\n\r\n", "400"),
        ] {
            let said = asked(request.as_bytes()).expect(request);
            assert!(said.starts_with(&format!("HTTP/1.1 {want}")), "{request}: {said}");
        }
        assert!(asked(b"GET /snapshots HTTP/1.1\r\n").is_err(), "no end");
        assert!(asked(&[b'a'; HEAD_MAX * 2]).is_err(), "too long");
    }

    #[test]
    fn only_the_snapshot_that_was_named_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("to-restore-2");
        let sum: String = Sha256::digest(b"data").iter().map(|b| format!("{b:02x}")).collect();
        for (body, length) in [("date", 4), ("dat", 4), ("", 4)] {
            receive(&mut body.as_bytes(), length, &sum, dir.path(), &to).expect_err(body);
            assert!(!to.exists() && fs::read_dir(dir.path()).expect("listed").next().is_none(), "{body}");
        }
        receive(&mut b"data".as_slice(), 4, &sum, dir.path(), &to).expect("taken");
        assert_eq!(fs::read(&to).expect("there"), b"data");
    }

    proptest! {
        /// Whatever comes: an answer or an error, and no more than a head is kept of it.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = asked(&bytes);
        }
    }
}

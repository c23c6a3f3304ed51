//! Files over HTTP: seeds, and what a registry has.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

/// Serves a directory's files under `/n1/`, as a web server would; over TLS with a certificate that nobody knows, if one is given.
pub fn serve(listener: TcpListener, dir: PathBuf, tls: Option<Arc<rustls::ServerConfig>>) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: Box<dyn Stream> = match &tls {
                None => Box::new(stream),
                Some(config) => {
                    let session = rustls::ServerConnection::new(Arc::clone(config)).expect("a session");
                    Box::new(rustls::StreamOwned::new(session, stream))
                }
            };
            // All of the request: a connection that is closed with something unread is reset.
            let head: Vec<_> =
                BufReader::new(&mut stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
            let Some(line) = head.first() else { continue };
            let path = line.split_whitespace().nth(1).unwrap_or("/");
            let name =
                path.split('?').next().unwrap_or(path).trim_start_matches("/n1/").trim_start_matches('/').to_owned();
            let answer = match std::fs::read(dir.join(&name)) {
                Ok(body) => {
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    [head.into_bytes(), body].concat()
                }
                Err(_) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
            };
            // A client that went away asks again.
            let _ = stream.write_all(&answer).and_then(|()| stream.flush());
        }
    });
}

/// A server with this name that answers only whom `clients`, a CA in PEM, vouches for; its own CA, PEM.
pub fn tls_for(name: &str, clients: &str) -> (String, Arc<rustls::ServerConfig>) {
    use rustls::pki_types::pem::PemObject;
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(clients.as_bytes()).expect("PEM");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    (made.cert.pem(), Arc::new(config))
}

/// A server with the leaf of a CA of this machine's own, for whoever comes.
pub fn tls_of(pki: &crate::host_pki::HostPki) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pki.key.as_bytes()).expect("PEM");
    let cert = rustls::pki_types::CertificateDer::from_pem_slice(pki.cert.as_bytes()).expect("PEM");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key);
    Arc::new(config.expect("a configuration"))
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

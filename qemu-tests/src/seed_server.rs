//! Seeds over HTTP.

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
            let mut line = String::new();
            if BufReader::new(&mut stream).read_line(&mut line).is_err() {
                continue;
            }
            let name = line.split_whitespace().nth(1).unwrap_or("/").trim_start_matches("/n1/").to_owned();
            let answer = match std::fs::read(dir.join(&name)) {
                Ok(body) => {
                    let mut a =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    a.push_str(&String::from_utf8_lossy(&body));
                    a
                }
                Err(_) => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
            };
            // A client that went away asks again.
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
        }
    });
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

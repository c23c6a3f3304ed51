//! What runs inside the pods of tests, because no registry can be reached: a static program small enough for a ConfigMap.
//!
//!     quorate-box serve PORT            answers every GET with $BOX_TEXT, the pod's name and, under /file/PATH, a file
//!     quorate-box get HOST:PORT [PATH]  asks, after looking HOST up as a pod does (/etc/resolv.conf), and prints the answer
//!     quorate-box idle                  waits for the end
//!
//! The lookup is its own: a static glibc has none that works in every image.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

/// A cluster answers within milliseconds; a packet may be lost.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: u16 = 3;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["serve", port] => serve(port),
        ["get", to] => get(to, "/"),
        ["get", to, path] => get(to, path),
        ["idle"] => loop {
            std::thread::park();
        },
        _ => Err("expected serve PORT, get HOST:PORT [PATH] or idle".into()),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("quorate-box: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str) -> Result<String, String> {
    let port: u16 = port.parse().map_err(|e| format!("{port}: {e}"))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| e.to_string())?;
    println!("serving on {port}");
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let text = std::env::var("BOX_TEXT").unwrap_or_default();
    loop {
        let Ok((mut stream, _)) = listener.accept() else { continue };
        let mut line = String::new();
        let _ = stream.set_read_timeout(Some(PATIENCE));
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            continue;
        }
        let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
        println!("asked for {path}");
        let body = match path.strip_prefix("/file") {
            Some(file) => std::fs::read_to_string(file).unwrap_or_else(|e| format!("{file}: {e}")),
            None => format!("{text} from {}", name.trim()),
        };
        let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}

fn get(to: &str, path: &str) -> Result<String, String> {
    let (host, port) = to.rsplit_once(':').ok_or("expected HOST:PORT")?;
    let port: u16 = port.parse().map_err(|e| format!("{port}: {e}"))?;
    let ip = host.parse().or_else(|_| look_up(host))?;
    let to = SocketAddr::new(ip, port);
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| format!("{to}: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).map_err(|e| format!("{to}: {e}"))?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| format!("{to}: no answer"))
}

/// As a resolver does with Kubernetes' `ndots:5`: the search list first, then the name as it is.
fn look_up(host: &str) -> Result<IpAddr, String> {
    let conf = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| format!("/etc/resolv.conf: {e}"))?;
    let words = |key: &str| conf.lines().filter_map(|l| l.strip_prefix(key)).flat_map(str::split_whitespace).collect();
    let (servers, search): (Vec<&str>, Vec<&str>) = (words("nameserver "), words("search "));
    let server: IpAddr = servers.first().and_then(|s| s.parse().ok()).ok_or("no nameserver")?;
    let names = search.iter().map(|s| format!("{host}.{s}")).chain([host.to_owned()]);
    let mut last = format!("{host}: not found");
    for name in names {
        match ask(server, &name) {
            Ok(Some(ip)) => return Ok(ip),
            Ok(None) => {}
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// One question for an A record (RFC 1035, 4.1).
fn ask(server: IpAddr, name: &str) -> Result<Option<IpAddr>, String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    socket.connect((server, 53)).map_err(|e| e.to_string())?;
    let mut last = String::new();
    for id in 1..=TRIES {
        let mut question = Vec::from(id.to_be_bytes());
        question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).map_err(|e| e.to_string())?);
            question.extend(label.bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        socket.send(&question).map_err(|e| format!("{server}: {e}"))?;
        let mut answer = [0; 1500];
        match socket.recv(&mut answer) {
            Ok(n) => return Ok(address(&answer[..n], question.len())),
            Err(e) => last = format!("{server} does not answer: {e}"),
        }
    }
    Err(last)
}

/// The first A record behind the question.
fn address(answer: &[u8], mut at: usize) -> Option<IpAddr> {
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    for _ in 0..count {
        // A name: labels, or a pointer.
        loop {
            match *answer.get(at)? {
                0 => break at += 1,
                n if n >= 0xc0 => break at += 2,
                n => at += 1 + usize::from(n),
            }
        }
        let kind = answer.get(at..at + 2)?;
        let length = usize::from(u16::from_be_bytes([*answer.get(at + 8)?, *answer.get(at + 9)?]));
        let data = answer.get(at + 10..at + 10 + length)?;
        if kind == [0, 1] {
            return <[u8; 4]>::try_from(data).ok().map(IpAddr::from);
        }
        at += 10 + length;
    }
    None
}

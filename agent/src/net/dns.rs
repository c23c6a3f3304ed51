//! Names to addresses, without the C library's name service, which a static program must not call: addresses as they
//! are, names by one question over UDP to the configured servers (RFC 1035).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::transport::NextTimeout;

/// Where the network agent writes the servers.
pub(crate) const RESOLV_CONF: &str = "/run/quorate/etc/resolv.conf";
/// A server that does not answer within this is passed over.
const SILENCE: Duration = Duration::from_secs(2);

/// For the HTTP client.
#[derive(Debug)]
pub(crate) struct Resolver;

impl ureq::unversioned::resolver::Resolver for Resolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or_else(|| if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let mut found = self.empty();
        for ip in lookup(host).into_iter().take(8) {
            found.push(SocketAddr::new(ip, port));
        }
        if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
    }
}

/// The addresses of a host.
fn lookup(host: &str) -> Vec<IpAddr> {
    if let Ok(ip) = host.parse() {
        return vec![ip];
    }
    let conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let servers =
        conf.lines().filter_map(|l| l.strip_prefix("nameserver ")).filter_map(|s| s.trim().parse::<IpAddr>().ok());
    for server in servers {
        if let Some(found) = ask(SocketAddr::new(server, 53), host).filter(|f| !f.is_empty()) {
            return found;
        }
    }
    Vec::new()
}

fn ask(server: SocketAddr, host: &str) -> Option<Vec<IpAddr>> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.set_read_timeout(Some(SILENCE)).ok()?;
    socket.connect(server).ok()?;
    // The port is the kernel's choice and the socket is connected; the number only tells answers apart.
    let id = socket.local_addr().ok()?.port() ^ 0x5a5a;
    socket.send(&question(id, host)?).ok()?;
    let mut buffer = [0; 1500];
    let n = socket.recv(&mut buffer).ok()?;
    answers(&buffer[..n], id)
}

/// A question for A records.
fn question(id: u16, host: &str) -> Option<Vec<u8>> {
    let mut q = Vec::from(id.to_be_bytes());
    q.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]); // recursion desired, one question
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|l| (1..=63).contains(l))?;
        q.push(length);
        q.extend(label.bytes());
    }
    q.extend([0, 0, 1, 0, 1]);
    (q.len() <= 280).then_some(q)
}

/// The A records of an answer; none when it is not one to our question.
fn answers(message: &[u8], id: u16) -> Option<Vec<IpAddr>> {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    if word(0)? != id || message.get(2)? & 0x80 == 0 || message.get(3)? & 0x0f != 0 {
        return None;
    }
    let (questions, count) = (word(4)?, word(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..count.min(32) {
        at = skip_name(message, at)?;
        let (kind, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if let (1, [a, b, c, d]) = (kind, data) {
            found.push(IpAddr::from([*a, *b, *c, *d]));
        }
        at += 10 + length;
    }
    Some(found)
}

/// The position behind a name; a pointer ends it, and is never followed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            n if n & 0xc0 == 0xc0 => return Some(at + 2),
            n => at += 1 + usize::from(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn asks_and_understands() {
        let q = question(7, "seed.example").expect("a question");
        let mut a = q.clone();
        a[2] |= 0x80;
        a[7] = 2;
        a.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]); // a CNAME is passed over
        a.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 9]);
        assert_eq!(answers(&a, 7), Some(vec![IpAddr::from([10, 0, 0, 9])]));
        assert_eq!(answers(&a, 8), None, "somebody else's");
        assert_eq!(answers(&q, 7), None, "a question is no answer");
        assert_eq!(lookup("10.0.0.1"), [IpAddr::from([10, 0, 0, 1])]);
        assert!(question(1, "a..b").is_none() && question(1, &"x".repeat(64)).is_none());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = answers(&bytes, 0);
        }
    }
}

//! One request through HAProxy's event loop, to its frontend `health` (`init/src/roles/lb/haproxy.rs`): that it is answered
//! tells that HAProxy does not hang, and the answer which servers are up. And the words to it: that a server is down, and that its
//! connections are to be cut.

use super::watch::Masters;
use crate::hung::{Silence, local};
use contract::paths::LB;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// It answers within a millisecond; a node that is busy may be late.
const PATIENCE: Duration = Duration::from_millis(300);
/// An answer is some two hundred bytes.
const ANSWER_MAX: u64 = 4096;

/// Cuts the connections to a server.
pub(super) fn cut(server: &str) -> Result<(), String> {
    tell(&format!("shutdown sessions server {server}"))
}

/// Marks a server down, until two of its checks succeed.
pub(super) fn mark_down(server: &str) -> Result<(), String> {
    tell(&format!("set server {server} health down"))
}

/// A command (HAProxy's management guide, 9.3) whose answer is an empty line.
fn tell(command: &str) -> Result<(), String> {
    let told = || -> std::io::Result<String> {
        let mut stream = local(&format!("{LB}/sock/stats"), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    };
    match told() {
        Ok(answer) if answer.trim().is_empty() => Ok(()),
        Ok(answer) => Err(answer.trim().to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// Asks which of so many servers are up.
pub(super) fn haproxy(servers: usize) -> Result<Masters, Silence> {
    let stream = local(&format!("{LB}/sock/health"), PATIENCE);
    let stream = stream.map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Silence::Absent,
        _ => Silence::Mute(e.to_string()),
    })?;
    answer(stream, servers).map_err(|e| Silence::Mute(format!("no answer to the agent: {e}")))
}

fn answer(mut stream: UnixStream, servers: usize) -> Result<Masters, String> {
    let mut text = String::new();
    let bound = |left: Duration| left.max(Duration::from_millis(1));
    let deadline = Instant::now() + PATIENCE;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
    let mut buffer = [0; 512];
    while text.len() as u64 <= ANSWER_MAX {
        let left = bound(deadline.saturating_duration_since(Instant::now()));
        stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => text += &String::from_utf8_lossy(&buffer[..n]),
            Err(e) => return Err(e.to_string()),
        }
        if Instant::now() >= deadline {
            return Err("it did not answer in time".into());
        }
    }
    parse(&text, servers)
}

/// `HTTP/1.1 200 OK`, headers, an empty line, and 1 or 0 for each of [`contract::lb::servers`].
fn parse(text: &str, servers: usize) -> Result<Masters, String> {
    let (head, body) = text.split_once("\r\n\r\n").ok_or("its answer is no HTTP")?;
    if head.split_whitespace().nth(1) != Some("200") {
        return Err(format!("it answered `{}`", head.lines().next().unwrap_or_default()));
    }
    let up = body.split_whitespace().map(|word| match word {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(format!("expected 0 or 1, found `{word}`")),
    });
    let up = up.collect::<Result<Vec<bool>, _>>()?;
    // One that is cut short would tell that masters are dead.
    if up.len() != servers {
        return Err(format!("expected {servers} servers, found {}", up.len()));
    }
    Ok(Masters(up))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\na: b\r\n\r\n0 1", 2), Ok(Masters(vec![false, true])));
        let all = ["", "0", "0 1 ", "0 1 0", "0 2", "01", "0 -1"].map(|body| format!("HTTP/1.1 200 OK\r\n\r\n{body}"));
        let good: Vec<_> = all.iter().filter(|text| parse(text, 2).is_ok()).collect();
        assert_eq!(good, [&all[2]]);
        for bad in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 503 No\r\n\r\n0 1"] {
            assert!(parse(bad, 2).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,300}") {
            let _ = parse(&text, 2);
        }
    }
}

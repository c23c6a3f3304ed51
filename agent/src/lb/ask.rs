//! One request through HAProxy's event loop, to its frontend `health` (`init/src/roles/lb/haproxy.rs`): that it is answered
//! tells that HAProxy does not hang, and the answer which servers are up. A question to its command line: how their last
//! checks went. And the words to it: that a server is down, and that its connections are to be cut.

use super::watch::Masters;
use crate::hung::{Silence, local};
use contract::paths::LB;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// It answers within a millisecond; a node that is busy may be late.
const PATIENCE: Duration = Duration::from_millis(300);
/// An answer is some two hundred bytes, or that much for each server.
const ANSWER_MAX: u64 = 16 << 10;

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
    match command_line(command) {
        Ok(answer) if answer.trim().is_empty() => Ok(()),
        Ok(answer) => Err(answer.trim().to_owned()),
        Err(e) => Err(e),
    }
}

fn command_line(command: &str) -> Result<String, String> {
    let stream = local(&format!("{LB}/sock/stats"), PATIENCE).map_err(|e| e.to_string())?;
    answer(stream, &format!("{command}\n"))
}

/// Asks which of these servers are up ([`contract::lb::servers`]), and where one is not, how the checks of all went.
pub(super) fn haproxy(servers: &[String]) -> Result<Masters, Silence> {
    let stream = local(&format!("{LB}/sock/health"), PATIENCE);
    let stream = stream.map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Silence::Absent,
        _ => Silence::Mute(e.to_string()),
    })?;
    let up = answer(stream, "GET / HTTP/1.0\r\n\r\n").and_then(|text| parse(&text, servers.len()));
    let up = up.map_err(|e| Silence::Mute(format!("no answer to the agent: {e}")))?;
    let (alive, ready) = (&up[..servers.len() / 2], &servers[..servers.len() / 2]);
    // Nobody asks for more where all are well.
    let all_well = !alive.contains(&false);
    let health = if all_well { vec![Some(contract::lb::SOUND); ready.len()] } else { healths(ready) };
    Ok(Masters { up, health })
}

/// None for those of whom HAProxy does not tell.
fn healths(ready: &[String]) -> Vec<Option<u32>> {
    let state = command_line(&format!("show servers state {}", contract::lb::BACKENDS[0])).unwrap_or_default();
    ready.iter().map(|server| health(&state, server)).collect()
}

/// Of a server, `BACKEND/NAME`: a line with the format's version, one with the columns' names after a `#`, and one for each
/// server (the management guide, 9.3, "show servers state").
fn health(state: &str, server: &str) -> Option<u32> {
    let mut lines = state.lines().skip(1);
    let columns: Vec<&str> = lines.next()?.strip_prefix('#')?.split_whitespace().collect();
    let at = |name: &str| columns.iter().position(|c| *c == name);
    let (backend, name, health) = (at("be_name")?, at("srv_name")?, at("srv_check_health")?);
    lines.find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let its = server.split_once('/') == Some((words.get(backend)?, words.get(name)?));
        if its { words.get(health)?.parse().ok() } else { None }
    })
}

/// All of it, within [`PATIENCE`], however slowly it comes.
fn answer(mut stream: UnixStream, question: &str) -> Result<String, String> {
    let mut text = String::new();
    let bound = |left: Duration| left.max(Duration::from_millis(1));
    let deadline = Instant::now() + PATIENCE;
    stream.write_all(question.as_bytes()).map_err(|e| e.to_string())?;
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
    Ok(text)
}

/// `HTTP/1.1 200 OK`, headers, an empty line, and 1 or 0 for each of [`contract::lb::servers`].
fn parse(text: &str, servers: usize) -> Result<Vec<bool>, String> {
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
    Ok(up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\na: b\r\n\r\n0 1", 2), Ok(vec![false, true]));
        let all = ["", "0", "0 1 ", "0 1 0", "0 2", "01", "0 -1"].map(|body| format!("HTTP/1.1 200 OK\r\n\r\n{body}"));
        let good: Vec<_> = all.iter().filter(|text| parse(text, 2).is_ok()).collect();
        assert_eq!(good, [&all[2]]);
        for bad in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 503 No\r\n\r\n0 1"] {
            assert!(parse(bad, 2).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_health_of_a_server() {
        // HAProxy 3.0.11's answer; the second server's last check failed.
        let state = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
                     srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
                     srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
                     srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n\
                     2 ready 1 m1 127.0.0.1 2 0 1 1 2 15 3 3 6 0 0 0 - 7001 - 0 0 - - 0\n\
                     2 ready 2 m2 127.0.0.1 2 0 1 1 2 15 2 2 6 0 0 0 - 7002 - 0 0 - - 0\n\n";
        assert_eq!(health(state, "ready/m1"), Some(contract::lb::SOUND));
        assert_eq!(health(state, "ready/m2"), Some(contract::lb::SOUND - 1));
        for strange in ["ready/m3", "started/m1", "m1", ""] {
            assert_eq!(health(state, strange), None, "{strange}");
        }
        assert_eq!(health("Permission denied\n", "ready/m1"), None);
        assert_eq!(health("1\n# be_name srv_name\nready m1\n", "ready/m1"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,300}") {
            let _ = parse(&text, 2);
            let _ = health(&text, "ready/a");
        }

        #[test]
        fn nor_with_columns(text in "1\n#( be_name| srv_name| srv_check_health| a){0,5}\n([a 1]{0,9}\n){0,4}") {
            let _ = health(&text, "a/a");
        }
    }
}

//! Answers that go on: each in a thread of its own, which reads what nodes say and never touches the VMs.

use super::Answer;
use super::state::{State, state};
use lab::console::Console;
use lab::vm::Complaints;
use lab::voice::{Line, Voice};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A node's voice is looked at this often for a client that went away, and the console for a node without a voice: no
/// single event covers both. Host time.
const LOOK: Duration = Duration::from_millis(100);

/// QEMU's word for a guest that KVM gave up on (kvm_handle_internal_error in accel/kvm/kvm-all.c).
const BROKEN: &str = "KVM internal error";

/// Sends an answer; whether the client is still there.
pub(crate) fn send(client: &mut UnixStream, answer: &Answer) -> bool {
    let Ok(text) = serde_json::to_string(answer) else { return false };
    writeln!(client, "{text}").is_ok()
}

/// The last answer.
pub(crate) fn end(mut client: UnixStream, result: anyhow::Result<()>) {
    let answer = match result {
        Ok(()) => Answer::Done,
        Err(e) => Answer::Failed { why: format!("{e:#}") },
    };
    send(&mut client, &answer);
}

/// A node to follow.
pub(crate) struct Followed {
    pub(crate) name: String,
    pub(crate) voice: Voice,
    pub(crate) console: Console,
    pub(crate) complaints: Complaints,
    /// The first of its lines that counts.
    pub(crate) from: usize,
}

/// Sends every node's lines until all are ready, or says which is not, and what it said last.
pub(crate) fn follow(mut client: UnixStream, nodes: Vec<Followed>, bound: Duration) {
    let deadline = Instant::now() + bound;
    let mut open = nodes.len();
    let (sender, heard) = mpsc::channel();
    for node in nodes {
        let sender = sender.clone();
        std::thread::spawn(move || follow_one(&node, deadline, &sender));
    }
    drop(sender);
    let mut failures = Vec::new();
    for news in heard {
        match news {
            News::Said(node, line) => {
                let answer = Answer::Said { node, ms: line.ms, text: line.text };
                if !send(&mut client, &answer) {
                    return;
                }
            }
            News::Ready => open -= 1,
            News::Failed(why) => {
                open -= 1;
                failures.push(why);
            }
        }
        if open == 0 {
            break;
        }
    }
    let result = if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("; "))) };
    end(client, result);
}

enum News {
    Said(String, Line),
    Ready,
    Failed(String),
}

fn follow_one(node: &Followed, deadline: Instant, news: &mpsc::Sender<News>) {
    let mut at = node.from;
    let mut last = "nothing yet".to_owned();
    loop {
        let (lines, ended) = node.voice.wait(at, LOOK);
        at += lines.len();
        for line in lines {
            last.clone_from(&line.text);
            if news.send(News::Said(node.name.clone(), line)).is_err() {
                return;
            }
        }
        let name = &node.name;
        let now = state(true, &node.console.since(0), &node.voice.lines(node.from), node.voice.report().as_ref());
        let done = match now {
            State::Ready => News::Ready,
            State::Maintenance => News::Failed(format!("node {name} is in maintenance mode: {last}")),
            State::Stopped => News::Failed(format!(
                "node {name} stopped: {}",
                node.console.since(0).iter().rev().find(|l| l.contains("quorate:")).cloned().unwrap_or_default()
            )),
            // It stands still from then on, and says nothing.
            _ if node.complaints.text().contains(BROKEN) => News::Failed(format!(
                "this machine's KVM does not run the kernel of node {name} ({BROKEN}); hint: --accel tcg emulates it"
            )),
            _ if ended => News::Failed(format!("the machine of node {name} ended; it said last: {last}")),
            _ if Instant::now() > deadline => News::Failed(format!("node {name} is not ready; it said last: {last}")),
            _ => continue,
        };
        // Nobody listens any more: then it does not matter.
        let _ = news.send(done);
        return;
    }
}

/// PID 1's lines.
pub(crate) fn said(mut client: UnixStream, voice: &Voice, lines: u32, go_on: bool) {
    let known = voice.lines(0);
    let mut at = known.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
    loop {
        let (new, ended) = if go_on { voice.wait(at, LOOK) } else { (voice.lines(at), true) };
        at += new.len();
        for l in new {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of an uptime")]
            let text = format!("[{:>9.3}] {}", l.ms as f64 / 1000.0, l.text);
            if !send(&mut client, &Answer::Line { text }) {
                return;
            }
        }
        if ended || (go_on && is_gone(&client)) {
            return end(client, Ok(()));
        }
    }
}

/// A service's log.
pub(crate) fn log(mut client: UnixStream, voice: &Voice, service: &str, lines: u32, go_on: bool, bound: Duration) {
    let Ok(mut out) = client.try_clone() else { return };
    let result = voice.log(service, lines, go_on, bound, |line| match line {
        // Nothing new, for a while.
        "" => !is_gone(&client),
        line => send(&mut out, &Answer::Line { text: line.into() }),
    });
    client.flush().ok();
    end(client, result);
}

/// A console.
pub(crate) fn console(mut client: UnixStream, console: &Console, go_on: bool) {
    let mut at = 0;
    loop {
        let (lines, ended) = console.more(at, if go_on { LOOK } else { Duration::ZERO });
        at += lines.len();
        for text in lines {
            if !send(&mut client, &Answer::Line { text }) {
                return;
            }
        }
        if ended || !go_on || is_gone(&client) {
            return end(client, Ok(()));
        }
    }
}

/// Whether the client closed its end: it says nothing after its request.
fn is_gone(client: &UnixStream) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

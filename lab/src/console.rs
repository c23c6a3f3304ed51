//! What the guest says on its serial console, line by line. Tests wait for lines; they never sleep.

use anyhow::{Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Lines so far, and whether the guest still runs.
#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

/// The console.
#[derive(Clone, Debug, Default)]
pub struct Console {
    said: Arc<(Mutex<Said>, Condvar)>,
}

impl Console {
    /// Follows a stream until its end, keeping a copy in `log`.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static, mut log: impl Write + Send + 'static) {
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut raw = Vec::new();
            while reader.read_until(b'\n', &mut raw).is_ok_and(|n| n > 0) {
                let line = plain(&raw);
                raw.clear();
                // The copy is for people; a full disk must not stop the guest.
                let _ = writeln!(log, "{line}");
                if let Ok(mut s) = said.0.lock() {
                    s.lines.push(line);
                }
                said.1.notify_all();
            }
            if let Ok(mut s) = said.0.lock() {
                s.ended = true;
            }
            said.1.notify_all();
        });
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.said.0.lock().map_or(0, |s| s.lines.len())
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lines from a position on.
    pub fn since(&self, from: usize) -> Vec<String> {
        self.said.0.lock().map(|s| s.lines.get(from..).unwrap_or_default().to_vec()).unwrap_or_default()
    }

    /// Waits, at most so long in host time, until there are lines from `from` on; answers them and whether the machine has
    /// ended.
    pub fn more(&self, from: usize, host: Duration) -> (Vec<String>, bool) {
        let Ok(said) = self.said.0.lock() else { return (Vec::new(), true) };
        match self.said.1.wait_timeout_while(said, host, |s| s.lines.len() <= from && !s.ended) {
            Ok((s, _)) => (s.lines.get(from..).unwrap_or_default().to_vec(), s.ended),
            Err(_) => (Vec::new(), true),
        }
    }

    /// Waits for a line at or after `from` that `wanted` accepts; answers it with the position after it. `host` is
    /// the bound, in host time.
    pub fn wait(
        &self,
        from: usize,
        host: Duration,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(String, usize)> {
        let deadline = Instant::now() + host;
        let Ok(mut said) = self.said.0.lock() else { bail!("the console's reader failed") };
        let mut at = from;
        loop {
            while let Some(line) = said.lines.get(at) {
                at += 1;
                if wanted(line) {
                    return Ok((line.clone(), at));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                let why = if said.ended { "the machine ended" } else { "the time is up" };
                let tail: Vec<_> = said.lines.iter().rev().take(60).rev().cloned().collect();
                bail!("waiting for {what}: {why}; its last lines:\n  {}", tail.join("\n  "));
            }
            said = match self.said.1.wait_timeout(said, left) {
                Ok((s, _)) => s,
                Err(_) => bail!("the console's reader failed"),
            };
        }
    }
}

/// A line without carriage returns and terminal sequences.
fn plain(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                // ESC [ … letter, or ESC and one character.
                if chars.next() == Some('[') {
                    for c in chars.by_ref() {
                        if c.is_ascii_alphabetic() {
                            break;
                        }
                    }
                }
            }
            '\r' | '\n' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_in_order_and_says_what_it_saw() {
        let c = Console::default();
        c.follow(&b"one\r\n\x1b[2Jtwo\nthree\n"[..], std::io::sink());
        let second = Duration::from_secs(5);
        let (line, at) = c.wait(0, second, "two", |l| l == "two").expect("said");
        assert_eq!((line.as_str(), at), ("two", 2));
        assert_eq!(c.more(at, second).0, ["three"]);
        assert_eq!(c.more(at + 1, second), (vec![], true), "nothing more");
        let e = c.wait(at, second, "one again", |l| l == "one").expect_err("never").to_string();
        assert!(e.contains("waiting for one again: the machine ended") && e.contains("three"), "{e}");
    }
}

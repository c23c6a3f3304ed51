//! What a long command says while it works: one live line on a terminal, plain lines elsewhere. Always on stderr:
//! stdout is for data.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A live line is redrawn at most this often; a plain one is repeated far less, so that a CI log stays readable.
const REDRAW: Duration = Duration::from_millis(100);
const REPEAT: Duration = Duration::from_secs(10);

/// A finished step, as one line.
pub(crate) fn say(text: &str) {
    clear();
    eprintln!("{text}");
}

fn clear() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// A step that takes a while.
#[derive(Debug)]
pub(crate) struct Step {
    what: String,
    total: u64,
    done: AtomicU64,
    drawn: std::sync::Mutex<Instant>,
    began: Instant,
    bytes: bool,
}

impl Step {
    /// Counts bytes.
    pub(crate) fn bytes(what: &str, total: u64) -> Self {
        Self::new(what, total, true)
    }

    /// Counts pieces.
    pub(crate) fn count(what: &str, total: u64) -> Self {
        Self::new(what, total, false)
    }

    fn new(what: &str, total: u64, bytes: bool) -> Self {
        let now = Instant::now();
        Self { what: what.into(), total, done: AtomicU64::new(0), drawn: now.into(), began: now, bytes }
    }

    /// So much more is done.
    pub(crate) fn advance(&self, by: u64, detail: &str) {
        let done = self.done.fetch_add(by, Ordering::Relaxed) + by;
        let terminal = std::io::stderr().is_terminal();
        let Ok(mut drawn) = self.drawn.try_lock() else { return };
        if drawn.elapsed() < if terminal { REDRAW } else { REPEAT } {
            return;
        }
        *drawn = Instant::now();
        clear();
        let line = format!("{} {} {detail}", self.what, self.amount(done));
        if terminal {
            let _ = write!(std::io::stderr(), "{}", line.chars().take(100).collect::<String>());
        } else {
            eprintln!("{line}");
        }
    }

    fn amount(&self, done: u64) -> String {
        match (self.bytes, self.total) {
            (true, 0) => format!("{:.1} MB", mb(done)),
            (true, total) => format!("{:.1} of {:.1} MB", mb(done), mb(total)),
            (false, 0) => done.to_string(),
            (false, total) => format!("{done} of {total}"),
        }
    }

    /// The step is over: its line stays.
    pub(crate) fn end(&self) {
        let done = self.done.load(Ordering::Relaxed);
        say(&format!("{} {} in {:.1} s", self.what, self.amount(done), self.began.elapsed().as_secs_f64()));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

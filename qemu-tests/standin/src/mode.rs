//! How it is made to misbehave: one line on port [`CONTROL`], in the clear.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Where it is told.
pub(crate) const CONTROL: u16 = 6440;
/// While it hangs it looks this often whether it still does.
const LOOK: Duration = Duration::from_millis(20);

static NOT_READY: AtomicBool = AtomicBool::new(false);
static STARTING: AtomicBool = AtomicBool::new(false);
static HUNG: AtomicBool = AtomicBool::new(false);
static SLOW_MS: AtomicU64 = AtomicU64::new(0);

/// Whether all of its `/readyz` is well.
pub(crate) fn is_ready() -> bool {
    has_started() && !NOT_READY.load(Ordering::Relaxed)
}

/// Whether it is well but for etcd.
pub(crate) fn has_started() -> bool {
    !STARTING.load(Ordering::Relaxed)
}

/// What stands before each answer: nothing, a pause, or the end of a hang.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(SLOW_MS.load(Ordering::Relaxed)));
    while HUNG.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn listen(own: IpAddr) -> Result<(), String> {
    let listener = TcpListener::bind(SocketAddr::new(own, CONTROL)).map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = take(&stream);
        }
    });
    Ok(())
}

fn take(stream: &TcpStream) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["ready"] => NOT_READY.store(false, Ordering::Relaxed),
        ["not-ready"] => NOT_READY.store(true, Ordering::Relaxed),
        ["starting"] => STARTING.store(true, Ordering::Relaxed),
        ["hang"] => HUNG.store(true, Ordering::Relaxed),
        ["slow", ms] => SLOW_MS.store(ms.parse().unwrap_or(0), Ordering::Relaxed),
        ["well"] => {
            NOT_READY.store(false, Ordering::Relaxed);
            STARTING.store(false, Ordering::Relaxed);
            HUNG.store(false, Ordering::Relaxed);
            SLOW_MS.store(0, Ordering::Relaxed);
        }
        _ => return writeln!(&*stream, "expected ready, not-ready, starting, hang, slow MS or well"),
    }
    writeln!(&*stream, "ok")
}

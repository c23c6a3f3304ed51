//! Messages: one write to the kernel's log per record, so that lines never interleave and every console gets them.
//!
//! The kernel prints records of level 4 and more urgent on its consoles (`loglevel=5`) with the time since its start;
//! less urgent ones are only kept. Facility 1 (user) tells them from the kernel's own.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A record is at most about 1 KiB long; longer texts are cut into several.
const RECORD: usize = 900;
const FACILITY: u8 = 1 << 3;

static DEBUG: AtomicBool = AtomicBool::new(false);
static TO_STDERR: OnceLock<()> = OnceLock::new();

/// Messages go to stderr instead: where PID 1 is not the machine's.
pub(crate) fn to_stderr() {
    let _ = TO_STDERR.set(());
}

/// `quorate.log=debug`.
pub(crate) fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// A line for the console.
pub(crate) fn say(text: &str) {
    write(4, text);
}

/// A line for the kernel's log; on the console with `quorate.log=debug`.
pub(crate) fn debug(text: &str) {
    write(if DEBUG.load(Ordering::Relaxed) { 4 } else { 6 }, text);
}

/// Last words: as urgent as it gets.
pub(crate) fn emergency(text: &str) {
    write(0, text);
}

fn write(level: u8, text: &str) {
    for line in text.lines() {
        let mut rest = line;
        while !rest.is_empty() {
            let (part, more) = rest.split_at(rest.floor_char_boundary(RECORD));
            rest = more;
            if TO_STDERR.get().is_some() {
                let _ = writeln!(std::io::stderr(), "quorate: {part}");
            } else if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
                // There is nobody to tell that telling failed.
                let _ = kmsg.write_all(format!("<{}>quorate: {part}\n", FACILITY | level).as_bytes());
            }
        }
    }
}

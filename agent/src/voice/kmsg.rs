//! PID 1's lines out of the kernel's log (Documentation/ABI/testing/dev-kmsg: a record per read,
//! `priority,sequence,microseconds,flags;text`).

use super::Voice;
use contract::voice::FromNode;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

/// A record is at most this long (the kernel's CONSOLE_EXT_LOG_MAX, now PRINTKRB_RECORD_MAX).
const RECORD_MAX: usize = 8192;
/// Levels up to this are on the console too.
const CONSOLE_LEVEL: u32 = 4;

/// All of PID 1's lines from the start, and those that come.
pub(super) fn tell(voice: &Voice) {
    if let Err(e) = File::open("/dev/kmsg").and_then(|log| pass_on(log, voice)) {
        eprintln!("the kernel's log: {e}");
    }
}

/// Those that were said already.
pub(super) fn tell_past(voice: &Voice) -> io::Result<()> {
    let log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    match pass_on(log, voice) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

fn pass_on(mut log: File, voice: &Voice) -> io::Result<()> {
    let mut buffer = [0; RECORD_MAX];
    loop {
        match log.read(&mut buffer) {
            Ok(n) => {
                if let Some(message) = said(&String::from_utf8_lossy(&buffer[..n])) {
                    voice.say(&message)?;
                }
            }
            // Overwritten before it was read: the next read gets what is there now.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) => return Err(e),
        }
    }
}

fn said(record: &str) -> Option<FromNode> {
    let (head, rest) = record.split_once(';')?;
    let mut fields = head.split(',');
    let level = fields.next()?.parse::<u32>().ok()? & 7;
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    let text = rest.lines().next()?.strip_prefix("quorate: ")?;
    (level <= CONSOLE_LEVEL).then(|| FromNode::Said { ms: micros / 1000, text: unescape(text) })
}

/// Bytes that are not printable stand as `\xNN` in a record.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let hex = (first == b'\\' && more.first() == Some(&b'x')).then(|| more.get(1..3)).flatten();
        let byte = hex.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        out.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &more[3..] } else { more };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records() {
        let line = |r| said(r).map(|m| serde_json::to_string(&m).expect("json"));
        assert_eq!(
            line("12,339,5140900,-;quorate: etcd ready (12 ms)\n SUBSYSTEM=x\n").as_deref(),
            Some(r#"{"say":"said","ms":5140,"text":"etcd ready (12 ms)"}"#)
        );
        assert_eq!(line("14,339,5140900,-;quorate: for debugging\n"), None);
        assert_eq!(line("6,1,0,-;Linux version 6.12\n"), None);
        assert_eq!(unescape(r"na\xc3\xafve \x \x4"), "naïve \\x \\x4");
    }

    proptest! {
        #[test]
        fn whatever_a_record_is(text in ".{0,200}") {
            let _ = said(&text);
            let _ = unescape(&text);
        }
    }
}

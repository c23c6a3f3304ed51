//! Captures in the classic format with nanoseconds (draft-ietf-opsawg-pcap), in guest time since the switch began.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// Magic number of captures whose times have nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;
/// A frame is kept whole.
const SNAP: u32 = 65_535;

/// A capture.
#[derive(Debug)]
pub(crate) struct Pcap(BufWriter<File>);

impl Pcap {
    /// Begins one.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&MAGIC.to_le_bytes())?;
        out.write_all(&2u16.to_le_bytes())?;
        out.write_all(&4u16.to_le_bytes())?;
        for word in [0, 0, SNAP, ETHERNET] {
            out.write_all(&u32::to_le_bytes(word))?;
        }
        Ok(Self(out))
    }

    /// Adds a frame. A capture is for people: one that cannot be written on ends, the traffic goes on.
    pub(crate) fn frame(&mut self, at: Duration, frame: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(frame.len()).unwrap_or(SNAP);
        for word in [seconds, at.subsec_nanos(), length, length] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        self.0.write_all(frame)
    }

    /// What was captured so far reaches the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

//! The initramfs: an uncompressed cpio of the `newc` format (the kernel's Documentation/driver-api/early-userspace/
//! buffer-format.rst). Uncompressed because its bulk is a compressed squashfs already.
//!
//! `root.img` comes last: when the kernel cannot unpack all of it for want of RAM, init and the facts that it checks
//! the root against are there to say so.

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};
use std::io::Write;

/// A file or directory of the initramfs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'a> {
    /// A directory.
    Dir,
    /// A file with permission bits.
    File(u32, &'a [u8]),
}

const DIR: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// Writes entries in the order given, all root's, all of one time.
pub(crate) fn write(entries: &[(String, Entry<'_>)], epoch: u64) -> Result<Vec<u8>> {
    let mtime = u32::try_from(epoch).context("the build date does not fit cpio")?;
    let size: usize =
        entries.iter().map(|(n, e)| 256 + n.len() + if let Entry::File(_, b) = e { b.len() } else { 0 }).sum();
    let mut out = Vec::with_capacity(size + 512);
    for (i, (name, entry)) in entries.iter().enumerate() {
        let builder = Builder::new(name).ino(u32::try_from(i + 1)?).uid(0).gid(0).mtime(mtime);
        match entry {
            Entry::Dir => {
                builder.mode(DIR | 0o755).nlink(2).write(&mut out, 0).finish()?;
            }
            Entry::File(mode, bytes) => {
                let mut w = builder.mode(REGULAR | mode).nlink(1).write(&mut out, u32::try_from(bytes.len())?);
                w.write_all(bytes)?;
                w.finish()?;
            }
        }
    }
    trailer(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_in_order() {
        let entries = [
            ("modules".to_owned(), Entry::Dir),
            ("init".to_owned(), Entry::File(0o755, b"x")),
            ("e".to_owned(), Entry::File(0o644, b"")),
        ];
        let bytes = write(&entries, 5).expect("written");
        let mut rest = &bytes[..];
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().mtime()));
            rest = reader.finish().expect("skipped");
        }
        assert_eq!(
            names,
            [("modules".into(), 0o040_755, 5), ("init".into(), 0o100_755, 5), ("e".into(), 0o100_644, 5)]
        );
        assert_eq!(write(&entries, 5).expect("again"), bytes);
    }
}

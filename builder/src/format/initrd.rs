//! The initramfs: two archives of cpio's `newc` format (the kernel's Documentation/driver-api/early-userspace/
//! buffer-format.rst), the first compressed by zstd, for init, the second not, because its bulk is a compressed squashfs.
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

/// zstd's, of what is two megabytes.
const LEVEL: i32 = 19;
/// Where the kernel looks for the next archive: at a multiple of it, zeros are skipped.
const ALIGNMENT: usize = 4;

const DIR: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// Both archives: entries in the order given, all root's, all of one time.
pub(crate) fn write(packed: &[(String, Entry<'_>)], plain: &[(String, Entry<'_>)], epoch: u64) -> Result<Vec<u8>> {
    let mut out = zstd::encode_all(&archive(packed, epoch)?[..], LEVEL)?;
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.append(&mut archive(plain, epoch)?);
    Ok(out)
}

fn archive(entries: &[(String, Entry<'_>)], epoch: u64) -> Result<Vec<u8>> {
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
        let init = [("init".to_owned(), Entry::File(0o755, b"x"))];
        let entries = [("modules".to_owned(), Entry::Dir), ("e".to_owned(), Entry::File(0o644, b""))];
        let bytes = write(&init, &entries, 5).expect("written");
        let first = zstd::zstd_safe::find_frame_compressed_size(&bytes).expect("a frame");
        let packed = zstd::decode_all(&bytes[..first]).expect("unpacked");
        assert_eq!(names(&packed), [("init".into(), 0o100_755, 5)]);
        assert_eq!(
            names(&bytes[first.next_multiple_of(4)..]),
            [("modules".into(), 0o040_755, 5), ("e".into(), 0o100_644, 5)]
        );
        assert_eq!(write(&init, &entries, 5).expect("again"), bytes);
    }

    fn names(mut rest: &[u8]) -> Vec<(String, u32, u32)> {
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode(), reader.entry().mtime()));
            rest = reader.finish().expect("skipped");
        }
        names
    }
}

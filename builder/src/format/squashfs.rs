//! squashfs 4.0 with zstd (the kernel's Documentation/filesystems/squashfs.rst), through `backhand`.

use crate::tree::{Kind, Tree};
use anyhow::{Context, Result, ensure};
use backhand::compression::{CompressionOptions, Compressor, Zstd};
use backhand::{DEFAULT_BLOCK_SIZE, FilesystemCompressor, FilesystemWriter, NodeHeader};
use std::io::Cursor;

/// From this level of zstd's on blocks are as large as squashfs can have them: whoever takes minutes for a small image gets a
/// twentieth more. Levels below find nothing more in them.
const THOROUGH: u32 = 19;
const LARGE_BLOCK: u32 = 1 << 20;

/// The image of a tree. The same tree gives the same bytes, whatever the number of threads.
pub(crate) fn write(tree: &Tree, level: u32, epoch: u64) -> Result<Vec<u8>> {
    let mtime = u32::try_from(epoch).context("the build date does not fit squashfs")?;
    let mut fs = FilesystemWriter::default();
    fs.set_time(mtime);
    fs.set_block_size(if level < THOROUGH { DEFAULT_BLOCK_SIZE } else { LARGE_BLOCK });
    fs.set_root_mode(0o755);
    fs.set_compressor(FilesystemCompressor::new(
        Compressor::Zstd,
        Some(CompressionOptions::Zstd(Zstd { compression_level: level })),
    )?);
    fs.set_emit_compression_options(true);
    for (path, node) in tree.iter() {
        ensure!(node.xattrs.is_empty(), "{path}: extended attributes cannot be written to squashfs yet");
        let header = NodeHeader { permissions: node.mode, uid: node.uid, gid: node.gid, mtime };
        match &node.kind {
            Kind::Dir => fs.push_dir(path, header)?,
            Kind::File(bytes) => fs.push_file(Cursor::new(bytes.as_slice()), path, header)?,
            Kind::Link(target) => fs.push_symlink(target, path, header)?,
        }
    }
    let mut out = Cursor::new(Vec::new());
    fs.write(&mut out).context("writing squashfs")?;
    Ok(out.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Node;

    fn tree() -> Tree {
        let mut t = Tree::default();
        t.put("/usr/bin/x", Node { uid: 201, gid: 201, ..Node::file(0o750, vec![7; 300_000]) }).expect("put");
        t.put("/usr/bin/y", Node::file(0o644, vec![7; 300_000])).expect("put");
        t.put("/empty", Node::file(0o600, "")).expect("put");
        t.put("/bin", Node::link("usr/bin")).expect("put");
        t
    }

    #[test]
    fn reads_back_as_it_was_written() {
        let bytes = write(&tree(), 3, 1_790_000_000).expect("written");
        let fs = backhand::FilesystemReader::from_reader(Cursor::new(&bytes[..])).expect("read");
        assert_eq!(fs.mod_time, 1_790_000_000);
        let x = fs.files().find(|n| n.fullpath.ends_with("x")).expect("there");
        assert_eq!((x.header.uid, x.header.permissions), (201, 0o750));
    }

    #[test]
    fn unsquashfs_agrees() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("x.squashfs");
        std::fs::write(&image, write(&tree(), 3, 1_790_000_000).expect("written")).expect("kept");
        let Ok(out) = std::process::Command::new("unsquashfs").args(["-lln", "-UTC"]).arg(&image).output() else {
            assert!(std::env::var_os("CI").is_none(), "unsquashfs is missing: install squashfs-tools");
            eprintln!("SKIPPED: unsquashfs is missing: install squashfs-tools");
            return;
        };
        insta::assert_snapshot!(String::from_utf8_lossy(&out.stdout));
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let with = |n: &str| {
            let out = std::process::Command::new(std::env::current_exe().expect("a path"))
                .args(["--exact", "format::squashfs::tests::print_digest", "--nocapture", "--include-ignored"])
                .env("RAYON_NUM_THREADS", n)
                .env("QUORATE_PRINT_DIGEST", "1")
                .output()
                .expect("run");
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.lines().find_map(|l| l.split("digest=").nth(1)).expect("a digest").to_owned()
        };
        assert_eq!(with("1"), with("4"));
    }

    /// Serves the test above from a process with another number of threads.
    #[test]
    fn print_digest() {
        if std::env::var_os("QUORATE_PRINT_DIGEST").is_some() {
            println!("digest={}", crate::digest::sha256(&write(&tree(), 3, 1).expect("written")));
        }
    }
}

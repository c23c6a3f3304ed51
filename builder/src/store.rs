//! The content store under the user's cache directory.
//!
//! ```text
//! sha256/ab/abcd…        a blob, named by its digest
//! built/<key>            what was made of inputs with that key: lines of `<sha256> <name>`
//! ```
//! A blob is written beside, synced and renamed, so that two builds at once cannot disturb each other; it is hashed on
//! every reading, and one that does not match is removed and counts as absent.

use crate::digest::sha256;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// At a directory, made when it is missing.
    pub(crate) fn at(root: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(root.join("sha256")).with_context(|| format!("making the store {}", root.display()))?;
        std::fs::create_dir_all(root.join("built"))?;
        Ok(Self { root })
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("sha256").join(&digest[..2]).join(digest)
    }

    /// A blob, if it is there and whole.
    pub(crate) fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = std::fs::read(&path).ok()?;
        if sha256(&bytes) == digest {
            return Some(bytes);
        }
        eprintln!("quorate: {}: does not match its name; it is removed and fetched again", path.display());
        // Another build may have removed it already.
        let _ = std::fs::remove_file(&path);
        None
    }

    /// Whether a blob is there; it is verified when it is read.
    pub(crate) fn has(&self, digest: &str) -> bool {
        self.blob_path(digest).exists()
    }

    /// Keeps bytes; returns their digest.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<String> {
        let digest = sha256(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            write_whole(&path, bytes)?;
        }
        Ok(digest)
    }

    /// The path of a blob, for tests that damage it.
    #[cfg(test)]
    pub(crate) fn path_of(&self, digest: &str) -> PathBuf {
        self.blob_path(digest)
    }

    /// What was built under a key: name -> digest; absent when any blob of it is.
    pub(crate) fn built(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let text = std::fs::read_to_string(self.root.join("built").join(key)).ok()?;
        let parts: BTreeMap<String, String> =
            text.lines().filter_map(|l| l.split_once(' ')).map(|(d, n)| (n.to_owned(), d.to_owned())).collect();
        parts.values().all(|d| d.len() == 64 && self.has(d)).then_some(parts)
    }

    /// Keeps what was built under a key.
    pub(crate) fn put_built(&self, key: &str, parts: &BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, String>> {
        let mut digests = BTreeMap::new();
        for (name, bytes) in parts {
            digests.insert(name.clone(), self.put(bytes)?);
        }
        let text: String = digests.iter().map(|(n, d)| format!("{d} {n}\n")).collect();
        write_whole(&self.root.join("built").join(key), text.as_bytes())?;
        Ok(digests)
    }
}

/// Replaces a file: written beside, synced, renamed. Its directory is made when it is missing.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole_mode(path, bytes, 0o644)
}

/// The same with permissions.
pub(crate) fn write_whole_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = path.parent().context("a file needs a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(|| format!("writing in {}", dir.display()))?;
    file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("replacing {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_blob_is_absent() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().into()).expect("a store");
        let digest = store.put(b"hello").expect("kept");
        assert_eq!(store.get(&digest).as_deref(), Some(&b"hello"[..]));
        std::fs::write(store.path_of(&digest), b"hellO").expect("damaged");
        assert_eq!(store.get(&digest), None);
        assert!(!store.has(&digest), "it was removed");
    }

    #[test]
    fn two_writers_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().into()).expect("a store");
        let bytes = vec![7_u8; 1 << 20];
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..8 {
                        let d = store.put(&bytes).expect("kept");
                        assert_eq!(store.get(&d).expect("whole").len(), bytes.len());
                    }
                });
            }
        });
    }

    #[test]
    fn built_things_need_all_their_blobs() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::at(dir.path().into()).expect("a store");
        let parts = [("etcd".to_owned(), b"elf".to_vec())].into();
        let digests = store.put_built("k", &parts).expect("kept");
        assert_eq!(store.built("k"), Some(digests.clone()));
        std::fs::remove_file(store.path_of(&digests["etcd"])).expect("removed");
        assert_eq!(store.built("k"), None);
    }
}

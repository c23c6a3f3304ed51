//! Seed media: file systems read in user space, never mounted, because their bytes are somebody else's.

pub mod fat;
pub mod iso9660;

use std::collections::BTreeMap;
use std::io::{Read, Seek};

/// At most this many entries of a root directory are looked at.
pub(crate) const ENTRIES_MAX: usize = 256;

/// What is on a medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Medium {
    /// Volume label, trimmed.
    pub label: String,
    /// The files of the root directory, lower-case names, at most [`crate::FILE_MAX`] bytes each; longer ones are left
    /// out, and named in `too_long`.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files that were too long to read.
    pub too_long: Vec<String>,
}

impl Medium {
    /// Whether it is labelled as a NoCloud seed (cloud-init matches these two spellings).
    pub fn is_cidata(&self) -> bool {
        matches!(&*self.label, "cidata" | "CIDATA")
    }
}

/// Reads a medium of either kind; nothing when it is neither, the reason when it is one but damaged.
pub fn read(disk: &mut (impl Read + Seek)) -> Option<Result<Medium, String>> {
    if iso9660::is_one(disk) {
        return Some(iso9660::read(disk).map_err(|e| format!("ISO 9660: {e}")));
    }
    if fat::is_one(disk) {
        return Some(fat::read(disk).map_err(|e| format!("FAT: {e}")));
    }
    None
}

//! Files are replaced by write, sync, rename; whoever reads one sees the old or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;

/// Replaces a file.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32, owner: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    // A leftover of a power cut.
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    chown(&beside, Some(owner), Some(owner))?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes a directory with an owner and a mode, and its parents as root's.
pub(crate) fn directory(path: &Path, mode: u32, owner: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    chown(path, Some(owner), Some(owner))
}

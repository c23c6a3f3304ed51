//! The snapshots of etcd's data that a member keeps on its state disk, `etcd-<seconds since the epoch>.db`: the newest few.

use contract::paths::SNAPSHOTS;
use serde::Serialize;
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Kept {
    /// When it was taken, seconds since the epoch.
    pub(crate) taken: u64,
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Where it lies.
pub(crate) fn path_of(name: &str) -> PathBuf {
    Path::new(SNAPSHOTS).join(name)
}

/// All of them, the oldest first.
pub(crate) fn list() -> Vec<Kept> {
    list_in(Path::new(SNAPSHOTS))
}

fn list_in(dir: &Path) -> Vec<Kept> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let kept = entries.flatten().filter_map(|e| {
        let name = e.file_name().into_string().ok()?;
        let taken = name.strip_prefix("etcd-")?.strip_suffix(".db")?.parse().ok()?;
        Some(Kept { taken, name, bytes: e.metadata().ok()?.len() })
    });
    let mut kept: Vec<_> = kept.collect();
    kept.sort();
    kept
}

/// Whether it is time for the next one. `since` is when there could have been a first one; what the clock says to be of the
/// future is of a time when the clock was wrong.
pub(crate) fn is_due(kept: &[Kept], since: u64, every: u64, now: u64) -> bool {
    let last = kept.iter().rev().map(|k| k.taken).find(|t| *t <= now).unwrap_or(since);
    every > 0 && now >= last.saturating_add(every)
}

/// How many of the oldest go so that there is room for the next one; none = there is no room even so. One always stays until
/// the next one is there.
pub(crate) fn to_make_room(kept: &[Kept], free: u64, needed: u64) -> Option<usize> {
    let freed = |n: &usize| free.saturating_add(kept[..*n].iter().map(|k| k.bytes).sum());
    (0..kept.len().max(1)).find(|n| freed(n) >= needed)
}

/// Takes the next one: `take` writes it. Whatever fails, the newest of those that are there is still there.
pub(crate) fn add(
    keep: usize,
    bytes: u64,
    now: u64,
    take: impl FnOnce(&mut dyn Write) -> Result<(), String>,
) -> Result<(), String> {
    let dir = Path::new(SNAPSHOTS);
    // etcd itself must find room: for a copy of its data when it is defragmented, and for its log.
    let needed = bytes.saturating_mul(3);
    let (kept, free) = (list(), free(dir)?);
    let Some(goes) = to_make_room(&kept, free, needed) else {
        return Err(format!("{} MiB are free, and etcd's data needs three times its {} MiB", free >> 20, bytes >> 20));
    };
    remove(&kept[..goes])?;
    let incoming = path_of("incoming");
    if let Err(e) = write(&incoming, take) {
        // Half of one takes room, and nothing else.
        let _ = fs::remove_file(&incoming);
        return Err(e);
    }
    let said = |e: std::io::Error| format!("{SNAPSHOTS}: {e}");
    fs::rename(&incoming, path_of(&format!("etcd-{now}.db"))).map_err(said)?;
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(said)?;
    let kept = list();
    remove(&kept[..kept.len().saturating_sub(keep.max(1))])
}

fn write(path: &Path, take: impl FnOnce(&mut dyn Write) -> Result<(), String>) -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut out = BufWriter::new(file.map_err(|e| said(&e))?);
    take(&mut out)?;
    let file = out.into_inner().map_err(|e| said(&e))?;
    file.sync_all().map_err(|e| said(&e))
}

fn remove(kept: &[Kept]) -> Result<(), String> {
    kept.iter().try_for_each(|k| fs::remove_file(path_of(&k.name)).map_err(|e| format!("{}: {e}", k.name)))
}

fn free(dir: &Path) -> Result<u64, String> {
    let stat = nix::sys::statvfs::statvfs(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(taken: &[u64]) -> Vec<Kept> {
        taken.iter().map(|t| Kept { taken: *t, name: format!("etcd-{t}.db"), bytes: 10 }).collect()
    }

    #[test]
    fn when_the_next_one_is_due() {
        assert!(!is_due(&[], 100, 60, 159) && is_due(&[], 100, 60, 160), "the first one, after a while");
        assert!(!is_due(&kept(&[10, 150]), 100, 60, 160) && is_due(&kept(&[10, 150]), 100, 60, 210));
        assert!(!is_due(&kept(&[150]), 90, 60, 149) && is_due(&kept(&[160]), 90, 60, 150), "the clock was set back");
        assert!(!is_due(&kept(&[90, 150]), 90, 60, 140) && is_due(&kept(&[80, 200]), 90, 60, 140));
        assert!(!is_due(&kept(&[10]), 100, 0, 9999), "never");
    }

    #[test]
    fn of_a_full_disk_as_few_go_as_are_needed() {
        assert_eq!(to_make_room(&kept(&[1, 2, 3]), 1000, 30), Some(0));
        assert_eq!(to_make_room(&kept(&[1, 2, 3]), 15, 30), Some(2));
        assert_eq!(
            to_make_room(&kept(&[1, 2, 3]), 0, 30),
            None,
            "nothing goes when it would not help: the last one stays"
        );
        assert_eq!(to_make_room(&[], 30, 30), Some(0));
        assert_eq!(to_make_room(&[], 29, 30), None);
    }

    #[test]
    fn other_files_are_none() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["etcd-20.db", "etcd-3.db", "incoming", "to-restore-2", "etcd-x.db"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        let names: Vec<_> = list_in(dir.path()).into_iter().map(|k| k.name).collect();
        assert_eq!(names, ["etcd-3.db", "etcd-20.db"]);
    }
}

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

/// Those that go before the next one is taken: more than `keep` are never there, and of a full disk one is left.
pub(crate) fn to_remove(kept: &[Kept], keep: usize, free: u64, needed: u64) -> usize {
    let mut removed = (kept.len() + 1).saturating_sub(keep.max(1)).min(kept.len());
    let freed = |n: usize| free + kept[..n].iter().map(|k| k.bytes).sum::<u64>();
    while removed + 1 < kept.len() && freed(removed) < needed {
        removed += 1;
    }
    removed
}

/// Takes the next one: `take` writes it. Not enough room, or anything else, leaves those that are there.
pub(crate) fn add(
    keep: usize,
    bytes: u64,
    now: u64,
    take: impl FnOnce(&mut dyn Write) -> Result<(), String>,
) -> Result<(), String> {
    let dir = Path::new(SNAPSHOTS);
    let said = |e: &dyn std::fmt::Display| format!("{SNAPSHOTS}: {e}");
    let kept = list();
    // etcd itself must find room: for a copy of its data when it is defragmented, and for its log.
    let needed = bytes.saturating_mul(3);
    let goes = to_remove(&kept, keep, free(dir)?, needed);
    for old in &kept[..goes] {
        fs::remove_file(path_of(&old.name)).map_err(|e| said(&e))?;
    }
    let free = free(dir)?;
    if free < needed {
        return Err(format!("{} MiB are free, and etcd's data needs three times its {} MiB", free >> 20, bytes >> 20));
    }
    let incoming = path_of("incoming");
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&incoming);
    let mut out = BufWriter::new(file.map_err(|e| said(&e))?);
    take(&mut out)?;
    let file = out.into_inner().map_err(|e| said(&e))?;
    file.sync_all().map_err(|e| said(&e))?;
    fs::rename(&incoming, path_of(&format!("etcd-{now}.db"))).map_err(|e| said(&e))?;
    fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| said(&e))
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
    fn the_newest_few_are_kept_and_of_a_full_disk_one() {
        assert_eq!(to_remove(&kept(&[1, 2]), 4, 1000, 30), 0);
        assert_eq!(to_remove(&kept(&[1, 2, 3, 4]), 4, 1000, 30), 1);
        assert_eq!(to_remove(&kept(&[1, 2, 3, 4, 5, 6]), 4, 1000, 30), 3);
        assert_eq!(to_remove(&kept(&[1, 2, 3]), 4, 15, 30), 2, "so that there is room");
        assert_eq!(to_remove(&kept(&[1, 2, 3]), 4, 0, 1000), 2, "the last one stays, whatever is needed");
        assert_eq!(to_remove(&kept(&[1]), 0, 1000, 30), 1);
        assert_eq!(to_remove(&[], 0, 0, 30), 0);
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

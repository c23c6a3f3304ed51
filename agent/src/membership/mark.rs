//! The mark beside etcd's data directory: `bootstrapping(digest of the list)` or `formed`.
//!
//! It is synced before etcd's first start, and becomes `formed` when etcd first sees a leader, before etcd counts as
//! ready: no acknowledged write is older than the mark.

use crate::pki::write_file;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// What is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Mark {
    /// The static list was chosen; its digest.
    Bootstrapping {
        /// See [`super::digest`].
        digest: String,
    },
    /// etcd has seen a leader.
    Formed,
}

/// Reads it; none when there is none. A mark that cannot be read is an error: guessing could cost a vote.
pub(crate) fn read(path: &Path) -> Result<Option<Mark>, String> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Writes it, synced with its directory.
pub(crate) fn write(path: &Path, mark: &Mark) -> Result<(), String> {
    let text = serde_json::to_string(mark).map_err(|e| e.to_string())?;
    write_file(path, &text, 0o600, contract::users::ROOT).map_err(|e| format!("{}: {e}", path.display()))
}

/// Whether etcd has a log in its data directory.
pub(crate) fn has_log(data: &Path) -> bool {
    fs::read_dir(data.join("member/wal")).is_ok_and(|mut d| d.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_mark_is_no_absent_mark() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etcd-member.json");
        assert_eq!(read(&path), Ok(None));
        fs::write(&path, "{").expect("written");
        assert!(read(&path).is_err());
        fs::write(&path, r#"{"state":"bootstrapping","digest":"d"}"#).expect("written");
        assert_eq!(read(&path), Ok(Some(Mark::Bootstrapping { digest: "d".into() })));
        assert!(!has_log(dir.path()));
    }
}

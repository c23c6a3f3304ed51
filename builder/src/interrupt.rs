//! Ctrl-C leaves nothing behind: temporary directories are registered here and removed before the process ends.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Starts the thread that cleans up. The exit status is that of a shell's child ended by the signal.
pub(crate) fn install() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watching for Ctrl-C")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            if let Ok(paths) = TEMPORARY.lock() {
                for path in paths.iter() {
                    let _ = std::fs::remove_dir_all(path);
                }
            }
            eprintln!("\nquorate: interrupted; nothing half-written is left");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// A directory beside an output, removed when dropped and on Ctrl-C.
pub(crate) fn temporary_dir(parent: &Path) -> Result<Temporary> {
    let dir = tempfile::Builder::new().prefix(".quorate-").tempdir_in(parent)?;
    if let Ok(mut paths) = TEMPORARY.lock() {
        paths.push(dir.path().into());
    }
    Ok(Temporary(dir))
}

/// See [`temporary_dir`].
#[derive(Debug)]
pub(crate) struct Temporary(tempfile::TempDir);

impl Temporary {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Ok(mut paths) = TEMPORARY.lock() {
            paths.retain(|p| p != self.0.path());
        }
    }
}

//! Ctrl-C leaves nothing behind: temporary directories are registered here and removed before the process ends.
//!
//! The list's lock is held while a directory is made, and from the signal to the end of the process: so none is made
//! that nobody removes, and the work that the signal interrupts cannot report its own failure first.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Others (this process' other threads, a compiler) may still write into a directory while it is emptied; each pass
/// takes what they have written since. They write a handful of files, never so many passes' worth.
const PASSES: usize = 1000;

/// Starts the thread that cleans up. The exit status is that of a shell's child ended by the signal.
pub(crate) fn install() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watching for Ctrl-C")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let paths = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
            for path in paths.iter() {
                let _ = (0..PASSES).find(|_| std::fs::remove_dir_all(path).is_ok() || !path.exists());
            }
            eprintln!("\nquorate: interrupted; nothing half-written is left");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Called when the work has ended, before its failure is reported: an interrupted process waits here for its end.
pub(crate) fn work_ended() {
    drop(TEMPORARY.lock());
}

/// A directory beside an output, removed when dropped and on Ctrl-C.
pub(crate) fn temporary_dir(parent: &Path) -> Result<Temporary> {
    let mut paths = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::Builder::new().prefix(".quorate-").tempdir_in(parent)?;
    paths.push(dir.path().into());
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
        let mut paths = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner);
        // Removed while the list is held: a signal in between would end the process half-way.
        let _ = std::fs::remove_dir_all(self.0.path());
        paths.retain(|p| p != self.0.path());
    }
}

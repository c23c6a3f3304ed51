//! Writes what services print: `<state>/log/<service>/current`, and one older file beside it. stdin is lines of
//! `service<TAB>text` from PID 1, which never waits for this process.

use contract::check::is_label;
use contract::paths::LOG;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

/// A file is turned over at this length; two of them per service is what logs may take of the state disk. Bytes.
const FILE_MAX: u64 = 4 << 20;

pub(crate) fn run() -> Result<(), String> {
    let mut logs = Logs::at(Path::new(LOG));
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        if let Some((service, text)) = line.split_once('\t') {
            // A full or broken disk: the service's last lines are still in PID 1's memory.
            let _ = logs.write(service, text);
        }
    }
    Ok(())
}

struct Logs {
    root: PathBuf,
    files: BTreeMap<String, (File, u64)>,
}

impl Logs {
    fn at(root: &Path) -> Self {
        Self { root: root.into(), files: BTreeMap::new() }
    }

    fn write(&mut self, service: &str, text: &str) -> io::Result<()> {
        if !is_label(service) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let dir = self.root.join(service);
        let current = dir.join("current");
        if !self.files.contains_key(service) {
            fs::create_dir_all(&dir)?;
            let file = OpenOptions::new().create(true).append(true).open(&current)?;
            let length = file.metadata()?.len();
            self.files.insert(service.into(), (file, length));
        }
        let Some((file, length)) = self.files.get_mut(service) else { return Ok(()) };
        let line = format!("{} {text}\n", crate::clock::now());
        file.write_all(line.as_bytes())?;
        *length += line.len() as u64;
        if *length >= FILE_MAX {
            fs::rename(&current, dir.join("previous"))?;
            self.files.remove(service);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_over_and_stays_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut logs = Logs::at(dir.path());
        let text = "x".repeat(1 << 20);
        for _ in 0..11 {
            logs.write("etcd", &text).expect("written");
        }
        let size = |n: &str| fs::metadata(dir.path().join("etcd").join(n)).expect("there").len();
        assert!(size("current") + size("previous") < 2 * FILE_MAX + 2 * (1 << 20));
        assert!(logs.write("../x", "no").is_err());
    }
}

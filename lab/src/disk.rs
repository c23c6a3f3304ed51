//! Disk images.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Makes an empty qcow2 image unless one is there: a node's state outlives its VM.
pub fn qcow2(path: &Path, bytes: u64) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let out = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(path)
        .arg(bytes.to_string())
        .output()
        .context("running qemu-img; hint: apt-get install qemu-utils")?;
    ensure!(out.status.success(), "qemu-img: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

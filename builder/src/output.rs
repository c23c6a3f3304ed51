//! An image's files on disk: written beside, with their digests, and put in place all at once.

use crate::digest::sha256;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// Files by name.
#[derive(Debug, Default)]
pub(crate) struct Output(BTreeMap<String, Vec<u8>>);

/// The list of digests, in the form of sha256sum(1).
pub(crate) const SUMS: &str = "SHA256SUMS";

impl Output {
    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.into(), bytes);
    }

    /// Puts all of them at `dir`; whoever looks sees the old image or the new one, never a part.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let parent = dir.parent().context("the output needs a directory")?;
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        let beside = crate::interrupt::temporary_dir(parent)?;
        let mut sums = String::new();
        for (name, bytes) in &self.0 {
            crate::store::write_whole(&beside.path().join(name), bytes)?;
            sums += &format!("{}  {name}\n", sha256(bytes));
        }
        crate::store::write_whole(&beside.path().join(SUMS), sums.as_bytes())?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(beside.path(), std::fs::Permissions::from_mode(0o755))?;
        if dir.exists() {
            // Exchanged in one step; what was there before goes with the temporary directory.
            nix::fcntl::renameat2(
                nix::fcntl::AT_FDCWD,
                beside.path(),
                nix::fcntl::AT_FDCWD,
                dir,
                nix::fcntl::RenameFlags::RENAME_EXCHANGE,
            )
            .with_context(|| format!("replacing {}", dir.display()))?;
        } else {
            std::fs::rename(beside.path(), dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(())
    }

    /// Sizes by name, for the last lines of a build.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(n, b)| (n.as_str(), b.len()))
    }
}

/// Reads an image's files back, each checked against the list.
pub(crate) fn verify(dir: &Path) -> Result<BTreeMap<String, u64>> {
    let path = dir.join(SUMS);
    let sums = std::fs::read_to_string(&path)
        .with_context(|| format!("reading {}; hint: `quorate image build` makes it", path.display()))?;
    let mut sizes = BTreeMap::new();
    for line in sums.lines() {
        let (digest, name) = line.split_once("  ").with_context(|| format!("{}: `{line}`", path.display()))?;
        let bytes = std::fs::read(dir.join(name)).with_context(|| format!("reading {name}"))?;
        if sha256(&bytes) != digest {
            bail!("{}: does not match {SUMS}", dir.join(name).display());
        }
        sizes.insert(name.to_owned(), bytes.len() as u64);
    }
    Ok(sizes)
}

//! The lock: which indices were seen, and exactly which packages and components an image is made of.
//!
//! It names archives, suites and pool paths, never a host. [`make()`] writes a new one, [`update()`] replaces entries that
//! a mirror no longer has, in the same suite and as strictly verified.

mod make;
mod update;

pub(crate) use make::{Indices, inputs, make};
pub(crate) use update::update;

use crate::component::Recipe;
use crate::place::Misplaced;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `profiles/<name>.lock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Lock {
    /// Schema: 1.
    pub(crate) version: u32,
    /// sha256 of the part of the resolved profile that decides what is locked.
    pub(crate) inputs: String,
    /// Indices, sorted.
    #[serde(rename = "index")]
    pub(crate) indices: Vec<LockedIndex>,
    /// Packages, sorted by name.
    #[serde(rename = "package")]
    pub(crate) packages: Vec<LockedPackage>,
    /// Components, sorted by name.
    #[serde(rename = "component", default)]
    pub(crate) components: Vec<LockedComponent>,
}

/// A verified InRelease and the Packages file it vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LockedIndex {
    pub(crate) archive: String,
    pub(crate) suite: String,
    /// Its `Date`, seconds since the epoch.
    pub(crate) date: i64,
    pub(crate) inrelease: String,
    pub(crate) packages: String,
    /// Primary fingerprints of the pinned keys that signed it.
    pub(crate) signers: Vec<String>,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LockedPackage {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) archive: String,
    pub(crate) suite: String,
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    /// `asked for`, `needed by X`, or `kernel of X`.
    pub(crate) reason: String,
}

/// A component: its recipe's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LockedComponent {
    pub(crate) name: String,
    pub(crate) version: String,
    /// sha256 of the recipe's files together.
    pub(crate) recipe: String,
    /// Toolchain it was locked with; another one builds other bytes. None where nothing is compiled.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) go: String,
}

impl LockedComponent {
    /// As its recipe is now.
    fn of(recipe: &Recipe, go: &str) -> Self {
        let version = recipe.version().into();
        Self { name: recipe.name.clone(), version, recipe: recipe.digest(), go: go.into() }
    }
}

/// Prefix of the kernel's reason.
pub(crate) const KERNEL_OF: &str = "kernel of ";

impl Lock {
    /// The lock beside a profile.
    pub(crate) fn path(profile: &Path) -> PathBuf {
        profile.with_extension("lock")
    }

    /// Reads it; none when there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let lock: Self = toml::from_str(&text).map_err(|e| Misplaced::toml(path, &text, &e))?;
        ensure!(lock.version == 1, "{}: version {} is not known; expected 1", path.display(), lock.version);
        Ok(Some(lock))
    }

    /// Its text.
    pub(crate) fn text(&self) -> Result<String> {
        let head = "# Made by `quorate image lock`; `quorate image lock PROFILE --update NAME` changes one entry.\n";
        Ok(format!("{head}{}", toml::to_string(self).context("writing the lock")?))
    }

    /// Replaces the file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        crate::store::write_whole(path, self.text()?.as_bytes())
    }

    /// The locked kernel.
    pub(crate) fn kernel(&self) -> Result<&LockedPackage> {
        self.packages.iter().find(|p| p.reason.starts_with(KERNEL_OF)).context("the lock has no kernel")
    }

    /// Build date: the latest `Date` of its indices.
    pub(crate) fn epoch(&self) -> u64 {
        self.indices.iter().map(|i| i.date).max().and_then(|d| u64::try_from(d).ok()).unwrap_or(0)
    }

    /// What changed between two locks, a line each, as people read a diff.
    pub(crate) fn diff(&self, newer: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let line = |p: &LockedPackage| format!("{} {}", p.name, p.version);
        for p in &self.packages {
            match newer.packages.iter().find(|n| n.name == p.name) {
                None => lines.push(format!("- {}", line(p))),
                Some(n) if n.version != p.version => lines.push(format!("~ {} -> {}", line(p), n.version)),
                Some(n) if n.sha256 != p.sha256 => lines.push(format!("~ {} (other contents)", line(p))),
                Some(_) => {}
            }
        }
        let added = newer.packages.iter().filter(|n| self.packages.iter().all(|p| p.name != n.name));
        lines.extend(added.map(|n| format!("+ {}", line(n))));
        let gone = self.components.iter().filter(|o| newer.components.iter().all(|c| c.name != o.name));
        lines.extend(gone.map(|o| format!("- {} {} ({})", o.name, o.version, o.go)));
        for c in &newer.components {
            match self.components.iter().find(|o| o.name == c.name) {
                Some(o) if o == c => {}
                Some(o) => lines.push(format!("~ {} {} ({}) -> {} ({})", c.name, o.version, o.go, c.version, c.go)),
                None => lines.push(format!("+ {} {} ({})", c.name, c.version, c.go)),
            }
        }
        lines
    }
}

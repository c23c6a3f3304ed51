//! Components: programs built from source, by recipe.
//!
//! A recipe is a directory `profiles/components/<name>/` of `go.mod`, `go.sum` and `recipe.toml`, and where upstream's
//! own `main` is not what a node needs, of `*.go`: a `main` over upstream's packages. What it builds is kept in the store
//! under a key of all that goes in.

pub(crate) mod go;

use crate::digest::sha256_of;
use crate::place::Misplaced;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `recipe.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    version: String,
    /// Where its programs lie in the image.
    #[serde(default = "usr_bin")]
    dir: String,
    #[serde(rename = "binary")]
    binaries: Vec<Binary>,
    /// Variable -> value, for the linker's `-X`.
    #[serde(default)]
    stamps: BTreeMap<String, String>,
}

fn usr_bin() -> String {
    "/usr/bin".into()
}

/// A program of a component.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Binary {
    /// File name in the image.
    pub(crate) name: String,
    /// Go package of its `main`; `.` = the recipe's own.
    pub(crate) package: String,
    /// Names by which it is called and does what they say: links to it in the image.
    #[serde(default)]
    pub(crate) names: Vec<String>,
    /// Build tags.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
}

/// A recipe as read: the files that decide what is built.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Directory name.
    pub(crate) name: String,
    dir: PathBuf,
    written: Written,
    files: BTreeMap<String, Vec<u8>>,
}

impl Recipe {
    /// Reads `profiles/components/<name>/`.
    pub(crate) fn read(profiles: &Path, name: &str) -> Result<Self> {
        let dir = profiles.join("components").join(name);
        let mut files = BTreeMap::new();
        for file in ["go.mod", "go.sum", "recipe.toml"] {
            let path = dir.join(file);
            let bytes = std::fs::read(&path).with_context(|| format!("reading the recipe file {}", path.display()))?;
            files.insert(file.to_owned(), bytes);
        }
        for entry in std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".go")) else { continue };
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(name.to_owned(), bytes);
        }
        let path = dir.join("recipe.toml");
        let text = String::from_utf8_lossy(&files["recipe.toml"]).into_owned();
        let written: Written = toml::from_str(&text).map_err(|e| Misplaced::toml(&path, &text, &e))?;
        Ok(Self { name: name.into(), dir, written, files })
    }

    /// Its version stamp.
    pub(crate) fn version(&self) -> &str {
        &self.written.version
    }

    /// Its programs.
    pub(crate) fn binaries(&self) -> &[Binary] {
        &self.written.binaries
    }

    /// Where its programs lie in the image.
    pub(crate) fn dir(&self) -> &str {
        &self.written.dir
    }

    /// The program that answers to a name: its own, or one of those it is called by.
    pub(crate) fn program(&self, name: &str) -> Option<&Binary> {
        self.binaries().iter().find(|b| b.name == name || b.names.iter().any(|n| n == name))
    }

    /// What is compiled, beside upstream's modules.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let source = |name: &str| !name.ends_with(".toml");
        self.files.iter().filter(move |(n, _)| source(n)).map(|(n, b)| (n.as_str(), b.as_slice()))
    }

    /// sha256 of its files.
    pub(crate) fn digest(&self) -> String {
        let fields: Vec<&[u8]> = self.files.iter().flat_map(|(n, b)| [n.as_bytes(), b.as_slice()]).collect();
        sha256_of(&fields)
    }
}

//! Components: programs and images that no package of Debian's has, by recipe.
//!
//! A recipe is a directory `profiles/components/<name>/` with a `recipe.toml`. Each program in it says where it comes from:
//!
//! | source | keys | verified by |
//! |---|---|---|
//! | Go modules, built here | `package`, `tags`; beside the recipe `go.mod`, `go.sum`, and where upstream's own `main` is not what a node needs `*.go`, a `main` over upstream's packages, modules in directories that `go.mod` puts in upstream ones' place, and `*.patch` (`patches.rs`) | `go.sum` |
//! | a file of the web's | `url`, `sha256`; `member` where the file is a tar (gzip, xz, zstd or plain) | the digest |
//! | a file of a container image | `oci = "REGISTRY/NAME@sha256:…"`, `path` in it | the digest |
//!
//! `[[image]]` with `name` and `oci` puts a whole container image into the root; it is imported when a node boots, so that its
//! pods need no registry. What was built or fetched is kept in the store under a key of all that decides it.

mod fetched;
pub(crate) mod go;
mod oci;
mod patches;

use crate::digest::sha256_of;
use crate::fetch::Fetcher;
use crate::place::Misplaced;
use crate::store::Store;
use anyhow::{Context, Result};
use go::Toolchain;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How the files of patches end.
const PATCH: &str = ".patch";

/// `recipe.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    version: String,
    /// Where its programs lie in the image.
    #[serde(default = "usr_bin")]
    dir: String,
    #[serde(rename = "binary", default)]
    binaries: Vec<WrittenBinary>,
    #[serde(rename = "image", default)]
    images: Vec<WrittenImage>,
    /// Variable -> value, for the linker's `-X`.
    #[serde(default)]
    stamps: BTreeMap<String, String>,
}

fn usr_bin() -> String {
    "/usr/bin".into()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenBinary {
    name: String,
    #[serde(default)]
    names: Vec<String>,
    package: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    url: Option<String>,
    sha256: Option<String>,
    member: Option<String>,
    oci: Option<String>,
    path: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenImage {
    name: String,
    oci: String,
}

/// A program of a component.
#[derive(Clone, Debug)]
pub(crate) struct Binary {
    /// File name in the image.
    pub(crate) name: String,
    /// Names by which it is called and does what they say: links to it in the image.
    pub(crate) names: Vec<String>,
    /// Where it comes from.
    pub(crate) source: Source,
}

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Go package of its `main` (`.` = the recipe's own), and build tags.
    Go { package: String, tags: Vec<String> },
    /// A file, or a member of the tar that it is.
    Url { url: String, sha256: String, member: Option<String> },
    /// A file of a container image.
    Oci { image: oci::Reference, path: String },
}

impl WrittenBinary {
    /// Its source, or what is wrong.
    fn source(&self) -> Result<Source, String> {
        let stray = |keys: &[(&str, bool)], with: &str| match keys.iter().find(|(_, there)| *there) {
            Some((key, _)) => Err(format!("`{key}` says nothing beside `{with}`")),
            None => Ok(()),
        };
        let (sha256, member, path) =
            (("sha256", self.sha256.is_some()), ("member", self.member.is_some()), ("path", self.path.is_some()));
        let tags = ("tags", !self.tags.is_empty());
        match (&self.package, &self.url, &self.oci) {
            (Some(package), None, None) => {
                stray(&[sha256, member, path], "package")?;
                Ok(Source::Go { package: package.clone(), tags: self.tags.clone() })
            }
            (None, Some(url), None) => {
                stray(&[tags, path], "url")?;
                let sha256 = self.sha256.clone().filter(|s| is_sha256(s));
                let sha256 = sha256.ok_or("expected `sha256`, 64 hex digits, beside `url`")?;
                Ok(Source::Url { url: url.clone(), sha256, member: self.member.clone() })
            }
            (None, None, Some(image)) => {
                stray(&[tags, sha256, member], "oci")?;
                let path = self.path.clone().filter(|p| p.starts_with('/'));
                let path = path.ok_or("expected `path`, absolute, beside `oci`")?;
                Ok(Source::Oci { image: image.parse()?, path })
            }
            _ => Err("expected one of `package`, `url` and `oci`".into()),
        }
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The names in a directory.
fn names_in(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let names = entries.map(|e| Ok(e?.file_name().into_string().ok()));
    Ok(names.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// A recipe as read: the files that decide what is built.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Directory name.
    pub(crate) name: String,
    dir: PathBuf,
    version: String,
    bin_dir: String,
    binaries: Vec<Binary>,
    /// Name by which pods know it, and where it comes from.
    images: Vec<(String, oci::Reference)>,
    stamps: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Recipe {
    /// Reads `profiles/components/<name>/`.
    pub(crate) fn read(profiles: &Path, name: &str) -> Result<Self> {
        let dir = profiles.join("components").join(name);
        let mut files = BTreeMap::new();
        let mut take = |file: &str| -> Result<()> {
            let path = dir.join(file);
            let bytes = std::fs::read(&path).with_context(|| format!("reading the recipe file {}", path.display()))?;
            files.insert(file.to_owned(), bytes);
            Ok(())
        };
        take("recipe.toml")?;
        for name in names_in(&dir)? {
            // A module of the recipe's own that go.mod puts in an upstream one's place.
            let module = dir.join(&name).join("go.mod").exists();
            let inside = if module { names_in(&dir.join(&name))? } else { Vec::new() };
            let own = inside.iter().filter(|n| n.ends_with(".go") || *n == "go.mod").map(|n| format!("{name}/{n}"));
            let is_source = name.ends_with(".go") || name.ends_with(PATCH);
            for file in own.chain(is_source.then(|| name.clone())) {
                take(&file)?;
            }
        }
        let path = dir.join("recipe.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let written: Written = toml::from_str(&text).map_err(|e| Misplaced::toml(&path, &text, &e))?;
        let refused = |name: &str, why: String| Misplaced::naming(&path, &text, &format!("\"{name}\""), why);
        let mut binaries = Vec::new();
        for b in written.binaries {
            let source = b.source().map_err(|e| refused(&b.name, format!("binary `{}`: {e}", b.name)))?;
            binaries.push(Binary { name: b.name, names: b.names, source });
        }
        let mut images = Vec::new();
        for i in written.images {
            let reference = i.oci.parse().map_err(|e| refused(&i.name, format!("image `{}`: {e}", i.name)))?;
            images.push((i.name, reference));
        }
        if binaries.iter().any(|b| matches!(b.source, Source::Go { .. })) {
            take("go.mod")?;
            take("go.sum")?;
        }
        let (version, bin_dir, stamps) = (written.version, written.dir, written.stamps);
        Ok(Self { name: name.into(), dir, version, bin_dir, binaries, images, stamps, files })
    }

    /// Its version stamp.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Its programs.
    pub(crate) fn binaries(&self) -> &[Binary] {
        &self.binaries
    }

    /// Those that are built here: name, package, tags.
    fn compiled(&self) -> impl Iterator<Item = (&str, &str, &[String])> {
        self.binaries.iter().filter_map(|b| match &b.source {
            Source::Go { package, tags } => Some((b.name.as_str(), package.as_str(), tags.as_slice())),
            _ => None,
        })
    }

    /// Whether it needs a Go toolchain.
    pub(crate) fn is_compiled(&self) -> bool {
        self.compiled().next().is_some()
    }

    /// Where its programs lie in the image.
    pub(crate) fn dir(&self) -> &str {
        &self.bin_dir
    }

    /// The program that answers to a name: its own, or one of those it is called by.
    pub(crate) fn program(&self, name: &str) -> Option<&Binary> {
        self.binaries().iter().find(|b| b.name == name || b.names.iter().any(|n| n == name))
    }

    /// What is compiled, beside upstream's modules.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let source = |name: &str| !name.ends_with(".toml") && !name.ends_with(PATCH);
        self.files.iter().filter(move |(n, _)| source(n)).map(|(n, b)| (n.as_str(), b.as_slice()))
    }

    /// What is changed in upstream's modules.
    fn patches(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().filter(|(n, _)| n.ends_with(PATCH)).map(|(n, b)| (n.as_str(), b.as_slice()))
    }

    /// sha256 of its files.
    pub(crate) fn digest(&self) -> String {
        let fields: Vec<&[u8]> = self.files.iter().flat_map(|(n, b)| [n.as_bytes(), b.as_slice()]).collect();
        sha256_of(&fields)
    }

    /// Its programs, name -> digest in the store: built or fetched unless they are there.
    pub(crate) fn make(
        &self,
        go: Option<&Toolchain>,
        fetcher: &Fetcher,
        store: &Store,
    ) -> Result<BTreeMap<String, String>> {
        let mut made = match go {
            Some(go) if self.is_compiled() => go.build(self, store)?,
            _ => BTreeMap::new(),
        };
        for binary in &self.binaries {
            let digest = match &binary.source {
                Source::Go { .. } => continue,
                Source::Url { url, sha256, member } => fetched::program(url, sha256, member.as_deref(), fetcher, store)
                    .with_context(|| format!("{}: {url}", binary.name))?,
                Source::Oci { image, path } => oci::program(image, path, fetcher, store)
                    .with_context(|| format!("{}: {path} of {image}", binary.name))?,
            };
            made.insert(binary.name.clone(), digest);
        }
        Ok(made)
    }

    /// Its container images as OCI archives, by file name.
    pub(crate) fn images(&self, fetcher: &Fetcher, store: &Store) -> Result<Vec<(String, Vec<u8>)>> {
        let one = |(name, image): &(String, oci::Reference)| {
            let bytes = oci::archive(name, image, fetcher, store).with_context(|| format!("the image {image}"))?;
            Ok((format!("{}.tar", name.replace(['/', ':', '@'], "_")), bytes))
        };
        self.images.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests;

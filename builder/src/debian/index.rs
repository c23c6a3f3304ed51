//! `Packages`: what an archive offers.

use super::control::{Stanza, stanzas};
use super::version;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;

/// An unpacked Packages file is at most this long: Debian's main is 57 MB.
const MAX_BYTES: u64 = 512 << 20;

/// A package that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Name.
    pub(crate) name: String,
    /// Version.
    pub(crate) version: String,
    /// Archive it comes from.
    pub(crate) archive: String,
    /// Suite of that archive.
    pub(crate) suite: String,
    /// Pool path.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Of the deb.
    pub(crate) sha256: String,
    /// Pre-Depends and Depends: clauses of alternatives.
    pub(crate) depends: Vec<Vec<Relation>>,
    /// Provided names, with versions where given.
    pub(crate) provides: Vec<Relation>,
}

/// `name (op version)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    /// Package name, without architecture qualifier.
    pub(crate) name: String,
    /// `(>=, 1.2)`.
    pub(crate) version: Option<(String, String)>,
}

impl std::fmt::Display for Relation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some((op, v)) => write!(f, "{} ({op} {v})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// All offers by name, highest version first; and who provides a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_name: BTreeMap<String, Vec<Offer>>,
    providers: BTreeMap<String, Vec<(String, Option<String>)>>,
}

/// Unpacks `Packages.xz`.
pub(crate) fn unpack(xz: &[u8]) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    liblzma::read::XzDecoder::new(xz).take(MAX_BYTES).read_to_string(&mut text).context("unpacking Packages.xz")?;
    Ok(text)
}

impl Index {
    /// Adds the packages of one Packages file.
    pub(crate) fn add(&mut self, packages: &str, archive: &str, suite: &str) -> Result<()> {
        for s in stanzas(packages) {
            let offer = offer(&s, archive, suite).context("reading a stanza of Packages")?;
            for p in &offer.provides {
                let version = p.version.as_ref().map(|(_, v)| v.clone());
                self.providers.entry(p.name.clone()).or_default().push((offer.name.clone(), version));
            }
            self.by_name.entry(offer.name.clone()).or_default().push(offer);
        }
        for offers in self.by_name.values_mut() {
            offers.sort_by(|a, b| version::compare(&b.version, &a.version));
        }
        for names in self.providers.values_mut() {
            names.sort();
            names.dedup();
        }
        Ok(())
    }

    /// The highest version of a package.
    pub(crate) fn newest(&self, name: &str) -> Option<&Offer> {
        self.by_name.get(name)?.first()
    }

    /// The highest version of a package that meets a relation.
    pub(crate) fn best(&self, relation: &Relation) -> Option<&Offer> {
        self.by_name.get(&relation.name)?.iter().find(|o| meets(&o.version, relation))
    }

    /// The first package, by name, that provides what a relation asks for.
    pub(crate) fn provider(&self, relation: &Relation) -> Option<&Offer> {
        self.providers
            .get(&relation.name)?
            .iter()
            .filter(|(_, v)| provides(v.as_deref(), relation))
            .find_map(|(name, _)| self.newest(name))
    }

    /// Names, for hints.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// Whether a version meets a relation's constraint.
pub(crate) fn meets(have: &str, relation: &Relation) -> bool {
    relation.version.as_ref().is_none_or(|(op, want)| version::satisfies(have, op, want))
}

/// Whether a provided version (often none) meets it: an unversioned Provides meets no versioned relation (Policy 7.5).
pub(crate) fn provides(have: Option<&str>, relation: &Relation) -> bool {
    match (&relation.version, have) {
        (None, _) => true,
        (Some(_), Some(v)) => meets(v, relation),
        (Some(_), None) => false,
    }
}

fn offer(s: &Stanza, archive: &str, suite: &str) -> Result<Offer> {
    let field = |k: &str| s.get(k).cloned().with_context(|| format!("`{k}` is missing"));
    let name = field("package")?;
    let list = |k: &str| s.get(k).map(|v| relations(v)).unwrap_or_default();
    let sha256 = field("sha256")?;
    ensure!(sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: `{sha256}` is no sha256");
    let path = field("filename")?;
    ensure!(!path.starts_with('/') && !path.split('/').any(|p| p == ".."), "{name}: `{path}` is no pool path");
    Ok(Offer {
        version: field("version")?,
        archive: archive.into(),
        suite: suite.into(),
        path,
        size: field("size")?.parse().context("`size`")?,
        sha256,
        depends: [list("pre-depends"), list("depends")].concat(),
        provides: list("provides").into_iter().flatten().collect(),
        name,
    })
}

/// `a (>= 1) | b:any, c` (Policy 7.1): clauses of alternatives. Restrictions on architecture do not occur in binaries.
pub(crate) fn relations(text: &str) -> Vec<Vec<Relation>> {
    text.split(',')
        .map(|clause| clause.split('|').filter_map(relation).collect::<Vec<_>>())
        .filter(|c| !c.is_empty())
        .collect()
}

fn relation(text: &str) -> Option<Relation> {
    let text = text.trim();
    let (name, rest) = text.split_once('(').unwrap_or((text, ""));
    let name = name.trim().split(':').next()?.to_owned();
    let inner = rest.split(')').next()?.trim();
    let op_end = inner.find(|c: char| !"<>=".contains(c)).unwrap_or(0);
    let version = (op_end > 0).then(|| (inner[..op_end].to_owned(), inner[op_end..].trim().to_owned()));
    (!name.is_empty()).then_some(Relation { name, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_relations() {
        let r = relations("libc6 (>= 2.38), adduser:any | x (<< 2~), awk");
        assert_eq!(r.len(), 3);
        assert_eq!(r[0][0].version, Some((">=".into(), "2.38".into())));
        assert_eq!(r[1].iter().map(|r| &*r.name).collect::<Vec<_>>(), ["adduser", "x"]);
        assert_eq!(r[1][1].to_string(), "x (<< 2~)");
    }

    #[test]
    fn refuses_paths_that_leave_the_pool() {
        let digest = "0".repeat(64);
        let text = format!("Package: a\nVersion: 1\nFilename: ../x.deb\nSize: 1\nSHA256: {digest}\n");
        assert!(Index::default().add(&text, "debian", "x").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z0-9 ,|()<>=:.~+-]{0,80}") {
            let _ = relations(&text);
        }
    }
}

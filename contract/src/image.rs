//! What an image consists of: the files the builder writes and init reads back.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `/image.json` of the initramfs.
///
/// Length and digest of `root.img` are integrity, not authenticity; authenticity is dm-verity's and Secure Boot's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// Profile name.
    pub name: String,
    /// Workspace version, a dash, and the first 12 hex digits of [`ImageInfo::build_id`].
    pub version: String,
    /// sha256 of everything that went in: resolved profile, lock, init, agent.
    pub build_id: String,
    /// Build date, seconds since the epoch: the latest `Date` of the locked indices. Never before it can "now" be.
    pub epoch: u64,
    /// Roles this image carries the files of.
    pub roles: Vec<String>,
    /// The squashfs.
    pub root: RootImage,
    /// Boot modules in load order.
    pub modules: Vec<String>,
    /// The least RAM this initramfs boots with, in MiB.
    pub min_ram_mib: u64,
}

/// Length and digest of `root.img`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootImage {
    /// Bytes.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// `/usr/lib/quorate/modules.json`: what `modules.dep` and `modules.alias` say, made by the builder from the modules'
/// own `.modinfo` (Debian's package ships neither; its maintainer script would run `depmod`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// Kernel release, as `uname -r`.
    pub release: String,
    /// By name, with underscores.
    pub modules: BTreeMap<String, Module>,
    /// `(pattern, module)`, patterns as in `.modinfo` (`pci:v00001AF4d*…`, fnmatch), sorted.
    pub aliases: Vec<(String, String)>,
}

/// One kernel module of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// Absolute path of the `.ko.xz`.
    pub path: String,
    /// Names of the modules that must be there before (`depends=` and `softdep=pre:`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

impl Modules {
    /// The modules to load for `name`, dependencies first, `name` last; empty when it is not in this image.
    pub fn closure(&self, name: &str) -> Vec<&str> {
        let mut order = Vec::new();
        let name = name.replace('-', "_");
        if let Some((key, _)) = self.modules.get_key_value(&name) {
            self.visit(key, &mut order, 0);
        }
        order
    }

    fn visit<'a>(&'a self, name: &'a str, order: &mut Vec<&'a str>, depth: usize) {
        // A cycle is impossible among `depends=`, but soft dependencies may form one; the bound keeps PID 1 alive.
        if depth > 32 || order.contains(&name) {
            return;
        }
        let Some(module) = self.modules.get(name) else { return };
        for need in &module.needs {
            self.visit(need, order, depth + 1);
        }
        if !order.contains(&name) {
            order.push(name);
        }
    }

    /// Modules whose alias matches a modalias or a name the kernel asked for (`fs-squashfs`, `crypto-xxhash`).
    pub fn by_alias(&self, modalias: &str) -> Vec<&str> {
        let mut found: Vec<&str> =
            self.aliases.iter().filter(|(p, _)| glob(p.as_bytes(), modalias.as_bytes())).map(|(_, m)| &**m).collect();
        found.dedup();
        found
    }
}

/// fnmatch without character classes, iterative (a pattern cannot make it slow): `*` any run, `?` one byte.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((sp, st)) => {
                    p = sp + 1;
                    t = st + 1;
                    star = Some((sp, st + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// `manifest.json`: every package and component with version and digest. Beside the outputs and in the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Schema of this file: 1.
    pub manifest_version: u32,
    /// Profile name.
    pub name: String,
    /// Image version.
    pub version: String,
    /// See [`ImageInfo::build_id`].
    pub build_id: String,
    /// Build date, seconds since the epoch.
    pub epoch: u64,
    /// Roles the image carries.
    pub roles: Vec<String>,
    /// Kernel release.
    pub kernel: String,
    /// Packages that files were taken from.
    pub packages: Vec<PackageEntry>,
    /// Components built from source.
    pub components: Vec<ComponentEntry>,
    /// sha256 of `quorate-init`.
    pub init_sha256: String,
    /// sha256 of `quorate-agent`.
    pub agent_sha256: String,
}

/// A package in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageEntry {
    /// Package name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// sha256 of the deb.
    pub sha256: String,
    /// Files taken from it.
    pub files: usize,
}

/// A component in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentEntry {
    /// Component name.
    pub name: String,
    /// Version stamp of the recipe.
    pub version: String,
    /// Binary name -> sha256.
    pub binaries: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn closure_is_in_load_order() {
        let m = |needs: &[&str]| Module { path: String::new(), needs: needs.iter().map(ToString::to_string).collect() };
        let modules = Modules {
            release: "6".into(),
            modules: [("a", m(&["b", "c"])), ("b", m(&["c"])), ("c", m(&[])), ("x", m(&["y"])), ("y", m(&["x"]))]
                .map(|(n, m)| (n.to_owned(), m))
                .into(),
            aliases: vec![("pci:v1AF4d*".into(), "a".into())],
        };
        assert_eq!(modules.closure("a"), ["c", "b", "a"]);
        assert_eq!(modules.closure("x").len(), 2, "a cycle ends");
        assert!(modules.closure("none").is_empty());
        assert_eq!(modules.by_alias("pci:v1AF4d1000"), ["a"]);
    }

    #[test]
    fn globs() {
        for (p, t, want) in [
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("*", "", true),
            ("a?c", "ac", false),
            ("a*b*c", "aXbYbZc", true),
        ] {
            assert_eq!(glob(p.as_bytes(), t.as_bytes()), want, "{p} {t}");
        }
    }

    proptest! {
        #[test]
        fn a_star_matches_any_rest(prefix in "[a-z]{0,8}", rest in ".{0,20}") {
            let (pattern, text) = (format!("{prefix}*"), format!("{prefix}{rest}"));
            prop_assert!(glob(pattern.as_bytes(), text.as_bytes()));
        }
    }
}

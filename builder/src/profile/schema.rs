//! A profile as written (all optional) and as resolved.

use crate::place::Misplaced;
use anyhow::Result;
use contract::nearest::nearest;
use contract::node::Role;
use contract::users::USERS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// As written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Fragment {
    pub(crate) name: Option<String>,
    pub(crate) extends: Vec<String>,
    roles: Vec<Role>,
    debian: DebianFragment,
    kernel: KernelFragment,
    packages: BTreeMap<String, Take>,
    components: BTreeMap<String, Take>,
    users: Vec<String>,
    sysctl: BTreeMap<String, Scalar>,
    squashfs: SquashfsFragment,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct DebianFragment {
    suite: Option<String>,
    archives: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct KernelFragment {
    flavour: Option<Flavour>,
    boot_modules: Vec<String>,
    modules: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct SquashfsFragment {
    level: Option<u32>,
}

/// A sysctl's value, a number or a string.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(i64),
    Text(String),
}

/// The files to take from a package or component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Take {
    /// Absolute paths, `*` allowed (packages); binaries (components).
    pub(crate) take: Vec<String>,
    /// Libraries that programs load by name at run time, which no ELF header tells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) dlopen: Vec<String>,
}

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Flavour {
    /// For virtual machines.
    Cloud,
    /// For everything else.
    Generic,
}

impl Flavour {
    /// The metapackage that names the current kernel.
    pub(crate) fn metapackage(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
        }
    }

    /// The consoles on its command line.
    pub(crate) fn console(self) -> &'static str {
        match self {
            Self::Cloud => contract::cmdline::CONSOLE_CLOUD,
            Self::Generic => contract::cmdline::CONSOLE_GENERIC,
        }
    }
}

/// Resolved: what `plan` prints and a build follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) users: Vec<String>,
    pub(crate) debian: Debian,
    pub(crate) kernel: Kernel,
    pub(crate) packages: BTreeMap<String, Take>,
    pub(crate) components: BTreeMap<String, Take>,
    pub(crate) sysctl: BTreeMap<String, String>,
    pub(crate) squashfs: Squashfs,
}

/// Where packages come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Debian {
    pub(crate) suite: String,
    /// Archive -> suites of it.
    pub(crate) archives: BTreeMap<String, Vec<String>>,
}

/// The kernel and its modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Kernel {
    pub(crate) flavour: Flavour,
    /// Loaded from the initramfs before the root is mounted.
    pub(crate) boot_modules: Vec<String>,
    /// In the root, loaded when a device or the kernel asks for them.
    pub(crate) modules: Vec<String>,
}

/// The root's compression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Squashfs {
    pub(crate) level: u32,
}

fn unite(into: &mut Vec<String>, more: Vec<String>) {
    for m in more {
        if !into.contains(&m) {
            into.push(m);
        }
    }
}

fn merge_takes(into: &mut BTreeMap<String, Take>, more: BTreeMap<String, Take>) {
    for (name, take) in more {
        let entry = into.entry(name).or_default();
        unite(&mut entry.take, take.take);
        unite(&mut entry.dlopen, take.dlopen);
    }
}

impl Fragment {
    /// `later` over `self`, by the rules of the module above.
    pub(crate) fn merged_with(mut self, later: Self) -> Self {
        self.name = later.name.or(self.name);
        for role in later.roles {
            if !self.roles.contains(&role) {
                self.roles.push(role);
            }
        }
        self.debian.suite = later.debian.suite.or(self.debian.suite);
        for (archive, suites) in later.debian.archives {
            unite(self.debian.archives.entry(archive).or_default(), suites);
        }
        self.kernel.flavour = later.kernel.flavour.or(self.kernel.flavour);
        unite(&mut self.kernel.boot_modules, later.kernel.boot_modules);
        unite(&mut self.kernel.modules, later.kernel.modules);
        merge_takes(&mut self.packages, later.packages);
        merge_takes(&mut self.components, later.components);
        unite(&mut self.users, later.users);
        self.sysctl.extend(later.sysctl);
        self.squashfs.level = later.squashfs.level.or(self.squashfs.level);
        self
    }

    /// Checks that what a build needs is there.
    pub(crate) fn resolve(self, path: &Path) -> Result<Profile> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let missing =
            |key: &str, hint: &str| Misplaced::at(path, &text, 0, format!("`{key}` is missing; expected {hint}"));
        for user in &self.users {
            if !USERS.iter().any(|u| u.name == user) {
                let known = USERS.iter().map(|u| u.name);
                let hint = nearest(user, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                let message = format!("`{user}` is not one of quorate's static users{hint}");
                return Err(Misplaced::naming(path, &text, &format!("\"{user}\""), message).into());
            }
        }
        let level = self.squashfs.level.unwrap_or(3);
        if !(1..=22).contains(&level) {
            return Err(Misplaced::naming(path, &text, "level", "expected a zstd level, 1 to 22").into());
        }
        for (package, take) in &self.packages {
            if let Some(bad) = take.take.iter().chain(&take.dlopen).find(|p| !p.starts_with('/')) {
                let message = format!("{package}: `{bad}`: expected an absolute path");
                return Err(Misplaced::naming(path, &text, &format!("\"{bad}\""), message).into());
            }
        }
        if self.roles.is_empty() {
            return Err(missing("roles", "at least one of master, etcd, lb, worker").into());
        }
        let mut roles = self.roles;
        roles.sort();
        Ok(Profile {
            name: self.name.ok_or_else(|| missing("name", "the image's name"))?,
            roles,
            users: self.users,
            debian: Debian {
                suite: self.debian.suite.ok_or_else(|| missing("debian.suite", "a suite, `trixie`"))?,
                archives: self.debian.archives,
            },
            kernel: Kernel {
                flavour: self.kernel.flavour.ok_or_else(|| missing("kernel.flavour", "`cloud` or `generic`"))?,
                boot_modules: self.kernel.boot_modules,
                modules: self.kernel.modules,
            },
            packages: self.packages,
            components: self.components,
            sysctl: self
                .sysctl
                .into_iter()
                .map(|(k, v)| {
                    (
                        k,
                        match v {
                            Scalar::Number(n) => n.to_string(),
                            Scalar::Text(t) => t,
                        },
                    )
                })
                .collect(),
            squashfs: Squashfs { level },
        })
    }
}

//! The kernel's modules: which of them an image carries, and what depmod would have found out.
//!
//! Debian's package has no `modules.dep`; the modules' own `.modinfo` says `depends=`, `softdep=` and `alias=`.

use super::packages::Pool;
use crate::tree::{Node, Tree};
use anyhow::{Context, Result, bail, ensure};
use contract::image::{Module, Modules};
use contract::nearest::nearest;
use object::{Object, ObjectSection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;

/// An unpacked module is at most this long.
const MODULE_MAX: u64 = 64 << 20;

/// What one module says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    path: String,
    depends: Vec<String>,
    soft_pre: Vec<String>,
    aliases: Vec<String>,
}

/// All modules of a kernel package, and those built in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalogue {
    release: String,
    modules: BTreeMap<String, Info>,
    builtin: Vec<String>,
}

impl Catalogue {
    /// Reads every module of a kernel package: seconds of unpacking, so the builder keeps the result in the store.
    pub(crate) fn read(pool: &Pool) -> Result<Self> {
        let base = "/usr/lib/modules/";
        let first = pool.under(base).find(|p| p.len() > base.len()).context("the kernel package has no modules")?;
        let release = first[base.len()..].split('/').next().unwrap_or("").to_owned();
        let prefix = format!("{base}{release}/");
        let builtin =
            pool.file(&format!("{prefix}modules.builtin")).context("the kernel package has no modules.builtin")?;
        let builtin = String::from_utf8_lossy(builtin).lines().map(module_name).collect();
        let paths: Vec<&str> = pool.under(&prefix).filter(|p| p.ends_with(".ko.xz") || p.ends_with(".ko")).collect();
        // Two cores: half of the modules each.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let chunks: Vec<_> = paths.chunks(paths.len().div_ceil(threads).max(1)).collect();
        let parts = std::thread::scope(|s| {
            let handles: Vec<_> = chunks
                .into_iter()
                .map(|paths| {
                    s.spawn(move || {
                        paths.iter().map(|p| Ok((module_name(p), info(pool, p)?))).collect::<Result<Vec<_>>>()
                    })
                })
                .collect();
            handles
                .into_iter()
                .map(|h| h.join().map_err(|_| anyhow::anyhow!("a thread ended early"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { release, modules: parts.into_iter().flatten().collect(), builtin })
    }

    /// The named modules and all they need, with the aliases under which they are asked for.
    pub(crate) fn select(&self, names: &[String], key: &str) -> Result<Modules> {
        let mut out = Modules { release: self.release.clone(), ..Modules::default() };
        let mut queue: Vec<(String, String)> = names.iter().map(|n| (n.replace('-', "_"), key.to_owned())).collect();
        while let Some((name, why)) = queue.pop() {
            if out.modules.contains_key(&name) || self.builtin.contains(&name) {
                continue;
            }
            let Some(info) = self.modules.get(&name) else {
                let known = self.modules.keys().chain(&self.builtin).map(String::as_str);
                let hint = nearest(&name, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                bail!("{why}: the kernel {} has no module `{name}`{hint}", self.release);
            };
            let soft = info.soft_pre.iter().filter(|s| self.modules.contains_key(*s));
            let needs: Vec<String> =
                info.depends.iter().chain(soft).filter(|n| !self.builtin.contains(n)).cloned().collect();
            queue.extend(needs.iter().map(|n| (n.clone(), format!("module {name}"))));
            out.aliases.extend(info.aliases.iter().map(|a| (a.clone(), name.clone())));
            out.modules.insert(name, Module { path: info.path.clone(), needs });
        }
        out.aliases.sort();
        Ok(out)
    }
}

/// Puts the selected modules and their catalogue into the tree.
pub(crate) fn install(modules: &Modules, pool: &Pool, tree: &mut Tree) -> Result<()> {
    for module in modules.modules.values() {
        let bytes = pool.file(&module.path).with_context(|| format!("{} is not in the kernel package", module.path))?;
        tree.put(&module.path, Node::file(0o644, bytes.as_slice()))?;
    }
    tree.put(contract::paths::MODULES_JSON, Node::file(0o644, serde_json::to_vec(modules)?))
}

/// `kernel/drivers/block/virtio_blk.ko.xz` -> `virtio_blk`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn info(pool: &Pool, path: &str) -> Result<Info> {
    let bytes = pool.file(path).with_context(|| format!("{path} is no file"))?;
    let raw = if path.ends_with(".xz") {
        let mut raw = Vec::new();
        liblzma::read::XzDecoder::new(bytes.as_slice()).take(MODULE_MAX).read_to_end(&mut raw)?;
        raw
    } else {
        bytes.to_vec()
    };
    parse(path, &raw).with_context(|| format!("reading {path}"))
}

fn parse(path: &str, elf: &[u8]) -> Result<Info> {
    let file = object::File::parse(elf)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    let mut info = Info { path: path.into(), ..Info::default() };
    for entry in section.data()?.split(|b| *b == 0).filter(|e| !e.is_empty()) {
        let text = String::from_utf8_lossy(entry);
        let Some((key, value)) = text.split_once('=') else { continue };
        let words = |v: &str| v.replace('-', "_");
        match key {
            "depends" => info.depends.extend(value.split(',').filter(|d| !d.is_empty()).map(words)),
            "alias" => info.aliases.push(value.to_owned()),
            "softdep" => {
                let pre = value.split_whitespace().skip_while(|w| *w != "pre:").skip(1);
                info.soft_pre.extend(pre.take_while(|w| *w != "post:").map(words));
            }
            _ => {}
        }
    }
    ensure!(info.depends.len() < 256, "too many dependencies");
    Ok(info)
}

/// vmlinuz of the kernel package.
pub(crate) fn vmlinuz(pool: &Pool) -> Result<Vec<u8>> {
    let path = pool.under("/boot/vmlinuz-").next().context("the kernel package has no vmlinuz")?;
    Ok(pool.file(path).context("vmlinuz is no file")?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let info = |depends: &[&str], soft: &[&str], aliases: &[&str]| {
            let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
            Info { path: "/m".into(), depends: own(depends), soft_pre: own(soft), aliases: own(aliases) }
        };
        Catalogue {
            release: "6.12".into(),
            modules: [
                ("squashfs", info(&[], &[], &["fs-squashfs"])),
                ("virtio_net", info(&["net_failover", "virtio"], &[], &["virtio:d00000001v*"])),
                ("net_failover", info(&["failover"], &["gone"], &[])),
                ("failover", info(&[], &[], &[])),
            ]
            .map(|(n, i)| (n.to_owned(), i))
            .into(),
            builtin: vec!["virtio".into()],
        }
    }

    #[test]
    fn selects_with_dependencies_but_without_what_is_built_in() {
        let m = catalogue().select(&["virtio-net".into(), "virtio".into()], "kernel.modules").expect("selected");
        assert_eq!(m.closure("virtio_net"), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(m.by_alias("virtio:d00000001v00001AF4"), ["virtio_net"]);
        let e = catalogue().select(&["sqashfs".into()], "kernel.boot-modules").expect_err("a typo").to_string();
        assert_eq!(e, "kernel.boot-modules: the kernel 6.12 has no module `sqashfs`; did you mean `squashfs`?");
    }

    #[test]
    fn names() {
        assert_eq!(module_name("/usr/lib/modules/6/kernel/drivers/net/xen-netfront.ko.xz"), "xen_netfront");
    }
}

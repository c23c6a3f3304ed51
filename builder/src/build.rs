//! Running a plan: the only orchestrator. Everything it reads comes from the store, by digest.

use crate::component::Recipe;
use crate::component::go::Toolchain;
use crate::debian::deb;
use crate::digest::{sha256, sha256_of};
use crate::fetch::{Fetcher, Wanted};
use crate::format::initrd::{self, Entry};
use crate::format::{oci, squashfs};
use crate::lock::{Lock, LockedPackage};
use crate::output::Output;
use crate::plan::Plan;
use crate::progress::{self, Step};
use crate::rootfs::packages::{Pool, take};
use crate::rootfs::{etc, kernel};
use crate::store::Store;
use crate::tree::{Node, Tree};
use anyhow::{Context, Result};
use contract::image::{ComponentEntry, ImageInfo, Manifest, Modules, PackageEntry, RootImage};
use contract::node::Role;
use contract::paths;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Downloads at once: mirrors are far, and unpacking is not what they wait for.
const DOWNLOADS: usize = 6;

/// Makes the debs of a lock present in the store; returns the entries that no mirror has any more.
pub(crate) fn fetch<'a>(lock: &'a Lock, fetcher: &Fetcher, store: &Store) -> Result<Vec<&'a LockedPackage>> {
    let missing: Vec<&LockedPackage> = lock.packages.iter().filter(|p| !store.has(&p.sha256)).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let step = Step::bytes(&format!("fetching {} packages", missing.len()), missing.iter().map(|p| p.size).sum());
    let queue = Mutex::new(missing.into_iter());
    let vanished = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        let workers: Vec<_> = (0..DOWNLOADS)
            .map(|_| {
                s.spawn(|| -> Result<()> {
                    loop {
                        let Some(p) = queue.lock().map_err(|_| anyhow::anyhow!("a download failed"))?.next() else {
                            return Ok(());
                        };
                        if fetcher.blob(store, &wanted(p), Some(&step))?.is_none()
                            && let Ok(mut v) = vanished.lock()
                        {
                            v.push(p);
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a download failed"))?)
    })?;
    step.end();
    vanished.into_inner().map_err(|_| anyhow::anyhow!("a download failed"))
}

fn wanted(p: &LockedPackage) -> Wanted<'_> {
    Wanted { archive: &p.archive, path: &p.path, size: p.size, sha256: &p.sha256 }
}

/// The inputs of a build beside the store.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) lock: &'a Lock,
    pub(crate) recipes: &'a [Recipe],
    /// None where no recipe needs it.
    pub(crate) go: Option<&'a Toolchain>,
    pub(crate) fetcher: &'a Fetcher,
    pub(crate) init: &'a [u8],
    pub(crate) agent: &'a [u8],
}

/// Builds the image: files by name.
pub(crate) fn build(inputs: &Inputs<'_>, store: &Store) -> Result<Output> {
    let Inputs { plan, lock, .. } = inputs;
    let kernel_entry = lock.kernel()?;
    let mut kernel_pool = Pool::default();
    kernel_pool.add(&kernel_entry.name, &unpacked(kernel_entry, store)?)?;
    let mut pool = Pool::default();
    for p in lock.packages.iter().filter(|p| p.name != kernel_entry.name) {
        pool.add(&p.name, &unpacked(p, store)?).with_context(|| format!("package {}", p.name))?;
    }
    let catalogue = catalogue(&kernel_pool, kernel_entry, store)?;
    let boot = catalogue.select(&plan.profile.kernel.boot_modules, "kernel.boot-modules")?;
    let all = [&plan.profile.kernel.boot_modules[..], &plan.profile.kernel.modules[..]].concat();
    let modules = catalogue.select(&all, "kernel.modules")?;

    let (tree, manifest) = root(inputs, &pool, &kernel_pool, &modules, store)?;
    let root = squashfs::write(&tree, plan.profile.squashfs.level, plan.epoch)?;
    progress::say(&format!(
        "root: {} files, {} kB, squashfs {} kB",
        tree.iter().count(),
        tree.size() / 1000,
        root.len() / 1000
    ));
    let initrd = initramfs(inputs, &kernel_pool, &boot, &root)?;
    let mut output = Output::default();
    output.add("vmlinuz", kernel::vmlinuz(&kernel_pool)?);
    output.add("initrd", initrd);
    output.add("cmdline", format!("{}\n", plan.cmdline).into_bytes());
    output.add("manifest.json", json(&manifest)?);
    Ok(output)
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// The root's tree, for `build` and for `inspect --tree`.
fn root(
    inputs: &Inputs<'_>,
    pool: &Pool,
    kernel_pool: &Pool,
    modules: &Modules,
    store: &Store,
) -> Result<(Tree, Manifest)> {
    let Inputs { plan, lock, .. } = inputs;
    let profile = &plan.profile;
    let mut tree = Tree::default();
    etc::skeleton(&mut tree)?;
    etc::accounts(&mut tree, &profile.users)?;
    etc::sysctl(&mut tree, &profile.sysctl)?;
    let release = etc::Release {
        image: &profile.name,
        version: &plan.version,
        build_id: &plan.build_id,
        suite: &profile.debian.suite,
    };
    etc::os_release(&mut tree, &release)?;
    let counts = take(pool, &profile.packages, &mut tree)?;
    kernel::install(modules, kernel_pool, &mut tree)?;
    let mut components = Vec::new();
    for recipe in inputs.recipes {
        let built = recipe.make(inputs.go, inputs.fetcher, store)?;
        let taken = &profile.components[&recipe.name].take;
        let mut binaries = BTreeMap::new();
        for name in taken {
            let program = recipe.program(name).and_then(|p| Some((p, built.get(&p.name)?)));
            let (program, digest) =
                program.with_context(|| format!("components.{}: it builds no `{name}`", recipe.name))?;
            let path = |name: &str| format!("{}/{name}", recipe.dir());
            if !binaries.contains_key(&program.name) {
                let bytes = store.get(digest).with_context(|| format!("{name} vanished from the store"))?;
                tree.put(&path(&program.name), Node::file(0o755, bytes))?;
                binaries.insert(program.name.clone(), digest.clone());
            }
            if *name != program.name {
                tree.put(&path(name), Node::link(&program.name))?;
            }
        }
        for (file, archive) in recipe.images(inputs.fetcher, store)? {
            tree.put(&format!("{}/{file}", paths::IMAGES), Node::file(0o644, archive))?;
        }
        components.push(ComponentEntry { name: recipe.name.clone(), version: recipe.version().into(), binaries });
    }
    tree.put(paths::INIT, Node::file(0o755, inputs.init))?;
    tree.put(paths::AGENT, Node::file(0o755, inputs.agent))?;
    if [Role::Master, Role::Worker].iter().any(|r| profile.roles.contains(r)) {
        tree.put(paths::PAUSE_IMAGE, Node::file(0o644, oci::pause(inputs.init)?))?;
    }
    let manifest = Manifest {
        manifest_version: 1,
        name: profile.name.clone(),
        version: plan.version.clone(),
        build_id: plan.build_id.clone(),
        epoch: plan.epoch,
        roles: profile.roles.iter().map(ToString::to_string).collect(),
        kernel: modules.release.clone(),
        packages: lock
            .packages
            .iter()
            .filter_map(|p| {
                let files = if p.reason.starts_with(crate::lock::KERNEL_OF) {
                    modules.modules.len() + 1
                } else {
                    *counts.get(&p.name)?
                };
                Some(PackageEntry { name: p.name.clone(), version: p.version.clone(), sha256: p.sha256.clone(), files })
            })
            .collect(),
        components,
        init_sha256: sha256(inputs.init),
        agent_sha256: sha256(inputs.agent),
    };
    tree.put(paths::MANIFEST, Node::file(0o644, json(&manifest)?))?;
    Ok((tree, manifest))
}

fn initramfs(inputs: &Inputs<'_>, kernel_pool: &Pool, boot: &Modules, root: &[u8]) -> Result<Vec<u8>> {
    let Inputs { plan, .. } = inputs;
    let mut order: Vec<&str> = Vec::new();
    for name in &plan.profile.kernel.boot_modules {
        for module in boot.closure(name) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    // At the moment of unpacking the kernel holds the initramfs twice: as it was loaded, and as files. Later that half
    // is what the services live in, and they need more. Measured; a VM test boots with exactly this much.
    let size = inputs.init.len() + root.len() + (2 << 20);
    let min_ram_mib = (2 * size as u64).div_ceil(1 << 20) + 160;
    let image = ImageInfo {
        name: plan.profile.name.clone(),
        version: plan.version.clone(),
        build_id: plan.build_id.clone(),
        epoch: plan.epoch,
        roles: plan.profile.roles.iter().map(ToString::to_string).collect(),
        root: RootImage { bytes: root.len() as u64, sha256: sha256(root) },
        modules: order.iter().map(ToString::to_string).collect(),
        min_ram_mib,
    };
    let image = json(&image)?;
    let names: Vec<String> =
        order.iter().enumerate().map(|(i, n)| format!("{}/{i:02}-{n}.ko.xz", paths::initrd::MODULES)).collect();
    let init = [(paths::initrd::INIT.to_owned(), Entry::File(0o755, inputs.init))];
    let mut entries = vec![
        (paths::initrd::IMAGE_JSON.to_owned(), Entry::File(0o644, &image)),
        (paths::initrd::MODULES.to_owned(), Entry::Dir),
    ];
    for (module, name) in order.iter().zip(names) {
        let bytes = kernel_pool.file(&boot.modules[*module].path).context("a module vanished")?;
        entries.push((name, Entry::File(0o644, bytes)));
    }
    entries.push((paths::initrd::ROOT_IMG.to_owned(), Entry::File(0o644, root)));
    initrd::write(&init, &entries, plan.epoch)
}

/// A package's data, unpacked; kept in the store, because xz is what a warm build would spend its time on.
fn unpacked(p: &LockedPackage, store: &Store) -> Result<Vec<u8>> {
    let key = sha256_of(&[b"data.tar-1", p.sha256.as_bytes()]);
    if let Some(tar) = store.built(&key).and_then(|b| store.get(b.get("data.tar")?)) {
        return Ok(tar);
    }
    let bytes = store.get(&p.sha256).with_context(|| format!("{} vanished from the store", p.name))?;
    let tar = deb::data_tar(&bytes).with_context(|| format!("unpacking {}", p.path))?;
    store.put_built(&key, &[("data.tar".to_owned(), tar.clone())].into())?;
    Ok(tar)
}

fn catalogue(pool: &Pool, p: &LockedPackage, store: &Store) -> Result<kernel::Catalogue> {
    let key = sha256_of(&[b"modules-1", p.sha256.as_bytes()]);
    let kept = store.built(&key).and_then(|b| store.get(b.get("modules.json")?));
    if let Some(catalogue) = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok(catalogue);
    }
    let catalogue = kernel::Catalogue::read(pool)?;
    store.put_built(&key, &[("modules.json".to_owned(), serde_json::to_vec(&catalogue)?)].into())?;
    Ok(catalogue)
}

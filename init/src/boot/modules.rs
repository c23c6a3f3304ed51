//! Kernel modules without a shell: the boot set from the initramfs, the rest from the root by name or modalias.
//!
//! Dependencies were resolved when the image was built ([`contract::image::Modules`]).

use super::{Stop, log};
use contract::image::Modules;
use contract::paths::{MODULES_JSON, initrd};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::fs::{self, File};
use std::path::Path;

/// `MODULE_INIT_COMPRESSED_FILE` (linux/module.h): the kernel unpacks the `.ko.xz` itself.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

fn load(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match finit_module(&file, c"", COMPRESSED) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        // The hardware is not there: a driver's way of saying so.
        Err(Errno::ENODEV) => Ok(()),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Loads the boot set in its order. One that fails is told; what needs it will say so.
pub(crate) fn boot_set() -> Result<usize, Stop> {
    let dir = format!("/{}", initrd::MODULES);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .map_err(|e| {
            Stop::new("reading the boot modules", "them in the initramfs", e, "boot with the initrd of the same build")
        })?
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    for path in &paths {
        if let Err(e) = load(path) {
            log::say(&format!("module {e}"));
        }
    }
    Ok(paths.len())
}

/// The root's modules.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    modules: Modules,
    loaded: std::collections::BTreeSet<String>,
}

impl Loader {
    /// Reads the catalogue. Without it no module is ever loaded, which is told.
    pub(crate) fn open() -> Self {
        let read = fs::read(MODULES_JSON).map_err(|e| e.to_string());
        let modules = read.and_then(|b| serde_json::from_slice(&b).map_err(|e| e.to_string())).unwrap_or_else(|e| {
            log::say(&format!("{MODULES_JSON}: {e}; no module will be loaded"));
            Modules::default()
        });
        Self { modules, loaded: Default::default() }
    }

    /// Loads what a modalias or a name asks for, dependencies first.
    pub(crate) fn ask(&mut self, wanted: &str) {
        let mut names: Vec<String> = self.modules.closure(wanted).into_iter().map(String::from).collect();
        for module in self.modules.by_alias(wanted) {
            names.extend(self.modules.closure(module).into_iter().map(String::from));
        }
        for name in names {
            if !self.loaded.insert(name.clone()) {
                continue;
            }
            match load(Path::new(&self.modules.modules[&name].path)) {
                Ok(()) => log::debug(&format!("module {name} for {wanted}")),
                Err(e) => log::debug(&format!("module {e}")),
            }
        }
    }
}

/// `/sbin/modprobe`, as the kernel calls it: `modprobe -q -- NAME`. A process of its own, not PID 1.
pub(crate) fn modprobe(arguments: impl Iterator<Item = String>) -> i32 {
    let mut loader = Loader::open();
    for name in arguments.filter(|a| !a.starts_with('-')) {
        loader.ask(&name);
    }
    0
}

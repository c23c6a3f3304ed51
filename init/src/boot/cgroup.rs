//! cgroup v2: PID 1 in a leaf, every controller for the services' parent.

use super::log;
use contract::paths::{CGROUP, CGROUP_INIT};
use std::fs;
use std::path::{Path, PathBuf};

/// Prepares the hierarchy; answers the services' parent, or nothing when there is none to be had.
pub(crate) fn prepare() -> Option<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let steps = || -> std::io::Result<()> {
        fs::create_dir_all(CGROUP_INIT)?;
        // No process may stay in a group that hands controllers on.
        fs::write(format!("{CGROUP_INIT}/cgroup.procs"), "1")?;
        fs::create_dir_all(CGROUP)?;
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            for parent in [root, Path::new(CGROUP)] {
                // One at a time: a controller that this kernel cannot hand on must not keep back the others.
                if let Err(e) = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}")) {
                    log::debug(&format!("cgroup controller {controller}: {e}"));
                }
            }
        }
        Ok(())
    };
    match steps() {
        Ok(()) => Some(CGROUP.into()),
        Err(e) => {
            log::say(&format!("cgroups: {e}; services run without limits"));
            None
        }
    }
}

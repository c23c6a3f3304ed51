//! containerd, with the plugins that a kubelet needs and no others, and the image that pods are made of.
//!
//! Its file follows containerd 2.4's own documentation (`docs/cri/config.md`, configuration version 4).

use super::super::{File, NodePlan, owned};
use contract::control::condition::ADDRESS;
use contract::service::{Kills, Ready, Service};
use contract::{paths, users};

const CONFIG: &str = "/run/quorate/containerd.toml";

// An image is on disk before it is said to be there (`image_pull_with_sync_fs`, and `cri-import` likewise): its files are not
// written again, and after a power cut they would be empty for ever.

/// What reads kernel features, tracing or registries that no node here has: each costs time at every start.
const DISABLED: [&str; 9] = [
    "internal.v1.opt",
    "snapshotter.v1.blockfile",
    "snapshotter.v1.erofs",
    "differ.v1.erofs",
    "mount-handler.v1.erofs",
    "tracing.processor.v1.otlp",
    "internal.v1.tracing",
    "image-verifier.v1.bindir",
    "nri.v1.nri",
];

/// Adds it to a plan.
pub(super) fn add(plan: &mut NodePlan) {
    plan.files.push(File { path: CONFIG.into(), mode: 0o644, owner: users::ROOT, content: configuration() });
    plan.services.push(Service {
        // Of whoever pulls images from a registry.
        env: [("SSL_CERT_DIR".to_owned(), "/usr/share/ca-certificates/mozilla".to_owned())].into(),
        ready: Ready::Notify,
        // Its shims live in its group, and with them every pod: they outlive it, and have no limit of memory.
        kills: Kills::Process,
        ..Service::of("containerd", owned(&["/usr/bin/containerd", "--config", CONFIG]))
    });
    let import = owned(&["/usr/bin/cri-import", paths::CONTAINERD_SOCK, paths::IMAGES]);
    plan.services.push(Service {
        needs: owned(&["containerd", ADDRESS]),
        ready: Ready::Ended,
        pids_max: Some(64),
        ..Service::of("pause-image", import)
    });
}

fn configuration() -> String {
    let disabled: Vec<String> = DISABLED.iter().map(|p| format!("'io.containerd.{p}'")).collect();
    format!(
        "version = 4\n\
         root = '/var/lib/containerd'\n\
         state = '/run/containerd'\n\
         disabled_plugins = [{disabled}]\n\
         \n\
         [grpc]\n\
         address = '{socket}'\n\
         \n\
         [plugins.'io.containerd.cri.v1.images']\n\
         snapshotter = 'overlayfs'\n\
         image_pull_with_sync_fs = true\n\
         pinned_images = {{ sandbox = '{image}' }}\n\
         \n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         disable_apparmor = true\n\
         enable_criu = false\n\
         netns_mounts_under_state_dir = true\n\
         cdi_spec_dirs = []\n\
         \n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
         bin_dirs = ['/opt/cni/bin', '/usr/libexec/cni']\n\
         conf_dir = '/etc/cni/net.d'\n\
         use_internal_loopback = true\n\
         \n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd]\n\
         default_runtime_name = 'crun'\n\
         \n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun]\n\
         runtime_type = 'io.containerd.runc.v2'\n\
         \n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun.options]\n\
         BinaryName = '/usr/bin/crun'\n\
         SystemdCgroup = false\n",
        disabled = disabled.join(", "),
        socket = paths::CONTAINERD_SOCK,
        image = contract::kube::PAUSE_IMAGE,
    )
}

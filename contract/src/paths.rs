//! Every path that two rooms name.

/// The initramfs: what the builder packs and the prelude reads.
pub mod initrd {
    /// PID 1 itself.
    pub const INIT: &str = "init";
    /// [`crate::image::ImageInfo`] as JSON.
    pub const IMAGE_JSON: &str = "image.json";
    /// Boot modules, named `NN-name.ko.xz` in load order.
    pub const MODULES: &str = "modules";
    /// The squashfs root.
    pub const ROOT_IMG: &str = "root.img";
}

/// Where the squashfs is mounted before it becomes the root.
pub const NEW_ROOT: &str = "/sysroot";
/// The binaries and facts that every root carries.
pub const LIB: &str = "/usr/lib/quorate";
/// PID 1's binary inside the root; `/sbin/modprobe` points to it.
pub const INIT: &str = "/usr/lib/quorate/init";
/// The agent's binary.
pub const AGENT: &str = "/usr/lib/quorate/agent";
/// What the image was made of ([`crate::image::Manifest`]).
pub const MANIFEST: &str = "/usr/lib/quorate/manifest.json";
/// Modules, their dependencies and aliases ([`crate::image::Modules`]).
pub const MODULES_JSON: &str = "/usr/lib/quorate/modules.json";

/// Run-time state of init and agents; tmpfs.
pub const RUN: &str = "/run/quorate";
/// The boot report ([`crate::report::BootReport`]).
pub const BOOT_JSON: &str = "/run/quorate/boot.json";
/// What this boot was told ([`crate::seed::NodeSeed`]), 0600.
pub const NODE_JSON: &str = "/run/quorate/node.json";
/// sd_notify socket.
pub const NOTIFY: &str = "/run/quorate/notify";
/// `KEY=VALUE` files that decisions made after the plan travel in, one per service.
pub const ENV: &str = "/run/quorate/env";
/// Configuration and sockets of the load balancer: `haproxy.cfg`, `keepalived.conf`, what keepalived tracks.
pub const LB: &str = "/run/quorate/lb";
/// Generated configuration: `resolv.conf`, `hosts`, `hostname`, `machine-id`.
pub const RUN_ETC: &str = "/run/quorate/etc";
/// The initramfs' facts, kept for the report.
pub const RUN_IMAGE_JSON: &str = "/run/quorate/image.json";

/// What outlives a reboot; on the state partition, or tmpfs.
pub const VAR: &str = "/var";
/// The node's own part of it.
pub const STATE: &str = "/var/lib/quorate";
/// Who this node is ([`crate::seed::Identity`]); written once.
pub const IDENTITY_JSON: &str = "/var/lib/quorate/identity.json";
/// The cached seed, slot a and slot b.
pub const NODE_SLOTS: [&str; 2] = ["/var/lib/quorate/node-a.json", "/var/lib/quorate/node-b.json"];
/// The time last saved, as seconds since the epoch: one of the clock's floors.
pub const SAVED_TIME: &str = "/var/lib/quorate/clock";
/// One directory per service with its output.
pub const LOG: &str = "/var/lib/quorate/log";
/// Logs of pods' containers, as the kubelet keeps them: its `podLogsDir`, where it lies when nothing is said.
pub const POD_LOGS: &str = "/var/log/pods";

/// Certificates and keys; tmpfs.
pub const PKI: &str = "/etc/kubernetes/pki";
/// etcd's data directory, 0700.
pub const ETCD_DATA: &str = "/var/lib/etcd";
/// `bootstrapping(digest)` or `formed`, beside the data directory.
pub const ETCD_MARK: &str = "/var/lib/quorate/etcd-member.json";
/// The number of the restore that etcd's data comes from ([`crate::node::Restore::number`]); absent = none.
pub const ETCD_RESTORED: &str = "/var/lib/quorate/etcd-restored";
/// Where a restore makes etcd's data; on the same file system, so that a rename puts it in its place.
pub const ETCD_RESTORING: &str = "/var/lib/quorate/snapshots/restoring";
/// What was etcd's data before a restore: kept until the next one.
pub const ETCD_BEFORE: &str = "/var/lib/quorate/snapshots/before-restore";
/// Snapshots of etcd's data.
pub const SNAPSHOTS: &str = "/var/lib/quorate/snapshots";
/// The one that is to be restored; with `-` and the number of the restore at its end.
pub const SNAPSHOT_TO_RESTORE: &str = "/var/lib/quorate/snapshots/to-restore";
/// Where a service's cgroup lies: `/sys/fs/cgroup/quorate/<service>`.
pub const CGROUP: &str = "/sys/fs/cgroup/quorate";
/// PID 1's own leaf.
pub const CGROUP_INIT: &str = "/sys/fs/cgroup/init";

/// containerd's socket.
pub const CONTAINERD_SOCK: &str = "/run/containerd/containerd.sock";
/// Static pods, as the kubelet reads them.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// Static pods that are not to run yet: the agent moves each over when what it needs is there.
pub const MANIFESTS_PLANNED: &str = "/run/quorate/manifests";
/// Images that are there without a registry, OCI archives `*.tar`: imported at each boot.
pub const IMAGES: &str = "/usr/lib/quorate/images";
/// The one that every pod of quorate's own is made of.
pub const PAUSE_IMAGE: &str = "/usr/lib/quorate/images/pause.tar";
/// The kubelet's directory.
pub const KUBELET: &str = "/var/lib/kubelet";
/// The apiserver's audit log.
pub const AUDIT: &str = "/var/log/kubernetes/audit";
/// Where a CNI that a user brings puts its programs; `/opt/cni/bin` leads here.
pub const CNI_BIN: &str = "/var/lib/quorate/cni-bin";
/// Where the pod network's configuration lies; `/etc/cni/net.d` leads here.
pub const CNI_NET: &str = "/var/lib/quorate/cni-net.d";

//! Static users, the same in every image. The gid equals the uid.

/// A row of `/etc/passwd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: &'static str,
    /// uid and gid.
    pub id: u32,
    /// Home directory.
    pub home: &'static str,
}

/// The superuser.
pub const ROOT: u32 = 0;
/// The agent's `metadata` verb: parses what others wrote.
pub const QUORATE: u32 = 200;
/// etcd.
pub const ETCD: u32 = 201;
/// HAProxy.
pub const HAPROXY: u32 = 202;
/// chronyd, after it dropped root (the name Debian's build has compiled in).
pub const CHRONY: u32 = 203;
/// kube-apiserver.
pub const APISERVER: u32 = 205;
/// kube-controller-manager.
pub const CONTROLLERS: u32 = 206;
/// kube-scheduler.
pub const SCHEDULER: u32 = 207;

/// All users, sorted by id.
pub const USERS: &[User] = &[
    User { name: "root", id: ROOT, home: "/" },
    User { name: "quorate", id: QUORATE, home: "/" },
    User { name: "etcd", id: ETCD, home: "/var/lib/etcd" },
    User { name: "haproxy", id: HAPROXY, home: "/" },
    User { name: "_chrony", id: CHRONY, home: "/" },
    User { name: "kube-apiserver", id: APISERVER, home: "/" },
    User { name: "kube-controller-manager", id: CONTROLLERS, home: "/" },
    User { name: "kube-scheduler", id: SCHEDULER, home: "/" },
    User { name: "nobody", id: 65534, home: "/" },
];

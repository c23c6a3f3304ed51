//! What maintainer scripts and an installer would have left behind, and what is ours: accounts, mount points, links.

use crate::tree::{Node, Tree};
use anyhow::Result;
use contract::paths;
use contract::users::{self, USERS, User};
use std::collections::BTreeMap;

/// What `/etc/os-release` says (os-release(5)).
#[derive(Clone, Debug)]
pub(crate) struct Release<'a> {
    pub(crate) image: &'a str,
    pub(crate) version: &'a str,
    pub(crate) build_id: &'a str,
    pub(crate) suite: &'a str,
}

/// Directories that are mounted on or written by init, and Debian's links of a merged /usr.
pub(crate) fn skeleton(tree: &mut Tree) -> Result<()> {
    for dir in [
        "/dev",
        "/proc",
        "/sys",
        "/run",
        "/var",
        "/etc/kubernetes",
        "/opt/cni",
        "/etc/cni",
        "/mnt",
        "/usr/bin",
        "/usr/sbin",
    ] {
        tree.put(dir, Node::dir(0o755))?;
    }
    tree.put("/tmp", Node::dir(0o1777))?;
    tree.put("/root", Node::dir(0o700))?;
    for dir in ["bin", "sbin", "lib", "lib64"] {
        tree.put(&format!("/usr/{dir}"), Node::dir(0o755))?;
        tree.put(&format!("/{dir}"), Node::link(&format!("usr/{dir}")))?;
    }
    for file in ["resolv.conf", "hosts", "hostname", "machine-id"] {
        tree.put(&format!("/etc/{file}"), Node::link(&format!("{}/{file}", paths::RUN_ETC)))?;
    }
    // Writable, for whoever brings a pod network.
    tree.put("/opt/cni/bin", Node::link(paths::CNI_BIN))?;
    tree.put("/etc/cni/net.d", Node::link(paths::CNI_NET))?;
    tree.put("/etc/mtab", Node::link("/proc/self/mounts"))?;
    tree.put(
        "/etc/nsswitch.conf",
        Node::file(0o644, "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"),
    )?;
    tree.put("/usr/sbin/modprobe", Node::link(paths::INIT))
}

/// `/etc/passwd` and its kin for the accounts every image has and those the profile names.
pub(crate) fn accounts(tree: &mut Tree, names: &[String]) -> Result<()> {
    let chosen: Vec<&User> = USERS
        .iter()
        .filter(|u| [0, users::QUORATE, 65534].contains(&u.id) || names.iter().any(|n| n == u.name))
        .collect();
    let lines = |f: &dyn Fn(&User) -> String| chosen.iter().map(|u| f(u)).collect::<String>();
    let passwd = lines(&|u| format!("{}:x:{}:{}::{}:/usr/sbin/nologin\n", u.name, u.id, u.id, u.home));
    let group = lines(&|u| format!("{}:x:{}:\n", u.name, u.id));
    let shadow = lines(&|u| format!("{}:!:::::::\n", u.name));
    tree.put("/etc/passwd", Node::file(0o644, passwd))?;
    tree.put("/etc/group", Node::file(0o644, group))?;
    tree.put("/etc/shadow", Node::file(0o600, shadow))
}

/// `/etc/os-release`.
pub(crate) fn os_release(tree: &mut Tree, r: &Release<'_>) -> Result<()> {
    let text = format!(
        "ID=quorate\nID_LIKE=debian\nNAME=Quorate\nPRETTY_NAME=\"Quorate {image} {version}\"\nVERSION_ID={version}\n\
         IMAGE_ID=quorate-{image}\nIMAGE_VERSION={version}\nVARIANT_ID={image}\nBUILD_ID={build}\nDEBIAN_CODENAME={suite}\n",
        image = r.image,
        version = r.version,
        build = r.build_id,
        suite = r.suite
    );
    tree.put("/usr/lib/os-release", Node::file(0o644, text))?;
    tree.put("/etc/os-release", Node::link("../usr/lib/os-release"))
}

/// `/usr/lib/sysctl.d/quorate.conf`, applied by init.
pub(crate) fn sysctl(tree: &mut Tree, settings: &BTreeMap<String, String>) -> Result<()> {
    let text: String = settings.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    tree.put("/usr/lib/sysctl.d/quorate.conf", Node::file(0o644, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skeleton_of_an_image() {
        let mut tree = Tree::default();
        skeleton(&mut tree).expect("made");
        accounts(&mut tree, &["etcd".into()]).expect("made");
        os_release(&mut tree, &Release { image: "etcd", version: "0.1.0-abc", build_id: "abc", suite: "trixie" })
            .expect("made");
        sysctl(&mut tree, &[("a.b".to_owned(), "1".to_owned())].into()).expect("made");
        let file = |p: &str| String::from_utf8(tree.get(p).and_then(Node::bytes).expect(p).to_vec()).expect("text");
        insta::assert_snapshot!(format!(
            "{}\n{}\n{}\n{}",
            tree.dump(),
            file("/etc/passwd"),
            file("/usr/lib/os-release"),
            file("/usr/lib/sysctl.d/quorate.conf")
        ));
    }
}

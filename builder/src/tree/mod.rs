//! A file system in memory, with owners, modes and extended attributes: what makes a build without root possible.
//!
//! Keys are absolute paths without a trailing slash; `/` itself is not stored. Nothing here touches the host.

#[cfg(test)]
mod dump;

use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// A file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Permission bits, with setuid and sticky.
    pub(crate) mode: u16,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Extended attributes.
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File(Arc<Vec<u8>>),
    /// A symbolic link and its target.
    Link(String),
}

impl Node {
    fn root(mode: u16, kind: Kind) -> Self {
        Self { mode, uid: 0, gid: 0, xattrs: BTreeMap::new(), kind }
    }

    /// A file of root's.
    pub(crate) fn file(mode: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self::root(mode, Kind::File(Arc::new(bytes.into())))
    }

    /// A directory of root's.
    pub(crate) fn dir(mode: u16) -> Self {
        Self::root(mode, Kind::Dir)
    }

    /// A link.
    pub(crate) fn link(target: &str) -> Self {
        Self::root(0o777, Kind::Link(target.into()))
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self) -> Option<&Arc<Vec<u8>>> {
        match &self.kind {
            Kind::File(b) => Some(b),
            Kind::Dir | Kind::Link(_) => None,
        }
    }
}

/// The top-level directories that Debian merged into /usr.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A path as Debian's merged /usr has it: `/lib/x` is `/usr/lib/x`; `.` and doubled slashes are dropped.
pub(crate) fn merged(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    let usr = if parts.first().is_some_and(|p| MERGED.contains(p)) { "/usr" } else { "" };
    format!("{usr}/{}", parts.join("/"))
}

impl Tree {
    /// Puts a node; its parents are made (0755, root) when they are missing. A parent that is no directory is an error.
    pub(crate) fn put(&mut self, path: &str, node: Node) -> Result<()> {
        ensure!(path.starts_with('/') && path.len() > 1 && !path.ends_with('/'), "`{path}` is no path for a tree");
        let mut at = 0;
        while let Some(next) = path[at + 1..].find('/').map(|i| at + 1 + i) {
            let parent = self.nodes.entry(path[..next].to_owned()).or_insert_with(|| Node::dir(0o755));
            if parent.kind != Kind::Dir {
                bail!("{path}: {} is no directory", &path[..next]);
            }
            at = next;
        }
        let is_dir = node.kind == Kind::Dir;
        match self.nodes.get(path) {
            // A directory that several packages ship is one directory; the first one's mode stays.
            Some(old) if old.kind == Kind::Dir && is_dir => Ok(()),
            Some(old) if old.kind == Kind::Dir => bail!("{path}: is a directory already"),
            _ => {
                self.nodes.insert(path.to_owned(), node);
                Ok(())
            }
        }
    }

    /// A node.
    #[cfg(test)]
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// All nodes, parents before children.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(p, n)| (p.as_str(), n))
    }

    /// Bytes of all files.
    pub(crate) fn size(&self) -> u64 {
        self.nodes.values().filter_map(Node::bytes).map(|b| b.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn makes_parents_and_keeps_them_directories() {
        let mut t = Tree::default();
        t.put("/a/b/c", Node::file(0o644, "x")).expect("put");
        assert_eq!(t.iter().map(|(p, _)| p).collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
        assert!(t.put("/a/b/c/d", Node::dir(0o755)).is_err(), "a file has no children");
        assert!(t.put("/a/b", Node::file(0o644, "")).is_err(), "a directory is not replaced");
        t.put("/a/b", Node::dir(0o700)).expect("shared");
        assert_eq!(t.get("/a/b").map(|n| n.mode), Some(0o755));
    }

    #[test]
    fn merges_usr() {
        for (from, to) in [
            ("./lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
            ("/lib64/ld.so", "/usr/lib64/ld.so"),
            ("/usr//bin/./a/../b", "/usr/bin/b"),
            ("/library/x", "/library/x"),
            ("/../../etc/x", "/etc/x"),
        ] {
            assert_eq!(merged(from), to);
        }
    }

    proptest! {
        #[test]
        fn a_merged_path_stays_inside(path in "[a-z./]{0,40}") {
            let m = merged(&path);
            prop_assert!(m.starts_with('/') && m.split('/').all(|p| p != "..") && merged(&m) == m);
        }
    }
}

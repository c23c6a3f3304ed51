//! The tree as text, for tests and diffs: one line per node, `type mode uid:gid size-or-target path sha256`.

use super::{Kind, Tree};
use crate::digest::sha256;
use std::fmt::Write;

impl Tree {
    /// The dump. Two trees with the same dump are the same.
    pub(crate) fn dump(&self) -> String {
        let mut out = String::new();
        for (path, n) in self.iter() {
            let owner = format!("{:04o} {}:{}", n.mode, n.uid, n.gid);
            let _ = match &n.kind {
                Kind::Dir => writeln!(out, "d {owner} - {path}"),
                Kind::File(b) => writeln!(out, "f {owner} {} {path} {}", b.len(), &sha256(b)[..16]),
                Kind::Link(t) => writeln!(out, "l {owner} - {path} -> {t}"),
            };
            for (key, value) in &n.xattrs {
                let _ = writeln!(out, "  {key}={}", crate::digest::hex(value));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use crate::tree::{Node, Tree};

    #[test]
    fn reads_well() {
        let mut t = Tree::default();
        let mut n = Node::file(0o755, "#!");
        n.uid = 201;
        n.xattrs.insert("security.capability".into(), vec![1, 2]);
        t.put("/usr/bin/x", n).expect("put");
        t.put("/bin", Node::link("usr/bin")).expect("put");
        insta::assert_snapshot!(t.dump());
    }
}

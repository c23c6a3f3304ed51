//! Closing a set of packages under their dependencies, by Debian's rules.
//!
//! A clause is met by a package already chosen (or what it provides); else its first alternative that exists in a
//! fitting version is chosen, else the first provider by name. That is what apt does for an empty system without
//! recommendations; no backtracking, and the same result for the same indices.

use super::index::{Index, Offer, Relation, meets, provides};
use anyhow::{Result, bail};
use contract::nearest::nearest;
use std::collections::{BTreeMap, VecDeque};

/// Why a package is there that the profile names.
pub(crate) const ASKED_FOR: &str = "asked for";

/// A chosen package and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The package.
    pub(crate) offer: Offer,
    /// `asked for`, or `needed by NAME`.
    pub(crate) reason: String,
}

/// The closure of the packages asked for, by name.
pub(crate) fn closure<'a>(index: &Index, asked: impl IntoIterator<Item = &'a str>) -> Result<BTreeMap<String, Chosen>> {
    let mut chosen = BTreeMap::new();
    let mut queue = VecDeque::new();
    for name in asked {
        let Some(offer) = index.newest(name) else {
            let hint = nearest(name, index.names()).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            bail!("no package `{name}` in the profile's archives and suites{hint}");
        };
        chosen.insert(name.to_owned(), Chosen { offer: offer.clone(), reason: ASKED_FOR.into() });
        queue.push_back(name.to_owned());
    }
    complete(index, &mut chosen, queue)?;
    Ok(chosen)
}

/// Chooses what the queued packages need, until nothing is missing.
pub(crate) fn complete(
    index: &Index,
    chosen: &mut BTreeMap<String, Chosen>,
    mut queue: VecDeque<String>,
) -> Result<()> {
    while let Some(name) = queue.pop_front() {
        let depends = chosen[&name].offer.depends.clone();
        for clause in depends {
            if clause.iter().any(|r| is_met(chosen, r)) {
                continue;
            }
            let found =
                clause.iter().find_map(|r| index.best(r)).or_else(|| clause.iter().find_map(|r| index.provider(r)));
            let Some(offer) = found else {
                let words: Vec<_> = clause.iter().map(ToString::to_string).collect();
                bail!("{name} needs {}, which the profile's archives do not offer", words.join(" or "));
            };
            // A package already chosen in a version that does not do is replaced by one that does.
            let reason = match chosen.get(&offer.name) {
                Some(old) if old.offer.version == offer.version => continue,
                Some(old) => old.reason.clone(),
                None => format!("needed by {name}"),
            };
            queue.push_back(offer.name.clone());
            chosen.insert(offer.name.clone(), Chosen { offer: offer.clone(), reason });
        }
    }
    Ok(())
}

fn is_met(chosen: &BTreeMap<String, Chosen>, r: &Relation) -> bool {
    chosen.get(&r.name).is_some_and(|c| meets(&c.offer.version, r))
        || chosen.values().any(|c| {
            c.offer
                .provides
                .iter()
                .any(|p| p.name == r.name && provides(p.version.as_ref().map(|(_, v)| v.as_str()), r))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(text: &str) -> Index {
        let mut out = String::new();
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            let mut parts = line.trim().splitn(3, ' ');
            let (name, version, rest) = (parts.next().expect("name"), parts.next().expect("version"), parts.next());
            out += &format!("Package: {name}\nVersion: {version}\nFilename: pool/{name}.deb\nSize: 1\n");
            out += &format!("SHA256: {}\n{}\n\n", "0".repeat(64), rest.unwrap_or("X: y").replace(';', "\n"));
        }
        let mut i = Index::default();
        i.add(&out, "debian", "trixie").expect("an index");
        i
    }

    fn names(index: &Index, asked: &[&str]) -> Vec<String> {
        closure(index, asked.iter().copied())
            .expect("solved")
            .into_values()
            .map(|c| format!("{} {} ({})", c.offer.name, c.offer.version, c.reason))
            .collect()
    }

    #[test]
    fn follows_versions_alternatives_and_provides() {
        let i = index(
            "a 1 Depends: b (>= 2), gone | c\n b 1\n b 2 Depends: virt\n c 1\n p1 1 Provides: virt\n p0 1 Provides: virt\n",
        );
        assert_eq!(
            names(&i, &["a"]),
            ["a 1 (asked for)", "b 2 (needed by a)", "c 1 (needed by a)", "p0 1 (needed by b)"]
        );
        // One that is chosen anyway meets the clause: no second provider.
        assert_eq!(names(&i, &["a", "p1"]).len(), 4);
    }

    #[test]
    fn versioned_relations_need_versioned_provides() {
        let i = index("a 1 Depends: v (>= 2)\n p1 1 Provides: v\n p2 1 Provides: v (= 3)\n");
        assert_eq!(names(&i, &["a"]), ["a 1 (asked for)", "p2 1 (needed by a)"]);
    }

    #[test]
    fn says_what_is_missing() {
        let i = index("a 1 Depends: b (>= 9) | d\n b 1\n");
        let e = closure(&i, ["a"]).expect_err("unsolvable").to_string();
        assert_eq!(e, "a needs b (>= 9) or d, which the profile's archives do not offer");
        let e = closure(&i, ["aa"]).expect_err("unknown").to_string();
        assert!(e.contains("did you mean `a`?"), "{e}");
    }

    #[test]
    fn cycles_end() {
        let i = index("a 1 Depends: b\n b 1 Depends: a\n");
        assert_eq!(names(&i, &["a"]).len(), 2);
    }
}

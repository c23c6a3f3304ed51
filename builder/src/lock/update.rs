//! Replacing single entries of a lock, and what else they then need.

use super::make::{Indices, inputs, kernel, locked};
use super::{KERNEL_OF, Lock, LockedComponent, LockedPackage};
use crate::component::Recipe;
use crate::debian::index::Offer;
use crate::debian::solve::{ASKED_FOR, Chosen, complete};
use crate::profile::Profile;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, VecDeque};

/// A lock in which the named entries are as the indices have them now; the others stay, unless the new ones need a
/// newer version of them. A component's entry follows its recipe. What the profile names and the lock has not is added, so
/// that a profile which extends another one goes on from that one's lock.
pub(crate) fn update(
    old: &Lock,
    profile: &Profile,
    indices: Indices,
    names: &[String],
    recipes: &[(Recipe, String)],
) -> Result<Lock> {
    let mut new = old.clone();
    let mut chosen: BTreeMap<String, Chosen> = BTreeMap::new();
    for p in &old.packages {
        // What an entry depends on was solved when it was locked; here it only counts as present.
        let offer = Offer {
            name: p.name.clone(),
            version: p.version.clone(),
            archive: p.archive.clone(),
            suite: p.suite.clone(),
            path: p.path.clone(),
            size: p.size,
            sha256: p.sha256.clone(),
            depends: Vec::new(),
            provides: indices.index.newest(&p.name).map(|o| o.provides.clone()).unwrap_or_default(),
        };
        chosen.insert(p.name.clone(), Chosen { offer, reason: p.reason.clone() });
    }
    let mut queue = VecDeque::new();
    for name in names {
        if let Some((recipe, go)) = recipes.iter().find(|(r, _)| r.name == *name) {
            new.components.retain(|c| c.name != *name);
            new.components.push(LockedComponent::of(recipe, go));
            continue;
        }
        let reason = match chosen.get(name) {
            Some(entry) => entry.reason.clone(),
            None if profile.packages.contains_key(name) => ASKED_FOR.into(),
            None => bail!("`{name}` is neither in the lock nor in the profile"),
        };
        if reason.starts_with(KERNEL_OF) {
            // A kernel's ABI is part of its package's name: the successor has another one.
            chosen.remove(name);
            continue;
        }
        let offer =
            indices.index.newest(name).with_context(|| format!("`{name}` is in none of the suites any more"))?;
        chosen.insert(name.clone(), Chosen { offer: offer.clone(), reason });
        queue.push_back(name.clone());
    }
    complete(&indices.index, &mut chosen, queue)?;
    new.packages = chosen.values().map(|c| locked(&c.offer, &c.reason)).collect();
    if !new.packages.iter().any(|p| p.reason.starts_with(KERNEL_OF)) {
        new.packages.push(kernel(profile, &indices.index)?);
        new.packages.sort_by(|a, b| a.name.cmp(&b.name));
    }
    new.components.retain(|c| profile.components.contains_key(&c.name));
    new.components.sort_by(|a, b| a.name.cmp(&b.name));
    let is_there =
        |n: &&String| new.packages.iter().any(|p| p.name == **n) || new.components.iter().any(|c| c.name == **n);
    if let Some(missing) = profile.packages.keys().chain(profile.components.keys()).find(|n| !is_there(n)) {
        bail!("the profile names `{missing}`, which the lock has not; hint: `--update {missing}` adds it");
    }
    if is_of(&new.packages, profile) {
        new.inputs = inputs(profile);
    }
    new.indices = indices.locked;
    Ok(new)
}

/// Whether the packages come from the profile's suites, and the kernel is of its flavour: else all has to be locked anew.
fn is_of(packages: &[LockedPackage], profile: &Profile) -> bool {
    let kernel = format!("{KERNEL_OF}{}", profile.kernel.flavour.metapackage());
    let suites = |p: &LockedPackage| profile.debian.archives.get(&p.archive).is_some_and(|s| s.contains(&p.suite));
    packages.iter().all(suites) && packages.iter().any(|p| p.reason == kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::index::Index;
    use crate::lock::make;

    const PACKAGE: &str =
        "\nFilename: pool/x.deb\nSize: 1\nSHA256: 0000000000000000000000000000000000000000000000000000000000000000\n";

    /// Two packages, of which the second needs a third, and a kernel.
    fn indices(version: &str) -> Indices {
        let package = |head: &str| format!("Package: {head}{PACKAGE}\n");
        let kernel = "linux-image-6.1-cloud-amd64";
        let text = [
            package(&format!("linux-image-cloud-amd64\nVersion: 1\nDepends: {kernel}")),
            package(&format!("{kernel}\nVersion: 1")),
            package(&format!("old\nVersion: {version}")),
            package("new\nVersion: 1\nDepends: needed"),
            package("needed\nVersion: 1"),
        ];
        let mut index = Index::default();
        index.add(&text.concat(), "debian", "trixie").expect("an index");
        Indices { index, locked: vec![] }
    }

    fn profile(packages: &str) -> Profile {
        let dir = tempfile::tempdir().expect("a directory");
        let text = format!(
            "name = \"own\"\nroles = [\"lb\"]\n[debian]\nsuite = \"trixie\"\narchives = {{ debian = [\"trixie\"] }}\n\
             [kernel]\nflavour = \"cloud\"\n[packages]\n{packages}"
        );
        std::fs::write(dir.path().join("own.toml"), text).expect("written");
        crate::profile::load(dir.path(), "own").expect("a profile").0
    }

    #[test]
    fn what_the_profile_names_is_added_and_the_rest_stays() {
        let take = |name: &str| format!("{name} = {{ take = [\"/x\"] }}\n");
        let old = make(&profile(&take("old")), indices("1"), &[]).expect("locked");
        let wider = profile(&[take("old"), take("new")].concat());
        let new = update(&old, &wider, indices("2"), &["new".into()], &[]).expect("added");
        let version = |n: &str| new.packages.iter().find(|p| p.name == n).map(|p| p.version.as_str());
        assert_eq!((version("old"), version("new"), version("needed")), (Some("1"), Some("1"), Some("1")));
        assert_eq!(new.inputs, inputs(&wider), "it is a lock of that profile");

        let refused = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
            format!("{:#}", update(&old, &wider, indices("2"), &names, &[]).expect_err("refused"))
        };
        assert!(refused(&["old"]).contains("the profile names `new`, which the lock has not; hint: `--update new`"));
        assert!(refused(&["other"]).contains("`other` is neither in the lock nor in the profile"));
    }

    #[test]
    fn packages_of_another_suite_leave_the_lock_stale() {
        let take = "old = { take = [\"/x\"] }\n";
        let mut old = make(&profile(take), indices("1"), &[]).expect("locked");
        old.inputs = "of another profile".into();
        for package in &mut old.packages {
            package.suite = "bookworm".into();
        }
        let new = update(&old, &profile(take), indices("2"), &["old".into()], &[]).expect("updated");
        assert_eq!(new.inputs, "of another profile");
    }
}

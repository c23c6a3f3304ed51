//! Replacing single entries of a lock, and what else they then need.

use super::make::{Indices, kernel, locked};
use super::{KERNEL_OF, Lock};
use crate::component::Recipe;
use crate::debian::index::Offer;
use crate::debian::solve::{Chosen, complete};
use crate::profile::Profile;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, VecDeque};

/// A lock in which the named entries are as the indices have them now; the others stay, unless the new ones need a
/// newer version of them. A component's entry follows its recipe.
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
            let entry = new.components.iter_mut().find(|c| c.name == *name).context("the component is not locked")?;
            entry.version = recipe.version().into();
            entry.recipe = recipe.digest();
            entry.go.clone_from(go);
            continue;
        }
        let Some(entry) = chosen.get(name) else { bail!("`{name}` is not in the lock") };
        if entry.reason.starts_with(KERNEL_OF) {
            // A kernel's ABI is part of its package's name: the successor has another one.
            chosen.remove(name);
            continue;
        }
        let offer =
            indices.index.newest(name).with_context(|| format!("`{name}` is in none of the suites any more"))?;
        let reason = entry.reason.clone();
        chosen.insert(name.clone(), Chosen { offer: offer.clone(), reason });
        queue.push_back(name.clone());
    }
    complete(&indices.index, &mut chosen, queue)?;
    new.packages = chosen.values().map(|c| locked(&c.offer, &c.reason)).collect();
    if !new.packages.iter().any(|p| p.reason.starts_with(KERNEL_OF)) {
        new.packages.push(kernel(profile, &indices.index)?);
        new.packages.sort_by(|a, b| a.name.cmp(&b.name));
    }
    new.indices = indices.locked;
    Ok(new)
}

//! Making a lock from what the mirrors offer now.

use super::{KERNEL_OF, Lock, LockedComponent, LockedIndex, LockedPackage};
use crate::component::Recipe;
use crate::debian::index::{Index, unpack};
use crate::debian::release::{self, Expect, Keyring};
use crate::debian::solve::{Chosen, closure};
use crate::debian::{ARCH, index::Offer};
use crate::digest::sha256;
use crate::fetch::{Fetcher, Got, Wanted};
use crate::profile::Profile;
use crate::progress;
use crate::store::Store;
use anyhow::{Context, Result, bail};

/// Only this component of an archive is used: free software.
const COMPONENT: &str = "main";
/// A Packages.xz is at most this long.
const PACKAGES_MAX: u64 = 64 << 20;

/// The verified indices of a profile's suites.
#[derive(Debug)]
pub(crate) struct Indices {
    /// What they offer.
    pub(crate) index: Index,
    /// For the lock.
    pub(crate) locked: Vec<LockedIndex>,
}

impl Indices {
    /// Fetches and verifies them. `old` is the last lock: no index may go back behind its date.
    pub(crate) fn fetch(
        profile: &Profile,
        keys: &Keyring,
        fetcher: &Fetcher,
        store: &Store,
        old: Option<&Lock>,
        now: i64,
    ) -> Result<Self> {
        let mut index = Index::default();
        let mut locked = Vec::new();
        for (archive, suites) in &profile.debian.archives {
            for suite in suites {
                let seen = old.and_then(|l| l.indices.iter().find(|i| i.archive == *archive && i.suite == *suite));
                let one = fetch_one(fetcher, store, keys, archive, suite, now, seen.map(|i| i.date))
                    .with_context(|| format!("archive {archive}, suite {suite}"))?;
                index.add(&one.1, archive, suite)?;
                locked.push(one.0);
            }
        }
        Ok(Self { index, locked })
    }
}

fn fetch_one(
    fetcher: &Fetcher,
    store: &Store,
    keys: &Keyring,
    archive: &str,
    suite: &str,
    now: i64,
    not_before: Option<i64>,
) -> Result<(LockedIndex, String)> {
    let path = format!("dists/{suite}/InRelease");
    let Got::Bytes(inrelease) = fetcher.get(archive, &path, release::MAX_BYTES, None)? else {
        bail!("no mirror has {path}");
    };
    let release = release::verify(&inrelease, keys, Expect { suite, now, not_before })?;
    let inner = format!("{COMPONENT}/binary-{ARCH}/Packages.xz");
    let (digest, size) = release.file(&inner)?;
    let dir = inner.rsplit_once('/').map_or("", |(d, _)| d);
    let path = if release.by_hash {
        format!("dists/{suite}/{dir}/by-hash/SHA256/{digest}")
    } else {
        format!("dists/{suite}/{inner}")
    };
    let wanted = Wanted { archive, path: &path, size: size.min(PACKAGES_MAX), sha256: digest };
    let packages = fetcher.blob(store, &wanted, None)?.with_context(|| format!("no mirror has {path}"))?;
    progress::say(&format!(
        "{archive} {suite} of {}, signed by {}",
        jiff::Timestamp::from_second(release.date)?.strftime("%Y-%m-%d"),
        release.signers.iter().map(|f| &f[f.len().saturating_sub(16)..]).collect::<Vec<_>>().join(", ")
    ));
    let locked = LockedIndex {
        archive: archive.into(),
        suite: suite.into(),
        date: release.date,
        inrelease: store.put(&inrelease)?,
        packages: sha256(&packages),
        signers: release.signers,
    };
    Ok((locked, unpack(&packages)?))
}

/// The lock of a profile.
pub(crate) fn make(profile: &Profile, indices: Indices, recipes: &[(Recipe, String)]) -> Result<Lock> {
    let chosen = closure(&indices.index, profile.packages.keys().map(String::as_str))?;
    let mut packages: Vec<LockedPackage> = chosen.values().map(|c| locked(&c.offer, &c.reason)).collect();
    packages.push(kernel(profile, &indices.index)?);
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Lock {
        version: 1,
        inputs: inputs(profile),
        indices: indices.locked,
        packages,
        components: recipes.iter().map(|(r, go)| LockedComponent::of(r, go)).collect(),
    })
}

/// The part of a profile that decides what is locked: a change of it makes the lock stale.
pub(crate) fn inputs(profile: &Profile) -> String {
    let mut text = format!("{} {:?}\n", profile.debian.suite, profile.kernel.flavour);
    for (archive, suites) in &profile.debian.archives {
        text += &format!("{archive} {}\n", suites.join(" "));
    }
    for name in profile.packages.keys().chain(profile.components.keys()) {
        text += &format!("{name}\n");
    }
    sha256(text.as_bytes())
}

pub(crate) fn locked(offer: &Offer, reason: &str) -> LockedPackage {
    LockedPackage {
        name: offer.name.clone(),
        version: offer.version.clone(),
        archive: offer.archive.clone(),
        suite: offer.suite.clone(),
        path: offer.path.clone(),
        size: offer.size,
        sha256: offer.sha256.clone(),
        reason: reason.into(),
    }
}

/// The kernel that the flavour's metapackage names. Its own dependencies (initramfs tools) serve maintainer scripts,
/// which never run: they are left out.
pub(crate) fn kernel(profile: &Profile, index: &Index) -> Result<LockedPackage> {
    let meta = profile.kernel.flavour.metapackage();
    let meta_offer = index.newest(meta).with_context(|| format!("no package `{meta}` in the profile's archives"))?;
    let relation = meta_offer
        .depends
        .iter()
        .flatten()
        .find(|r| r.name.starts_with("linux-image-"))
        .with_context(|| format!("{meta} names no kernel"))?;
    let offer = index.best(relation).with_context(|| format!("{meta} needs {relation}, which is not offered"))?;
    let chosen = Chosen { offer: offer.clone(), reason: format!("{KERNEL_OF}{meta}") };
    Ok(locked(&chosen.offer, &chosen.reason))
}

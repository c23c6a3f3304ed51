//! What a build will do, as a value: pure to compute, printable, the same for the same inputs.

use crate::component::Recipe;
use crate::digest::sha256_of;
use crate::lock::Lock;
use crate::place::Refused;
use crate::profile::Profile;
use anyhow::Result;
use serde::Serialize;

/// Everything that goes into an image.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// The merged profile.
    pub(crate) profile: Profile,
    /// Workspace version and the first 12 hex digits of `build_id`.
    pub(crate) version: String,
    /// sha256 of resolved profile, lock, init and agent.
    pub(crate) build_id: String,
    /// Build date, seconds since the epoch.
    pub(crate) epoch: u64,
    /// Kernel command line.
    pub(crate) cmdline: String,
    /// Kernel package and version.
    pub(crate) kernel: String,
    /// Packages, `name version (reason)`.
    pub(crate) packages: Vec<String>,
    /// Bytes to fetch on a machine that has nothing.
    pub(crate) package_bytes: u64,
    /// Components, `name version: programs`.
    pub(crate) components: Vec<String>,
}

/// Plans a build; refuses a lock that is not of this profile.
pub(crate) fn plan(profile: &Profile, lock: &Lock, recipes: &[Recipe], init: &str, agent: &str) -> Result<Plan> {
    let again = format!("hint: run `quorate image lock {}`", profile.name);
    if lock.inputs != crate::lock::inputs(profile) {
        let text = format!("{}.lock was made for another version of the profile; {again}", profile.name);
        return Err(Refused(vec![text]).into());
    }
    for recipe in recipes {
        let locked = lock.components.iter().find(|c| c.name == recipe.name);
        if locked.is_none_or(|c| c.recipe != recipe.digest()) {
            let text = format!(
                "the recipe of `{}` is not the one that was locked; {again} --update {}",
                recipe.name, recipe.name
            );
            return Err(Refused(vec![text]).into());
        }
    }
    let build_id =
        sha256_of(&[toml::to_string(profile)?.as_bytes(), lock.text()?.as_bytes(), init.as_bytes(), agent.as_bytes()]);
    let kernel = lock.kernel()?;
    Ok(Plan {
        profile: profile.clone(),
        version: format!("{}-{}", env!("CARGO_PKG_VERSION"), &build_id[..12]),
        build_id,
        epoch: lock.epoch(),
        cmdline: format!("{} {}", contract::cmdline::ALWAYS, profile.kernel.flavour.console()),
        kernel: format!("{} {}", kernel.name, kernel.version),
        packages: lock.packages.iter().map(|p| format!("{} {} ({})", p.name, p.version, p.reason)).collect(),
        package_bytes: lock.packages.iter().map(|p| p.size).sum(),
        components: recipes
            .iter()
            .map(|r| {
                let programs: Vec<_> = r.binaries().iter().map(|b| b.name.as_str()).collect();
                format!("{} {}: {}", r.name, r.version(), programs.join(", "))
            })
            .collect(),
    })
}

impl Plan {
    /// For people.
    pub(crate) fn text(&self) -> Result<String> {
        let date = jiff::Timestamp::from_second(i64::try_from(self.epoch)?)?;
        let mut out = format!(
            "# image {} {}\n# build date {date}\n# kernel {}\n# command line: {}\n",
            self.profile.name, self.version, self.kernel, self.cmdline
        );
        for c in &self.components {
            out += &format!("# component {c}\n");
        }
        out += &format!("# {} packages, {} kB\n", self.packages.len(), self.package_bytes / 1000);
        for p in &self.packages {
            out += &format!("#   {p}\n");
        }
        Ok(out + "\n" + &toml::to_string(&self.profile)?)
    }
}

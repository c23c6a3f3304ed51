//! `quorate image …`: the four commands, from arguments to what they print.

use crate::cli::{Build, Format, ImageArgs, ImageCommand};
use crate::component::{Recipe, go::Toolchain};
use crate::debian::mirror::Mirrors;
use crate::debian::release::Keyring;
use crate::digest::sha256;
use crate::fetch::Fetcher;
use crate::lock::{Indices, Lock, LockedPackage};
use crate::place::Refused;
use crate::plan::{Plan, plan};
use crate::profile::{self, Profile};
use crate::rootfs::packages::elf_needs;
use crate::store::Store;
use crate::{build, lock, output, progress};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// zstd's level for `--release`: a sixth smaller for some minutes more; beyond it nothing is gained.
const RELEASE_LEVEL: u32 = 19;

/// Dispatches.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let shop = Shop::open(args)?;
    match &args.command {
        ImageCommand::Lock { update, .. } => shop.lock(update),
        ImageCommand::Plan { format, .. } => shop.plan(*format),
        ImageCommand::Build(b) => shop.build(b),
        ImageCommand::Inspect { format, out, .. } => {
            inspect(&out.clone().unwrap_or_else(|| PathBuf::from("out").join(&shop.profile.name)), *format)
        }
    }
}

/// What all image commands need.
struct Shop<'a> {
    args: &'a ImageArgs,
    profile: Profile,
    path: PathBuf,
    store: Store,
    fetcher: Fetcher,
}

impl<'a> Shop<'a> {
    fn open(args: &'a ImageArgs) -> Result<Self> {
        let (profile, path) = profile::load(&args.profiles, args.command.profile())?;
        let mirrors = Mirrors::read(&crate::dirs::config(), Path::new("/etc/apt"))?;
        let store = Store::at(crate::dirs::cache().join("quorate"))?;
        Ok(Self { args, profile, path, store, fetcher: Fetcher::new(mirrors, args.offline) })
    }

    fn recipes(&self) -> Result<Vec<Recipe>> {
        self.profile.components.keys().map(|c| Recipe::read(&self.args.profiles, c)).collect()
    }

    /// Where a recipe needs it.
    fn go(&self, recipes: &[Recipe]) -> Result<Option<Toolchain>> {
        recipes.iter().any(Recipe::is_compiled).then(|| Toolchain::find(self.args.offline)).transpose()
    }

    fn indices(&self, old: Option<&Lock>) -> Result<Indices> {
        let keys = Keyring::read(&self.args.profiles.join("keys.toml"), &self.args.keyring)?;
        let now = jiff_now()?;
        Indices::fetch(&self.profile, &keys, &self.fetcher, &self.store, old, now)
    }

    fn lock(&self, update: &[String]) -> Result<()> {
        let path = Lock::path(&self.path);
        let old = Lock::read(&path)?;
        let recipes = self.recipes()?;
        let go = self.go(&recipes)?;
        for recipe in recipes.iter().filter(|r| r.is_compiled()) {
            let known = old.as_ref().is_some_and(|l| l.components.iter().any(|c| c.recipe == recipe.digest()));
            if let (false, Some(go)) = (known, &go) {
                go.verify_sums(recipe).with_context(|| format!("{}/go.sum", Toolchain::dir(recipe).display()))?;
            }
        }
        let recipes = with_go(recipes, go.as_ref());
        let indices = self.indices(old.as_ref())?;
        let new = match (&old, update) {
            (_, []) => lock::make(&self.profile, indices, &recipes)?,
            (Some(old), names) => lock::update(old, &self.profile, indices, names, &recipes)?,
            (None, _) => bail!("there is no {} to update", path.display()),
        };
        let changes = old.as_ref().map(|o| o.diff(&new));
        new.write(&path)?;
        match changes {
            None => progress::say(&format!("{}: {} packages", path.display(), new.packages.len())),
            Some(lines) if lines.is_empty() => progress::say(&format!("{}: nothing changed", path.display())),
            Some(lines) => lines.iter().for_each(|l| println!("{l}")),
        }
        Ok(())
    }

    fn locked(&self) -> Result<Lock> {
        let path = Lock::path(&self.path);
        Lock::read(&path)?.with_context(|| {
            format!("there is no {}; hint: run `quorate image lock {}`", path.display(), self.args.command.profile())
        })
    }

    fn planned(&self, profile: &Profile, lock: &Lock, recipes: &[Recipe]) -> Result<(Plan, Vec<u8>, Vec<u8>)> {
        let (init, agent) =
            (self.program("quorate-init", &self.args.init)?, self.program("quorate-agent", &self.args.agent)?);
        Ok((plan(profile, lock, recipes, &sha256(&init), &sha256(&agent))?, init, agent))
    }

    /// A node program: named, or beside this one.
    fn program(&self, name: &str, named: &Option<PathBuf>) -> Result<Vec<u8>> {
        let beside = std::env::current_exe().ok().and_then(|p| Some(p.parent()?.join(name)));
        let path = named.clone().or(beside).context("this program has no path")?;
        let hint = format!("hint: `make build` makes it, --{} names it", &name["quorate-".len()..]);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}; {hint}", path.display()))?;
        let needs = elf_needs(&bytes).with_context(|| format!("reading the ELF header of {}", path.display()))?;
        // `cargo build` alone puts such a one beside this program, and a node with it would not start.
        ensure!(needs.is_empty(), "{} is not static: it needs {}; {hint}", path.display(), needs.join(", "));
        Ok(bytes)
    }

    fn plan(&self, format: Format) -> Result<()> {
        let (plan, ..) = self.planned(&self.profile, &self.locked()?, &self.recipes()?)?;
        match format {
            Format::Text => print!("{}", plan.text()?),
            Format::Json => println!("{}", serde_json::to_string_pretty(&plan)?),
        }
        Ok(())
    }

    fn build(&self, b: &Build) -> Result<()> {
        let began = std::time::Instant::now();
        let mut lock = self.locked()?;
        let recipes = self.recipes()?;
        let go = self.go(&recipes)?;
        let mut vanished = build::fetch(&lock, &self.fetcher, &self.store)?;
        if !vanished.is_empty() && b.update_vanished && !b.locked {
            lock = self.replace_vanished(&lock, &vanished, go.as_ref())?;
            vanished = build::fetch(&lock, &self.fetcher, &self.store)?;
        }
        if !vanished.is_empty() {
            return Err(self.explain(&lock, &vanished));
        }
        let here = go.as_ref().map_or("", |g| g.version.as_str());
        for c in lock.components.iter().filter(|c| !c.go.is_empty() && c.go != here) {
            let note = format!("{} was locked with {}, this is {here}: other bytes", c.name, c.go);
            ensure!(!b.locked, "{note}; --locked refuses");
            progress::say(&format!("note: {note}"));
        }
        let mut profile = self.profile.clone();
        if b.release {
            // Part of the profile, so that the image's version tells the two apart.
            profile.squashfs.level = RELEASE_LEVEL;
        }
        let (plan, init, agent) = self.planned(&profile, &lock, &recipes)?;
        let (go, fetcher) = (go.as_ref(), &self.fetcher);
        let inputs =
            build::Inputs { plan: &plan, lock: &lock, recipes: &recipes, go, fetcher, init: &init, agent: &agent };
        let output = build::build(&inputs, &self.store)?;
        let dir = b.out.clone().unwrap_or_else(|| PathBuf::from("out").join(&self.profile.name));
        output.write(&std::path::absolute(&dir)?)?;
        let sizes: Vec<_> = output.sizes().map(|(n, s)| format!("{n} {} kB", s.div_ceil(1000))).collect();
        progress::say(&format!("{}: {} ({:.1} s)", plan.version, sizes.join(", "), began.elapsed().as_secs_f64()));
        println!("{}", dir.display());
        Ok(())
    }

    /// Replaces entries that no mirror has any more, shows what changed and leaves the lock changed.
    fn replace_vanished(&self, old: &Lock, vanished: &[&LockedPackage], go: Option<&Toolchain>) -> Result<Lock> {
        let names: Vec<String> = vanished.iter().map(|p| p.name.clone()).collect();
        progress::say(&format!("gone from the mirrors: {}; replaced by what is there now", names.join(", ")));
        let recipes = with_go(self.recipes()?, go);
        let new = lock::update(old, &self.profile, self.indices(Some(old))?, &names, &recipes)?;
        let path = Lock::path(&self.path);
        new.write(&path)?;
        progress::say(&format!("{} changed:\n  {}", path.display(), old.diff(&new).join("\n  ")));
        Ok(new)
    }

    fn explain(&self, lock: &Lock, vanished: &[&LockedPackage]) -> anyhow::Error {
        let now = self.indices(Some(lock)).ok();
        let lines = vanished
            .iter()
            .map(|p| {
                let newer = now.as_ref().and_then(|i| i.index.newest(&p.name)).map_or_else(
                    || "no version of it is there now".to_owned(),
                    |o| format!("there is {} now", o.version),
                );
                format!(
                    "{} {} is gone from the mirrors; {newer}; hint: run `quorate image lock {} --update {}`",
                    p.name,
                    p.version,
                    self.args.command.profile(),
                    p.name
                )
            })
            .collect::<Vec<_>>();
        anyhow::anyhow!(lines.join("\n"))
    }
}

/// Recipes, and the version of Go that compiles them; none for those that are only fetched.
fn with_go(recipes: Vec<Recipe>, go: Option<&Toolchain>) -> Vec<(Recipe, String)> {
    let with = |r: Recipe| {
        let version = go.filter(|_| r.is_compiled()).map(|g| g.version.clone()).unwrap_or_default();
        (r, version)
    };
    recipes.into_iter().map(with).collect()
}

#[expect(clippy::disallowed_methods, reason = "a lock is made now: Valid-Until is checked against the clock")]
fn jiff_now() -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_secs())?)
}

fn inspect(dir: &Path, format: Format) -> Result<()> {
    let sizes = output::verify(dir)?;
    let text = std::fs::read_to_string(dir.join("manifest.json"))?;
    let manifest: contract::image::Manifest = serde_json::from_str(&text)
        .map_err(|e| Refused(vec![format!("{}: {e}", dir.join("manifest.json").display())]))?;
    match format {
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "files": sizes, "manifest": manifest }))?);
        }
        Format::Text => {
            println!("{} {} ({})", manifest.name, manifest.version, manifest.roles.join(", "));
            println!("kernel {}", manifest.kernel);
            for (name, size) in &sizes {
                println!("{size:>12}  {name}");
            }
            for c in &manifest.components {
                println!("component {} {}", c.name, c.version);
            }
            for p in &manifest.packages {
                println!("package {} {} ({} files)", p.name, p.version, p.files);
            }
        }
    }
    Ok(())
}

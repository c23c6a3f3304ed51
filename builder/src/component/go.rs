//! Building Go programs, byte-identical wherever it happens.
//!
//! `go` is the only external program of a build. It runs with an environment of its own: of the user's settings only
//! where modules come from (`GOPROXY`, `GOPRIVATE`, …) and where caches lie are kept, nothing that changes what is built.

use super::Recipe;
use super::patches::{self, Package};
use crate::digest::sha256_of;
use crate::progress::{self, Step};
use crate::store::Store;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Counts up when the way of building changes, so that the store does not answer with what the old way built.
const WAY: &str = "go-2";

/// The Go toolchain of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    program: PathBuf,
    /// `go1.26.8`.
    pub(crate) version: String,
    offline: bool,
}

impl Toolchain {
    /// Finds `go` on the path.
    pub(crate) fn find(offline: bool) -> Result<Self> {
        let program = std::env::var_os("PATH")
            .and_then(|p| std::env::split_paths(&p).map(|d| d.join("go")).find(|f| f.is_file()))
            .context("`go` is not on the PATH; hint: install Go 1.26 or newer")?;
        let mut go = Self { program, version: String::new(), offline };
        let out = run(go.command(Path::new("/")).args(["env", "GOVERSION"]))?;
        go.version = out.trim().to_owned();
        Ok(go)
    }

    fn command(&self, dir: &Path) -> Command {
        let mut c = Command::new(&self.program);
        c.current_dir(dir);
        for (key, _) in std::env::vars_os() {
            let key_text = key.to_string_lossy();
            let changes_output = ["GO111MODULE", "GODEBUG", "GOENV"].contains(&&*key_text)
                || key_text.starts_with("CGO_")
                || (key_text.starts_with("GO") && !WHERE.contains(&&*key_text));
            if changes_output {
                c.env_remove(key);
            }
        }
        c.envs([
            ("CGO_ENABLED", "0"),
            ("GOOS", "linux"),
            ("GOARCH", "amd64"),
            ("GOAMD64", "v1"),
            ("GOTOOLCHAIN", "local"),
            ("GOWORK", "off"),
            ("GOFLAGS", ""),
            ("LC_ALL", "C"),
        ]);
        if self.offline {
            c.env("GOPROXY", "off");
        }
        c.stdin(Stdio::null());
        c
    }

    /// What a component's build is kept under.
    fn key(&self, recipe: &Recipe) -> String {
        sha256_of(&[WAY.as_bytes(), self.version.as_bytes(), recipe.digest().as_bytes()])
    }

    /// The programs of a component, name -> digest in the store, if they are there.
    pub(crate) fn built(&self, recipe: &Recipe, store: &Store) -> Option<BTreeMap<String, String>> {
        store.built(&self.key(recipe))
    }

    /// The same, built unless they are there.
    pub(crate) fn build(&self, recipe: &Recipe, store: &Store) -> Result<BTreeMap<String, String>> {
        if let Some(built) = self.built(recipe, store) {
            return Ok(built);
        }
        progress::say(&format!("building {} {} with {}", recipe.name, recipe.version(), self.version));
        let mut parts = BTreeMap::new();
        let work = crate::interrupt::temporary_dir(&std::env::temp_dir()).context("making a directory to build in")?;
        write_sources(work.path(), recipe.sources())?;
        self.patch(recipe, work.path())?;
        for (name, package, tags) in recipe.compiled() {
            let step = Step::count(&format!("  {name}"), 0);
            let out = work.path().join("out").join(name);
            let mut ldflags = "-s -w -buildid=".to_owned();
            for (variable, value) in &recipe.stamps {
                ldflags += &format!(" -X {variable}={value}");
            }
            let mut c = self.command(work.path());
            // The sums in go.sum are what is trusted here; the checksum database was asked when they were locked.
            c.env("GOSUMDB", "off");
            c.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-v"]);
            // What the linker drops anyway (-w) need not be made first: a tenth of the time.
            c.arg("-gcflags=all=-dwarf=false");
            c.arg(format!("-tags={}", tags.join(","))).arg(format!("-ldflags={ldflags}"));
            c.arg("-o").arg(&out).arg(package);
            follow(&mut c, &step).with_context(|| format!("building {package}"))?;
            step.end();
            parts.insert(name.to_owned(), std::fs::read(&out)?);
        }
        store.put_built(&self.key(recipe), &parts)
    }

    /// Puts patched modules in upstream's place.
    fn patch(&self, recipe: &Recipe, work: &Path) -> Result<()> {
        let find = |package: &str| -> Result<Package> {
            // It fetches the module unless it is there.
            let asked = "{{.Module.Path}}\n{{.Module.Dir}}\n{{.Dir}}";
            let told = run(self.command(work).env("GOSUMDB", "off").args(["list", "-f", asked, package]))?;
            match told.lines().collect::<Vec<_>>()[..] {
                [module, root, dir] => Ok(Package { module: module.into(), root: root.into(), dir: dir.into() }),
                _ => bail!("go list says {told:?}"),
            }
        };
        for (module, copy) in patches::apply(recipe.patches(), find, work)? {
            let replace = format!("-replace={module}=./{}", copy.display());
            run(self.command(work).args(["mod", "edit", &replace]))?;
        }
        Ok(())
    }

    /// Asks the checksum database for every sum of a recipe: its modules are fetched again without go.sum, and what
    /// the database vouches for must say the same as the recipe's file.
    pub(crate) fn verify_sums(&self, recipe: &Recipe) -> Result<()> {
        ensure!(!self.offline, "verifying go.sum asks the checksum database, which --offline forbids");
        let work = tempfile::tempdir().context("making a directory")?;
        write_sources(work.path(), recipe.sources().filter(|(n, _)| *n != "go.sum"))?;
        let packages: Vec<&str> = recipe.compiled().map(|(_, package, _)| package).collect();
        run(self.command(work.path()).args(["mod", "download"])).context("asking the checksum database")?;
        run(self.command(work.path()).args(["list", "-mod=mod", "-deps", "-f", ""]).args(&packages))?;
        let vouched = std::fs::read_to_string(work.path().join("go.sum")).context("reading what it vouched for")?;
        let vouched: std::collections::BTreeSet<&str> = vouched.lines().collect();
        let own = String::from_utf8_lossy(&recipe.files["go.sum"]).into_owned();
        let sums: BTreeMap<_, _> = vouched.iter().filter_map(|l| l.rsplit_once(' ')).collect();
        for line in own.lines() {
            let Some((module, sum)) = line.rsplit_once(' ') else { bail!("go.sum: `{line}` is no sum") };
            if let Some(theirs) = sums.get(module) {
                ensure!(*theirs == sum, "go.sum: {module} is {sum}, but the checksum database says {theirs}");
            }
        }
        progress::say(&format!("{}: {} sums vouched for by the checksum database", recipe.name, vouched.len()));
        Ok(())
    }

    /// Where a recipe's files lie, for messages.
    pub(crate) fn dir(recipe: &Recipe) -> &Path {
        &recipe.dir
    }
}

/// Settings of the user that say where things are, not what is built.
const WHERE: [&str; 8] =
    ["GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB", "GOINSECURE", "GOMODCACHE", "GOCACHE"];

/// What is compiled, where it is compiled.
fn write_sources<'a>(dir: &Path, sources: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<()> {
    for (name, bytes) in sources {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn run(c: &mut Command) -> Result<String> {
    let out = c.output().context("running go")?;
    ensure!(out.status.success(), "go: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a build whose stderr names each package as it is compiled: that is its progress; the rest is the error.
fn follow(c: &mut Command, step: &Step) -> Result<()> {
    // Ctrl-C ends this process; the compiler must not go on in a directory that is gone.
    lab::vm::die_with_parent(c);
    let mut child = c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("running go")?;
    let mut last: Vec<String> = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr.take(64 << 20)).lines().map_while(Result::ok) {
            step.advance(1, &line);
            last.push(line);
            if last.len() > 20 {
                last.remove(0);
            }
        }
    }
    let status = child.wait().context("waiting for go")?;
    ensure!(status.success(), "go ended with {status}:\n{}", last.join("\n"));
    Ok(())
}

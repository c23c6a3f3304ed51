//! Patches of upstream's Go files: `*.patch` beside a recipe, a unified diff of one file each, named by the import path of its
//! package: `--- a/github.com/flannel-io/flannel/pkg/subnet/kube/kube.go`. What stands before that line is for readers.
//!
//! A module that is patched is copied, and the copy is built in its place (`go help mod edit`, `-replace`): what was fetched
//! stays as it was, and as `go.sum` vouches for it.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes; Go's longest files are generated ones.
const FILE_MAX: u64 = 4 << 20;

/// Where the copies lie.
const COPIES: &str = "patched";

/// Where a package of a module lies.
#[derive(Clone, Debug)]
pub(super) struct Package {
    /// Its module's path: `github.com/flannel-io/flannel`.
    pub(super) module: String,
    /// Where the module lies.
    pub(super) root: PathBuf,
    /// Where the package lies, in the module's.
    pub(super) dir: PathBuf,
}

/// The file that a patch is of.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// Import path of its package.
    package: String,
    /// In the package's directory.
    file: String,
}

/// Which file a patch is of.
fn target(patch: &diffy::Patch<'_, str>) -> Result<Target> {
    let (Some(from), Some(to)) = (patch.original(), patch.modified()) else {
        bail!("expected `--- a/…` and `+++ b/…`")
    };
    let names = (from.strip_prefix("a/"), to.strip_prefix("b/"));
    let (Some(name), true) = (names.0, names.0 == names.1) else {
        bail!("expected `--- a/PACKAGE/FILE` and `+++ b/` with the same, found `{from}` and `{to}`");
    };
    match name.rsplit_once('/') {
        Some((package, file)) if file.ends_with(".go") && !package.split('/').any(|p| matches!(p, "" | "." | "..")) => {
            Ok(Target { package: package.into(), file: file.into() })
        }
        _ => bail!("`{name}` is no Go file of a package"),
    }
}

/// Copies the patched modules into `work` and patches them: each module's path, and where it lies in `work`. `find` says
/// where a package lies.
pub(super) fn apply<'a>(
    patches: impl Iterator<Item = (&'a str, &'a [u8])>,
    find: impl Fn(&str) -> Result<Package>,
    work: &Path,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut copies = BTreeMap::new();
    for (name, bytes) in patches {
        let text = std::str::from_utf8(bytes).with_context(|| format!("{name}: it is no text"))?;
        let patch = diffy::Patch::from_str(text).with_context(|| format!("{name}: it is no unified diff"))?;
        let target = target(&patch).with_context(|| name.to_owned())?;
        let package = find(&target.package).with_context(|| format!("{name}: where {} lies", target.package))?;
        let count = copies.len();
        let copy = copies.entry(package.module).or_insert_with(|| Path::new(COPIES).join(count.to_string()));
        let root = work.join(&*copy);
        if !root.exists() {
            copy_tree(&package.root, &root).with_context(|| format!("copying {}", package.root.display()))?;
        }
        let path = root.join(package.dir.strip_prefix(&package.root)?).join(&target.file);
        let size = std::fs::metadata(&path).with_context(|| format!("{name}: reading {}", path.display()))?.len();
        if size > FILE_MAX {
            bail!("{name}: {} is larger than {FILE_MAX} bytes", target.file);
        }
        let base = std::fs::read_to_string(&path).with_context(|| format!("{name}: reading {}", path.display()))?;
        let made = diffy::apply(&base, &patch).with_context(|| {
            format!("{name} does not fit {}/{}; hint: did its version change?", target.package, target.file)
        })?;
        std::fs::write(&path, made).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(copies)
}

/// Files and directories, which are all that a module has, and which may be written here.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let beside = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => copy_tree(&entry.path(), &beside)?,
            kind if kind.is_file() => std::fs::write(&beside, std::fs::read(entry.path())?)?,
            _ => bail!("{} is neither a file nor a directory", entry.path().display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FITS: &str = "Why it is.\n\n--- a/example.com/m/p/f.go\n+++ b/example.com/m/p/f.go\n@@ -1,3 +1,3 @@\n package p\n \n-var a = 1\n+var a = 2\n";

    /// What the patches make of a file of `example.com/m/p`.
    fn applied(patches: &[(&str, &str)], content: &str) -> Result<Option<String>> {
        let (module, work) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let dir = module.path().join("p");
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join("f.go"), content).expect("written");
        let find = |package: &str| match package {
            "example.com/m/p" => {
                Ok(Package { module: "example.com/m".into(), root: module.path().into(), dir: dir.clone() })
            }
            other => bail!("no package {other}"),
        };
        let copies = apply(patches.iter().map(|(n, t)| (*n, t.as_bytes())), find, work.path())?;
        assert_eq!(std::fs::read_to_string(dir.join("f.go")).expect("read"), content, "upstream's own stays");
        let copy = copies.get("example.com/m").map(|c| work.path().join(c).join("p/f.go"));
        Ok(copy.map(|c| std::fs::read_to_string(c).expect("read")))
    }

    #[test]
    fn a_module_as_the_patches_make_it() {
        let base = "package p\n\nvar a = 1\n";
        let next = FITS.replace("-var a = 1", "-var a = 2").replace("+var a = 2", "+var a = 3");
        assert_eq!(applied(&[("x.patch", FITS)], base).expect("applied").as_deref(), Some("package p\n\nvar a = 2\n"));
        let both = applied(&[("x.patch", FITS), ("y.patch", &next)], base).expect("applied");
        assert_eq!(both.as_deref(), Some("package p\n\nvar a = 3\n"));
        assert_eq!(applied(&[], base).expect("nothing to do"), None);
    }

    #[test]
    fn a_patch_that_is_none_or_does_not_fit_is_refused() {
        let base = "package p\n\nvar a = 1\n";
        let of = |text: &str| format!("{:#}", applied(&[("x.patch", text)], base).expect_err("refused"));
        let other = FITS.replace("-var a = 1", "-var b = 1");
        assert!(
            of(&other).contains("x.patch does not fit example.com/m/p/f.go; hint: did its version change?"),
            "{}",
            of(&other)
        );
        assert!(of("").contains("x.patch"), "{}", of(""));
        assert!(of(&FITS.replace("+++ b/example", "+++ b/another")).contains("with the same"));
        assert!(of(&FITS.replace("example.com/m/p", "example.com/../p")).contains("no Go file of a package"));
        assert!(of(&FITS.replace("f.go", "f.s")).contains("no Go file of a package"));
        assert!(of(&FITS.replace("m/p/", "m/q/")).contains("no package example.com/m/q"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(--- a/example.com/m/p/f.go\n\\+\\+\\+ b/example.com/m/p/f.go\n)?[-+@ a-z0-9,\n]{0,200}") {
            let _ = applied(&[("x.patch", &text)], "package p\n\nvar a = 1\n");
        }
    }
}

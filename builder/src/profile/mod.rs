//! Image profiles: TOML fragments, merged into one resolved profile.
//!
//! `extends` names fragments beside the file, merged left to right, the file itself last:
//! of scalars the later wins; tables are merged by key; lists are united, in order of first mention.

mod schema;

pub(crate) use schema::{Fragment, Profile, Take};

use crate::place::Misplaced;
use anyhow::{Context, Result, bail};
use contract::nearest::nearest;
use std::path::{Path, PathBuf};

/// Finds, reads and merges a profile: a name under `profiles/`, or a path.
pub(crate) fn load(profiles: &Path, name_or_path: &str) -> Result<(Profile, PathBuf)> {
    let path = find(profiles, name_or_path)?;
    let mut seen = Vec::new();
    let fragment = gather(&path, &mut seen)?;
    let profile = fragment.resolve(&path)?;
    Ok((profile, path))
}

fn find(profiles: &Path, name_or_path: &str) -> Result<PathBuf> {
    let direct = PathBuf::from(name_or_path);
    if direct.extension().is_some_and(|e| e == "toml") {
        return Ok(direct);
    }
    let named = profiles.join(format!("{name_or_path}.toml"));
    if named.exists() {
        return Ok(named);
    }
    let known = names(profiles);
    let hint = nearest(name_or_path, known.iter().map(|n| &**n)).map(|n| format!("; did you mean `{n}`?"));
    Err(anyhow::Error::new(crate::place::Refused(vec![format!(
        "no profile `{name_or_path}` in {}; there are {}{}",
        profiles.display(),
        known.join(", "),
        hint.unwrap_or_default()
    )])))
}

fn names(profiles: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(profiles)
        .map(|d| d.flatten().filter_map(|e| e.file_name().to_str()?.strip_suffix(".toml").map(String::from)).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Depth first: a fragment's bases before itself.
fn gather(path: &Path, seen: &mut Vec<PathBuf>) -> Result<Fragment> {
    if seen.contains(&path.to_path_buf()) {
        bail!("{}: extends itself", path.display());
    }
    seen.push(path.into());
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let own: Fragment = toml::from_str(&text).map_err(|e| Misplaced::toml(path, &text, &e))?;
    let mut merged = Fragment::default();
    for base in &own.extends {
        let base_path = path.with_file_name(format!("{base}.toml"));
        if !base_path.exists() {
            let message = format!("extends `{base}`, but there is no {}", base_path.display());
            return Err(Misplaced::naming(path, &text, "extends", message).into());
        }
        merged = merged.merged_with(gather(&base_path, seen)?);
    }
    seen.pop();
    Ok(merged.merged_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).expect("written");
    }

    const DEBIAN: &str =
        "[debian]\nsuite = \"trixie\"\narchives = { debian = [\"trixie\"] }\n[kernel]\nflavour = \"cloud\"\n";

    #[test]
    fn merges_by_the_stated_rules() {
        let dir = tempfile::tempdir().expect("a directory");
        let base = format!(
            "{DEBIAN}boot-modules = [\"loop\", \"squashfs\"]\n[packages]\nfdisk = {{ take = [\"/usr/sbin/sfdisk\"] }}\n[sysctl]\n\"a.b\" = 1\n"
        );
        write(dir.path(), "base.toml", &base);
        write(
            dir.path(),
            "x.toml",
            "name = \"x\"\nextends = [\"base\"]\nroles = [\"etcd\"]\n[kernel]\nboot-modules = [\"squashfs\", \"virtio_blk\"]\n[packages]\nfdisk = { take = [\"/usr/sbin/fdisk\"] }\n[sysctl]\n\"a.b\" = 2\n",
        );
        let (p, _) = load(dir.path(), "x").expect("a profile");
        assert_eq!(p.kernel.boot_modules, ["loop", "squashfs", "virtio_blk"]);
        assert_eq!(p.packages["fdisk"].take, ["/usr/sbin/sfdisk", "/usr/sbin/fdisk"]);
        assert_eq!(p.sysctl["a.b"], "2");
        insta::assert_snapshot!(toml::to_string(&p).expect("toml"));
    }

    #[test]
    fn errors_name_the_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let cases = [
            (
                format!("name = \"x\"\nrolse = []\n{DEBIAN}"),
                "x.toml:2:1: unknown field `rolse`",
                "did you mean `roles`?",
            ),
            (format!("name = \"x\"\nroles = [\"ectd\"]\n{DEBIAN}"), "x.toml:2:10: unknown variant `ectd`", "`etcd`"),
            (format!("name = \"x\"\nroles = \"etcd\"\n{DEBIAN}"), "x.toml:2:9: invalid type", "sequence"),
            ("name = \"x\n".to_owned(), "x.toml:1:", "string"),
            (format!("name = \"x\"\nextends = [\"nix\"]\n{DEBIAN}"), "x.toml:2:1: extends `nix`", "there is no"),
            (format!("roles = [\"etcd\"]\n{DEBIAN}"), "x.toml:1:1: `name` is missing", ""),
            (format!("name = \"x\"\nusers = [\"ectd\"]\nroles = [\"etcd\"]\n{DEBIAN}"), "x.toml:2:", "`etcd`"),
        ];
        for (text, place, hint) in cases {
            write(dir.path(), "x.toml", &text);
            let e = format!("{:#}", load(dir.path(), "x").expect_err(&text));
            assert!(e.contains(place) && e.contains(hint), "{e}\n-- expected {place} … {hint}");
        }
        let e = load(dir.path(), "y").expect_err("absent").to_string();
        assert!(e.contains("no profile `y`"), "{e}");
    }

    #[test]
    fn the_shipped_profiles_load() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles");
        for name in names(&dir) {
            if !["base", "keys", "kube"].contains(&&*name) {
                load(&dir, &name).expect("a shipped profile");
            }
        }
    }
}

//! Where an archive is: the host's own apt sources, or the user's configuration.
//!
//! Only base addresses are taken from apt's sources, never suites: images are of their profile's suite whatever the
//! host runs. The last path segment of a base address is the archive's name (`…/debian-security`).

use super::control::stanzas;
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Base addresses by archive name, without a trailing slash, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirrors(BTreeMap<String, Vec<String>>);

/// `mirrors.toml` of the user.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configured {
    mirrors: BTreeMap<String, String>,
}

impl Mirrors {
    /// Reads `<config>/quorate/mirrors.toml`, then `<apt>/sources.list` and `<apt>/sources.list.d/`.
    pub(crate) fn read(config: &Path, apt: &Path) -> Result<Self> {
        let mut mirrors = Self::default();
        let own = config.join("quorate/mirrors.toml");
        if let Ok(text) = std::fs::read_to_string(&own) {
            let configured: Configured =
                toml::from_str(&text).map_err(|e| crate::place::Misplaced::toml(&own, &text, &e))?;
            for (archive, url) in configured.mirrors {
                mirrors.add_as(&archive, &url);
            }
        }
        let mut lists = vec![apt.join("sources.list")];
        if let Ok(dir) = std::fs::read_dir(apt.join("sources.list.d")) {
            let mut more: Vec<_> = dir.flatten().map(|e| e.path()).collect();
            more.sort();
            lists.append(&mut more);
        }
        for path in lists {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            match path.extension().and_then(|e| e.to_str()) {
                Some("sources") => mirrors.add_deb822(&text),
                Some("list") => mirrors.add_one_line(&text),
                _ => {}
            }
        }
        Ok(mirrors)
    }

    fn add(&mut self, url: &str) {
        let url = url.trim_end_matches('/');
        if let Some((_, archive)) = url.rsplit_once('/') {
            self.add_as(archive, url);
        }
    }

    fn add_as(&mut self, archive: &str, url: &str) {
        let url = url.trim_end_matches('/').to_owned();
        if url.starts_with("http://") || url.starts_with("https://") {
            let list = self.0.entry(archive.to_owned()).or_default();
            if !list.contains(&url) {
                list.push(url);
            }
        }
    }

    /// sources.list(5), deb822 style.
    fn add_deb822(&mut self, text: &str) {
        for s in stanzas(text) {
            let is = |key: &str, word: &str| s.get(key).is_some_and(|v| v.split_whitespace().any(|w| w == word));
            if is("types", "deb") && !is("enabled", "no") {
                s.get("uris").into_iter().flat_map(|v| v.split_whitespace()).for_each(|u| self.add(u));
            }
        }
    }

    /// sources.list(5), one-line style: `deb [options] uri suite component…`.
    fn add_one_line(&mut self, text: &str) {
        for line in text.lines() {
            let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
            let rest = rest.trim_start();
            let rest = if rest.starts_with('[') { rest.split_once(']').map_or("", |(_, r)| r) } else { rest };
            if let Some(uri) = rest.split_whitespace().next() {
                self.add(uri);
            }
        }
    }

    /// The base addresses of an archive.
    pub(crate) fn of(&self, archive: &str) -> Result<&[String]> {
        match self.0.get(archive) {
            Some(urls) => Ok(urls),
            None => bail!(
                "no mirror of the archive `{archive}` is known: this machine's apt sources name none; hint: write \
                 ~/.config/quorate/mirrors.toml with [mirrors] and a line {archive} = \"http://<your mirror>/{archive}\""
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_styles() {
        let dir = tempfile::tempdir().expect("a directory");
        let d = dir.path().join("sources.list.d");
        std::fs::create_dir_all(&d).expect("made");
        std::fs::write(
            dir.path().join("sources.list"),
            "# deb http://no.example/debian x main\ndeb [arch=amd64 signed-by=/k] http://a.example/debian/ bookworm main\ndeb-src http://s.example/debian x\n",
        )
        .expect("written");
        std::fs::write(
            d.join("b.sources"),
            "Types: deb deb-src\nURIs: http://b.example/debian\n https://c.example/debian-security\nSuites: x\n\nTypes: deb\nEnabled: no\nURIs: http://off.example/debian\n\nTypes: deb\nURIs: file:/srv/debian\n",
        )
        .expect("written");
        let m = Mirrors::read(Path::new("/nonexistent"), dir.path()).expect("read");
        assert_eq!(m.of("debian").expect("known"), ["http://a.example/debian", "http://b.example/debian"]);
        assert_eq!(m.of("debian-security").expect("known"), ["https://c.example/debian-security"]);
        let e = m.of("ubuntu").expect_err("unknown").to_string();
        assert!(e.contains("mirrors.toml"), "{e}");
    }

    #[test]
    fn the_users_word_comes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("quorate")).expect("made");
        std::fs::write(dir.path().join("quorate/mirrors.toml"), "[mirrors]\ndebian = \"http://own.example/d\"\n")
            .expect("written");
        std::fs::write(dir.path().join("sources.list"), "deb http://a.example/debian x main\n").expect("written");
        let m = Mirrors::read(dir.path(), dir.path()).expect("read");
        assert_eq!(m.of("debian").expect("known")[0], "http://own.example/d");
    }

    proptest! {
        #[test]
        fn never_panics(text in "(deb|Types: deb|URIs: |\\[|\\]| |\n|/|http://){0,40}") {
            let mut m = Mirrors::default();
            m.add_one_line(&text);
            m.add_deb822(&text);
        }
    }
}

//! The kernel command line: what the image writes, what a user may add, how init reads it.
//!
//! | key | meaning |
//! |---|---|
//! | `ds=nocloud[;s=URL/][;h=name][;i=id]` | cloud-init's own: where the seed is; also in the SMBIOS serial number |
//! | `quorate.ds=NAME` | this source only, or maintenance mode |
//! | `quorate.seed=serial:X` or `path:/dev/vdb` | which medium, when two match |
//! | `quorate.state=serial:X` or `path:…` | which disk holds the state, when two could |
//! | `quorate.insecure-seed=1` | a seed with private keys may come by plain http |
//! | `quorate.wait=30` | bound in seconds for seed and state disk |
//! | `quorate.log=info` or `debug` | |
//! | `panic=0` | stay up after a panic in PID 1 |
//!
//! An unknown `quorate.*` key is a warning with the nearest key; the last occurrence of a key wins.

use crate::nearest::nearest;
use serde::{Deserialize, Serialize};

/// What every image puts on its command line.
pub const ALWAYS: &str = "rootfstype=ramfs panic=10 loglevel=5 printk.devkmsg=on";
/// Consoles of a cloud image: the last is `/dev/console`.
pub const CONSOLE_CLOUD: &str = "console=tty0 console=ttyS0,115200";
/// Consoles of a bare-metal image.
pub const CONSOLE_GENERIC: &str = "console=tty0";
/// Default of `quorate.wait`, in seconds.
pub const WAIT_SECONDS: u32 = 30;

const KEYS: [&str; 6] =
    ["quorate.ds", "quorate.seed", "quorate.state", "quorate.insecure-seed", "quorate.wait", "quorate.log"];

/// Names a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskName {
    /// By the serial number that sysfs shows.
    Serial(String),
    /// By its device node.
    Path(String),
}

impl DiskName {
    /// `serial:X`, `path:/dev/…` or a bare `/dev/…`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("serial", s)) if !s.is_empty() => Some(Self::Serial(s.into())),
            Some(("path", p)) if p.starts_with("/dev/") => Some(Self::Path(p.into())),
            _ if text.starts_with("/dev/") => Some(Self::Path(text.into())),
            _ => None,
        }
    }
}

impl std::fmt::Display for DiskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial(s) => write!(f, "serial:{s}"),
            Self::Path(p) => f.write_str(p),
        }
    }
}

/// The `ds=nocloud…` line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoCloudLine {
    /// Base URL of the seed, with its trailing slash; none = a medium labelled `cidata`.
    pub seed_from: Option<String>,
    /// Pinned digest of `user-data` (`;sha256=`), lower-case hex.
    pub sha256: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Instance id.
    pub instance_id: Option<String>,
}

impl NoCloudLine {
    /// Whether the seed is reached over the network.
    pub fn needs_network(&self) -> bool {
        self.seed_from.as_deref().is_some_and(|s| s.starts_with("http://") || s.starts_with("https://"))
    }
}

/// What the command line says to init and agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// `ds=nocloud…`, when it stands there.
    pub nocloud: Option<NoCloudLine>,
    /// `quorate.ds`.
    pub source: Option<String>,
    /// `quorate.seed`.
    pub seed: Option<DiskName>,
    /// `quorate.state`.
    pub state: Option<DiskName>,
    /// `quorate.insecure-seed=1`.
    pub insecure_seed: bool,
    /// `quorate.wait`, in seconds.
    pub wait: u32,
    /// `quorate.log=debug`.
    pub debug: bool,
    /// `panic=0`: stay up for diagnosis.
    pub stay_on_panic: bool,
    /// What was wrong, for the console.
    pub warnings: Vec<String>,
}

/// Finds `ds=nocloud…` among the words of a line (command line or SMBIOS serial); the last one wins.
///
/// `nocloud-net` is cloud-init's deprecated name for the same.
pub fn nocloud_line(text: &str) -> Option<NoCloudLine> {
    let value = text.split_whitespace().rev().find_map(|w| {
        let v = w.strip_prefix("ds=")?;
        let name = v.split(';').next()?;
        matches!(name, "nocloud" | "nocloud-net").then_some(v)
    })?;
    let mut line = NoCloudLine::default();
    for (key, v) in value.split(';').skip(1).filter_map(|kv| kv.split_once('=')) {
        match key {
            "s" | "seedfrom" => {
                let slash = if v.ends_with('/') || v.contains('?') { "" } else { "/" };
                line.seed_from = Some(format!("{v}{slash}"));
            }
            "h" | "local-hostname" => line.hostname = Some(v.into()),
            "i" | "instance-id" => line.instance_id = Some(v.into()),
            "sha256" => line.sha256 = Some(v.to_ascii_lowercase()),
            _ => {}
        }
    }
    Some(line)
}

/// Reads a command line. Never fails: what is wrong becomes a warning, because a node that boots can say so.
pub fn parse(text: &str) -> Cmdline {
    let mut c = Cmdline {
        nocloud: nocloud_line(text),
        source: None,
        seed: None,
        state: None,
        insecure_seed: false,
        wait: WAIT_SECONDS,
        debug: false,
        stay_on_panic: false,
        warnings: Vec::new(),
    };
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "panic" => c.stay_on_panic = value == "0",
            "quorate.ds" => c.source = Some(value.into()),
            "quorate.seed" => c.seed = disk(key, value, &mut c.warnings),
            "quorate.state" => c.state = disk(key, value, &mut c.warnings),
            "quorate.insecure-seed" => c.insecure_seed = value == "1",
            "quorate.wait" => match value.parse() {
                Ok(n) => c.wait = n,
                Err(_) => c.warnings.push(format!("{word}: expected seconds; {WAIT_SECONDS} is used")),
            },
            "quorate.log" => match value {
                "debug" => c.debug = true,
                "info" => c.debug = false,
                _ => c.warnings.push(format!("{word}: expected `info` or `debug`; `info` is used")),
            },
            _ if key.starts_with("quorate.") => {
                let hint = nearest(key, KEYS).map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
                c.warnings.push(format!("{word}: unknown key{hint}"));
            }
            _ => {}
        }
    }
    c
}

fn disk(key: &str, value: &str, warnings: &mut Vec<String>) -> Option<DiskName> {
    let found = DiskName::parse(value);
    if found.is_none() {
        warnings.push(format!("{key}={value}: expected `serial:X` or `path:/dev/…`; ignored"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_cloud_inits_line() {
        let cases = [
            ("ds=nocloud", NoCloudLine::default()),
            (
                "ro ds=nocloud-net;s=http://10.0.0.1/n1;h=a;i=b quiet",
                NoCloudLine {
                    seed_from: Some("http://10.0.0.1/n1/".into()),
                    hostname: Some("a".into()),
                    instance_id: Some("b".into()),
                    sha256: None,
                },
            ),
            (
                "ds=nocloud ds=nocloud;seedfrom=https://x/?a=;sha256=AB",
                NoCloudLine {
                    seed_from: Some("https://x/?a=".into()),
                    sha256: Some("ab".into()),
                    ..NoCloudLine::default()
                },
            ),
        ];
        for (text, want) in cases {
            assert_eq!(nocloud_line(text), Some(want), "{text}");
        }
        assert_eq!(nocloud_line("ds=ec2 console=ttyS0"), None);
        assert_eq!(nocloud_line("ads=nocloud"), None);
    }

    #[test]
    fn last_wins_and_typos_are_named() {
        let c = parse("quorate.wait=5 quorate.wait=7 quorate.lgo=debug quorate.seed=vdb panic=10 panic=0");
        assert_eq!(c.wait, 7);
        assert!(c.stay_on_panic);
        assert_eq!(
            c.warnings,
            [
                "quorate.lgo=debug: unknown key; did you mean `quorate.log`?",
                "quorate.seed=vdb: expected `serial:X` or `path:/dev/…`; ignored"
            ]
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,400}") {
            let _ = parse(&text);
        }
    }
}

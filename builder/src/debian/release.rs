//! `InRelease`: a signed list of an archive's indices.
//!
//! What is refused: no good signature by a pinned key, text outside the signed span, another suite than asked for, an
//! expired `Valid-Until`, a `Date` before that of the last lock. Only the signed text is ever read.

use super::control::stanza;
use anyhow::{Context, Result, bail, ensure};
use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::types::KeyDetails;
use serde::Deserialize;
use std::path::Path;

/// The largest InRelease we read: Debian's are 150 kB to 200 kB.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// The keys that may sign.
#[derive(Debug)]
pub(crate) struct Keyring(Vec<SignedPublicKey>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    key: Vec<Pin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    fingerprint: String,
    #[expect(dead_code, reason = "for the file's reader")]
    name: String,
}

impl Keyring {
    /// The keys of a binary keyring file whose primary fingerprints are pinned in `keys.toml`.
    pub(crate) fn read(pins: &Path, keyring: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(pins).with_context(|| format!("reading {}", pins.display()))?;
        let pins: Pins = toml::from_str(&text).map_err(|e| crate::place::Misplaced::toml(pins, &text, &e))?;
        let pinned: Vec<String> = pins.key.iter().map(|p| p.fingerprint.to_ascii_lowercase()).collect();
        let bytes = std::fs::read(keyring).with_context(|| {
            format!(
                "reading the keyring {}; hint: install debian-archive-keyring, or name one with --keyring",
                keyring.display()
            )
        })?;
        Self::from_bytes(&bytes, &pinned)
    }

    /// The pinned keys among those of a binary keyring.
    pub(crate) fn from_bytes(bytes: &[u8], pinned: &[String]) -> Result<Self> {
        // A key of a kind that the library does not know is not one of ours.
        let keys: Vec<SignedPublicKey> = SignedPublicKey::from_bytes_many(bytes)
            .context("reading the keyring")?
            .flatten()
            .filter(|k| pinned.contains(&k.fingerprint().to_string()))
            .collect();
        ensure!(!keys.is_empty(), "none of the pinned keys is in the keyring");
        Ok(Self(keys))
    }
}

/// What a verified InRelease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// Seconds since the epoch.
    pub(crate) date: i64,
    /// Fingerprints of the pinned keys that signed it.
    pub(crate) signers: Vec<String>,
    /// path -> (sha256, size).
    files: std::collections::BTreeMap<String, (String, u64)>,
    /// Whether the index can be fetched by its digest, safe from a mirror that updates meanwhile.
    pub(crate) by_hash: bool,
}

/// What the caller expects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect<'a> {
    /// Suite or codename.
    pub(crate) suite: &'a str,
    /// Seconds since the epoch.
    pub(crate) now: i64,
    /// The date of the last lock.
    pub(crate) not_before: Option<i64>,
}

/// Verifies and reads an InRelease.
pub(crate) fn verify(inrelease: &[u8], keys: &Keyring, expect: Expect<'_>) -> Result<Release> {
    let text = std::str::from_utf8(inrelease).context("InRelease is not text")?;
    refuse_text_outside(text)?;
    let (message, _) = CleartextSignedMessage::from_string(text).context("InRelease is no signed text")?;
    let signers = signers(&message, keys);
    ensure!(!signers.is_empty(), "InRelease has no good signature by a pinned key (profiles/keys.toml)");
    read(&message.signed_text(), signers, expect)
}

/// The signed span must be the whole file: what stands around it is not vouched for by anyone.
fn refuse_text_outside(text: &str) -> Result<()> {
    const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
    const END: &str = "-----END PGP SIGNATURE-----";
    ensure!(text.starts_with(BEGIN), "InRelease: text stands before the signed span");
    let end = text.find(END).context("InRelease: its signature has no end")?;
    ensure!(text[end + END.len()..].trim().is_empty(), "InRelease: text stands after the signed span");
    Ok(())
}

fn signers(message: &CleartextSignedMessage, keys: &Keyring) -> Vec<String> {
    let good = |key: &SignedPublicKey| {
        message.verify(&key.primary_key).is_ok()
            // A subkey counts only when the pinned primary key itself says that it is one.
            || key
                .public_subkeys
                .iter()
                .any(|sub| message.verify(&sub.key).is_ok() && sub.verify_bindings(&key.primary_key).is_ok())
    };
    keys.0.iter().filter(|k| good(k)).map(|k| k.fingerprint().to_string()).collect()
}

fn read(signed: &str, signers: Vec<String>, expect: Expect<'_>) -> Result<Release> {
    let fields = stanza(&signed.replace("\r\n", "\n"));
    let field = |k: &str| fields.get(k).map(String::as_str);
    let names = [field("suite"), field("codename")];
    ensure!(
        names.contains(&Some(expect.suite)),
        "InRelease is of the suite {:?} (codename {:?}); expected {}",
        names[0].unwrap_or("?"),
        names[1].unwrap_or("?"),
        expect.suite
    );
    let date = date(field("date").context("InRelease has no Date")?)?;
    if let Some(until) = field("valid-until") {
        ensure!(
            expect.now <= self::date(until)?,
            "InRelease of {} expired: Valid-Until {until}; hint: the mirror is stale, or this machine's clock is wrong",
            expect.suite
        );
    }
    if let Some(before) = expect.not_before {
        ensure!(
            date >= before,
            "InRelease of {} goes back in time: it is of {}, the lock has seen {}; the mirror is stale or hostile",
            expect.suite,
            field("date").unwrap_or("?"),
            jiff::Timestamp::from_second(before)?
        );
    }
    let mut files = std::collections::BTreeMap::new();
    for line in field("sha256").context("InRelease has no SHA256 section")?.lines() {
        let mut words = line.split_whitespace();
        if let (Some(digest), Some(size), Some(path)) = (words.next(), words.next(), words.next()) {
            ensure!(digest.len() == 64, "InRelease: `{digest}` is no sha256");
            files.insert(path.to_owned(), (digest.to_owned(), size.parse().context("InRelease: a size")?));
        }
    }
    Ok(Release { date, signers, files, by_hash: field("acquire-by-hash") == Some("yes") })
}

/// RFC 2822 with the zone `UTC`, as apt-ftparchive writes it.
fn date(text: &str) -> Result<i64> {
    let plain = text.replace("UTC", "+0000");
    match jiff::fmt::rfc2822::parse(&plain) {
        Ok(zoned) => Ok(zoned.timestamp().as_second()),
        Err(e) => bail!("`{text}` is no date: {e}"),
    }
}

impl Release {
    /// Digest and size of a file the index lists.
    pub(crate) fn file(&self, path: &str) -> Result<(&str, u64)> {
        let (digest, size) = self.files.get(path).with_context(|| format!("InRelease does not list {path}"))?;
        Ok((digest, *size))
    }
}

#[cfg(test)]
mod tests;

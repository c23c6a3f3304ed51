//! Container images, from a registry by digest (OCI distribution-spec 1.1, image-spec 1.1; Docker's media types are theirs by
//! other names). Nothing is asked of a registry that its digest does not vouch for; what is public is read without a login.

use super::fetched::unpack;
use crate::digest::{sha256, sha256_of};
use crate::fetch::{Answer, Fetcher};
use crate::format::oci as layout;
use crate::progress::Step;
use crate::store::Store;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::fmt;
use std::io::Read;
use std::str::FromStr;

/// A manifest or a configuration is at most this long (distribution-spec: 4 MiB is what registries must take).
const MANIFEST_MAX: u64 = 4 << 20;
/// A layer, compressed, and a file of it. Bytes.
const LAYER_MAX: u64 = 2 << 30;
const FILE_MAX: u64 = 1 << 30;
/// What a registry may answer with.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// `REGISTRY/NAME[:TAG]@sha256:DIGEST`; the tag is for people. http only where the registry is this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    registry: String,
    name: String,
    digest: String,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}`: expected REGISTRY/NAME@sha256:DIGEST; a tag may change, so a digest is needed");
        let (name, digest) = text.split_once("@sha256:").filter(|(_, d)| super::is_sha256(d)).ok_or_else(expected)?;
        let (registry, name) = name.split_once('/').ok_or_else(expected)?;
        let name = name.split_once(':').map_or(name, |(n, _)| n);
        let is_host = registry.contains(['.', ':']) || registry == "localhost";
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
        if !is_host || name.is_empty() || !name.bytes().all(plain) || name.contains("..") {
            return Err(expected());
        }
        Ok(Self { registry: registry.into(), name: name.into(), digest: digest.into() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@sha256:{}", self.registry, self.name, self.digest)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// A manifest of one image, or an index of several.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Descriptor {
    fn hex(&self) -> Result<&str> {
        let hex = self.digest.strip_prefix("sha256:").filter(|d| super::is_sha256(d));
        hex.with_context(|| format!("`{}` is no sha256 digest", self.digest))
    }
}

/// A registry, and its word that we may read.
struct Pull<'a> {
    reference: &'a Reference,
    fetcher: &'a Fetcher,
    store: &'a Store,
    token: Option<String>,
}

impl Pull<'_> {
    /// `manifests/…` or `blobs/…`, out of the store or verified.
    fn get(&mut self, kind: &str, digest: &str, max: u64) -> Result<Vec<u8>> {
        if let Some(bytes) = self.store.get(digest) {
            return Ok(bytes);
        }
        let Reference { registry, name, .. } = self.reference;
        let host = registry.split(':').next().unwrap_or(registry);
        let scheme = if ["localhost", "127.0.0.1"].contains(&host) { "http" } else { "https" };
        let url = format!("{scheme}://{registry}/v2/{name}/{kind}/sha256:{digest}");
        let step = Step::bytes(&format!("fetching {name} {}", &digest[..12]), 0);
        let mut answer = self.ask(&url, max, &step)?;
        if let (401, Some(challenge)) = (answer.status, &answer.challenge) {
            self.token = Some(self.login(challenge)?);
            answer = self.ask(&url, max, &step)?;
        }
        match answer.status {
            200 => {}
            401 | 403 => bail!("the registry asks for a login ({}); only public images are read", answer.status),
            404 => bail!("the registry has no {kind}/sha256:{digest} of {name}"),
            status => bail!("the registry answered {status}"),
        }
        let found = sha256(&answer.bytes);
        ensure!(found == digest, "its sha256 is {found}, expected {digest}");
        if kind == "blobs" {
            step.end();
        }
        self.store.put(&answer.bytes)?;
        Ok(answer.bytes)
    }

    fn ask(&self, url: &str, max: u64, step: &Step) -> Result<Answer> {
        let bearer = self.token.as_ref().map(|t| format!("Bearer {t}"));
        let mut headers = vec![("Accept", ACCEPT)];
        headers.extend(bearer.as_deref().map(|b| ("Authorization", b)));
        self.fetcher.ask(url, &headers, max, Some(step))
    }

    /// A token for whoever asks, from where the registry says.
    fn login(&self, challenge: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let url = token_url(challenge)?;
        let answer = self.fetcher.ask(&url, &[], MANIFEST_MAX, None)?;
        ensure!(answer.status == 200, "asking for a token, {url} answered {}", answer.status);
        let token: Token = serde_json::from_slice(&answer.bytes).context("reading the token")?;
        token.token.or(token.access_token).context("the answer has no token")
    }

    /// The manifest for our machines, and its bytes.
    fn manifest(&mut self) -> Result<(Manifest, Vec<u8>)> {
        let mut digest = self.reference.digest.clone();
        for _ in 0..2 {
            let bytes = self.get("manifests", &digest, MANIFEST_MAX)?;
            let manifest: Manifest = serde_json::from_slice(&bytes).context("reading the manifest")?;
            ensure!(manifest.schema_version == 2, "a manifest of schema {}; expected 2", manifest.schema_version);
            if manifest.manifests.is_empty() {
                return Ok((manifest, bytes));
            }
            let ours =
                |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == "amd64");
            let chosen = manifest.manifests.iter().find(ours).context("no image for linux/amd64 in the index")?;
            digest = chosen.hex()?.to_owned();
        }
        bail!("an index of indices")
    }
}

/// Where a token is asked for (RFC 6750, and the registry's token protocol): `Bearer realm="…",service="…",scope="…"`.
pub(super) fn token_url(challenge: &str) -> Result<String> {
    let rest = challenge.strip_prefix("Bearer ").context("the registry wants another login than a token")?;
    let value = |key: &str| {
        let (_, after) = rest.split_once(&format!("{key}=\""))?;
        Some(after.split_once('"')?.0)
    };
    let realm = value("realm").filter(|r| r.starts_with("https://") || r.starts_with("http://127.0.0.1:"));
    let realm = realm.context("the registry names no place that gives tokens by https")?;
    let encoded = |text: &str| {
        text.bytes().fold(String::new(), |all, b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all + &char::from(b).to_string(),
            _ => format!("{all}%{b:02X}"),
        })
    };
    let words = ["service", "scope"].iter().filter_map(|k| Some(format!("{k}={}", encoded(value(k)?))));
    let query = words.collect::<Vec<_>>().join("&");
    Ok(format!("{realm}{}{query}", if realm.contains('?') { "&" } else { "?" }))
}

/// A file of an image; its digest in the store.
pub(super) fn program(image: &Reference, path: &str, fetcher: &Fetcher, store: &Store) -> Result<String> {
    let key = sha256_of(&[b"oci-file-1", image.digest.as_bytes(), path.as_bytes()]);
    if let Some(digest) = store.built(&key).and_then(|b| b.get("program").cloned()) {
        return Ok(digest);
    }
    let mut pull = Pull { reference: image, fetcher, store, token: None };
    let (manifest, _) = pull.manifest()?;
    // The upper layers hide what is in the lower ones.
    for layer in manifest.layers.iter().rev() {
        let bytes = pull.get("blobs", layer.hex()?, layer.size.min(LAYER_MAX))?;
        match look(unpack(&bytes)?, path.trim_start_matches('/'))? {
            Look::File(bytes) => {
                let built = store.put_built(&key, &[("program".to_owned(), bytes)].into())?;
                return built.get("program").cloned().context("it was kept");
            }
            Look::Removed => break,
            Look::Absent => {}
        }
    }
    bail!("the image has no such file")
}

/// What a layer says of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    File(Vec<u8>),
    Removed,
    Absent,
}

/// Looks for a regular file in a layer (image-spec, `layer.md`: `.wh.NAME` removes, `.wh..wh..opq` hides a directory's lower
/// contents).
pub(super) fn look(layer: impl Read, wanted: &str) -> Result<Look> {
    let parents: Vec<&str> = wanted.match_indices('/').map(|(i, _)| &wanted[..i]).collect();
    let mut removed = false;
    let mut archive = tar::Archive::new(layer);
    for entry in archive.entries().context("reading a layer")? {
        let mut entry = entry.context("reading a layer")?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").trim_matches('/');
        if path == wanted {
            let kind = entry.header().entry_type();
            ensure!(kind.is_file(), "it is no regular file; hint: name what the link leads to");
            let mut bytes = Vec::new();
            (&mut entry).take(FILE_MAX).read_to_end(&mut bytes)?;
            ensure!(bytes.len() as u64 == entry.size(), "cut off, or longer than {FILE_MAX} bytes");
            return Ok(Look::File(bytes));
        }
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = if dir.is_empty() { gone.to_owned() } else { format!("{dir}/{gone}") };
            let hides = name == ".wh..wh..opq" && (dir.is_empty() || parents.contains(&dir));
            removed |= hides || gone == wanted || parents.contains(&gone.as_str());
        }
    }
    Ok(if removed { Look::Removed } else { Look::Absent })
}

/// A whole image as an OCI archive, named as pods name it.
pub(super) fn archive(name: &str, image: &Reference, fetcher: &Fetcher, store: &Store) -> Result<Vec<u8>> {
    let mut pull = Pull { reference: image, fetcher, store, token: None };
    let (manifest, bytes) = pull.manifest()?;
    let mut blobs = vec![];
    for blob in manifest.config.iter().chain(&manifest.layers) {
        blobs.push(pull.get("blobs", blob.hex()?, blob.size.min(LAYER_MAX))?);
    }
    layout::archive(name, &bytes, &blobs)
}

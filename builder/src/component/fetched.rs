//! A program from the web: a file whose digest the recipe names, or a member of the tar that it is.

use crate::digest::sha256_of;
use crate::fetch::Fetcher;
use crate::progress::Step;
use crate::store::Store;
use anyhow::{Context, Result, bail, ensure};
use std::io::Read;

/// A file is at most this long, in bytes.
const FILE_MAX: u64 = 1 << 30;
/// A tar is at most this long, unpacked. Bytes.
pub(super) const UNPACKED_MAX: u64 = 4 << 30;

/// The program's digest in the store.
pub(super) fn program(
    url: &str,
    sha256: &str,
    member: Option<&str>,
    fetcher: &Fetcher,
    store: &Store,
) -> Result<String> {
    let key = sha256_of(&[b"member-1", sha256.as_bytes(), member.unwrap_or_default().as_bytes()]);
    if let Some(digest) = store.built(&key).and_then(|b| b.get("program").cloned()) {
        return Ok(digest);
    }
    let bytes = match store.get(sha256) {
        Some(bytes) => bytes,
        None => {
            let step = Step::bytes(&format!("fetching {}", url.rsplit('/').next().unwrap_or(url)), 0);
            let bytes = fetcher.url(url, FILE_MAX, Some(&step))?.with_context(|| format!("{url} is not there"))?;
            let found = crate::digest::sha256(&bytes);
            ensure!(found == sha256, "its sha256 is {found}, expected {sha256}");
            step.end();
            store.put(&bytes)?;
            bytes
        }
    };
    let Some(member) = member else { return Ok(sha256.to_owned()) };
    let bytes = self::member(unpack(&bytes)?, member)?;
    Ok(store.put_built(&key, &[("program".to_owned(), bytes)].into())?.remove("program").unwrap_or_default())
}

/// A compressed stream, known by its first bytes, as what it was.
pub(super) fn unpack(bytes: &[u8]) -> Result<Box<dyn Read + '_>> {
    Ok(match bytes {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(bytes).take(UNPACKED_MAX)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            Box::new(liblzma::read::XzDecoder::new_multi_decoder(bytes).take(UNPACKED_MAX))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::new(bytes)?.take(UNPACKED_MAX)),
        _ => Box::new(bytes),
    })
}

/// A regular file of a tar.
fn member(tar: impl Read, wanted: &str) -> Result<Vec<u8>> {
    let mut seen = Vec::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().context("reading the tar")? {
        let mut entry = entry.context("reading the tar")?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if path.trim_start_matches("./") != wanted.trim_start_matches("./") {
            seen.push(path);
            continue;
        }
        ensure!(entry.header().entry_type().is_file(), "{path} is no regular file in the tar");
        let mut bytes = Vec::new();
        (&mut entry).take(FILE_MAX).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 == entry.size(), "{path}: cut off, or longer than {FILE_MAX} bytes");
        return Ok(bytes);
    }
    let near = contract::nearest::nearest(wanted, seen.iter().map(String::as_str));
    let hint = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
    bail!("the tar has no `{wanted}` among its {} members{hint}", seen.len())
}

//! A `.deb`: an ar archive (deb(5)) of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! Only the data is unpacked; the maintainer scripts in the control part never run.

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;

/// The data of a deb is at most this long unpacked: the largest kernel has 500 MB.
const DATA_MAX: u64 = 2 << 30;
const AR_MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;

/// The members of an ar archive: name and bytes.
fn members(mut ar: &[u8]) -> Result<Vec<(&str, &[u8])>> {
    ensure!(ar.starts_with(AR_MAGIC), "not an ar archive");
    ar = &ar[AR_MAGIC.len()..];
    let mut found = Vec::new();
    while !ar.is_empty() {
        ensure!(ar.len() >= HEADER, "an ar header is truncated");
        let (header, rest) = ar.split_at(HEADER);
        ensure!(&header[58..60] == b"`\n", "an ar header has no end mark");
        let text = std::str::from_utf8(&header[..58]).context("an ar header is not text")?;
        let name = text.get(..16).context("an ar name")?.trim_end().trim_end_matches('/');
        let size: usize = text.get(48..58).context("an ar size")?.trim().parse().context("an ar size")?;
        ensure!(size <= rest.len(), "the ar member {name} is truncated");
        found.push((name, &rest[..size]));
        // Members start at even offsets.
        ar = &rest[(size + size % 2).min(rest.len())..];
    }
    Ok(found)
}

/// The unpacked `data.tar`.
pub(crate) fn data_tar(deb: &[u8]) -> Result<Vec<u8>> {
    let members = members(deb)?;
    let (first, version) = members.first().context("the deb is empty")?;
    ensure!(*first == "debian-binary" && version.starts_with(b"2."), "not a deb of format 2");
    let (name, data) = members.iter().find(|(n, _)| n.starts_with("data.tar")).context("the deb has no data.tar")?;
    let mut out = Vec::new();
    match *name {
        "data.tar" => out.extend_from_slice(data),
        "data.tar.xz" => {
            liblzma::read::XzDecoder::new_multi_decoder(*data).take(DATA_MAX).read_to_end(&mut out)?;
        }
        "data.tar.zst" => {
            zstd::stream::read::Decoder::new(*data)?.take(DATA_MAX).read_to_end(&mut out)?;
        }
        "data.tar.gz" => {
            flate2::read::GzDecoder::new(*data).take(DATA_MAX).read_to_end(&mut out)?;
        }
        other => bail!("{other}: a compression that is not known"),
    }
    ensure!((out.len() as u64) < DATA_MAX, "data.tar is larger than {DATA_MAX} bytes");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ar(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = AR_MAGIC.to_vec();
        for (name, data) in parts {
            out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, data.len()).bytes());
            out.extend_from_slice(data);
            if data.len() % 2 == 1 {
                out.push(b'\n');
            }
        }
        out
    }

    #[test]
    fn opens_each_compression() {
        let tar = b"not really a tar, but data".to_vec();
        let xz = {
            let mut e = liblzma::read::XzEncoder::new(&tar[..], 1);
            let mut v = Vec::new();
            e.read_to_end(&mut v).expect("compressed");
            v
        };
        let zst = zstd::encode_all(&tar[..], 1).expect("compressed");
        for (name, data) in [("data.tar", &tar), ("data.tar.xz", &xz), ("data.tar.zst", &zst)] {
            let deb = ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"x"), (name, data)]);
            assert_eq!(data_tar(&deb).expect(name), tar);
        }
    }

    #[test]
    fn refuses_what_is_no_deb() {
        for (bytes, why) in [
            (b"PK".to_vec(), "not an ar archive"),
            (ar(&[("debian-binary", b"3.0\n")]), "format 2"),
            (ar(&[("debian-binary", b"2.0\n")]), "no data.tar"),
            (ar(&[("debian-binary", b"2.0\n"), ("data.tar.lzma", b"")]), "not known"),
        ] {
            let e = format!("{:#}", data_tar(&bytes).expect_err(why));
            assert!(e.contains(why), "{e}");
        }
    }

    proptest! {
        #[test]
        fn truncation_and_noise_are_errors(cut in 0_usize..200, noise in any::<u8>(), at in 0_usize..200) {
            let mut deb = ar(&[("debian-binary", b"2.0\n"), ("data.tar.xz", &[7; 80])]);
            let n = deb.len();
            deb[at % n] = noise;
            deb.truncate(cut.min(n));
            let _ = data_tar(&deb);
        }
    }
}

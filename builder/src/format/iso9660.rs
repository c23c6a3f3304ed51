//! ISO 9660 with Rock Ridge names: seed media (ECMA-119; System Use Sharing Protocol and Rock Ridge, IEEE P1281/P1282).
//!
//! One flat directory of small files is all a seed needs. The plain identifiers are the real names in lower case
//! (a relaxation every reader accepts), and Rock Ridge's `NM` entries say them again for readers that ask properly.

use anyhow::{Result, ensure};

const SECTOR: usize = 2048;
const ROOT_SECTOR: usize = 20;

/// An image with a volume label and the files of its root directory, sorted by name by the caller.
pub(crate) fn write(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    ensure!(label.len() <= 32, "the label `{label}` is too long");
    let mut next = ROOT_SECTOR + 1;
    let mut extents = Vec::new();
    for (_, bytes) in files {
        extents.push(next);
        next += bytes.len().div_ceil(SECTOR).max(1);
    }
    let mut directory = record("\0", ROOT_SECTOR, SECTOR, true, true);
    directory.extend(record("\x01", ROOT_SECTOR, SECTOR, true, false));
    for ((name, bytes), extent) in files.iter().zip(&extents) {
        ensure!(name.len() <= 64 && !name.contains('/'), "`{name}` is no name for a seed file");
        directory.extend(record(name, *extent, bytes.len(), false, false));
    }
    ensure!(directory.len() <= SECTOR, "too many files for one directory sector");

    let mut image = vec![0; next * SECTOR];
    let sector = |i: usize| i * SECTOR;
    image[sector(16)..sector(17)].copy_from_slice(&primary(label, next)?);
    image[sector(17)..sector(17) + 7].copy_from_slice(b"\xffCD001\x01");
    image[sector(18)..sector(18) + 10].copy_from_slice(&path_table(true));
    image[sector(19)..sector(19) + 10].copy_from_slice(&path_table(false));
    image[sector(ROOT_SECTOR)..][..directory.len()].copy_from_slice(&directory);
    for ((_, bytes), extent) in files.iter().zip(&extents) {
        image[sector(*extent)..][..bytes.len()].copy_from_slice(bytes);
    }
    Ok(image)
}

/// Both byte orders, as ECMA-119 §7.3.3 wants it.
#[expect(clippy::cast_possible_truncation, reason = "a seed image is far below 4 GiB")]
fn both32(n: usize) -> [u8; 8] {
    let n = n as u32;
    let mut out = [0; 8];
    out[..4].copy_from_slice(&n.to_le_bytes());
    out[4..].copy_from_slice(&n.to_be_bytes());
    out
}

fn both16(n: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (n.to_le_bytes(), n.to_be_bytes());
    [a, b, c, d]
}

/// A directory record (ECMA-119 §9.1) with its Rock Ridge entries.
#[expect(clippy::cast_possible_truncation, reason = "a record is at most 255 bytes: names are at most 64")]
fn record(name: &str, extent: usize, size: usize, dir: bool, first: bool) -> Vec<u8> {
    let mut r = vec![0, 0];
    r.extend(both32(extent));
    r.extend(both32(size));
    r.extend([70, 1, 1, 0, 0, 0, 0]); // 1970-01-01: an image says nothing of when it was made
    r.push(if dir { 2 } else { 0 });
    r.extend([0, 0]);
    r.extend(both16(1));
    r.push(name.len() as u8);
    r.extend(name.bytes());
    if name.len().is_multiple_of(2) {
        r.push(0);
    }
    if first {
        r.extend(b"SP\x07\x01\xbe\xef\x00"); // SUSP is in use
    }
    if !dir {
        r.extend(b"NM");
        r.extend([(5 + name.len()) as u8, 1, 0]);
        r.extend(name.bytes());
    }
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r[0] = r.len() as u8;
    r
}

/// The primary volume descriptor (ECMA-119 §8.4).
fn primary(label: &str, sectors: usize) -> Result<[u8; SECTOR]> {
    let mut d = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| d[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x01CD001\x01");
    put(8, &[b' '; 64]);
    put(40, label.as_bytes());
    put(80, &both32(sectors));
    put(120, &both16(1));
    put(124, &both16(1));
    put(128, &both16(u16::try_from(SECTOR)?));
    put(132, &both32(10));
    put(140, &18_u32.to_le_bytes());
    put(148, &19_u32.to_be_bytes());
    let root = record("\0", ROOT_SECTOR, SECTOR, true, false);
    put(156, &root[..34]);
    put(156, &[34]);
    put(190, &[b' '; 623]);
    for at in [813, 830, 847, 864] {
        put(at, b"0000000000000000\0"); // not specified (§8.4.26.1)
    }
    put(881, &[1]);
    Ok(d)
}

/// The path table's one record (ECMA-119 §9.4).
fn path_table(little: bool) -> [u8; 10] {
    let extent = u32::try_from(ROOT_SECTOR).unwrap_or(0);
    let (e, p) =
        if little { (extent.to_le_bytes(), 1_u16.to_le_bytes()) } else { (extent.to_be_bytes(), 1_u16.to_be_bytes()) };
    [1, 0, e[0], e[1], e[2], e[3], p[0], p[1], 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_reader_and_isoinfo_agree() {
        let files: [(&str, &[u8]); 3] = [("meta-data", b"m"), ("network-config", b""), ("user-data", &[b'u'; 5000])];
        let image = write("cidata", &files).expect("written");
        let read = metadata::seed_media::iso9660::read(&mut std::io::Cursor::new(&image)).expect("read");
        assert_eq!(read.label, "cidata");
        for (name, bytes) in files {
            assert_eq!(read.files.get(name).map(Vec::as_slice), Some(bytes), "{name}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("seed.iso");
        std::fs::write(&path, &image).expect("kept");
        let Ok(out) = std::process::Command::new("isoinfo").args(["-R", "-f", "-i"]).arg(&path).output() else {
            assert!(std::env::var_os("CI").is_none(), "isoinfo is missing: install genisoimage");
            eprintln!("SKIPPED: isoinfo is missing: install genisoimage");
            return;
        };
        let names = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(names.contains("/user-data") && names.contains("/meta-data"), "{names}");
    }
}

//! ISO 9660 (ECMA-119) with Rock Ridge or Joliet names: a reader of the root directory.
//!
//! Directories, links and everything deeper are passed over: a seed has no use for them.

use super::{ENTRIES_MAX, Medium};
use crate::FILE_MAX;
use std::io::{self, Read, Seek, SeekFrom};

const SECTOR: u64 = 2048;
/// Volume descriptors are looked for in this many sectors.
const DESCRIPTORS_MAX: u64 = 16;
/// A root directory is at most this long. Bytes.
const DIRECTORY_MAX: u64 = 256 << 10;

/// Whether the primary volume descriptor's mark is there.
pub fn is_one(disk: &mut (impl Read + Seek)) -> bool {
    sector(disk, 16).is_ok_and(|s| &s[1..6] == b"CD001")
}

fn sector(disk: &mut (impl Read + Seek), number: u64) -> io::Result<[u8; 2048]> {
    let mut buffer = [0; 2048];
    disk.seek(SeekFrom::Start(number * SECTOR))?;
    disk.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn le32(bytes: &[u8], at: usize) -> io::Result<u64> {
    let b: [u8; 4] = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(|| bad("a number is cut off"))?;
    Ok(u64::from(u32::from_le_bytes(b)))
}

/// Where a directory is.
#[derive(Clone, Copy)]
struct Extent {
    sector: u64,
    bytes: u64,
}

/// Reads label and files.
pub fn read(disk: &mut (impl Read + Seek)) -> io::Result<Medium> {
    let mut primary = None;
    let mut joliet = None;
    for number in 16..16 + DESCRIPTORS_MAX {
        let d = sector(disk, number)?;
        match (d[0], &d[1..6] == b"CD001") {
            (255, _) | (_, false) => break,
            (1, true) if primary.is_none() => primary = Some(d),
            // Joliet's escape sequences for UCS-2 levels 1 to 3.
            (2, true) if matches!(&d[88..91], b"%/@" | b"%/C" | b"%/E") => joliet = Some(d),
            _ => {}
        }
    }
    let primary = primary.ok_or_else(|| bad("no primary volume descriptor"))?;
    let label = String::from_utf8_lossy(&primary[40..72]).trim_end_matches([' ', '\0']).to_owned();
    let root = directory(disk, root_of(&primary)?)?;
    let rock_ridge = records(&root).next().is_some_and(|r| r.system_use().starts_with(b"SP"));
    let (root, names) = match joliet {
        Some(d) if !rock_ridge => (directory(disk, root_of(&d)?)?, Names::Joliet),
        _ if rock_ridge => (root, Names::RockRidge),
        _ => (root, Names::Plain),
    };
    let mut medium = Medium { label, ..Medium::default() };
    for record in records(&root).take(ENTRIES_MAX).filter(|r| !r.is_dir()) {
        let Some(name) = record.name(names) else { continue };
        let extent = record.extent()?;
        if extent.bytes > FILE_MAX as u64 {
            medium.too_long.push(name);
            continue;
        }
        medium.files.insert(name, bytes(disk, extent)?);
    }
    Ok(medium)
}

fn root_of(descriptor: &[u8; 2048]) -> io::Result<Extent> {
    Ok(Extent { sector: le32(descriptor, 158)?, bytes: le32(descriptor, 166)? })
}

fn directory(disk: &mut (impl Read + Seek), extent: Extent) -> io::Result<Vec<u8>> {
    if extent.bytes > DIRECTORY_MAX {
        return Err(bad("the root directory is too long"));
    }
    bytes(disk, extent)
}

fn bytes(disk: &mut (impl Read + Seek), extent: Extent) -> io::Result<Vec<u8>> {
    disk.seek(SeekFrom::Start(extent.sector * SECTOR))?;
    let mut out = Vec::new();
    disk.take(extent.bytes).read_to_end(&mut out)?;
    if out.len() as u64 == extent.bytes { Ok(out) } else { Err(bad("the medium ends inside a file")) }
}

#[derive(Clone, Copy)]
enum Names {
    Plain,
    RockRidge,
    Joliet,
}

/// A directory record (ECMA-119 §9.1).
struct Record<'a>(&'a [u8]);

/// The records of a directory; none crosses a sector's end.
fn records(directory: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let length = usize::from(*directory.get(at)?);
            if length == 0 {
                at = (at / 2048 + 1) * 2048;
                continue;
            }
            let record = directory.get(at..at + length)?;
            at += length;
            if length >= 34 {
                return Some(Record(record));
            }
        }
    })
}

impl Record<'_> {
    fn identifier(&self) -> &[u8] {
        let length = usize::from(self.0[32]);
        self.0.get(33..33 + length).unwrap_or(&[])
    }

    fn system_use(&self) -> &[u8] {
        let length = usize::from(self.0[32]);
        self.0.get(33 + length + (length + 1) % 2..).unwrap_or(&[])
    }

    fn is_dir(&self) -> bool {
        self.0[25] & 2 != 0
    }

    fn extent(&self) -> io::Result<Extent> {
        Ok(Extent { sector: le32(self.0, 2)?, bytes: le32(self.0, 10)? })
    }

    fn name(&self, names: Names) -> Option<String> {
        let id = self.identifier();
        let name = match names {
            Names::RockRidge => rock_ridge_name(self.system_use())?,
            Names::Plain => String::from_utf8_lossy(id).into_owned(),
            Names::Joliet => {
                let units = id.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]));
                char::decode_utf16(units).collect::<Result<String, _>>().ok()?
            }
        };
        let name = name.split(';').next().unwrap_or("").trim_end_matches('.').to_ascii_lowercase();
        (!name.is_empty() && !name.contains(['/', '\0'])).then_some(name)
    }
}

/// The `NM` entries of a record's system use area, joined (IEEE P1282 §4.1.4).
fn rock_ridge_name(mut area: &[u8]) -> Option<String> {
    let mut name = Vec::new();
    while area.len() >= 4 {
        let length = usize::from(area[2]);
        if length < 4 || length > area.len() {
            break;
        }
        if area.starts_with(b"NM") && length > 5 {
            name.extend_from_slice(&area[5..length]);
        }
        area = &area[length..];
    }
    (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Whatever makes cidata media: plain, Rock Ridge, Joliet, as genisoimage writes them.
    fn genisoimage(options: &[&str]) -> Option<Vec<u8>> {
        let dir = std::env::temp_dir().join(format!("quorate-iso-{}-{}", std::process::id(), options.join("")));
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join("user-data"), "#cloud-config\n").expect("written");
        std::fs::write(dir.join("meta-data"), "instance-id: a\n").expect("written");
        let out =
            std::process::Command::new("genisoimage").args(["-quiet", "-V", "cidata"]).args(options).arg(&dir).output();
        std::fs::remove_dir_all(&dir).expect("removed");
        match out {
            Ok(o) => Some(o.stdout),
            Err(_) => {
                assert!(std::env::var_os("CI").is_none(), "genisoimage is missing: install genisoimage");
                eprintln!("SKIPPED: genisoimage is missing");
                None
            }
        }
    }

    #[test]
    fn reads_what_others_write() {
        for options in [&["-r"][..], &["-J"], &["-r", "-J"], &["-l", "-relaxed-filenames", "-allow-lowercase"]] {
            let Some(image) = genisoimage(options) else { return };
            let m = read(&mut Cursor::new(image)).expect("read");
            assert!(m.is_cidata(), "{options:?}: {}", m.label);
            assert_eq!(
                m.files.get("user-data").map(Vec::as_slice),
                Some(&b"#cloud-config\n"[..]),
                "{options:?}: {:?}",
                m.files.keys()
            );
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(seed in proptest::collection::vec(any::<u8>(), 0..512), at in 0_usize..3000) {
            let mut disk = vec![0_u8; 24 * 2048];
            disk[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
            let start = (16 * 2048 + 8 + at).min(disk.len() - seed.len());
            disk[start..start + seed.len()].copy_from_slice(&seed);
            let _ = read(&mut Cursor::new(disk));
        }
    }
}

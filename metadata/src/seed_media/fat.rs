//! FAT12, 16 and 32 (Microsoft's "FAT: General Overview of On-Disk Format"), through the crate `fatfs`.

use super::{ENTRIES_MAX, Medium};
use crate::FILE_MAX;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Whether the boot sector looks like FAT's: signature, a jump, a plausible sector size.
pub fn is_one(disk: &mut (impl Read + Seek)) -> bool {
    let mut boot = [0; 512];
    let read = disk.seek(SeekFrom::Start(0)).and_then(|_| disk.read_exact(&mut boot));
    read.is_ok()
        && boot[510..] == [0x55, 0xaa]
        && matches!(boot[0], 0xeb | 0xe9)
        && matches!(u16::from_le_bytes([boot[11], boot[12]]), 512 | 1024 | 2048 | 4096)
        && boot[16] > 0
}

/// The library wants to be able to write; a seed is never written to.
struct ReadOnly<'a, D>(&'a mut D);

impl<D: Read> Read for ReadOnly<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<D: Seek> Seek for ReadOnly<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl<D> Write for ReadOnly<'_, D> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads label and files.
pub fn read(disk: &mut (impl Read + Seek)) -> io::Result<Medium> {
    disk.seek(SeekFrom::Start(0))?;
    let fs = fatfs::FileSystem::new(ReadOnly(disk), fatfs::FsOptions::new().update_accessed_date(false))?;
    let in_root = fs.read_volume_label_from_root_dir()?;
    let label = in_root.unwrap_or_else(|| fs.volume_label());
    let mut medium = Medium { label: label.trim().to_owned(), ..Medium::default() };
    for entry in fs.root_dir().iter().take(ENTRIES_MAX) {
        let entry = entry?;
        if !entry.is_file() {
            continue;
        }
        let name = entry.file_name().to_ascii_lowercase();
        if entry.len() > FILE_MAX as u64 {
            medium.too_long.push(name);
            continue;
        }
        let mut bytes = Vec::new();
        entry.to_file().take(FILE_MAX as u64).read_to_end(&mut bytes)?;
        medium.files.insert(name, bytes);
    }
    Ok(medium)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn image(label: &[u8; 11]) -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; 1 << 20]);
        fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new().volume_label(*label)).expect("formatted");
        {
            let fs = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new()).expect("opened");
            fs.root_dir().create_file("user-data").expect("made").write_all(b"#cloud-config\n").expect("written");
            fs.root_dir().create_dir("deeper").expect("made");
        }
        disk.into_inner()
    }

    #[test]
    fn reads_a_vfat_seed() {
        let m = super::super::read(&mut Cursor::new(image(b"CIDATA     "))).expect("FAT").expect("whole");
        assert!(m.is_cidata());
        assert_eq!(m.files.keys().collect::<Vec<_>>(), ["user-data"]);
        assert!(super::super::read(&mut Cursor::new(vec![0; 4096])).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_is_an_error_at_worst(at in 0_usize..1024, value in any::<u8>()) {
            let mut disk = image(b"CIDATA     ");
            disk[at] = value;
            let _ = super::super::read(&mut Cursor::new(disk));
        }
    }
}

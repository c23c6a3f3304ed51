//! The names under which a block device is known below `/dev/disk`, as udev's rules make them: by-id, by-path, by-label,
//! by-partlabel, by-partuuid.
//!
//! Labels and partition GUIDs are read from the device itself, at fixed offsets of fixed lengths: ext4's superblock
//! (fs/ext4/ext4.h), ISO 9660's volume descriptor (ECMA-119 §8.4), the GPT (UEFI specification §5.3).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// GPT entries are 128 bytes; a table that says otherwise is not one that anybody writes.
const GPT_ENTRY: u64 = 128;

/// All names of a device, given its directory in sysfs; `dev` is where device nodes are.
pub(crate) fn names(dev: &Path, device: &Path) -> Vec<String> {
    let Ok(dir) = fs::canonicalize(device) else { return Vec::new() };
    let read = |p: PathBuf| fs::read_to_string(p).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let name_of = |d: &Path| d.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let number = read(dir.join("partition"));
    let disk = if number.is_some() { dir.parent().unwrap_or(&dir).to_path_buf() } else { dir.clone() };
    let part = number.as_ref().map(|n| format!("-part{n}")).unwrap_or_default();
    let name = name_of(&disk);
    let mut names = Vec::new();
    let bus = match &*name {
        n if n.starts_with("vd") => "virtio",
        n if n.starts_with("nvme") => "nvme",
        _ => "scsi",
    };
    if let Some(serial) = read(disk.join("serial")).or_else(|| read(disk.join("device/serial"))) {
        names.push(format!("by-id/{bus}-{}{part}", safe(&serial)));
    }
    if let Some(wwid) = read(disk.join("wwid")).or_else(|| read(disk.join("device/wwid"))) {
        names.push(format!("by-id/{}{part}", safe(&wwid)));
    }
    names.extend(pci(&disk).map(|p| format!("by-path/pci-{p}{part}")));
    let uevent = read(dir.join("uevent")).unwrap_or_default();
    let partname = uevent.lines().find_map(|l| l.strip_prefix("PARTNAME="));
    names.extend(partname.map(|n| format!("by-partlabel/{}", safe(n))));
    if let Some(number) = number.and_then(|n| n.parse().ok()) {
        let block = read(disk.join("queue/logical_block_size")).and_then(|b| b.parse().ok()).unwrap_or(512);
        let guid = File::open(dev.join(&name)).ok().and_then(|f| partuuid(&f, block, number));
        names.extend(guid.map(|g| format!("by-partuuid/{g}")));
    }
    let label = File::open(dev.join(name_of(&dir))).ok().and_then(|f| label(&f));
    names.extend(label.map(|l| format!("by-label/{}", safe(&l))));
    names
}

/// A name that is one path component and nothing else.
fn safe(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
    let text: String = text.chars().map(|c| if keep(c) { c } else { '_' }).collect();
    if text.chars().all(|c| c == '.') { format!("_{text}") } else { text }
}

/// The last PCI function on the way to a disk: `0000:00:05.0`.
fn pci(disk: &Path) -> Option<String> {
    let is_function = |c: &String| {
        let b = c.as_bytes();
        b.len() == 12 && b[4] == b':' && b[7] == b':' && b[10] == b'.'
    };
    disk.components().rev().map(|c| c.as_os_str().to_string_lossy().into_owned()).find(is_function)
}

fn bytes<const N: usize>(file: &File, at: u64) -> Option<[u8; N]> {
    let mut buffer = [0; N];
    file.read_exact_at(&mut buffer, at).ok()?;
    Some(buffer)
}

/// The label of an ext or ISO 9660 file system.
fn label(device: &File) -> Option<String> {
    let text = |b: &[u8]| {
        let t = String::from_utf8_lossy(b.split(|c| *c == 0).next().unwrap_or_default()).trim().to_owned();
        (!t.is_empty()).then_some(t)
    };
    if bytes::<2>(device, 1024 + 0x38) == Some([0x53, 0xef]) {
        return text(&bytes::<16>(device, 1024 + 0x78)?);
    }
    (bytes::<6>(device, 32_768) == Some(*b"\x01CD001")).then(|| text(&bytes::<32>(device, 32_768 + 40)?)).flatten()
}

/// The GUID of the partition with this number.
fn partuuid(disk: &File, block: u64, number: u64) -> Option<String> {
    if !(512..=65_536).contains(&block) || bytes::<8>(disk, block)? != *b"EFI PART" {
        return None;
    }
    let table = u64::from_le_bytes(bytes(disk, block + 72)?);
    let count = u64::from(u32::from_le_bytes(bytes(disk, block + 80)?));
    let size = u64::from(u32::from_le_bytes(bytes(disk, block + 84)?));
    if number == 0 || number > count.min(256) || size != GPT_ENTRY {
        return None;
    }
    let entry = table.checked_mul(block)?.checked_add((number - 1) * size)?;
    let g: [u8; 16] = bytes(disk, entry.checked_add(16)?)?;
    // The first three groups are little-endian.
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (i, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        text += &format!("{:02x}", g[at]);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_of_a_partitions_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = dir.path().join("devices/pci0000:00/0000:00:05.0/virtio2/block/vdb");
        let dev = dir.path().join("dev");
        fs::create_dir_all(disk.join("vdb1")).expect("made");
        fs::create_dir_all(&dev).expect("made");
        for (file, text) in
            [("serial", "my seed\n"), ("vdb1/partition", "1\n"), ("vdb1/uevent", "PARTNAME=quorate-state\n")]
        {
            fs::write(disk.join(file), text).expect("written");
        }
        let mut gpt = vec![0; 4096];
        gpt[512..520].copy_from_slice(b"EFI PART");
        gpt[512 + 72] = 2;
        gpt[512 + 80] = 128;
        gpt[512 + 84] = 128;
        gpt[1024 + 16..1024 + 32]
            .copy_from_slice(&core::array::from_fn::<u8, 16, _>(|i| u8::try_from(i).expect("small")));
        fs::write(dev.join("vdb"), gpt).expect("written");
        let mut ext4 = vec![0; 4096];
        ext4[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        ext4[1024 + 0x78..1024 + 0x7f].copy_from_slice(b"../data");
        fs::write(dev.join("vdb1"), ext4).expect("written");
        assert_eq!(
            names(&dev, &disk.join("vdb1")),
            [
                "by-id/virtio-my_seed-part1",
                "by-path/pci-0000:00:05.0-part1",
                "by-partlabel/quorate-state",
                "by-partuuid/03020100-0504-0706-0809-0a0b0c0d0e0f",
                "by-label/.._data",
            ]
        );
        assert_eq!(names(&dev, &disk), ["by-id/virtio-my_seed", "by-path/pci-0000:00:05.0"]);
        assert_eq!(safe(".."), "_..");
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..128), at in 0_usize..1024, number in any::<u64>()) {
            let mut disk = vec![0; 4096];
            disk[512..520].copy_from_slice(b"EFI PART");
            disk[520 + at..520 + at + noise.len()].copy_from_slice(&noise);
            let mut file = tempfile::tempfile().expect("a file");
            std::io::Write::write_all(&mut file, &disk).expect("written");
            let _ = partuuid(&file, 512, number % 300);
            let _ = label(&file);
        }
    }
}

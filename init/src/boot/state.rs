//! The state partition: exactly one that is ours is mounted; a blank disk that the configuration names is taken.
//!
//! Nothing that has anything on it is ever formatted, unless the configuration says `wipe` — and never a disk that is
//! labelled for quorate. A partition counts as ours by its GPT name, then by what `blkid -p` says of type and label: a
//! pod's volume must never become the node's configuration.

use super::log;
use crate::steps::Steps;
use contract::cmdline::DiskName;
use contract::disk::{STATE_LABEL, STATE_TYPE, sfdisk_script};
use contract::paths::VAR;
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const SYS_BLOCK: &str = "/sys/class/block";
/// A disk is blank only when its first and last so many bytes are zero.
const BLANK: u64 = 1 << 20;
/// So much of a state partition is for what keeps the node alive: a pod that takes all the room cannot be put out by a kubelet
/// and a containerd that can write nothing. Bytes, and at most so many per cent.
const RESERVE: u64 = 256 << 20;
const RESERVE_PERCENT: u64 = 5;

/// A block device as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// `vda1`.
    pub(crate) name: String,
    /// GPT partition name.
    partname: Option<String>,
    /// The disk's serial number.
    serial: Option<String>,
    /// 512-byte sectors.
    sectors: u64,
    removable: bool,
    /// loop, ram, dm: not a disk of the machine.
    synthetic: bool,
    /// The disk a partition is on; none for a whole disk.
    parent: Option<String>,
}

impl Device {
    /// Its node.
    pub(crate) fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.sectors * 512
    }

    /// Whether a `serial:` or a path names it, or the disk it is on.
    pub(crate) fn is_named(&self, name: &DiskName) -> bool {
        match name {
            DiskName::Serial(s) => self.serial.as_ref() == Some(s),
            DiskName::Path(p) => {
                // /dev/disk/by-… is a link to the node.
                let real = fs::canonicalize(p).unwrap_or_else(|_| p.into());
                [Some(&self.name), self.parent.as_ref()]
                    .into_iter()
                    .flatten()
                    .any(|n| real == Path::new(&format!("/dev/{n}")))
            }
        }
    }
}

/// All block devices, sorted by name.
pub(crate) fn devices() -> Vec<Device> {
    devices_at(Path::new(SYS_BLOCK))
}

fn devices_at(root: &Path) -> Vec<Device> {
    let mut found: Vec<Device> =
        fs::read_dir(root).map(|d| d.flatten().filter_map(|e| device(&e.path())).collect()).unwrap_or_default();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn device(link: &Path) -> Option<Device> {
    let dir = fs::canonicalize(link).ok()?;
    let read = |p: PathBuf| fs::read_to_string(p).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let name = dir.file_name()?.to_str()?.to_owned();
    let is_partition = dir.join("partition").exists();
    let disk = if is_partition { dir.parent()?.to_path_buf() } else { dir.clone() };
    let uevent = read(dir.join("uevent")).unwrap_or_default();
    let synthetic = dir.components().any(|c| c.as_os_str() == "virtual");
    Some(Device {
        partname: uevent.lines().find_map(|l| l.strip_prefix("PARTNAME=")).map(str::to_owned),
        serial: read(disk.join("serial")).or_else(|| read(disk.join("device/serial"))),
        sectors: read(dir.join("size"))?.parse().ok()?,
        removable: read(disk.join("removable")).as_deref() == Some("1"),
        synthetic,
        parent: is_partition.then(|| disk.file_name().and_then(|n| n.to_str()).map(str::to_owned)).flatten(),
        name,
    })
}

/// The state partition among them, or why there is none to be used.
pub(crate) fn choose(devices: &[Device], named: Option<&DiskName>) -> Result<Option<Device>, String> {
    let ours: Vec<&Device> = devices
        .iter()
        .filter(|d| d.partname.as_deref() == Some(STATE_LABEL) && !d.removable && !d.synthetic)
        .filter(|d| named.is_none_or(|n| d.is_named(n)))
        .collect();
    match ours[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => Err(format!(
            "two state partitions: {} and {}; hint: name one on the kernel command line, quorate.state=path:{}",
            first.node(),
            second.node(),
            first.node()
        )),
    }
}

/// Checks and mounts a state partition.
pub(crate) fn mount_state(device: &Device, steps: &mut Steps) -> Result<(), String> {
    let node = device.node();
    let probe = steps.read(&["/usr/sbin/blkid", "-p", "-o", "export", &node])?;
    let has =
        |key: &str, value: &str| probe.lines().any(|l| l.split_once('=').is_some_and(|(k, v)| k == key && v == value));
    if !has("PART_ENTRY_TYPE", STATE_TYPE) || !has("LABEL", STATE_LABEL) || !has("TYPE", "ext4") {
        return Err(format!("{node} is named {STATE_LABEL}, but is no ext4 of that label and our partition type"));
    }
    // 1: errors were corrected. More than that is not for a machine to decide.
    match steps.read(&["/usr/sbin/e2fsck", "-p", &node]) {
        Ok(_) => {}
        Err(e) if e.ends_with("exit status 1") => {
            log::say(&format!("{node}: errors in the file system were corrected"));
        }
        Err(e) => return Err(format!("checking {node}: {e}; hint: its data must be repaired or restored by hand")),
    }
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    // The reserve (ext4(5), `resuid`) is etcd's, and of whoever has CAP_SYS_RESOURCE: PID 1's children, no pod's process, root
    // or not, on a volume. What a pod writes beside its volumes is written for containerd, by the kernel's overlayfs.
    let options = format!("errors=remount-ro,resuid={}", contract::users::ETCD);
    mount(Some(node.as_str()), VAR, Some("ext4"), flags, Some(options.as_str()))
        .map_err(|e| format!("mounting {node}: {e}"))
}

/// Takes the disk that the configuration names: blank, or told to wipe it.
pub(crate) fn take(disk: &Device, wipe: bool, steps: &mut Steps) -> Result<(), String> {
    let node = disk.node();
    let on_it = |d: &&Device| d.parent.as_deref() == Some(&disk.name);
    let all = devices();
    if let Some(ours) = all.iter().filter(on_it).find(|d| d.partname.as_deref() == Some(STATE_LABEL)) {
        return Err(format!("{node} carries the partition {STATE_LABEL} ({}) already: it is never wiped", ours.node()));
    }
    let blank = is_blank(&node, disk.bytes(), steps)?;
    if !blank && !wipe {
        return Err(format!("{node} is not blank; expected a blank disk, or `wipe: true` under quorate.state"));
    }
    log::say(&format!("{node}: partitioning and formatting ({} MB)", disk.bytes() / 1_000_000));
    steps
        .feed(&["/usr/sbin/sfdisk", "--quiet", "--wipe=always", "--wipe-partitions=always", &node], &sfdisk_script())?;
    let partition = steps.wait_for(&format!("the partition on {node}"), || {
        devices().into_iter().find(|d| d.parent.as_deref() == Some(&disk.name))
    })?;
    let reserved = reserved(partition.bytes());
    steps.read(&["/usr/sbin/mkfs.ext4", "-q", "-m", &reserved, "-L", STATE_LABEL, "-F", &partition.node()])?;
    mount_state(&partition, steps)
}

/// The reserve of a partition of so many bytes, as mke2fs(8) wants it: per cent, with a fraction.
fn reserved(bytes: u64) -> String {
    let hundredths = (RESERVE * 10_000).checked_div(bytes).unwrap_or(0).min(RESERVE_PERCENT * 100);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn is_blank(node: &str, bytes: u64, steps: &mut Steps) -> Result<bool, String> {
    // blkid ends with 2 when it recognises nothing.
    match steps.read(&["/usr/sbin/blkid", "-p", node]) {
        Err(e) if e.ends_with("exit status 2") => {}
        Err(e) => return Err(e),
        Ok(_) => return Ok(false),
    }
    let mut file = File::open(node).map_err(|e| format!("{node}: {e}"))?;
    for from in [0, bytes.saturating_sub(BLANK)] {
        let mut buffer = vec![0; usize::try_from(BLANK.min(bytes)).unwrap_or(0)];
        let read = file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(&mut buffer));
        read.map_err(|e| format!("{node}: {e}"))?;
        if buffer.iter().any(|b| *b != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_a_part_of_small_disks_and_bounded_on_large_ones() {
        let of = [0, 200 << 20, 8 << 30, 1 << 40].map(reserved);
        assert_eq!(of, ["0.00", "5.00", "3.12", "0.02"]);
    }

    fn partition(name: &str, partname: Option<&str>, removable: bool) -> Device {
        Device {
            name: name.into(),
            partname: partname.map(String::from),
            serial: Some(format!("serial-{name}")),
            sectors: 2048,
            removable,
            synthetic: false,
            parent: Some(name.trim_end_matches(char::is_numeric).into()),
        }
    }

    #[test]
    fn exactly_one_that_is_ours() {
        let ours = partition("vda1", Some(STATE_LABEL), false);
        let other = partition("vdb1", Some("data"), false);
        let stick = partition("sda1", Some(STATE_LABEL), true);
        let second = partition("vdc1", Some(STATE_LABEL), false);
        assert_eq!(choose(&[other.clone(), stick.clone()], None), Ok(None));
        assert_eq!(choose(&[other, ours.clone(), stick], None), Ok(Some(ours.clone())));
        let e = choose(&[ours.clone(), second.clone()], None).expect_err("two");
        assert!(e.contains("/dev/vda1 and /dev/vdc1"), "{e}");
        let both = [ours, second.clone()];
        assert_eq!(choose(&both, Some(&DiskName::Path("/dev/vdc".into()))), Ok(Some(second.clone())));
        assert_eq!(choose(&both, Some(&DiskName::Serial("serial-vdc1".into()))), Ok(Some(second)));
    }

    #[test]
    fn reads_sysfs() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = dir.path().join("devices/pci/block/vda");
        fs::create_dir_all(disk.join("vda1")).expect("made");
        for (path, text) in [
            ("size", "4096\n"),
            ("serial", "abc\n"),
            ("removable", "0\n"),
            ("uevent", "DEVNAME=vda\n"),
            ("vda1/size", "2048\n"),
            ("vda1/partition", "1\n"),
            ("vda1/uevent", "PARTN=1\nPARTNAME=quorate-state\n"),
        ] {
            fs::write(disk.join(path), text).expect("written");
        }
        let class = dir.path().join("class");
        fs::create_dir(&class).expect("made");
        std::os::unix::fs::symlink(&disk, class.join("vda")).expect("linked");
        std::os::unix::fs::symlink(disk.join("vda1"), class.join("vda1")).expect("linked");
        let found = devices_at(&class);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].partname.as_deref(), Some(STATE_LABEL));
        assert_eq!((found[1].serial.as_deref(), found[1].parent.as_deref()), (Some("abc"), Some("vda")));
        assert!(choose(&found, None).expect("one").is_some());
    }
}

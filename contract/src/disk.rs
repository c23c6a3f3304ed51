//! The state disk: GPT, one partition from 1 MiB to the end.

/// Partition label and ext4 label.
pub const STATE_LABEL: &str = "quorate-state";
/// Partition type linux-generic (Discoverable Partitions Specification, UAPI.2), lower case as sysfs and blkid print it.
pub const STATE_TYPE: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
/// A seed medium is small: larger devices are never offered to the metadata agent. Bytes.
pub const SEED_MAX_BYTES: u64 = 16 << 20;

/// The `sfdisk` script that partitions a blank disk.
pub fn sfdisk_script() -> String {
    format!("label: gpt\nstart=1MiB, type={STATE_TYPE}, name=\"{STATE_LABEL}\"\n")
}

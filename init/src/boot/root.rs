//! From the initramfs to the real root: `root.img` checked, mounted through a loop device, made `/`.

use super::{Stop, mounts};
use crate::sys::loop_device;
use contract::image::ImageInfo;
use contract::paths::{NEW_ROOT, initrd};
use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// What the builder said this image is.
pub(crate) fn image_info() -> Result<ImageInfo, Stop> {
    let path = format!("/{}", initrd::IMAGE_JSON);
    let text = fs::read_to_string(&path).map_err(|e| {
        Stop::new("reading image.json", "it beside /init in the initramfs", e, "boot with the initrd of the same build")
    })?;
    serde_json::from_str(&text).map_err(|e| {
        Stop::new("reading image.json", "what this init knows", e, "init and image are of different builds")
    })
}

/// RAM that the kernel keeps for itself and does not count: its own image, page structures.
const UNCOUNTED_MIB: u64 = 64;
/// So much of a squashfs is never zeros; it is padded to 4 KiB only.
const END: u64 = 64 << 10;

/// Stops a machine that is too small: it would boot, and then kill its services one after the other.
pub(crate) fn check_ram(image: &ImageInfo) -> Result<(), Stop> {
    let total = total_ram_mib();
    if total + UNCOUNTED_MIB < image.min_ram_mib {
        let expected = format!("{} MiB for this image", image.min_ram_mib);
        return Err(Stop::new(
            "too little RAM",
            &expected,
            format!("{total} MiB usable"),
            "give the machine more memory",
        ));
    }
    Ok(())
}

fn ram(image: &ImageInfo) -> String {
    format!("this machine has {} MiB usable, this image needs {} MiB in all", total_ram_mib(), image.min_ram_mib)
}

fn ends_in_zeros(path: &str, length: u64) -> bool {
    use std::io::{Seek, SeekFrom};
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
        let mut end = Vec::new();
        file.take(END).read_to_end(&mut end)?;
        Ok(end)
    };
    read().is_ok_and(|end| end.iter().all(|b| *b == 0))
}

/// Checks length and digest: a kernel short of RAM unpacks a part of the initramfs and goes on.
pub(crate) fn check(image: &ImageInfo) -> Result<(), Stop> {
    let path = format!("/{}", initrd::ROOT_IMG);
    let found = fs::metadata(&path).map(|m| m.len()).unwrap_or(0);
    if found != image.root.bytes {
        let hint = format!("a truncated download, or too little RAM: {}", ram(image));
        return Err(Stop::new("root.img is incomplete", &format!("{} bytes", image.root.bytes), found, &hint));
    }
    let digest = sha256(&path).map_err(|e| Stop(format!("reading root.img: {e}")))?;
    if digest != image.root.sha256 && ends_in_zeros(&path, found) {
        // The kernel gives the file its full length before it unpacks it.
        let hint = format!("a truncated download, or too little RAM: {}", ram(image));
        return Err(Stop::new("root.img is incomplete", "its end", "zeros", &hint));
    }
    if digest != image.root.sha256 {
        return Err(Stop::new(
            "root.img is damaged",
            &format!("sha256 {}", image.root.sha256),
            digest,
            "a damaged download, or bad RAM",
        ));
    }
    Ok(())
}

fn sha256(path: &str) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// MemTotal, MiB; 0 when it cannot be read.
fn total_ram_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Mounts the squashfs and makes it the root. The initramfs cannot be unmounted; what it holds beside `root.img` is
/// removed, or its memory would be lost.
pub(crate) fn switch() -> Result<(), Stop> {
    let image = format!("/{}", initrd::ROOT_IMG);
    let (device, open) = loop_device::attach(Path::new(&image)).map_err(|e| {
        Stop::new("attaching root.img to a loop device", "the module `loop`", e, "the profile's boot-modules")
    })?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: nix::errno::Errno| Stop(format!("{what}: {e}"))
    };
    fs::create_dir_all(NEW_ROOT).map_err(|e| Stop(format!("making {NEW_ROOT}: {e}")))?;
    mount(Some(&device), NEW_ROOT, Some("squashfs"), MsFlags::MS_RDONLY | MsFlags::MS_NODEV, None::<&str>).map_err(
        |e| {
            Stop::new(
                "mounting root.img",
                "a squashfs that this kernel reads",
                e,
                "the profile's boot-modules need `squashfs`",
            )
        },
    )?;
    drop(open);
    for dir in mounts::MOVED {
        mount(Some(dir), format!("{NEW_ROOT}{dir}").as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(failed(&format!("moving {dir}")))?;
    }
    for file in [initrd::INIT, initrd::IMAGE_JSON] {
        let _ = fs::remove_file(format!("/{file}"));
    }
    let _ = fs::remove_dir_all(format!("/{}", initrd::MODULES));
    // The loop device holds the file; its name is not needed any more.
    let _ = fs::remove_file(&image);
    nix::unistd::chdir(NEW_ROOT).map_err(failed("entering the root"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(failed("moving the root"))?;
    nix::unistd::chroot(".").map_err(failed("changing the root"))?;
    nix::unistd::chdir("/").map_err(failed("entering the root"))?;
    // Pods' mounts must be able to propagate.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
        .map_err(failed("sharing the root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x");
        fs::write(&path, b"abc").expect("written");
        let digest = sha256(path.to_str().expect("a path")).expect("read");
        assert!(digest.starts_with("ba7816bf8f01cfea"));
        assert!(total_ram_mib() > 0);
    }
}

//! The verb `devices`: tells PID 1 which modules devices ask for and when media appear, keeps `/dev/disk/by-*`, and
//! hears the power button, and speaks to the host where there is a port for it.

use crate::channel::Channel;
use crate::disk_names::names;
use crate::uevent::{Fields, Uevents};
use contract::control::{FromAgent, ShutdownKind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

/// `struct input_event` on 64 bits: time, type, code, value (linux/input.h).
const INPUT_EVENT: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// Directories below /sys/devices are at most this deep.
const DEPTH_MAX: usize = 24;

pub(crate) fn run() -> Result<(), String> {
    let mut devices = Devices { channel: Channel, asked: BTreeSet::new(), buttons: Vec::new() };
    // Listening comes first: what appears while the tree is walked is heard, at worst twice.
    let uevents = Uevents::open()?;
    devices.coldplug()?;
    loop {
        let mut fds = vec![PollFd::new(uevents.as_fd(), PollFlags::POLLIN)];
        fds.extend(devices.buttons.iter().map(|b| PollFd::new(b.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(format!("waiting for uevents: {e}")),
        }
        drop(fds);
        loop {
            match uevents.next() {
                Ok(Some(fields)) => devices.event(&fields)?,
                Ok(None) => break,
                Err(()) => devices.coldplug()?,
            }
        }
        devices.buttons()?;
    }
}

struct Devices {
    channel: Channel,
    /// Modaliases that were asked for already.
    asked: BTreeSet<String>,
    /// Input devices.
    buttons: Vec<File>,
}

impl Devices {
    /// Everything that is there now.
    fn coldplug(&mut self) -> Result<(), String> {
        let mut modaliases = Vec::new();
        walk(Path::new("/sys/devices"), 0, &mut modaliases);
        for alias in modaliases {
            self.ask(&alias)?;
        }
        for entry in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
            links(Path::new("/dev"), &entry.path());
        }
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            crate::voice::port(&entry.path(), self.channel);
        }
        for entry in fs::read_dir("/sys/class/input").into_iter().flatten().flatten() {
            self.input(&entry.file_name().to_string_lossy());
        }
        Ok(())
    }

    fn ask(&mut self, modalias: &str) -> Result<(), String> {
        if !modalias.is_empty() && self.asked.insert(modalias.to_owned()) {
            self.channel.say(&FromAgent::Module { modalias: modalias.into() })?;
        }
        Ok(())
    }

    fn event(&mut self, fields: &Fields) -> Result<(), String> {
        let field = |k: &str| fields.get(k).map(String::as_str).unwrap_or_default();
        let (action, subsystem, name) = (field("ACTION"), field("SUBSYSTEM"), field("DEVNAME"));
        if action == "add" {
            self.ask(field("MODALIAS"))?;
        }
        match (subsystem, action) {
            ("block", "add" | "change") => {
                links(Path::new("/dev"), &Path::new("/sys/class/block").join(name.trim_start_matches("/dev/")));
                self.channel.say(&FromAgent::Media { device: name.into() })?;
            }
            ("block", "remove") => remove_links(Path::new("/dev"), name.trim_start_matches("/dev/")),
            // The name of a port comes after the port.
            ("virtio-ports", "add" | "change") => {
                let port = name.rsplit('/').next().unwrap_or_default();
                crate::voice::port(&Path::new("/sys/class/virtio-ports").join(port), self.channel);
            }
            ("input", "add") => self.input(name.rsplit('/').next().unwrap_or_default()),
            _ => {}
        }
        Ok(())
    }

    fn input(&mut self, name: &str) {
        if !name.starts_with("event") {
            return;
        }
        let options = || {
            let mut o = File::options();
            o.read(true).custom_flags(libc::O_NONBLOCK);
            o
        };
        if let Ok(file) = options().open(format!("/dev/input/{name}")) {
            self.buttons.push(file);
        }
    }

    /// Reads what was pressed; a device that is gone is forgotten.
    fn buttons(&mut self) -> Result<(), String> {
        let mut pressed = false;
        self.buttons.retain_mut(|file| {
            let mut event = [0; INPUT_EVENT];
            loop {
                match file.read(&mut event) {
                    Ok(INPUT_EVENT) => pressed |= is_power(&event),
                    Ok(_) => return false,
                    Err(e) => return e.kind() == std::io::ErrorKind::WouldBlock,
                }
            }
        });
        if pressed {
            let why = "the power button".to_owned();
            self.channel.say(&FromAgent::Shutdown { kind: ShutdownKind::Poweroff, why })?;
        }
        Ok(())
    }
}

fn is_power(event: &[u8; INPUT_EVENT]) -> bool {
    let word = |at: usize| u16::from_le_bytes([event[at], event[at + 1]]);
    word(16) == EV_KEY && word(18) == KEY_POWER && event[20..] == [1, 0, 0, 0]
}

fn walk(dir: &Path, depth: usize, modaliases: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(t) if t.is_dir() && depth < DEPTH_MAX => walk(&entry.path(), depth + 1, modaliases),
            Ok(t) if t.is_file() && entry.file_name() == "modalias" => {
                if let Ok(text) = fs::read_to_string(entry.path()) {
                    modaliases.push(text.trim().to_owned());
                }
            }
            _ => {}
        }
    }
}

fn links(dev: &Path, device: &Path) {
    let Some(name) = device.file_name() else { return };
    for link in names(dev, device) {
        let path = dev.join("disk").join(link);
        if let Some(dir) = path.parent() {
            // A link that cannot be made is one name fewer for a disk that has others.
            let _ = fs::create_dir_all(dir);
        }
        let _ = fs::remove_file(&path);
        let _ = symlink(Path::new("../..").join(name), &path);
    }
}

fn remove_links(dev: &Path, name: &str) {
    let target = Path::new("../..").join(name);
    for dir in fs::read_dir(dev.join("disk")).into_iter().flatten().flatten() {
        for link in fs::read_dir(dir.path()).into_iter().flatten().flatten() {
            if fs::read_link(link.path()).is_ok_and(|t| t == target) {
                let _ = fs::remove_file(link.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = dir.path().join("devices/pci0000:00/0000:00:05.0/virtio2/block/vdb");
        fs::create_dir_all(disk.join("vdb1")).expect("made");
        fs::write(disk.join("vdb1/partition"), "1\n").expect("written");
        fs::write(disk.join("vdb1/uevent"), "PARTNAME=quorate-state\n").expect("written");
        let dev = dir.path().join("dev");
        links(&dev, &disk.join("vdb1"));
        let link = dev.join("disk/by-partlabel/quorate-state");
        assert_eq!(fs::read_link(&link).expect("a link"), Path::new("../../vdb1"));
        remove_links(&dev, "vdb1");
        assert!(fs::read_link(&link).is_err());
    }

    #[test]
    fn the_power_key_alone_counts() {
        let mut event = [0; INPUT_EVENT];
        event[16] = 1;
        event[18] = 116;
        event[20] = 1;
        assert!(is_power(&event));
        event[18] = 115;
        assert!(!is_power(&event));
    }
}

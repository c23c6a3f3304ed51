//! Which source counts. A source is chosen by positive local identification, never by trying addresses in turn.
//!
//! A platform is what differs between platforms: its name, what identifies it, and which of the things read there is
//! which part of the seed. To add one: a file beside `nocloud.rs`, and a row in [`PLATFORMS`].

mod nocloud;

use crate::assemble::Files;
use crate::seed_media::Medium;
use contract::cmdline::{Cmdline, DiskName, NoCloudLine, nocloud_line};
use std::collections::BTreeMap;

/// What can be known without a network.
#[derive(Debug)]
pub struct Evidence {
    /// The command line.
    pub cmdline: Cmdline,
    /// cloud-init's line, from the command line or else from the SMBIOS serial number.
    pub line: Option<NoCloudLine>,
    /// Media by device node.
    pub media: BTreeMap<String, Medium>,
}

impl Evidence {
    /// Puts together what was read.
    pub fn new(cmdline: &str, dmi_serial: &str, media: BTreeMap<String, Medium>) -> Self {
        let cmdline = contract::cmdline::parse(cmdline);
        let line = cmdline.nocloud.clone().or_else(|| nocloud_line(dmi_serial));
        Self { cmdline, line, media }
    }
}

/// Where a seed is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a medium that was read already.
    Medium(String),
    /// Below a URL: these files, each with whether it must be there.
    Url {
        /// With its trailing slash.
        base: String,
        /// Name and whether it is required.
        files: &'static [(&'static str, bool)],
        /// Pinned sha256 of `user-data`.
        sha256: Option<String>,
    },
}

/// A source of seeds.
pub trait Platform: Sync {
    /// Its name in `quorate.ds=` and in reports.
    fn name(&self) -> &'static str;
    /// Where its seed would be, if this is it; several places are an error that names them all.
    fn identify(&self, evidence: &Evidence) -> Result<Option<Place>, String>;
    /// Which of the things read is which part of the seed.
    fn files(&self, read: BTreeMap<String, Vec<u8>>) -> Files;
}

/// All platforms, best first.
pub const PLATFORMS: &[&dyn Platform] = &[&nocloud::NoCloud];

/// The source that counts, or why there is none.
pub fn choose(evidence: &Evidence) -> Result<Option<(&'static dyn Platform, Place)>, String> {
    if let Some(only) = &evidence.cmdline.source {
        let known = PLATFORMS.iter().find(|p| p.name() == only);
        let Some(platform) = known else {
            let names: Vec<_> = PLATFORMS.iter().map(|p| p.name()).collect();
            return Err(format!("quorate.ds={only}: expected one of {}", names.join(", ")));
        };
        return Ok(platform.identify(evidence)?.map(|place| (*platform, place)));
    }
    for platform in PLATFORMS {
        if let Some(place) = platform.identify(evidence)? {
            return Ok(Some((*platform, place)));
        }
    }
    Ok(None)
}

/// Whether a device is the one a `quorate.seed=` names. A serial number is resolved before media are read.
pub(crate) fn is_named(device: &str, name: &DiskName) -> bool {
    match name {
        DiskName::Path(p) => p == device,
        DiskName::Serial(_) => true,
    }
}

//! What a node reports of its boot: `/run/quorate/boot.json`. Times are milliseconds of CLOCK_BOOTTIME.

use serde::{Deserialize, Serialize};

/// The boot report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootReport {
    /// Schema of this file: 1.
    pub version: u32,
    /// The image.
    pub image: Image,
    /// Roles the node runs; empty in maintenance mode.
    pub roles: Vec<String>,
    /// Where the seed came from.
    pub source: String,
    /// Stages in the order they began.
    pub stages: Vec<Stage>,
    /// Services in the order of the plan.
    pub services: Vec<ServiceReport>,
    /// What was odd.
    pub notices: Vec<Notice>,
}

/// The image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Profile name.
    pub name: String,
    /// Image version.
    pub version: String,
}

/// A stage of the boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Began.
    pub start_ms: u64,
    /// Ended.
    pub end_ms: u64,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// What it needs.
    pub needs: Vec<String>,
    /// Conditions that it brings about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// Last started.
    pub start_ms: Option<u64>,
    /// Ready since.
    pub ready_ms: Option<u64>,
    /// How often it was restarted.
    pub restarts: u32,
    /// Why it last ended, with its last lines.
    pub last: String,
}

/// Something odd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// `info`, `warning` or `error`.
    pub level: String,
    /// For people.
    pub text: String,
}

//! The boot report: stages and services with their times since kernel start, on the console as they happen and as JSON
//! in `/run/quorate/boot.json`.

use crate::boot::clock::boottime_ms;
use crate::boot::log;
use crate::supervise::step::{State, Supervisor};
use contract::image::ImageInfo;
use contract::report::{BootReport, Image, Notice, ServiceReport, Stage};
use std::collections::BTreeMap;
use std::path::Path;

/// Notices kept; a node in trouble must not fill its memory with words.
const NOTICES_MAX: usize = 200;

/// What is known so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    body: BootReport,
    services: BTreeMap<String, ServiceReport>,
    /// Something is not in the file yet.
    changed: bool,
}

impl Report {
    /// Runs a stage and notes its times.
    pub(crate) fn stage<T, E>(&mut self, name: &str, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start_ms = boottime_ms();
        let result = run();
        self.staged(name, start_ms, result.is_ok());
        result
    }

    /// Notes a stage that began at `start_ms` and ends now.
    pub(crate) fn staged(&mut self, name: &str, start_ms: u64, ok: bool) {
        let end_ms = boottime_ms();
        if ok {
            log::say(&format!("{name} ok ({} ms)", end_ms - start_ms));
        }
        self.changed = true;
        self.body.stages.push(Stage { name: name.into(), start_ms, end_ms });
    }

    /// What this image is.
    pub(crate) fn image(&mut self, image: &ImageInfo) {
        self.body.version = 1;
        self.body.image = Image { name: image.name.clone(), version: image.version.clone() };
    }

    /// What this node is.
    pub(crate) fn node(&mut self, roles: Vec<String>, source: &str) {
        self.changed = true;
        self.body.roles = roles;
        self.body.source = source.into();
    }

    /// Something odd: on the console and in the report.
    pub(crate) fn notice(&mut self, level: &str, text: &str) {
        match level {
            "info" => log::debug(text),
            _ => log::say(text),
        }
        let notice = Notice { level: level.into(), text: text.into() };
        if self.body.notices.len() < NOTICES_MAX && self.body.notices.last() != Some(&notice) {
            self.changed = true;
            self.body.notices.push(notice);
        }
    }

    fn service(&mut self, name: &str) -> &mut ServiceReport {
        self.changed = true;
        self.services.entry(name.into()).or_insert_with(|| ServiceReport { name: name.into(), ..Default::default() })
    }

    /// A service was started.
    pub(crate) fn started(&mut self, name: &str) {
        let s = self.service(name);
        s.start_ms = Some(boottime_ms());
        s.ready_ms = None;
    }

    /// A service is ready.
    pub(crate) fn ready(&mut self, name: &str) {
        self.service(name).ready_ms = Some(boottime_ms());
    }

    /// A service failed.
    pub(crate) fn failed(&mut self, name: &str, why: &str) {
        self.service(name).last = why.into();
    }

    /// Writes the JSON when something changed; best effort: a report is not worth a boot.
    pub(crate) fn write(&mut self, supervisor: &Supervisor) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.body.services = supervisor
            .entries
            .iter()
            .map(|e| {
                let mut s = self.services.get(&e.service.name).cloned().unwrap_or_default();
                s.name.clone_from(&e.service.name);
                s.needs.clone_from(&e.service.needs);
                s.provides.clone_from(&e.service.provides);
                s.restarts = e.restarts;
                if !matches!(e.state, State::Running { ready: true, .. } | State::Over) {
                    s.ready_ms = None;
                }
                s
            })
            .collect();
        if let Ok(json) = serde_json::to_vec(&self.body) {
            let _ = crate::boot::write::replace(Path::new(contract::paths::BOOT_JSON), &json, 0o644, 0);
        }
    }
}

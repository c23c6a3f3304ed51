//! `quorate-init`: PID 1. This file is the table of contents of the boot.
//!
//! **May enter:** the boot, supervision, the pure plans of the roles. **May not enter:** parsers of what others wrote (they
//! live in `quorate-agent`, children with limits), TLS, sockets to a network, an async runtime, threads (but for one that
//! bounds the last sync).
//!
//! | question | room |
//! |---|---|
//! | what happens before anything runs in parallel? | `boot/` |
//! | how does it become known what the node is? | `seek.rs` |
//! | what happens when its configuration changes? | `replan.rs` |
//! | what does a role run? | `roles/`, pure |
//! | who starts, watches and ends programs? | `supervise/`: `step.rs` decides, `run.rs` acts, `spawn.rs` alone spawns and waits |
//! | what became of the boot? | `report.rs` |

mod boot;
mod replan;
mod report;
mod roles;
mod seek;
mod steps;
mod supervise;
mod sys;
mod tables;

use boot::{Stop, cgroup, clock, end, log, modules, mounts, panic, root, state};
use contract::paths;
use report::Report;
use std::path::Path;
use steps::Steps;
use supervise::notify::Notify;
use supervise::run::{World, signals};
use supervise::spawn::Reaper;

fn main() {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    if name.ends_with("modprobe") {
        std::process::exit(modules::modprobe(arguments));
    }
    if name.ends_with("/pause") {
        sys::pause::run();
    }
    if let Some("supervise") = arguments.next().as_deref() {
        std::process::exit(tables::supervise(arguments.next()));
    }
    if std::process::id() != 1 {
        eprintln!("quorate-init {}: the PID 1 of a quorate node; it does nothing else", env!("CARGO_PKG_VERSION"));
        std::process::exit(2);
    }
    panic::install();
    if let Err(Stop(why)) = boot() {
        log::emergency(&format!("STOPPED: {why}"));
        panic::stop();
    }
}

/// From the kernel's hand to the end of the machine.
fn boot() -> Result<(), Stop> {
    let mut report = Report::default();
    report.stage("mounts", mounts::early)?;
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default().trim().to_owned();
    let parsed = contract::cmdline::parse(&cmdline);
    log::set_debug(parsed.debug);
    panic::set_stay(parsed.stay_on_panic);
    tables::limits();
    let image = root::image_info()?;
    log::say(&format!("image {} {}", image.name, image.version));
    report.image(&image);
    root::check_ram(&image)?;
    // Modules before the root: loop and squashfs are among them.
    report.stage("modules", modules::boot_set)?;
    report.stage("root check", || root::check(&image))?;
    report.stage("root", root::switch)?;
    report.stage("system mounts", mounts::late)?;
    report.stage("sysctl", tables::sysctl)?;
    clock::raise(image.epoch);
    let cgroups = cgroup::prepare();
    for warning in &parsed.warnings {
        report.notice("warning", &format!("kernel command line: {warning}"));
    }

    // From here on children end, and only the reaper may notice.
    let signals = signals().map_err(|e| Stop(format!("watching signals: {e}")))?;
    let mut reaper = Reaper::default();
    let began = clock::boottime_ms();
    let mut steps = Steps { reaper: &mut reaper, signals: &signals };
    let (state_mounted, state_problem) = match state::choose(&state::devices(), parsed.state.as_ref()) {
        Ok(None) => (false, None),
        Ok(Some(device)) => match state::mount_state(&device, &mut steps) {
            Ok(()) => (true, None),
            Err(e) => (false, Some(e)),
        },
        Err(e) => (false, Some(e)),
    };
    if state_mounted {
        report.staged("state", began, true);
        clock::raise(clock::floor(&[]));
    }

    std::fs::create_dir_all(paths::RUN).map_err(|e| Stop(format!("making {}: {e}", paths::RUN)))?;
    let notify = Notify::at(Path::new(paths::NOTIFY)).map_err(|e| Stop(format!("making the notify socket: {e}")))?;
    let mut world = World::new(signals, notify, cgroups, report, reaper);
    world.supervisor.add(roles::before_the_seed());
    world.node = Some(seek::Node::new(seek::Found { image, cmdline, state_mounted, state_problem }));
    end::orderly(world.run())
}

//! Small things that the boot sets once, and the mode in which only services are supervised.

use crate::boot::{Stop, end, log, panic};
use crate::report::Report;
use crate::supervise::notify::Notify;
use crate::supervise::run::{World, signals};
use crate::supervise::spawn::Reaper;
use contract::service::Service;
use nix::sys::reboot::set_cad_enabled;
use nix::sys::resource::{Resource, setrlimit};
use std::fs;
use std::path::Path;

/// Open files: etcd and HAProxy hold a connection per client.
const FILES: u64 = 1 << 20;

/// Limits that children inherit, and Ctrl-Alt-Del as a signal to PID 1 instead of an instant reset.
pub(crate) fn limits() {
    if let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES) {
        log::say(&format!("raising the limit of open files: {e}"));
    }
    if let Err(e) = set_cad_enabled(false) {
        log::debug(&format!("Ctrl-Alt-Del: {e}"));
    }
}

/// The image's sysctls. One that this kernel lacks is told and passed over.
pub(crate) fn sysctl() -> Result<(), Stop> {
    let text = fs::read_to_string("/usr/lib/sysctl.d/quorate.conf").unwrap_or_default();
    for (key, value) in text.lines().filter_map(|l| l.split_once(" = ")) {
        set(key, value);
    }
    Ok(())
}

/// One setting.
pub(crate) fn set(key: &str, value: &str) {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    if let Err(e) = fs::write(&path, value) {
        log::say(&format!("sysctl {key}: {e}"));
    }
}

/// `quorate-init supervise FILE`: runs the services of a JSON list as PID 1 of a PID namespace, with the very
/// supervisor of a node, and ends the namespace's "machine" as a node would. A cgroup for them may be named in
/// `QUORATE_CGROUP`; the notify socket is `notify` beside the file.
pub(crate) fn supervise(file: Option<String>) -> i32 {
    log::to_stderr();
    let run = || -> Result<World, String> {
        let file = file.ok_or("expected a file with services")?;
        let text = fs::read(&file).map_err(|e| format!("{file}: {e}"))?;
        let services: Vec<Service> = serde_json::from_slice(&text).map_err(|e| format!("{file}: {e}"))?;
        let notify = Notify::at(&Path::new(&file).with_file_name("notify")).map_err(|e| e.to_string())?;
        let cgroups = std::env::var_os("QUORATE_CGROUP").map(Into::into);
        let signals = signals().map_err(|e| e.to_string())?;
        let mut world = World::new(signals, notify, cgroups, Report::default(), Reaper::default());
        world.supervisor.add(services);
        Ok(world)
    };
    if std::process::id() != 1 {
        eprintln!("quorate-init: supervise runs as PID 1 of a namespace: unshare --pid --fork --mount-proc");
        return 2;
    }
    panic::install();
    match run() {
        // In a PID namespace reboot(2) ends the namespace: its parent sees SIGINT for power off, SIGHUP for reboot.
        Ok(world) => {
            let kind = world.run();
            log::say("down");
            end::machine(kind)
        }
        Err(e) => {
            eprintln!("quorate-init: {e}");
            2
        }
    }
}

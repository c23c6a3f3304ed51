//! The event loop: one thread, `poll` over signals, the notify socket, agents' channels, services' output and
//! `cgroup.events`. It decides nothing: events go into [`super::step`], actions come out.

use super::cgroup::{self, Group};
use super::channel::Channel;
use super::notify::Notify;
use super::output::{Forward, Output};
use super::spawn::{Reaper, signal};
use super::step::{Action, Event, State, Supervisor};
use crate::boot::clock::boottime_ms;
use crate::boot::log;
use crate::report::Report;
use contract::control::ShutdownKind;
use contract::service::{Kills, ReloadSignal, StopSignal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};

/// Messages taken from the notify socket in a round: who never stops talking must not keep PID 1 from the rest.
const MESSAGES: usize = 64;
/// Last lines of a failed service that the console gets.
const TAIL: usize = 5;

/// A signal that arrived while a step of the boot waited for its program.
static REMEMBERED: AtomicI32 = AtomicI32::new(0);

/// Keeps a signal other than SIGCHLD for the loop.
pub(crate) fn remember(info: &nix::sys::signalfd::siginfo) {
    let number = i32::try_from(info.ssi_signo).unwrap_or(0);
    if number != libc::SIGCHLD {
        REMEMBERED.store(number, Ordering::Relaxed);
    }
}

/// Blocks the signals that PID 1 reacts to and answers where they arrive. The kernel drops all others for PID 1.
pub(crate) fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for s in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPWR,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        set.add(s);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// What belongs to a running process.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(super) output: Output,
    pub(crate) channel: Option<Channel>,
    pub(super) group: Group,
}

/// Everything that PID 1 holds while it supervises.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) supervisor: Supervisor,
    pub(crate) reaper: Reaper,
    pub(crate) signals: SignalFd,
    pub(crate) report: Report,
    pub(crate) running: BTreeMap<String, Handles>,
    /// Groups whose emptiness is waited for.
    clearing: Vec<(String, File)>,
    pub(super) notify: Notify,
    /// Parent of the services' cgroups.
    pub(super) cgroups: Option<PathBuf>,
    pub(super) forward: Option<Forward>,
    pub(crate) events: VecDeque<Event>,
    /// How the machine ends, once it does.
    pub(crate) ending: Option<ShutdownKind>,
    finished: bool,
    /// What the node is about; nothing where only services are supervised.
    pub(crate) node: Option<crate::seek::Node>,
}

impl World {
    /// Without a service yet.
    pub(crate) fn new(
        signals: SignalFd,
        notify: Notify,
        cgroups: Option<PathBuf>,
        report: Report,
        reaper: Reaper,
    ) -> Self {
        Self {
            supervisor: Supervisor::default(),
            reaper,
            signals,
            report,
            running: BTreeMap::new(),
            clearing: Vec::new(),
            notify,
            cgroups,
            forward: None,
            events: VecDeque::new(),
            ending: None,
            finished: false,
            node: None,
        }
    }

    /// Supervises until the shutdown is complete.
    pub(crate) fn run(mut self) -> ShutdownKind {
        self.events.push_back(Event::Tick);
        loop {
            self.reap();
            self.drain_events();
            self.seek_due();
            self.report.write(&self.supervisor);
            if self.finished {
                return self.ending.unwrap_or(ShutdownKind::Poweroff);
            }
            self.wait();
            self.events.push_back(Event::Tick);
        }
    }

    /// Waits for something to happen and takes it in.
    fn wait(&mut self) {
        // A node that ends looks for nothing any more: a moment that is past would make this wait return at once.
        let node = self.node.as_ref().filter(|_| self.ending.is_none());
        let due = [self.supervisor.deadline(), node.and_then(crate::seek::Node::due)].into_iter().flatten().min();
        let timeout = match due {
            _ if !self.events.is_empty() => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(at) => PollTimeout::try_from(at.saturating_sub(boottime_ms())).unwrap_or(PollTimeout::MAX),
        };
        let names: Vec<String> = self.running.keys().cloned().collect();
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.notify.as_fd(), PollFlags::POLLIN),
        ];
        for handles in self.running.values().filter(|h| !h.output.closed) {
            fds.push(PollFd::new(handles.output.as_fd(), PollFlags::POLLIN));
        }
        for (_, events) in &self.clearing {
            fds.push(PollFd::new(events.as_fd(), PollFlags::POLLPRI));
        }
        let channels: Vec<&String> = names.iter().filter(|n| self.running[*n].channel.is_some()).collect();
        for name in &channels {
            if let Some(channel) = &self.running[*name].channel {
                fds.push(PollFd::new(channel.as_fd(), PollFlags::POLLIN));
            }
        }
        // An interrupted wait is one in which nothing happened.
        let _ = poll(&mut fds, timeout);
        drop(fds);
        self.take_signals();
        for _ in 0..MESSAGES {
            let Some((pid, said)) = self.notify.receive() else { break };
            let service = cgroup::service_of(pid).or_else(|| self.reaper.service_of(pid).map(String::from));
            if let Some(service) = service {
                if let Some(status) = said.status {
                    log::debug(&format!("{service}: {status}"));
                }
                if said.ready {
                    self.events.push_back(Event::Notified { service });
                }
            }
        }
        for name in names {
            self.read_output(&name);
            self.read_channel(&name);
        }
        let clearing = std::mem::take(&mut self.clearing);
        for (service, mut events) in clearing {
            if cgroup::is_empty(&mut events) {
                self.events.push_back(Event::Empty { service });
            } else {
                self.clearing.push((service, events));
            }
        }
    }

    /// TERM, PWR and USR2 power off; INT (Ctrl-Alt-Del) and USR1 reboot; QUIT is a panic on request, which shows that the
    /// last words reach the console.
    fn take_signals(&mut self) {
        let mut numbers = vec![REMEMBERED.swap(0, Ordering::Relaxed)];
        while let Ok(Some(info)) = self.signals.read_signal() {
            numbers.push(i32::try_from(info.ssi_signo).unwrap_or(0));
        }
        for number in numbers {
            match number {
                libc::SIGTERM | libc::SIGPWR | libc::SIGUSR2 => self.shut_down(ShutdownKind::Poweroff, "a signal"),
                libc::SIGINT | libc::SIGUSR1 => self.shut_down(ShutdownKind::Reboot, "a signal"),
                #[expect(clippy::panic, reason = "asked for")]
                libc::SIGQUIT => panic!("on request (SIGQUIT)"),
                _ => {}
            }
        }
    }

    /// Begins the end; the first word counts.
    pub(crate) fn shut_down(&mut self, kind: ShutdownKind, why: &str) {
        if self.ending.is_none() {
            log::say(&format!("shutting down ({kind:?}): {why}"));
            self.ending = Some(kind);
            self.events.push_back(Event::Shutdown);
        }
    }

    fn reap(&mut self) {
        for (name, how) in self.reaper.reap() {
            self.read_output(&name);
            self.read_channel(&name);
            if self.supervisor.entries.iter().any(|e| e.service.name == name) {
                self.events.push_back(Event::Exited { service: name, how });
            } else {
                self.running.remove(&name);
                self.metadata_ended(&how);
            }
        }
        for (service, by) in std::mem::take(&mut self.reaper.suspended) {
            self.events.push_back(match by {
                Some(by) => {
                    self.report.notice("warning", &format!("{service} was stopped by {by}"));
                    Event::Suspended { service }
                }
                None => Event::Continued { service },
            });
        }
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let mut exited = match &event {
                Event::Exited { service, .. } | Event::SpawnFailed { service, .. } => Some(service.clone()),
                _ => None,
            };
            for action in self.supervisor.step(boottime_ms(), &event) {
                // What belonged to the process that ended goes before a new one of the same service comes.
                if let Action::Spawn { service } | Action::After { service } | Action::Farewell { service } = &action
                    && let Some(ended) = exited.take_if(|e| e == service)
                {
                    self.clear(ended);
                }
                self.act(action);
            }
            if let Some(service) = exited {
                self.clear(service);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn { service } => self.spawn_named(&service),
            Action::After { service } => self.spawn_after(&service, |s| s.after.clone()),
            Action::Farewell { service } => self.spawn_after(&service, |s| s.farewell.clone()),
            Action::Terminate { service } => {
                if let Some(pid) = self.reaper.pid_of(&service) {
                    signal(pid, self.stop_signal(&service));
                    // A stopped process hears nothing until it goes on.
                    signal(pid, Signal::SIGCONT);
                }
            }
            Action::Kill { service, whole } => self.kill(&service, whole),
            Action::Reload { service } => {
                if let (Some(pid), Some(wanted)) = (self.reaper.pid_of(&service), self.reload_signal(&service)) {
                    signal(pid, wanted);
                }
            }
            Action::Ready { service, after } => {
                log::say(&format!("{service} ready ({after} ms)"));
                self.report.ready(&service);
                self.tell_agents(&service, true);
            }
            Action::Failed { service, why, again } => {
                let tail = self.running.get(&service).map(|h| h.output.tail(TAIL)).unwrap_or_default();
                log::say(&format!("{service} failed: {why}; again in {again} ms"));
                tail.iter().for_each(|line| log::say(&format!("  {service} | {line}")));
                self.report.failed(&service, &format!("{why}: {}", tail.join("\n")));
                self.tell_agents(&service, false);
            }
            Action::Distrusts { service, other, good } => {
                let text = format!("{service} waits until {other}, which keeps failing, has run for {} s", good / 1000);
                self.report.notice("warning", &text);
            }
            Action::AllReady => {
                if self.node.as_ref().is_none_or(crate::seek::Node::is_running) {
                    log::say(&format!("all ready ({} ms since the kernel started)", boottime_ms()));
                    self.tell_memory();
                }
            }
            Action::Finished => self.finished = true,
        }
    }

    /// How much PID 1 and each service take, shared pages counted in shares: for whoever debugs or measures.
    fn tell_memory(&self) {
        let pss = |pid: i32| -> Option<u64> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            text.lines().find_map(|l| l.strip_prefix("Pss:"))?.split_whitespace().next()?.parse().ok()
        };
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let of = |key: &str| -> Option<u64> {
            text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
        };
        let used = of("MemTotal:").zip(of("MemAvailable:"));
        let used = used.map(|(total, free)| format!("node {} kB of {total} kB", total.saturating_sub(free)));
        let own = used.into_iter().chain(pss(1).map(|kb| format!("init {kb} kB")));
        let services = self.running.keys().filter_map(|n| Some(format!("{n} {} kB", pss(self.reaper.pid_of(n)?)?)));
        let all: Vec<String> = own.chain(services).collect();
        log::debug(&format!("memory {}", all.join(", ")));
    }

    fn stop_signal(&self, service: &str) -> Signal {
        let entry = self.supervisor.entries.iter().find(|e| e.service.name == service);
        match entry.map(|e| e.service.stop) {
            Some(StopSignal::Usr1) => Signal::SIGUSR1,
            Some(StopSignal::Term) | None => Signal::SIGTERM,
        }
    }

    fn reload_signal(&self, service: &str) -> Option<Signal> {
        let entry = self.supervisor.entries.iter().find(|e| e.service.name == service)?;
        entry.service.reload.map(|r| match r {
            ReloadSignal::Hup => Signal::SIGHUP,
            ReloadSignal::Usr2 => Signal::SIGUSR2,
        })
    }

    pub(super) fn kill(&mut self, service: &str, whole: bool) {
        let by_group = whole && self.running.get(service).is_some_and(|h| h.group.kill());
        if let Some(pid) = self.reaper.pid_of(service).filter(|_| !by_group) {
            signal(if whole { -pid } else { pid }, Signal::SIGKILL);
            signal(pid, Signal::SIGKILL);
        }
    }

    /// After its process ended: waits until nothing of a service is left.
    fn clear(&mut self, service: String) {
        let entry = self.supervisor.entries.iter().find(|e| e.service.name == service);
        let whole = entry.is_some_and(|e| e.service.kills == Kills::Cgroup);
        if self.ending.is_some() && entry.is_some_and(|e| matches!(e.state, State::Clearing { .. })) {
            log::say(&format!("{service} stopped"));
        }
        let events = self.running.remove(&service).and_then(|h| h.group.events()).filter(|_| whole);
        if let Some(mut events) = events
            && !cgroup::is_empty(&mut events)
        {
            // Reading it armed the poll: a change from now on is reported.
            self.clearing.push((service, events));
        } else {
            self.events.push_back(Event::Empty { service });
        }
    }

    fn read_output(&mut self, name: &str) {
        let Some(handles) = self.running.get_mut(name) else { return };
        let lines = handles.output.read();
        for line in lines {
            log::debug(&format!("{name} | {line}"));
            if let Some(forward) = self.forward.as_mut().filter(|_| name != LOG_AGENT) {
                forward.line(name, &line);
            }
        }
    }

    /// Whether a service's process runs.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.supervisor.entries.iter().any(|e| e.service.name == name && matches!(e.state, State::Running { .. }))
    }
}

/// The agent that writes logs.
pub(super) const LOG_AGENT: &str = "log";

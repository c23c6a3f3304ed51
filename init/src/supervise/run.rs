//! The event loop: one thread, `poll` over signals, the notify socket, agents' channels, services' output and
//! `cgroup.events`. It decides nothing: events go into [`super::step`], actions come out.

use super::cgroup::{self, Group};
use super::channel::{self, Channel, Received};
use super::notify::Notify;
use super::output::{Forward, Output, pipe};
use super::spawn::{Io, Reaper, signal};
use super::step::{Action, Event, State, Supervisor};
use crate::boot::clock::boottime_ms;
use crate::boot::log;
use crate::report::Report;
use contract::control::{FromAgent, ShutdownKind, ToAgent};
use contract::kube::CONTROL_PLANE;
use contract::service::{Kills, ReloadSignal, Service, StopSignal};
use contract::voice::ServiceSignal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};

/// Messages taken from one agent, or from the notify socket, in a round: one that never stops talking must not keep PID 1 from the rest.
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
    output: Output,
    pub(crate) channel: Option<Channel>,
    group: Group,
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
    notify: Notify,
    /// Parent of the services' cgroups.
    cgroups: Option<PathBuf>,
    forward: Option<Forward>,
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

    /// The host's signal to every process of a service; the error says why there was nobody to signal.
    fn signal_all(&mut self, service: &str, wanted: ServiceSignal) -> Result<(), String> {
        let in_a_pod = CONTROL_PLANE.iter().any(|c| c.name == service);
        let Some(handles) = self.running.get(service).map(Some).or_else(|| in_a_pod.then_some(None)) else {
            return Err(format!("{service} does not run"));
        };
        let wanted = match wanted {
            ServiceSignal::Kill => Signal::SIGKILL,
            ServiceSignal::Term => Signal::SIGTERM,
            ServiceSignal::Stop => Signal::SIGSTOP,
            ServiceSignal::Cont => Signal::SIGCONT,
        };
        // What outlives a service is not the service: a container's shim in containerd's group.
        let whole =
            self.supervisor.entries.iter().any(|e| e.service.name == service && e.service.kills == Kills::Cgroup);
        let pids = match handles {
            Some(handles) if whole => handles.group.pids(),
            Some(_) => vec![],
            None => super::processes::of(service),
        };
        let pids: Vec<i32> = pids.into_iter().chain(self.reaper.pid_of(service)).collect();
        if pids.is_empty() {
            return Err(format!("no process of {service} is there"));
        }
        pids.into_iter().for_each(|pid| signal(pid, wanted));
        log::say(&format!("{wanted} for {service}, from the host"));
        Ok(())
    }

    fn kill(&mut self, service: &str, whole: bool) {
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

    fn spawn_named(&mut self, name: &str) {
        let Some(entry) = self.supervisor.entries.iter().find(|e| e.service.name == name) else { return };
        let service = entry.service.clone();
        if let Err(why) = self.spawn(&service) {
            self.events.push_back(Event::SpawnFailed { service: name.into(), why });
        }
    }

    /// Starts the program that follows a service's end.
    fn spawn_after(&mut self, name: &str, command: impl Fn(&Service) -> Vec<String>) {
        let Some(entry) = self.supervisor.entries.iter().find(|e| e.service.name == name) else { return };
        let service = Service {
            command: command(&entry.service),
            user: contract::users::ROOT,
            agent: false,
            environment_from: None,
            ..entry.service.clone()
        };
        if let Err(why) = self.spawn_process(&service) {
            self.events.push_back(Event::SpawnFailed { service: name.into(), why });
        }
    }

    /// Starts a service's process with all that belongs to it.
    pub(crate) fn spawn(&mut self, service: &Service) -> Result<(), String> {
        self.spawn_process(service)?;
        self.report.started(&service.name);
        self.greet(&service.name);
        Ok(())
    }

    fn spawn_process(&mut self, service: &Service) -> Result<(), String> {
        let io_error = |what: &str| {
            let what = what.to_owned();
            move |e: std::io::Error| format!("{what}: {e}")
        };
        let mut env = vec![("NOTIFY_SOCKET".to_owned(), self.notify.path().to_owned())];
        if let Some(path) = &service.environment_from {
            env.extend(environment(&std::fs::read_to_string(path).map_err(io_error(path))?));
        }
        let group = Group::make(self.cgroups.as_deref(), &service.name, service.memory_max, service.pids_max);
        let group = group.map_err(io_error("making its cgroup"))?;
        let (reader, writer) = pipe().map_err(io_error("making its output"))?;
        let (channel, theirs) = match service.agent {
            true => channel::pair().map(|(a, b)| (Some(a), Some(b))).map_err(io_error("making its channel"))?,
            false => (None, None),
        };
        let stdin = if service.name == LOG_AGENT {
            let (forward, reader) = Forward::new().map_err(io_error("making the log's pipe"))?;
            self.forward = Some(forward);
            Some(reader)
        } else {
            None
        };
        let io = Io { stdin, output: writer, channel: theirs };
        self.reaper.spawn(service, &env, io, &group).map_err(io_error(&service.command[0]))?;
        let handles = Handles { output: Output::new(reader), channel, group };
        self.running.insert(service.name.clone(), handles);
        Ok(())
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

    fn read_channel(&mut self, name: &str) {
        for _ in 0..MESSAGES {
            let Some(channel) = self.running.get(name).and_then(|h| h.channel.as_ref()) else { return };
            match channel.receive() {
                Received::Message(message) if may_say(name, &message) => self.heard(name, *message),
                Received::Message(message) => self.misbehaved(name, &format!("said {message:?}")),
                Received::Garbage(why) => self.misbehaved(name, &format!("said what is no message: {why}")),
                Received::Nothing => return,
                Received::Closed => {
                    if let Some(h) = self.running.get_mut(name) {
                        h.channel = None;
                    }
                }
            }
        }
    }

    fn misbehaved(&mut self, name: &str, what: &str) {
        self.report.notice("error", &format!("the agent {name} {what}: it is ended"));
        if let Some(h) = self.running.get_mut(name) {
            h.channel = None;
        }
        self.kill(name, true);
    }

    fn tell_agents(&self, service: &str, ready: bool) {
        let message = ToAgent::Service { name: service.into(), ready };
        // Only the agent that looks after the node's services asks for this.
        if let Some(channel) = self.running.get(NODE_AGENT).and_then(|h| h.channel.as_ref()) {
            channel.send(&message);
        }
    }

    /// What an agent said that is not about seeds.
    fn heard(&mut self, name: &str, message: FromAgent) {
        match message {
            FromAgent::Done { condition } => self.events.push_back(Event::Done { condition }),
            FromAgent::Notice { text } => self.report.notice("warning", &format!("{name}: {text}")),
            FromAgent::Tell { text } => log::say(&format!("{name}: {text}")),
            FromAgent::Signal { service, signal } => {
                let problem = self.signal_all(&service, signal).err();
                if let Some(channel) = self.running.get(name).and_then(|h| h.channel.as_ref()) {
                    channel.send(&ToAgent::Signalled { problem });
                }
            }
            FromAgent::Clock { seconds } => crate::boot::clock::step(seconds),
            FromAgent::Replan => self.replan(),
            FromAgent::Fault { service, why } => self.events.push_back(Event::Fault { service, why }),
            FromAgent::Shutdown { kind, why } => self.shut_down(kind, &why),
            FromAgent::Module { modalias } => self.load_module(&modalias),
            FromAgent::Media { .. } => self.look_again(),
            FromAgent::Seed { seed } => self.seed_found(*seed),
            FromAgent::NoSeed { why } => self.no_seed(why),
        }
    }

    /// Whether a service's process runs.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.supervisor.entries.iter().any(|e| e.service.name == name && matches!(e.state, State::Running { .. }))
    }
}

/// The agent that writes logs.
const LOG_AGENT: &str = "log";
/// The agent that looks after the node.
const NODE_AGENT: &str = "node";

/// Who may say what: an agent that parses foreign bytes must not be able to end the machine.
fn may_say(name: &str, message: &FromAgent) -> bool {
    match message {
        FromAgent::Notice { .. } | FromAgent::Tell { .. } => true,
        FromAgent::Signal { .. } | FromAgent::Clock { .. } | FromAgent::Replan => name == "devices",
        FromAgent::Seed { .. } | FromAgent::NoSeed { .. } => name == "metadata",
        FromAgent::Module { .. } | FromAgent::Media { .. } => name == "devices",
        FromAgent::Shutdown { .. } => name == "devices" || name == NODE_AGENT,
        FromAgent::Done { condition } if condition == contract::control::condition::ADDRESS => name == "network",
        FromAgent::Done { .. } | FromAgent::Fault { .. } => name == NODE_AGENT,
    }
}

/// Lines of `KEY=VALUE`; what is none is left out.
fn environment(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

//! What agents say to PID 1, which of them may say it, and what they are told.

use super::channel::Received;
use super::run::World;
use super::spawn::signal;
use super::step::Event;
use crate::boot::log;
use contract::control::{FromAgent, ToAgent};
use contract::kube::CONTROL_PLANE;
use contract::service::Kills;
use contract::voice::ServiceSignal;
use nix::sys::signal::Signal;

/// Messages taken from one agent in a round: one that never stops talking must not keep PID 1 from the rest.
const MESSAGES: usize = 64;
/// The agent that looks after the node.
const NODE_AGENT: &str = "node";

impl World {
    pub(super) fn read_channel(&mut self, name: &str) {
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

    pub(super) fn tell_agents(&self, service: &str, ready: bool) {
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
}

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

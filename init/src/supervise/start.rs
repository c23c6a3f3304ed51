//! Starts a service's process with all that belongs to it: its cgroup, its output, an agent's channel.

use super::cgroup::Group;
use super::channel;
use super::output::{Forward, Output, pipe};
use super::run::{Handles, LOG_AGENT, World};
use super::spawn::Io;
use super::step::Event;
use contract::service::Service;

impl World {
    pub(super) fn spawn_named(&mut self, name: &str) {
        let Some(entry) = self.supervisor.entries.iter().find(|e| e.service.name == name) else { return };
        let service = entry.service.clone();
        if let Err(why) = self.spawn(&service) {
            self.events.push_back(Event::SpawnFailed { service: name.into(), why });
        }
    }

    /// Starts the program that follows a service's end.
    pub(super) fn spawn_after(&mut self, name: &str, command: impl Fn(&Service) -> Vec<String>) {
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
}

/// Lines of `KEY=VALUE`; what is none is left out.
fn environment(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

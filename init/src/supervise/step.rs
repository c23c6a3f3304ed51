//! What happens next to each service: a pure state machine.
//!
//! ```text
//! Waiting ──needs met──> Running ──exit──> Clearing ──cgroup empty──> Backoff ──time──> Waiting
//!                           └──stop──> Stopping ──exit, or deadline and kill──> Clearing ──> Down
//! ```
//! Times are milliseconds of one monotonic clock, given with each event. Nothing here touches the system.

use contract::service::{Kills, Ready, Service};
use std::collections::BTreeSet;

/// First delay after a failure; it doubles to [`BACKOFF_MAX`] and starts over after [`GOOD`] of running.
pub(crate) const BACKOFF_MIN: u64 = 100;
/// Longest delay.
pub(crate) const BACKOFF_MAX: u64 = 30_000;
/// A service that ran this long was healthy.
pub(crate) const GOOD: u64 = 60_000;
/// How long a service may take to stop.
pub(crate) const STOP: u64 = 10_000;
/// How long the kernel may take to end what was killed; after that it is let go of: PID 1 never hangs on a process in
/// an uninterruptible sleep.
pub(crate) const KILL: u64 = 2_000;
/// The whole shutdown.
pub(crate) const SHUTDOWN: u64 = 60_000;

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its needs are not met.
    Waiting,
    /// Its process runs.
    Running { since: u64, notified: bool, ready: bool },
    /// Asked to end.
    Stopping { deadline: u64, killed: bool },
    /// Its process ended; what it left in its cgroup was killed and is waited for.
    Clearing { deadline: u64 },
    /// It failed and is tried again at this time.
    Backoff { until: u64 },
    /// Ended for good.
    Down,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing but time.
    Tick,
    /// A service's process ended.
    Exited { service: String, how: String },
    /// It could not be started.
    SpawnFailed { service: String, why: String },
    /// Nothing is left in its cgroup.
    Empty { service: String },
    /// It sent `READY=1`.
    Notified { service: String },
    /// An agent reports a condition.
    Done { condition: String },
    /// An agent says that a service hangs.
    Fault { service: String, why: String },
    /// Everything ends.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start its process.
    Spawn { service: String },
    /// Ask it to end: SIGTERM to its process.
    Terminate { service: String },
    /// End it: SIGKILL to all of its cgroup, or to the process alone.
    Kill { service: String, whole: bool },
    /// Tell: it is ready.
    Ready { service: String, after: u64 },
    /// Tell: it failed, and is tried again after so many milliseconds.
    Failed { service: String, why: String, again: u64 },
    /// Tell, once: all services are ready.
    AllReady,
    /// The shutdown is complete.
    Finished,
}

/// A service and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) service: Service,
    pub(crate) state: State,
    pub(crate) restarts: u32,
    delay: u64,
}

/// All services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Supervisor {
    pub(crate) entries: Vec<Entry>,
    conditions: BTreeSet<String>,
    shutdown: Option<u64>,
    told_ready: bool,
    finished: bool,
}

impl Supervisor {
    /// Adds services; names that are there already are left alone.
    pub(crate) fn add(&mut self, services: Vec<Service>) {
        for service in services {
            if !self.entries.iter().any(|e| e.service.name == service.name) {
                self.entries.push(Entry { service, state: State::Waiting, restarts: 0, delay: BACKOFF_MIN });
            }
        }
        self.told_ready = false;
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| e.service.name == name)
    }

    /// Whether a service is ready, or a condition holds.
    fn holds(&self, need: &str) -> bool {
        self.conditions.contains(need)
            || self.index(need).is_some_and(|i| matches!(self.entries[i].state, State::Running { ready: true, .. }))
    }

    /// When [`Event::Tick`] is due next.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let own = self.entries.iter().filter_map(|e| match e.state {
            State::Stopping { deadline, .. } | State::Clearing { deadline } => Some(deadline),
            State::Backoff { until } => Some(until),
            State::Waiting | State::Running { .. } | State::Down => None,
        });
        own.chain(self.shutdown).min()
    }

    /// Takes an event; answers what is to be done, in order.
    pub(crate) fn step(&mut self, now: u64, event: &Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Exited { service, how } => self.exited(now, service, how, &mut actions),
            Event::SpawnFailed { service, why } => self.exited(now, service, why, &mut actions),
            Event::Empty { service } => self.empty(now, service),
            Event::Notified { service } => {
                if let Some(i) = self.index(service)
                    && let State::Running { notified, .. } = &mut self.entries[i].state
                {
                    *notified = true;
                }
            }
            Event::Done { condition } => {
                self.conditions.insert(condition.clone());
            }
            Event::Fault { service, why } => self.fault(now, service, why, &mut actions),
            Event::Shutdown => {
                self.shutdown.get_or_insert(now + SHUTDOWN);
            }
        }
        self.deadlines(now, &mut actions);
        if self.shutdown.is_some() {
            self.wind_down(now, &mut actions);
        } else {
            // One service's readiness is another's need: until nothing changes any more.
            while self.advance(now, &mut actions) {}
            self.tell_when_all_ready(&mut actions);
        }
        actions
    }

    fn exited(&mut self, now: u64, name: &str, how: &str, actions: &mut Vec<Action>) {
        let Some(i) = self.index(name) else { return };
        let entry = &mut self.entries[i];
        match entry.state {
            State::Running { since, .. } => {
                if now.saturating_sub(since) >= GOOD {
                    entry.delay = BACKOFF_MIN;
                }
                let (service, why) = (name.to_owned(), how.to_owned());
                actions.push(Action::Failed { service, why, again: entry.delay });
            }
            State::Stopping { .. } => {}
            State::Waiting | State::Clearing { .. } | State::Backoff { .. } | State::Down => return,
        }
        if entry.service.kills == Kills::Cgroup {
            actions.push(Action::Kill { service: name.into(), whole: true });
        }
        entry.state = State::Clearing { deadline: now + KILL };
    }

    /// After [`State::Clearing`]: down for good, or tried again after a delay that doubles.
    fn empty(&mut self, now: u64, name: &str) {
        let Some(i) = self.index(name) else { return };
        if let State::Clearing { .. } = self.entries[i].state {
            self.cleared(now, i);
        }
    }

    fn cleared(&mut self, now: u64, i: usize) {
        let entry = &mut self.entries[i];
        if self.shutdown.is_some() {
            entry.state = State::Down;
            return;
        }
        entry.state = State::Backoff { until: now + entry.delay };
        entry.delay = (entry.delay * 2).min(BACKOFF_MAX);
        entry.restarts += 1;
    }

    fn fault(&mut self, now: u64, name: &str, why: &str, actions: &mut Vec<Action>) {
        let Some(i) = self.index(name) else { return };
        let entry = &mut self.entries[i];
        if let State::Running { .. } = entry.state {
            let (service, why) = (name.to_owned(), why.to_owned());
            actions.push(Action::Failed { service: service.clone(), why, again: entry.delay });
            actions.push(Action::Terminate { service });
            entry.state = State::Stopping { deadline: now + STOP, killed: false };
        }
    }

    fn deadlines(&mut self, now: u64, actions: &mut Vec<Action>) {
        for i in 0..self.entries.len() {
            let name = self.entries[i].service.name.clone();
            let whole = self.entries[i].service.kills == Kills::Cgroup;
            match self.entries[i].state {
                State::Stopping { deadline, killed: false } if deadline <= now => {
                    actions.push(Action::Kill { service: name, whole });
                    self.entries[i].state = State::Stopping { deadline: now + KILL, killed: true };
                }
                State::Stopping { deadline, killed: true } if deadline <= now => self.cleared(now, i),
                State::Clearing { deadline } if deadline <= now => self.cleared(now, i),
                State::Backoff { until } if until <= now => self.entries[i].state = State::Waiting,
                _ => {}
            }
        }
    }

    /// Starts what can start, marks ready what is; whether anything changed.
    fn advance(&mut self, now: u64, actions: &mut Vec<Action>) -> bool {
        for i in 0..self.entries.len() {
            let entry = &self.entries[i];
            let name = entry.service.name.clone();
            match entry.state {
                State::Waiting if entry.service.needs.iter().all(|n| self.holds(n)) => {
                    self.entries[i].state = State::Running { since: now, notified: false, ready: false };
                    actions.push(Action::Spawn { service: name });
                    return true;
                }
                State::Running { since, notified, ready: false } if self.is_ready(&entry.service, notified) => {
                    self.entries[i].state = State::Running { since, notified, ready: true };
                    actions.push(Action::Ready { service: name, after: now.saturating_sub(since) });
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    fn is_ready(&self, service: &Service, notified: bool) -> bool {
        let done = |conditions: &[String]| conditions.iter().all(|c| self.conditions.contains(c));
        match &service.ready {
            Ready::Started => true,
            Ready::Notify => notified,
            Ready::Done(conditions) => done(conditions),
            Ready::NotifyThenDone(conditions) => notified && done(conditions),
        }
    }

    fn tell_when_all_ready(&mut self, actions: &mut Vec<Action>) {
        let all = self.entries.iter().all(|e| matches!(e.state, State::Running { ready: true, .. }));
        if all && !self.told_ready {
            self.told_ready = true;
            actions.push(Action::AllReady);
        }
    }

    /// Stops what nobody that is still up needs; kills everything when the time is up.
    fn wind_down(&mut self, now: u64, actions: &mut Vec<Action>) {
        let late = self.shutdown.is_some_and(|d| d <= now);
        loop {
            let mut changed = false;
            for i in 0..self.entries.len() {
                let name = self.entries[i].service.name.clone();
                let blocked = !late && self.is_needed(i);
                match self.entries[i].state {
                    State::Waiting | State::Backoff { .. } => {
                        self.entries[i].state = State::Down;
                        changed = true;
                    }
                    State::Running { .. } if !blocked => {
                        if late {
                            actions.push(Action::Kill { service: name, whole: true });
                        } else {
                            actions.push(Action::Terminate { service: name });
                        }
                        let deadline = now + if late { KILL } else { STOP };
                        self.entries[i].state = State::Stopping { deadline, killed: late };
                        changed = true;
                    }
                    State::Stopping { killed: false, .. } if late => {
                        actions.push(Action::Kill { service: name, whole: true });
                        self.entries[i].state = State::Stopping { deadline: now + KILL, killed: true };
                    }
                    _ => {}
                }
            }
            if !changed {
                break;
            }
        }
        if late {
            // It was acted upon; the next deadlines are those of the killed.
            self.shutdown = Some(u64::MAX);
        }
        if !self.finished && self.entries.iter().all(|e| e.state == State::Down) {
            self.finished = true;
            actions.push(Action::Finished);
        }
    }

    /// Whether a service that is still up needs this one, or a condition that it provides; or, for one that is to be
    /// the last, whether anything else is up.
    fn is_needed(&self, i: usize) -> bool {
        let own = &self.entries[i].service;
        self.entries.iter().enumerate().any(|(j, other)| {
            let up = !matches!(other.state, State::Down | State::Waiting | State::Backoff { .. });
            let needs = other.service.needs.iter().any(|n| *n == own.name || own.provides.contains(n));
            j != i && up && (needs || (own.last && !other.service.last))
        })
    }
}

#[cfg(test)]
mod tests;

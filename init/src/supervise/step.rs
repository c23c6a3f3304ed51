//! What happens next to each service: a pure state machine.
//!
//! ```text
//! Waiting ──needs met──> Running ──exit──> Clearing ──cgroup empty──> [After] ──> Backoff ──time──> Waiting
//!                           └──stop──> Stopping ──exit, or deadline and kill──> Clearing ──> [After] ──> Down
//! ```
//! `After` is there only where a service has a program to run each time it ended. A service that is bound to another one is
//! stopped when that one ends, and waits until it is ready again; when the other one keeps failing it waits until that has
//! run for [`GOOD`]: what flaps is not to be relied on. A program that is run once is [`State::Over`] when it ended well.
//! At shutdown a service that has a farewell goes through `After` with that program instead.
//!
//! Times are milliseconds of one monotonic clock, given with each event. Nothing here touches the system.

use contract::service::{Kills, Ready, Service};
use std::collections::BTreeSet;

/// First delay after a failure; it doubles to [`BACKOFF_MAX`] and starts over after [`GOOD`] of running.
pub(crate) const BACKOFF_MIN: u64 = 100;
/// Longest delay.
pub(crate) const BACKOFF_MAX: u64 = 30_000;
/// A service that ran this long was healthy.
pub(crate) const GOOD: u64 = 60_000;
/// After so many failures without [`GOOD`] in between, what is bound to a service waits until it has run for that long.
pub(crate) const FLAPS: u32 = 3;
/// How long a service may take to stop.
pub(crate) const STOP: u64 = 10_000;
/// How long the kernel may take to end what was killed; after that it is let go of: PID 1 never hangs on a process in
/// an uninterruptible sleep.
pub(crate) const KILL: u64 = 2_000;
/// One that somebody stopped (SIGSTOP) is ended after this. Those that the agent asks are gone by then (agent/src/hung.rs): this
/// is for the agents, whom nobody asks.
pub(crate) const SUSPENDED: u64 = 20_000;
/// The whole shutdown.
pub(crate) const SHUTDOWN: u64 = 60_000;

/// How [`Event::Exited`] says that a process ended with status 0.
pub(crate) const ENDED_WELL: &str = "ended";

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
    /// The program that follows its end runs.
    After { deadline: u64 },
    /// It was to run once, and did.
    Over,
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
    /// Its process was stopped by a signal.
    Suspended { service: String },
    /// ... and goes on.
    Continued { service: String },
    /// Its files changed: it is to read them again.
    Reread { service: String },
    /// It is to be started anew, without having failed.
    Restart { service: String },
    /// Everything ends.
    Shutdown,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start its process.
    Spawn { service: String },
    /// Start the program that follows its end.
    After { service: String },
    /// Start the program that follows its end at shutdown.
    Farewell { service: String },
    /// Tell it to read its configuration again.
    Reload { service: String },
    /// Ask it to end: its stop signal to its process.
    Terminate { service: String },
    /// End it: SIGKILL to all of its cgroup, or to the process alone.
    Kill { service: String, whole: bool },
    /// Tell: it is ready.
    Ready { service: String, after: u64 },
    /// Tell: it failed, and is tried again after so many milliseconds.
    Failed { service: String, why: String, again: u64 },
    /// Tell: it waits until a service it is bound to, and that keeps failing, has run for so many milliseconds.
    Distrusts { service: String, other: String, good: u64 },
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
    /// Failures since it last ran for [`GOOD`].
    flaps: u32,
    /// It was stopped, because of another one or to be started anew: no failure of its own.
    in_order: bool,
    /// Its process stands still, and is ended at this time.
    suspended: Option<u64>,
}

impl Entry {
    /// How long it may take to stop.
    fn patience(&self) -> u64 {
        self.service.stop_ms.unwrap_or(STOP)
    }
}

/// Whether others may go on.
fn is_well(state: &State) -> bool {
    matches!(state, State::Running { ready: true, .. } | State::Over)
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
                let (state, delay) = (State::Waiting, BACKOFF_MIN);
                self.entries.push(Entry {
                    service,
                    state,
                    restarts: 0,
                    delay,
                    flaps: 0,
                    in_order: false,
                    suspended: None,
                });
            }
        }
        self.told_ready = false;
    }

    /// Puts another definition in the place of a service's.
    pub(crate) fn replace(&mut self, service: Service) {
        if let Some(i) = self.index(&service.name) {
            self.entries[i].service = service;
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|e| e.service.name == name)
    }

    /// Whether a service is ready, or a condition holds.
    fn holds(&self, need: &str) -> bool {
        self.conditions.contains(need) || self.index(need).is_some_and(|i| is_well(&self.entries[i].state))
    }

    /// When [`Event::Tick`] is due next.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let own = self.entries.iter().filter_map(|e| match e.state {
            State::Stopping { deadline, .. } | State::Clearing { deadline } | State::After { deadline } => {
                Some(deadline)
            }
            State::Backoff { until } => Some(until),
            State::Running { since, .. } => {
                // What is bound to it may wait for this moment.
                let good = (e.flaps >= FLAPS).then_some(since + GOOD);
                good.into_iter().chain(e.suspended).min()
            }
            State::Waiting | State::Over | State::Down => None,
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
            Event::Empty { service } => self.empty(now, service, &mut actions),
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
            Event::Suspended { service } => self.suspended(service, Some(now + SUSPENDED)),
            Event::Continued { service } => self.suspended(service, None),
            Event::Reread { service } => self.reread(now, service, &mut actions),
            Event::Restart { service } => self.restart(now, service, &mut actions),
            Event::Shutdown => {
                self.shutdown.get_or_insert(now + SHUTDOWN);
            }
        }
        self.deadlines(now, &mut actions);
        self.break_bonds(now, &mut actions);
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
            State::Running { since, .. } if entry.service.ready == Ready::Ended && how == ENDED_WELL => {
                entry.state = State::Over;
                return actions.push(Action::Ready { service: name.into(), after: now.saturating_sub(since) });
            }
            State::Running { since, .. } => {
                if now.saturating_sub(since) >= GOOD {
                    (entry.delay, entry.flaps) = (BACKOFF_MIN, 0);
                }
                let (service, why) = (name.to_owned(), how.to_owned());
                actions.push(Action::Failed { service, why, again: entry.delay });
                self.flapped(i, actions);
            }
            State::Stopping { .. } => {}
            State::After { .. } => return self.cleared(now, i),
            State::Waiting | State::Clearing { .. } | State::Backoff { .. } | State::Over | State::Down => return,
        }
        let entry = &mut self.entries[i];
        if entry.service.kills == Kills::Cgroup {
            actions.push(Action::Kill { service: name.into(), whole: true });
        }
        entry.state = State::Clearing { deadline: now + KILL };
    }

    /// After [`State::Clearing`]: down for good, or tried again after a delay that doubles.
    fn empty(&mut self, now: u64, name: &str, actions: &mut Vec<Action>) {
        let Some(i) = self.index(name) else { return };
        if let State::Clearing { .. } = self.entries[i].state {
            self.ended(now, i, actions);
        }
    }

    /// Nothing of it is left, or nothing that can be killed: what follows its end follows.
    fn ended(&mut self, now: u64, i: usize, actions: &mut Vec<Action>) {
        let service = &self.entries[i].service;
        if self.shutdown.is_some() && !service.farewell.is_empty() {
            actions.push(Action::Farewell { service: service.name.clone() });
            self.entries[i].state = State::After { deadline: now + self.entries[i].service.farewell_ms };
            return;
        }
        if self.entries[i].service.after.is_empty() {
            return self.cleared(now, i);
        }
        self.entries[i].state = State::After { deadline: now + KILL };
        actions.push(Action::After { service: self.entries[i].service.name.clone() });
    }

    fn cleared(&mut self, now: u64, i: usize) {
        let entry = &mut self.entries[i];
        if self.shutdown.is_some() {
            entry.state = State::Down;
            return;
        }
        if std::mem::take(&mut entry.in_order) {
            entry.state = State::Waiting;
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
            let whole = entry.service.kills == Kills::Cgroup;
            actions.push(Action::Failed { service: service.clone(), why, again: entry.delay });
            // What hangs does not hear, and the sooner it is gone the sooner it is back.
            actions.push(Action::Kill { service, whole });
            entry.state = State::Stopping { deadline: now + KILL, killed: true };
            self.flapped(i, actions);
        }
    }

    fn suspended(&mut self, name: &str, until: Option<u64>) {
        if let Some(i) = self.index(name) {
            self.entries[i].suspended = until;
        }
    }

    /// It failed once more without having run for long: what is bound to it is told, once.
    fn flapped(&mut self, i: usize, actions: &mut Vec<Action>) {
        self.entries[i].flaps += 1;
        if self.entries[i].flaps != FLAPS {
            return;
        }
        let other = &self.entries[i].service.name;
        for entry in self.entries.iter().filter(|e| e.service.bound_to.contains(other)) {
            let (service, other) = (entry.service.name.clone(), other.clone());
            actions.push(Action::Distrusts { service, other, good: GOOD });
        }
    }

    fn reread(&mut self, now: u64, name: &str, actions: &mut Vec<Action>) {
        let Some(i) = self.index(name) else { return };
        match self.entries[i].state {
            State::Running { .. } if self.entries[i].service.reload.is_some() => {
                actions.push(Action::Reload { service: name.into() });
            }
            _ => self.restart(now, name, actions),
        }
    }

    /// One that does not run reads what is there when it starts.
    fn restart(&mut self, now: u64, name: &str, actions: &mut Vec<Action>) {
        let Some(i) = self.index(name) else { return };
        if let State::Running { .. } = self.entries[i].state {
            actions.push(Action::Terminate { service: name.into() });
            self.entries[i].state = State::Stopping { deadline: now + self.entries[i].patience(), killed: false };
            self.entries[i].in_order = true;
        }
    }

    /// Stops what is bound to a service that does not run any more.
    fn break_bonds(&mut self, now: u64, actions: &mut Vec<Action>) {
        for i in 0..self.entries.len() {
            let entry = &self.entries[i];
            let runs = |name: &String| {
                self.index(name).is_some_and(|j| matches!(self.entries[j].state, State::Running { .. }))
            };
            if !matches!(entry.state, State::Running { .. }) || entry.service.bound_to.iter().all(runs) {
                continue;
            }
            actions.push(Action::Terminate { service: entry.service.name.clone() });
            self.entries[i].state = State::Stopping { deadline: now + self.entries[i].patience(), killed: false };
            self.entries[i].in_order = true;
        }
    }

    /// Whether a service may be relied on by those bound to it.
    fn is_steady(&self, name: &str) -> bool {
        self.index(name).is_some_and(|i| {
            let entry = &self.entries[i];
            matches!(entry.state, State::Running { ready: true, .. }) && entry.flaps < FLAPS
        })
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
                State::Stopping { deadline, killed: true } | State::Clearing { deadline } if deadline <= now => {
                    self.ended(now, i, actions);
                }
                State::After { deadline } if deadline <= now => {
                    actions.push(Action::Kill { service: name, whole });
                    self.cleared(now, i);
                }
                State::Running { .. } if self.entries[i].suspended.is_some_and(|until| until <= now) => {
                    let why = format!("it was stopped, and did not go on for {} s", SUSPENDED / 1000);
                    self.fault(now, &name, &why, actions);
                }
                State::Running { since, .. } if self.entries[i].flaps >= FLAPS && since + GOOD <= now => {
                    (self.entries[i].flaps, self.entries[i].delay) = (0, BACKOFF_MIN);
                }
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
                State::Waiting
                    if entry.service.needs.iter().all(|n| self.holds(n))
                        && entry.service.bound_to.iter().all(|b| self.is_steady(b)) =>
                {
                    self.entries[i].state = State::Running { since: now, notified: false, ready: false };
                    self.entries[i].suspended = None;
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
            Ready::Ended => false,
        }
    }

    fn tell_when_all_ready(&mut self, actions: &mut Vec<Action>) {
        let all = self.entries.iter().all(|e| is_well(&e.state));
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
                    State::Waiting | State::Backoff { .. } | State::Over => {
                        self.entries[i].state = State::Down;
                        changed = true;
                    }
                    State::Running { .. } if !blocked => {
                        if late {
                            actions.push(Action::Kill { service: name, whole: true });
                        } else {
                            actions.push(Action::Terminate { service: name });
                        }
                        let deadline = now + if late { KILL } else { self.entries[i].patience() };
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
            let up = !matches!(other.state, State::Down | State::Waiting | State::Over | State::Backoff { .. });
            let needs = other.service.needs.iter().any(|n| *n == own.name || own.provides.contains(n))
                || other.service.bound_to.contains(&own.name)
                || own.stops_after.contains(&other.service.name);
            j != i && up && (needs || (own.last && !other.service.last))
        })
    }
}

#[cfg(test)]
mod tests;

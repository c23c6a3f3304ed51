//! A cluster: VMs on one switch, under one clock. Whoever holds it owns all of it; it ends with its owner.
//!
//! VMs and gateway end with the *thread* that made them (the kernel's parent-death signal), so a cluster stays on one.

use crate::clock::Clock;
use crate::command::Machine;
use crate::gateway::{Gateway, Tftp};
use crate::switch::{Faults, Switch};
use crate::vm::Vm;
use anyhow::{Context, Result, bail};
use contract::voice::ToNode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What PID 1 says first.
const FIRST_WORDS: &str = "mounts ok";
/// The gateway's port of the switch.
pub const GATEWAY: &str = "gateway";

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its machines, each on a cable ([`crate::command::Lan::Cable`]).
    pub machines: Vec<Machine>,
    /// Ports of this machine that lead into its network.
    pub forwards: Vec<(SocketAddr, SocketAddr)>,
    /// Whether there is a way in and out at all.
    pub gateway: bool,
    /// What it serves to machines that boot from the network.
    pub tftp: Option<Tftp>,
    /// Of the switch's dice.
    pub seed: u64,
    /// Of everything.
    pub clock: Clock,
    /// Where it keeps what it writes.
    pub dir: PathBuf,
}

/// Something that happened: for the timeline. Guest time since the cluster began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds.
    pub ms: u64,
    /// A node, or `lab`.
    pub who: String,
    /// For people.
    pub what: String,
}

/// A place for a VM.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) machine: Machine,
    pub(crate) vm: Option<Vm>,
    /// Guest time since the cluster began at which the node's own clock was zero.
    pub(crate) began_ms: u64,
    /// How much the VM had said when it was told to start again.
    pub(crate) said_before: usize,
    /// What earlier VMs of this place said.
    past: Vec<Event>,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) places: BTreeMap<String, Place>,
    // The gateway and the VMs hang on its cables; dropped after them.
    gateway: Option<Gateway>,
    pub(crate) switch: Switch,
    pub(crate) clock: Clock,
    /// What the guests' clocks said when the cluster began, milliseconds since the epoch.
    pub(crate) epoch_ms: i64,
    events: Vec<Event>,
}

impl Cluster {
    /// The network and the places, no VM yet.
    pub fn new(plan: &Plan) -> Result<Self> {
        crate::accel::check_qemu()?;
        std::fs::create_dir_all(&plan.dir).with_context(|| format!("making {}", plan.dir.display()))?;
        for machine in &plan.machines {
            // Of an earlier cluster; where there is none, there is nothing to remove.
            let _ = std::fs::remove_file(plan.dir.join(format!("{}.console.log", machine.name)));
        }
        let switch = Switch::new(plan.clock, plan.seed)?;
        let gateway = match plan.gateway {
            true => Some(Gateway::start(plan.clock, &switch.plug(GATEWAY)?, &plan.forwards, plan.tftp.as_ref())?),
            false => None,
        };
        let place = |m: &Machine| Place { machine: m.clone(), vm: None, began_ms: 0, said_before: 0, past: Vec::new() };
        let places = plan.machines.iter().map(|m| (m.name.clone(), place(m))).collect();
        let epoch_ms = jiff::Timestamp::now().as_millisecond();
        Ok(Self { places, gateway, switch, clock: plan.clock, epoch_ms, events: Vec::new() })
    }

    /// A place for another machine; it is off.
    pub fn add(&mut self, machine: Machine) {
        let name = machine.name.clone();
        let place = Place { machine, vm: None, began_ms: 0, said_before: 0, past: Vec::new() };
        self.places.insert(name.clone(), place);
        self.note(&name, "is new");
    }

    /// Takes a node's place away; its power is cut if it is on.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.remember(name);
        let place = self.places.remove(name).with_context(|| format!("there is no node `{name}`"))?;
        self.events.extend(place.past);
        self.note(name, "is gone");
        Ok(())
    }

    /// Boots all nodes at once.
    pub fn boot_all(&mut self) -> Result<()> {
        self.names().iter().try_for_each(|n| self.boot(n))
    }

    /// The nodes' names, in order.
    pub fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    pub(crate) fn place(&mut self, name: &str) -> Result<&mut Place> {
        let names = self.names().join(", ");
        self.places.get_mut(name).with_context(|| format!("there is no node `{name}`; there are {names}"))
    }

    /// A node's VM, if it runs.
    pub fn vm(&mut self, name: &str) -> Result<&mut Vm> {
        let place = self.place(name)?;
        if place.vm.as_mut().is_some_and(Vm::has_ended) {
            self.remember(name);
        }
        self.place(name)?.vm.as_mut().with_context(|| format!("node {name} is off"))
    }

    /// Whether a node's VM runs.
    pub fn is_on(&mut self, name: &str) -> bool {
        self.vm(name).is_ok()
    }

    /// Boots a node that is off.
    pub fn boot(&mut self, name: &str) -> Result<()> {
        if self.is_on(name) {
            bail!("node {name} is on already");
        }
        let cable = self.switch.plug(name)?;
        let now = self.now_ms();
        let date = self.date_ms() / 1000;
        let place = self.place(name)?;
        place.machine.date = Some(date);
        place.vm = Some(Vm::start_on(&place.machine, Some(&cable), None)?);
        place.began_ms = now;
        place.said_before = 0;
        self.note(name, "power on");
        Ok(())
    }

    /// Cuts a node's power: nothing is flushed, nobody is asked.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.vm(name)?;
        self.note(name, "power cut");
        self.remember(name);
        Ok(())
    }

    /// How many of the node's lines are of an earlier boot.
    pub fn said_before(&self, name: &str) -> usize {
        self.places.get(name).map_or(0, |p| p.said_before)
    }

    fn starts_again(&mut self, name: &str) -> Result<()> {
        let said = self.vm(name)?.voice.lines(0).len();
        self.place(name)?.said_before = said;
        Ok(())
    }

    /// Asks a node to start again, in order.
    pub fn reboot(&mut self, name: &str) -> Result<()> {
        self.starts_again(name)?;
        self.vm(name)?.voice.say(&ToNode::Reboot)?;
        self.note(name, "asked to reboot");
        Ok(())
    }

    /// The reset button: nothing is flushed.
    pub fn reset(&mut self, name: &str) -> Result<()> {
        self.starts_again(name)?;
        self.vm(name)?.reset()?;
        self.note(name, "reset");
        Ok(())
    }

    /// Presses the power button.
    pub fn power_button(&mut self, name: &str) -> Result<()> {
        self.vm(name)?.power_button()?;
        self.note(name, "power button");
        Ok(())
    }

    /// Waits until a node's machine has ended by itself, and takes it off.
    pub fn wait_end(&mut self, name: &str, guest: Duration) -> Result<()> {
        let Some(vm) = &mut self.place(name)?.vm else { return Ok(()) };
        vm.wait_end(guest)?;
        self.remember(name);
        Ok(())
    }

    /// Keeps what a VM said, and lets it go.
    pub(crate) fn remember(&mut self, name: &str) {
        let at = self.moments();
        let Some(place) = self.places.get_mut(name) else { return };
        let said = place.said(name, at);
        place.past.extend(said);
        place.vm = None;
    }

    /// Sets the faults of nodes' cables.
    pub fn impair(&mut self, names: &[String], from_node: &Faults, to_node: &Faults) -> Result<()> {
        for name in names {
            self.switch.set(name, from_node.clone(), to_node.clone())?;
        }
        let words = serde_json::to_string(&json!({ "from": from_node, "to": to_node }))?;
        self.note("lab", &format!("cables of {}: {words}", names.join(", ")));
        Ok(())
    }

    /// Divides the network: nodes of different sets do not hear each other, or no packets of one protocol of IP's.
    pub fn divide(&mut self, sets: &[Vec<String>], protocol: Option<u8>) -> Result<()> {
        self.switch.divide(sets, protocol)?;
        let words: Vec<_> = sets.iter().map(|s| s.join(" ")).collect();
        let of = protocol.map(|p| format!(" for IP protocol {p}")).unwrap_or_default();
        self.note("lab", &format!("divided{of}: {}", words.join(" | ")));
        Ok(())
    }

    /// Nodes' first disks do at most so many operations in a second of the guest's time; 0 = as many as they can.
    pub fn slow_disks(&mut self, names: &[String], operations: u32) -> Result<()> {
        for name in names {
            self.vm(name)?.slow_disk(operations)?;
            self.note(name, &format!("disk: {operations} operations a second"));
        }
        Ok(())
    }

    /// Takes all faults of cables and disks away.
    pub fn heal(&mut self) -> Result<()> {
        self.switch.heal();
        self.note("lab", "healed");
        for name in self.names() {
            if self.is_on(&name) {
                self.vm(&name)?.slow_disk(0)?;
            }
        }
        Ok(())
    }

    /// The switch.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The gateway, if there is one.
    pub fn gateway(&mut self) -> Option<&mut Gateway> {
        self.gateway.as_mut()
    }

    /// The clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Guest milliseconds since the cluster began.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.switch.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the guests' clocks say, unless one was set: milliseconds since the epoch.
    pub(crate) fn date_ms(&self) -> i64 {
        self.epoch_ms.saturating_add_unsigned(self.now_ms())
    }

    /// A moment as guest milliseconds since the cluster began.
    fn moments(&self) -> impl Fn(Instant) -> u64 + use<> {
        let (now_ms, now, clock) = (self.now_ms(), Instant::now(), self.clock);
        move |then| {
            let ago = clock.guest(now.saturating_duration_since(then)).as_millis();
            now_ms.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
        }
    }

    /// Since when the present VM of a node is on, in guest milliseconds.
    pub fn uptime_ms(&self, name: &str) -> u64 {
        self.places.get(name).map_or(0, |p| self.now_ms().saturating_sub(p.began_ms))
    }

    /// Adds to the timeline.
    pub fn note(&mut self, who: &str, what: &str) {
        let ms = self.now_ms();
        self.events.push(Event { ms, who: who.into(), what: what.into() });
    }

    /// Everything that happened, to all nodes, on one axis.
    pub fn timeline(&self) -> Vec<Event> {
        let mut all = self.events.clone();
        for (name, place) in &self.places {
            all.extend(place.past.iter().cloned());
            all.extend(place.said(name, self.moments()));
        }
        all.sort_by_key(|e| e.ms);
        all
    }
}

impl Place {
    /// What its VM said, on the cluster's axis. Its clock begins anew when it starts again: from there on the moment at
    /// which its first line arrived counts.
    fn said(&self, name: &str, at: impl Fn(Instant) -> u64) -> Vec<Event> {
        let lines = self.vm.as_ref().map(|vm| vm.voice.lines(0)).unwrap_or_default();
        let (mut began, mut last) = (self.began_ms, 0);
        let mut events = Vec::new();
        for line in lines {
            if line.ms < last && line.text.starts_with(FIRST_WORDS) {
                began = at(line.heard).saturating_sub(line.ms);
            }
            last = line.ms;
            events.push(Event { ms: began.saturating_add(line.ms), who: name.into(), what: line.text });
        }
        events
    }
}

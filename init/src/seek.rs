//! From "nothing is known" to a node with a plan: the seed is looked for, checked against what the node remembers,
//! the state disk made ready, the plan executed. Until then, and whenever there is no usable seed: maintenance mode.

use crate::boot::modules::Loader;
use crate::boot::{clock, identity, log, mounts, state, write};
use crate::roles;
use crate::steps::Steps;
use crate::supervise::run::World;
use crate::supervise::step::Event;
use contract::cmdline::{Cmdline, DiskName, NoCloudLine, nocloud_line};
use contract::control::{MetadataRequest, ToAgent};
use contract::disk::SEED_MAX_BYTES;
use contract::image::ImageInfo;
use contract::node::State;
use contract::paths;
use contract::seed::{NoSeed, NodeSeed};
use nix::sys::stat::Mode;
use std::fs;
use std::path::Path;

/// A seed on the network is asked for again this often: nobody announces that a web server has changed its mind.
const ASK_AGAIN: u64 = 5_000;
/// The metadata agent answers within this, or is ended.
const METADATA_BOUND: u64 = 60_000;

const METADATA: &str = "metadata";

/// What the node is about.
#[derive(Debug)]
pub(crate) struct Node {
    phase: Phase,
    image: ImageInfo,
    cmdline: Cmdline,
    cmdline_text: String,
    dmi_serial: String,
    loader: Loader,
    kept: Option<NodeSeed>,
    state_mounted: bool,
    /// Why the state partition cannot be used: no role may start then.
    state_problem: Option<String>,
    seed: Option<NodeSeed>,
    /// While the source is read again on a node that runs: until when.
    replanning: Option<u64>,
    replan_again: bool,
    /// The last reason for maintenance, so that it is told once.
    told: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The agent is asked; at `bound` it is ended.
    Asking { bound: u64, again: bool },
    /// Nothing was found yet; a medium may still appear, a URL is asked again at `retry`.
    Waiting { retry: Option<u64> },
    /// The plan runs.
    Running,
}

/// What the prelude found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) image: ImageInfo,
    pub(crate) cmdline: String,
    pub(crate) state_mounted: bool,
    pub(crate) state_problem: Option<String>,
}

impl Node {
    /// Ready to look.
    pub(crate) fn new(found: Found) -> Self {
        let Found { image, cmdline: text, state_mounted, state_problem } = found;
        let dmi_serial = fs::read_to_string("/sys/class/dmi/id/product_serial").unwrap_or_default().trim().to_owned();
        let mut cmdline = contract::cmdline::parse(&text);
        cmdline.nocloud = cmdline.nocloud.or_else(|| nocloud_line(&dmi_serial));
        Self {
            phase: Phase::Waiting { retry: Some(0) },
            kept: if state_mounted { identity::kept() } else { None },
            loader: Loader::open(),
            image,
            cmdline,
            cmdline_text: text,
            dmi_serial,
            state_mounted,
            state_problem,
            seed: None,
            replanning: None,
            replan_again: false,
            told: String::new(),
        }
    }

    /// The seed that counts.
    pub(crate) fn seed(&self) -> Option<&NodeSeed> {
        self.seed.as_ref()
    }

    /// Another seed counts from now on.
    pub(crate) fn set_seed(&mut self, seed: NodeSeed) {
        self.seed = Some(seed);
    }

    /// The source is about to be read again; answers whether it is not being read already. If it is, what is read may be
    /// older than the wish: it is read once more afterwards.
    pub(crate) fn begin_replan(&mut self, now: u64) -> bool {
        self.replan_again = self.replanning.is_some();
        if !self.replan_again {
            self.replanning = Some(now + METADATA_BOUND);
        }
        !self.replan_again
    }

    /// The source was read, or not; answers whether to read it once more.
    pub(crate) fn end_replan(&mut self) -> bool {
        self.replanning = None;
        std::mem::take(&mut self.replan_again)
    }

    /// Whether the plan runs.
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// When it has to be looked at next.
    pub(crate) fn due(&self) -> Option<u64> {
        match self.phase {
            Phase::Asking { bound, .. } => Some(bound),
            Phase::Waiting { retry } => {
                let patience = self.told.is_empty().then(|| self.patience());
                [retry, patience].into_iter().flatten().min()
            }
            Phase::Running => self.replanning,
        }
    }

    /// Until when a missing seed is nothing to speak of.
    fn patience(&self) -> u64 {
        u64::from(self.cmdline.wait) * 1000
    }

    fn is_from_network(&self) -> bool {
        self.cmdline.nocloud.as_ref().is_some_and(NoCloudLine::needs_network)
    }
}

impl World {
    /// What time alone brings about.
    pub(crate) fn seek_due(&mut self) {
        let now = clock::boottime_ms();
        let Some(node) = &self.node else { return };
        match node.phase {
            _ if self.ending.is_some() => {}
            Phase::Asking { bound, .. } if bound <= now => {
                if let Some(pid) = self.reaper.pid_of(METADATA) {
                    crate::supervise::spawn::signal(pid, nix::sys::signal::Signal::SIGKILL);
                }
                self.node_mut().phase = Phase::Asking { bound: u64::MAX, again: true };
            }
            Phase::Running if node.replanning.is_some_and(|bound| bound <= now) => {
                if let Some(pid) = self.reaper.pid_of(METADATA) {
                    crate::supervise::spawn::signal(pid, nix::sys::signal::Signal::SIGKILL);
                }
                // Its end is heard of, and ends the reading.
                self.node_mut().replanning = Some(u64::MAX);
                self.report.notice("warning", "the source was not read again in time");
            }
            Phase::Waiting { retry: Some(at) } if at <= now => self.ask(),
            Phase::Waiting { .. } if node.told.is_empty() && node.patience() <= now => {
                self.maintenance(&["no seed was found".into()]);
            }
            _ => {}
        }
    }

    #[expect(clippy::expect_used, reason = "only called where the node is known to be there")]
    fn node_mut(&mut self) -> &mut Node {
        self.node.as_mut().expect("a node")
    }

    /// Starts the metadata agent.
    fn ask(&mut self) {
        let from_network = self.node_mut().is_from_network();
        if from_network && self.node_mut().kept.is_some() {
            // The node knows what it is; its network comes from that, and the source is not needed.
            return self.seed_counts(None);
        }
        if from_network && !self.supervisor.entries.iter().any(|e| e.service.name == "network") {
            self.supervisor.add(vec![roles::network()]);
            self.events.push_back(Event::Tick);
        }
        let now = clock::boottime_ms();
        self.node_mut().phase = Phase::Asking { bound: now + METADATA_BOUND, again: false };
        if let Err(e) = self.spawn(&roles::metadata()) {
            self.node_mut().phase = Phase::Waiting { retry: Some(now + ASK_AGAIN) };
            self.report.notice("error", &format!("starting the metadata agent: {e}"));
        }
    }

    /// What an agent is told when it starts.
    pub(crate) fn greet(&mut self, name: &str) {
        let Some(node) = &self.node else { return };
        let message = match name {
            METADATA => ToAgent::Metadata { request: request(node) },
            "network" => {
                let seed = node.seed.as_ref();
                ToAgent::Network {
                    config: seed.map(|s| s.network.clone()).unwrap_or_default(),
                    address: seed.map(|s| s.node.node.address),
                }
            }
            _ => return,
        };
        if let Some(channel) = self.running.get(name).and_then(|h| h.channel.as_ref()) {
            channel.send(&message);
        }
    }

    /// A medium appeared: worth another look, unless the node knows what it is.
    pub(crate) fn look_again(&mut self) {
        let Some(node) = &mut self.node else { return };
        match &mut node.phase {
            Phase::Asking { again, .. } => *again = true,
            Phase::Waiting { .. } => node.phase = Phase::Waiting { retry: Some(0) },
            Phase::Running => {}
        }
    }

    /// The agent ended; when it had answered, the phase has moved on.
    pub(crate) fn metadata_ended(&mut self, how: &str) {
        if let Some(node) = &mut self.node
            && node.is_running()
            && node.end_replan()
        {
            self.replan();
        }
        let Some(Phase::Asking { .. }) = self.node.as_ref().map(|n| n.phase) else { return };
        if how == "ended" {
            // It closed its channel after the answer, which is handled first: there was none.
            self.no_seed(NoSeed { probed: vec![], problems: vec!["the metadata agent gave no answer".into()] });
        } else {
            self.no_seed(NoSeed { probed: vec![], problems: vec![format!("the metadata agent died: {how}")] });
        }
    }

    /// There is no usable seed.
    pub(crate) fn no_seed(&mut self, why: NoSeed) {
        if self.node_mut().is_running() {
            let text = format!("the source was read again, and is not usable: {}", why.problems.join("; "));
            return self.report.notice("warning", &text);
        }
        if self.node_mut().kept.is_some() {
            return self.seed_counts(None);
        }
        let now = clock::boottime_ms();
        let from_network = self.node_mut().is_from_network();
        let node = self.node_mut();
        let again = matches!(node.phase, Phase::Asking { again: true, .. });
        let retry = if again { Some(now) } else { from_network.then_some(now + ASK_AGAIN) };
        node.phase = Phase::Waiting { retry };
        // A medium that may still appear, a server that may still come up: within the bound nothing to speak of.
        let final_word = !why.problems.is_empty() && !from_network;
        if final_word || node.patience() <= now {
            let mut lines = why.problems;
            if lines.is_empty() {
                lines.push("no seed was found".into());
            }
            lines.push(format!(
                "probed: {}",
                if why.probed.is_empty() { "nothing".into() } else { why.probed.join(", ") }
            ));
            self.maintenance(&lines);
        } else {
            for problem in why.problems {
                self.report.notice("info", &problem);
            }
        }
    }

    /// Says why no role runs, once per reason.
    fn maintenance(&mut self, lines: &[String]) {
        let text = lines.join("\n  ");
        let node = self.node_mut();
        if node.told != text {
            node.told.clone_from(&text);
            self.report.notice(
                "error",
                &format!("MAINTENANCE: no role runs; a corrected seed is picked up without a reboot\n  {text}"),
            );
        }
    }

    /// A validated seed came.
    pub(crate) fn seed_found(&mut self, seed: NodeSeed) {
        // The agent validated it; PID 1 takes nobody's word for what it can check itself.
        let problems = contract::check::check(&seed.node, &seed.network);
        if !problems.is_empty() {
            let problems = problems.iter().map(ToString::to_string).collect();
            return self.no_seed(NoSeed { probed: vec![seed.source], problems });
        }
        if self.node_mut().is_running() {
            return self.replanned(seed);
        }
        self.seed_counts(Some(seed));
    }

    /// Decides between what was found and what the node keeps, and goes on.
    fn seed_counts(&mut self, found: Option<NodeSeed>) {
        let kept = self.node_mut().kept.take();
        let (counts, said) = identity::decide(kept.clone(), found);
        self.node_mut().kept = kept;
        if let Some(text) = said {
            self.report.notice("warning", &text);
        }
        let Some(seed) = counts else { return };
        let began = clock::boottime_ms();
        match self.become_node(&seed) {
            Ok(()) => self.report.staged("plan", began, true),
            Err(why) => {
                self.node_mut().phase = Phase::Waiting { retry: None };
                self.maintenance(&[why]);
            }
        }
    }

    fn become_node(&mut self, seed: &NodeSeed) -> Result<(), String> {
        let node = self.node_mut();
        if let Some(problem) = &node.state_problem {
            return Err(problem.clone());
        }
        if let Some(role) = seed.node.roles.iter().find(|r| !node.image.roles.iter().any(|i| i == r.word())) {
            return Err(format!(
                "the role `{role}` is not in this image `{}` (it carries {}); hint: boot an image of a profile with `{role}`",
                node.image.name,
                node.image.roles.join(", ")
            ));
        }
        self.state(&seed.node.state)?;
        identity::keep(seed).map_err(|e| format!("keeping the seed: {e}"))?;
        let node = self.node_mut();
        clock::raise(clock::floor(&[node.image.epoch, seed.not_before]));
        let plan = roles::plan(seed)?;
        for module in &plan.modules {
            self.load_module(module);
        }
        execute(&plan, seed)?;
        for notice in &seed.notices {
            self.report.notice("info", notice);
        }
        let words: Vec<String> = seed.node.roles.iter().map(ToString::to_string).collect();
        let (name, roles, generation) = (seed.node.name(), words.join(", "), seed.node.generation);
        log::say(&format!("node {name} with {roles} from {}, generation {generation}", seed.source));
        self.report.node(words, &seed.source);
        let node = self.node_mut();
        node.seed = Some(seed.clone());
        node.phase = Phase::Running;
        if self.is_up("network") {
            self.greet("network");
        }
        self.supervisor.add(plan.services);
        self.events.push_back(Event::Tick);
        Ok(())
    }

    /// Makes `/var` what the configuration says.
    fn state(&mut self, wanted: &State) -> Result<(), String> {
        if self.node_mut().state_mounted {
            return Ok(());
        }
        let began = clock::boottime_ms();
        match wanted {
            State::Ephemeral(_) => mounts::ephemeral_var().map_err(|e| e.0)?,
            State::Disk(disk) => {
                let name = DiskName::parse(&disk.disk).ok_or("quorate.state.disk names no disk")?;
                let mut steps = Steps { reaper: &mut self.reaper, signals: &self.signals };
                let found = steps.wait_for(&format!("the state disk {}", disk.disk), || {
                    state::devices().into_iter().find(|d| d.is_named(&name))
                })?;
                state::take(&found, disk.wipe, &mut steps)?;
            }
        }
        self.node_mut().state_mounted = true;
        self.report.staged("state", began, true);
        Ok(())
    }

    /// Loads the module that a device asks for, or that has a name.
    pub(crate) fn load_module(&mut self, modalias: &str) {
        if let Some(node) = &mut self.node {
            node.loader.ask(modalias);
        }
    }
}

/// What the agent may look at: small devices only, which it may read because they are its group's for now.
fn request(node: &Node) -> MetadataRequest {
    let media = state::devices()
        .into_iter()
        .filter(|d| (1..=SEED_MAX_BYTES).contains(&d.bytes()))
        .filter(|d| match &node.cmdline.seed {
            Some(name @ DiskName::Serial(_)) => d.is_named(name),
            _ => true,
        })
        .map(|d| d.node())
        .filter(|n| readable_by_agent(Path::new(n)))
        .collect();
    MetadataRequest { cmdline: node.cmdline_text.clone(), dmi_serial: node.dmi_serial.clone(), media }
}

fn readable_by_agent(path: &Path) -> bool {
    let group = Some(nix::unistd::Gid::from_raw(contract::users::QUORATE));
    nix::unistd::chown(path, None, group).is_ok()
        && nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            path,
            Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .is_ok()
}

/// Carries a plan out: dumb.
pub(crate) fn execute(plan: &roles::NodePlan, seed: &NodeSeed) -> Result<(), String> {
    plan.sysctl.iter().for_each(|(key, value)| crate::tables::set(key, value));
    for d in &plan.directories {
        write::directory(Path::new(&d.path), d.mode, d.owner).map_err(|e| format!("{}: {e}", d.path))?;
    }
    for f in &plan.files {
        if let Some(dir) = Path::new(&f.path).parent() {
            fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        write::replace(Path::new(&f.path), f.content.as_bytes(), f.mode, f.owner)
            .map_err(|e| format!("{}: {e}", f.path))?;
    }
    let json = serde_json::to_vec(seed).map_err(|e| e.to_string())?;
    write::replace(Path::new(paths::NODE_JSON), &json, 0o600, 0).map_err(|e| format!("{}: {e}", paths::NODE_JSON))?;
    nix::unistd::sethostname(seed.node.name()).map_err(|e| format!("setting the host name: {e}"))
}

//! `quorate cluster apply`: a cluster that runs becomes what its cluster.toml says now.
//!
//! Nodes that are there no more go in order: a member leaves etcd while the others are a majority, the node stops (and sends
//! its pods elsewhere), its object goes from the API. Then all nodes are seeded anew, those that stay take their new topology
//! one after the other, and new ones are started, one after the other too: an empty member joins by itself.
//!
//! What is done is decided by [`plan`], pure; the rest of the file does it.

use super::seed::{self, dir_of};
use super::spec::Spec;
use super::{leaders, talk, up};
use crate::cli::cluster::Lab;
use crate::keeper::client::{status, tell, which};
use crate::keeper::state::State;
use crate::keeper::{Request, Status};
use crate::place::Refused;
use anyhow::{Context, Result, ensure};
use contract::node::Role;
use lab::clock::Clock;
use lab::probe::etcd;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// A node takes a new seed in a second; guest time.
const TAKES: Duration = Duration::from_secs(30);
/// ... and says so in its voice, which is looked at this often. Guest time.
const LOOK: Duration = Duration::from_millis(100);
/// etcd takes nobody out while its members are not connected, which takes some seconds after the last change. Guest time.
const TAKES_OUT: Duration = Duration::from_secs(30);
/// An apiserver whose flags changed is started anew by its kubelet: from its end to its readiness. Guest time.
const ROLLS: Duration = Duration::from_secs(60);
/// Of one request. Guest time.
const ANSWER: Duration = Duration::from_secs(5);
/// A new node may take so long, guest seconds: a member that joins waits for etcd, a master for its member.
const STARTS: f64 = 120.0;

/// A node as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    name: String,
    roles: BTreeSet<String>,
    is_on: bool,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Out of etcd.
    Leave(String),
    /// In order, and forgotten by the lab.
    Stop(String),
    /// Its object, out of the API.
    Delete(String),
    /// All nodes, anew.
    Seed,
    /// A node takes its new seed while it runs; its apiserver is started anew by it, or not.
    Take(String, bool),
    /// A new node.
    Start(String),
}

/// Decides. `differs`: the nodes to which the new seed says something new, and whether that is of etcd's members.
pub(crate) fn plan(running: &[Known], spec: &Spec, differs: &BTreeMap<String, bool>) -> Result<Vec<Step>, Vec<String>> {
    let words = |roles: &BTreeSet<Role>| roles.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let mut problems = Vec::new();
    let mut steps = Vec::new();
    for known in running {
        let Some(node) = spec.nodes.iter().find(|n| n.name == known.name) else {
            if known.roles.contains(Role::Etcd.word()) {
                steps.push(Step::Leave(known.name.clone()));
            }
            steps.push(Step::Stop(known.name.clone()));
            if [Role::Master, Role::Worker].iter().any(|r| known.roles.contains(r.word())) {
                steps.push(Step::Delete(known.name.clone()));
            }
            continue;
        };
        let (has, wanted) = (&known.roles, words(&node.roles));
        if *has != wanted {
            let list = |r: &BTreeSet<String>| r.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            problems.push(format!(
                "node {}: its roles are {}, and cluster.toml says {}: roles are fixed at a node's first boot; hint: take it \
                 out, apply, and add a node of another name",
                known.name,
                list(has),
                list(&wanted)
            ));
        }
    }
    let stays = |role: Role| {
        let with = |k: &&Known| k.roles.contains(role.word());
        let stay = |k: &Known| spec.nodes.iter().any(|n| n.name == k.name);
        running.iter().find(with).is_none() || running.iter().filter(with).any(stay)
    };
    for role in [Role::Etcd, Role::Master] {
        if !stays(role) {
            problems.push(format!("no node that has the role {role} now would be left: its data would be lost"));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let is_known = |name: &String| running.iter().any(|k| k.name == *name);
    let new = spec.nodes.iter().filter(|n| !is_known(&n.name)).map(|n| n.name.clone());
    let new: Vec<String> = new.collect();
    if steps.is_empty() && new.is_empty() && differs.is_empty() {
        return Ok(steps);
    }
    steps.push(Step::Seed);
    // Where its members are on nodes of their own, an apiserver's flags name them.
    let is_apart = |k: &Known| k.roles.contains(Role::Master.word()) && !k.roles.contains(Role::Etcd.word());
    let takes = running.iter().filter(|k| k.is_on).filter_map(|k| Some((k, *differs.get(&k.name)?)));
    steps.extend(takes.map(|(k, members)| Step::Take(k.name.clone(), members && is_apart(k))));
    steps.extend(new.into_iter().map(Step::Start));
    Ok(steps)
}

impl Step {
    /// For people.
    fn words(&self) -> String {
        match self {
            Self::Leave(n) => format!("{n} leaves etcd"),
            Self::Stop(n) => format!("{n} stops"),
            Self::Delete(n) => format!("{n} leaves Kubernetes"),
            Self::Seed => "all nodes are seeded anew".into(),
            Self::Take(n, true) => format!("{n} takes its new seed, and its apiserver is started anew"),
            Self::Take(n, false) => format!("{n} takes its new seed"),
            Self::Start(n) => format!("{n} starts"),
        }
    }
}

/// `cluster apply`.
pub(crate) fn apply(file: Option<&Path>, lab: &Lab, dry_run: bool) -> Result<()> {
    let (file, spec) = which(file)?;
    let now = status(&spec.cluster.name)?;
    let known = |n: &crate::keeper::state::NodeStatus| Known {
        name: n.name.clone(),
        roles: n.roles.iter().cloned().collect(),
        is_on: n.state != State::Off,
    };
    let running: Vec<Known> = now.nodes.iter().map(known).collect();
    let differs = seed::differing(&spec, &file)?;
    let steps = plan(&running, &spec, &differs)
        .map_err(|p| Refused(p.into_iter().map(|p| format!("{}: {p}", file.display())).collect()))?;
    if steps.is_empty() {
        println!("{} is as {} says", spec.cluster.name, file.display());
        return Ok(());
    }
    if dry_run {
        steps.iter().for_each(|s| println!("{}", s.words()));
        return Ok(());
    }
    let work = Work { file: &file, spec: &spec, clock: Clock::new(now.dilation)? };
    for step in &steps {
        println!("{}", step.words());
        work.done(step, lab).with_context(|| step.words())?;
    }
    Ok(())
}

struct Work<'a> {
    file: &'a Path,
    spec: &'a Spec,
    clock: Clock,
}

impl Work<'_> {
    fn done(&self, step: &Step, lab: &Lab) -> Result<()> {
        let cluster = &self.spec.cluster.name;
        match step {
            Step::Leave(node) => self.leave(node),
            Step::Stop(node) => tell(cluster, &Request::Forget { node: node.clone() }),
            Step::Delete(node) => {
                let path = format!("/api/v1/nodes/{node}");
                talk::administrator(self.spec, self.file, &status(cluster)?, ANSWER)?.delete(&path).map(drop)
            }
            Step::Seed => {
                seed::write(self.spec, self.file)?;
                tell(cluster, &Request::Reload { images: std::path::absolute(&lab.images)? })
            }
            Step::Take(node, rolls) => self.take(node, *rolls),
            Step::Start(node) => {
                tell(cluster, &Request::Start { nodes: vec![node.clone()] })?;
                up::follow(self.spec, std::slice::from_ref(node), up::Patience(STARTS))?;
                up::all_running_ready(self.spec)
            }
        }
    }

    /// Until so much guest time is over; answers what `look` found, or says what it found instead.
    fn until(&self, bound: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + self.clock.host(bound);
        loop {
            match look() {
                Ok(()) => return Ok(()),
                Err(e) if Instant::now() > deadline => return Err(e.context(format!("not within {bound:?}"))),
                Err(_) => std::thread::sleep(self.clock.host(LOOK)),
            }
        }
    }

    /// Asked of the members that stay: the one that goes may be dead.
    fn leave(&self, node: &str) -> Result<()> {
        let seeds = dir_of(self.spec, self.file, "seed");
        let through = |now: &Status| -> Result<()> {
            let mut why = anyhow::anyhow!("no other member can be reached");
            for (_, at) in now.etcd.iter().filter(|(n, _)| n.as_str() != node) {
                match etcd::Client::new(*at, &seeds, self.clock)
                    .and_then(|c| c.patient(ANSWER, self.clock).remove(node))
                {
                    Ok(()) => return Ok(()),
                    Err(e) => why = e,
                }
            }
            Err(why)
        };
        self.until(TAKES_OUT, || through(&status(&self.spec.cluster.name)?))
    }

    fn take(&self, node: &str, rolls: bool) -> Result<()> {
        let cluster = &self.spec.cluster.name;
        let generation = seed::last_generation(&dir_of(self.spec, self.file, "seed"));
        let pod = || leaders::apiserver_of(self.spec, self.file, &status(cluster)?, node, ANSWER);
        let before = if rolls { Some(pod()?) } else { None };
        tell(cluster, &Request::Replan { node: node.into() })?;
        self.until(TAKES, || {
            let now = status(cluster)?;
            let node = now.nodes.iter().find(|n| n.name == node).context("it is gone")?;
            ensure!(node.generation == Some(generation), "it said last: {}", node.said);
            Ok(())
        })?;
        if let Some(before) = before {
            self.until(ROLLS, || {
                let now = pod()?;
                ensure!(now.hash != before.hash, "its apiserver was not started anew yet");
                ensure!(now.is_ready, "its apiserver is not ready");
                Ok(())
            })?;
        }
        up::all_running_ready(self.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, roles: &[&str]) -> Known {
        Known { name: name.into(), roles: roles.iter().map(ToString::to_string).collect(), is_on: true }
    }

    fn example(text: &str) -> Spec {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster.toml");
        std::fs::write(&file, text).expect("written");
        super::super::spec::read(&file).expect("good")
    }

    fn words(running: &[Known], spec: &Spec, differs: &[(&str, bool)]) -> String {
        let differs = differs.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect();
        match plan(running, spec, &differs) {
            Ok(steps) => steps.iter().map(|s| s.words() + "\n").collect(),
            Err(problems) => problems.join("\n"),
        }
    }

    #[test]
    fn what_is_done_in_which_order() {
        let spec = example(include_str!("../../../examples/external.toml"));
        let all = || -> Vec<Known> {
            let known_of = |n: &super::super::spec::Node| Known {
                name: n.name.clone(),
                roles: n.roles.iter().map(ToString::to_string).collect(),
                is_on: true,
            };
            spec.nodes.iter().map(known_of).collect()
        };
        assert_eq!(words(&all(), &spec, &[]), "");
        let changed = [("master-1", true), ("etcd-1", true), ("lb-1", false)];
        let mut running = all();
        running.retain(|k| k.name != "etcd-3" && k.name != "worker-1");
        running.extend([known("etcd-9", &["etcd"]), known("worker-9", &["worker"])]);
        insta::assert_snapshot!(words(&running, &spec, &changed));
        // One that is off takes its seed when it starts.
        let mut off = all();
        off.iter_mut().for_each(|k| k.is_on = false);
        assert_eq!(words(&off, &spec, &changed), "all nodes are seeded anew\n");
    }

    #[test]
    fn what_cannot_be_applied() {
        let spec = example(include_str!("../../../examples/etcd.toml"));
        let other = [known("etcd-1", &["etcd"]), known("etcd-2", &["etcd", "lb"])];
        assert!(words(&other, &spec, &[]).contains("etcd-2: its roles are etcd, lb, and cluster.toml says etcd"));
        assert!(words(&[known("old-1", &["etcd"])], &spec, &[]).contains("its data would be lost"));
    }
}

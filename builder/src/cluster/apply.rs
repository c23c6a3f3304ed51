//! `quorate cluster apply`: a cluster that runs becomes what its cluster.toml says now.
//!
//! Nodes that are there no more go in order: a member leaves etcd while the others are a majority, the node stops (and sends
//! its pods elsewhere), its object goes from the API, and only then the lab forgets it. Then all nodes are seeded anew, those
//! that stay take their new topology one after the other, and new ones are started, one after the other too: an empty member
//! joins by itself. What was interrupted is finished by the same command: each step is one that may be done again.
//!
//! What is done is decided by [`plan`], pure; the rest of the file does it.

use super::seed::{self, dir_of};
use super::spec::Spec;
use super::{leaders, talk, up};
use crate::keeper::client::{status, tell, which};
use crate::keeper::state::State;
use crate::keeper::{Request, Status};
use crate::place::Refused;
use anyhow::{Context, Result, ensure};
use contract::node::Role;
use contract::ports::ETCD_CLIENT;
use lab::clock::Clock;
use lab::probe::etcd;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// A node takes a new seed in a second; guest time.
const TAKES: Duration = Duration::from_secs(30);
/// ... and says so in its voice, which is looked at this often. Guest time.
const LOOK: Duration = Duration::from_millis(100);
/// A node that leaves sends its pods elsewhere before (init's bound for all of it is a minute). Guest time.
const LEAVES: Duration = Duration::from_secs(70);
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
    /// It has the last seeding.
    is_current: bool,
}

/// One thing that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Out of etcd.
    Leave(String),
    /// In order.
    Stop(String),
    /// Its object, out of the API.
    Delete(String),
    /// Its place and its disk, out of the lab.
    Forget(String),
    /// All nodes, anew.
    Seed,
    /// A node takes its new seed while it runs.
    Take(String),
    /// A new node.
    Start(String),
}

/// Decides. `differs`: whether the seeds that there are say something else than the description does.
pub(crate) fn plan(running: &[Known], spec: &Spec, differs: bool) -> Result<Vec<Step>, Vec<String>> {
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
            steps.push(Step::Forget(known.name.clone()));
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
    // One number for all: whoever has an older one has something to learn, now or from a run that was interrupted.
    let seeds = differs || !steps.is_empty() || !new.is_empty();
    if seeds {
        steps.push(Step::Seed);
    }
    let takes = running.iter().filter(|k| k.is_on && (seeds || !k.is_current));
    let stay = takes.filter(|k| spec.nodes.iter().any(|n| n.name == k.name));
    steps.extend(stay.map(|k| Step::Take(k.name.clone())));
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
            Self::Forget(n) => format!("{n} and its disk are gone"),
            Self::Take(n) => format!("{n} takes its new seed"),
            Self::Start(n) => format!("{n} starts"),
        }
    }
}

/// `cluster apply`.
pub(crate) fn apply(file: Option<&Path>, images: &Path, dry_run: bool) -> Result<()> {
    let (file, spec) = which(file)?;
    let now = status(&spec.cluster.name)?;
    let last = seed::last_generation(&dir_of(&spec, &file, "seed"));
    let known = |n: &crate::keeper::state::NodeStatus| Known {
        name: n.name.clone(),
        roles: n.roles.iter().cloned().collect(),
        is_on: n.state != State::Off,
        is_current: n.generation == Some(last),
    };
    let running: Vec<Known> = now.nodes.iter().map(known).collect();
    let steps = plan(&running, &spec, seed::differs(&spec, &file)?)
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
        work.done(step, images).with_context(|| step.words())?;
    }
    Ok(())
}

struct Work<'a> {
    file: &'a Path,
    spec: &'a Spec,
    clock: Clock,
}

impl Work<'_> {
    fn done(&self, step: &Step, images: &Path) -> Result<()> {
        let cluster = &self.spec.cluster.name;
        match step {
            Step::Leave(node) => self.leave(node),
            Step::Stop(node) => self.stop(node),
            Step::Forget(node) => tell(cluster, &Request::Forget { node: node.clone() }),
            Step::Delete(node) => {
                let path = format!("/api/v1/nodes/{node}");
                talk::administrator(self.spec, self.file, &status(cluster)?, ANSWER)?.delete(&path).map(drop)
            }
            Step::Seed => {
                seed::write(self.spec, self.file)?;
                tell(cluster, &Request::Reload { images: std::path::absolute(images)? })
            }
            Step::Take(node) => self.take(node),
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

    /// One that does not end in time loses its power when it is forgotten.
    fn stop(&self, node: &str) -> Result<()> {
        let cluster = &self.spec.cluster.name;
        let is_on =
            || -> Result<bool> { Ok(status(cluster)?.nodes.iter().any(|n| n.name == node && n.state != State::Off)) };
        if !is_on()? {
            return Ok(());
        }
        tell(cluster, &Request::Stop { node: node.into() })?;
        let ended = self.until(LEAVES, || {
            ensure!(!is_on()?, "it still runs");
            Ok(())
        });
        if let Err(e) = ended {
            eprintln!("quorate: {node}: {e:#}: its power is cut");
        }
        Ok(())
    }

    fn take(&self, node: &str) -> Result<()> {
        let cluster = &self.spec.cluster.name;
        let generation = seed::last_generation(&dir_of(self.spec, self.file, "seed"));
        tell(cluster, &Request::Replan { node: node.into() })?;
        self.until(TAKES, || {
            let now = status(cluster)?;
            let node = now.nodes.iter().find(|n| n.name == node).context("it is gone")?;
            ensure!(node.generation == Some(generation), "it said last: {}", node.said);
            Ok(())
        })?;
        let has = |role: Role| self.spec.nodes.iter().any(|n| n.name == node && n.roles.contains(&role));
        if has(Role::Master) && !has(Role::Etcd) {
            self.rolled(node)?;
        }
        up::all_running_ready(self.spec)
    }

    /// Where its members are on nodes of their own, an apiserver's flags name them: its kubelet starts it anew when they change.
    fn rolled(&self, node: &str) -> Result<()> {
        let members = self.spec.nodes.iter().filter(|n| n.roles.contains(&Role::Etcd));
        let wanted = members.map(|n| format!("https://{}", SocketAddr::new(n.address.addr(), ETCD_CLIENT)));
        let wanted: BTreeSet<String> = wanted.collect();
        self.until(ROLLS, || {
            let pod = leaders::apiserver_of(self.spec, self.file, &status(&self.spec.cluster.name)?, node, ANSWER)?;
            ensure!(pod.etcd_servers == wanted, "its apiserver was not started anew yet");
            ensure!(pod.is_ready, "its apiserver is not ready");
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, roles: &[&str]) -> Known {
        let roles = roles.iter().map(ToString::to_string).collect();
        Known { name: name.into(), roles, is_on: true, is_current: true }
    }

    fn example(text: &str) -> Spec {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster.toml");
        std::fs::write(&file, text).expect("written");
        super::super::spec::read(&file).expect("good")
    }

    fn as_described(spec: &Spec) -> Vec<Known> {
        let roles = |n: &super::super::spec::Node| n.roles.iter().map(|r| r.word()).collect::<Vec<_>>();
        spec.nodes.iter().map(|n| known(&n.name, &roles(n))).collect()
    }

    fn words(running: &[Known], spec: &Spec, differs: bool) -> String {
        match plan(running, spec, differs) {
            Ok(steps) => steps.iter().map(|s| s.words() + "\n").collect(),
            Err(problems) => problems.join("\n"),
        }
    }

    #[test]
    fn what_is_done_in_which_order() {
        let spec = example(include_str!("../../../examples/external.toml"));
        assert_eq!(words(&as_described(&spec), &spec, false), "");
        let mut running = as_described(&spec);
        running.retain(|k| k.name != "etcd-3" && k.name != "worker-1");
        running.extend([known("etcd-9", &["etcd"]), known("worker-9", &["worker"])]);
        insta::assert_snapshot!(words(&running, &spec, true));
        // One that is off takes its seed when it starts.
        let mut off = as_described(&spec);
        off.iter_mut().for_each(|k| k.is_on = false);
        assert_eq!(words(&off, &spec, true), "all nodes are seeded anew\n");
    }

    #[test]
    fn what_was_interrupted_is_finished() {
        let spec = example(include_str!("../../../examples/etcd.toml"));
        let mut running = as_described(&spec);
        running[1].is_current = false;
        assert_eq!(words(&running, &spec, false), "etcd-2 takes its new seed\n");
    }

    #[test]
    fn what_cannot_be_applied() {
        let spec = example(include_str!("../../../examples/etcd.toml"));
        let other = [known("etcd-1", &["etcd"]), known("etcd-2", &["etcd", "lb"])];
        assert!(words(&other, &spec, false).contains("etcd-2: its roles are etcd, lb, and cluster.toml says etcd"));
        assert!(words(&[known("old-1", &["etcd"])], &spec, false).contains("its data would be lost"));
    }
}

//! A node that runs takes a new topology: the source is read again, and when its generation is higher, what differs between
//! the two plans is applied. Identity never changes; a source that cannot be read changes nothing.

use crate::boot::{clock, identity, log};
use crate::roles::{self, NodePlan};
use crate::seek::execute;
use crate::supervise::run::World;
use crate::supervise::step::Event;
use contract::seed::NodeSeed;
use contract::service::Service;
use serde::Serialize;

/// What differs between two plans of one node.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// Services whose definition changed: they are replaced, and started anew.
    pub(crate) changed: Vec<Service>,
    /// Services that read a file which changed, by name: they are told to read it again, or started anew.
    pub(crate) reread: Vec<String>,
    /// Services that are new.
    pub(crate) added: Vec<Service>,
    /// Services that are planned no more; they go on until the next boot.
    pub(crate) gone: Vec<String>,
}

/// A service reads the files that its command names; the agent that looks after the node reads the seed itself.
pub(crate) fn difference(old: &NodePlan, new: &NodePlan) -> Difference {
    let mut d = Difference::default();
    let rewritten = |path: &str| new.files.iter().any(|f| f.path == path && !old.files.contains(f));
    for service in &new.services {
        match old.services.iter().find(|s| s.name == service.name) {
            None => d.added.push(service.clone()),
            Some(before) if before != service => d.changed.push(service.clone()),
            Some(_) if service.name == NODE_AGENT || service.command.iter().any(|w| rewritten(w)) => {
                d.reread.push(service.name.clone());
            }
            Some(_) => {}
        }
    }
    let names = |s: &&Service| !new.services.iter().any(|n| n.name == s.name);
    d.gone = old.services.iter().filter(names).map(|s| s.name.clone()).collect();
    d
}

const NODE_AGENT: &str = "node";

impl World {
    /// The source may have another configuration.
    pub(crate) fn replan(&mut self) {
        let Some(node) = self.node.as_mut().filter(|n| n.is_running()) else { return self.look_again() };
        if !node.begin_replan(clock::boottime_ms()) {
            return;
        }
        if let Err(e) = self.spawn(&roles::metadata()) {
            self.report.notice("error", &format!("starting the metadata agent: {e}"));
            // It may be asked for again.
            let _ = self.node.as_mut().map(crate::seek::Node::end_replan);
        }
    }

    /// What the source has, while the node runs.
    pub(crate) fn replanned(&mut self, found: NodeSeed) {
        let Some(current) = self.node.as_ref().and_then(|n| n.seed().cloned()) else { return };
        let generation = found.node.generation;
        let (counts, said) = identity::decide(Some(current.clone()), Some(found));
        if let Some(text) = said {
            self.report.notice("warning", &text);
        }
        let Some(new) = counts.filter(|s| s.node.generation > current.node.generation) else {
            return log::say(&format!("the source has generation {generation}, this node {}", current.node.generation));
        };
        if let Err(e) = self.apply(&current, &new) {
            self.report.notice("error", &format!("generation {generation} is not taken: {e}"));
        }
    }

    fn apply(&mut self, current: &NodeSeed, new: &NodeSeed) -> Result<(), String> {
        let (before, plan) = (roles::plan(current)?, roles::plan(new)?);
        let d = difference(&before, &plan);
        identity::keep(new).map_err(|e| format!("keeping the seed: {e}"))?;
        execute(&plan, new)?;
        if let Some(node) = &mut self.node {
            node.set_seed(new.clone());
        }
        if current.network != new.network || current.node.node.address != new.node.node.address {
            self.greet("network");
        }
        for name in &d.gone {
            self.report.notice("warning", &format!("{name} is not planned any more; it goes on until the next boot"));
        }
        let changed: Vec<String> = d.changed.iter().map(|s| s.name.clone()).collect();
        log::say(&format!(
            "generation {}: {} started anew, {} read again",
            new.node.generation,
            list(&changed),
            list(&d.reread)
        ));
        for service in d.changed {
            self.events.push_back(Event::Restart { service: service.name.clone() });
            self.supervisor.replace(service);
        }
        self.events.extend(d.reread.into_iter().map(|service| Event::Reread { service }));
        self.supervisor.add(d.added);
        Ok(())
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::tests::seed;

    #[test]
    fn only_what_differs() {
        let old = seed();
        let plan = |s: &NodeSeed| roles::plan(s).expect("a plan");
        assert_eq!(difference(&plan(&old), &plan(&old)).reread, ["node"], "it reads the seed itself");
        let mut new = old.clone();
        new.node.ntp = vec!["10.0.0.1".into()];
        let d = difference(&plan(&old), &plan(&new));
        assert_eq!(d.added.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["chrony"]);
        let mut other = new.clone();
        other.node.ntp = vec!["10.0.0.2".into()];
        assert_eq!(difference(&plan(&new), &plan(&other)).reread, ["chrony", "node"]);
        assert_eq!(difference(&plan(&new), &plan(&old)).gone, ["chrony"]);
        new.node.etcd = Some(contract::node::Etcd { heartbeat_ms: 100, election_ms: 1000, ..Default::default() });
        assert_eq!(difference(&plan(&old), &plan(&new)).changed[0].name, "etcd");
    }
}

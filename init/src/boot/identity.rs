//! What a node remembers of itself: its identity, written once, and its seed in two slots, written in turn.

use super::write::replace;
use contract::paths::{IDENTITY_JSON, NODE_SLOTS, STATE};
use contract::seed::{Identity, NodeSeed, Slot};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// A slot's file: the sha256 of the rest on its first line, so that a half-written one is known.
fn encode(slot: &Slot) -> Result<Vec<u8>, String> {
    let body = serde_json::to_string(slot).map_err(|e| e.to_string())?;
    Ok(format!("{}\n{body}", digest(body.as_bytes())).into_bytes())
}

fn decode(bytes: &[u8]) -> Option<Slot> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (sum, body) = text.split_once('\n')?;
    (digest(body.as_bytes()) == sum).then(|| serde_json::from_str(body).ok()).flatten()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The newer of the whole slots.
fn newest(root: &Path) -> Option<Slot> {
    NODE_SLOTS
        .iter()
        .filter_map(|p| decode(&fs::read(root.join(p.trim_start_matches('/'))).ok()?))
        .max_by_key(|s| s.sequence)
}

/// The seed that this node keeps.
pub(crate) fn kept() -> Option<NodeSeed> {
    newest(Path::new("/")).map(|s| s.seed)
}

/// Keeps a seed, and the identity when it is the first.
pub(crate) fn keep(seed: &NodeSeed) -> Result<(), String> {
    keep_at(Path::new("/"), seed)
}

fn keep_at(root: &Path, seed: &NodeSeed) -> Result<(), String> {
    let at = |p: &str| root.join(p.trim_start_matches('/'));
    fs::create_dir_all(at(STATE)).map_err(|e| e.to_string())?;
    let identity = at(IDENTITY_JSON);
    if !identity.exists() {
        let bytes = serde_json::to_vec(&Identity::of(&seed.node)).map_err(|e| e.to_string())?;
        replace(&identity, &bytes, 0o600, 0).map_err(|e| format!("{IDENTITY_JSON}: {e}"))?;
    }
    let sequence = newest(root).map_or(0, |s| s.sequence) + 1;
    // Never the slot that holds the newest: odd numbers in the first, even ones in the second.
    let slot = NODE_SLOTS[usize::from(sequence.is_multiple_of(2))];
    let bytes = encode(&Slot { sequence, seed: seed.clone() })?;
    replace(&at(slot), &bytes, 0o600, 0).map_err(|e| format!("{slot}: {e}"))
}

/// Which seed counts: the kept one, unless the source has a higher generation of the same identity. Says what was
/// refused or taken.
pub(crate) fn decide(kept: Option<NodeSeed>, found: Option<NodeSeed>) -> (Option<NodeSeed>, Option<String>) {
    match (kept, found) {
        (None, found) => (found, None),
        (Some(kept), None) => (Some(kept), None),
        (Some(kept), Some(found)) => {
            if let Some(why) = Identity::of(&kept.node).differs(&Identity::of(&found.node)) {
                let text = format!("the seed of {} is of another identity and is not taken: {why}", found.source);
                return (Some(kept), Some(text));
            }
            if found.node.generation > kept.node.generation {
                let text = format!(
                    "generation {} of {} replaces {}",
                    found.node.generation, found.source, kept.node.generation
                );
                return (Some(found), Some(text));
            }
            (Some(kept), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::tests::seed;

    #[test]
    fn slots_alternate_and_survive_damage() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut s = seed();
        for generation in 1..=3 {
            s.node.generation = generation;
            // chown needs root: the tests that run as somebody else stop here.
            if let Err(e) = keep_at(dir.path(), &s) {
                assert!(!nix::unistd::geteuid().is_root(), "{e}");
                return;
            }
        }
        let newest_generation = || newest(dir.path()).map(|s| s.seed.node.generation);
        assert_eq!(newest_generation(), Some(3));
        let slot = dir.path().join(NODE_SLOTS[0].trim_start_matches('/'));
        let mut bytes = fs::read(&slot).expect("there");
        let last = bytes.len() - 5;
        bytes[last] ^= 1;
        fs::write(&slot, bytes).expect("damaged");
        assert_eq!(newest_generation(), Some(2), "the other slot");
        assert!(dir.path().join(IDENTITY_JSON.trim_start_matches('/')).exists());
    }

    #[test]
    fn identity_is_kept_and_topology_follows() {
        let (old, mut new) = (seed(), seed());
        assert_eq!(decide(None, Some(old.clone())).0, Some(old.clone()));
        new.node.generation = 2;
        assert_eq!(decide(Some(old.clone()), Some(new.clone())).0, Some(new.clone()));
        assert_eq!(decide(Some(new.clone()), Some(old.clone())).0, Some(new.clone()), "a lower one is ignored");
        new.node.cluster.id = "0000000000000000".into();
        let (counts, said) = decide(Some(old.clone()), Some(new));
        assert_eq!(counts, Some(old));
        assert!(said.expect("a message").contains("cluster.id"));
    }
}

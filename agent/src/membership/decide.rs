//! The rule by which a member starts: a pure function of what it has and what the others say.
//!
//! 1. Data there (formed, or bootstrapping with a log of its own): start with it; nothing else, ever.
//! 2. Empty, and somebody sees a leader: join with a new identity.
//! 3. Empty, nobody sees a leader, and all the others say `none` or `bootstrapping` with the same digest: the static list.
//! 4. Otherwise wait, saying for whom.

use super::mark::Mark;
use contract::node::Bootstrap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a member has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// The mark beside the data directory.
    pub(crate) mark: Option<Mark>,
    /// Whether etcd has a log there.
    pub(crate) log: bool,
    /// Of the static list that it was told.
    pub(crate) digest: String,
}

/// What a member answers to the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// Its mark.
    pub(crate) mark: Option<Mark>,
    /// Whether its etcd sees a leader.
    pub(crate) leader: bool,
    /// The restore that its data comes from, 0 = none ([`super::restore`]).
    #[serde(default)]
    pub(crate) restore: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start with the data that is there.
    Resume,
    /// Take a new identity from the cluster that these members see.
    Join(Vec<String>),
    /// Start with the static list.
    Bootstrap,
    /// Not yet; for whom, and why.
    Wait(String),
}

/// Decides. `others` are all members but this one; none = no answer.
pub(crate) fn decide(own: &Own, others: &BTreeMap<String, Option<Answer>>, bootstrap: Bootstrap) -> Decision {
    match (&own.mark, own.log) {
        (Some(Mark::Formed), true) => return Decision::Resume,
        (Some(Mark::Bootstrapping { digest }), true) => {
            let differing = others.iter().find(
                |(_, a)| matches!(a, Some(Answer { mark: Some(Mark::Bootstrapping { digest: d }), .. }) if d != digest),
            );
            return match differing {
                None => Decision::Resume,
                Some((name, _)) => Decision::Wait(format!("{name} bootstraps with another list of members")),
            };
        }
        // A mark without a log: etcd never wrote, or the data was taken away. A log without a mark: not made by us.
        (None, true) => {
            return Decision::Wait(
                "the data directory is not empty, but has no mark: it is not this node's doing".into(),
            );
        }
        (_, false) => {}
    }
    let leaders: Vec<String> =
        others.iter().filter(|(_, a)| a.as_ref().is_some_and(|a| a.leader)).map(|(n, _)| n.clone()).collect();
    if !leaders.is_empty() {
        return Decision::Join(leaders);
    }
    if own.mark == Some(Mark::Formed) {
        return Decision::Wait(format!("this member had data and lost it; a leader among {}", names(others.keys())));
    }
    let mut willing = 1;
    let mut silent = Vec::new();
    for (name, answer) in others {
        match answer {
            None => silent.push(name),
            Some(Answer { mark: None, .. }) => willing += 1,
            Some(Answer { mark: Some(Mark::Bootstrapping { digest }), .. }) if *digest == own.digest => willing += 1,
            Some(Answer { mark: Some(Mark::Bootstrapping { .. }), .. }) => {
                return Decision::Wait(format!("{name} bootstraps with another list of members"));
            }
            // It has data, but no leader: a cluster that lost its majority, never a reason for a second one.
            Some(Answer { mark: Some(Mark::Formed), .. }) => {
                return Decision::Wait(format!("{name} has data, but sees no leader"));
            }
        }
    }
    let enough = bootstrap == Bootstrap::Majority && willing > others.len().div_ceil(2);
    if silent.is_empty() || enough {
        return Decision::Bootstrap;
    }
    Decision::Wait(format!("{} did not answer yet", names(silent)))
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own(mark: Option<Mark>, log: bool) -> Own {
        Own { mark, log, digest: "d".into() }
    }

    fn bootstrapping(digest: &str) -> Option<Mark> {
        Some(Mark::Bootstrapping { digest: digest.into() })
    }

    fn says(mark: Option<Mark>, leader: bool) -> Option<Answer> {
        Some(Answer { mark, leader, restore: 0 })
    }

    fn others(answers: [Option<Answer>; 2]) -> BTreeMap<String, Option<Answer>> {
        ["b", "c"].map(String::from).into_iter().zip(answers).collect()
    }

    #[test]
    fn the_rule_row_by_row() {
        let silent = || others([None, None]);
        let empty = || others([says(None, false), says(bootstrapping("d"), false)]);
        let cases = [
            ("formed data, alone", own(Some(Mark::Formed), true), silent(), Decision::Resume),
            (
                "formed data, a leader elsewhere",
                own(Some(Mark::Formed), true),
                others([says(Some(Mark::Formed), true), None]),
                Decision::Resume,
            ),
            ("bootstrapping with a log", own(bootstrapping("d"), true), silent(), Decision::Resume),
            (
                "bootstrapping with a log, against another list",
                own(bootstrapping("d"), true),
                others([says(bootstrapping("e"), false), None]),
                Decision::Wait("b bootstraps with another list of members".into()),
            ),
            ("first boot, all willing", own(None, false), empty(), Decision::Bootstrap),
            ("first boot, cut off before the log", own(bootstrapping("d"), false), empty(), Decision::Bootstrap),
            (
                "first boot, one missing",
                own(None, false),
                others([says(None, false), None]),
                Decision::Wait("c did not answer yet".into()),
            ),
            (
                "late: a leader is there",
                own(None, false),
                others([says(Some(Mark::Formed), true), None]),
                Decision::Join(vec!["b".into()]),
            ),
            (
                "wiped, the cluster without a majority",
                own(None, false),
                others([says(Some(Mark::Formed), false), says(None, false)]),
                Decision::Wait("b has data, but sees no leader".into()),
            ),
            (
                "formed, but the data is gone and nobody leads",
                own(Some(Mark::Formed), false),
                empty(),
                Decision::Wait("this member had data and lost it; a leader among b, c".into()),
            ),
            (
                "somebody else's data",
                own(None, true),
                empty(),
                Decision::Wait("the data directory is not empty, but has no mark: it is not this node's doing".into()),
            ),
        ];
        for (what, own, others, want) in cases {
            assert_eq!(decide(&own, &others, Bootstrap::All), want, "{what}");
        }
        assert_eq!(decide(&own(None, false), &BTreeMap::new(), Bootstrap::All), Decision::Bootstrap, "alone");
        let one_missing = others([says(None, false), None]);
        assert_eq!(
            decide(&own(None, false), &one_missing, Bootstrap::Majority),
            Decision::Bootstrap,
            "the operator's word"
        );
        assert!(matches!(decide(&own(None, false), &silent(), Bootstrap::Majority), Decision::Wait(_)));
    }

    fn mark() -> impl Strategy<Value = Option<Mark>> {
        prop_oneof![Just(None), Just(Some(Mark::Formed)), Just(bootstrapping("d")), Just(bootstrapping("e"))]
    }

    proptest! {
        /// Whatever is said: data is never bootstrapped over, and nobody bootstraps beside a member that has data.
        #[test]
        fn never_two_clusters(own_mark in mark(), log: bool, b in proptest::option::of((mark(), any::<bool>())), c in proptest::option::of((mark(), any::<bool>())), majority: bool) {
            let answers = [b, c].map(|a| a.map(|(mark, leader)| Answer { mark, leader, restore: 0 }));
            let somebody_formed = answers.iter().flatten().any(|a| a.mark == Some(Mark::Formed) || a.leader);
            let policy = if majority { Bootstrap::Majority } else { Bootstrap::All };
            let decision = decide(&own(own_mark.clone(), log), &others(answers), policy);
            if decision == Decision::Bootstrap {
                prop_assert!(!log && !somebody_formed && own_mark != Some(Mark::Formed));
            }
            if log {
                prop_assert!(matches!(decision, Decision::Resume | Decision::Wait(_)));
            }
        }
    }
}

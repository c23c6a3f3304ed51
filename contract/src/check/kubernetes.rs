//! What masters and workers must be told, and what they must not know.

use super::Checker;
use crate::node::{NodeConfig, Role};

/// 32 bytes as base64: 43 letters and one `=`.
fn is_key(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    text.len() == 44 && text.strip_suffix('=').is_some_and(|t| t.bytes().all(letter))
}

pub(super) fn check(c: &mut Checker, config: &NodeConfig) {
    let key = "quorate.kubernetes";
    let (is_master, k) = (config.roles.contains(&Role::Master), config.kubernetes());
    if !config.has_kubelet() {
        return c.unless(config.kubernetes.is_none(), key, || {
            "stands on a node without `master` or `worker`: it must not travel there".into()
        });
    }
    c.unless(config.cluster.endpoint.is_some(), "quorate.cluster.endpoint", || {
        "is missing; every kubelet and client reaches the API by it".into()
    });
    for (node, token) in &k.bootstrap_tokens {
        // k8s.io/cluster-bootstrap/token/api: BootstrapTokenPattern.
        let part =
            |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let good = token.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16));
        c.unless(good, &format!("{key}.bootstrap_tokens.{node}"), || {
            "expected six and sixteen lower-case letters or digits, with a dot between".into()
        });
    }
    for taint in &k.taints {
        let good = taint.rsplit_once(':').is_some_and(|(key, effect)| {
            !key.is_empty() && ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
        });
        c.unless(good, &format!("{key}.taints"), || {
            format!("`{taint}`: expected key:Effect or key=value:Effect with NoSchedule, PreferNoSchedule or NoExecute")
        });
    }
    let (pods, services) = (config.pod_subnet(), config.service_subnet());
    c.unless(
        !pods.contains(&services.addr()) && !services.contains(&pods.addr()),
        "quorate.cluster.pod_subnet",
        || format!("{pods} and the services' {services} overlap"),
    );
    let own = config.node.address;
    c.unless(!pods.contains(&own) && !services.contains(&own), "quorate.node.address", || {
        format!("{own} is an address of pods ({pods}) or services ({services})")
    });
    if is_master {
        let good = k.encryption_key.as_deref().is_some_and(is_key);
        c.unless(good, &format!("{key}.encryption_key"), || "expected 32 bytes as base64".into());
        match config.masters.get(config.name()) {
            Some(a) if *a == own => {}
            Some(a) => c.say("quorate.masters", format!("{} has {a} there, and {own} in node.address", config.name())),
            None => c.say(
                "quorate.masters",
                format!("this node `{}` has the role master, but is not among them", config.name()),
            ),
        }
    } else {
        c.unless(k.encryption_key.is_none(), &format!("{key}.encryption_key"), || {
            "on a node without `master`: it must not travel there".into()
        });
        c.unless(k.workers.is_empty(), &format!("{key}.workers"), || {
            "on a node without `master`: it must not travel there".into()
        });
        let own = [config.name()];
        c.unless(k.bootstrap_tokens.keys().eq(own), &format!("{key}.bootstrap_tokens"), || {
            format!("expected one for `{}`, and no other node's", config.name())
        });
    }
}

//! The role etcd: one service, native, with three CAs.
//!
//! Flags follow kubeadm's static pod (`--snapshot-count`, `--watch-progress-notify-interval`) and etcd 3.7's own
//! documentation. Its membership is decided by the agent, after this plan: `ETCD_INITIAL_CLUSTER`,
//! `ETCD_INITIAL_CLUSTER_STATE` and `ETCD_FEATURE_GATES` (whether its data is compared with the others' before it serves)
//! come from its environment file.

use super::{NodePlan, directory, owned};
use contract::control::condition::{ADDRESS, FORMED, MEMBER, PKI, SNAPSHOT};
use contract::node::{NodeConfig, Restore};
use contract::ports::{ETCD_CLIENT, ETCD_METRICS, ETCD_PEER};
use contract::service::{Ready, Service};
use contract::{paths, users};
use std::net::{IpAddr, SocketAddr};

/// Adds it to a plan.
pub(crate) fn add(config: &NodeConfig, plan: &mut NodePlan) {
    plan.directories.push(directory(paths::ETCD_DATA, 0o700, users::ETCD));
    plan.directories.push(directory(&format!("{}/etcd", paths::PKI), 0o755, users::ROOT));
    plan.directories.push(directory(paths::SNAPSHOTS, 0o700, users::ETCD));
    if let Some(wanted) = config.etcd_settings().restore.filter(|r| r.member == config.name()) {
        plan.services.extend(restore(config, &wanted));
    }
    plan.services.push(Service {
        user: users::ETCD,
        // etcd's own collector lets memory grow to twice what is live; this is a hint, not a limit.
        env: [("HOME".to_owned(), "/".to_owned())].into(),
        environment_from: Some(format!("{}/etcd", paths::ENV)),
        needs: owned(&[ADDRESS, PKI, MEMBER]),
        // The apiserver on this node writes to it to the end.
        stops_after: owned(if config.has_kubelet() { &["containerd"] } else { &[] }),
        ready: Ready::NotifyThenDone(owned(&[FORMED])),
        pids_max: Some(1024),
        ..Service::of("etcd", command(config))
    });
}

/// Two programs that are run once, when the snapshot is there: the first makes etcd's data of it, the second puts that in
/// its place. Where it was done on an earlier boot they end at once.
fn restore(config: &NodeConfig, wanted: &Restore) -> [Service; 2] {
    let number = wanted.number.to_string();
    let once = |name: &str, user, needs: &[&str], command: Vec<String>| Service {
        user,
        needs: owned(needs),
        ready: Ready::Ended,
        pids_max: Some(1024),
        ..Service::of(name, command)
    };
    let peer = format!("https://{}", SocketAddr::new(config.node.address, ETCD_PEER));
    let name = config.name();
    // Kubernetes' watches must not find revisions again that they have seen already with other contents (etcd's
    // documentation, "Restoring with revision bump").
    let make = [
        paths::AGENT,
        "restore-etcd",
        &number,
        "/usr/bin/etcdutl",
        "snapshot",
        "restore",
        &format!("{}-{number}", paths::SNAPSHOT_TO_RESTORE),
        &format!("--data-dir={}", paths::ETCD_RESTORING),
        &format!("--name={name}"),
        &format!("--initial-cluster={name}={peer}"),
        &format!("--initial-advertise-peer-urls={peer}"),
        &format!("--initial-cluster-token={}-{number}", config.cluster.id),
        &format!("--bump-revision={REVISIONS}"),
        "--mark-compacted",
    ];
    let take = [paths::AGENT, "take-restored", &number];
    [
        once("etcd-restore", users::ETCD, &[SNAPSHOT], owned(&make)),
        once("etcd-restored", users::ROOT, &["etcd-restore"], owned(&take)),
    ]
}

/// More than a cluster writes between a snapshot and its loss.
const REVISIONS: u64 = 1_000_000_000;

fn command(config: &NodeConfig) -> Vec<String> {
    let etcd = config.etcd_settings();
    let own = config.node.address;
    let url = |scheme: &str, ip: IpAddr, port| format!("{scheme}://{}", SocketAddr::new(ip, port));
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let pki = |file: &str| format!("{}/etcd/{file}", paths::PKI);
    let client = url("https", own, ETCD_CLIENT);
    let peer = url("https", own, ETCD_PEER);
    let flags = [
        ("name", config.name().to_owned()),
        ("data-dir", paths::ETCD_DATA.to_owned()),
        ("initial-cluster-token", config.cluster.id.clone()),
        ("listen-client-urls", format!("{client},{}", url("https", loopback, ETCD_CLIENT))),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("listen-metrics-urls", url("http", loopback, ETCD_METRICS)),
        ("cert-file", pki("server.crt")),
        ("key-file", pki("server.key")),
        ("trusted-ca-file", pki("client-trust.crt")),
        ("client-cert-auth", "true".into()),
        ("peer-cert-file", pki("peer.crt")),
        ("peer-key-file", pki("peer.key")),
        ("peer-trusted-ca-file", pki("peer-ca.crt")),
        ("peer-client-cert-auth", "true".into()),
        ("tls-min-version", "TLS1.3".into()),
        ("heartbeat-interval", etcd.heartbeat_ms.to_string()),
        ("election-timeout", etcd.election_ms.to_string()),
        ("quota-backend-bytes", etcd.quota_bytes.to_string()),
        ("snapshot-count", "10000".into()),
        ("watch-progress-notify-interval", "5s".into()),
        ("logger", "zap".into()),
        ("log-level", "info".into()),
    ];
    let flags = flags.into_iter().map(|(k, v)| format!("--{k}={v}"));
    std::iter::once("/usr/bin/etcd".to_owned()).chain(flags).collect()
}

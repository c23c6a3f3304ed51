//! A seed for every node: `<name>.seed/<node>/{user-data,meta-data,network-config,seed.iso}`, and the operator's
//! certificates beside. Every NodeConfig passes the boot's own validator before anything is written.

use super::secrets::{Secrets, keep};
use super::spec::{Node, Spec};
use crate::format::iso9660;
use crate::place::Refused;
use crate::store::{write_whole, write_whole_mode};
use anyhow::{Context, Result};
use contract::node::{self, Ca, NodeConfig, Pki, ProvidedBy, Restore, Role, State};
use metadata::assemble::{Files, Transport, assemble};
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The files of one node's seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFiles {
    pub(crate) user_data: String,
    pub(crate) meta_data: String,
    pub(crate) network_config: String,
}

/// Where a cluster's secrets and seeds lie: beside its file, by its name.
pub(crate) fn dir_of(spec: &Spec, file: &Path, ending: &str) -> PathBuf {
    file.with_file_name(format!("{}.{ending}", spec.cluster.name))
}

/// Makes and writes all seeds; returns their directory.
pub(crate) fn write(spec: &Spec, file: &Path) -> Result<PathBuf> {
    let before = restore(&dir_of(spec, file, "seed"))?;
    write_with(spec, file, before.as_ref())
}

/// The restore that a cluster's data comes from, as its seeds tell it.
pub(crate) fn restore(dir: &Path) -> Result<Option<Restore>> {
    let path = dir.join(RESTORE);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

/// Seeds all nodes anew, with a restore that members carry out when they start again.
pub(crate) fn begin_restore(spec: &Spec, file: &Path, member: &str, sha256: &str) -> Result<Restore> {
    let number = last_generation(&dir_of(spec, file, "seed")) + 1;
    let restore = Restore { number, member: member.into(), sha256: sha256.into() };
    write_with(spec, file, Some(&restore))?;
    Ok(restore)
}

fn write_with(spec: &Spec, file: &Path, restore: Option<&Restore>) -> Result<PathBuf> {
    let secrets = Secrets::open(&dir_of(spec, file, "secrets"))?;
    let dir = dir_of(spec, file, "seed");
    // The number of the seeding: a node takes the topology of a higher one.
    let generation = last_generation(&dir) + 1;
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for node in &spec.nodes {
        let files = files(spec, node, &secrets, generation, restore)?;
        let parts = Files {
            user_data: Some(files.user_data.clone().into_bytes()),
            meta_data: Some(files.meta_data.clone().into_bytes()),
            network_config: Some(files.network_config.clone().into_bytes()),
            others: Vec::new(),
        };
        if let Err(p) = assemble("seed", &parts, Transport::Medium) {
            let place = format!("{}:{}: node {}", file.display(), node.line, node.name);
            problems.extend(p.into_iter().map(|p| format!("{place}: {p}")));
        }
        all.push((node, files));
    }
    if !problems.is_empty() {
        return Err(Refused(problems).into());
    }
    if !dir.exists() {
        std::fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    for (node, files) in all {
        let own = dir.join(&node.name);
        let parts = [
            ("meta-data", files.meta_data.as_bytes()),
            ("network-config", files.network_config.as_bytes()),
            ("user-data", files.user_data.as_bytes()),
        ];
        for (name, bytes) in parts {
            write_whole_mode(&own.join(name), bytes, 0o600)?;
        }
        write_medium(&own.join("seed.iso"), iso9660::write("cidata", &parts)?)?;
    }
    let admin = secrets.etcd_admin()?;
    keep(&dir.join("etcd-admin.key"), &admin.key)?;
    keep(&dir.join("etcd-admin.crt"), &admin.cert)?;
    if let Some(endpoint) = spec.endpoint() {
        let ca = secrets.authority("cluster-ca")?.cert;
        keep(&dir.join("admin.conf"), &admin_conf(&format!("https://{endpoint}"), &ca, &secrets.kubernetes_admin()?))?;
    }
    write_whole(&dir.join("cluster-ca.crt"), secrets.authority("cluster-ca")?.cert.as_bytes())?;
    write_whole(&dir.join("etcd-server-ca.crt"), secrets.authority("etcd-server-ca")?.cert.as_bytes())?;
    if let Some(restore) = restore {
        write_whole(&dir.join(RESTORE), &serde_json::to_vec_pretty(restore)?)?;
    }
    write_whole(&dir.join(MADE_FROM), digest_of(file)?.as_bytes())?;
    write_whole(&dir.join("generation"), format!("{generation}\n").as_bytes())?;
    crate::progress::say(&format!("secrets in {}, seeding {generation}", secrets.dir().display()));
    Ok(dir)
}

/// Digest of the cluster.toml that seeds were made from.
const MADE_FROM: &str = "made-from";
/// The restore that the data comes from; absent: none.
const RESTORE: &str = "restore.json";

fn digest_of(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(crate::digest::sha256(&bytes))
}

/// Whether the seeds of nodes that were seeded before say something else than the description does.
pub(crate) fn differs(spec: &Spec, file: &Path) -> Result<bool> {
    let secrets = Secrets::open(&dir_of(spec, file, "secrets"))?;
    let dir = dir_of(spec, file, "seed");
    let (generation, restore) = (last_generation(&dir), restore(&dir)?);
    for node in &spec.nodes {
        let own = dir.join(&node.name);
        let Ok(before) = std::fs::read_to_string(own.join("user-data")) else { continue };
        let network = std::fs::read_to_string(own.join("network-config")).unwrap_or_default();
        let now = files(spec, node, &secrets, generation, restore.as_ref())?;
        if now.user_data != before || now.network_config != network {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A VM that runs reads its seed's medium when it is told to: so that it finds the new one there, that is written where the
/// old one is, and is always of the same size. A crash meanwhile leaves half of one, which no node takes, until the next seeding.
fn write_medium(path: &Path, mut image: Vec<u8>) -> Result<()> {
    let size = image.len().next_multiple_of(MEDIUM);
    image.resize(size, 0);
    if std::fs::metadata(path).is_ok_and(|m| m.len() == size as u64) {
        return std::fs::write(path, &image).with_context(|| format!("writing {}", path.display()));
    }
    write_whole_mode(path, &image, 0o600)
}

/// Bytes: a node of a large cluster has not twice as many.
const MEDIUM: usize = 512 << 10;

/// Whether there are seeds of the description as it is now.
pub(crate) fn is_current(spec: &Spec, file: &Path) -> Result<bool> {
    let made_from = std::fs::read_to_string(dir_of(spec, file, "seed").join(MADE_FROM)).unwrap_or_default();
    Ok(made_from == digest_of(file)?)
}

/// The number of the last seeding; 0 = none.
pub(crate) fn last_generation(dir: &Path) -> u64 {
    std::fs::read_to_string(dir.join("generation")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

fn files(spec: &Spec, node: &Node, secrets: &Secrets, generation: u64, restore: Option<&Restore>) -> Result<NodeFiles> {
    let mut config = config(spec, node, secrets, generation)?;
    if let (Some(etcd), Some(restore)) = (&mut config.etcd, restore) {
        // Whoever was named may be a member no more; those that are have the data.
        let member = config.members.keys().find(|m| **m == restore.member).or_else(|| config.members.keys().next());
        etcd.restore = member.map(|m| Restore { member: m.clone(), ..restore.clone() });
    }
    // JSON is YAML, quoted without ambiguity; one key per line of the outer level for people.
    let body = serde_json::to_string_pretty(&json!({ "quorate": config }))?;
    Ok(NodeFiles {
        user_data: format!("#cloud-config\n{body}\n"),
        meta_data: format!(
            "instance-id: {}-{}-{generation}\nlocal-hostname: {}\n",
            spec.cluster.name, node.name, node.name
        ),
        network_config: network_config(spec, node)?,
    })
}

/// The NodeConfig of a node: only what its roles need.
fn config(spec: &Spec, node: &Node, secrets: &Secrets, generation: u64) -> Result<NodeConfig> {
    let with = |role: Role| -> BTreeMap<String, std::net::IpAddr> {
        let has = spec.nodes.iter().filter(|n| n.roles.contains(&role));
        has.map(|n| (n.name.clone(), n.address.addr())).collect()
    };
    let is_member = node.roles.contains(&Role::Etcd);
    let ca = |name: &str, with_key: bool| -> Result<Option<Ca>> {
        let a = secrets.authority(name)?;
        Ok(Some(Ca { cert: a.cert, key: with_key.then_some(a.key) }))
    };
    let mut pki = Pki { leaf_minutes: spec.pki.leaf_minutes, ..Pki::default() };
    if is_member {
        pki.etcd_peer_ca = ca("etcd-peer-ca", true)?;
        pki.etcd_server_ca = ca("etcd-server-ca", true)?;
        pki.etcd_client_ca = ca("etcd-client-ca", false)?;
    }
    let is_master = node.roles.contains(&Role::Master);
    if is_master {
        pki.cluster_ca = ca("cluster-ca", true)?;
        pki.front_proxy_ca = ca("front-proxy-ca", true)?;
        pki.service_account = Some(node::KeyPair { key: secrets.service_account()? });
        pki.etcd_server_ca = ca("etcd-server-ca", is_member)?;
        pki.etcd_client_ca = ca("etcd-client-ca", true)?;
    }
    let is_balancer = node.roles.contains(&Role::Lb);
    let is_worker = node.roles.contains(&Role::Worker);
    if (is_balancer || is_worker) && !is_master {
        pki.cluster_ca = ca("cluster-ca", false)?;
    }
    let c = &spec.cluster;
    Ok(NodeConfig {
        version: 1,
        generation,
        roles: node.roles.clone(),
        node: node::Node { name: Some(node.name.clone()), address: node.address.addr() },
        cluster: node::Cluster {
            name: c.name.clone(),
            id: secrets.id.clone(),
            endpoint: spec.endpoint(),
            sans: c.sans.clone(),
            pod_subnet: c.pod_subnet,
            service_subnet: c.service_subnet,
            dns_domain: c.dns_domain.clone(),
            cni: c.cni,
        },
        members: if is_member || is_master { with(Role::Etcd) } else { BTreeMap::new() },
        masters: if is_master || is_balancer { with(Role::Master) } else { BTreeMap::new() },
        etcd: is_member.then(|| spec.etcd.clone()),
        lb: is_balancer.then(|| lb(spec, &secrets.id)),
        state: node.state.clone().unwrap_or(State::Ephemeral(node::Ephemeral::Ephemeral)),
        kubernetes: (is_master || is_worker).then(|| kubernetes(spec, node, secrets)).transpose()?,
        pki,
        ntp: spec.network.ntp.clone(),
    })
}

/// A worker knows its own token, a master all of them and whose they are.
fn kubernetes(spec: &Spec, node: &Node, secrets: &Secrets) -> Result<node::Kubernetes> {
    let is_master = node.roles.contains(&Role::Master);
    let workers = spec.nodes.iter().filter(|n| n.roles.contains(&Role::Worker) && !n.roles.contains(&Role::Master));
    let mine = workers.filter(|w| is_master || w.name == node.name);
    let mut k = node::Kubernetes {
        encryption_key: is_master.then(|| secrets.encryption_key()).transpose()?,
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        max_pods: node.max_pods,
        ..Default::default()
    };
    for worker in mine {
        k.bootstrap_tokens.insert(worker.name.clone(), secrets.bootstrap_token(&worker.name)?);
        if is_master {
            k.workers.insert(worker.name.clone(), worker.address.addr());
        }
    }
    Ok(k)
}

/// The operator's kubeconfig: the endpoint, and all that is needed to ask there.
pub(crate) fn admin_conf(server: &str, ca: &str, admin: &super::secrets::Authority) -> String {
    use base64::Engine;
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let user = json!({ "client-certificate-data": encoded(&admin.cert), "client-key-data": encoded(&admin.key) });
    let cluster = json!({ "server": server, "certificate-authority-data": encoded(ca) });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "quorate", "cluster": cluster }],
        "users": [{ "name": "kubernetes-admin", "user": user }],
        "contexts": [{ "name": "quorate", "context": { "cluster": "quorate", "user": "kubernetes-admin" } }],
        "current-context": "quorate",
    });
    format!("{config:#}\n")
}

/// The load balancers, in the order of cluster.toml: which is their priority.
fn lb(spec: &Spec, id: &str) -> node::Lb {
    let provided_by = spec.cluster.provided_by;
    let advert_ms = spec.lb.advert_ms;
    match provided_by {
        ProvidedBy::External => node::Lb { provided_by, peers: Vec::new(), advert_ms, virtual_router_id: None },
        ProvidedBy::Vip => {
            let peers = spec.nodes.iter().filter(|n| n.roles.contains(&Role::Lb));
            let peers = peers.map(|n| node::Peer { name: n.name.clone(), address: n.address.addr() }).collect();
            let router = spec.lb.virtual_router_id.unwrap_or_else(|| default_router_id(id));
            node::Lb { provided_by, peers, advert_ms, virtual_router_id: Some(router) }
        }
    }
}

/// 1 to 255, so that two clusters in one network seldom have the same one.
fn default_router_id(id: &str) -> u8 {
    u8::try_from(u64::from_str_radix(id, 16).unwrap_or_default() % 255).unwrap_or_default() + 1
}

fn network_config(spec: &Spec, node: &Node) -> Result<String> {
    if let Some(own) = node.own_network() {
        return Ok(own + "\n");
    }
    let mut lan = json!({
        "match": { "macaddress": node.mac },
        "addresses": [node.address.to_string()],
    });
    if let Some(gateway) = spec.network.gateway {
        lan["routes"] = json!([{ "to": "default", "via": gateway }]);
    }
    if !spec.network.nameservers.is_empty() {
        lan["nameservers"] = json!({ "addresses": spec.network.nameservers });
    }
    Ok(serde_json::to_string_pretty(&json!({ "version": 2, "ethernets": { "lan": lan } }))? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_numbered_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster.toml");
        std::fs::write(&file, crate::cluster::TEMPLATE).expect("written");
        let spec = super::super::spec::read(&file).expect("good");
        let seed = write(&spec, &file).expect("seeded");
        assert_eq!(write(&spec, &file).expect("again"), seed);
        let read = |name: &str| std::fs::read_to_string(seed.join(name)).expect(name);
        assert!(read("master-1/meta-data").starts_with("instance-id: demo-master-1-2\n"));
        let user_data = read("master-1/user-data");
        assert!(user_data.contains("\"generation\": 2") && !user_data.contains("null"));
        let mode = std::fs::metadata(seed.join("master-1/seed.iso")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        insta::assert_snapshot!(read("master-1/network-config"));
        // A token is its node's, and nothing of a master's reaches a worker or a load balancer.
        let worker = read("worker-1/user-data");
        let worker: serde_json::Value = serde_json::from_str(&worker["#cloud-config\n".len()..]).expect("json");
        let tokens = worker["quorate"]["kubernetes"]["bootstrap_tokens"].as_object().expect("tokens");
        assert_eq!(tokens.keys().collect::<Vec<_>>(), ["worker-1"]);
        assert!(user_data.contains(tokens["worker-1"].as_str().expect("a token")), "the masters know it");
        for node in ["worker-1/user-data", "lb-1/user-data"] {
            assert!(!read(node).contains("PRIVATE KEY") && !read(node).contains("encryption_key"), "{node}");
        }
        assert!(read("admin.conf").contains("https://10.77.0.10:6443"));
    }

    #[test]
    fn what_a_node_would_refuse_is_said_with_its_line_and_nothing_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("cluster.toml");
        let text = crate::cluster::TEMPLATE.replace("# taints = [\"gpu=yes:NoSchedule\"]", "taints = [\"gpu\"]");
        std::fs::write(&file, &text).expect("written");
        let spec = super::super::spec::read(&file).expect("good by itself");
        let e = write(&spec, &file).expect_err("refused").to_string();
        // The worker is the last one.
        let last = text.lines().collect::<Vec<_>>().iter().rposition(|l| *l == "[[node]]").expect("nodes") + 1;
        assert!(e.contains(&format!("cluster.toml:{last}: node worker-1: ")) && e.contains("taint"), "{e}");
        assert!(!dir_of(&spec, &file, "seed").exists());
    }
}

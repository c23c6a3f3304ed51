//! Which certificates a node makes for itself, by its roles: pure. Subjects are kubeadm 1.37's, and Kubernetes reads them:
//! the common name is the user, the organisation the group.

use contract::kube;
use contract::node::{NodeConfig, Role};
use contract::users;
use std::net::IpAddr;

/// The CAs, as the configuration calls them.
pub(crate) const PEER_CA: &str = "etcd_peer_ca";
pub(crate) const SERVER_CA: &str = "etcd_server_ca";
pub(crate) const CLIENT_CA: &str = "etcd_client_ca";
pub(crate) const CLUSTER_CA: &str = "cluster_ca";
pub(crate) const FRONT_PROXY_CA: &str = "front_proxy_ca";

/// The group that may do everything, without any role: what brings the roles about.
const MASTERS_GROUP: &str = "system:masters";

/// A certificate to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Below [`contract::paths::PKI`], without ending.
    pub(crate) file: String,
    /// Which CA.
    pub(crate) ca: &'static str,
    pub(crate) cn: String,
    pub(crate) group: Option<&'static str>,
    pub(crate) server: bool,
    pub(crate) client: bool,
    pub(crate) dns: Vec<String>,
    pub(crate) ips: Vec<IpAddr>,
    /// Who reads it.
    pub(crate) owner: u32,
}

impl Leaf {
    /// Of a client.
    fn client(file: &str, ca: &'static str, cn: &str, owner: u32) -> Self {
        Self {
            file: file.into(),
            ca,
            cn: cn.into(),
            group: None,
            server: false,
            client: true,
            dns: vec![],
            ips: vec![],
            owner,
        }
    }

    /// Of a server.
    fn server(file: &str, ca: &'static str, cn: &str, owner: u32, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self { server: true, client: false, dns, ips, ..Self::client(file, ca, cn, owner) }
    }
}

/// The leaves of a node.
pub(crate) fn leaves(config: &NodeConfig) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    if config.roles.contains(&Role::Etcd) {
        member(config, &mut leaves);
    }
    if config.roles.contains(&Role::Master) {
        master(config, &mut leaves);
    }
    leaves
}

fn loopback() -> [IpAddr; 2] {
    [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
}

fn member(config: &NodeConfig, leaves: &mut Vec<Leaf>) {
    let (name, address) = (config.name().to_owned(), config.node.address);
    let leaf = |file: &str, ca, dns, ips| Leaf { client: true, ..Leaf::server(file, ca, &name, users::ETCD, dns, ips) };
    leaves.push(leaf("etcd/peer", PEER_CA, vec![name.clone()], vec![address]));
    let names = vec![name.clone(), "localhost".into()];
    // etcd's own gateway dials its server with the server's certificate.
    leaves.push(leaf("etcd/server", SERVER_CA, names, [&[address], &loopback()[..]].concat()));
    leaves.push(Leaf::client("etcd/agent-client", SERVER_CA, "quorate-agent", users::ROOT));
}

fn master(config: &NodeConfig, leaves: &mut Vec<Leaf>) {
    let (name, address) = (config.name(), config.node.address);
    let of = |c: kube::Component, file: &str| format!("{}/{file}", c.name);
    let api = kube::APISERVER;
    let (dns, ips) = api_names(config);
    leaves.push(Leaf::server(&of(api, "server"), CLUSTER_CA, "kube-apiserver", api.user, dns, ips));
    let client = |file: &str, ca, cn: &str| Leaf::client(&of(api, file), ca, cn, api.user);
    leaves.push(client("kubelet-client", CLUSTER_CA, "kube-apiserver-kubelet-client"));
    leaves.push(client("front-proxy-client", FRONT_PROXY_CA, "front-proxy-client"));
    leaves.push(client("etcd-client", CLIENT_CA, "kube-apiserver-etcd-client"));
    for c in [kube::CONTROLLER_MANAGER, kube::SCHEDULER] {
        let cn = format!("system:{}", c.name);
        leaves.push(Leaf::client(&of(c, "client"), CLUSTER_CA, &cn, c.user));
        let names = vec![name.to_owned(), "localhost".into()];
        leaves.push(Leaf::server(&of(c, "server"), CLUSTER_CA, c.name, c.user, names, loopback().to_vec()));
    }
    leaves.push(kubelet_client(name));
    leaves.push(kubelet_server(name, vec![name.to_owned()], vec![address]));
    let agent = Leaf::client("agent/client", CLUSTER_CA, "quorate-agent", users::ROOT);
    leaves.push(Leaf { group: Some(MASTERS_GROUP), ..agent });
}

/// What a kubelet shows the API. A worker's is signed from its request (`kube/approve.rs`) and goes nowhere here.
pub(crate) fn kubelet_client(name: &str) -> Leaf {
    let leaf = Leaf::client("kubelet/client", CLUSTER_CA, &format!("system:node:{name}"), users::ROOT);
    Leaf { group: Some("system:nodes"), ..leaf }
}

/// What a kubelet shows those who ask it.
pub(crate) fn kubelet_server(name: &str, dns: Vec<String>, ips: Vec<IpAddr>) -> Leaf {
    let leaf = Leaf::server("kubelet/server", CLUSTER_CA, &format!("system:node:{name}"), users::ROOT, dns, ips);
    Leaf { group: Some("system:nodes"), ..leaf }
}

/// Names and addresses that the API is asked by.
fn api_names(config: &NodeConfig) -> (Vec<String>, Vec<IpAddr>) {
    let domain = config.dns_domain();
    let mut dns = vec![config.name().to_owned(), "localhost".into()];
    dns.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from));
    dns.push(format!("kubernetes.default.svc.{domain}"));
    let mut ips = vec![config.service_address(kube::API_NUMBER), config.node.address, IpAddr::from([127, 0, 0, 1])];
    let endpoint = config.cluster.endpoint.as_deref();
    let host = endpoint.map(|e| e.rsplit_once(':').map_or(e, |(h, _)| h).trim_matches(['[', ']']).to_owned());
    for name in host.into_iter().chain(config.cluster.sans.iter().cloned()) {
        match name.parse() {
            Ok(ip) if !ips.contains(&ip) => ips.push(ip),
            Ok(_) => {}
            Err(_) if !dns.contains(&name) => dns.push(name),
            Err(_) => {}
        }
    }
    (dns, ips)
}

//! Ports, by who listens (the README's network table).

/// etcd, clients: node address and 127.0.0.1.
pub const ETCD_CLIENT: u16 = 2379;
/// etcd, peers: node address.
pub const ETCD_PEER: u16 = 2380;
/// etcd's metrics and health over plain http: 127.0.0.1.
pub const ETCD_METRICS: u16 = 2381;
/// The agent's bootstrap question, TLS with the peer CA on both sides: node address.
pub const MEMBERSHIP: u16 = 2382;
/// The agent's word for load balancers, `ready` or `drain`: masters' node address.
pub const READY: u16 = 2383;
/// The agent's snapshots of etcd, https with a certificate of the etcd client CA: members' node address.
pub const SNAPSHOTS: u16 = 2384;
/// Kubernetes' API: the apiserver on the node address, HAProxy on the virtual IP.
pub const API: u16 = 6443;
/// HAProxy's Prometheus endpoint, and `/healthz` for whoever is in front of it: node address.
pub const LB_METRICS: u16 = 8404;
/// The kubelet: node address.
pub const KUBELET: u16 = 10250;
/// The kubelet's health: 127.0.0.1.
pub const KUBELET_HEALTH: u16 = 10248;
/// kube-proxy's metrics: 127.0.0.1.
pub const PROXY_METRICS: u16 = 10249;
/// kube-proxy's health: node address.
pub const PROXY_HEALTH: u16 = 10256;
/// kube-controller-manager: 127.0.0.1.
pub const CONTROLLERS: u16 = 10257;
/// kube-scheduler: 127.0.0.1.
pub const SCHEDULER: u16 = 10259;
/// flannel's VXLAN, udp: node address.
pub const VXLAN: u16 = 8472;

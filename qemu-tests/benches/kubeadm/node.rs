//! What kubeadm's guides make of each machine ("Creating Highly Available Clusters with kubeadm", "Options for Software Load
//! Balancing"), as the script that its operator would type. Where they leave a choice, the one that costs the least time is
//! taken: images are there, all nodes have the token beforehand and begin to join at once, the pod network is a bridge with
//! static routes.

use super::pki::Authority;
use std::fmt::Write;

/// The virtual IP.
pub(crate) const VIP: &str = "10.77.0.10";
const TOKEN: &str = "abcdef.0123456789abcdef";
/// Joining control planes decrypt what the first one uploaded with it (`kubeadm certs certificate-key`).
const KEY: &str = "5c4b1d9f0a7e3862b1c0d4e5f60718293a4b5c6d7e8f90112233445566778899";
const HAPROXY: &str = include_str!("../../standin/guide/haproxy.cfg");
const KEEPALIVED: &str = include_str!("../../standin/guide/keepalived.conf");
const CHECK: &str = include_str!("../../standin/guide/check_apiserver.sh");

/// Of Kubernetes, as our recipe has it: kubeadm's and its control plane's. `1.37.2`.
pub(crate) fn version() -> String {
    let recipe = qemu_tests::read(&qemu_tests::checkout().join("profiles/components/kubernetes/recipe.toml"));
    let line = recipe.lines().find_map(|l| l.strip_prefix("version = \"")).expect("the recipe's version");
    line.trim_end_matches('"').to_owned()
}

/// What a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `kubeadm init`.
    First,
    /// `kubeadm join` with a control plane.
    Master,
    /// `kubeadm join`.
    Worker,
    /// The guide's HAProxy and Keepalived.
    Balancer,
}

/// A machine: its name, its address's last number, its role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// Host name.
    pub(crate) name: &'static str,
    /// 10.77.0.x.
    pub(crate) number: u8,
    /// What it is.
    pub(crate) role: Role,
}

/// The machines of `examples/stacked.toml`.
pub(crate) const ALL: [Peer; 6] = [
    Peer { name: "master-1", number: 11, role: Role::First },
    Peer { name: "master-2", number: 12, role: Role::Master },
    Peer { name: "master-3", number: 13, role: Role::Master },
    Peer { name: "lb-1", number: 21, role: Role::Balancer },
    Peer { name: "lb-2", number: 22, role: Role::Balancer },
    Peer { name: "worker-1", number: 41, role: Role::Worker },
];

impl Peer {
    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// What the kernel is told of it.
    pub(crate) fn cmdline(&self) -> String {
        format!(
            "root=/dev/vda rw quiet console=ttyS0 net.ifnames=0 ip={}::10.77.0.1:255.255.255.0:{}:eth0:off systemd.hostname={}",
            self.address(),
            self.name,
            self.name
        )
    }

    /// Its script. The first master is given the CAs: whoever measures knows them beforehand.
    pub(crate) fn script(&self, cluster: &Authority, etcd: &Authority) -> String {
        let mut text = "set -e\n".to_owned();
        for (i, p) in ALL.iter().enumerate() {
            let _ = writeln!(text, "echo {} {} >>/etc/hosts", p.address(), p.name);
            // A pod network: one range for each node.
            if p.name != self.name && p.role != Role::Balancer {
                let _ = writeln!(text, "ip route replace 10.244.{i}.0/24 via {}", p.address());
            }
        }
        match self.role {
            Role::Balancer => self.balancer(&mut text),
            Role::First => {
                self.network(&mut text);
                for (ca, at) in [(cluster, "ca"), (etcd, "etcd/ca")] {
                    file(&mut text, &format!("/etc/kubernetes/pki/{at}.crt"), &ca.cert);
                    file(&mut text, &format!("/etc/kubernetes/pki/{at}.key"), &ca.key);
                }
                file(&mut text, "/etc/kubernetes/kubeadm.yaml", &self.init());
                text.push_str("kubeadm init --config /etc/kubernetes/kubeadm.yaml --upload-certs\n");
            }
            Role::Master | Role::Worker => {
                self.network(&mut text);
                file(&mut text, "/etc/kubernetes/kubeadm.yaml", &self.join());
                // Who types it types it again when it fails.
                text.push_str(
                    "until kubeadm join --config /etc/kubernetes/kubeadm.yaml; do echo it failed; kubeadm reset --force; done\n",
                );
            }
        }
        let _ = writeln!(text, "echo peer: {} is done", self.name);
        text
    }

    fn network(&self, text: &mut String) {
        let own = ALL.iter().position(|p| p.name == self.name).unwrap_or_default();
        let conflist = serde_json::json!({ "cniVersion": "1.0.0", "name": "bridged", "plugins": [
            { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
                "type": "host-local", "ranges": [[{ "subnet": format!("10.244.{own}.0/24") }]], "routes": [{ "dst": "0.0.0.0/0" }],
            } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ] });
        file(text, "/etc/cni/net.d/10-bridged.conflist", &format!("{conflist}\n"));
    }

    fn registration(&self) -> String {
        // The guide wants two processors; a VM of the lab has one.
        format!("nodeRegistration:\n  name: {}\n  ignorePreflightErrors: [NumCPU, Mem]\n", self.name)
    }

    fn init(&self) -> String {
        format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nbootstrapTokens:\n- token: {TOKEN}\ncertificateKey: {KEY}\n\
             localAPIEndpoint:\n  advertiseAddress: {}\n{}---\n\
             apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v{}\n\
             controlPlaneEndpoint: {VIP}:6443\napiServer:\n  certSANs: [127.0.0.1]\nnetworking:\n  \
             podSubnet: 10.244.0.0/16\n",
            self.address(),
            self.registration(),
            version()
        )
    }

    fn join(&self) -> String {
        let plane = format!(
            "controlPlane:\n  certificateKey: {KEY}\n  localAPIEndpoint:\n    advertiseAddress: {}\n",
            self.address()
        );
        format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ndiscovery:\n  bootstrapToken:\n    token: {TOKEN}\n    \
             apiServerEndpoint: {VIP}:6443\n    unsafeSkipCAVerification: true\n{}{}",
            self.registration(),
            if self.role == Role::Master { &plane } else { "" }
        )
    }

    fn balancer(&self, text: &mut String) {
        let first = self.name == "lb-1";
        let masters = ALL.iter().filter(|p| matches!(p.role, Role::First | Role::Master));
        let servers: String =
            masters.map(|p| format!("    server {} {}:6443 check verify none\n", p.name, p.address())).collect();
        let (state, priority) = if first { ("MASTER", "101") } else { ("BACKUP", "100") };
        let vrrp = KEEPALIVED.replace("${STATE}", state).replace("${PRIORITY}", priority).replace("${VIP}", VIP);
        file(text, "/etc/haproxy/haproxy.cfg", &format!("{HAPROXY}{servers}"));
        file(text, "/etc/keepalived/keepalived.conf", &vrrp.replace("${CHECK}", "/etc/keepalived/check_apiserver.sh"));
        file(text, "/etc/keepalived/check_apiserver.sh", CHECK);
        text.push_str("chmod +x /etc/keepalived/check_apiserver.sh\nsystemctl start --no-block haproxy keepalived\n");
    }
}

fn file(text: &mut String, path: &str, content: &str) {
    let _ =
        writeln!(text, "mkdir -p $(dirname {path})\ncat >{path} <<'END-OF-FILE'\n{}\nEND-OF-FILE", content.trim_end());
}

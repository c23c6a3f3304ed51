//! Names that the plan of a node and the agent that looks after it must agree on.

use crate::{paths, users};

/// The image of every pod of quorate's own.
pub const PAUSE_IMAGE: &str = "quorate.invalid/pause:1";

/// The service address of the cluster's DNS ([`crate::node::NodeConfig::service_address`]).
pub const DNS_NUMBER: u32 = 10;
/// The service address of the API.
pub const API_NUMBER: u32 = 1;

/// A master's kubelet: to the apiserver on its own node, with a certificate that the agent makes.
pub const KUBELET_CONF: &str = "/etc/kubernetes/pki/kubelet/kubeconfig";
/// A worker's kubelet: with its token, for its first certificate.
pub const KUBELET_BOOTSTRAP_CONF: &str = "/etc/kubernetes/pki/kubelet/bootstrap-kubeconfig";
/// A worker's kubelet: what it writes when it has its certificate.
pub const KUBELET_OWN_CONF: &str = "/var/lib/kubelet/kubeconfig";
/// A worker's certificate and key, as its kubelet keeps them.
pub const KUBELET_OWN_CERT: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// A program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Of the program, the pod and the container.
    pub name: &'static str,
    /// Who it runs as.
    pub user: u32,
}

impl Component {
    /// The directory with its certificates, keys and configuration.
    pub fn dir(&self) -> String {
        format!("{}/{}", paths::PKI, self.name)
    }

    /// Its static pod where it waits.
    pub fn planned(&self) -> String {
        format!("{}/{}.json", paths::MANIFESTS_PLANNED, self.name)
    }

    /// Its static pod where the kubelet runs it.
    pub fn manifest(&self) -> String {
        format!("{}/{}.json", paths::MANIFESTS, self.name)
    }
}

/// Serves the API.
pub const APISERVER: Component = Component { name: "kube-apiserver", user: users::APISERVER };
/// Makes what is what is wanted.
pub const CONTROLLER_MANAGER: Component = Component { name: "kube-controller-manager", user: users::CONTROLLERS };
/// Places pods.
pub const SCHEDULER: Component = Component { name: "kube-scheduler", user: users::SCHEDULER };
/// All of them, in the order in which they start.
pub const CONTROL_PLANE: [Component; 3] = [APISERVER, CONTROLLER_MANAGER, SCHEDULER];

//! A worker becomes the node that its seed says and no other, and one that cannot says why. Two nodes, booted once.

use qemu_tests::cluster::{Cluster, Saved};
use qemu_tests::kubectl::{Kubectl, program, template, workload};
use qemu_tests::{checkout, read};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;

/// Host seconds per guest second while they boot, and while they do little.
const DILATION: &str = "24";
const RESTORED: f64 = 6.0;
/// A pod starts, an answer comes.
const SOON: Duration = Duration::from_secs(30);
/// From power on to whatever becomes of a node.
const BOOT: Duration = Duration::from_secs(60);

/// The example of one node, tainted, and two workers of which the second never starts.
fn description() -> String {
    let text = read(&checkout().join("examples/single.toml")).replace("name = \"single\"", "name = \"demo\"");
    let text = text.replace("roles = [\"master\", \"etcd\", \"worker\"]", "roles = [\"master\", \"etcd\"]");
    let text = text.replace("worker = \"256MiB\"", "worker = \"1GiB\"");
    let worker = |i: u8| {
        format!(
            "[[node]]\nname = \"worker-{i}\"\nroles = [\"worker\"]\naddress = \"10.77.0.4{i}/24\"\n\
             mac = \"52:54:00:77:00:4{i}\"\nstate = {{ disk = \"/dev/vda\" }}\n\n"
        )
    };
    let at = text.find("[lab]").expect("a [lab] section");
    format!("{}{}{}{}", &text[..at], worker(1), worker(2), &text[at..])
}

fn two() -> (Cluster, Kubectl) {
    static BOOTED: OnceLock<Saved> = OnceLock::new();
    let up = ["--only", "master-1,worker-1", "--dilation", DILATION, "--timeout", "150s"];
    let cluster = Cluster::restored(&BOOTED, "two", &description(), &up, RESTORED);
    let kubectl = Kubectl::of(&cluster);
    kubectl.until("the API answers", SOON, || kubectl.run(&["get", "--raw", "/readyz"]));
    (cluster, kubectl)
}

fn is_ready(kubectl: &Kubectl) {
    kubectl.until("worker-1 is Ready", SOON, || {
        let ready = kubectl.ready_nodes()?;
        if ready.iter().any(|n| n == "worker-1") { Ok(()) } else { Err(format!("{ready:?} are")) }
    });
}

fn token_id(cluster: &Cluster, node: &str) -> String {
    let token = read(&cluster.dir.path().join("demo.secrets/tokens").join(node));
    token.split_once('.').expect("ID.SECRET").0.to_owned()
}

/// A kubelet's first request, from whoever.
fn request(name: &str, node: &str) -> Value {
    use base64::Engine;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(&key).expect("a request").pem().expect("pem");
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": { "name": name },
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", "client auth"],
            "request": base64::engine::general_purpose::STANDARD.encode(pem),
        },
    })
}

#[test]
fn one_workers_seed_is_no_other_node() {
    let (cluster, kubectl) = two();
    is_ready(&kubectl);
    // As whoever holds worker-1's token.
    let who = format!("--as=system:bootstrap:{}", token_id(&cluster, "worker-1"));
    let asks = |name: &str, node: &str| {
        let path = cluster.dir.path().join("request.json");
        std::fs::write(&path, request(name, node).to_string()).expect("written");
        let groups = ["--as-group=system:bootstrappers:quorate", "--as-group=system:authenticated"];
        kubectl.ok(&["create", "-f", &path.display().to_string(), &who, groups[0], groups[1]]);
    };
    asks("other", "worker-2");
    kubectl.until("it is said", SOON, || {
        let log = cluster.ok(&["logs", "master-1"]);
        let words = "is not approved: it asks for `system:node:worker-2` in [\"system:nodes\"], but is worker-1's";
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
    asks("own", "worker-1");
    let state = |name: &str| kubectl.get(&["csr", name]).map(|r| r["status"]["conditions"][0]["type"].clone());
    kubectl.until("its own name is approved", SOON, || {
        let state = state("own")?;
        if state == "Approved" { Ok(()) } else { Err(state.to_string()) }
    });
    assert_eq!(state("other").expect("there"), Value::Null, "for ever pending");

    // A kubelet reads the secrets of its own pods, and changes its own node.
    kubectl.apply(&program());
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hidden" }, "stringData": { "word": "sesame" } }));
    let files = json!({ "volumeMounts": [{ "name": "hidden", "mountPath": "/etc/hidden" }] });
    let volumes = [json!({ "name": "hidden", "secret": { "secretName": "hidden" } })];
    kubectl.apply(&workload("Deployment", "reader", &template("reader", &["idle"], &files, &volumes), &json!({})));
    assert_eq!(kubectl.pods("reader", 1, SOON)[0].0, "worker-1", "the master takes none");
    let node = |name: &str, words: &[&str]| {
        let who = format!("--as=system:node:{name}");
        kubectl.run(&[words, &[&who, "--as-group=system:nodes", "--as-group=system:authenticated"]].concat())
    };
    node("worker-1", &["get", "secret", "hidden"]).expect("its pod has it");
    let refused = node("worker-2", &["get", "secret", "hidden"]).expect_err("none of its pods has it");
    assert!(refused.contains("no relationship found between node 'worker-2' and this object"), "{refused}");
    let refused = node("worker-1", &["label", "node", "master-1", "mine=yes"]).expect_err("another node");
    assert!(refused.contains("node 'worker-1' cannot read 'master-1', only its own Node object"), "{refused}");
    node("worker-1", &["label", "node", "worker-1", "mine=yes"]).expect("its own");
}

/// The worker as a new machine, with a seed of its own making.
fn new_machine(cluster: &Cluster, seed: &std::path::Path) {
    cluster.ok(&["kill", "worker-1"]);
    std::fs::copy(seed.join("worker-1/seed.iso"), cluster.seeds().join("worker-1/seed.iso")).expect("exchanged");
    std::fs::remove_file(cluster.state().join("worker-1.qcow2")).expect("lost");
    cluster.blank_disk("worker-1", 8 << 30);
    cluster.ok(&["start", "--no-wait", "worker-1"]);
}

#[test]
#[ignore = "eight minutes on two cores: make soak"]
fn a_worker_that_cannot_join_says_why() {
    let (cluster, kubectl) = two();
    let good = cluster.dir.path().join("good");
    std::fs::create_dir_all(good.join("worker-1")).expect("made");
    std::fs::copy(cluster.seeds().join("worker-1/seed.iso"), good.join("worker-1/seed.iso")).expect("kept");
    let says = |words: &str| {
        cluster.wait_for("worker-1", words, BOOT, |n| {
            n["state"] == "waiting" && n["said"].as_str().is_some_and(|s| s.contains(words))
        });
        assert!(cluster.ok(&["status", "--local"]).contains(words), "shown");
        assert!(cluster.ok(&["console", "worker-1", "--no-follow"]).contains(words), "on the console");
    };

    // Its CA is not the cluster's.
    new_machine(&cluster, &Cluster::stranger_with(&cluster, &description()));
    says("the kubelet waits for the API: io: invalid peer certificate");

    // Its token has ended, or never was.
    let other = cluster.reseeded(|secrets| {
        let token = format!("{}.0123456789abcdef\n", token_id(&cluster, "worker-1"));
        std::fs::write(secrets.join("tokens/worker-1"), token).expect("another token");
    });
    new_machine(&cluster, &other);
    says("the kubelet waits: the API does not know this node's token (yet)");

    // What it was meant to be: no reboot is needed, and no word to the masters.
    new_machine(&cluster, &good);
    cluster.wait_for("worker-1", "all ready", BOOT, |n| n["state"] == "ready");
    is_ready(&kubectl);
}

#[test]
#[ignore = "minutes; clocks jump in chaos, and here: make soak"]
fn a_clock_two_years_ahead_is_named_and_nothing_is_lost_when_it_is_set() {
    let (cluster, kubectl) = two();
    cluster.ok(&["clock", "+730d", "worker-1"]);
    // The time is saved with the next chore; a node whose clock is behind that believes the disk.
    cluster.ok(&["reboot", "worker-1", "--no-wait"]);
    cluster.wait_for("worker-1", "the clock as the reason", BOOT, |n| {
        let said = n["said"].as_str().unwrap_or_default();
        n["state"] == "waiting" && said.contains("certificate expired") && said.contains("this node's clock says 20")
    });
    assert!(cluster.ok(&["status", "--local"]).contains("this node's clock says"), "shown");
    cluster.ok(&["clock", "-730d", "worker-1"]);
    cluster.wait_for("worker-1", "all ready", BOOT, |n| n["state"] == "ready");
    is_ready(&kubectl);
}

#[test]
fn a_kubelet_that_cannot_start_says_why() {
    let (cluster, kubectl) = two();
    kubectl.apply(&program());
    let labels = json!({ "pod-security.kubernetes.io/enforce": "privileged" });
    kubectl.apply(
        &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default", "labels": labels } }),
    );
    let root = json!({ "runAsUser": 0 });
    let container =
        json!({ "volumeMounts": [{ "name": "kubelet", "mountPath": "/kubelet" }], "securityContext": root });
    let volumes = [json!({ "name": "kubelet", "hostPath": { "path": "/var/lib/kubelet" } })];
    kubectl.apply(&workload("Deployment", "vandal", &template("vandal", &["idle"], &container, &volumes), &json!({})));
    let pod = kubectl.pods("vandal", 1, SOON).remove(0).1;
    kubectl.ok(&["exec", &pod, "--", "/box/quorate-box", "write", "/kubelet/cpu_manager_state", "nonsense"]);
    cluster.ok(&["signal", "worker-1", "kubelet", "kill"]);
    cluster.wait_for("worker-1", "tries of its kubelet", BOOT, |n| {
        let services = n["services"].as_array().cloned().unwrap_or_default();
        let kubelet = services.into_iter().find(|s| s["name"] == "kubelet").unwrap_or_default();
        n["state"] == "waiting" && kubelet["restarts"].as_u64() > Some(1)
    });
    let status = cluster.ok(&["status", "--local"]);
    assert!(status.contains("kubelet (not ready)"), "{status}");
    let log = cluster.ok(&["logs", "worker-1"]);
    assert!(log.contains("checkpoint"), "PID 1 has its last words: {log}");
}

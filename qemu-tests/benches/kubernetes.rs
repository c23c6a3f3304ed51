//! `make bench`, the control plane's part: how long one node takes from power on to a Kubernetes that is Ready, and what it
//! takes of memory, and at rest of its processor, next to the floor: the same etcd and apiserver started on this machine with
//! nothing around them. Times in the VM are the guest's.

use anyhow::{Context, Result, ensure};
use lab::clock::Clock;
use lab::probe::api::Client;
use qemu_tests::cluster::Cluster;
use qemu_tests::kubectl::{Kubectl, program, template, workload};
use qemu_tests::{checkout, image_of, initrd_facts, read};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Host seconds per guest second: at 8 the emulator itself is what a boot of this much code waits for.
const DILATION: &str = "20";
const MIB: f64 = 1_048_576.0;
/// So long it is watched at rest, guest time.
const REST: Duration = Duration::from_secs(15);
/// It starts within seconds.
const BOUND: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    println!("## a control plane");
    for image in ["master-etcd", "worker"] {
        let size = |file: &str| -> Result<f64> {
            Ok(f64::from(u32::try_from(std::fs::metadata(image_of(image).join(file))?.len())?) / 1e6)
        };
        let (kernel, initrd) = (size("vmlinuz")?, size("initrd")?);
        println!("{image}: kernel + initrd {kernel:.1} + {initrd:.1} = {:.1} MB", kernel + initrd);
    }
    floor()?;
    single()
}

/// One node that is everything, from cold.
fn single() -> Result<()> {
    let text = read(&checkout().join("examples/single.toml")).replace("name = \"single\"", "name = \"demo\"");
    let cluster = Cluster::new(&text);
    let began = Instant::now();
    cluster.up(&["--dilation", DILATION, "--timeout", "120s"]);
    println!("one node, {:.0} s of wall time:", began.elapsed().as_secs_f64());
    let marks = ["etcd ready", "containerd ready", "the apiserver of this node is ready", "all ready"];
    for line in cluster.ok(&["logs", "master-1"]).lines().filter(|l| marks.iter().any(|m| l.contains(m))) {
        println!("  {line}");
    }
    let kubectl = Kubectl::of(&cluster);
    // The kubelet looks at its containers every ten seconds.
    let summary = kubectl.until("the kubelet knows its pods", BOUND, || {
        let summary: Value =
            serde_json::from_str(&kubectl.run(&["get", "--raw", "/api/v1/nodes/master-1/proxy/stats/summary"])?)
                .map_err(|e| e.to_string())?;
        let known = summary["pods"]
            .as_array()
            .is_some_and(|p| p.iter().filter(|p| p["memory"]["rssBytes"].as_u64().is_some_and(|b| b > 0)).count() >= 6);
        if known { Ok(summary) } else { Err("not all of them".into()) }
    });
    let mb = |v: &Value| v.as_u64().map_or_else(|| "?".into(), |b| format!("{} MB", b / 1_000_000));
    println!(
        "memory: node {} in use, {} anonymous",
        mb(&summary["node"]["memory"]["workingSetBytes"]),
        mb(&summary["node"]["memory"]["rssBytes"])
    );
    for pod in summary["pods"].as_array().into_iter().flatten() {
        println!("  {}: {} anonymous", pod["podRef"]["name"].as_str().unwrap_or("?"), mb(&pod["memory"]["rssBytes"]));
    }
    at_rest(&cluster, &kubectl)
}

/// What is not a pod: PID 1 and the services that it runs, read from inside a pod that sees the node's cgroups and processes.
fn at_rest(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&program());
    kubectl.ok(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce=privileged"]);
    let mount = |name: &str, path: &str| json!({ "name": name, "mountPath": path, "readOnly": true });
    let container = json!({
        "securityContext": { "runAsUser": 0 }, "volumeMounts": [mount("cgroups", "/cgroups"), mount("processes", "/processes")],
    });
    let volume = |name: &str, path: &str| json!({ "name": name, "hostPath": { "path": path } });
    let volumes = [volume("cgroups", "/sys/fs/cgroup"), volume("processes", "/proc")];
    let pod = template("reader", &["serve", "8080"], &container, &volumes);
    kubectl.apply(&workload("Deployment", "reader", &pod, &json!({})));
    let pod = kubectl.pods("reader", 1, BOUND).remove(0).1;
    let file = |path: &str| -> Result<String> {
        kubectl.ask_from(&pod, "127.0.0.1:8080", &format!("/file{path}")).map_err(anyhow::Error::msg)
    };
    let number = |text: &str, key: &str| -> Result<f64> {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).with_context(|| format!("no {key} in {text}"))?;
        Ok(line.split_whitespace().next().context("a number")?.parse()?)
    };
    // A status counts kilobytes, a cgroup bytes.
    println!("  PID 1: {:.1} MiB anonymous", number(&file("/processes/1/status")?, "RssAnon:")? / 1024.0);
    let services = cluster.node("master-1")["services"].as_array().cloned().unwrap_or_default();
    for name in services.iter().filter_map(|s| s["name"].as_str()) {
        // What has done its work and ended has none.
        let text = file(&format!("/cgroups/quorate/{name}/memory.stat"))?;
        if let Ok(anonymous) = number(&text, "anon ") {
            println!("  {name}: {:.1} MiB anonymous", anonymous / MIB);
        }
    }
    let used = || number(&file("/cgroups/cpu.stat")?, "usage_usec ");
    let (before, began) = (used()?, Instant::now());
    // How long is looked, not a wait for an event.
    std::thread::sleep(cluster.clock().host(REST));
    let (after, lasted) = (used()?, cluster.clock().guest(began.elapsed()));
    let share = (after - before) / 1e6 / lasted.as_secs_f64() * 100.0;
    println!("processor at rest, of one emulated and dilated {DILATION}-fold: {share:.0} %");
    Ok(())
}

/// A process that ends with this value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(mut command: Command, log: &Path) -> Result<Ends> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(log)?);
    lab::vm::die_with_parent(&mut command);
    Ok(Ends(command.spawn()?))
}

/// etcd and the apiserver of the image on this machine: from exec of the apiserver to its `/readyz`, real time.
fn floor() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = extract(dir.path())?;
    let pki = qemu_tests::host_pki::HostPki::make(dir.path())?;
    std::fs::write(dir.path().join("cluster-ca.crt"), &pki.ca)?;
    let port = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let (client, peer, api) = (port()?, port()?, port()?);
    let file = |name: &str| dir.path().join(name).display().to_string();
    let mut etcd = Command::new(root.join("usr/bin/etcd"));
    etcd.args([
        format!("--data-dir={}", file("etcd")),
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
    ]);
    let _etcd = start(etcd, &dir.path().join("etcd.log"))?;
    let deadline = Instant::now() + BOUND;
    while std::net::TcpStream::connect(("127.0.0.1", client)).is_err() {
        ensure!(Instant::now() < deadline, "etcd on the host did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut apiserver = Command::new(root.join("usr/bin/kube-apiserver"));
    apiserver.args([
        format!("--etcd-servers=http://127.0.0.1:{client}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={api}"),
        "--authorization-mode=Node,RBAC".into(),
        "--service-cluster-ip-range=10.96.0.0/12".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        // A certificate is a public key too.
        format!("--service-account-key-file={}", file("leaf.crt")),
        format!("--service-account-signing-key-file={}", file("leaf.key")),
        format!("--tls-cert-file={}", file("leaf.crt")),
        format!("--tls-private-key-file={}", file("leaf.key")),
    ]);
    let began = Instant::now();
    let running = start(apiserver, &dir.path().join("apiserver.log"))?;
    let to = SocketAddr::from(([127, 0, 0, 1], api));
    let client = Client::new(to, dir.path(), Duration::from_millis(500), Clock::new(1.0)?)?;
    while client.get("/readyz").is_err() {
        ensure!(
            began.elapsed() < BOUND,
            "the apiserver on the host did not start: {}",
            read(&dir.path().join("apiserver.log"))
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = began.elapsed();
    let status = read(Path::new(&format!("/proc/{}/status", running.0.id())));
    let anonymous = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap_or("?").trim().to_owned();
    println!("floor, on the host: kube-apiserver exec -> /readyz {:.1} s, {anonymous} anonymous", took.as_secs_f64());
    Ok(())
}

/// Two programs out of the image's root.
fn extract(dir: &Path) -> Result<std::path::PathBuf> {
    let initrd = std::fs::read(image_of("master-etcd").join("initrd"))?;
    let (_, root) = initrd_facts(&initrd)?;
    std::fs::write(dir.join("root.img"), &initrd[root])?;
    let mut unsquash = Command::new("unsquashfs");
    unsquash.args(["-q", "-n", "-d"]).arg(dir.join("root")).arg(dir.join("root.img"));
    let out = unsquash.args(["usr/bin/etcd", "usr/bin/kube-apiserver", "usr/bin/kubernetes"]).output();
    let out = out.context("running unsquashfs")?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(dir.join("root"))
}

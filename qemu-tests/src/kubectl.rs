//! The client that Kubernetes brings, as the operator has it: told by `quorate cluster env` where the cluster is.

use crate::cluster::{Cluster, images};
use base64::Engine;
use lab::clock::Clock;
use lab::probe::api::Client;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is not announced is looked for this often. Host time.
const LOOK: Duration = Duration::from_millis(300);
/// Guest time: etcd has a leader again.
const RESTORED: Duration = Duration::from_secs(40);
/// The image that every node has.
const IMAGE: &str = "quorate.invalid/pause:1";

/// kubectl, told where the cluster is.
#[derive(Debug)]
pub struct Kubectl {
    env: Vec<(String, String)>,
    clock: Clock,
}

impl Kubectl {
    /// Of a running cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let text = cluster.ok(&["env"]);
        let value = |v: &str| v.trim_matches('\'').replace("':\"$PATH\"", "");
        let pairs = text.lines().filter_map(|l| l.strip_prefix("export ")?.split_once('='));
        Self { env: pairs.map(|(k, v)| (k.to_owned(), value(v))).collect(), clock: cluster.clock() }
    }

    /// Of a running cluster that is saved and goes on at this pace: booting asks more of the machine than running does.
    pub fn restored_at(cluster: &Cluster, dilation: &str) -> Self {
        cluster.ok(&["save", "ready"]);
        cluster.ok(&["down"]);
        cluster.ok(&["restore", "ready", "--images", &images(), "--dilation", dilation]);
        let kubectl = Self::of(cluster);
        kubectl.until("the API answers", RESTORED, || kubectl.run(&["get", "--raw", "/readyz"]));
        kubectl
    }

    /// One of its variables; of PATH the directory with the clients.
    pub fn variable(&self, name: &str) -> &str {
        self.env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).expect("a variable")
    }

    /// The administrator at the virtual IP, with a new connection for each request, which is given up after this (guest time).
    pub fn client(&self, cluster: &Cluster, patience: Duration) -> Client {
        let text = self.ok(&["config", "view", "--raw", "-o", "json"]);
        let config: Value = serde_json::from_str(&text).expect("json");
        let pem = |v: &Value| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(v.as_str().expect("data")).expect("base64");
            String::from_utf8(bytes).expect("PEM")
        };
        let user = &config["users"][0]["user"];
        let ca = pem(&config["clusters"][0]["cluster"]["certificate-authority-data"]);
        let pair = (pem(&user["client-certificate-data"]), pem(&user["client-key-data"]));
        Client::with(cluster.api(), &ca, Some((&pair.0, &pair.1)), patience, cluster.clock()).expect("a client")
    }

    /// A command of it.
    pub fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(format!("{}/{program}", self.variable("PATH")));
        command.args(words).envs(self.env.iter().filter(|(k, _)| k != "PATH").map(|(k, v)| (k, v)));
        command
    }

    /// What it printed, or why it failed.
    pub fn run(&self, words: &[&str]) -> Result<String, String> {
        // Of the API, in guest time: one that stalls is not waited for without an end.
        let patience = format!("--request-timeout={}s", self.clock.host(Duration::from_secs(15)).as_secs());
        let out = self.command("kubectl", words).arg(patience).output().expect("run");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        match out.status.success() {
            true => Ok(text),
            false => Err(format!("kubectl {}: {}{text}", words.join(" "), String::from_utf8_lossy(&out.stderr))),
        }
    }

    /// What it printed; it has to succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        self.run(words).unwrap_or_else(|e| panic!("{e}"))
    }

    /// An object, or a list.
    pub fn get(&self, words: &[&str]) -> Result<Value, String> {
        let text = self.run(&[&["get", "-o", "json"], words].concat())?;
        serde_json::from_str(&text).map_err(|e| e.to_string())
    }

    /// The nodes that are Ready in the API's eyes.
    pub fn ready_nodes(&self) -> Result<Vec<String>, String> {
        let nodes = self.get(&["nodes"])?;
        let is_ready = |n: &&Value| {
            let conditions = n["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        let all = nodes["items"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().filter(is_ready).filter_map(|n| Some(n["metadata"]["name"].as_str()?.to_owned())).collect())
    }

    /// Applies an object as a user does.
    pub fn apply(&self, object: &Value) {
        use std::io::Write;
        let mut command = self.command("kubectl", &["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("run");
        child.stdin.take().expect("its stdin").write_all(object.to_string().as_bytes()).expect("written");
        let out = child.wait_with_output().expect("ended");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "applying the {} {}: {said}", object["kind"], object["metadata"]["name"]);
    }

    /// Runs on; ends with the value that is returned.
    pub fn spawn(&self, words: &[&str]) -> Running {
        Running(self.command("kubectl", words).stdout(Stdio::null()).spawn().expect("run"))
    }

    /// Waits until something holds; it says what is still missing.
    pub fn until<T>(&self, what: &str, guest: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + self.clock.host(guest);
        loop {
            match look() {
                Ok(found) => return found,
                Err(e) => assert!(Instant::now() < deadline, "waited {guest:?} for {what}: {e}"),
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until a number of pods with a label are ready; their names, by node.
    pub fn pods(&self, label: &str, number: usize, guest: Duration) -> Vec<(String, String)> {
        self.until(&format!("{number} ready pods of {label}"), guest, || {
            let pods = self.get(&["pods", "-l", &format!("app={label}")])?;
            let ready = |p: &Value| {
                let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
                p["metadata"]["deletionTimestamp"].is_null()
                    && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let items = pods["items"].as_array().cloned().unwrap_or_default();
            let found: Vec<_> = items.iter().filter(|p| ready(p)).collect();
            let names = found.iter().map(|p| (word(&p["spec"]["nodeName"]), word(&p["metadata"]["name"]))).collect();
            if found.len() == number && items.len() == number { Ok(names) } else { Err(format!("{pods:#}")) }
        })
    }

    /// Asks from inside a pod.
    pub fn ask_from(&self, pod: &str, url: &str, path: &str) -> Result<String, String> {
        self.run(&["exec", pod, "--", BOX, "get", url, path]).map(|t| t.trim().to_owned())
    }
}

/// A client that runs on.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const BOX: &str = "/box/quorate-box";

/// The test program as a ConfigMap: no registry is reached from here.
pub fn program() -> Value {
    let bytes = std::fs::read(crate::program("quorate-box")).expect("the program");
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "box" }, "binaryData": { "quorate-box": text } })
}

/// A pod's template that runs the program, with more in its container.
pub fn template(label: &str, words: &[&str], container: &Value, volumes: &[Value]) -> Value {
    let command: Vec<&str> = std::iter::once(BOX).chain(words.iter().copied()).collect();
    let mut own = json!({ "name": "box", "image": IMAGE, "imagePullPolicy": "Never", "command": command });
    let mut mounts = vec![json!({ "name": "box", "mountPath": "/box" })];
    for (key, value) in container.as_object().into_iter().flatten() {
        match key.as_str() {
            "volumeMounts" => mounts.extend(value.as_array().cloned().unwrap_or_default()),
            _ => own[key] = value.clone(),
        }
    }
    own["volumeMounts"] = mounts.into();
    let mut all = vec![json!({ "name": "box", "configMap": { "name": "box", "defaultMode": 0o755 } })];
    all.extend(volumes.iter().cloned());
    json!({
        "metadata": { "labels": { "app": label } },
        // A test does not wait for a pod's end.
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [own], "volumes": all },
    })
}

/// A Deployment or DaemonSet of such pods.
pub fn workload(kind: &str, label: &str, template: &Value, more: &Value) -> Value {
    let mut spec = json!({ "selector": { "matchLabels": { "app": label } }, "template": template });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": label }, "spec": spec })
}

//! What people do with a Kubernetes works: pods, services, names, files from settings and secrets, logs, a new version, images,
//! aggregated APIs, the audit log.

use super::{SOON, alone};
use qemu_tests::cluster::Cluster;
use qemu_tests::kubectl::{Kubectl, program, template, workload};
use qemu_tests::own_image::BOX_IMAGE;
use qemu_tests::read;
use serde_json::json;

/// Two pods that serve, with a ConfigMap and a Secret, behind a Service.
fn web(kubectl: &Kubectl, text: &str) {
    let files = |name: &str| json!({ "name": name, "mountPath": format!("/etc/{name}") });
    let container = json!({
        "env": [{ "name": "BOX_TEXT", "value": text }],
        "volumeMounts": [files("settings"), files("hidden")],
        "ports": [{ "containerPort": 8080 }],
        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
    });
    let volumes = [
        json!({ "name": "settings", "configMap": { "name": "settings" } }),
        json!({ "name": "hidden", "secret": { "secretName": "hidden" } }),
    ];
    let template = template("web", &["serve", "8080"], &container, &volumes);
    kubectl.apply(&workload("Deployment", "web", &template, &json!({ "replicas": 2 })));
}

pub(super) fn deploy(kubectl: &Kubectl) {
    kubectl.apply(&program());
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings" }, "data": { "colour": "green" } }));
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hidden" }, "stringData": { "word": "sesame" } }));
    web(kubectl, "one");
    let ports = json!([{ "port": 80, "targetPort": 8080, "nodePort": 30080 }]);
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "type": "NodePort", "selector": { "app": "web" }, "ports": ports } }));
    let client = template("client", &["idle"], &json!({}), &[]);
    kubectl.apply(&workload("Deployment", "client", &client, &json!({})));
}

#[test]
fn what_people_do() {
    let (cluster, kubectl) = alone();
    deploy(&kubectl);
    kubectl.pods("web", 2, SOON);
    let client = kubectl.pods("client", 1, SOON).remove(0).1;
    let service = kubectl.get(&["service", "web"]).expect("the service");
    let address = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();

    // By address, by name (the cluster's DNS), by the node's port.
    for to in
        [format!("{address}:80"), "web:80".into(), "web.default.svc.cluster.local:80".into(), "10.77.0.11:30080".into()]
    {
        let answer = kubectl.until(&format!("an answer of {to}"), SOON, || kubectl.ask_from(&client, &to, "/"));
        assert!(answer.starts_with("one from web-"), "{to}: {answer}");
    }
    let file = |path: &str| kubectl.ask_from(&client, "web:80", path).expect("a file");
    assert_eq!(file("/file/etc/settings/colour"), "green");
    assert_eq!(file("/file/etc/hidden/word"), "sesame");

    let logs = kubectl.ok(&["logs", "-l", "app=web", "--tail=100"]);
    assert!(logs.contains("serving on 8080") && logs.contains("asked for /"), "{logs}");
    port_forward(&kubectl);

    web(&kubectl, "two");
    let answer = kubectl.until("the new version alone", SOON, || {
        kubectl.pods("web", 2, SOON);
        let answer = kubectl.ask_from(&client, "web:80", "/")?;
        if answer.starts_with("two from") { Ok(answer) } else { Err(answer) }
    });
    println!("rolled: {answer}");

    // What is at rest is not what was said.
    let etcd = |key: &str| {
        let out = kubectl.command("etcdctl", &["get", key, "--print-value-only"]).output().expect("run");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let secret = etcd("/registry/secrets/default/hidden");
    assert!(secret.starts_with("k8s:enc:secretbox:v1:seed:") && !secret.contains("sesame"), "{secret}");
    assert!(etcd("/registry/configmaps/default/settings").contains("green"));

    // Pod Security says no to what takes the node over.
    let mut root = template("root", &["idle"], &json!({ "securityContext": { "privileged": true } }), &[]);
    root["apiVersion"] = "v1".into();
    root["kind"] = "Pod".into();
    root["metadata"]["name"] = "root".into();
    let path = cluster.dir.path().join("root.json");
    std::fs::write(&path, root.to_string()).expect("written");
    let refused = kubectl.run(&["apply", "-f", &path.display().to_string()]).expect_err("refused");
    assert!(refused.contains("violates PodSecurity \"baseline:latest\": privileged"), "{refused}");

    // An image in the root, as its own configuration has it run: there is no registry that could be asked.
    let container = json!({ "name": "box", "image": BOX_IMAGE });
    let pod = json!({ "metadata": { "labels": { "app": "own" } }, "spec": { "containers": [container] } });
    kubectl.apply(&workload("Deployment", "own", &pod, &json!({})));
    let own = kubectl.pods("own", 1, SOON).remove(0).1;
    let own = kubectl.get(&["pod", &own]).expect("the pod");
    let to = format!("{}:8080", own["status"]["podIP"].as_str().expect("an address"));
    let answer = kubectl.until("an answer of the image's program", SOON, || kubectl.ask_from(&client, &to, "/"));
    assert!(answer.starts_with("from its own image from own-"), "{answer}");

    aggregates(&cluster, &kubectl);
    audits(&kubectl);

    // The issuer's discovery, and who may not read whose secrets.
    assert!(kubectl.ok(&["get", "--raw", "/openid/v1/jwks"]).contains("\"ES256\""));
    let no = kubectl.run(&["auth", "can-i", "get", "secrets", "--as=system:node:other", "--as-group=system:nodes"]);
    assert!(no.is_err_and(|e| e.contains("no")), "a node that has no pod with it");
}

/// A server of somebody else's API, here on the host, which answers nobody but the aggregation layer.
fn aggregates(cluster: &Cluster, kubectl: &Kubectl) {
    let dir = cluster.dir.path().join("aggregated");
    let group = dir.join("apis/example.org");
    std::fs::create_dir_all(&group).expect("made");
    let resource = json!({ "name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get", "list"] });
    let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "example.org/v1", "resources": [resource] });
    std::fs::write(group.join("v1"), list.to_string()).expect("written");
    let front = read(&cluster.dir.path().join("demo.secrets/front-proxy-ca.crt"));
    let (ca, tls) = qemu_tests::tls_for("things.default.svc", &front);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    qemu_tests::serve(listener, dir, Some(tls));

    // The host's loopback is the gateway's address inside the lab.
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "things" }, "spec": { "ports": [{ "port": 443, "targetPort": port }] } }));
    kubectl.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "things", "labels": { "kubernetes.io/service-name": "things" } },
        "ports": [{ "port": port }], "endpoints": [{ "addresses": ["10.77.0.1"], "conditions": { "ready": true } }],
    }));
    kubectl.apply(&json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": "v1.example.org" },
        "spec": {
            "group": "example.org", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "service": { "name": "things", "namespace": "default" },
            "caBundle": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ca),
        },
    }));
    let answer = kubectl.until("the aggregated API", SOON, || kubectl.run(&["get", "--raw", "/apis/example.org/v1"]));
    assert!(answer.contains("\"things\""), "{answer}");
    kubectl.ok(&["delete", "apiservice", "v1.example.org"]);
}

/// Who did what is written down, once; the questions whether all is well, twenty a second, are not.
fn audits(kubectl: &Kubectl) {
    kubectl.ok(&["get", "--raw", "/livez"]);
    kubectl.ok(&["create", "configmap", "audited"]);
    let log = kubectl.ok(&["get", "--raw", "/api/v1/nodes/node-1/proxy/logs/kubernetes/audit/audit.log"]);
    let of = |what: &str| log.lines().filter(|l| l.contains(what)).collect::<Vec<_>>();
    let made = of("\"objectRef\":{\"resource\":\"configmaps\",\"namespace\":\"default\",\"name\":\"audited\"");
    assert!(
        matches!(made[..], [one] if one.contains("\"verb\":\"create\"") && one.contains("ResponseComplete")),
        "{made:#?}"
    );
    let is_noise = |l: &&str| {
        let asked = ["/livez", "/readyz"].iter().any(|p| l.contains(&format!("\"requestURI\":\"{p}")));
        asked || (l.contains("\"verb\":\"update\"") && l.contains("\"resource\":\"leases\""))
    };
    let noise: Vec<_> = log.lines().filter(is_noise).collect();
    assert!(noise.is_empty(), "{noise:#?}");
    println!("{} requests in the audit log", log.lines().count());
}

fn port_forward(kubectl: &Kubectl) {
    use std::io::{Read, Write};
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let _forward = kubectl.spawn(&["port-forward", "service/web", &format!("{port}:80")]);
    let answer = kubectl.until("an answer by port-forward", SOON, || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
        if text.is_empty() { Err("nothing".into()) } else { Ok(text) }
    });
    assert!(answer.contains("one from web-"), "{answer}");
}

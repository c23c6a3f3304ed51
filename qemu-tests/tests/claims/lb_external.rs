//! Behind somebody else's load balancer there is no virtual IP: HAProxy answers on the node's own address, tells whoever is
//! in front of it how it is, and takes another set of masters without dropping a connection.

use lab::probe::api::Client;
use qemu_tests::balancer::{description, tell};
use qemu_tests::cluster::Cluster;
use qemu_tests::host_pki::HostPki;
use qemu_tests::{BOOT, Node, READY, image_of};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// What a plain HTTP request gets: status and body.
fn get(to: SocketAddr, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok((head.split_whitespace().nth(1).unwrap_or_default().to_owned(), body.to_owned()))
}

#[test]
fn answers_on_its_own_address_without_a_virtual_ip() {
    let text = description()
        .replace("endpoint = \"10.77.0.10\"", "endpoint = \"api.demo.example\"\nprovided_by = \"external\"")
        .replace("forward = [", "forward = [{ host = \"127.0.0.1:0\", to = \"10.77.0.21:6443\" }, { host = \"127.0.0.1:0\", to = \"10.77.0.21:8404\" }, ");
    let cluster = Cluster::new(&text);
    cluster.up(&["--only", "lb-1,master-1", "--dilation", "8"]);
    let node = cluster.node("lb-1");
    let names: Vec<_> = node["services"].as_array().expect("services").iter().map(|s| s["name"].clone()).collect();
    assert!(names.iter().any(|n| n == "haproxy") && names.iter().all(|n| n != "keepalived"), "{names:?}");

    let (api, metrics) = (cluster.forwarded("10.77.0.21:6443"), cluster.forwarded("10.77.0.21:8404"));
    let client = Client::new(api, &cluster.seeds(), SOON, cluster.clock()).expect("a client");
    let wait = |what: &str, holds: &dyn Fn() -> bool| {
        let deadline = Instant::now() + cluster.clock().host(SOON);
        while !holds() {
            assert!(Instant::now() < deadline, "waited {SOON:?} until {what}");
        }
    };
    wait("a master answers through it", &|| client.get("/name").is_ok_and(|name| name == "master-1"));
    assert_eq!(get(metrics, "/healthz").expect("asked"), ("200".into(), "ok".into()));
    let (status, body) = get(metrics, "/metrics").expect("asked");
    assert!(status == "200" && body.contains("haproxy_server_status"), "{status}\n{body}");
    assert_eq!(get(metrics, "/").expect("asked").0, "404");
    // Not ready, for want of etcd: still somebody to send clients to.
    let none_is_ready = "haproxy_server_status{proxy=\"ready\",server=\"master-1\",state=\"DRAIN\"} 1";
    tell(&cluster, 1, "not-ready");
    wait("HAProxy has its word", &|| get(metrics, "/metrics").is_ok_and(|(_, body)| body.contains(none_is_ready)));
    assert_eq!(get(metrics, "/healthz").expect("asked").0, "200");
    assert_eq!(client.get("/name").expect("the last resort"), "master-1");
    // One that only starts is live too, and accepts connections; it would answer 403 to whom it does not know yet.
    tell(&cluster, 1, "starting");
    wait("no master has started", &|| get(metrics, "/healthz").is_ok_and(|(status, _)| status == "503"));
    client.get("/name").expect_err("nobody to send clients to");
    tell(&cluster, 1, "well");
    wait("a master is ready", &|| client.get("/name").is_ok());
    cluster.ok(&["kill", "master-1"]);
    wait("no master is told of", &|| get(metrics, "/healthz").is_ok_and(|(status, _)| status == "503"));
}

/// In a master's place, on this machine, where the lab's gateway leads: alive to whoever asks by TLS, an echo to anybody else.
fn master(tls: &Arc<rustls::ServerConfig>) {
    let listener = TcpListener::bind("127.0.0.1:6443").expect("the API's port of this machine");
    let tls = Arc::clone(tls);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = Arc::clone(&tls);
            std::thread::spawn(move || {
                let mut first = [0];
                // The first byte of a TLS handshake: RFC 8446, 5.1.
                if stream.peek(&mut first).is_ok_and(|_| first == [22]) {
                    let session = rustls::ServerConnection::new(tls).expect("a session");
                    let mut stream = rustls::StreamOwned::new(session, stream);
                    let _ = BufReader::new(&mut stream).lines().map_while(Result::ok).find(String::is_empty);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                } else {
                    let (mut from, mut to) = (&stream, &stream);
                    let _ = std::io::copy(&mut from, &mut to);
                }
            });
        }
    });
}

/// The seed is read again on demand; HAProxy reads its file again, and a connection that is held goes on.
#[test]
fn another_set_of_masters_drops_no_connection() {
    let node = Node::seeded(|t| t).expect("seeded");
    let pki = HostPki::make(node.dir.path()).expect("a CA");
    master(&qemu_tests::tls_of(&pki));
    let seed = |generation: u64, masters: &[(&str, &str)]| {
        let masters: serde_json::Map<_, _> = masters.iter().map(|(n, a)| ((*n).into(), (*a).into())).collect();
        let config = serde_json::json!({ "quorate": {
            "version": 1, "generation": generation, "roles": ["lb"],
            "node": { "name": "etcd-1", "address": "10.77.0.31" },
            "cluster": { "name": "demo", "id": "3f9c2a7be1d04c55", "endpoint": "api.example:6443" },
            "masters": masters,
            "lb": { "provided_by": "external" },
            "state": "ephemeral",
            "pki": { "cluster_ca": { "cert": pki.ca } },
        }});
        let dir = node.path("served");
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join("user-data"), format!("#cloud-config\n{config}\n")).expect("written");
        for file in ["meta-data", "network-config"] {
            std::fs::copy(node.path("demo.seed/etcd-1").join(file), dir.join(file)).expect("copied");
        }
        dir
    };
    // The lab's gateway leads to this machine.
    let dir = seed(1, &[("here", "10.77.0.1")]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    qemu_tests::serve(listener, dir, None);
    let mut machine = node.machine_of(&image_of("lb"), vec![]).expect("a machine");
    machine.memory = 256;
    machine.serial = Some(format!("ds=nocloud;s=http://10.77.0.1:{port}/n1"));
    let to = |port: u16| SocketAddr::from(([10, 77, 0, 31], port));
    machine.lan =
        lab::command::Lan::Own([6443, 8404].map(|p| ("127.0.0.1:0".parse().expect("an address"), to(p))).to_vec());
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for(READY, BOOT).expect("a ready node");
    let (api, metrics) = (vm.forwarded(to(6443)).expect("there"), vm.forwarded(to(8404)).expect("there"));

    let deadline = Instant::now() + node.clock().host(SOON);
    let says = |stream: &mut TcpStream, word: &str| -> std::io::Result<()> {
        stream.set_read_timeout(Some(node.clock().host(Duration::from_secs(2))))?;
        stream.write_all(word.as_bytes())?;
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back)?;
        assert_eq!(back, word.as_bytes());
        Ok(())
    };
    // HAProxy takes every server for a good one until it was checked.
    let checked = "haproxy_server_check_status{proxy=\"ready\",server=\"here\",state=\"L7OK\"} 1";
    while !get(metrics, "/metrics").is_ok_and(|(_, body)| body.contains(checked)) {
        assert!(Instant::now() < deadline, "HAProxy does not find the master alive");
    }
    let mut held = TcpStream::connect(api).expect("the gateway accepts");
    says(&mut held, "before").expect("an answer through HAProxy");
    seed(2, &[("here", "10.77.0.1"), ("there", "10.77.0.9")]);
    vm.voice.say(&contract::voice::ToNode::Replan).expect("told");
    vm.wait_for("generation 2: nothing started anew, node, haproxy read again", SOON).expect("taken");
    let told = || get(metrics, "/metrics").is_ok_and(|(_, body)| body.contains("server=\"there\""));
    while !told() {
        assert!(Instant::now() < deadline, "HAProxy does not know the other master");
    }
    says(&mut held, "after").expect("the connection goes on");
    // Longer than anything waits for the old process.
    std::thread::sleep(node.clock().host(Duration::from_secs(6)));
    says(&mut held, "long after").expect("the connection goes on");
    assert!(!vm.has_said("haproxy failed"));
    // A lower generation, and one that is no seed at all, change nothing.
    seed(1, &[("nobody", "10.77.0.8")]);
    vm.voice.say(&contract::voice::ToNode::Replan).expect("told");
    vm.wait_for("the source has generation 1, this node 2", SOON).expect("passed over");
    std::fs::write(node.path("served/user-data"), "#cloud-config\nquorate: {}\n").expect("written");
    vm.voice.say(&contract::voice::ToNode::Replan).expect("told");
    vm.wait_for("the source was read again, and is not usable", SOON).expect("passed over");
    says(&mut held, "at the end").expect("the connection goes on");
}

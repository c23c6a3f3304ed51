//! A seed over http: the address by DHCP on the way there, private keys only where the command line allows it, and a
//! server that comes up late is asked again.

use qemu_tests::{BOOT, Node, READY, serve};
use std::net::TcpListener;
use std::sync::Arc;

fn tls() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["seed.example".into()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    Arc::new(config)
}

/// What vouches for a seed over https is the digest on the line: with the right one it is taken, with another it is not.
#[test]
fn comes_by_https_with_a_pinned_digest() {
    let node = Node::seeded(|t| t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"")).expect("seeded");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    serve(listener, node.path("demo.seed/etcd-1"), Some(tls()));
    let sum =
        std::process::Command::new("sha256sum").arg(node.path("demo.seed/etcd-1/user-data")).output().expect("run");
    let sum = String::from_utf8_lossy(&sum.stdout)[..64].to_owned();
    let mut machine = node.machine(vec![]).expect("a machine");
    let line = |sum: &str| Some(format!("ds=nocloud;s=https://10.77.0.1:{port}/n1/;sha256={sum}"));
    machine.cmdline += " quorate.wait=2";
    machine.serial = line(&"0".repeat(64));
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for("the ds line pins 0000", BOOT).expect("refused");
    drop(vm);
    machine.serial = line(&sum);
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for(READY, BOOT).expect("a ready node");
}

#[test]
fn comes_by_http_when_that_is_allowed() {
    let node = Node::seeded(|t| {
        let t = t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"");
        t.replace("ntp = []", "ntp = [\"10.77.0.1\"]")
    })
    .expect("seeded");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut machine = node.machine(vec![]).expect("a machine");
    // The host's loopback is the gateway's address inside the lab.
    machine.serial = Some(format!("ds=nocloud;s=http://10.77.0.1:{port}/n1"));
    machine.cmdline += " quorate.wait=4";

    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for("quorate: network ready", BOOT).expect("an address by DHCP");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("nobody answers yet");
    serve(listener, node.path("demo.seed/etcd-1"), None);
    vm.wait_for("carries private keys and came in the clear", BOOT).expect("asked again, and refused");
    assert!(!vm.has_said("quorate: etcd ready"));
    drop(vm);

    machine.cmdline += " quorate.insecure-seed=1";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for(&format!("node etcd-1 with etcd from nocloud:http://10.77.0.1:{port}/n1/"), BOOT).expect("taken");
    vm.wait_for(READY, BOOT).expect("a ready node");
    let etcd = node.etcd(&mut vm).expect("a client");
    etcd.put("a", "1").expect("written");
    assert!(vm.has_said("quorate: chrony ready") && !vm.has_said("chrony failed"), "servers were given");
}

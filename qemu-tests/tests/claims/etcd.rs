//! A node boots to a healthy etcd member that serves those with a certificate, and loses nothing: not by a kill of its
//! process, not by a power cut, not without its seed.

use qemu_tests::etcd::Client;
use qemu_tests::{BOOT, Node, READY, SOON, read};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A client certificate of a CA that nobody knows.
fn stranger() -> (String, String) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::default();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (leaf.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
}

#[test]
fn serves_certificates_survives_kill_and_power_cut_and_needs_its_seed_once() {
    let node = Node::seeded(|t| t).expect("seeded");
    let mut machine = node.machine(vec![node.state_disk().expect("a disk"), node.seed_disk()]).expect("a machine");
    machine.cmdline += " sysrq_always_enabled";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for(READY, BOOT).expect("a ready node");

    // Only those with a certificate of the right CA.
    let etcd = node.etcd(&mut vm).expect("a client");
    etcd.put("a", "1").expect("written");
    assert_eq!(etcd.get("a").expect("read").as_deref(), Some("1"));
    assert_eq!(etcd.members().expect("members"), ["etcd-1"]);
    let to = vm.forwarded("10.77.0.31:2379".parse().expect("an address")).expect("forwarded");
    let ca = read(&node.path("demo.seed/etcd-server-ca.crt"));
    let nobody = Client::with(to, &ca, None, node.clock()).expect("a client");
    assert!(nobody.get("a").is_err(), "without a certificate");
    let (cert, key) = stranger();
    let foreign = Client::with(to, &ca, Some((&cert, &key)), node.clock()).expect("a client");
    assert!(foreign.get("a").is_err(), "with a certificate of a foreign CA");
    let wrong_server = Client::with(to, &cert, None, node.clock()).expect("a client");
    assert!(wrong_server.get("a").is_err(), "a client that trusts another CA");

    // SysRq f: the kernel kills the largest process with SIGKILL, and that is etcd.
    vm.sysrq('f').expect("typed");
    vm.wait_for("etcd failed: killed by SIGKILL", SOON).expect("seen");
    vm.wait_for("quorate: etcd ready", SOON).expect("restarted");
    assert_eq!(etcd.get("a").expect("read").as_deref(), Some("1"), "nothing is lost by a kill");

    // A power cut: nothing is flushed, nobody is asked.
    etcd.put("b", "2").expect("written");
    vm.kill().expect("cut");
    let mut vm = node.boot_ready().expect("back");
    let etcd = node.etcd(&mut vm).expect("a client");
    assert_eq!(etcd.get("b").expect("read").as_deref(), Some("2"), "nothing acknowledged is lost by a power cut");

    // The power button: in order, and to the end.
    vm.power_button().expect("pressed");
    vm.wait_for("shutting down (Poweroff): the power button", SOON).expect("heard");
    for service in ["etcd", "node", "network", "log"] {
        vm.wait_for(&format!("quorate: {service} stopped"), SOON)
            .unwrap_or_else(|e| panic!("{service} in its turn: {e:#}"));
    }
    vm.wait_for("down: powering off", SOON).expect("the end");
    assert!(vm.wait_end(SOON).expect("ended").success());
    assert!(!vm.has_said("unmounting:"), "every file system let go");

    // Without its seed: the node remembers what it is.
    let mut vm = node.boot(vec![node.state_disk().expect("a disk")]).expect("started");
    vm.wait_for(READY, BOOT).expect("a ready node");
    let etcd = node.etcd(&mut vm).expect("a client");
    assert_eq!(etcd.get("b").expect("read").as_deref(), Some("2"));
}

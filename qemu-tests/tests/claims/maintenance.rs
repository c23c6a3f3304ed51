//! A node without a usable seed runs no role, says why, and picks up a corrected seed without a reboot.

use contract::voice::ToNode;
use qemu_tests::{BOOT, Node, READY, SOON};

/// Boots with a broken seed, expects words on the console (the last of them last), plugs in the good one, expects a ready node.
fn recovers(edit: impl Fn(&str) -> String, words: &[&str]) {
    let node = Node::seeded(|t| t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"")).expect("seeded");
    let good = node.user_data().expect("user-data");
    let bad = node.write_medium("bad.iso", &edit(&good)).expect("a medium");
    let mut vm = node.boot(vec![bad]).expect("started");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("maintenance mode");
    let [before @ .., last] = words else { panic!("words to expect") };
    vm.wait_for(last, BOOT).expect("the reason");
    for word in before {
        assert!(vm.has_said(word), "{word} in\n{}", vm.console.since(0).join("\n"));
    }
    assert!(!vm.has_said("quorate: etcd ready"), "no role runs");
    vm.unplug("disk0").expect("asked");
    vm.plug("good", &node.seed_disk()).expect("plugged");
    vm.wait_for(READY, BOOT).expect("a ready node");
}

/// What was looked at, where nothing usable was found.
const PROBED: &str = "quorate:   probed: /dev/vda";

#[test]
fn a_role_that_the_image_lacks() {
    recovers(
        as_load_balancer,
        &["the role `lb` is not in this image `etcd` (it carries etcd); hint: boot an image of a profile with `lb`"],
    );
}

/// The same node as a load balancer: a good seed, for another image.
fn as_load_balancer(user_data: &str) -> String {
    let json = user_data.trim_start_matches("#cloud-config\n");
    let mut seed: serde_json::Value = serde_json::from_str(json).expect("json");
    let node = seed["quorate"].as_object_mut().expect("a configuration");
    let ca = node["pki"]["etcd_server_ca"]["cert"].clone();
    node.remove("members");
    node.remove("etcd");
    node["roles"] = serde_json::json!(["lb"]);
    node["pki"] = serde_json::json!({ "cluster_ca": { "cert": ca } });
    node["cluster"]["endpoint"] = "api.example:6443".into();
    node.insert("masters".into(), serde_json::json!({ "master-1": "10.77.0.11" }));
    node.insert("lb".into(), serde_json::json!({ "provided_by": "external" }));
    format!("#cloud-config\n{seed}\n")
}

/// A master issues certificates: without the key for it, it is none; the seed that has the key makes it one.
#[test]
fn a_master_without_the_key_of_its_ca() {
    let single = qemu_tests::read(&qemu_tests::checkout().join("examples/single.toml"));
    let description = single.replace("\"single\"", "\"demo\"").replace("\"master-1\"", "\"etcd-1\"");
    let node = Node::seeded(|_| description.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\""))
        .expect("seeded");
    let json = node.user_data().expect("user-data").trim_start_matches("#cloud-config\n").to_owned();
    let mut seed: serde_json::Value = serde_json::from_str(&json).expect("json");
    seed["quorate"]["pki"]["cluster_ca"].as_object_mut().expect("a CA").remove("key").expect("it had one");
    let bad = node.write_medium("bad.iso", &format!("#cloud-config\n{seed}\n")).expect("a medium");
    let image = qemu_tests::image().with_file_name("master-etcd");
    let mut machine = node.machine_of(&image, vec![bad]).expect("a machine");
    machine.memory = 2048;
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("maintenance mode");
    vm.wait_for("quorate.pki.cluster_ca.key: is missing", BOOT).expect("the reason");
    assert!(!vm.has_said("quorate: containerd ready"), "no role runs");
    vm.unplug("disk0").expect("asked");
    vm.plug("good", &node.seed_disk()).expect("plugged");
    vm.wait_for("quorate: containerd ready", BOOT).expect("a master");
}

#[test]
fn a_typo_under_quorate() {
    recovers(|t| t.replace("\"roles\"", "\"rolse\""), &["unknown field `rolse`", "did you mean `roles`?", PROBED]);
}

#[test]
fn truncated_yaml() {
    recovers(|t| t[..t.len() / 2].to_owned(), &["user-data: line ", PROBED]);
}

/// A node's identity is fixed at first boot: what another seed says is told and refused.
#[test]
fn a_seed_of_another_identity_is_not_taken() {
    let node = Node::seeded(|t| t).expect("seeded");
    let vm = node.boot_ready().expect("a ready node");
    vm.kill().expect("cut");
    let other = node.user_data().expect("user-data").replace("\"generation\": 1", "\"generation\": 9");
    let id_at = other.find("\"id\": \"").expect("an id") + 7;
    let other = format!("{}0000000000000000{}", &other[..id_at], &other[id_at + 16..]);
    let medium = node.write_medium("other.iso", &other).expect("a medium");
    let mut vm = node.boot(vec![node.state_disk().expect("a disk"), medium]).expect("started");
    vm.wait_for("is of another identity and is not taken: cluster.id is", BOOT).expect("refused");
    vm.wait_for(READY, BOOT).expect("as what it was");
}

/// A member whose peers are not there waits for them by name, and starts nothing.
#[test]
fn a_first_boot_waits_for_the_other_members() {
    let more = |n: u32| {
        format!(
            "\n[[node]]\nname = \"etcd-{n}\"\nroles = [\"etcd\"]\naddress = \"10.77.0.3{n}/24\"\nmac = \"52:54:00:77:00:3{n}\"\nstate = \"ephemeral\"\n"
        )
    };
    let node = Node::seeded(|t| format!("{t}{}{}", more(2), more(3))).expect("seeded");
    let mut vm = node.boot(vec![node.state_disk().expect("a disk"), node.seed_disk()]).expect("started");
    vm.wait_for("etcd waits: etcd-2, etcd-3 did not answer yet", BOOT).expect("waits");
    assert!(!vm.has_said("quorate: etcd ready"));
}

#[test]
fn no_seed_at_all() {
    let node = Node::seeded(|t| t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"")).expect("seeded");
    let mut machine = node.machine(vec![]).expect("a machine");
    machine.cmdline += " quorate.wait=3";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("maintenance mode");
    vm.wait_for("no seed was found", BOOT).expect("the reason");
    hears(&vm, "MAINTENANCE");
    vm.plug("good", &node.seed_disk()).expect("plugged");
    vm.wait_for(READY, BOOT).expect("a ready node");
    // By the port to the host, which needs no network: in order, and to the end.
    vm.voice.say(&ToNode::Poweroff).expect("said");
    vm.wait_for("shutting down (Poweroff): the host asked for it", SOON).expect("heard");
    assert!(vm.wait_end(SOON).expect("ended").success());
}

/// Waits until the node's voice has told of something.
fn hears(vm: &lab::vm::Vm, what: &str) {
    let mut at = 0;
    loop {
        let (lines, ended) = vm.voice.wait(at, vm.clock().host(SOON));
        assert!(!ended && !lines.is_empty(), "waiting for `{what}`; it said {:?}", vm.voice.lines(0));
        at += lines.len();
        if lines.iter().any(|l| l.text.contains(what)) {
            return;
        }
    }
}

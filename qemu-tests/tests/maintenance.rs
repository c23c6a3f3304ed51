//! A node without a usable seed runs no role, says why, and picks up a corrected seed without a reboot.

use qemu_tests::{BOOT, Node, READY};

/// Boots with a broken seed, expects words on the console, plugs in the good one, expects a ready node.
fn recovers(edit: impl Fn(&str) -> String, words: &[&str]) {
    let node = Node::seeded(|t| t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"")).expect("seeded");
    let good = node.user_data().expect("user-data");
    let bad = node.write_medium("bad.iso", &edit(&good)).expect("a medium");
    let mut vm = node.boot(vec![bad]).expect("started");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("maintenance mode");
    for word in words {
        vm.wait_for(word, BOOT).unwrap_or_else(|e| panic!("{e:#}"));
    }
    assert!(!vm.has_said("quorate: etcd ready"), "no role runs");
    vm.unplug("disk0").expect("asked");
    vm.plug("good", &node.seed_disk()).expect("plugged");
    vm.wait_for(READY, BOOT).expect("a ready node");
}

#[test]
fn a_role_that_the_image_lacks() {
    recovers(
        |t| t.replace("\"etcd\"\n    ]", "\"worker\"\n    ]"),
        &["`worker` is not in this version of quorate; it runs etcd"],
    );
}

#[test]
fn a_typo_under_quorate() {
    recovers(|t| t.replace("\"roles\"", "\"rolse\""), &["unknown field `rolse`", "did you mean `roles`?"]);
}

#[test]
fn truncated_yaml() {
    recovers(|t| t[..t.len() / 2].to_owned(), &["user-data: line "]);
}

#[test]
fn no_seed_at_all() {
    let node = Node::seeded(|t| t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"")).expect("seeded");
    let mut machine = node.machine(vec![]).expect("a machine");
    machine.cmdline += " quorate.wait=3";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("maintenance mode");
    vm.wait_for("no seed was found", BOOT).expect("the reason");
    vm.plug("good", &node.seed_disk()).expect("plugged");
    vm.wait_for(READY, BOOT).expect("a ready node");
}

//! A disk with anything on it is never taken, and of two state partitions none is: a pod's volume must not become the
//! node's configuration, and nobody's data is formatted away.

use lab::command::Disk;
use qemu_tests::{BOOT, Node, READY};

#[test]
fn a_disk_with_data_is_left_alone_unless_told() {
    let node = Node::seeded(|t| t).expect("seeded");
    let path = node.path("data.raw");
    let mut bytes = vec![0; 256 << 20];
    // Neither at the beginning nor a signature that anybody knows.
    bytes[300_000..300_011].copy_from_slice(b"family.jpeg");
    std::fs::write(&path, &bytes).expect("written");
    let disk = Disk { path: path.clone(), format: "raw", serial: "state".into(), read_only: false };
    let mut vm = node.boot(vec![disk.clone(), node.seed_disk()]).expect("started");
    vm.wait_for("quorate: MAINTENANCE", BOOT).expect("maintenance mode");
    vm.wait_for("/dev/vda is not blank; expected a blank disk, or `wipe: true`", BOOT).expect("the reason");
    vm.kill().expect("cut");
    assert!(std::fs::read(&path).expect("read") == bytes, "not a byte was written");

    let told = node
        .user_data()
        .expect("user-data")
        .replace("\"disk\": \"/dev/vda\"", "\"disk\": \"serial:state\", \"wipe\": true");
    let seed = node.write_medium("wipe.iso", &told).expect("a medium");
    let mut vm = node.boot(vec![disk, seed]).expect("started");
    vm.wait_for(READY, BOOT).expect("taken, because told so");
}

#[test]
fn of_two_state_partitions_none_is_taken_until_one_is_named() {
    let node = Node::seeded(|t| t).expect("seeded");
    node.boot_ready().expect("a ready node").kill().expect("cut");
    let first = node.state_disk().expect("a disk");
    let second = Disk { path: node.path("copy.qcow2"), serial: "copy".into(), ..first.clone() };
    std::fs::copy(&first.path, &second.path).expect("copied");
    let mut machine = node.machine(vec![first, second]).expect("a machine");
    machine.cmdline += " quorate.wait=1";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.plug("seed", &node.seed_disk()).expect("plugged");
    vm.wait_for("two state partitions: /dev/vda1 and /dev/vdb1", BOOT).expect("both named");
    assert!(!vm.has_said("quorate: etcd ready"));
    drop(vm);
    machine.cmdline += " quorate.state=serial:copy";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for(READY, BOOT).expect("the named one, without any seed");
}

//! A damaged image, or a machine too small for it, ends with a line that says so.

use qemu_tests::{BOOT, Node, READY, image, initrd_facts};

fn node() -> Node {
    Node::seeded(|t| t.replace("state = { disk = \"/dev/vda\" }", "state = \"ephemeral\"")).expect("seeded")
}

/// Boots a changed initramfs and expects a last line.
fn stops(change: impl Fn(&mut Vec<u8>, std::ops::Range<usize>), words: &str) {
    let node = node();
    let mut initrd = std::fs::read(image().join("initrd")).expect("read");
    let (_, root) = initrd_facts(&initrd).expect("an initramfs");
    change(&mut initrd, root);
    let mut machine = node.machine(vec![node.seed_disk()]).expect("a machine");
    machine.initrd = node.path("initrd");
    // Rebooting over and over would only repeat the line.
    machine.cmdline += " panic=0";
    std::fs::write(&machine.initrd, initrd).expect("written");
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    let line = vm.wait_for("quorate: STOPPED", BOOT).expect("a last line");
    assert!(line.contains(words), "{line}");
}

#[test]
fn a_flipped_bit_in_the_root() {
    stops(|initrd, root| initrd[root.start + root.len() / 2] ^= 1, "root.img is damaged; expected sha256");
}

#[test]
fn a_truncated_root() {
    stops(
        |initrd, root| initrd.truncate(root.start + root.len() / 2),
        "root.img is incomplete; expected its end, found zeros",
    );
}

#[test]
fn boots_with_the_least_ram_it_asks_for_and_says_so_with_less() {
    let initrd = std::fs::read(image().join("initrd")).expect("read");
    let (info, _) = initrd_facts(&initrd).expect("an initramfs");
    let node = Node::seeded(|t| t).expect("seeded");
    let disks = vec![node.state_disk().expect("a disk"), node.seed_disk()];
    let mut machine = node.machine(disks).expect("a machine");
    machine.memory = info.min_ram_mib;
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    vm.wait_for(READY, BOOT).expect("a ready node in the least RAM");
    drop(vm);

    machine.memory = info.min_ram_mib - 64;
    machine.cmdline += " panic=0";
    let mut vm = lab::vm::Vm::start(&machine).expect("started");
    let line = vm.wait_for("quorate: STOPPED", BOOT).expect("a last line");
    assert!(line.contains(&format!("too little RAM; expected {} MiB", info.min_ram_mib)), "{line}");
}

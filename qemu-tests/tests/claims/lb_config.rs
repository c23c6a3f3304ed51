//! The load balancer's files, as init plans them (its snapshots), pass the checks of the very programs in the image.

use qemu_tests::{checkout, image_of, initrd_facts, missing, read};
use std::path::Path;
use std::process::Command;

/// A snapshot's text, without insta's head.
fn snapshot(name: &str) -> String {
    let dir = checkout().join("init/src/roles/lb/snapshots");
    let text = read(&dir.join(format!("quorate_init__roles__lb__tests__{name}.snap")));
    text.splitn(3, "---\n").nth(2).expect("a snapshot").to_owned()
}

/// Runs a program of the image in its root; whether it was content, and what it said.
fn run(root: &Path, words: &[&str]) -> (bool, String) {
    let out = Command::new("chroot").arg(root).args(words).output().expect("run");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.success(), text)
}

#[test]
fn pass_the_programs_own_checks() {
    if !nix::unistd::geteuid().is_root() {
        return missing("root, for chroot");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let initrd = std::fs::read(image_of("lb").join("initrd")).expect("read");
    let (_, range) = initrd_facts(&initrd).expect("facts");
    std::fs::write(dir.path().join("root.img"), &initrd[range]).expect("written");
    let root = dir.path().join("root");
    let out = Command::new("unsquashfs").args(["-q", "-n", "-d"]).arg(&root).arg(dir.path().join("root.img")).output();
    assert!(out.expect("unsquashfs").status.success());
    let pki = qemu_tests::host_pki::HostPki::make(dir.path()).expect("a CA");
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("etc/kubernetes/pki/ca.crt", &pki.ca);
    for (file, text) in [("link.conf", "$LINK=lo\n"), ("holding", "0\n"), ("masters", "0\n")] {
        write(&format!("run/quorate/lb/{file}"), text);
    }
    for name in ["two", "ipv6", "compact", "external"] {
        write("tmp/haproxy.cfg", &snapshot(&format!("{name}.haproxy")));
        let (good, said) = run(&root, &["/usr/sbin/haproxy", "-c", "-f", "/tmp/haproxy.cfg"]);
        assert!(good, "{name}: {said}");
    }
    let keepalived = ["/usr/sbin/keepalived", "--vrrp", "--config-test", "--use-file", "/tmp/keepalived.conf"];
    for name in ["two", "three", "ipv6", "alone", "compact"] {
        write("tmp/keepalived.conf", &snapshot(&format!("{name}.keepalived")));
        let (_, said) = run(&root, &keepalived);
        // The one interface that every machine has is none for VRRP: that is all there is to say.
        let rest = said.lines().filter(|l| !l.contains("cannot use a loopback interface"));
        let rest: Vec<_> = rest.filter(|l| l.contains("/tmp/keepalived.conf")).collect();
        assert!(said.contains("cannot use a loopback interface (lo)") && rest.is_empty(), "{name}: {said}");
    }
    // The checks do find what is wrong.
    write("tmp/haproxy.cfg", &snapshot("two.haproxy").replace("balance leastconn", "balance leastcon"));
    assert!(!run(&root, &["/usr/sbin/haproxy", "-c", "-f", "/tmp/haproxy.cfg"]).0);
    let wrong = snapshot("two.keepalived").replace("virtual_router_id 77", "virtual_router_id 777");
    write("tmp/keepalived.conf", &wrong);
    assert!(run(&root, &keepalived).1.contains("'777' outside range"));
}

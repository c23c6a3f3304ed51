//! What the command says to people and to scripts: exit codes, places in files, JSON, nothing half-written.

use qemu_tests::cores::Turn;
use qemu_tests::{Node, checkout, program};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output};
use std::time::Duration;

fn quorate(arguments: &[&str]) -> Output {
    Command::new(program("quorate")).current_dir(checkout()).args(arguments).output().expect("run")
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn exit_codes_and_places() {
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("mine.toml");
    std::fs::write(&profile, "name = \"mine\"\nrolse = [\"etcd\"]\n").expect("written");
    let profile = profile.display().to_string();
    let cluster = dir.path().join("c.toml");
    let text = std::fs::read_to_string(checkout().join("examples/etcd-single.toml")).expect("read");
    std::fs::write(&cluster, text.replace("\"etcd-1\"", "\"Etcd 1\"")).expect("written");
    let cluster = cluster.display().to_string();
    let etcd_only = dir.path().join("etcd.toml");
    std::fs::write(&etcd_only, text).expect("written");
    let etcd_only = etcd_only.display().to_string();
    for (arguments, code, words) in [
        (&["image", "plan", &profile][..], 2, "mine.toml:2:1: unknown field `rolse`"),
        (&["image", "plan", "ectd"], 2, "did you mean `etcd`?"),
        (&["image", "--init", "/bin/sh", "plan", "etcd"], 1, "/bin/sh is not static: it needs "),
        (&["cluster", "seed", &cluster], 2, "is not an RFC 1123 label"),
        (&["config", "validate", &cluster], 2, "is not an RFC 1123 label"),
        (&["config", "validate", "/nonexistent"], 1, "reading /nonexistent"),
        (&["image", "bake"], 2, "unrecognized subcommand"),
        (&["chaos", &etcd_only], 2, "no node has the role master"),
        (&["chaos", "examples/stacked.toml", "lb-powr"], 2, "no row `lb-powr`; there are lb-power, "),
    ] {
        let out = quorate(arguments);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(words), "{arguments:?}: {}", stderr(&out));
    }
    assert!(!dir.path().join("demo.seed").exists(), "a refused cluster writes nothing");
}

#[test]
fn scripts_get_json() {
    for arguments in
        [&["image", "plan", "etcd", "--format", "json"][..], &["image", "inspect", "etcd", "--format", "json"]]
    {
        let out = quorate(arguments);
        assert!(out.status.success(), "{}", stderr(&out));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).expect("json");
    }
}

/// The validator is the boot's own: what a node would refuse is refused here with the same words.
#[test]
fn validates_what_a_node_would_boot_with() {
    let node = Node::seeded(|t| t).expect("seeded");
    let good = node.path("demo.seed/etcd-1/user-data");
    let out = quorate(&["config", "validate", &good.display().to_string()]);
    assert!(out.status.success(), "{}", stderr(&out));
    let bad = node.path("bad");
    std::fs::write(&bad, node.user_data().expect("read").replace("\"roles\"", "\"rolse\"")).expect("written");
    let out = quorate(&["config", "validate", &bad.display().to_string()]);
    assert_eq!(out.status.code(), Some(2));
    assert!(stderr(&out).contains("unknown field `rolse`") && stderr(&out).contains("did you mean `roles`?"));
}

/// Ctrl-C in the middle of a build: the output is the old one or none, and no temporary directory stays.
#[test]
fn an_interrupted_build_leaves_nothing() {
    let _turn = Turn::both();
    let dir = tempfile::tempdir().expect("a directory");
    for delay in [50, 200, 500] {
        let mut child = Command::new(program("quorate"))
            .current_dir(dir.path())
            .args(["image", "build", "etcd", "--offline", "--profiles"])
            .arg(checkout().join("profiles"))
            .spawn()
            .expect("started");
        // Not a wait for an event: the interrupt is to come at no particular moment.
        std::thread::sleep(Duration::from_millis(delay));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
        let status = child.wait().expect("ended");
        assert!(status.success() || status.code() == Some(130), "{status}");
        let out = dir.path().join("out");
        for entry in std::fs::read_dir(&out).into_iter().flatten().flatten() {
            assert_eq!(entry.file_name(), "etcd", "left behind");
        }
        if out.join("etcd").exists() {
            let files = std::fs::read_dir(out.join("etcd")).expect("listed").count();
            assert_eq!(files, 5, "whole or not at all");
        }
    }
}

/// The same while Go compiles: neither its directory nor the compiler stays.
#[test]
#[ignore = "minutes; the interrupted build shows the same without Go: make soak"]
fn an_interrupted_component_leaves_nothing() {
    let _turn = Turn::both();
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).expect("made");
        path
    };
    let store = path("cache/quorate");
    std::os::unix::fs::symlink(qemu_tests::cache().join("quorate/sha256"), store.join("sha256")).expect("linked");
    let mut child = Command::new(program("quorate"))
        .current_dir(dir.path())
        .args(["image", "build", "etcd", "--profiles"])
        .arg(checkout().join("profiles"))
        .env("XDG_CACHE_HOME", path("cache"))
        .env("GOCACHE", path("go-build"))
        .env("TMPDIR", path("tmp"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stderr.take().expect("its stderr")).lines().map_while(Result::ok);
    lines.find(|l| l.contains("building etcd")).expect("it compiles");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(path("tmp")).expect("listed").flatten().map(|e| e.file_name()).collect();
    // Go's own scratch directories are Go's.
    assert!(left.iter().all(|n| n.to_string_lossy().starts_with("go-")), "{left:?}");
}

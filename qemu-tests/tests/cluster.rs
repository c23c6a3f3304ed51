//! `cluster up` ends with etcd's own status and leaves a keeper; a second `up` finds what runs; `down`, Ctrl-C and the
//! keeper's death leave no VM behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use qemu_tests::{checkout, image, program};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A process that was killed is gone within this.
const GONE: Duration = Duration::from_secs(20);

fn cluster(dir: &Path, verb: &str) -> Command {
    let mut c = Command::new(program("quorate"));
    c.current_dir(checkout()).args(["cluster", verb]).arg(dir.join("cluster.toml"));
    if verb == "up" {
        c.arg("--images").arg(image().parent().expect("out"));
    }
    c.env("XDG_STATE_HOME", dir.join("state")).env("XDG_RUNTIME_DIR", dir);
    c
}

fn run(dir: &Path, verb: &str) -> (Output, String) {
    let out = cluster(dir, verb).output().expect("run");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out, text)
}

fn qemu_pid(dir: &Path) -> i32 {
    let out = cluster(dir, "status").args(["--format", "json"]).output().expect("run");
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
    i32::try_from(status["nodes"][0]["pid"].as_u64().expect("a pid")).expect("a pid")
}

fn wait_gone(pid: i32) {
    let deadline = Instant::now() + GONE;
    // A process that is not our child ends without telling us.
    while Path::new(&format!("/proc/{pid}/cmdline")).exists() {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn comes_up_and_goes_without_a_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = std::fs::read_to_string(checkout().join("examples/etcd.toml")).expect("read");
    std::fs::write(dir.path().join("cluster.toml"), text).expect("written");
    let (out, text) = run(dir.path(), "up");
    assert!(out.status.success(), "{text}");
    assert!(
        text.contains("quorate: all ready") && text.contains("IS LEADER") && text.contains("talk to it:"),
        "{text}"
    );
    let pid = qemu_pid(dir.path());

    let (out, text) = run(dir.path(), "up");
    assert!(out.status.success(), "{text}");
    assert_eq!(qemu_pid(dir.path()), pid, "a second up finds what runs");

    let (out, text) = run(dir.path(), "down");
    assert!(out.status.success() && text.contains("demo is down"), "{text}");
    wait_gone(pid);
    let (out, _) = run(dir.path(), "status");
    assert_eq!(out.status.code(), Some(1));

    // Other secrets, the same name: the disks are somebody else's.
    let id = dir.path().join("demo.secrets/id");
    let own = std::fs::read_to_string(&id).expect("an id");
    std::fs::write(&id, "0000000000000000\n").expect("written");
    let (out, text) = run(dir.path(), "up");
    assert!(!out.status.success() && text.contains("belong to another cluster named demo"), "{text}");
    std::fs::write(&id, own).expect("written");

    // Ctrl-C while it comes up.
    let mut up = cluster(dir.path(), "up").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("started");
    let mut lines = BufReader::new(up.stderr.take().expect("its stderr")).lines().map_while(Result::ok);
    lines.find(|l| l.contains("quorate: mounts ok")).expect("it boots");
    let pid = qemu_pid(dir.path());
    kill(Pid::from_raw(i32::try_from(up.id()).expect("a pid")), Signal::SIGINT).expect("sent");
    lines.find(|l| l.contains("interrupted; the cluster is down")).expect("said so");
    assert_eq!(up.wait().expect("ended").code(), Some(130));
    wait_gone(pid);

    // The keeper dies without a word: the kernel ends its VMs.
    let mut up = cluster(dir.path(), "up").stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("started");
    let mut lines = BufReader::new(up.stderr.take().expect("its stderr")).lines().map_while(Result::ok);
    lines.find(|l| l.contains("quorate: mounts ok")).expect("it boots");
    let pid = qemu_pid(dir.path());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let keeper = status.lines().find_map(|l| l.strip_prefix("PPid:")).expect("a parent").trim().parse().expect("a pid");
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("sent");
    wait_gone(pid);
    assert!(!up.wait().expect("ended").success());
}

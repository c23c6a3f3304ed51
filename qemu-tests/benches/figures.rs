//! `make bench`: figures, each next to a peer or a floor measured in the same run. Machines are noisy: nothing is asserted.

use anyhow::{Context, Result};
use lab::vm::Vm;
use qemu_tests::{BOOT, Node, READY, checkout, image, program};
use std::process::Command;
use std::time::Instant;

fn main() -> Result<()> {
    println!("## sizes");
    sizes()?;
    println!("## warm build");
    warm_build()?;
    println!("## boot, in guest time");
    boot()?;
    Ok(())
}

fn mb(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mb = bytes as f64 / 1e6;
    format!("{mb:.2} MB")
}

fn sizes() -> Result<()> {
    let size = |path: std::path::PathBuf| {
        std::fs::metadata(&path).map(|m| m.len()).with_context(|| format!("{}", path.display()))
    };
    for (name, goal) in [("quorate-init", "2 MB"), ("quorate-agent", "4 MB")] {
        println!("{name}: {} (goal {goal})", mb(size(program(name))?));
    }
    let (kernel, initrd) = (size(image().join("vmlinuz"))?, size(image().join("initrd"))?);
    println!("kernel + initrd: {} + {} = {} (goal 60 MB)", mb(kernel), mb(initrd), mb(kernel + initrd));
    Ok(())
}

/// Ours, and mmdebstrap making a tarball of the same packages where that is installed and allowed.
fn warm_build() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut best = f64::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let out = Command::new(program("quorate"))
            .current_dir(dir.path())
            .args(["image", "build", "etcd", "--offline", "--profiles"])
            .arg(checkout().join("profiles"))
            .output()?;
        anyhow::ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        best = best.min(began.elapsed().as_secs_f64());
    }
    println!("quorate image build, everything in the store: {best:.2} s (goal 5 s)");
    let tar = dir.path().join("peer.tar");
    let began = Instant::now();
    let peer = Command::new("mmdebstrap")
        .args(["--variant=extract", "--include=e2fsprogs,fdisk,util-linux,chrony,linux-image-cloud-amd64", "trixie"])
        .arg(&tar)
        .output();
    match peer {
        Ok(out) if out.status.success() => {
            let took = began.elapsed().as_secs_f64();
            println!(
                "mmdebstrap, a tarball of the same packages (no root file system, no etcd): {took:.2} s, {:.1} times ours",
                took / best
            );
        }
        Ok(out) => println!("mmdebstrap failed: {}", String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or("")),
        Err(_) => println!("mmdebstrap is not installed: no peer"),
    }
    Ok(())
}

/// The kernel's own time of a console line, in ms.
fn at(line: &str) -> f64 {
    let inner = line.trim_start_matches('[').split(']').next().unwrap_or("").trim();
    inner.parse::<f64>().unwrap_or(f64::NAN) * 1000.0
}

fn boot() -> Result<()> {
    let node = Node::seeded(|t| t)?;
    let mut machine = node.machine(vec![node.state_disk()?, node.seed_disk()])?;
    machine.cmdline += " quorate.log=debug";
    println!("accelerator {:?}, a guest second is {} host seconds", machine.accel, machine.clock.factor());
    for round in ["first boot (formats its disk)", "second boot"] {
        let mut vm = Vm::start(&machine)?;
        let began = Instant::now();
        let init = at(&vm.wait_for("quorate: mounts ok", BOOT)?);
        let network = at(&vm.wait_for("quorate: network ready", BOOT)?);
        let etcd = at(&vm.wait_for("quorate: etcd ready", BOOT)?);
        vm.wait_for(READY, BOOT)?;
        vm.wait_for("quorate: memory", BOOT)?;
        println!(
            "{round}: kernel -> PID 1 {init:.0} ms -> network {network:.0} ms -> etcd ready {etcd:.0} ms ({:.1} s of the host's)",
            began.elapsed().as_secs_f64()
        );
        memory(&vm);
        vm.kill()?;
    }
    // The floor: the same kernel and an init that does nothing at all, here ours where it is told to stop at once: an
    // initramfs of it alone ends with its first message, because there is no image.json.
    let floor = node.path("floor.cpio");
    std::fs::write(&floor, do_nothing()?)?;
    machine.initrd = floor;
    machine.cmdline += " panic=0";
    let mut vm = Vm::start(&machine)?;
    let init = at(&vm.wait_for("quorate: STOPPED", BOOT)?);
    println!("floor, the same kernel to a PID 1 that stops at once, 2 MB of initramfs: {init:.0} ms");
    Ok(())
}

/// Memory that the node told of, with its report.
fn memory(vm: &Vm) {
    for line in vm.console.since(0).iter().filter(|l| l.contains("quorate: memory ")) {
        println!("  {}", line.split("quorate: ").nth(1).unwrap_or(line));
    }
}

/// An initramfs of `quorate-init` alone.
fn do_nothing() -> Result<Vec<u8>> {
    let init = std::fs::read(program("quorate-init"))?;
    let mut out = Vec::new();
    let mut entry = |name: &str, mode: u32, data: &[u8]| {
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(data.len()).unwrap_or(0),
            0,
            0,
            0,
            0,
            u32::try_from(name.len() + 1).unwrap_or(0),
            0,
        ];
        out.extend(b"070701");
        fields.iter().for_each(|f| out.extend(format!("{f:08x}").bytes()));
        out.extend(name.bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    entry("init", 0o100_755, &init);
    entry("TRAILER!!!", 0, &[]);
    Ok(out)
}

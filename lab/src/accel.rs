//! KVM or emulation. A `/dev/kvm` that exists can still hang a guest, or run no kernel, so it is believed only after a tiny guest
//! ran that does what kernels do.

use crate::command::{FIRMWARE_FD, inherit_bytes};
use crate::vm::die_with_parent;
use anyhow::{Context, Result, bail};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// QEMU's program.
pub const QEMU: &str = "qemu-system-x86_64";
const KVM: &str = "/dev/kvm";
/// Another one with each boot of this machine (Linux, Documentation/admin-guide/sysctl/kernel.rst, random/boot_id).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// A working KVM answers the probe within milliseconds.
const PROBE: Duration = Duration::from_secs(5);
/// No event tells that a child with a deadline ended; short beside the time a QEMU takes to start.
const PROBE_POLL: Duration = Duration::from_millis(20);

/// The oldest QEMU with `-netdev dgram`, which the switch speaks.
const OLDEST: (u32, u32) = (7, 2);

/// Whether this machine's QEMU is there and new enough.
pub fn check_qemu() -> Result<()> {
    let out = Command::new(QEMU).arg("--version").stdin(Stdio::null()).output();
    let out = out.with_context(|| format!("starting {QEMU}; hint: apt-get install qemu-system-x86"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    match version(&text) {
        Some(v) if v >= OLDEST => Ok(()),
        Some((major, minor)) => bail!("QEMU {major}.{minor} is too old: expected {}.{} or newer", OLDEST.0, OLDEST.1),
        None => bail!("{QEMU} --version said `{}`: expected a version", text.trim()),
    }
}

/// Of `QEMU emulator version 7.2.22 (Debian …)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let words = text.split_whitespace().skip_while(|w| *w != "version").nth(1)?;
    let mut parts = words.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// What people say for how guests run.
pub const WORDS: [&str; 3] = ["auto", "kvm", "tcg"];

/// How guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

impl Accel {
    /// From one of `WORDS`. The answer of a probe is remembered in `cache`.
    pub fn choose(word: &str, cache: &Path) -> Result<Self> {
        match word {
            "tcg" => Ok(Self::Tcg),
            "kvm" => Ok(Self::Kvm),
            "auto" => {
                if !Path::new(KVM).exists() {
                    return Ok(Self::Tcg);
                }
                let works = remembered(&cache.join("quorate/kvm"), || probe(Self::Kvm))?;
                Ok(if works { Self::Kvm } else { Self::Tcg })
            }
            other => bail!("accel `{other}`: expected {}", WORDS.join(" or ")),
        }
    }

    /// QEMU's arguments. One thread per machine: QEMU 7.2's multi-threaded emulation of several processors makes kernels
    /// oops under load. Without "enhanced" and "fast short" `rep movsb`, which say that one instruction copies or clears
    /// best: it is emulated byte by byte, where kernels, Go and the C library otherwise go by eight bytes and more.
    pub(crate) fn arguments(self) -> [&'static str; 6] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host", "-smp", "1"],
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max,-erms,-fsrm", "-smp", "1"],
        }
    }

    /// What the guest's kernel must know: QEMU 7.2's emulation of cmpxchg16b makes kernels oops under load, so the kernel
    /// is to do without. The processor keeps it: HAProxy needs it. What protects from a real processor's speculation, and
    /// pages cleared for those who do not ask for it, only cost here.
    pub fn cmdline(self) -> &'static str {
        match self {
            Self::Kvm => "",
            Self::Tcg => " clearcpuid=cx16 mitigations=off init_on_alloc=0",
        }
    }

    /// QEMU's environment. Its emulator looks most translated blocks up in one table of many megabytes, in which the processor's
    /// own translations miss: the C library (2.35 and newer) is to ask for huge pages. A user's own tuning stays.
    pub(crate) fn environment(self) -> Option<(&'static str, &'static str)> {
        const TUNABLES: &str = "GLIBC_TUNABLES";
        (self == Self::Tcg && std::env::var_os(TUNABLES).is_none()).then_some((TUNABLES, "glibc.malloc.hugetlb=1"))
    }

    /// The dilation that suits one guest: emulation is about this much slower than the processor.
    pub fn dilation(self, nodes: usize, cores: usize) -> f64 {
        match self {
            Self::Kvm => 1.0,
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            Self::Tcg => (8.0 * (nodes as f64 / cores.max(1) as f64)).clamp(8.0, 40.0),
        }
    }
}

/// The answer that a file remembers, for this firmware and as long as this machine is up: with its next boot it may be another
/// one. Whatever else the file says, `ask` is asked.
fn remembered(file: &Path, ask: impl FnOnce() -> Result<bool>) -> Result<bool> {
    // Remembering is only a convenience: who does not know the boot asks each time.
    let Ok(boot) = std::fs::read_to_string(BOOT_ID) else { return ask() };
    let mut question = std::hash::DefaultHasher::new();
    (FIRMWARE, boot).hash(&mut question);
    let says = |works: bool| format!("{} {:016x}", if works { "works" } else { "fails" }, question.finish());
    let known = std::fs::read_to_string(file).unwrap_or_default();
    if let Some(works) = [true, false].into_iter().find(|works| known == says(*works)) {
        return Ok(works);
    }
    let works = ask()?;
    let _ = file.parent().map(std::fs::create_dir_all);
    let _ = std::fs::write(file, says(works));
    Ok(works)
}

/// A firmware that goes to protected mode, uses SSE2 there and writes to QEMU's debug-exit port, which ends QEMU with a status
/// of its own: `accel.S`.
const FIRMWARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/accel.rom"));

/// isa-debug-exit's status for the value written: (v << 1) | 1.
const PROBE_STATUS: i32 = (0x2a << 1) | 1;

/// Whether a guest runs under an accelerator, called with the very processor model that the lab uses.
fn probe(accel: Accel) -> Result<bool> {
    let mut command = Command::new(QEMU);
    command.args(accel.arguments()).args(["-M", "pc", "-m", "16", "-nodefaults", "-display", "none"]);
    command.args(["-bios", &format!("/proc/self/fd/{FIRMWARE_FD}")]);
    inherit_bytes(&mut command, "firmware", FIRMWARE, FIRMWARE_FD)?;
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    die_with_parent(&mut command);
    let started = command.spawn().with_context(|| format!("starting {QEMU}; hint: apt-get install qemu-system-x86"));
    let (mut child, began) = (started?, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(PROBE_STATUS));
        }
        if began.elapsed() > PROBE {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(PROBE_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probe itself is right: emulation always works.
    #[test]
    fn the_probe_recognises_a_working_accelerator() {
        assert!(probe(Accel::Tcg).expect("qemu-system-x86 is installed"));
    }

    /// Two tests of one program, and two programs, ask at the same time.
    #[test]
    fn probes_do_not_meet() {
        let ask = || probe(Accel::Tcg).expect("qemu-system-x86 is installed");
        let all = std::thread::scope(|s| [s.spawn(ask), s.spawn(ask), s.spawn(ask)].map(|t| t.join().expect("ended")));
        assert_eq!(all, [true; 3]);
    }

    #[test]
    fn asks_once_and_again_whatever_else_is_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("quorate/kvm");
        let known = |asked: &mut u32, answer| {
            remembered(&file, || {
                *asked += 1;
                Ok(answer)
            })
            .expect("an answer")
        };
        let mut asked = 0;
        assert!(known(&mut asked, true) && known(&mut asked, false));
        assert_eq!(asked, 1, "of no file: asked, and kept");
        let kept = std::fs::read(&file).expect("kept");
        let cut = &kept[..kept.len() - 1];
        for other in [b"".as_slice(), b"works", b"works 0000000000000000", cut, &[0xff; 70_000]] {
            std::fs::write(&file, other).expect("written");
            asked = 0;
            assert!(!known(&mut asked, false) && !known(&mut asked, true), "{other:?}");
            assert_eq!(asked, 1, "{other:?}");
        }
    }

    #[test]
    fn versions() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)\nCopyright"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.13"), Some((10, 0)));
        assert_eq!(version("command not found"), None);
        check_qemu().expect("qemu-system-x86 is installed, and new enough");
    }

    #[test]
    fn words() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Accel::choose("tcg", dir.path()).expect("known"), Accel::Tcg);
        assert!(Accel::choose("hvf", dir.path()).is_err());
    }
}

//! The peer that our load balancer is measured beside: HAProxy and Keepalived with the settings of kubeadm's "Options for
//! Software Load Balancing" (kubernetes/kubeadm, docs/ha-considerations.md): VRRPv2 with an advertisement a second, a script
//! that asks every 3 s and believes ten failures, health checks as HAProxy has them by default but for what the guide says.
//! Both are started again after they ended, as systemd does it (`Restart=always`, 100 ms).

use crate::boot::Voice;
use contract::node::NodeConfig;
use contract::ports::API;
use contract::voice::{FromNode, ServiceSignal, ToNode};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::RebootMode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// systemd's `RestartSec=`.
const RESTART: Duration = Duration::from_millis(100);
/// The guide's files, the servers' lines and what stands in `${}` left out.
const HAPROXY: &str = include_str!("../guide/haproxy.cfg");
const KEEPALIVED: &str = include_str!("../guide/keepalived.conf");
const CHECK: &str = include_str!("../guide/check_apiserver.sh");
/// Where the image's root is mounted.
const ROOT: &str = "/root";
/// loop(4).
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_SET_FD: libc::Ioctl = 0x4C00;

/// Process groups by service; none while it is down for good.
type Groups = Arc<Mutex<BTreeMap<&'static str, i32>>>;

pub(crate) fn start(config: &NodeConfig, mut voice: Voice) -> Result<(), String> {
    root()?;
    let vip = config.virtual_ip().ok_or("no virtual IP")?;
    let lb = config.lb.as_ref().ok_or("no load balancer")?;
    let first = lb.peers.first().is_some_and(|p| p.name == config.name());
    let write = |name: &str, text: &str| fs::write(format!("{ROOT}/run/{name}"), text).map_err(|e| e.to_string());
    write("haproxy.cfg", &haproxy(config))?;
    write("keepalived.conf", &keepalived(&vip.to_string(), first))?;
    write("check_apiserver.sh", CHECK)?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(format!("{ROOT}/run/check_apiserver.sh"), fs::Permissions::from_mode(0o755))
        .map_err(|e| e.to_string())?;
    let groups = Groups::default();
    let haproxy = ["/usr/sbin/haproxy", "-W", "-f", "/run/haproxy.cfg"];
    let keepalived =
        ["/usr/sbin/keepalived", "--dont-fork", "--log-console", "--use-file", "/run/keepalived.conf", "--vrrp"];
    keep("haproxy", &haproxy, &groups)?;
    keep("keepalived", &keepalived, &groups)?;
    voice.say("all ready");
    voice.hear_words(|word| match word {
        ToNode::Signal { id, service, signal } => {
            let signal = match signal {
                ServiceSignal::Kill => Signal::SIGKILL,
                ServiceSignal::Term => Signal::SIGTERM,
                ServiceSignal::Stop => Signal::SIGSTOP,
                ServiceSignal::Cont => Signal::SIGCONT,
            };
            let sent = lock(&groups).get(&*service).map(|group| kill(Pid::from_raw(-group), signal));
            let problem = match sent {
                Some(Ok(())) => None,
                Some(Err(e)) => Some(e.to_string()),
                None => Some(format!("{service} does not run")),
            };
            Some(FromNode::Done { id, problem })
        }
        ToNode::Reboot | ToNode::Poweroff => {
            // In order, as an init system stops them: the address first.
            for service in ["keepalived", "haproxy"] {
                if let Some(group) = lock(&groups).remove(service) {
                    let _ = kill(Pid::from_raw(-group), Signal::SIGTERM);
                    std::thread::sleep(RESTART * 3);
                }
            }
            let mode = if word == ToNode::Reboot { RebootMode::RB_AUTOBOOT } else { RebootMode::RB_POWER_OFF };
            let _ = nix::sys::reboot::reboot(mode);
            None
        }
        _ => None,
    });
    Ok(())
}

fn lock(groups: &Groups) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, i32>> {
    groups.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The image's root, with what programs expect in it.
#[expect(unsafe_code, reason = "loop(4) is spoken by ioctl")]
fn root() -> Result<(), String> {
    let control = File::options().read(true).write(true).open("/dev/loop-control").map_err(|e| e.to_string())?;
    // SAFETY: these take and give numbers only.
    let index = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    let image = File::open("/root.img").map_err(|e| e.to_string())?;
    let device = format!("/dev/loop{index}");
    let file = File::options().read(true).write(true).open(&device).map_err(|e| e.to_string())?;
    // SAFETY: as above.
    if unsafe { libc::ioctl(file.as_raw_fd(), LOOP_SET_FD, image.as_raw_fd()) } != 0 {
        return Err(format!("{device}: {}", std::io::Error::last_os_error()));
    }
    fs::create_dir_all(ROOT).map_err(|e| e.to_string())?;
    let mount = |from: &str, to: &str, kind: &str, flags| {
        mount(Some(from), to, Some(kind), flags, None::<&str>).map_err(|e| format!("{to}: {e}"))
    };
    mount(&device, ROOT, "squashfs", MsFlags::MS_RDONLY)?;
    for (kind, path) in [("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev"), ("tmpfs", "run"), ("tmpfs", "tmp")] {
        mount(kind, &format!("{ROOT}/{path}"), kind, MsFlags::empty())?;
    }
    fs::create_dir_all(format!("{ROOT}/run/quorate/etc")).map_err(|e| e.to_string())?;
    fs::write(format!("{ROOT}/run/quorate/etc/hosts"), "127.0.0.1 localhost\n").map_err(|e| e.to_string())
}

/// Starts a program, and again whenever it ended.
fn keep(name: &'static str, command: &[&str], groups: &Groups) -> Result<(), String> {
    let command: Vec<String> = command.iter().map(ToString::to_string).collect();
    let mut child = spawn(&command).map_err(|e| format!("{name}: {e}"))?;
    let id = |child: &Child| i32::try_from(child.id()).unwrap_or(0);
    lock(groups).insert(name, id(&child));
    let groups = Arc::clone(groups);
    std::thread::spawn(move || {
        loop {
            let _ = child.wait();
            std::thread::sleep(RESTART);
            let mut groups = lock(&groups);
            // Taken out: it is to stay down.
            let Some(group) = groups.get_mut(name) else { return };
            match spawn(&command) {
                Ok(new) => {
                    *group = id(&new);
                    child = new;
                }
                Err(_) => return,
            }
        }
    });
    Ok(())
}

#[expect(unsafe_code, reason = "chroot between fork and exec")]
fn spawn(command: &[String]) -> std::io::Result<Child> {
    let mut c = Command::new(&command[0]);
    c.args(&command[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin").process_group(0);
    let console = || File::options().write(true).open("/dev/console");
    c.stdin(Stdio::null()).stdout(console()?).stderr(console()?);
    // SAFETY: two system calls with constants.
    unsafe {
        c.pre_exec(|| {
            if libc::chroot(c"/root".as_ptr()) != 0 || libc::chdir(c"/".as_ptr()) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    c.spawn()
}

fn haproxy(config: &NodeConfig) -> String {
    let servers: String =
        config.masters.iter().map(|(name, ip)| format!("    server {name} {ip}:{API} check verify none\n")).collect();
    format!("{HAPROXY}{servers}")
}

fn keepalived(vip: &str, first: bool) -> String {
    let (state, priority) = if first { ("MASTER", "101") } else { ("BACKUP", "100") };
    let text = KEEPALIVED.replace("${STATE}", state).replace("${PRIORITY}", priority);
    text.replace("${CHECK}", "/run/check_apiserver.sh").replace("${VIP}", vip)
}

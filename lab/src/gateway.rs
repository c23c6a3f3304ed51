//! The way in and out of the lab's network, without root: QEMU's user networking (NAT, DHCP, DNS, TFTP, forwarded ports)
//! on a port of the switch, in a QEMU process without a machine. Without it the lab is provably offline: nothing else has
//! a socket.

use crate::accel::QEMU;
use crate::clock::Clock;
use crate::command::{LAN_FD, QMP_FD, SUBNET, inherit};
use crate::qmp::Qmp;
use crate::vm::die_with_parent;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// The gateway. It ends when this is dropped, and with the thread that made it.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    qmp: Qmp,
    forwards: Vec<(SocketAddr, SocketAddr)>,
}

impl Gateway {
    /// Starts it on a cable of the switch. `forwards` lead from this machine's ports (0 = a free one) to any address of
    /// the lab's network, whoever has it at the moment.
    pub fn start(clock: Clock, cable: &OwnedFd, forwards: &[(SocketAddr, SocketAddr)]) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("making the gateway's monitor channel")?;
        let mut command = Command::new(QEMU);
        command.args(arguments(forwards)).envs(clock.environment());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        die_with_parent(&mut command);
        inherit(&mut command, &[(theirs.as_fd(), QMP_FD), (cable.as_fd(), LAN_FD)])?;
        let mut child =
            command.spawn().with_context(|| format!("starting {QEMU}; hint: apt-get install qemu-system-x86"))?;
        drop(theirs);
        let mut qmp = match Qmp::new(ours) {
            Ok(q) => q,
            Err(e) => {
                child.wait()?;
                let said = child.stderr.take().map(std::io::read_to_string).transpose()?.unwrap_or_default();
                return Err(e.context(format!("the gateway did not start: {}", said.trim())));
            }
        };
        let table = qmp.human("info usernet")?;
        let mut found = Vec::new();
        for (_, to) in forwards {
            found.push((forwarded(&table, *to)?, *to));
        }
        Ok(Self { child, qmp, forwards: found })
    }

    /// Where this machine's ports lead: (here, there).
    pub fn forwards(&self) -> &[(SocketAddr, SocketAddr)] {
        &self.forwards
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port of this machine that leads to an address of the lab; made when there is none yet.
    pub fn forward(&mut self, to: SocketAddr) -> Result<SocketAddr> {
        if let Some((here, _)) = self.forwards.iter().find(|(_, t)| *t == to) {
            return Ok(*here);
        }
        let said = self.qmp.human(&format!("hostfwd_add lan tcp:127.0.0.1:0-{}:{}", to.ip(), to.port()))?;
        if !said.trim().is_empty() {
            bail!("forwarding to {to}: {}", said.trim());
        }
        let here = forwarded(&self.qmp.human("info usernet")?, to)?;
        self.forwards.push((here, to));
        Ok(here)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(forwards: &[(SocketAddr, SocketAddr)]) -> Vec<String> {
    let mut user = format!("user,id=lan,{SUBNET}");
    for (host, guest) in forwards {
        user += &format!(",hostfwd=tcp:{}:{}-{}:{}", host.ip(), host.port(), guest.ip(), guest.port());
    }
    let qmp = format!("socket,id=qmp,fd={QMP_FD}");
    let cable = format!("dgram,id=cable,local.type=fd,local.str={LAN_FD}");
    let words = [
        "-name",
        "gateway",
        "-M",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-chardev",
        &qmp,
        "-mon",
        "chardev=qmp,mode=control",
        "-netdev",
        &user,
        "-netdev",
        "hubport,id=inside,hubid=0,netdev=lan",
        "-netdev",
        &cable,
        "-netdev",
        "hubport,id=outside,hubid=0,netdev=cable",
    ];
    words.map(String::from).to_vec()
}

/// This machine's side of a forward, out of QEMU's `info usernet`.
pub(crate) fn forwarded(table: &str, to: SocketAddr) -> Result<SocketAddr> {
    for line in table.lines().filter(|l| l.contains("HOST_FORWARD")) {
        let w: Vec<&str> = line.split_whitespace().collect();
        if let [_, _, host, host_port, ip, port, ..] = w[..]
            && ip == to.ip().to_string()
            && port == to.port().to_string()
        {
            return Ok(SocketAddr::new(host.parse()?, host_port.parse()?));
        }
    }
    bail!("no port of this machine leads to {to}:\n{table}")
}

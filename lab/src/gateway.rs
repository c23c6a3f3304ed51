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

/// What machines that boot from the network are served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tftp {
    /// The directory with the files.
    pub dir: std::path::PathBuf,
    /// The one that DHCP names.
    pub file: String,
}

impl Gateway {
    /// Starts it on a cable of the switch. `forwards` lead from this machine's ports (0 = a free one) to any address of
    /// the lab's network, whoever has it at the moment.
    pub fn start(
        clock: Clock,
        cable: &OwnedFd,
        forwards: &[(SocketAddr, SocketAddr)],
        tftp: Option<&Tftp>,
    ) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("making the gateway's monitor channel")?;
        let mut command = Command::new(QEMU);
        command.args(arguments(forwards, tftp));
        clock.rule(&mut command)?;
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

fn arguments(forwards: &[(SocketAddr, SocketAddr)], tftp: Option<&Tftp>) -> Vec<String> {
    let mut user = format!("user,id=lan,{SUBNET}");
    if let Some(t) = tftp {
        // A comma separates QEMU's options; doubled it stands for itself.
        user +=
            &format!(",tftp={},bootfile={}", t.dir.display().to_string().replace(',', ",,"), t.file.replace(',', ",,"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn called_with_ports_and_files() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let tftp = Tftp { dir: "/srv/a,b".into(), file: "boot.ipxe".into() };
        let line = arguments(&[(at("127.0.0.1:0"), at("10.77.0.10:6443"))], Some(&tftp)).join(" ");
        for want in [
            ",hostfwd=tcp:127.0.0.1:0-10.77.0.10:6443",
            ",tftp=/srv/a,,b,bootfile=boot.ipxe",
            "dgram,id=cable,local.type=fd,local.str=11",
        ] {
            assert!(line.contains(want), "{line}\n-- expected: {want}");
        }
    }

    #[test]
    fn the_port_of_a_forward() {
        let table = "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  13       127.0.0.1 41303      10.77.0.31  2379     0     0\n";
        let to = |text: &str| forwarded(table, text.parse().expect("an address"));
        assert_eq!(to("10.77.0.31:2379").expect("found").to_string(), "127.0.0.1:41303");
        assert!(to("10.77.0.32:2379").is_err());
    }
}

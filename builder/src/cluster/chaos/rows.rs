//! The fault table as data: what is done to whom. Pure; `mod.rs` does it.

use contract::node::Role;
use contract::voice::ServiceSignal;

/// Whom it is done to, found out when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Who holds the virtual IP.
    Holder,
    /// The member that leads etcd.
    Leader,
    /// Whose controller manager does the work.
    Controllers,
    /// Whose scheduler does the work.
    Scheduler,
    /// The first node with a role that is none of those, or the first with it.
    Some(Role),
    /// The first with a role, whatever else it is.
    First(Role),
    /// The first two with a role.
    Two(Role),
    /// Every node.
    All,
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Power off, at once.
    Kill(Whom),
    /// Power on, those that are off.
    Start,
    /// An empty disk, of those that are off.
    Wipe,
    /// Start again, in order.
    Reboot(Whom),
    /// Every node starts again, each only when all others are ready.
    InTurn,
    /// Nothing passes its cable.
    Cut(Whom),
    /// So many of a hundred frames are lost, and each comes so many milliseconds late, more or less.
    Bad { loss: u8, delay_ms: u8, jitter_ms: u8 },
    /// They and all others with a role do not hear each other; the rest hears both.
    Apart(Whom, Role),
    /// ... nor do only packets of one protocol of IP's pass.
    Firewall(Whom, Role, u8),
    /// Its disk does so many operations in a second.
    Slow(Whom, u32),
    /// No faults of cables and disks.
    Heal,
    /// To a service.
    Signal(Whom, &'static str, ServiceSignal),
    /// All clocks jump, seconds.
    Clock(i64),
    /// So long nothing is done, guest milliseconds.
    Calm(u64),
    /// ... for as many minutes as one wants: of what may come seldom.
    Minutes,
    /// Until the cluster has noticed, which is measured.
    Until(Notice),
}

/// What a cluster does about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Another controller manager does the work.
    TakenOver,
    /// Another scheduler does.
    Scheduled,
    /// The API says of a node that is off that it is not Ready.
    NotReady,
    /// The API reads from etcd.
    Served,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What is done; [`Row::words`] says it to people.
    what: &'static str,
    /// Roles that the cluster must have for it.
    pub(crate) needs: &'static [Role],
    pub(crate) steps: &'static [Step],
    pub(crate) asked: Asked,
}

/// How much clients ask meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// As much as emulated masters bear.
    Much,
    /// Now and then.
    Little,
}

impl Row {
    /// Whether nothing is done in it, so that nothing may change.
    pub(crate) fn is_quiet(&self) -> bool {
        self.steps.iter().all(|s| matches!(s, Calm(_) | Minutes))
    }

    /// Whether it lasts as many minutes as one wants.
    pub(crate) fn is_long(&self) -> bool {
        self.steps.contains(&Minutes)
    }

    /// For people. `minutes` is how long it lasts, if it is long.
    pub(crate) fn words(&self, minutes: &str) -> String {
        if self.is_long() { format!("{}, {minutes} minutes", self.what) } else { self.what.into() }
    }
}

impl Step {
    /// For a timeline.
    pub(crate) fn word(&self) -> String {
        match self {
            Kill(whom) => format!("power off: {}", whom.word()),
            Start => "power on".into(),
            Wipe => "disk wiped".into(),
            Reboot(whom) => format!("reboot: {}", whom.word()),
            InTurn => "reboot in turn".into(),
            Cut(whom) => format!("cut off: {}", whom.word()),
            Bad { loss, delay_ms, jitter_ms } => format!("network: {loss} % loss, {delay_ms} ms +- {jitter_ms} ms"),
            Apart(whom, role) => format!("{} and each {role}: apart", whom.word()),
            Firewall(whom, role, protocol) => format!("{} and each {role}: no IP protocol {protocol}", whom.word()),
            Slow(whom, operations) => format!("{operations} operations of the disk a second: {}", whom.word()),
            Heal => "healed".into(),
            Signal(whom, service, signal) => format!("{} for {service}: {}", signal.word(), whom.word()),
            Clock(by) => format!("clocks {by:+} s"),
            Calm(ms) => format!("nothing for {ms} ms"),
            Minutes => "nothing for minutes".into(),
            Until(notice) => notice.word().into(),
        }
    }
}

impl Whom {
    fn word(self) -> String {
        match self {
            Holder => "the virtual IP's holder".into(),
            Leader => "etcd's leader".into(),
            Controllers => "who runs the controllers".into(),
            Scheduler => "who schedules".into(),
            Whom::Some(role) | Whom::First(role) => format!("one {role}"),
            Whom::Two(role) => format!("two {role}"),
            All => "all".into(),
        }
    }
}

impl Notice {
    /// For a timeline.
    pub(crate) fn word(self) -> &'static str {
        match self {
            TakenOver | Scheduled => "taken over",
            NotReady => "NotReady",
            Served => "served",
        }
    }
}

use Notice::{NotReady, Scheduled, Served, TakenOver};
use ServiceSignal::{Cont, Kill as Sigkill, Stop};
use Step::{
    Apart, Bad, Calm, Clock, Cut, Firewall, Heal, InTurn, Kill, Minutes, Reboot, Signal, Slow, Start, Until, Wipe,
};
use Whom::{All, Controllers, Holder, Leader, Scheduler};

/// IANA's number of the protocol.
const VRRP: u8 = 112;
/// Long enough for whoever notices to have noticed: elections, health checks, leases.
const NOTICED: Step = Calm(4000);
/// ... and for two that have the virtual IP to have said so (agent/src/lb/announce.rs).
const SAID: Step = Calm(8000);
/// ... and for clients that are connected to have been led elsewhere (agent/src/kube/shed.rs).
const LED_AWAY: Step = Calm(8000);
/// ... from a master whose own member has been slow for 15 s (agent/src/etcd/slow.rs).
const LED_AWAY_SLOWLY: Step = Calm(22_000);
/// Long enough for a program that hangs to be asked thrice, ended, and back (agent/src/hung.rs), and for an agent, whom PID 1 ends
/// (init/src/supervise/step.rs).
const ENDED: Step = Calm(25_000);

const BAD: Step = Bad { loss: 1, delay_ms: 15, jitter_ms: 5 };

const LB: &[Role] = &[Role::Lb];
const LB_AND_MASTER: &[Role] = &[Role::Lb, Role::Master];
const MASTER_AND_ETCD: &[Role] = &[Role::Master, Role::Etcd];
const ETCD: &[Role] = &[Role::Etcd];
const MASTER: &[Role] = &[Role::Master];
const WORKER: &[Role] = &[Role::Worker];

const fn row(name: &'static str, what: &'static str, needs: &'static [Role], steps: &'static [Step]) -> Row {
    Row { name, what, needs, steps, asked: Asked::Much }
}

/// So often the power goes in `all-power-often`, each time after longer: from the kernel's first moment until all is ready.
const CUTS: usize = 20;
const CUT_STEPS: usize = CUTS * 3 - 1;
const OFTEN: [Step; CUT_STEPS] = {
    let mut steps = [Kill(All); CUT_STEPS];
    let mut i = 0;
    while i < CUTS {
        if i > 0 {
            steps[3 * i - 1] = Calm(500 * i as u64);
        }
        steps[3 * i] = Kill(All);
        steps[3 * i + 1] = Start;
        i += 1;
    }
    steps
};

/// All of it.
pub(crate) const ROWS: &[Row] = &[
    row("lb-power", "the virtual IP's holder loses power", LB, &[Kill(Holder), NOTICED, Start]),
    row("lb-cut", "the virtual IP's holder is cut off", LB, &[Cut(Holder), NOTICED, Heal]),
    row("lb-reboot", "the virtual IP's holder starts again", LB, &[Reboot(Holder)]),
    row("haproxy-killed", "SIGKILL for the holder's HAProxy", LB, &[Signal(Holder, "haproxy", Sigkill), NOTICED]),
    row("haproxy-stopped", "SIGSTOP for the holder's HAProxy", LB, &[Signal(Holder, "haproxy", Stop), NOTICED]),
    row(
        "keepalived-killed",
        "SIGKILL for the holder's Keepalived",
        LB,
        &[Signal(Holder, "keepalived", Sigkill), NOTICED],
    ),
    row(
        "keepalived-stopped",
        "SIGSTOP for the holder's Keepalived",
        LB,
        &[Signal(Holder, "keepalived", Stop), NOTICED],
    ),
    row("agent-killed", "SIGKILL for the holder's agent", LB, &[Signal(Holder, "node", Sigkill), NOTICED]),
    row("agent-stopped", "SIGSTOP for the holder's agent", LB, &[Signal(Holder, "node", Stop), ENDED]),
    row("master-power", "a master loses power", MASTER, &[Kill(Whom::Some(Role::Master)), NOTICED, Start]),
    row("master-cut", "a master is cut off", MASTER, &[Cut(Whom::Some(Role::Master)), NOTICED, Heal]),
    row("master-reboot", "a master starts again", MASTER, &[Reboot(Whom::Some(Role::Master))]),
    row(
        "master-wiped",
        "a master loses power and its disk",
        MASTER,
        &[Kill(Whom::Some(Role::Master)), NOTICED, Wipe, Start],
    ),
    row(
        "controllers-power",
        "who runs the controllers loses power",
        MASTER,
        &[Kill(Controllers), Until(TakenOver), Start],
    ),
    row(
        "controllers-killed",
        "SIGKILL for the controller manager that works",
        MASTER,
        &[Signal(Controllers, "kube-controller-manager", Sigkill), NOTICED],
    ),
    row(
        "controllers-stopped",
        "SIGSTOP for the controller manager that works, and on",
        MASTER,
        &[
            Signal(Controllers, "kube-controller-manager", Stop),
            Until(TakenOver),
            Signal(All, "kube-controller-manager", Cont),
            NOTICED,
        ],
    ),
    row(
        "scheduler-killed",
        "SIGKILL for the scheduler that works",
        MASTER,
        &[Signal(Scheduler, "kube-scheduler", Sigkill), NOTICED],
    ),
    row(
        "scheduler-stopped",
        "SIGSTOP for the scheduler that works, and on",
        MASTER,
        &[Signal(Scheduler, "kube-scheduler", Stop), Until(Scheduled), Signal(All, "kube-scheduler", Cont), NOTICED],
    ),
    row("etcd-leader-power", "etcd's leader loses power", ETCD, &[Kill(Leader), NOTICED, Start]),
    row("etcd-leader-cut", "etcd's leader is cut off", ETCD, &[Cut(Leader), NOTICED, Heal]),
    row("etcd-leader-reboot", "etcd's leader starts again", ETCD, &[Reboot(Leader)]),
    row("etcd-leader-killed", "SIGKILL for etcd's leader", ETCD, &[Signal(Leader, "etcd", Sigkill), NOTICED]),
    row(
        "etcd-leader-stopped",
        "SIGSTOP for etcd's leader, and on",
        ETCD,
        &[Signal(Leader, "etcd", Stop), NOTICED, Signal(Whom::All, "etcd", Cont)],
    ),
    row(
        "etcd-leader-apart",
        "etcd's leader and the other members do not hear each other, all else hears both",
        ETCD,
        &[Apart(Leader, Role::Etcd), NOTICED, Heal],
    ),
    row(
        "etcd-apart",
        "a member of etcd and the others do not hear each other, all else hears both",
        ETCD,
        &[Apart(Whom::Some(Role::Etcd), Role::Etcd), NOTICED, Heal],
    ),
    row(
        "kubelet-killed",
        "SIGKILL for a master's kubelet",
        MASTER,
        &[Signal(Whom::Some(Role::Master), "kubelet", Sigkill), NOTICED],
    ),
    row(
        "containerd-killed",
        "SIGKILL for a master's containerd",
        MASTER,
        &[Signal(Whom::Some(Role::Master), "containerd", Sigkill), NOTICED],
    ),
    row("etcd-stopped", "SIGSTOP for a member of etcd", ETCD, &[Signal(Whom::Some(Role::Etcd), "etcd", Stop), ENDED]),
    row(
        "kubelet-stopped",
        "SIGSTOP for a master's kubelet",
        MASTER,
        &[Signal(Whom::Some(Role::Master), "kubelet", Stop), ENDED],
    ),
    row(
        "containerd-stopped",
        "SIGSTOP for a master's containerd",
        MASTER,
        &[Signal(Whom::Some(Role::Master), "containerd", Stop), ENDED],
    ),
    row("worker-power", "a worker loses power", WORKER, &[Kill(Whom::Some(Role::Worker)), Until(NotReady), Start]),
    row("worker-cut", "a worker is cut off", WORKER, &[Cut(Whom::Some(Role::Worker)), ENDED, Heal]),
    row("worker-reboot", "a worker starts again", WORKER, &[Reboot(Whom::Some(Role::Worker))]),
    row(
        "lb-from-masters",
        "the virtual IP's holder hears no other node that is a master",
        LB_AND_MASTER,
        &[Apart(Holder, Role::Master), NOTICED, Heal],
    ),
    row(
        "lbs-from-master",
        "a master hears no other node that is a load balancer",
        LB_AND_MASTER,
        &[Apart(Whom::Some(Role::Master), Role::Lb), NOTICED, Heal],
    ),
    row(
        "lbs-apart",
        "the load balancers do not hear each other",
        LB,
        &[Apart(Whom::First(Role::Lb), Role::Lb), NOTICED, Heal],
    ),
    row(
        "lbs-firewall",
        "a firewall lets VRRP not pass between the load balancers",
        LB,
        &[Firewall(Whom::First(Role::Lb), Role::Lb, VRRP), SAID, Heal],
    ),
    row(
        "apiserver-killed",
        "SIGKILL for a master's apiserver",
        MASTER,
        &[Signal(Whom::Some(Role::Master), "kube-apiserver", Sigkill), NOTICED],
    ),
    row(
        "apiserver-stopped",
        "SIGSTOP for a master's apiserver, and on",
        MASTER,
        &[Signal(Whom::Some(Role::Master), "kube-apiserver", Stop), NOTICED, Signal(All, "kube-apiserver", Cont)],
    ),
    row(
        "master-apart",
        "a master and the others do not hear each other",
        MASTER,
        &[Apart(Whom::First(Role::Master), Role::Master), LED_AWAY, Heal],
    ),
    row(
        "master-from-etcd",
        "a master hears no other node that is a member of etcd",
        MASTER_AND_ETCD,
        &[Apart(Whom::First(Role::Master), Role::Etcd), LED_AWAY, Heal],
    ),
    row("two-masters-power", "two masters lose power", MASTER, &[Kill(Whom::Two(Role::Master)), NOTICED, Start]),
    row("bad-network", "1 % loss and 15 ms +- 5 ms everywhere", &[], &[BAD, Calm(20_000), Heal]),
    row("bad-network-long", "1 % loss and 15 ms +- 5 ms everywhere", &[], &[BAD, Minutes, Heal]),
    row(
        "slow-disk",
        "the disk of etcd's leader does 20 operations a second",
        ETCD,
        &[Slow(Leader, 20), LED_AWAY_SLOWLY, Heal],
    ),
    Row {
        // Nobody is answered for most of it.
        asked: Asked::Little,
        ..row(
            "no-majority",
            "two members are cut off for five minutes",
            ETCD,
            &[Cut(Whom::Two(Role::Etcd)), Calm(300_000), Heal, Until(Served), NOTICED],
        )
    },
    row("rolling-reboot", "every node starts again, one after the other", &[], &[InTurn]),
    row("all-power", "every node loses power", &[], &[Kill(All), Start]),
    row("all-power-often", "every node loses power, 20 times in a row, while it boots", &[], &OFTEN),
    row("quiet", "nothing is done", &[], &[Minutes]),
    Row { asked: Asked::Little, ..row("idle", "nothing is done and nobody asks much", &[], &[Minutes]) },
    row(
        "clock-ahead",
        "every clock jumps an hour ahead, and back",
        &[],
        &[Clock(3600), NOTICED, Clock(-3600), NOTICED],
    ),
];

/// The rows with these names, all where none is given; the error names those that there are.
pub(crate) fn named(names: &[String]) -> Result<Vec<&'static Row>, String> {
    if names.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    let find = |name: &String| {
        let known = || ROWS.iter().map(|r| r.name).collect::<Vec<_>>().join(", ");
        ROWS.iter().find(|r| r.name == name).ok_or_else(|| format!("no row `{name}`; there are {}", known()))
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_leave_nothing_broken() {
        for (i, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..i].iter().all(|r| r.name != row.name), "{}", row.name);
            let has = |wanted: fn(&Step) -> bool| row.steps.iter().any(wanted);
            assert_eq!(has(|s| matches!(s, Kill(_))), has(|s| matches!(s, Start)), "{}: power", row.name);
            assert_eq!(
                has(|s| matches!(s, Cut(_) | Bad { .. } | Apart(..) | Firewall(..) | Slow(..))),
                has(|s| matches!(s, Heal)),
                "{}: cables",
                row.name
            );
            let clock: i64 = row.steps.iter().map(|s| if let Clock(by) = s { *by } else { 0 }).sum();
            assert_eq!(clock, 0, "{}: clocks", row.name);
        }
    }

    #[test]
    fn rows_in_which_nothing_is_done_and_those_that_last_are_known() {
        let of = |is: fn(&Row) -> bool| ROWS.iter().filter(|r| is(r)).map(|r| r.name).collect::<Vec<_>>();
        assert_eq!(of(Row::is_quiet), ["quiet", "idle"]);
        assert_eq!(of(Row::is_long), ["bad-network-long", "quiet", "idle"]);
        let words = |name: &str| named(&[name.into()]).expect("a row")[0].words("10");
        assert_eq!(words("quiet"), "nothing is done, 10 minutes");
        assert_eq!(words("all-power"), "every node loses power");
    }

    #[test]
    fn an_unknown_row_names_the_known_ones() {
        let e = named(&["lb-powr".into()]).expect_err("unknown");
        assert!(e.contains("lb-powr") && e.contains("lb-power,"), "{e}");
        assert_eq!(named(&[]).expect("all").len(), ROWS.len());
    }
}

use super::*;
use proptest::prelude::*;

fn service(name: &str, needs: &[&str], ready: Ready) -> Service {
    let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
    Service { needs: own(needs), ready, ..Service::of(name, vec!["/bin/true".into()]) }
}

/// network -> node (provides pki) -> etcd, and the log agent that goes last.
fn plan() -> Supervisor {
    let mut s = Supervisor::default();
    let mut node = service("node", &["address"], Ready::Done(vec!["pki".into()]));
    node.provides = vec!["pki".into(), "member".into()];
    let mut network = service("network", &[], Ready::Done(vec!["address".into()]));
    network.provides = vec!["address".into()];
    let log = Service { last: true, ..service("log", &[], Ready::Started) };
    // One that is bound to etcd, and has something to clean up: in every schedule.
    let bound = Service {
        bound_to: vec!["etcd".into()],
        stops_after: vec![],
        after: vec!["/bin/true".into()],
        ..service("bound", &[], Ready::Started)
    };
    s.add(vec![
        log,
        network,
        node,
        bound,
        service("etcd", &["pki", "member"], Ready::NotifyThenDone(vec!["formed".into()])),
    ]);
    s
}

fn done(condition: &str) -> Event {
    Event::Done { condition: condition.into() }
}

fn exited(service: &str) -> Event {
    Event::Exited { service: service.into(), how: "exit status 1".into() }
}

fn empty(service: &str) -> Event {
    Event::Empty { service: service.into() }
}

fn text(actions: &[Action]) -> String {
    let word = |a: &Action| match a {
        Action::Spawn { service } => format!("spawn {service}"),
        Action::Terminate { service } => format!("term {service}"),
        Action::Kill { service, .. } => format!("kill {service}"),
        Action::After { service } => format!("after {service}"),
        Action::Farewell { service } => format!("farewell {service}"),
        Action::Reload { service } => format!("reload {service}"),
        Action::Distrusts { service, other, .. } => format!("{service} distrusts {other}"),
        Action::Ready { service, .. } => format!("ready {service}"),
        Action::Failed { service, again, .. } => format!("failed {service} {again}"),
        Action::AllReady => "all ready".into(),
        Action::Finished => "finished".into(),
    };
    actions.iter().map(word).collect::<Vec<_>>().join(", ")
}

#[test]
fn starts_as_soon_as_needs_are_met_and_stops_in_reverse() {
    let mut s = plan();
    let script = [
        (Event::Tick, "spawn log, ready log, spawn network"),
        (done("address"), "ready network, spawn node"),
        (done("pki"), "ready node"),
        (done("member"), "spawn etcd"),
        (Event::Notified { service: "etcd".into() }, ""),
        (done("formed"), "ready etcd, spawn bound, ready bound, all ready"),
        (Event::Shutdown, "term bound"),
        (exited("bound"), "kill bound"),
        (empty("bound"), "after bound"),
        (exited("bound"), "term etcd"),
        (exited("etcd"), "kill etcd"),
        (empty("etcd"), "term node"),
        (exited("node"), "kill node"),
        (empty("node"), "term network"),
        (exited("network"), "kill network"),
        (empty("network"), "term log"),
        (exited("log"), "kill log"),
        (empty("log"), "finished"),
    ];
    for (now, (event, want)) in script.into_iter().enumerate() {
        assert_eq!(text(&s.step(now as u64, &event)), want, "{event:?}");
    }
}

#[test]
fn backs_off_doubling_and_forgives_after_a_good_minute() {
    let mut s = Supervisor::default();
    s.add(vec![service("a", &[], Ready::Started)]);
    s.step(0, &Event::Tick);
    let mut now = 0;
    let mut delays = Vec::new();
    for _ in 0..11 {
        s.step(now, &exited("a"));
        s.step(now, &empty("a"));
        let until = s.deadline().expect("a delay");
        delays.push(until - now);
        assert_eq!(text(&s.step(until - 1, &Event::Tick)), "");
        assert_eq!(text(&s.step(until, &Event::Tick)), "spawn a, ready a");
        now = until;
    }
    assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    s.step(now + GOOD, &exited("a"));
    s.step(now + GOOD, &empty("a"));
    assert_eq!(s.deadline(), Some(now + GOOD + BACKOFF_MIN));
}

#[test]
fn a_service_that_ignores_sigterm_is_killed_and_one_that_cannot_be_is_let_go_of() {
    let mut s = Supervisor::default();
    s.add(vec![service("a", &[], Ready::Started)]);
    s.step(0, &Event::Tick);
    assert_eq!(text(&s.step(0, &Event::Shutdown)), "term a");
    assert_eq!(text(&s.step(STOP - 1, &Event::Tick)), "");
    assert_eq!(text(&s.step(STOP, &Event::Tick)), "kill a");
    assert_eq!(text(&s.step(STOP + KILL, &Event::Tick)), "finished");
}

#[test]
fn a_fault_restarts() {
    let mut s = Supervisor::default();
    s.add(vec![service("a", &[], Ready::Started)]);
    s.step(0, &Event::Tick);
    assert_eq!(text(&s.step(5, &Event::Fault { service: "a".into(), why: "hangs".into() })), "failed a 100, kill a");
    s.step(6, &exited("a"));
    s.step(6, &empty("a"));
    assert_eq!(text(&s.step(106, &Event::Tick)), "spawn a, ready a");
}

#[test]
fn one_that_stands_still_is_ended_unless_it_goes_on_in_time() {
    let mut s = Supervisor::default();
    s.add(vec![service("a", &[], Ready::Started)]);
    s.step(0, &Event::Tick);
    let (suspended, goes_on) = (Event::Suspended { service: "a".into() }, Event::Continued { service: "a".into() });
    s.step(0, &suspended);
    assert_eq!(s.deadline(), Some(SUSPENDED));
    s.step(5, &goes_on);
    assert_eq!((text(&s.step(SUSPENDED, &Event::Tick)), s.deadline()), (String::new(), None));
    s.step(SUSPENDED, &suspended);
    assert_eq!(text(&s.step(2 * SUSPENDED - 1, &Event::Tick)), "");
    assert_eq!(text(&s.step(2 * SUSPENDED, &Event::Tick)), "failed a 100, kill a");
    s.step(2 * SUSPENDED, &exited("a"));
    s.step(2 * SUSPENDED, &empty("a"));
    assert_eq!(text(&s.step(2 * SUSPENDED + 100, &Event::Tick)), "spawn a, ready a");
    assert_eq!(s.deadline(), None, "the new one goes on");
}

/// containerd hangs: what pods run in is in its group, and stays.
#[test]
fn a_fault_ends_what_the_service_is() {
    for (kills, whole) in [(Kills::Cgroup, true), (Kills::Process, false)] {
        let mut s = Supervisor::default();
        s.add(vec![Service { kills, ..service("a", &[], Ready::Started) }]);
        s.step(0, &Event::Tick);
        let actions = s.step(5, &Event::Fault { service: "a".into(), why: "hangs".into() });
        assert!(actions.contains(&Action::Kill { service: "a".into(), whole }), "{actions:?}");
    }
}

/// haproxy, and keepalived that is bound to it and cleans up after itself.
fn balancer() -> Supervisor {
    let mut s = Supervisor::default();
    let keepalived = Service {
        bound_to: vec!["haproxy".into()],
        stops_after: vec![],
        after: vec!["/bin/true".into()],
        reload: Some(contract::service::ReloadSignal::Hup),
        ..service("keepalived", &[], Ready::Started)
    };
    s.add(vec![service("haproxy", &[], Ready::Notify), keepalived]);
    assert_eq!(text(&s.step(0, &Event::Tick)), "spawn haproxy");
    assert_eq!(text(&s.step(0, &notified("haproxy"))), "ready haproxy, spawn keepalived, ready keepalived, all ready");
    s
}

fn notified(service: &str) -> Event {
    Event::Notified { service: service.into() }
}

#[test]
fn what_is_bound_goes_at_once_and_comes_back_after() {
    let mut s = balancer();
    let script = [
        (10, exited("haproxy"), "failed haproxy 100, kill haproxy, term keepalived"),
        (11, empty("haproxy"), ""),
        (15, exited("keepalived"), "kill keepalived"),
        (16, empty("keepalived"), "after keepalived"),
        (20, exited("keepalived"), ""),
        (111, Event::Tick, "spawn haproxy"),
        (150, notified("haproxy"), "ready haproxy, spawn keepalived, ready keepalived"),
    ];
    for (now, event, want) in script {
        assert_eq!(text(&s.step(now, &event)), want, "{event:?}");
    }
    let restarts: Vec<_> = s.entries.iter().map(|e| e.restarts).collect();
    assert_eq!(restarts, [1, 0], "keepalived did not fail");
}

#[test]
fn what_is_bound_does_not_rely_on_what_flaps() {
    let mut s = balancer();
    let mut now = 10;
    for failure in 1..=FLAPS {
        let said = text(&s.step(now, &exited("haproxy")));
        assert!(said.contains("term keepalived"), "{said}");
        assert_eq!(said.contains("keepalived distrusts haproxy"), failure == FLAPS, "{said}");
        for name in ["haproxy", "keepalived"] {
            s.step(now, &exited(name));
            s.step(now, &empty(name));
        }
        s.step(now, &exited("keepalived"));
        now = s.deadline().expect("a delay");
        assert_eq!(text(&s.step(now, &Event::Tick)), "spawn haproxy");
        let said = text(&s.step(now, &notified("haproxy")));
        assert_eq!(said.contains("spawn keepalived"), failure < FLAPS, "{said}");
    }
    assert_eq!(s.deadline(), Some(now + GOOD));
    assert_eq!(text(&s.step(now + GOOD - 1, &Event::Tick)), "");
    assert_eq!(text(&s.step(now + GOOD, &Event::Tick)), "spawn keepalived, ready keepalived");
}

#[test]
fn an_after_program_that_hangs_is_let_go_of() {
    let mut s = balancer();
    s.step(10, &exited("keepalived"));
    assert_eq!(text(&s.step(10, &empty("keepalived"))), "after keepalived");
    assert_eq!(text(&s.step(10 + KILL, &Event::Tick)), "kill keepalived");
    assert_eq!(text(&s.step(10 + KILL + BACKOFF_MIN, &Event::Tick)), "spawn keepalived, ready keepalived");
}

#[test]
fn stops_what_is_bound_first_and_reads_again() {
    let mut s = balancer();
    let reread = |name: &str| Event::Reread { service: name.into() };
    assert_eq!(text(&s.step(5, &reread("keepalived"))), "reload keepalived");
    // haproxy here knows no signal for it.
    assert_eq!(text(&s.step(6, &reread("haproxy"))), "term haproxy, term keepalived");
    for name in ["haproxy", "keepalived"] {
        s.step(7, &exited(name));
    }
    s.step(7, &empty("keepalived"));
    s.step(7, &exited("keepalived"));
    assert_eq!(text(&s.step(8, &empty("haproxy"))), "spawn haproxy", "without a delay");
    s.step(9, &notified("haproxy"));
    assert_eq!(text(&s.step(10, &Event::Shutdown)), "term keepalived");
    s.step(11, &exited("keepalived"));
    assert_eq!(text(&s.step(11, &empty("keepalived"))), "after keepalived");
    assert_eq!(text(&s.step(12, &exited("keepalived"))), "term haproxy");
}

/// Runs once.
fn once() -> Service {
    service("once", &["address"], Ready::Ended)
}

/// Has something to do when the node ends.
fn with_farewell() -> Service {
    Service { farewell: vec!["/bin/true".into()], farewell_ms: 5000, ..service("kubelet", &["pki"], Ready::Notify) }
}

fn ended_well(service: &str) -> Event {
    Event::Exited { service: service.into(), how: ENDED_WELL.into() }
}

#[test]
fn runs_once_and_again_only_after_a_failure() {
    let mut s = Supervisor::default();
    s.add(vec![once(), service("user", &["once"], Ready::Started)]);
    assert_eq!(text(&s.step(0, &done("address"))), "spawn once");
    assert_eq!(text(&s.step(5, &exited("once"))), "failed once 100, kill once");
    s.step(5, &empty("once"));
    assert_eq!(text(&s.step(105, &Event::Tick)), "spawn once");
    assert_eq!(text(&s.step(110, &ended_well("once"))), "ready once, spawn user, ready user, all ready");
    assert_eq!(text(&s.step(110, &empty("once"))), "");
    assert_eq!(text(&s.step(120, &Event::Shutdown)), "term user");
    s.step(121, &exited("user"));
    assert_eq!(text(&s.step(121, &empty("user"))), "finished");
}

#[test]
fn says_farewell_at_shutdown_only_and_in_time() {
    let mut s = Supervisor::default();
    s.add(vec![with_farewell()]);
    s.step(0, &done("pki"));
    s.step(1, &exited("kubelet"));
    assert_eq!(text(&s.step(1, &empty("kubelet"))), "", "it only failed");
    s.step(101, &Event::Tick);
    assert_eq!(text(&s.step(102, &Event::Shutdown)), "term kubelet");
    s.step(103, &ended_well("kubelet"));
    assert_eq!(text(&s.step(103, &empty("kubelet"))), "farewell kubelet");
    assert_eq!(text(&s.step(5102, &Event::Tick)), "");
    assert_eq!(text(&s.step(5103, &Event::Tick)), "kill kubelet, finished");
}

#[test]
fn stops_after_what_does_not_need_it() {
    let mut s = Supervisor::default();
    let etcd = Service { stops_after: vec!["kubelet".into()], ..service("etcd", &[], Ready::Started) };
    s.add(vec![etcd, with_farewell()]);
    s.step(0, &done("pki"));
    assert_eq!(text(&s.step(1, &Event::Shutdown)), "term kubelet");
    s.step(2, &ended_well("kubelet"));
    assert_eq!(text(&s.step(2, &empty("kubelet"))), "farewell kubelet");
    assert_eq!(text(&s.step(3, &ended_well("kubelet"))), "term etcd");
}

/// A schedule: what the world does next.
fn event() -> impl Strategy<Value = Event> {
    let name = prop::sample::select(vec!["log", "network", "node", "etcd", "bound", "once", "kubelet", "nobody"]);
    let condition = prop::sample::select(vec!["address", "pki", "member", "formed"]);
    prop_oneof![
        4 => Just(Event::Tick),
        3 => name.clone().prop_map(exited),
        2 => name.clone().prop_map(ended_well),
        3 => name.clone().prop_map(empty),
        2 => name.clone().prop_map(|n| Event::Notified { service: n.into() }),
        3 => condition.prop_map(done),
        1 => name.clone().prop_map(|n| Event::Restart { service: n.into() }),
        1 => name.clone().prop_map(|n| Event::Reread { service: n.into() }),
        1 => name.clone().prop_map(|n| Event::Fault { service: n.into(), why: "x".into() }),
        1 => name.clone().prop_map(|n| Event::Suspended { service: n.into() }),
        1 => name.clone().prop_map(|n| Event::Continued { service: n.into() }),
        1 => name.prop_map(|n| Event::SpawnFailed { service: n.into(), why: "x".into() }),
        1 => Just(Event::Shutdown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// In every schedule: no service is started twice without having ended, none before its needs, none after the
    /// shutdown began; and whatever happens, the shutdown ends within its bound.
    #[test]
    fn invariants(schedule in prop::collection::vec((event(), 0_u64..20_000), 0..120)) {
        let mut s = plan();
        s.add(vec![once(), with_farewell()]);
        let mut now = 0;
        let mut alive = std::collections::BTreeSet::new();
        let mut told = std::collections::BTreeSet::new();
        let mut ending = false;
        let mut finished = false;
        for (event, wait) in schedule {
            now += wait;
            // The kernel only reports the exit of what runs.
            if let Event::Exited { service, .. } | Event::SpawnFailed { service, .. } = &event
                && !alive.remove(service) { continue }
            if let Event::Done { condition } = &event { told.insert(condition.clone()); }
            ending |= event == Event::Shutdown;
            for action in s.step(now, &event) {
                match action {
                    Action::After { service } | Action::Farewell { service } => {
                        prop_assert!(alive.insert(service.clone()), "{} is cleaned up after while it runs", service);
                    }
                    Action::Spawn { service } => {
                        prop_assert!(!ending, "{} started while ending", service);
                        prop_assert!(alive.insert(service.clone()), "{} started twice", service);
                        let needs = s.entries.iter().find(|e| e.service.name == service).expect("known").service.needs.clone();
                        prop_assert!(needs.iter().all(|n| told.contains(n)), "{} before its needs", service);
                    }
                    // SIGKILL works: the process is gone, whether or not its exit is seen in time.
                    Action::Kill { service, whole: true } => { alive.remove(&service); }
                    Action::Finished => finished = true,
                    _ => {}
                }
            }
        }
        if !finished {
            for action in s.step(now, &Event::Shutdown) { finished |= action == Action::Finished; }
            let began = now;
            while !finished {
                let due = s.deadline().expect("something is waited for");
                now = now.max(due);
                prop_assert!(now <= began + 2 * SHUTDOWN, "the shutdown takes for ever");
                for action in s.step(now, &Event::Tick) { finished |= action == Action::Finished; }
            }
        }
    }
}

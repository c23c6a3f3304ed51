//! Whether keepalived hangs. Nobody can ask it anything, but one that lives has something to do at each advertisement: who holds
//! the virtual IP sends them, all others hear them, or take the address. So it waits for the next thing again and again, and the
//! kernel counts how often (`voluntary_ctxt_switches`, proc_pid_status(5)). One that goes on without waiting the kernel ends
//! (`vrrp_rlimit_rttime`, init/src/roles/lb/keepalived.rs).

use crate::channel::Channel;
use crate::hung::{self, Silence};
use contract::control::FromAgent;
use contract::node::NodeConfig;
use contract::paths;
use std::collections::BTreeMap;
use std::time::Duration;

/// Nothing tells that it hangs: it is looked at this often, after so many advertisements at the soonest.
const LOOK: Duration = Duration::from_secs(1);
const ADVERTS: u32 = 5;
/// So many looks in a row that find nothing new, and it hangs: after 2 to 3 seconds.
const SILENT: u32 = 2;

/// In a thread of its own. `link` is the interface of the virtual IP.
pub(super) fn look_out(config: &NodeConfig, link: &str, channel: Channel) {
    let advert = Duration::from_millis(config.lb.as_ref().map_or(0, |lb| lb.advert_ms).into());
    let look = LOOK.max(advert * ADVERTS);
    let carrier = format!("/sys/class/net/{link}/carrier");
    std::thread::spawn(move || {
        let mut watch = hung::Watch::of(SILENT, SILENT);
        let mut before = None;
        loop {
            // Without a carrier it has nothing to do.
            let now = if read(&carrier).is_some_and(|c| c.trim() == "1") { waited() } else { None };
            if let Some(why) = watch.step(heard(before.as_ref(), now.as_ref())) {
                let said = channel.say(&FromAgent::Fault { service: "keepalived".into(), why });
                if let Err(e) = said {
                    eprintln!("keepalived: {e}");
                    std::process::exit(1);
                }
            }
            before = now;
            std::thread::sleep(look);
        }
    });
}

/// Its processes, by their numbers, and how often each has waited; none where it is not there.
fn waited() -> Option<BTreeMap<u32, u64>> {
    let text = read(&format!("{}/keepalived/cgroup.procs", paths::CGROUP))?;
    let of = |pid: u32| Some((pid, count(&read(&format!("/proc/{pid}/status"))?)?));
    let all: BTreeMap<u32, u64> = text.lines().filter_map(|l| l.parse().ok()).filter_map(of).collect();
    (!all.is_empty()).then_some(all)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn count(status: &str) -> Option<u64> {
    status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// What two looks in a row tell.
fn heard(before: Option<&BTreeMap<u32, u64>>, now: Option<&BTreeMap<u32, u64>>) -> Result<(), Silence> {
    match now {
        None => Err(Silence::Absent),
        Some(_) if now == before => Err(Silence::Mute("it does nothing".into())),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_that_waits_again_lives() {
        let mut watch = hung::Watch::of(SILENT, SILENT);
        let of = |pid, waited| Some(BTreeMap::from([(pid, waited), (pid + 1, 1)]));
        // It is not there, it is, and goes on; another one comes; that one stands still; it is ended.
        let seen = [None, of(7, 10), of(7, 21), of(8, 21), of(8, 21), of(8, 21), None];
        let steps: Vec<_> =
            seen.windows(2).map(|w| watch.step(heard(w[0].as_ref(), w[1].as_ref())).is_some()).collect();
        assert_eq!(steps, [false, false, false, false, true, false]);
    }

    #[test]
    fn the_kernel_counts() {
        let own = || count(&read("/proc/thread-self/status").expect("there")).expect("a count");
        let before = own();
        std::thread::sleep(Duration::from_millis(1));
        assert!(own() > before, "it waited");
    }

    proptest! {
        #[test]
        fn whatever_stands_there_is_a_count_or_none(text in "(voluntary_ctxt_switches:)?.{0,40}") {
            let _ = count(&text);
        }
    }
}

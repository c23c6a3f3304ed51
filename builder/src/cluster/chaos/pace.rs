//! How slowly the rows' clock goes: as fast as this machine bears with all clients asking. It is found once per saved state,
//! because an emulated apiserver that is late looks like one that is gone.

use super::measure::{self, Figures};
use super::rows::{Asked, Row};
use super::{administrator, go_back};
use crate::cli::cluster::Lab;
use crate::cluster::spec::Spec;
use crate::keeper::Request;
use crate::keeper::client::{status, tell};
use anyhow::Result;
use lab::clock::Clock;
use std::path::Path;
use std::time::Duration;

/// A cluster that runs bears less than one that boots: part of the boot's host seconds per guest second.
const RESTORED: f64 = 0.45;
/// Nor does a cluster that hardly anybody asks need as much: part of the pace of one that is asked. Of a stacked one that bears
/// 21.6-fold: 12-fold takes 60 % of the processors, and at 8-fold load balancers take masters for dead, whose clients then come back
/// all at once.
const LITTLE: f64 = 0.55;
/// A pace is tried for so long, guest time: leases are renewed in it, and some hundred requests are made.
const TRIAL: Duration = Duration::from_secs(5);
/// The next pace, if it was too fast ...
const SLOWER: f64 = 1.4;
/// ... and slower by that twice, if more than one in so many requests failed.
const MANY: usize = 20;
/// An answer may take this part of what clients have patience for, while nothing is done: what is done takes the rest.
const SLOWEST: f64 = 0.6;

/// Host seconds per guest second of the rows of a cluster that boots at `boot`, which must be a clock's.
pub(super) fn of_boot(boot: f64) -> Result<f64> {
    Ok((Clock::new(boot)?.factor() * RESTORED).max(1.0))
}

/// The pace of a row, where `borne` is that of rows in which clients ask much.
pub(super) fn of_row(row: &Row, borne: f64) -> f64 {
    match row.asked {
        Asked::Much => borne,
        Asked::Little => (borne * LITTLE).max(1.0),
    }
}

/// The first pace from `first` on at which nobody waits long while nothing is done.
pub(super) fn borne(own: &Path, spec: &Spec, lab: &Lab, first: f64) -> Result<f64> {
    let name = &spec.cluster.name;
    let mut pace = first;
    loop {
        go_back(own, spec, lab, pace)?;
        let now = status(name)?;
        let clock = Clock::new(now.dilation)?;
        let client = administrator(spec, own, &now, measure::PATIENCE)?;
        // How long nothing is done, not a wait for an event.
        let told = measure::around(&client, clock, Asked::Much, || {
            std::thread::sleep(clock.host(TRIAL));
            Ok(())
        });
        tell(name, &Request::End)?;
        let figures = told?.figures;
        let failed = figures.reads_failed + figures.writes_failed;
        let seen = format!("{failed} requests failed, the slowest took {:.2} s", figures.slowest_ms / 1000.0);
        eprintln!("quorate: dilated {pace:.1}-fold and left alone: {seen}");
        match slower(pace, &figures) {
            Some(next) => pace = next,
            None => return Ok(pace),
        }
    }
}

/// What to try after `pace`; none = it will do, or there is none that is slower.
fn slower(pace: f64, seen: &Figures) -> Option<f64> {
    let failed = seen.reads_failed + seen.writes_failed;
    let calm = failed == 0 && seen.slowest_ms <= measure::PATIENCE.as_secs_f64() * 1000.0 * SLOWEST;
    let many = failed * MANY > seen.reads + seen.writes;
    let further = if many { SLOWER } else { 1.0 };
    // Near the slowest clock that there is the smaller step may be left.
    let next = [pace * SLOWER * further, pace * SLOWER].into_iter().find(|p| Clock::new(*p).is_ok());
    next.filter(|_| !calm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_on_more_quickly_than_a_boot() {
        assert_eq!(of_boot(100.0).expect("a factor"), 45.0);
        assert_eq!(of_boot(1.0).expect("real time"), 1.0);
        for wrong in [0.0, -5.0, 1000.0, f64::NAN, f64::INFINITY] {
            of_boot(wrong).expect_err("no clock goes so");
        }
    }

    #[test]
    fn a_row_in_which_nobody_asks_much_goes_on_more_quickly() {
        let of = |name: &str, borne| of_row(super::super::rows::named(&[name.into()]).expect("a row")[0], borne);
        assert_eq!((of("quiet", 40.0), of("idle", 40.0), of("idle", 2.0)), (40.0, 22.0, 1.1));
    }

    #[test]
    fn a_pace_that_is_too_fast_is_followed_by_a_slower_one_and_there_is_an_end_of_it() {
        let seen = |failed, slowest_ms| Figures { reads: 200, reads_failed: failed, slowest_ms, ..Figures::default() };
        assert_eq!(slower(10.0, &seen(0, 100.0)), None);
        assert_eq!(slower(10.0, &seen(0, 250.0)), Some(14.0));
        assert_eq!(slower(10.0, &seen(1, 100.0)), Some(14.0));
        assert_eq!(slower(10.0, &seen(11, 100.0)), Some(10.0 * SLOWER * SLOWER));
        assert_eq!(slower(60.0, &seen(11, 100.0)), Some(60.0 * SLOWER), "the smaller step is left");
        assert_eq!(slower(90.0, &seen(9, 300.0)), None);
    }
}

//! What is looked at for as long as a node runs: certificates that get old, the time that is saved, the room
//! on the state disk.

use crate::channel::Channel;
use crate::clock::{self, Steps};
use crate::pki;
use crate::space::{self, Said, Space};
use contract::node::NodeConfig;
use contract::{paths, users};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::path::Path;
use std::time::Duration;

/// Looked at this often, and when the clock was set.
const CHORES: Duration = Duration::from_secs(10);
/// Of the saved time; a floor for the clock needs no more.
const SAVE_TIME: u64 = 600;

/// Never ends. `issued` is when this node's leaves were made, seconds since the epoch.
pub(crate) fn for_ever(config: &NodeConfig, mut issued: u64, channel: Channel) -> Result<(), String> {
    let steps = Steps::new()?;
    let life = pki::life(config) * 60;
    let mut saved = 0;
    let mut space = Space::default();
    loop {
        wait(channel, &steps)?;
        // A disk that cannot be asked is told by whoever writes to it; certificates are looked after all the same.
        match space::look(paths::VAR).ok().and_then(|(free, all)| space.step(free, all)) {
            Some(Said::Scarce(text)) => channel.notice(text)?,
            Some(Said::Plenty(text)) => channel.say(&contract::control::FromAgent::Tell { text })?,
            None => {}
        }
        let now = clock::now();
        if is_due(issued, life, now) {
            match pki::write_all(config, now) {
                Ok(()) => {
                    issued = now;
                    channel
                        .say(&contract::control::FromAgent::Tell { text: "the node's certificates are new".into() })?;
                }
                // Those that are there are good for as long again as half of what they were in use.
                Err(e) => channel.notice(format!("renewing the node's certificates: {e}"))?,
            }
        }
        if now >= saved + SAVE_TIME || now < saved {
            let written = pki::write_file(Path::new(paths::SAVED_TIME), &now.to_string(), 0o644, users::ROOT);
            if let Err(e) = written {
                channel.notice(format!("saving the time: {e}"))?;
            }
            saved = now;
        }
    }
}

/// Renewed at two thirds of their life, and when the clock was set back behind their beginning. All in seconds.
fn is_due(issued: u64, life: u64, now: u64) -> bool {
    now >= issued.saturating_add(life / 3 * 2) || now < issued
}

/// What PID 1 says meanwhile is only a reason to look sooner.
fn wait(channel: Channel, steps: &Steps) -> Result<(), String> {
    let timeout = PollTimeout::try_from(CHORES.as_millis()).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(channel.fd(), PollFlags::POLLIN), PollFd::new(steps.fd(), PollFlags::POLLIN)];
    if poll(&mut fds, timeout).is_ok_and(|n| n > 0) {
        let is_in = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        if is_in(&fds[0]) {
            channel.hear()?;
        }
        if is_in(&fds[1]) {
            steps.take()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_due;

    #[test]
    fn certificates_are_renewed_at_two_thirds_of_their_life() {
        let day = 86_400;
        for (now, due) in [(10 * day, false), (10 * day + 19, false), (10 * day + 20, true), (10 * day - 1, true)] {
            assert_eq!(is_due(10 * day, 30, now), due, "{now}");
        }
    }
}

//! A node's voice: what it says to the machine that hosts it, by the virtio-serial port [`PORT`]. It needs no network and
//! no TLS, and works in maintenance mode. Outward JSON lines ([`FromNode`]), inward a line of words ([`ToNode`]).

use crate::check::is_label;
use crate::report::BootReport;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The port's name.
pub const PORT: &str = "quorate.report";
/// A line outward is at most this long, in bytes.
pub const LINE_MAX: usize = 1 << 20;
/// A line inward is at most this long, in bytes.
pub const WORD_MAX: usize = 256;
/// A clock jumps at most this far at once, in seconds: ten years.
pub const CLOCK_STEP_MAX: i64 = 10 * 366 * 86_400;
/// Lines of a service's log that are sent at most.
pub const LOG_LINES_MAX: u32 = 100_000;

/// From a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromNode {
    /// A line of PID 1's, as on the console.
    Said {
        /// Since kernel start.
        ms: u64,
        /// Without the `quorate: ` in front.
        text: String,
    },
    /// The boot report changed.
    Report {
        /// As it is now.
        report: Box<BootReport>,
    },
    /// A line of a service's log.
    Log {
        /// Of the request.
        id: u32,
        /// The line.
        line: String,
    },
    /// What was asked for is done: of [`ToNode::Log`] all lines are told, but for those that follow later; those of
    /// [`ToNode::Signal`] have it.
    Done {
        /// Of the request.
        id: u32,
        /// What there was to say of it, for example that there is no such log, or no such process.
        problem: Option<String>,
    },
}

/// To a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToNode {
    /// Somebody began to listen: everything from the start, please.
    Hello,
    /// `log ID SERVICE N`: the last N lines of a service's log, or of that of a container of a pod in `kube-system`; with `follow`
    /// also those that come later. Several may read at once: the answers carry the id.
    Log {
        /// Chosen by whoever asks, a new one each time.
        id: u32,
        /// Whose.
        service: String,
        /// How many.
        lines: u32,
        /// Whether to go on.
        follow: bool,
    },
    /// `stop ID`: nobody follows that log any more.
    Stop {
        /// Of the request.
        id: u32,
    },
    /// `signal ID SERVICE kill|term|stop|cont`: to all processes of a service, or of a program of the control plane. The host could do so anyway: it owns the memory.
    Signal {
        /// Chosen by whoever asks, as of a log.
        id: u32,
        /// Whose.
        service: String,
        /// What.
        signal: ServiceSignal,
    },
    /// `clock ±SECONDS`: the clock jumps, as one does that was wrong and is set.
    Clock {
        /// By so many, at most [`CLOCK_STEP_MAX`] either way.
        seconds: i64,
    },
    /// The source has another configuration: look again.
    Replan,
    /// End in order, and start again.
    Reboot,
    /// End in order.
    Poweroff,
}

/// A signal that the host may send to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceSignal {
    /// SIGKILL: a crash.
    Kill,
    /// SIGTERM.
    Term,
    /// SIGSTOP: it hangs.
    Stop,
    /// SIGCONT.
    Cont,
}

impl ServiceSignal {
    /// All, with their words.
    pub const ALL: [(&str, Self); 4] =
        [("kill", Self::Kill), ("term", Self::Term), ("stop", Self::Stop), ("cont", Self::Cont)];

    /// Understands a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(w, _)| *w == word).map(|(_, s)| *s)
    }

    /// The word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, s)| *s == self).map_or("", |(w, _)| w)
    }
}

impl ToNode {
    /// Understands a line; the error says what was expected.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["hello"] => Ok(Self::Hello),
            ["reboot"] => Ok(Self::Reboot),
            ["poweroff"] => Ok(Self::Poweroff),
            ["replan"] => Ok(Self::Replan),
            ["signal", id, service, signal] if is_label(service) => {
                let id = id.parse().map_err(|_| "signal ID SERVICE SIGNAL: expected a number")?;
                let signal = ServiceSignal::parse(signal).ok_or("signal ID SERVICE: expected kill, term, stop or cont")?;
                Ok(Self::Signal { id, service: service.into(), signal })
            }
            ["clock", seconds] => match seconds.parse() {
                Ok(seconds) if (-CLOCK_STEP_MAX..=CLOCK_STEP_MAX).contains(&seconds) => Ok(Self::Clock { seconds }),
                _ => Err(format!("clock: expected a number of seconds between ±{CLOCK_STEP_MAX}")),
            },
            ["stop", id] => Ok(Self::Stop { id: id.parse().map_err(|_| "stop: expected a number")? }),
            ["log", id, service, lines, ref rest @ ..] => {
                let id = id.parse().map_err(|_| "log ID SERVICE N: expected a number")?;
                let follow = match rest {
                    [] => false,
                    ["follow"] => true,
                    _ => return Err("log ID SERVICE N: expected nothing or `follow` after it".into()),
                };
                if !is_label(service) {
                    return Err("log: expected the name of a service".into());
                }
                let lines = lines.parse::<u32>().map_err(|_| "log ID SERVICE N: expected a number of lines")?;
                Ok(Self::Log { id, service: service.into(), lines: lines.min(LOG_LINES_MAX), follow })
            }
            _ => Err("expected `hello`, `log ID SERVICE N [follow]`, `stop ID`, `signal ID SERVICE SIGNAL`, `clock SECONDS`, `replan`, `reboot` or `poweroff`".into()),
        }
    }
}

impl fmt::Display for ToNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => write!(f, "hello"),
            Self::Reboot => write!(f, "reboot"),
            Self::Poweroff => write!(f, "poweroff"),
            Self::Replan => write!(f, "replan"),
            Self::Signal { id, service, signal } => write!(f, "signal {id} {service} {}", signal.word()),
            Self::Clock { seconds } => write!(f, "clock {seconds:+}"),
            Self::Stop { id } => write!(f, "stop {id}"),
            Self::Log { id, service, lines, follow } => {
                write!(f, "log {id} {service} {lines}{}", if *follow { " follow" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words() {
        let log = ToNode::Log { id: 7, service: "etcd".into(), lines: 50, follow: true };
        let signal = ToNode::Signal { id: 8, service: "haproxy".into(), signal: ServiceSignal::Stop };
        let plain = [ToNode::Hello, ToNode::Reboot, ToNode::Poweroff, ToNode::Replan, ToNode::Stop { id: 7 }];
        let clocks = [ToNode::Clock { seconds: 3600 }, ToNode::Clock { seconds: -CLOCK_STEP_MAX }];
        for word in plain.into_iter().chain([log, signal]).chain(clocks) {
            assert_eq!(ToNode::parse(&word.to_string()), Ok(word));
        }
        for bad in [
            "",
            "reboot now",
            "log",
            "log 1 ../x 1",
            "log etcd 1",
            "log 1 etcd many",
            "log 1 etcd 1 2",
            "stop",
            "signal 1 etcd hup",
            "signal etcd kill",
            "clock +316224001",
            "clock 1h",
        ] {
            assert!(ToNode::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_no_panic(line in ".{0,300}") {
            let _ = ToNode::parse(&line);
        }
    }
}

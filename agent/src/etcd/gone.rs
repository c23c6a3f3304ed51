//! A master without a member beside it: its apiserver has connections to all members, and asks them in turn. One that has
//! lost its power, its cable, or its wits says nothing; etcd's client waits for it until the kernel gives up sending (10 s,
//! which grpc-go makes of the apiserver's `keepaliveTimeout`; a hung one's kernel answers for it: 40 s, with the
//! `keepaliveTime` before, `storagebackend/factory/etcd3.go`), and a request in so many waits, too. So the agent asks each
//! member on its own, and ends this node's connections to one that is silent while another answers: the client then has
//! only those that are there.
//!
//! A member that ended says so by itself, and one beside the apiserver shares its fate: nobody is asked there.
//!
//! Where none answers it is this node that is cut off, and its apiserver's clients are better off elsewhere (`health.rs`).

use super::Gateway;
use super::connection::Connection;
use super::health::Health;
use crate::channel::Channel;
use crate::net::tcp;
use contract::control::FromAgent;
use contract::node::NodeConfig;
use contract::ports::ETCD_CLIENT;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nothing tells that a member is silent: each is asked this often. It reads one key for it.
const ASK: Duration = Duration::from_millis(250);
/// It answers within milliseconds; a member, or a master, that is busy may be late.
const PATIENCE: Duration = Duration::from_millis(350);
/// So many questions in a row without a word, and it is gone.
const SILENT: u32 = 2;

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Whatever etcd said.
    Answer,
    /// Its machine says that nobody listens, or that a connection is over: who has one hears so, too.
    No,
    /// Nothing, in time.
    Nothing,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Its connections are to be ended.
    LetGo,
    /// It is one of them again.
    Back,
}

/// What was seen so far. Pure.
#[derive(Debug)]
struct Watch {
    members: Vec<Seen>,
    cut_off: bool,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// It answered since it was last let go of: one that only starts is not one that is gone.
    known: bool,
    /// It was let go of, and has not answered since.
    gone: bool,
    silent: u32,
    /// Since when; while `silent` is not 0.
    since: Duration,
    answered: Option<Duration>,
    /// So many questions since then.
    unanswered: u32,
}

impl Watch {
    fn of(members: usize) -> Self {
        Self { members: vec![Seen::default(); members], cut_off: false }
    }

    /// Takes what was heard of a member to a question put at `asked`, at `now`.
    fn step(&mut self, member: usize, asked: Duration, now: Duration, heard: Heard) -> Option<Decision> {
        let seen = &mut self.members[member];
        seen.unanswered = if heard == Heard::Answer { 0 } else { seen.unanswered + 1 };
        match heard {
            Heard::Answer => {
                seen.answered = Some(now);
                (seen.known, seen.silent) = (true, 0);
                std::mem::take(&mut seen.gone).then_some(Decision::Back)
            }
            Heard::No => {
                seen.silent = 0;
                None
            }
            Heard::Nothing => {
                if seen.silent == 0 {
                    seen.since = asked;
                }
                seen.silent += 1;
                let (long, since) = (seen.known && seen.silent >= SILENT, seen.since);
                // Where nobody answers it is this node that is cut off, or stood still.
                let another = self.members.iter().enumerate().any(|(i, s)| i != member && s.answered > Some(since));
                if !long || !another {
                    return None;
                }
                let Seen { answered, unanswered, .. } = self.members[member];
                self.members[member] = Seen { gone: true, answered, unanswered, ..Seen::default() };
                Some(Decision::LetGo)
            }
        }
    }

    /// Whether this node hears no member any more, if that is new.
    fn is_cut_off(&mut self) -> Option<bool> {
        let was_heard = self.members.iter().any(|s| s.answered.is_some());
        let cut_off = was_heard && self.members.iter().all(|s| s.unanswered >= SILENT);
        (std::mem::replace(&mut self.cut_off, cut_off) != cut_off).then_some(cut_off)
    }
}

/// Asks all members for as long as this process is there, each in a thread of its own.
pub(crate) fn look_out(config: &NodeConfig, health: &Arc<Health>, channel: Channel) {
    let watch = Arc::new(Mutex::new(Watch::of(config.members.len())));
    let began = Instant::now();
    for (i, (name, address)) in config.members.clone().into_iter().enumerate() {
        let (watch, health) = (Arc::clone(&watch), Arc::clone(health));
        std::thread::spawn(move || {
            let mut member = Connection::new(|| Gateway::as_apiserver(address, PATIENCE));
            loop {
                let asked = began.elapsed();
                // Certificates that are just renewed are no word of the member's.
                let heard = member.ask(Gateway::is_there, |h| *h == Heard::Answer).unwrap_or(Heard::No);
                let now = began.elapsed();
                // Held until it is done: what another thread decides comes after it.
                let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
                let decided = watch.step(i, asked, now, heard).map_or(Ok(()), |d| act(d, &name, address, channel));
                let cut_off = watch.is_cut_off();
                let told = cut_off.map_or(Ok(()), |cut_off| tell(cut_off, &health, channel));
                drop(watch);
                if let Err(e) = decided.and(told) {
                    eprintln!("etcd's members: {e}");
                    std::process::exit(1);
                }
                std::thread::sleep((asked + ASK).saturating_sub(began.elapsed()));
            }
        });
    }
}

fn tell(cut_off: bool, health: &Health, channel: Channel) -> Result<(), String> {
    let text = if cut_off {
        health.set_unhealthy(Instant::now() + Health::LASTS);
        "no member of etcd answers this node: new clients are sent elsewhere"
    } else {
        health.set_healthy();
        "etcd answers this node again"
    };
    channel.say(&FromAgent::Tell { text: text.into() })
}

fn act(decision: Decision, name: &str, address: IpAddr, channel: Channel) -> Result<(), String> {
    match decision {
        Decision::LetGo => match tcp::abort(SocketAddr::new(address, ETCD_CLIENT)) {
            Ok(ended) => channel.say(&FromAgent::Tell {
                text: format!("etcd of {name} ({address}) does not answer: {ended} connections to it are ended"),
            }),
            Err(e) => channel.notice(format!("etcd of {name} ({address}) does not answer: {e}")),
        },
        Decision::Back => channel.say(&FromAgent::Tell { text: format!("etcd of {name} ({address}) answers again") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_that_is_silent_while_another_answers_is_let_go_of_once() {
        let mut watch = Watch::of(3);
        let mut step = |member, at, heard| watch.step(member, ms(at), ms(at + 10), heard);
        for member in 0..3 {
            assert_eq!(step(member, 0, Heard::Answer), None);
        }
        assert_eq!(step(0, 250, Heard::Nothing), None, "once is nothing");
        assert_eq!(step(0, 600, Heard::Nothing), None, "nobody else was heard since");
        assert_eq!(step(1, 700, Heard::Answer), None);
        assert_eq!(step(0, 950, Heard::Nothing), Some(Decision::LetGo));
        for at in 0..9 {
            assert_eq!(step(1, 1250 + 350 * at, Heard::Answer), None);
            assert_eq!(step(0, 1300 + 350 * at, Heard::Nothing), None, "once");
        }
        assert_eq!(step(0, 9000, Heard::No), None, "it starts");
        assert_eq!(step(0, 9250, Heard::Answer), Some(Decision::Back));
        assert_eq!(step(0, 9500, Heard::Answer), None);
    }

    #[test]
    fn who_hears_no_member_any_more_is_cut_off() {
        let mut watch = Watch::of(2);
        let mut step = |member, at, heard| {
            watch.step(member, ms(at), ms(at + 10), heard);
            watch.is_cut_off()
        };
        let begun: Vec<_> = (0..4).flat_map(|at| [step(0, at, Heard::No), step(1, at, Heard::Nothing)]).collect();
        assert!(begun.iter().all(Option::is_none), "none was there yet: {begun:?}");
        assert_eq!(step(0, 100, Heard::Answer), None);
        assert_eq!(step(0, 200, Heard::Nothing), None, "once is nothing");
        assert_eq!(step(0, 300, Heard::No), Some(true), "there is no way to it");
        assert_eq!(step(1, 310, Heard::Nothing), None, "that is known");
        assert_eq!(step(1, 400, Heard::Answer), Some(false));
        assert_eq!(step(0, 500, Heard::Answer), None);
    }

    #[test]
    fn one_that_ended_or_only_starts_is_not_gone() {
        let mut watch = Watch::of(2);
        for at in 0..9 {
            assert_eq!(watch.step(1, ms(at * 100), ms(at * 100), Heard::Answer), None);
            assert_eq!(watch.step(0, ms(at * 100 + 50), ms(at * 100 + 90), Heard::Nothing), None, "it only starts");
        }
        watch.step(0, ms(1000), ms(1000), Heard::Answer);
        for at in 0..9 {
            let heard = if at % 2 == 0 { Heard::Nothing } else { Heard::No };
            assert_eq!(watch.step(1, ms(1100 + at * 100), ms(1100 + at * 100), Heard::Answer), None);
            assert_eq!(watch.step(0, ms(1150 + at * 100), ms(1190 + at * 100), heard), None, "its kernel spoke");
        }
    }

    /// What a member's end may do, a connection each.
    #[test]
    fn what_is_an_answer_and_what_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = dir.path().join("ca.crt");
        let key = rcgen::KeyPair::generate().expect("a key");
        let cert = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
        std::fs::write(&ca, cert.pem()).expect("written");
        let hears = |address: SocketAddr| {
            let agent = crate::https::client(&ca.display().to_string(), None, PATIENCE).expect("a client");
            Gateway { agent, url: format!("http://{address}") }.is_there()
        };
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            (listener, address)
        };
        for (said, heard) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Heard::Answer),
            ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", Heard::Answer),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", Heard::No),
            ("nothing that is HTTP\r\n\r\n", Heard::No),
            ("", Heard::No),
        ] {
            let (listener, address) = listen();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().expect("asked");
                    let _ = stream.read(&mut [0; 1024]).expect("the question");
                    stream.write_all(said.as_bytes()).expect("answered");
                });
                assert_eq!(hears(address), heard, "{said}");
            });
        }
        let (hung, address) = listen();
        assert_eq!(hears(address), Heard::Nothing, "its kernel takes connections, and nobody reads");
        drop(hung);
        assert_eq!(hears(address), Heard::No, "refused");
    }

    proptest! {
        /// Whatever is heard: not all members are gone at a time unless they went one after the other, and between two
        /// times that one is let go of it answered.
        #[test]
        fn the_last_to_answer_is_kept(heard in prop::collection::vec((0_usize..3, 0_u8..3), 0..300)) {
            let mut watch = Watch::of(3);
            let mut gone = [false; 3];
            for (at, (member, heard)) in (0_u64..).zip(heard) {
                let heard = [Heard::Answer, Heard::No, Heard::Nothing][usize::from(heard)];
                let last = watch.members.iter().enumerate().max_by_key(|(_, s)| s.answered).map(|(i, _)| i);
                let decision = watch.step(member, ms(at * 10), ms(at * 10 + 5), heard);
                watch.is_cut_off();
                prop_assert!(!watch.cut_off || heard != Heard::Answer);
                match decision {
                    Some(Decision::LetGo) => {
                        prop_assert!(!gone[member] && Some(member) != last);
                        gone[member] = true;
                    }
                    Some(Decision::Back) => {
                        prop_assert!(gone[member] && heard == Heard::Answer);
                        gone[member] = false;
                    }
                    None => {}
                }
            }
        }
    }
}

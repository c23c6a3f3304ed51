use super::*;
use proptest::prelude::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// In a round: it has no leader.
const NONE: u64 = 999;

/// Rounds of half a second, each with what the members took; what was decided in which.
fn run(watch: &mut Watch, from: usize, rounds: &[[u64; 3]]) -> Vec<(usize, usize, bool)> {
    let mut decided = Vec::new();
    for (round, took) in (from..).zip(rounds) {
        for (member, took) in took.iter().enumerate() {
            let look = match took {
                0 => Look::Gone,
                &NONE => Look::Leaderless,
                took => Look::Took(ms(*took)),
            };
            let decision = watch.step(member, ms(500 * round as u64), look);
            decided.extend(decision.map(|d| (round, member, d != Decision::Back)));
        }
    }
    decided
}

#[test]
fn one_that_is_much_slower_than_another_is_left_for_a_while() {
    let mut watch = Watch::of(3, None);
    assert!(run(&mut watch, 0, &[[5, 6, 4]; 10]).is_empty());
    let slow = [[5, 90, 4], [5, 200, 4], [5, 30, 4], [5, 150, 4], [5, 90, 4]];
    assert_eq!(run(&mut watch, 10, &slow), [(13, 1, true)], "the third that is late");
    assert!(run(&mut watch, 15, &[[300, 900, 4]; 10]).is_empty(), "one at a time");
    assert_eq!(run(&mut watch, 25, &[[300, 9, 4]; 5]), [(28, 0, true)], "that one instead");
    assert_eq!(run(&mut watch, 30, &[[4, 900, 4]; 5]), [(32, 1, true)]);
    assert!(run(&mut watch, 35, &[[4, 9, 4]; 17]).is_empty(), "it is well, but has not rested");
    assert_eq!(run(&mut watch, 52, &[[4, 9, 4]; 9]), [(52, 1, false)]);
}

#[test]
fn where_all_are_slow_or_nobody_else_is_there_none_is_left() {
    let mut watch = Watch::of(3, None);
    assert!(run(&mut watch, 0, &[[60, 150, 50]; 20]).is_empty(), "the machine is busy");
    assert!(run(&mut watch, 20, &[[5, 39, 5]; 20]).is_empty(), "late, but not slow");
    assert!(run(&mut watch, 40, &[[0, 400, 0]; 20]).is_empty());
    // Left, and then the others go.
    assert_eq!(run(&mut watch, 60, &[[5, 400, 5]; 5]), [(65 - 1, 1, true)]);
    assert_eq!(run(&mut watch, 65, &[[5, 400, 0], [0, 400, 0]]), [(66, 1, false)]);
}

#[test]
fn one_that_starts_is_not_slow() {
    let mut watch = Watch::of(3, None);
    assert!(run(&mut watch, 0, &[[5, 300, 5]; 40]).is_empty());
    assert_eq!(run(&mut watch, 40, &[[5, 300, 5]; 9]), [(40, 1, true)], "it stays so");
    let mut watch = Watch::of(3, None);
    assert!(run(&mut watch, 0, &[[5, 300, 5], [5, 300, 5], [5, 5, 5], [5, 5, 5], [5, 5, 5]]).is_empty());
    assert_eq!(run(&mut watch, 5, &[[5, 300, 5]; 9]), [(7, 1, true)]);
    assert!(run(&mut watch, 14, &[[5, 0, 5], [5, 300, 5]]).is_empty());
}

#[test]
fn one_that_has_no_leader_while_another_has_is_left_at_once() {
    let mut watch = Watch::of(3, None);
    assert!(run(&mut watch, 0, &[[5, 6, 4]; 10]).is_empty());
    assert!(run(&mut watch, 10, &[[NONE; 3], [NONE; 3], [NONE, 5, 4], [6, 5, 4]]).is_empty(), "an election");
    assert_eq!(run(&mut watch, 14, &[[5, NONE, 4], [5, NONE, 4], [5, NONE, 4]]), [(15, 1, true)]);
    assert_eq!(run(&mut watch, 17, &[[5, 6, 4]; 40]), [(35, 1, false)], "when it has rested");
    // The other one was slow only, and is needed now.
    let mut watch = Watch::of(3, None);
    run(&mut watch, 0, &[[5, 6, 4]; 10]);
    assert_eq!(run(&mut watch, 10, &[[90, 6, 4]; 3]), [(12, 0, true)]);
    assert_eq!(run(&mut watch, 13, &[[30, NONE, 29], [30, NONE, 29]]), [(14, 1, true)]);
    assert_eq!(run(&mut watch, 15, &[[NONE, NONE, 5]; 9]), [], "one at a time");
    let mut watch = Watch::of(3, None);
    assert!(run(&mut watch, 0, &[[5, NONE, 5]; 9]).is_empty(), "it only starts, and had none yet");
    assert_eq!(run(&mut watch, 9, &[[5, NONE, 5]; 40]), [(40, 1, true)], "it stays so");
    // Between two towns.
    let mut watch = Watch::of(3, None);
    run(&mut watch, 0, &[[60, 70, 50]; 41]);
    assert_eq!(run(&mut watch, 41, &[[60, NONE, 50]; 9]), [(42, 1, true)]);
    let mut watch = Watch::of(3, Some(2));
    run(&mut watch, 0, &[[5, 6, 4]; 10]);
    assert_eq!(run(&mut watch, 10, &[[5, NONE, NONE]; 9]), [(11, 2, true)], "of its own only");
}

#[test]
fn a_master_with_a_member_of_its_own_weighs_that_one_only() {
    let mut watch = Watch::of(3, Some(2));
    assert!(run(&mut watch, 0, &[[5, 400, 5]; 9]).is_empty());
    assert!(run(&mut watch, 9, &[[5, 400, 90]; 9]).is_empty(), "another one is slow");
    assert!(run(&mut watch, 18, &[[8, 70, 82]; 20]).is_empty(), "both are late who ask the leader: machines are busy");
    assert_eq!(run(&mut watch, 38, &[[5, 9, 90]; 5]), [(40, 2, true)]);
    // It was another one that led, and was slow.
    assert_eq!(run(&mut watch, 43, &[[5, 400, 9]; 9]), [(46, 1, false)]);
    assert_eq!(run(&mut watch, 52, &[[5, 0, 90]; 5]), [(54, 2, true)], "one is not there");
}

#[test]
fn a_master_whose_own_member_has_no_leader_asks_nobody_else() {
    let mut watch = Watch::of(3, Some(2));
    run(&mut watch, 0, &[[5, 6, 4]; 10]);
    assert_eq!(run(&mut watch, 10, &[[0, 0, NONE]; 9]), [(11, 2, true)], "it is cut off from the others");
    assert_eq!(run(&mut watch, 19, &[[5, 6, 4]; 9]), [(19, 2, false)]);
    assert_eq!(run(&mut watch, 28, &[[NONE; 3]; 3]), [(29, 2, true)], "none has one");
    assert_eq!(run(&mut watch, 31, &[[5, 6, 4]; 9]), [(31, 2, false)], "all are back at once");
    assert!(run(&mut watch, 40, &[[NONE; 3], [5, 6, 4]]).is_empty(), "an election");
}

/// What a member's end may do, a connection for each question.
#[test]
fn what_comes_of_a_question() {
    use std::io::{Read, Write};
    let answer = |length: usize, said: &str| {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{said}")
    };
    let whole = |said: &str| answer(said.len(), said);
    let (agrees, led, leaderless) = (whole("{}"), whole(r#"{"leader":"77"}"#), whole(r#"{"leader":"0"}"#));
    let refuses = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_owned();
    let mute = "MUTE".to_owned();
    let huge = 2 << 20;
    let (quick, late) = (Look::Took(Duration::ZERO), Look::Took(PATIENCE));
    // What it says to one question after the other; whether it had no leader when it was asked last; what follows.
    for (said, was_leaderless, follows) in [
        (vec![agrees.clone()], false, quick),
        (vec![refuses.clone(), led.clone()], false, late),
        (vec![refuses.clone(), leaderless.clone()], false, Look::Leaderless),
        (vec![refuses.clone(), refuses.clone()], false, late),
        (vec![mute.clone(), led.clone()], false, late),
        (vec![mute.clone(), leaderless.clone()], false, Look::Leaderless),
        (vec![mute.clone(), mute.clone()], false, Look::Gone),
        (vec![leaderless], true, Look::Leaderless),
        (vec![led, agrees.clone()], true, quick),
        (vec![refuses, agrees], true, quick),
        (vec![mute.clone(), mute.clone(), mute.clone()], true, Look::Gone),
        (vec![answer(9, "cut")], false, Look::Gone),
        (vec![answer(huge, &"x".repeat(huge))], false, Look::Gone),
        (vec!["nothing that is HTTP\r\n\r\n".into()], false, Look::Gone),
        (vec![String::new()], false, Look::Gone),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        // Only silence has to end soon; whoever answers may be late on a machine that has other work.
        let patience = if said.contains(&mute) { ms(400) } else { ms(30_000) };
        let config = ureq::Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false);
        let member = Gateway { agent: config.build().into(), url };
        let shown: Vec<String> = said.iter().map(|s| s.chars().take(90).collect()).collect();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut held = Vec::new();
                for answer in said {
                    let (mut stream, _) = listener.accept().expect("asked");
                    let asked = stream.read(&mut [0; 1024]).expect("the question");
                    assert!(asked > 0);
                    if answer == "MUTE" {
                        held.push(stream);
                        continue;
                    }
                    // Whoever reads no further is told no more.
                    let _ = stream.write_all(answer.as_bytes());
                }
                // Until nobody waits any more.
                for mut stream in held {
                    let _ = stream.read(&mut [0; 1024]);
                }
            });
            let seen = match look(&member, PATIENCE, was_leaderless) {
                Look::Took(took) if took < PATIENCE => quick,
                other => other,
            };
            assert_eq!(seen, follows, "{shown:?}");
        });
    }
}

fn took() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0_u64..200, 1 => Just(NONE)]
}

proptest! {
    /// Whatever they take: one at a time is left, and for its time unless nobody else is there.
    #[test]
    fn one_at_a_time(rounds in prop::collection::vec([took(), took(), took()], 0..200)) {
        let mut watch = Watch::of(3, None);
        let mut left = None;
        for (round, member, leave) in run(&mut watch, 0, &rounds) {
            if leave {
                prop_assert_ne!(left.map(|(m, _)| m), Some(member));
                left = Some((member, round));
                continue;
            }
            let Some((m, since)) = left.take() else { return Err(TestCaseError::fail("nobody was left")) };
            prop_assert_eq!(m, member);
            let lately = |o: usize| {
                let mut looks = rounds[round.saturating_sub(LOOKS)..=round].iter();
                looks.any(|r| [0, NONE].contains(&r[o])) || round < LOOKS
            };
            let nobody = (0..3).filter(|o| *o != m).all(lately);
            prop_assert!(nobody || ms(500 * (round - since) as u64) >= REST);
        }
    }
}

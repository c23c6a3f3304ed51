use super::*;

/// A real frame takes microseconds; a machine under load has hiccups.
const SOON: Duration = Duration::from_secs(5);

fn frame(to: u8, from: u8, tag: u8) -> Vec<u8> {
    let mut f = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0];
    f.resize(60, tag);
    f
}

fn hear(end: &OwnedFd, bound: Duration) -> Option<Vec<u8>> {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    let timeout = TimeSpec::milliseconds(i64::try_from(bound.as_millis()).expect("short"));
    ppoll(&mut fds, Some(timeout), None).expect("polled");
    let mut buffer = vec![0; 2000];
    let n = recv(end.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
    buffer.truncate(n);
    Some(buffer)
}

fn say(end: &OwnedFd, frame: &[u8]) {
    send(end.as_raw_fd(), frame, MsgFlags::empty()).expect("sent");
}

#[test]
fn carries_cuts_pauses_and_writes_down() {
    let clock = Clock::new(1.0).expect("real time");
    let switch = Switch::new(clock, 1).expect("a switch");
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (switch.plug("a").expect("a cable"), switch.plug("b").expect("a cable"));
    switch.capture("b", &dir.path().join("b.pcap")).expect("begun");
    say(&a, &frame(2, 1, 7));
    assert_eq!(hear(&b, SOON).expect("heard"), frame(2, 1, 7));

    let cut = Faults { cut: true, ..Faults::default() };
    switch.set("a", cut.clone(), Faults::default()).expect("cut");
    say(&a, &frame(2, 1, 8));
    say(&b, &frame(1, 2, 9));
    assert_eq!(hear(&a, SOON).expect("the other way passes"), frame(1, 2, 9));
    switch.heal();
    say(&a, &frame(2, 1, 10));
    assert_eq!(hear(&b, SOON).expect("heard"), frame(2, 1, 10), "8 was lost for good");

    switch.pause();
    say(&a, &frame(2, 1, 11));
    assert_eq!(hear(&b, Duration::from_millis(50)), None);
    switch.resume();
    assert_eq!(hear(&b, SOON).expect("heard"), frame(2, 1, 11));

    let counters = &switch.counters()["a"];
    assert_eq!((counters.frames_in, counters.frames_out, counters.lost), (4, 1, 1));
    assert!(switch.set("c", cut, Faults::default()).expect_err("no such port").to_string().contains("a, b"));
    drop(switch);
    let capture = std::fs::read(dir.path().join("b.pcap")).expect("a capture");
    assert_eq!(capture.len(), 24 + 4 * (16 + 60), "a header, and four frames");
}

#[test]
fn delays_in_guest_time() {
    let clock = Clock::new(4.0).expect("dilated");
    let switch = Switch::new(clock, 1).expect("a switch");
    let (a, b) = (switch.plug("a").expect("a cable"), switch.plug("b").expect("a cable"));
    switch.set("b", Faults::default(), Faults { delay_ms: 20.0, ..Faults::default() }).expect("slow");
    let began = Instant::now();
    say(&a, &frame(2, 1, 1));
    hear(&b, SOON).expect("heard");
    assert!(began.elapsed() >= Duration::from_millis(80), "20 ms of the guest's are 80 of ours: {:?}", began.elapsed());
}

#[test]
fn a_machine_that_does_not_listen_loses_frames_and_holds_nobody_up() {
    let switch = Switch::new(Clock::new(1.0).expect("real time"), 1).expect("a switch");
    let (a, b) = (switch.plug("a").expect("a cable"), switch.plug("b").expect("a cable"));
    let deaf = switch.plug("deaf").expect("a cable");
    // What fits into its socket is the host's business; beyond it and the queue there must be an end.
    for i in 0.. {
        let mut f = frame(0xff, 1, u8::try_from(i % 256).expect("a byte"));
        f[..6].fill(0xff);
        f.resize(1500, 0);
        say(&a, &f);
        assert_eq!(hear(&b, SOON).expect("heard"), f);
        if switch.counters()["deaf"].overrun > 0 {
            break;
        }
        assert!(i < 100_000, "a queue without an end");
    }
    drop(deaf);
}

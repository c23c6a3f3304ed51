//! The node's voice: a virtio-serial port on which it tells its host what PID 1 says and how the boot goes, and hears a
//! few words ([`contract::voice`]). It lives in the process that hears of devices, because the port is one: it works
//! before there is a seed, a network or a log disk.
//!
//! Threads block on the port when nobody listens at its other end; nothing waits for them.

mod kmsg;
mod log;

use crate::channel::Channel;
use contract::control::{FromAgent, ShutdownKind, ToAgent};
use contract::paths::{BOOT_JSON, RUN};
use contract::voice::{FromNode, PORT, ToNode, WORD_MAX};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A port without a host at its other end reads as ended at once, and no event tells of a host that comes back: looked
/// for this seldom it costs nothing.
const NOBODY: Duration = Duration::from_millis(500);
/// The service that this is.
const OWN: &str = "devices";
/// There is one such port.
static SPEAKING: AtomicBool = AtomicBool::new(false);

/// The port, for all that write to it: a line at a time.
#[derive(Clone, Debug)]
pub(crate) struct Voice(Arc<Mutex<File>>);

impl Voice {
    /// Says something.
    pub(crate) fn say(&self, message: &FromNode) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

/// A port is there, `/sys/class/virtio-ports/vportNpM`: begins to speak when it is ours.
pub(crate) fn port(sysfs: &Path, channel: Channel) {
    let name = fs::read_to_string(sysfs.join("name")).unwrap_or_default();
    if name.trim() != PORT || SPEAKING.swap(true, Ordering::Relaxed) {
        return;
    }
    let Some(node) = sysfs.file_name() else { return };
    match File::options().read(true).write(true).open(Path::new("/dev").join(node)) {
        Ok(file) => speak(file, channel),
        Err(e) => eprintln!("the port to the host: {e}"),
    }
}

fn speak(file: File, channel: Channel) {
    let reader = match file.try_clone() {
        Ok(r) => r,
        Err(e) => return eprintln!("the port to the host: {e}"),
    };
    let voice = Voice(Arc::new(Mutex::new(file)));
    let said = voice.clone();
    std::thread::spawn(move || kmsg::tell(&said));
    let reports = voice.clone();
    std::thread::spawn(move || tell_reports(&reports));
    std::thread::spawn(move || hear(reader, &voice, channel));
}

/// The boot report now, and whenever PID 1 replaces it.
fn tell_reports(voice: &Voice) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(RUN, AddWatchFlags::IN_MOVED_TO)?;
    let name = Path::new(BOOT_JSON).file_name();
    loop {
        tell_report(voice)?;
        while !inotify.read_events()?.iter().any(|e| e.name.as_deref() == name) {}
    }
}

fn tell_report(voice: &Voice) -> io::Result<()> {
    let Ok(text) = fs::read(BOOT_JSON) else { return Ok(()) };
    voice.say(&FromNode::Report { report: serde_json::from_slice(&text)? })
}

/// The host's words. What is not understood is passed over: it may be newer than this image.
fn hear(port: File, voice: &Voice, channel: Channel) {
    let followed = log::Followed::default();
    let mut reader = BufReader::new(port);
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(WORD_MAX as u64).read_until(b'\n', &mut line) {
            Ok(n) if n > 0 => {}
            // Nobody is at the other end any more, and the port does not say when somebody is again.
            _ => {
                std::thread::sleep(NOBODY);
                continue;
            }
        }
        let shutdown = |kind| {
            let why = "the host asked for it".to_owned();
            channel.say(&FromAgent::Shutdown { kind, why })
        };
        let result = match ToNode::parse(&String::from_utf8_lossy(&line)) {
            Ok(ToNode::Hello) => {
                let again = voice.clone();
                std::thread::spawn(move || {
                    // The other end is gone: so is the reason to speak.
                    let _ = kmsg::tell_past(&again).and_then(|()| tell_report(&again));
                });
                Ok(())
            }
            Ok(ToNode::Log { id, service, lines, follow }) => {
                let (voice, followed) = (voice.clone(), followed.clone());
                let wanted = log::Wanted { id, service, lines, follow };
                std::thread::spawn(move || log::tell(&voice, &followed, &wanted));
                Ok(())
            }
            Ok(ToNode::Stop { id }) => {
                followed.stop(id);
                Ok(())
            }
            Ok(ToNode::Signal { id, service, signal }) if service == OWN => {
                // Afterwards there may be nobody to tell of it.
                let told =
                    voice.say(&FromNode::Done { id, problem: None }).map_err(|e| format!("the host's port: {e}"));
                told.and_then(|()| channel.say(&FromAgent::Signal { service, signal }))
            }
            Ok(ToNode::Signal { id, service, signal }) => {
                // PID 1 answers each, and says nothing else on this channel.
                channel.say(&FromAgent::Signal { service, signal }).and_then(|()| channel.hear()).and_then(|answer| {
                    let ToAgent::Signalled { problem } = answer else {
                        return Err(format!("PID 1 said {answer:?} of a signal"));
                    };
                    let voice = voice.clone();
                    std::thread::spawn(move || voice.say(&FromNode::Done { id, problem }));
                    Ok(())
                })
            }
            Ok(ToNode::Clock { seconds }) => channel.say(&FromAgent::Clock { seconds }),
            Ok(ToNode::Replan) => channel.say(&FromAgent::Replan),
            Ok(ToNode::Reboot) => shutdown(ShutdownKind::Reboot),
            Ok(ToNode::Poweroff) => shutdown(ShutdownKind::Poweroff),
            Err(why) => {
                eprintln!("the host said something else: {why}");
                Ok(())
            }
        };
        if let Err(e) = result {
            eprintln!("{e}");
            return;
        }
    }
}

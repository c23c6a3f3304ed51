//! A log, its end and what is added to it: of a service, whose files are those of the verb `log` (`logs.rs`), or of a container.

mod files;

use super::Voice;
use contract::check::is_label;
use contract::paths::{LOG, POD_LOGS};
use contract::voice::FromNode;
use files::{END, Places, end};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Logs that are followed at a time; each has a thread.
const FOLLOWED_MAX: usize = 16;

/// Logs that are followed: what is written to ends the thread that follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed(Arc<Mutex<BTreeMap<u32, Arc<EventFd>>>>);

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) id: u32,
    pub(super) service: String,
    pub(super) lines: u32,
    pub(super) follow: bool,
}

impl Followed {
    fn begin(&self, id: u32) -> io::Result<Arc<EventFd>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= FOLLOWED_MAX || all.contains_key(&id) {
            return Err(io::Error::other(format!("{FOLLOWED_MAX} logs are followed already")));
        }
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        all.insert(id, Arc::clone(&stop));
        Ok(stop)
    }

    /// Nobody follows that any more.
    pub(super) fn stop(&self, id: u32) {
        if let Some(stop) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            // A counter that is full wakes just as well.
            let _ = stop.write(1);
        }
    }
}

/// Tells the last lines, and with `follow` those that come.
pub(super) fn tell(voice: &Voice, followed: &Followed, wanted: &Wanted) {
    let places = Places { services: LOG.into(), pods: POD_LOGS.into() };
    if let Err(e) = tell_from(&places, voice, followed, wanted) {
        let problem = Some(format!("the log of {}: {e}", wanted.service));
        // Whoever asked may be gone; then there is nobody to tell.
        let _ = voice.say(&FromNode::Done { id: wanted.id, problem });
    }
    followed.stop(wanted.id);
}

fn tell_from(places: &Places, voice: &Voice, followed: &Followed, wanted: &Wanted) -> io::Result<()> {
    let Wanted { id, service, lines, follow } = wanted;
    // The parser of words refuses others; this is the place where it would matter.
    if !is_label(service) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let log = places.find(service)?;
    // Watched before it is read: what is added meanwhile is told once, by its place in the file.
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(log.dir(), AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
    let mut all = Vec::new();
    let (mut at, mut open) = (0, None);
    for (run, path) in log.files() {
        let Ok(file) = File::open(path) else { continue };
        let (text, length) = end(&file, END)?;
        all.push(text);
        (at, open) = (length, Some((run, file)));
    }
    let text = all.concat();
    let text = String::from_utf8_lossy(&text);
    let from = text.lines().count().saturating_sub(usize::try_from(*lines).unwrap_or(usize::MAX));
    for line in text.lines().skip(from) {
        voice.say(&FromNode::Log { id: *id, line: line.into() })?;
    }
    voice.say(&FromNode::Done { id: *id, problem: None })?;
    if !follow {
        return Ok(());
    }
    let stop = followed.begin(*id)?;
    loop {
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        if fds[1].any().unwrap_or(true) {
            return Ok(());
        }
        inotify.read_events()?;
        // What was turned over is told to its end first: it goes by another name now.
        if let Some((_, file)) = &open {
            at = tell_new(file, at, voice, *id)?;
        }
        // Where that is all there is for a moment, the file of an earlier run is the last one: it was told.
        let Some((run, path)) = log.current() else { continue };
        let Ok(file) = File::open(path) else { continue };
        if open.as_ref().is_none_or(|(last, old)| run >= *last && inode(&file) != inode(old)) {
            at = tell_new(&file, 0, voice, *id)?;
            open = Some((run, file));
        }
    }
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().ok().map(|m| m.ino())
}

/// Tells whole lines from a position on; answers the position after them.
fn tell_new(mut file: &File, mut at: u64, voice: &Voice, id: u32) -> io::Result<u64> {
    file.seek(SeekFrom::Start(at))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
        at += line.len() as u64;
        let text = String::from_utf8_lossy(&line[..line.len() - 1]).into_owned();
        voice.say(&FromNode::Log { id, line: text })?;
        line.clear();
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn the_end_of_a_log_over_both_files_and_what_is_added() {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd = dir.path().join("log/etcd");
        fs::create_dir_all(&etcd).expect("made");
        fs::write(etcd.join("previous"), "1 a\n2 b\n").expect("written");
        fs::write(etcd.join("current"), "3 c\n").expect("written");
        let out = dir.path().join("out");
        let voice = Voice(Arc::new(Mutex::new(File::create(&out).expect("made"))));
        let followed = Followed::default();
        let places = Places { services: dir.path().join("log"), pods: dir.path().join("pods") };
        let wanted = |service: &str, follow| Wanted { id: 1, service: service.into(), lines: 2, follow };
        tell_from(&places, &voice, &followed, &wanted("etcd", false)).expect("told");
        let mut current = File::options().append(true).open(etcd.join("current")).expect("opened");
        current.write_all(b"4 d\n5 unfin").expect("written");
        let reader = File::open(etcd.join("current")).expect("opened");
        assert_eq!(tell_new(&reader, 4, &voice, 1).expect("told"), 8);
        let said = fs::read_to_string(&out).expect("read");
        let lines: Vec<&str> = said.lines().filter_map(|l| l.split("\"line\":").nth(1)).collect();
        assert_eq!(lines, [r#""2 b"}"#, r#""3 c"}"#, r#""4 d"}"#]);
        let e = tell_from(&places, &voice, &followed, &wanted("nginx", false)).expect_err("none").to_string();
        assert_eq!(e, "there is none; there are etcd");

        // One that follows ends when it is told to.
        let thread_followed = followed.clone();
        let follows = wanted("etcd", true);
        let thread = std::thread::spawn(move || tell_from(&places, &voice, &thread_followed, &follows));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while followed.0.lock().expect("unpoisoned").is_empty() {
            assert!(std::time::Instant::now() < deadline, "it never began");
            std::thread::yield_now();
        }
        followed.stop(1);
        thread.join().expect("ended").expect("in order");
    }

    #[test]
    fn a_container_that_runs_anew_is_followed_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let container = dir.path().join("pods/kube-system_kube-apiserver-a_uid/kube-apiserver");
        fs::create_dir_all(&container).expect("made");
        let write = |run: &str, line: &str| {
            let mut file = File::options().create(true).append(true).open(container.join(run)).expect("opened");
            writeln!(file, "{line}").expect("written");
        };
        write("0.log", "first");
        let out = dir.path().join("out");
        let voice = Voice(Arc::new(Mutex::new(File::create(&out).expect("made"))));
        let told = |line: &str| {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !fs::read_to_string(&out).expect("read").contains(line) {
                assert!(std::time::Instant::now() < deadline, "{line} was not told");
                std::thread::yield_now();
            }
        };
        let followed = Followed::default();
        let places = Places { services: dir.path().join("log"), pods: dir.path().join("pods") };
        let wanted = Wanted { id: 1, service: "kube-apiserver".into(), lines: 5, follow: true };
        let thread_followed = followed.clone();
        let thread = std::thread::spawn(move || tell_from(&places, &voice, &thread_followed, &wanted));
        told("first");
        write("0.log", "second");
        told("second");
        write("1.log", "third");
        told("third");
        // The kubelet turns it over, and something is written before there is another file.
        fs::rename(container.join("1.log"), container.join("1.log.20261129-120000")).expect("renamed");
        write("1.log.20261129-120000", "turned over");
        write("1.log", "fourth");
        told("fourth");
        followed.stop(1);
        thread.join().expect("ended").expect("in order");
        let said = fs::read_to_string(&out).expect("read");
        assert_eq!(said.matches("\"line\":").count(), 5, "{said}");
    }
}

//! A service's log, its end and what is added to it. The files are those of the verb `log` (`logs.rs`).

use super::Voice;
use contract::check::is_label;
use contract::paths::LOG;
use contract::voice::FromNode;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

/// Tells the last lines, and with `follow` those that come.
pub(super) fn tell(voice: &Voice, service: &str, lines: u32, follow: bool) {
    if let Err(e) = tell_from(Path::new(LOG), voice, service, lines, follow) {
        // Whoever asked may be gone; then there is nobody to tell.
        let problem = Some(format!("the log of {service}: {e}"));
        let _ = voice.say(&FromNode::LogEnd { service: service.into(), problem });
    }
}

fn tell_from(root: &Path, voice: &Voice, service: &str, lines: u32, follow: bool) -> io::Result<()> {
    // The parser of words refuses others; this is the place where it would matter.
    if !is_label(service) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let dir = root.join(service);
    if !dir.exists() {
        let known: Vec<String> =
            fs::read_dir(root)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        let text = format!("there is none; there are {}", known.join(", "));
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    // Watched before it is read: what is added meanwhile is told once, by its place in the file.
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(&dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
    let mut all = Vec::new();
    for name in ["previous", "current"] {
        if let Ok(text) = fs::read(dir.join(name)) {
            all.push(text);
        }
    }
    let mut at = all.last().map_or(0, Vec::len) as u64;
    let text = all.concat();
    let text = String::from_utf8_lossy(&text);
    let from = text.lines().count().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
    for line in text.lines().skip(from) {
        voice.say(&FromNode::Log { service: service.into(), line: line.into() })?;
    }
    voice.say(&FromNode::LogEnd { service: service.into(), problem: None })?;
    if !follow {
        return Ok(());
    }
    loop {
        inotify.read_events()?;
        at = tell_new(&dir.join("current"), at, voice, service)?;
    }
}

/// Tells whole lines from a position on; answers the position after them.
fn tell_new(path: &Path, at: u64, voice: &Voice, service: &str) -> io::Result<u64> {
    let Ok(mut file) = File::open(path) else { return Ok(0) };
    // A shorter file is another one: the log was turned over.
    let mut at = if file.metadata()?.len() < at { 0 } else { at };
    file.seek(SeekFrom::Start(at))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
        at += line.len() as u64;
        let text = String::from_utf8_lossy(&line[..line.len() - 1]).into_owned();
        voice.say(&FromNode::Log { service: service.into(), line: text })?;
        line.clear();
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[test]
    fn the_end_of_a_log_over_both_files_and_what_is_added() {
        let dir = tempfile::tempdir().expect("a directory");
        let etcd = dir.path().join("log/etcd");
        fs::create_dir_all(&etcd).expect("made");
        fs::write(etcd.join("previous"), "1 a\n2 b\n").expect("written");
        fs::write(etcd.join("current"), "3 c\n").expect("written");
        let out = dir.path().join("out");
        let voice = Voice(Arc::new(Mutex::new(File::create(&out).expect("made"))));
        tell_from(&dir.path().join("log"), &voice, "etcd", 2, false).expect("told");
        let mut current = File::options().append(true).open(etcd.join("current")).expect("opened");
        current.write_all(b"4 d\n5 unfin").expect("written");
        assert_eq!(tell_new(&etcd.join("current"), 4, &voice, "etcd").expect("told"), 8);
        let said = fs::read_to_string(&out).expect("read");
        let lines: Vec<&str> = said.lines().filter_map(|l| l.split("\"line\":").nth(1)).collect();
        assert_eq!(lines, [r#""2 b"}"#, r#""3 c"}"#, r#""4 d"}"#]);
        let e = tell_from(&dir.path().join("log"), &voice, "nginx", 2, false).expect_err("none").to_string();
        assert_eq!(e, "there is none; there are etcd");
    }
}

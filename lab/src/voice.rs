//! The host's end of a node's voice ([`contract::voice`]): what the node said, and a way to ask it.

use anyhow::{Context, Result};
use contract::report::BootReport;
use contract::voice::{FromNode, LINE_MAX, ServiceSignal, ToNode};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whoever follows a log is asked this often whether it still does, host time.
const IDLE: Duration = Duration::from_millis(500);
/// Lines of one node that are kept; a node that talks without end must not fill this process' memory.
const KEPT: usize = 100_000;
/// ... and of each so many bytes: the kernel's records and etcd's lines are shorter.
const TEXT_MAX: usize = 16 << 10;

/// A line of PID 1's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Guest's milliseconds since kernel start.
    pub ms: u64,
    /// Without the `quorate: ` in front.
    pub text: String,
    /// When it arrived here.
    pub heard: Instant,
}

#[derive(Debug, Default)]
struct Heard {
    lines: Vec<Line>,
    report: Option<BootReport>,
    /// Answers by the id of the request; taken away by whoever asked.
    answers: BTreeMap<u32, VecDeque<Result<String, Option<String>>>>,
    last_id: u32,
    /// It was asked to tell everything once more: what is known already is passed over.
    again: bool,
    ended: bool,
}

/// What a node said so far.
#[derive(Clone, Debug, Default)]
pub struct Voice {
    heard: Arc<(Mutex<Heard>, Condvar)>,
    writer: Option<Arc<Mutex<UnixStream>>>,
}

impl Voice {
    /// Follows a port.
    pub(crate) fn follow(port: UnixStream) -> Result<Self> {
        let reader = port.try_clone().context("the voice port")?;
        // A guest that does not read must not hold this process up; words are few and short.
        port.set_write_timeout(Some(Duration::from_secs(1)))?;
        let voice = Self { heard: Arc::default(), writer: Some(Arc::new(Mutex::new(port))) };
        let heard = Arc::clone(&voice.heard);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                // What is no message: a node newer than this program, or one in trouble; its console has the words.
                if let Ok(message) = serde_json::from_slice(&line) {
                    lock(&heard.0).take_in(message);
                }
                line.clear();
                heard.1.notify_all();
            }
            lock(&heard.0).ended = true;
            heard.1.notify_all();
        });
        Ok(voice)
    }

    /// Says something to the node.
    pub fn say(&self, word: &ToNode) -> Result<()> {
        lock(&self.heard.0).again |= *word == ToNode::Hello;
        let writer = self.writer.as_ref().context("this node has no voice port")?;
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(writer, "{word}").context("speaking to the node")
    }

    /// The lines from a position on.
    pub fn lines(&self, from: usize) -> Vec<Line> {
        lock(&self.heard.0).lines.get(from..).unwrap_or_default().to_vec()
    }

    /// The last boot report.
    pub fn report(&self) -> Option<BootReport> {
        lock(&self.heard.0).report.clone()
    }

    /// Waits, at most so long in host time, for a boot report.
    pub(crate) fn wait_for_report(&self, host: Duration) {
        let heard = lock(&self.heard.0);
        let waiting = self.heard.1.wait_timeout_while(heard, host, |h| h.report.is_none() && !h.ended);
        drop(waiting);
    }

    /// Waits, at most so long in host time, until there are more lines than `from`; answers them and whether the node's
    /// machine has ended.
    pub fn wait(&self, from: usize, host: Duration) -> (Vec<Line>, bool) {
        let heard = lock(&self.heard.0);
        let (heard, _) = self
            .heard
            .1
            .wait_timeout_while(heard, host, |h| h.lines.len() <= from && !h.ended)
            .unwrap_or_else(PoisonError::into_inner);
        (heard.lines.get(from..).unwrap_or_default().to_vec(), heard.ended)
    }

    /// Asks for a service's log and hands each line to `line` until the answer is complete, or without end with `follow`;
    /// `line` answers whether to go on, and is asked so with an empty line now and then. `bound` is for the answer, in host time.
    pub fn log(
        &self,
        service: &str,
        lines: u32,
        follow: bool,
        bound: Duration,
        mut line: impl FnMut(&str) -> bool,
    ) -> Result<()> {
        let id = self.request();
        let result = self
            .say(&ToNode::Log { id, service: service.into(), lines, follow })
            .and_then(|()| self.answer(id, follow, bound, &mut line));
        lock(&self.heard.0).answers.remove(&id);
        if follow {
            // A node that is gone follows nothing any more.
            let _ = self.say(&ToNode::Stop { id });
        }
        result
    }

    /// Has a signal sent to a service's processes, and waits, at most so long in host time, until they have it.
    pub fn signal(&self, service: &str, signal: ServiceSignal, bound: Duration) -> Result<()> {
        let id = self.request();
        let result = self
            .say(&ToNode::Signal { id, service: service.into(), signal })
            .and_then(|()| self.answer(id, false, bound, &mut |_| true));
        lock(&self.heard.0).answers.remove(&id);
        result
    }

    /// A new request's id; its answers are kept from now on.
    fn request(&self) -> u32 {
        let mut heard = lock(&self.heard.0);
        heard.last_id += 1;
        let id = heard.last_id;
        heard.answers.insert(id, VecDeque::new());
        id
    }

    fn answer(&self, id: u32, follow: bool, bound: Duration, line: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + bound;
        let mut answered = false;
        loop {
            let mut heard = lock(&self.heard.0);
            let message = heard.answers.get_mut(&id).and_then(VecDeque::pop_front);
            match message {
                Some(Ok(text)) => {
                    drop(heard);
                    if !line(&text) {
                        return Ok(());
                    }
                }
                Some(Err(Some(problem))) => anyhow::bail!("{problem}"),
                Some(Err(None)) if follow => answered = true,
                Some(Err(None)) => return Ok(()),
                None => {
                    anyhow::ensure!(!heard.ended, "the node's machine has ended");
                    let left = if answered { IDLE } else { deadline.saturating_duration_since(Instant::now()) };
                    anyhow::ensure!(!left.is_zero(), "the node does not answer on its port (has it started?)");
                    drop(self.heard.1.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner));
                    if answered && !line("") {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Heard {
    fn take_in(&mut self, message: FromNode) {
        match message {
            FromNode::Said { ms, mut text } => {
                text.truncate(text.floor_char_boundary(TEXT_MAX));
                let known = self.again && self.lines.iter().any(|l| l.ms == ms && l.text == text);
                if !known && self.lines.len() < KEPT {
                    self.lines.push(Line { ms, text, heard: Instant::now() });
                }
            }
            FromNode::Report { report } => self.report = Some(*report),
            FromNode::Log { id, mut line } => {
                line.truncate(line.floor_char_boundary(TEXT_MAX));
                self.answered(id, Ok(line));
            }
            FromNode::Done { id, problem } => self.answered(id, Err(problem)),
        }
    }

    /// What nobody waits for any more is passed over.
    fn answered(&mut self, id: u32, what: Result<String, Option<String>>) {
        if let Some(answers) = self.answers.get_mut(&id).filter(|a| a.len() < KEPT) {
            answers.push_back(what);
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn hears_and_asks() {
        let (ours, mut node) = UnixStream::pair().expect("a pair");
        let voice = Voice::follow(ours).expect("followed");
        voice.say(&ToNode::Hello).expect("said");
        for line in
            [r#"{"say":"said","ms":5,"text":"mounts ok"}"#, "no json", r#"{"say":"said","ms":5,"text":"mounts ok"}"#]
        {
            writeln!(node, "{line}").expect("said");
        }
        let (lines, ended) = voice.wait(0, SOON);
        assert_eq!((lines.len(), lines[0].ms, &*lines[0].text, ended), (1, 5, "mounts ok", false));
        let answers = std::thread::spawn(move || {
            let mut word = String::new();
            let mut words = BufReader::new(node.try_clone().expect("cloned"));
            words.read_line(&mut word).and_then(|_| words.read_line(&mut word)).expect("heard");
            writeln!(node, r#"{{"say":"log","id":1,"line":"1 a"}}"#).expect("said");
            writeln!(node, r#"{{"say":"done","id":1,"problem":null}}"#).expect("said");
            for problem in ["null", r#""etcd does not run""#] {
                words.read_line(&mut word).expect("heard");
                let id = if problem == "null" { 2 } else { 3 };
                writeln!(node, r#"{{"say":"done","id":{id},"problem":{problem}}}"#).expect("said");
            }
            word
        });
        let mut told = Vec::new();
        voice
            .log("etcd", 10, false, SOON, |l| {
                told.push(l.to_owned());
                true
            })
            .expect("answered");
        voice.signal("etcd", ServiceSignal::Kill, SOON).expect("it has it");
        let problem = voice.signal("etcd", ServiceSignal::Kill, SOON).expect_err("nobody has it");
        assert_eq!(problem.to_string(), "etcd does not run");
        assert_eq!(
            (told, answers.join().expect("ended")),
            (vec!["1 a".to_owned()], "hello\nlog 1 etcd 10\nsignal 2 etcd kill\nsignal 3 etcd kill\n".to_owned())
        );
        assert!(voice.wait(1, SOON).1, "the machine ended");
    }
}

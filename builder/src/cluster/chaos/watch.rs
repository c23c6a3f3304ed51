//! The watch that is held while something is done: it goes on from the version that it saw last, whenever it is cut, and must
//! be told of each write that was acknowledged, in order.
//!
//! Shapes and errors of a watch: Kubernetes' "API concepts", "Efficient detection of changes".

use super::measure::PATH;
use anyhow::{Context, Result};
use lab::clock::Clock;
use lab::probe::api::{Client, Held};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What the last write writes instead of a number.
pub(super) const END: &str = "end";
/// It is opened anew after this: one whose other end is gone hears nothing of it. Guest time.
const WATCHED: Duration = Duration::from_secs(6);
/// Writers write all the time: who hears nothing for so long is cut off. Guest time.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two tries to open it, guest time.
const REOPEN: Duration = Duration::from_millis(50);
/// The version is compacted (HTTP's Gone).
const GONE: u16 = 410;
/// An event is a small object; what is longer without an end of line is none.
const LINE_MAX: usize = 1 << 20;

/// What it was told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When it was cut, guest time since it was first opened.
    pub(super) cut: Vec<Duration>,
    /// How often it began anew.
    pub(super) anew: usize,
    /// Of each object.
    numbers: BTreeMap<String, BTreeSet<u64>>,
    /// Of each object, from where on it is to have seen all: the number that was there when it began, or began anew.
    since: BTreeMap<String, u64>,
    /// Of each object, up to where it need not have: it began anew then.
    blind: BTreeMap<String, u64>,
    wrong: Vec<String>,
    /// From where it goes on.
    version: Option<String>,
    /// Of a line whose end was not there yet.
    rest: Vec<u8>,
    ended: bool,
}

/// Until the last write, or until it is `over`.
pub(super) fn hold(client: &Client, clock: Clock, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let began = Instant::now();
    while !seen.ended && !over.load(Ordering::Relaxed) {
        match seen.open(client, clock) {
            // It went on as long as it was to.
            Ok(held) if held.silence < SILENCE && held.lasted >= WATCHED.mul_f64(0.95) => {}
            Ok(_) if seen.ended => {}
            Ok(_) => seen.cut.push(clock.guest(began.elapsed())),
            // Nobody is there who could be asked.
            Err(_) => std::thread::sleep(clock.host(REOPEN)),
        }
    }
    seen
}

impl Seen {
    fn open(&mut self, client: &Client, clock: Clock) -> Result<Held> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list(&client.get(PATH)?)?,
        };
        self.rest.clear();
        let path = format!("{PATH}?watch=true&resourceVersion={version}");
        let held = client.follow(&path, clock, WATCHED, |bytes| {
            self.take(bytes);
            self.ended
        })?;
        if held.status == GONE {
            self.begin_anew();
        }
        anyhow::ensure!(held.status == 200, "the watch answered {}", held.status);
        Ok(held)
    }

    fn begin_anew(&mut self) {
        self.version = None;
        self.anew += 1;
    }

    /// What is there now: numbers up to these are not waited for.
    fn list(&mut self, text: &str) -> Result<String> {
        let list: Value = serde_json::from_str(text)?;
        for object in list["items"].as_array().context("no items")? {
            let Some((name, n)) = numbered(object) else { continue };
            if let Ok(n) = n.parse() {
                self.since.entry(name.clone()).or_insert(n);
                self.blind.insert(name, n);
            }
        }
        let version = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?.to_owned();
        self.version = Some(version.clone());
        Ok(version)
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(event) => self.event(&event),
                Err(e) => self.wrong.push(format!("the watch said what is no event: {e}")),
            }
        }
        if self.rest.len() > LINE_MAX {
            self.wrong.push(format!("the watch said {LINE_MAX} bytes without an end of line"));
            self.rest.clear();
        }
    }

    fn event(&mut self, event: &Value) {
        let object = &event["object"];
        if event["type"] == "ERROR" {
            if object["code"] == GONE {
                self.begin_anew();
            }
            return;
        }
        if let Some(version) = object["metadata"]["resourceVersion"].as_str() {
            self.version = Some(version.to_owned());
        }
        let Some((name, n)) = numbered(object) else { return };
        if n == END {
            self.ended = true;
            return;
        }
        let Ok(n) = n.parse::<u64>() else { return };
        let seen = self.numbers.entry(name.clone()).or_default();
        if let Some(last) = seen.last().filter(|last| **last >= n) {
            self.wrong.push(format!("the watch was told of {name} = {n} after {last}"));
        }
        seen.insert(n);
    }

    /// Of the numbers that were acknowledged, those that it was not told of.
    pub(super) fn missed(&self, name: &str, acknowledged: &[u64]) -> Vec<String> {
        let none = BTreeSet::new();
        let seen = self.numbers.get(name).unwrap_or(&none);
        let (since, blind) = (self.since.get(name).copied(), self.blind.get(name).copied());
        if !self.ended || since.is_none() {
            // What it would have been told is not known; that it did not come to its end is told by `wrong`.
            return vec![];
        }
        // Who began anew was told of nothing in between, and knows it: that is what a list is for.
        let known = |n: u64| seen.contains(&n) || Some(n) <= since || (self.anew > 0 && Some(n) <= blind);
        let missed = acknowledged.iter().filter(|n| !known(**n));
        missed.map(|n| format!("the watch was never told of {name} = {n}, which was acknowledged")).collect()
    }

    /// What must not be said on any watch.
    pub(super) fn wrong(&self) -> Vec<String> {
        let silent = || vec!["the watch was not told of the last write".to_owned()];
        if self.ended { self.wrong.clone() } else { [self.wrong.clone(), silent()].concat() }
    }
}

/// Name and number of one of the writers' objects.
fn numbered(object: &Value) -> Option<(String, &str)> {
    let name = object["metadata"]["name"].as_str().filter(|n| n.starts_with("chaos-"))?;
    Some((name.to_owned(), object["data"]["n"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, n: &str, version: u64) -> String {
        let object =
            json!({ "metadata": { "name": name, "resourceVersion": version.to_string() }, "data": { "n": n } });
        json!({ "type": "MODIFIED", "object": object }).to_string() + "\n"
    }

    fn began() -> Seen {
        let mut seen = Seen::default();
        let item = json!({ "metadata": { "name": "chaos-0" }, "data": { "n": "2" } });
        let list = json!({ "metadata": { "resourceVersion": "10" }, "items": [item] });
        assert_eq!(seen.list(&list.to_string()).expect("a list"), "10");
        seen
    }

    #[test]
    fn each_acknowledged_write_must_have_been_told() {
        let mut seen = began();
        let text = event("chaos-0", "3", 11) + &event("other", "1", 12) + &event("chaos-0", "5", 13);
        // In pieces, as they come.
        text.as_bytes().chunks(7).for_each(|piece| seen.take(piece));
        assert_eq!(seen.version.as_deref(), Some("13"));
        assert!(seen.missed("chaos-0", &[1, 2, 3, 4, 5]).is_empty(), "it is not at its end");
        seen.take(event("chaos-0", END, 14).as_bytes());
        assert!(seen.ended);
        assert_eq!(
            seen.missed("chaos-0", &[1, 2, 3, 4, 5]),
            ["the watch was never told of chaos-0 = 4, which was acknowledged"]
        );
    }

    #[test]
    fn what_comes_again_is_told() {
        let mut seen = began();
        seen.take((event("chaos-0", "3", 11) + &event("chaos-0", "3", 11) + &event("chaos-0", END, 12)).as_bytes());
        assert_eq!(seen.wrong(), ["the watch was told of chaos-0 = 3 after 3"]);
    }

    #[test]
    fn who_begins_anew_knows_that_it_missed_something() {
        let mut seen = began();
        seen.take(b"{\"type\":\"ERROR\",\"object\":{\"code\":410}}\n");
        assert_eq!((seen.anew, seen.version.clone()), (1, None));
        let item = json!({ "metadata": { "name": "chaos-0" }, "data": { "n": "7" } });
        seen.list(&json!({ "metadata": { "resourceVersion": "20" }, "items": [item] }).to_string()).expect("a list");
        seen.take((event("chaos-0", "9", 21) + &event("chaos-0", END, 22)).as_bytes());
        assert_eq!(seen.missed("chaos-0", &[5, 7, 8, 9]).len(), 1, "8");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            let mut seen = Seen::default();
            seen.take(&bytes);
        }
    }
}

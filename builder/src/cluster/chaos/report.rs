//! What is kept of the rows that were run (`results.json` beside the cluster), and the table that is shown.

use super::measure::Figures;
use super::rows::Row;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of all rows, by name.
#[derive(Debug)]
pub(crate) struct Results {
    path: PathBuf,
    /// Of what is run now ([`Measured::subject`]).
    subject: String,
    rows: BTreeMap<String, Measured>,
}

/// Of one row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Digest of the cluster's description and images: another cluster, or other images, are to be measured anew.
    subject: String,
    /// How often it was run, with this subject.
    runs: u32,
    /// When last, seconds since the epoch.
    at: u64,
    /// How long it lasted, guest minutes, if that is one's to say ([`Row::is_long`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minutes: Option<u32>,
    /// Host seconds per guest second.
    dilation: f64,
    /// Of the last run.
    figures: Figures,
}

impl Results {
    /// What is there.
    pub(crate) fn read(dir: &Path, subject: &str) -> Result<Self> {
        let path = dir.join("results.json");
        let rows = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("reading {}; hint: remove it, and all rows are run", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        Ok(Self { path, subject: subject.into(), rows })
    }

    /// Of a row that was run with these images and this description.
    fn of(&self, row: &str) -> Option<&Measured> {
        self.rows.get(row).filter(|m| m.subject == self.subject)
    }

    /// Whether it was run, and for so many minutes if it is one that lasts.
    pub(crate) fn has(&self, row: &Row, minutes: u32) -> bool {
        self.of(row.name).is_some_and(|m| !row.is_long() || m.minutes >= Some(minutes))
    }

    /// Written at once: whoever is interrupted goes on from here.
    pub(crate) fn keep(&mut self, row: &Row, minutes: u32, dilation: f64, figures: Figures) -> Result<()> {
        let runs = self.of(row.name).map_or(0, |m| m.runs) + 1;
        let minutes = row.is_long().then_some(minutes);
        let subject = self.subject.clone();
        let at = now()?;
        self.rows.insert(row.name.into(), Measured { subject, runs, at, minutes, dilation, figures });
        crate::store::write_whole(&self.path, self.json()?.as_bytes())
    }

    pub(crate) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.rows)?)
    }

    /// Markdown, for people and for a README. Seconds of the guests' time.
    pub(crate) fn table(&self, rows: &[&Row]) -> String {
        let s = |ms: f64| format!("{:.2}", ms / 1000.0);
        let mut text =
            "| row | reads stood still | writes | failed of sent | begun later | and again | slowest | watch cut | noticed after | all ready after |\n\
                        |---|---|---|---|---|---|---|---|---|---|\n"
                .to_owned();
        for row in rows {
            let Some(Measured { figures: f, minutes, .. }) = self.of(row.name) else { continue };
            let minutes = minutes.map(|m| m.to_string()).unwrap_or_default();
            text += &format!(
                "| {} | {} s | {} s | {} of {} | {} | {} | {} s | {} | {} | {} s |\n",
                row.words(&minutes),
                s(f.read_gap_ms),
                s(f.write_gap_ms),
                f.reads_failed + f.writes_failed,
                f.reads + f.writes,
                if f.failed_new == 0 { "0".into() } else { format!("{}, to {} s", f.failed_new, s(f.failed_until_ms)) },
                f.failed_twice,
                s(f.slowest_ms),
                f.watch_cut,
                f.noticed_ms.map(|ms| format!("{} s", s(ms))).unwrap_or_default(),
                s(f.healthy_ms),
            );
        }
        text
    }

    /// What changed in rows in which nothing is done.
    pub(crate) fn alarms(&self, rows: &[&Row]) -> Vec<String> {
        let quiet = rows.iter().filter(|r| r.is_quiet()).filter_map(|r| self.of(r.name));
        quiet.flat_map(|m| m.figures.changed.clone()).collect()
    }

    /// What must never be.
    pub(crate) fn lost(&self, rows: &[&Row]) -> Vec<String> {
        let of = |row: &&Row| self.of(row.name).map(|m| m.figures.lost.clone()).unwrap_or_default();
        rows.iter().flat_map(of).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement has a date")]
fn now() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_lasted_too_short_is_run_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = Results::read(dir.path(), "one").expect("none yet");
        let row = super::super::rows::named(&["idle".into()]).expect("a row");
        results.keep(row[0], 10, 14.0, Figures::default()).expect("kept");
        assert_eq!([9, 10, 11].map(|m| results.has(row[0], m)), [true, true, false]);
        assert!(results.table(&row).contains("| nothing is done and nobody asks much, 10 minutes |"));
    }

    #[test]
    fn what_is_kept_is_shown_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = Results::read(dir.path(), "one").expect("none yet");
        let row = super::super::rows::named(&["lb-power".into()]).expect("a row");
        assert!(!results.has(row[0], 10) && results.table(&row).lines().count() == 2);
        let figures =
            Figures { read_gap_ms: 420.0, reads: 100, reads_failed: 1, lost: vec!["7".into()], ..Figures::default() };
        results.keep(row[0], 10, 14.0, figures.clone()).expect("kept");
        results.keep(row[0], 10, 14.0, figures).expect("kept");
        let other = Results::read(dir.path(), "other images").expect("read");
        assert!(!other.has(row[0], 10) && other.lost(&row).is_empty());
        let again = Results::read(dir.path(), "one").expect("read");
        assert_eq!(again.rows["lb-power"].runs, 2);
        assert!(again.has(row[0], 30), "it takes what it takes");
        let table = again.table(&row);
        assert!(table.contains("| the virtual IP's holder loses power | 0.42 s | 0.00 s | 1 of 100 |"), "{table}");
        assert_eq!(again.lost(&row), ["7"]);
        std::fs::write(dir.path().join("results.json"), "{").expect("torn");
        assert!(format!("{:#}", Results::read(dir.path(), "one").expect_err("torn")).contains("results.json; hint"));
    }
}

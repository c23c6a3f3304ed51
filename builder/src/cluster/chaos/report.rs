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

    pub(crate) fn has(&self, row: &str) -> bool {
        self.of(row).is_some()
    }

    /// Written at once: whoever is interrupted goes on from here.
    pub(crate) fn keep(&mut self, row: &str, dilation: f64, figures: Figures) -> Result<()> {
        let runs = self.of(row).map_or(0, |m| m.runs) + 1;
        let subject = self.subject.clone();
        let at = now()?;
        self.rows.insert(row.into(), Measured { subject, runs, at, dilation, figures });
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
            let Some(Measured { figures: f, .. }) = self.of(row.name) else { continue };
            text += &format!(
                "| {} | {} s | {} s | {} of {} | {} | {} | {} s | {} | {} | {} s |\n",
                row.what,
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
    fn what_is_kept_is_shown_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut results = Results::read(dir.path(), "one").expect("none yet");
        let row = super::super::rows::named(&["lb-power".into()]).expect("a row");
        assert!(!results.has("lb-power") && results.table(&row).lines().count() == 2);
        let figures =
            Figures { read_gap_ms: 420.0, reads: 100, reads_failed: 1, lost: vec!["7".into()], ..Figures::default() };
        results.keep("lb-power", 14.0, figures.clone()).expect("kept");
        results.keep("lb-power", 14.0, figures).expect("kept");
        let other = Results::read(dir.path(), "other images").expect("read");
        assert!(!other.has("lb-power") && other.lost(&row).is_empty());
        let again = Results::read(dir.path(), "one").expect("read");
        assert_eq!(again.rows["lb-power"].runs, 2);
        let table = again.table(&row);
        assert!(table.contains("| the virtual IP's holder loses power | 0.42 s | 0.00 s | 1 of 100 |"), "{table}");
        assert_eq!(again.lost(&row), ["7"]);
        std::fs::write(dir.path().join("results.json"), "{").expect("torn");
        assert!(format!("{:#}", Results::read(dir.path(), "one").expect_err("torn")).contains("results.json; hint"));
    }
}

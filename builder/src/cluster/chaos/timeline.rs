//! What happened, and what clients saw, on one axis: an SVG for each row that was run. Pure.
//!
//! Reads and writes are columns, as high as there were answers in that part of the time, and red where there were failures; the
//! longest time without an answer is shaded.

use super::measure::Told;
use crate::chart::{escaped, step};
use lab::probe::Record;
use std::fmt::Write;
use std::time::Duration;

/// Pixels.
const LABEL: u64 = 70;
const WIDTH: u64 = 1000;
const COLUMN: u64 = 4;
const LANE: u64 = 70;
const LINE: u64 = 14;
const MARGIN: u64 = 24;

/// Something that was done or noticed, and when, guest time since the clients began.
pub(super) type Mark = (Duration, String);

/// The picture.
pub(super) fn draw(title: &str, told: &Told, marks: &[Mark]) -> String {
    let last = ms(told.reads.lasted.max(told.writes.lasted)).max(1);
    let x = |at: Duration| LABEL + (ms(at) * WIDTH / last).min(WIDTH);
    let above = MARGIN + LINE * (marks.len() as u64 + 1);
    let lanes = [("reads", &told.reads), ("writes", &told.writes)];
    let bottom = above + LANE * lanes.len() as u64 + LINE * 2;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"4\" y=\"16\" font-weight=\"bold\">{}</text>\n",
        LABEL + WIDTH + 40,
        bottom + MARGIN,
        escaped(title)
    );
    for at in (0..=last).step_by(usize::try_from(step(last)).unwrap_or(1)) {
        let at = Duration::from_millis(at);
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" y1=\"{above}\" x2=\"{0}\" y2=\"{bottom}\" stroke=\"#eee\"/><text x=\"{0}\" y=\"{1}\" fill=\"#666\">{2:.1} s</text>",
            x(at),
            bottom + LINE,
            at.as_secs_f64()
        );
    }
    for (i, (name, record)) in lanes.iter().enumerate() {
        lane(&mut svg, name, record, above + LANE * i as u64, last);
    }
    let y = above + LANE * lanes.len() as u64;
    let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">watch cut</text>", y + LINE);
    for at in &told.cut {
        let _ =
            writeln!(svg, "<rect x=\"{}\" y=\"{}\" width=\"2\" height=\"{LINE}\" fill=\"#c1292e\"/>", x(*at), y + 4);
    }
    for (i, (at, what)) in marks.iter().enumerate() {
        let y = MARGIN + LINE * (i as u64 + 1);
        // What comes late has no room to its right.
        let anchor = if x(*at) > LABEL + WIDTH / 2 { "end" } else { "start" };
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" y1=\"{1}\" x2=\"{0}\" y2=\"{bottom}\" stroke=\"#222\" stroke-dasharray=\"2 3\"/>\
             <text x=\"{0}\" y=\"{y}\" text-anchor=\"{anchor}\">{2:.2} s {3}</text>",
            x(*at),
            y + 3,
            at.as_secs_f64(),
            escaped(what)
        );
    }
    svg + "</svg>\n"
}

fn lane(svg: &mut String, name: &str, record: &Record, y: u64, last: u64) {
    let mut columns = vec![(0_u64, 0_u64); usize::try_from(WIDTH / COLUMN).unwrap_or(0) + 1];
    for sample in &record.samples {
        let column = usize::try_from(ms(sample.ended) * WIDTH / last / COLUMN).unwrap_or(0);
        if let Some((answered, failed)) = columns.get_mut(column) {
            *(if sample.error.is_none() { answered } else { failed }) += 1;
        }
    }
    let most = columns.iter().map(|(a, f)| a + f).max().unwrap_or(0).max(1);
    let high = LANE - LINE;
    let (gap_at, gap) = record.longest_gap();
    let from = LABEL + ms(gap_at) * WIDTH / last;
    let _ = writeln!(
        svg,
        "<text x=\"4\" y=\"{}\">{name}</text><rect x=\"{from}\" y=\"{y}\" width=\"{}\" height=\"{LANE}\" fill=\"#f6d8ae\"/>\
         <text x=\"{from}\" y=\"{}\" fill=\"#666\">{:.2} s</text>",
        y + LANE - 4,
        (ms(gap) * WIDTH / last).max(1),
        y + 11,
        gap.as_secs_f64()
    );
    for (i, (answered, failed)) in columns.iter().enumerate() {
        let x = LABEL + i as u64 * COLUMN;
        let (up, red) = (answered * high / most, failed * high / most);
        let mut bar = |top: u64, height: u64, fill: &str| {
            if height > 0 {
                let width = COLUMN - 1;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"
                );
            }
        };
        bar(y + LANE - up, up, "#5c9ead");
        bar(y + LANE - up - red, if *failed > 0 { red.max(2) } else { 0 }, "#c1292e");
    }
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX / WIDTH)
}

#[cfg(test)]
mod tests {
    use super::super::measure::Figures;
    use super::*;
    use lab::probe::Sample;

    fn record(answers: &[u64], failed: &[u64]) -> Record {
        let sample = |at: &u64, error: Option<&str>| Sample {
            client: 0,
            sent: Duration::from_millis(at.saturating_sub(20)),
            ended: Duration::from_millis(*at),
            error: error.map(String::from),
        };
        let samples = answers.iter().map(|a| sample(a, None)).chain(failed.iter().map(|f| sample(f, Some("gone"))));
        let mut samples: Vec<_> = samples.collect();
        samples.sort_by_key(|s| s.ended);
        Record { samples, lasted: Duration::from_secs(4) }
    }

    #[test]
    fn a_picture() {
        let told = Told {
            figures: Figures::default(),
            reads: record(&[100, 110, 500, 1000, 2500, 3000, 3900], &[1300, 1310]),
            writes: record(&[400, 2600], &[]),
            cut: vec![Duration::from_millis(1400)],
        };
        let marks = [
            (Duration::from_millis(1200), "power off: lb-1".into()),
            (Duration::from_millis(3500), "all ready".into()),
        ];
        insta::assert_snapshot!(draw("a < b", &told, &marks));
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let told =
            Told { figures: Figures::default(), reads: Record::default(), writes: Record::default(), cut: vec![] };
        assert!(draw("", &told, &[]).ends_with("</svg>\n"));
    }
}

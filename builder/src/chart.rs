//! Where the time of a boot went: boot reports as one SVG on one time axis. Pure.
//!
//! A bar of a stage is what PID 1 itself did; a bar of a service goes from its start to its readiness, with a thin line from
//! the moment in which all it needs was there (nothing, when it started at once). The critical path is marked: the service
//! that was ready last, whichever of its needs came last, and so on.

use contract::report::BootReport;
use std::fmt::Write;

/// Pixels.
const LABEL: u64 = 190;
const WIDTH: u64 = 900;
const ROW: u64 = 16;
const MARGIN: u64 = 30;

/// A row of a node.
#[derive(Debug)]
struct Row<'a> {
    name: &'a str,
    start: u64,
    end: u64,
    is_stage: bool,
    is_critical: bool,
}

/// The chart of these nodes, by name.
pub(crate) fn draw(nodes: &[(String, BootReport)]) -> String {
    let rows: Vec<(&str, Vec<Row<'_>>)> = nodes.iter().map(|(n, r)| (n.as_str(), rows(r))).collect();
    let last = rows.iter().flat_map(|(_, r)| r).map(|r| r.end).max().unwrap_or(0).max(1);
    let x = |ms: u64| LABEL + ms * WIDTH / last;
    let height = MARGIN * 2 + rows.iter().map(|(_, r)| (r.len() as u64 + 2) * ROW).sum::<u64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LABEL + WIDTH + 120
    );
    let step = step(last);
    for ms in (0..=last).step_by(usize::try_from(step).unwrap_or(1)) {
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" y1=\"{MARGIN}\" x2=\"{0}\" y2=\"{1}\" stroke=\"#ddd\"/><text x=\"{0}\" y=\"{2}\" fill=\"#666\">{3:.1} s</text>",
            x(ms),
            height - MARGIN,
            MARGIN - 8,
            seconds(ms)
        );
    }
    let mut y = MARGIN;
    for (node, rows) in &rows {
        y += ROW;
        let _ = writeln!(svg, "<text x=\"4\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 12, escaped(node));
        for row in rows {
            y += ROW;
            let fill = if row.is_stage { "#9db4c0" } else { "#5c9ead" };
            let stroke = if row.is_critical { " stroke=\"#c1292e\" stroke-width=\"2\"" } else { "" };
            let width = x(row.end).saturating_sub(x(row.start)).max(1);
            let _ = writeln!(
                svg,
                "<text x=\"14\" y=\"{0}\">{1}</text><rect x=\"{2}\" y=\"{3}\" width=\"{width}\" height=\"{4}\" fill=\"{fill}\"{stroke}/>\
                 <text x=\"{5}\" y=\"{0}\" fill=\"#444\">{6} ms</text>",
                y + 12,
                escaped(row.name),
                x(row.start),
                y + 2,
                ROW - 4,
                x(row.end) + 4,
                row.end - row.start
            );
        }
        y += ROW;
    }
    svg + "</svg>\n"
}

#[expect(clippy::cast_precision_loss, reason = "a boot takes less than centuries")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// About ten lines, at 1, 2 or 5 times a power of ten.
pub(crate) fn step(last: u64) -> u64 {
    let steps = (2..8).flat_map(|e| [1, 2, 5].map(|n| n * 10_u64.pow(e)));
    steps.into_iter().find(|s| last / s <= 12).unwrap_or(10_000_000)
}

fn rows(report: &BootReport) -> Vec<Row<'_>> {
    let critical = critical(report);
    let stages = report.stages.iter().map(|s| Row {
        name: &s.name,
        start: s.start_ms,
        end: s.end_ms.max(s.start_ms),
        is_stage: true,
        is_critical: false,
    });
    let services = report.services.iter().filter_map(|s| {
        let (start, ready) = (s.start_ms?, s.ready_ms?);
        let is_critical = critical.contains(&s.name.as_str());
        Some(Row { name: &s.name, start, end: ready.max(start), is_stage: false, is_critical })
    });
    let mut rows: Vec<Row<'_>> = stages.chain(services).collect();
    rows.sort_by_key(|r| (r.start, r.end));
    rows
}

/// From the service that was ready last back to one that needed nothing.
fn critical(report: &BootReport) -> Vec<&str> {
    let ready = report.services.iter().filter(|s| s.ready_ms.is_some());
    let mut path = Vec::new();
    let mut at = ready.max_by_key(|s| s.ready_ms);
    while let Some(service) = at {
        if path.contains(&service.name.as_str()) {
            break;
        }
        path.push(&service.name);
        // Conditions are brought about by services too: the report says by which.
        let brings = |s: &&contract::report::ServiceReport| {
            service.needs.iter().any(|n| *n == s.name || s.provides.contains(n)) && s.ready_ms <= service.ready_ms
        };
        at = report.services.iter().filter(brings).max_by_key(|s| s.ready_ms);
    }
    path
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::report::{ServiceReport, Stage};

    fn service(name: &str, needs: &[&str], provides: &[&str], start: u64, ready: u64) -> ServiceReport {
        let own = |l: &[&str]| l.iter().map(ToString::to_string).collect();
        ServiceReport {
            name: name.into(),
            needs: own(needs),
            provides: own(provides),
            start_ms: Some(start),
            ready_ms: Some(ready),
            ..Default::default()
        }
    }

    fn report() -> BootReport {
        BootReport {
            stages: vec![Stage { name: "root <check>".into(), start_ms: 500, end_ms: 700 }],
            services: vec![
                service("network", &[], &["address"], 900, 1000),
                service("node", &["address"], &["pki"], 1000, 1100),
                service("containerd", &[], &[], 900, 1050),
                service("kubelet", &["containerd", "pki"], &[], 1100, 4000),
                service("chrony", &["address"], &[], 1000, 1001),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn a_chart() {
        assert_eq!(critical(&report()), ["kubelet", "node", "network"]);
        insta::assert_snapshot!(draw(&[("master-1".into(), report()), ("worker-1".into(), BootReport::default())]));
    }

    #[test]
    fn about_ten_lines() {
        for last in [1, 150, 999, 4000, 20_000, 600_000] {
            assert!((0..=12).contains(&(last / step(last))), "{last}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The page: the table and a bar for each side, in one file that loads nothing.

use std::fmt::Write as _;

use super::{
    Measured, Report,
    measured::{shown, shown_ratio},
};

/// Follows the reader's choice of dark or light, and scrolls the table and not the page on a narrow screen.
const STYLE: &str = "\
:root { color-scheme: light dark; --ours: light-dark(#1a5fb4, #78aeed); --theirs: light-dark(#b8b4ae, #6b6762); \
--line: light-dark(#ddd, #444); --ok: light-dark(#1c7a35, #6fce87); --fail: light-dark(#b3261e, #ff8a80); }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } p { margin: .4rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } .name, .why { text-align: left; } .why { white-space: normal; opacity: .75; }
svg { display: block; } .ours { fill: var(--ours); } .theirs { fill: var(--theirs); }
.ok { color: var(--ok); } .fail { color: var(--fail); font-weight: 600; } .skipped { opacity: .75; }
.key span { padding: 0 .5rem; margin-right: .3rem; } .key .ours { background: var(--ours); } \
.key .theirs { background: var(--theirs); }
";

/// Widest bar, in pixels.
const WIDTH: f64 = 160.0;

pub(super) fn page(report: &Report, title: &str) -> String {
    let title = escaped(title);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escaped(&report.machine.to_string())
    );
    text += "<p class=\"key\"><span class=\"ours\"></span>value <span class=\"theirs\"></span>baseline; \
             medians of n pairs, spread is the interquartile range over the median</p>\n\
             <div class=\"wide\">\n<table>\n<tr><th class=\"name\">row</th><th class=\"name\"></th><th>baseline</th>\
             <th>value</th><th class=\"name\">unit</th><th>ratio</th><th>spread</th><th>n</th><th>target</th>\
             <th>verdict</th></tr>\n";
    for measured in &report.rows {
        // Writing to a string cannot fail, here and below.
        let _ = row(&mut text, measured);
    }
    text += "</table>\n</div>\n";
    // Some benches have one for every row.
    for note in &report.notes {
        let _ = writeln!(text, "<p>{}</p>", escaped(note));
    }
    text + "</body>\n</html>\n"
}

fn row(text: &mut String, measured: &Measured) -> std::fmt::Result {
    let name = escaped(&measured.row().name);
    let pairs = match measured.pairs() {
        Ok(pairs) => pairs,
        Err(reason) => {
            return writeln!(
                text,
                "<tr><td class=\"name\">{name}</td><td class=\"why\" colspan=\"8\">{}</td>\
                 <td class=\"skipped\">skipped</td></tr>",
                escaped(&reason.to_string())
            );
        }
    };
    let verdict = measured.verdict().unwrap_or("-");
    writeln!(
        text,
        "<tr><td class=\"name\">{name}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"name\">{}</td><td>{}</td>\
         <td>{:.1} %</td><td>{}</td><td>{}</td><td class=\"{verdict}\">{verdict}</td></tr>",
        bars(pairs.baseline(), pairs.value()),
        shown(pairs.baseline()),
        shown(Some(pairs.value())),
        escaped(measured.row().unit),
        shown_ratio(measured.ratio()),
        pairs.spread(measured.row().compare) * 100.0,
        pairs.len(),
        escaped(&measured.target().unwrap_or_else(|| "-".to_owned())),
    )
}

/// Value above baseline, the longer of them as wide as there is room.
fn bars(baseline: Option<f64>, value: f64) -> String {
    let longest = value.max(baseline.unwrap_or(0.0));
    let width = |number: f64| match number / longest * WIDTH {
        width if width.is_finite() => width.clamp(0.0, WIDTH),
        _ => 0.0,
    };
    let theirs = baseline.map_or_else(String::new, |baseline| {
        format!(
            "<rect class=\"theirs\" y=\"9\" width=\"{:.1}\" height=\"7\"/>",
            width(baseline)
        )
    });
    format!(
        "<svg width=\"{WIDTH}\" height=\"16\" aria-hidden=\"true\">\
         <rect class=\"ours\" width=\"{:.1}\" height=\"7\"/>{theirs}</svg>",
        width(value)
    )
}

/// As text between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Bench, Compare, Row, Skipped};

    #[test]
    fn a_page_has_every_row_and_no_text_of_others_as_tags() {
        let row = |name: &str| Row {
            name: name.to_owned(),
            unit: "ns",
            bytes: None,
            compare: Compare::Limit,
            target: Some(60.0),
        };
        let mut bench = Bench::full(1);
        bench.measure(row("one <b>"), Some(&mut || Ok(4.0)), &mut || Ok(2.0));
        bench.measure(row("two"), None, &mut || Err(Skipped::for_reason("a & b")));
        let mut report = bench.finish();
        report.notes.push("1 < 2".to_owned());
        let page = report.page("title");
        for part in [
            "one &lt;b&gt;",
            "a &amp; b",
            "1 &lt; 2",
            "&lt;= 60 ns",
            "two",
        ] {
            assert!(page.contains(part), "{part} is missing from {page}");
        }
        for part in ["<b>", "http", "src=", "NaN", "inf"] {
            assert!(!page.contains(part), "{part} is in {page}");
        }
    }

    #[test]
    fn bars_have_a_width_whatever_the_numbers_are() {
        for (baseline, value) in [
            (None, 0.0),
            (Some(0.0), 0.0),
            (Some(f64::NAN), f64::INFINITY),
        ] {
            assert!(bars(baseline, value).contains("width=\"0.0\""));
        }
        assert!(bars(Some(2.0), 1.0).contains("width=\"80.0\""));
    }
}

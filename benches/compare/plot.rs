//! The ratios to the host filesystem as a picture: for each row a bar for AmberFS and one for bindfs, on a
//! logarithmic scale, to the right of the line at one where they are faster than the host.

use std::fmt::Write as _;

use crate::report::Outcome;
use crate::rows::{Base, ROWS, Row};

const LABELS: f64 = 190.0;
const WIDTH: f64 = 560.0;
const LINE: f64 = 26.0;
const TOP: f64 = 64.0;
/// The ratios at the ends of the scale; what is beyond is drawn at the end, with its number.
const LEAST: f64 = 0.05;
const MOST: f64 = 20.0;
const MARKS: [f64; 9] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
/// The targets that are drawn, with their colours: two that differ in lightness too.
const DRAWN: [(&str, &str); 2] = [("amberfs", "#d97706"), ("bindfs", "#9ca3af")];

fn x(ratio: f64) -> f64 {
    LABELS + WIDTH * (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln()
}

/// Returns the picture as SVG.
pub(crate) fn svg(outcome: &Outcome) -> String {
    let drawn = |row: &&Row| {
        let there = |(name, _): &(&'static str, _)| outcome.figures.reached(row, name).is_some();
        row.base == Base::Host && DRAWN.iter().any(there)
    };
    let rows: Vec<&Row> = ROWS.iter().filter(drawn).collect();
    let (width, bottom) = (LABELS + WIDTH + 50.0, TOP + LINE * rows.len() as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LABELS}\" y=\"20\" font-size=\"14\">Speed as a ratio to the host \
         filesystem's; more is better</text>\n",
        height = bottom + 30.0
    );
    for (index, (name, colour)) in DRAWN.into_iter().enumerate() {
        let at = LABELS + 100.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{at}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"42\">{name}</text>",
            at + 18.0
        );
    }
    for mark in MARKS {
        let colour = if mark == 1.0 { "#111827" } else { "#e5e7eb" };
        let at = x(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>",
            bottom + 18.0
        );
    }
    for (index, row) in rows.into_iter().enumerate() {
        bars(&mut svg, outcome, row, TOP + LINE * index as f64);
    }
    svg + "</svg>\n"
}

fn bars(svg: &mut String, outcome: &Outcome, row: &Row, top: f64) {
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LABELS - 10.0,
        top + 17.0,
        row.name
    );
    for (index, (name, colour)) in DRAWN.into_iter().enumerate() {
        let Some(ratio) = outcome.figures.reached(row, name) else { continue };
        let (from, to) = (x(ratio.min(1.0)), x(ratio.max(1.0)));
        let y = top + 3.0 + 10.0 * index as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"9\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" font-size=\"9\">{ratio:.2}</text>",
            (to - from).max(1.0),
            to + 4.0,
            y + 8.0
        );
    }
}

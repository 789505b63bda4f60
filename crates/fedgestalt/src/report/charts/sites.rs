//! Retention against the number of sites: a line per method.

use crate::report::{
    axis::{Scale, Ticks},
    charts::colour,
    format::decimal,
    svg::{Anchor, Canvas, Markup},
};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = HEIGHT - 42.0;
const RIGHT: f64 = WIDTH - 14.0;
/// Lines stand beside each other by so much, so that their spreads can be told apart.
const APART: f64 = 5.0;

/// A method's line.
pub(in crate::report) struct SiteLine<'a> {
    pub(in crate::report) name: &'a str,
    /// Per number of sites: value and spread, NaN where there is none.
    pub(in crate::report) points: Vec<(f64, f64)>,
}

/// One chart of percentages over numbers of sites, which stand at equal distances. `bounds` of the axis are given so that
/// charts beside each other can be compared.
pub(in crate::report) fn by_sites(
    id: &str,
    title: &str,
    sites: &[u16],
    lines: &[SiteLine<'_>],
    bounds: (f64, f64),
) -> Markup {
    let ticks = Ticks::covering(bounds.0, bounds.1, 5);
    let y = Scale::new(ticks.bounds(), (BOTTOM, TOP));
    let margin = 0.5 * (RIGHT - LEFT) / sites.len().max(1) as f64;
    let last = sites.len().saturating_sub(1) as f64;
    let x = Scale::new((0.0, last), (LEFT + margin, RIGHT - margin));
    let mut canvas = Canvas::new(WIDTH, HEIGHT);
    canvas.text("chart-title", (0.0, 14.0), Anchor::Start, title);
    for &tick in &ticks.values {
        let class = if tick == 100.0 { "reference" } else { "grid" };
        canvas.line(class, (LEFT, y.at(tick)), (RIGHT, y.at(tick)));
        let label = decimal(tick, ticks.digits);
        canvas.text("tick", (LEFT - 8.0, y.at(tick) + 4.0), Anchor::End, &label);
    }
    for (at, number) in sites.iter().enumerate() {
        let place = (x.at(at as f64), BOTTOM + 20.0);
        canvas.text("tick", place, Anchor::Middle, &number.to_string());
    }
    canvas.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
    canvas.text("tick", (RIGHT, BOTTOM + 37.0), Anchor::End, "sites");
    let mut said = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let aside = APART * (number as f64 - 0.5 * (lines.len() as f64 - 1.0));
        let places: Vec<(f64, f64)> = (line.points.iter().enumerate())
            .map(|(at, (value, _))| (x.at(at as f64) + aside, y.at(*value)))
            .collect();
        let class = colour(number);
        canvas.polyline(&format!("curve method {class}"), &places, line.name);
        for ((&(value, spread), &place), sites) in line.points.iter().zip(&places).zip(sites) {
            let class = format!("whisker {class}");
            canvas.line(&class, (place.0, y.at(value - spread)), (place.0, y.at(value + spread)));
            let hint = format!("{}, {sites} sites: {}", line.name, with_spread(value, spread));
            canvas.circle(&format!("dot method {}", colour(number)), place, 3.6, &hint);
        }
        let values: Vec<String> = (line.points.iter().zip(sites))
            .map(|((value, spread), sites)| format!("{sites} sites {}", with_spread(*value, *spread)))
            .collect();
        said.push(format!("{}: {}", line.name, values.join(", ")));
    }
    canvas.finish(id, title, &format!("{}.", said.join("; ")))
}

fn with_spread(value: f64, spread: f64) -> String {
    match spread.is_finite() {
        true => format!("{} ± {}", decimal(value, 1), decimal(spread, 1)),
        false => decimal(value, 1),
    }
}

/// A short piece of a method's line for the key.
pub(in crate::report) fn method_swatch(number: usize) -> Markup {
    let mut canvas = Canvas::new(24.0, 12.0);
    canvas.polyline(&format!("curve method {}", colour(number)), &[(1.0, 6.0), (23.0, 6.0)], "");
    canvas.circle(&format!("dot method {}", colour(number)), (12.0, 6.0), 3.6, "");
    canvas.ornament("swatch")
}

//! Training curves: sites thin, the global model thick, centralised training dashed.

use crate::report::{
    Curves, Series,
    axis::{Scale, Ticks, extent},
    charts::colour,
    format::{NONE, decimal},
    svg::{Anchor, Canvas, Markup},
};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 44.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = HEIGHT - 42.0;
const PLOT_RIGHT: f64 = WIDTH - 10.0;

/// What a chart of curves shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum CurveKind {
    Loss,
    Accuracy,
}

impl CurveKind {
    /// Title of the chart.
    pub(in crate::report) fn title(self) -> &'static str {
        match self {
            Self::Loss => "Training loss",
            Self::Accuracy => "Validation accuracy, %",
        }
    }

    /// Decimals worth printing.
    pub(in crate::report) fn digits(self) -> usize {
        match self {
            Self::Loss => 3,
            Self::Accuracy => 1,
        }
    }
}

/// One chart, or `None` if no line has a point to draw. `rounds_at` are the epochs of aggregations.
pub(in crate::report) fn curves(
    id: &str,
    kind: CurveKind,
    member: &str,
    curves: &Curves,
    rounds_at: &[f64],
) -> Option<Markup> {
    let lines: Vec<&Series> = curves.sites.iter().chain(&curves.global).chain(&curves.central).collect();
    let points = || lines.iter().flat_map(|s| &s.points).filter(|p| p.0.is_finite() && p.1.is_finite());
    let (first, last) = extent(points().map(|p| p.0))?;
    let (low, high) = extent(points().map(|p| p.1))?;
    let x_ticks = Ticks::covering(first.min(0.0), last, 6);
    let y_ticks = Ticks::covering(low.min(0.0), high, 5);
    let x = Scale::new((x_ticks.bounds().0, last.max(first + 1.0)), (LEFT, PLOT_RIGHT));
    let y = Scale::new(y_ticks.bounds(), (BOTTOM, TOP));

    let mut canvas = Canvas::new(WIDTH, HEIGHT);
    canvas.text("chart-title", (0.0, 14.0), Anchor::Start, kind.title());
    for &tick in &y_ticks.values {
        canvas.line("grid", (LEFT, y.at(tick)), (PLOT_RIGHT, y.at(tick)));
        let label = decimal(tick, y_ticks.digits);
        canvas.text("tick", (LEFT - 8.0, y.at(tick) + 4.0), Anchor::End, &label);
    }
    for &tick in x_ticks.values.iter().filter(|t| x.at(**t) <= PLOT_RIGHT + 0.5) {
        let label = decimal(tick, x_ticks.digits);
        canvas.text("tick", (x.at(tick), BOTTOM + 20.0), Anchor::Middle, &label);
    }
    canvas.line("axis", (LEFT, BOTTOM), (PLOT_RIGHT, BOTTOM));
    for &round in rounds_at.iter().filter(|r| (LEFT..=PLOT_RIGHT).contains(&x.at(**r))) {
        canvas.line("axis", (x.at(round), BOTTOM), (x.at(round), BOTTOM + 5.0));
    }
    canvas.text("tick", (PLOT_RIGHT, BOTTOM + 37.0), Anchor::End, "epoch");

    let place = |series: &Series| -> Vec<(f64, f64)> {
        series.points.iter().map(|&(e, v)| (x.at(e), y.at(v))).collect()
    };
    for (i, site) in curves.sites.iter().enumerate() {
        canvas.polyline(&format!("curve site {}", colour(i + 1)), &place(site), &site.name);
    }
    for (class, series) in [("central", &curves.central), ("global", &curves.global)] {
        if let Some(series) = series {
            canvas.polyline(&format!("curve {class}"), &place(series), &series.name);
        }
    }
    if let Some(global) = &curves.global {
        for (&(epoch, value), at) in global.points.iter().zip(place(global)) {
            let hint = format!("{}, epoch {epoch}: {}", global.name, decimal(value, kind.digits()));
            canvas.circle("dot global", at, 3.0, &hint);
        }
    }
    let ends: Vec<String> = lines
        .iter()
        .map(|s| {
            let end = s.points.iter().rev().find(|p| p.1.is_finite());
            let value = end.map_or(NONE.to_owned(), |p| decimal(p.1, kind.digits()));
            format!("{} {value}", s.name)
        })
        .collect();
    let title = format!("{}, {member}", kind.title());
    let description = format!("Lines over {} epochs; last values: {}.", decimal(last, 0), ends.join(", "));
    Some(canvas.finish(id, &title, &description))
}

/// A short piece of line for the key: `None` for the global model, `Some(i)` for the i-th site.
pub(in crate::report) fn line_swatch(class: &str, site: Option<usize>) -> Markup {
    let mut canvas = Canvas::new(24.0, 12.0);
    let class = site.map_or(format!("curve {class}"), |i| format!("curve site {}", colour(i + 1)));
    canvas.polyline(&class, &[(1.0, 6.0), (23.0, 6.0)], "");
    canvas.ornament("swatch")
}

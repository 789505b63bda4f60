//! Distances beside a ranked list: a dot on a track, the nearer the further left.

use crate::report::{
    Probe,
    axis::{Scale, Ticks, extent},
    svg::{Canvas, Markup},
};

const WIDTH: f64 = 120.0;

/// One scale for all probes, so that dots can be compared between cards.
#[derive(Clone, Copy, Debug)]
pub(in crate::report) struct DistanceScale {
    /// Distance at the left end.
    pub(in crate::report) low: f64,
    /// Distance at the right end.
    pub(in crate::report) high: f64,
    /// Decimals of both.
    pub(in crate::report) digits: usize,
}

impl DistanceScale {
    /// The scale that holds every candidate of `probes`.
    pub(in crate::report) fn of(probes: &[Probe]) -> Self {
        let distances = probes.iter().flat_map(|p| &p.candidates).map(|c| c.distance);
        let (low, high) = extent(distances).unwrap_or((0.0, 1.0));
        let ticks = Ticks::covering(low, high, 3);
        let (low, high) = ticks.bounds();
        Self { low, high, digits: ticks.digits }
    }
}

/// The dot of one candidate.
pub(in crate::report) fn distance_dot(scale: DistanceScale, distance: f64, is_true: bool) -> Markup {
    let mut canvas = Canvas::new(WIDTH, 12.0);
    let x = Scale::new((scale.low, scale.high), (5.0, WIDTH - 5.0));
    canvas.line("grid", (5.0, 6.0), (WIDTH - 5.0, 6.0));
    if distance.is_finite() {
        let class = if is_true { "truth" } else { "plain" };
        canvas.line(&format!("stem {class}"), (5.0, 6.0), (x.at(distance), 6.0));
        canvas.circle(&format!("dot {class}"), (x.at(distance), 6.0), 4.0, "");
    }
    canvas.ornament("track")
}

//! The report's figures. Each takes data and gives a drawing with title and description; tables that say the same
//! are made in [`super::tables`].

mod attendance;
mod bars;
mod cohorts;
mod curves;
mod heatmap;
mod probe;
mod retention;
mod sites;

pub(super) use attendance::{attendance, events, presence_mark};
pub(super) use bars::{phase_times, total, traffic};
pub(super) use cohorts::cohorts;
pub(super) use curves::{CurveKind, curves, line_swatch};
pub(super) use heatmap::{colour_scale, heatmap};
pub(super) use probe::{DistanceScale, distance_dot};
pub(super) use retention::retention;
pub(super) use sites::{SiteLine, by_sites, method_swatch};

use super::svg::{Canvas, Markup};

/// Colours of the categorical palette; more categories begin again.
const COLOURS: usize = 8;

/// Style class of the `index`-th category.
fn colour(index: usize) -> String {
    format!("k{}", index % COLOURS)
}

/// A filled square for a key.
pub(super) fn square_swatch(index: usize) -> Markup {
    let mut canvas = Canvas::new(12.0, 12.0);
    canvas.rect(&format!("fill {}", colour(index)), (1.0, 1.0), (10.0, 10.0), "");
    canvas.ornament("swatch")
}

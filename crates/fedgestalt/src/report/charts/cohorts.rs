//! Cohorts against random cohorts of the same size: is this group of patients more alike than chance?

use crate::report::{
    CohortSimilarity,
    axis::{Scale, Ticks, extent},
    format::decimal,
    svg::{Anchor, Canvas, Markup, fit},
};

const WIDTH: f64 = 460.0;
const ROW: f64 = 44.0;
const TOP: f64 = 4.0;

/// One row per cohort: range of the random ones (5th to 95th percentile), their mean, and the cohort's own mean.
pub(in crate::report) fn cohorts(id: &str, cohorts: &[CohortSimilarity]) -> Markup {
    let bottom = TOP + ROW * cohorts.len() as f64;
    let mut canvas = Canvas::new(WIDTH, bottom + 40.0);
    let values = cohorts.iter().flat_map(|c| [c.mean, c.random_mean, c.random_low, c.random_high]);
    let (low, high) = extent(values).unwrap_or((0.0, 1.0));
    let ticks = Ticks::covering(low, high, 6);
    let x = Scale::new(ticks.bounds(), (14.0, WIDTH - 14.0));
    for &tick in &ticks.values {
        canvas.line("grid", (x.at(tick), TOP), (x.at(tick), bottom + 4.0));
        let label = decimal(tick, ticks.digits);
        canvas.text("tick", (x.at(tick), bottom + 18.0), Anchor::Middle, &label);
    }
    canvas.text("tick", (WIDTH - 14.0, bottom + 35.0), Anchor::End, "mean pairwise distance");
    let mut told = Vec::new();
    for (i, cohort) in cohorts.iter().enumerate() {
        let y = TOP + ROW * i as f64;
        let label = format!("{} ({})", fit(&cohort.name, 12.5, WIDTH - 90.0), cohort.size);
        canvas.text("label halo", (14.0, y + 15.0), Anchor::Start, &label);
        let hint = format!(
            "{}: mean {}, random cohorts {} ({} to {})",
            cohort.name,
            decimal(cohort.mean, 3),
            decimal(cohort.random_mean, 3),
            decimal(cohort.random_low, 3),
            decimal(cohort.random_high, 3)
        );
        let (from, to) = (x.at(cohort.random_low), x.at(cohort.random_high));
        canvas.rect("fill range", (from, y + 25.0), (to - from, 8.0), &hint);
        let middle = x.at(cohort.random_mean);
        canvas.line("axis", (middle, y + 22.0), (middle, y + 36.0));
        canvas.circle("dot federated large", (x.at(cohort.mean), y + 29.0), 5.5, &hint);
        told.push(hint);
    }
    let description = format!("{}.", told.join("; "));
    canvas.finish(id, "Cohorts against random cohorts", &description)
}

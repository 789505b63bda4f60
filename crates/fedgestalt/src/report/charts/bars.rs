//! Bars: bytes by site and phase, time by phase.

use crate::report::{
    PhaseTime, Traffic,
    axis::{Scale, Ticks},
    charts::colour,
    format::{bytes, seconds},
    svg::{Anchor, Canvas, Markup, fit, text_width},
};

const WIDTH: f64 = 460.0;
const ROW: f64 = 30.0;
const VALUE: f64 = 78.0;
const LABEL_SIZE: f64 = 12.5;

/// Room for labels at the left, within reason.
fn label_room<'a>(labels: impl Iterator<Item = &'a str>) -> f64 {
    let widest = labels.map(|l| text_width(l, LABEL_SIZE)).fold(0.0, f64::max);
    widest.clamp(30.0, 168.0) + 12.0
}

/// Bytes that each site sent, stacked by phase.
pub(in crate::report) fn traffic(id: &str, traffic: &Traffic) -> Markup {
    let left = label_room(traffic.sites.iter().map(|s| s.site.as_str()));
    let height = 8.0 + ROW * traffic.sites.len() as f64;
    let totals: Vec<u64> = traffic.sites.iter().map(|s| total(&s.sent)).collect();
    let most = totals.iter().copied().max().unwrap_or(0).max(1);
    let x = Scale::new((0.0, most as f64), (left, WIDTH - VALUE));
    let mut canvas = Canvas::new(WIDTH, height);
    for (i, (site, &sum)) in traffic.sites.iter().zip(&totals).enumerate() {
        let y = 4.0 + ROW * i as f64;
        let name = fit(&site.site, LABEL_SIZE, left - 10.0);
        canvas.text("label", (left - 8.0, y + 19.0), Anchor::End, &name);
        let mut before = 0u64;
        for (phase, (&amount, what)) in site.sent.iter().zip(&traffic.phases).enumerate() {
            let (from, to) = (x.at(before as f64), x.at(before.saturating_add(amount) as f64));
            before = before.saturating_add(amount);
            if amount > 0 {
                let hint = format!("{}, {what}: {}", site.site, bytes(amount));
                let class = format!("fill {}", colour(phase));
                canvas.rect(&class, (from, y + 5.0), (to - from, ROW - 10.0), &hint);
            }
        }
        canvas.text("value", (x.at(sum as f64) + 7.0, y + 19.0), Anchor::Start, &bytes(sum));
    }
    let said: Vec<String> =
        traffic.sites.iter().zip(&totals).map(|(s, &sum)| format!("{} {}", s.site, bytes(sum))).collect();
    let description = format!("Bytes sent in all: {}.", said.join(", "));
    canvas.finish(id, "Bytes sent by each site, by phase", &description)
}

/// Sum that stops at the largest number instead of wrapping.
pub(in crate::report) fn total(amounts: &[u64]) -> u64 {
    amounts.iter().fold(0, |sum, &a| sum.saturating_add(a))
}

/// Wall-clock time of each phase.
pub(in crate::report) fn phase_times(id: &str, times: &[PhaseTime]) -> Markup {
    let left = label_room(times.iter().map(|t| t.phase.as_str()));
    let height = 8.0 + ROW * times.len() as f64;
    let most = times.iter().map(|t| t.seconds).filter(|s| s.is_finite()).fold(0.0, f64::max);
    let top = if most > 0.0 { most } else { Ticks::covering(0.0, 1.0, 1).bounds().1 };
    let x = Scale::new((0.0, top), (left, WIDTH - VALUE));
    let mut canvas = Canvas::new(WIDTH, height);
    for (i, time) in times.iter().enumerate() {
        let y = 4.0 + ROW * i as f64;
        let name = fit(&time.phase, LABEL_SIZE, left - 10.0);
        canvas.text("label", (left - 8.0, y + 19.0), Anchor::End, &name);
        let length = x.at(time.seconds.clamp(0.0, top)) - left;
        let hint = format!("{}: {}", time.phase, seconds(time.seconds));
        canvas.rect("fill plain", (left, y + 7.0), (length, ROW - 14.0), &hint);
        let end = if length.is_finite() { left + length.max(0.0) } else { left };
        canvas.text("value", (end + 7.0, y + 19.0), Anchor::Start, &seconds(time.seconds));
    }
    let said: Vec<String> = times.iter().map(|t| format!("{} {}", t.phase, seconds(t.seconds))).collect();
    canvas.finish(id, "Time of each phase", &format!("{}.", said.join(", ")))
}

//! Distances between syndromes: a bitmap of one pixel per pair, ordered by the dendrogram drawn beside it.
//!
//! A bitmap keeps a page of 322 syndromes (100,000 cells) small. It is made twice, for light and for dark pages;
//! the style sheet shows one of them.

use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

use crate::report::{
    Discovery, Picture, ReportError,
    axis::{Scale, Ticks, extent},
    format::decimal,
    picture,
    svg::{Anchor, Canvas, Markup, fit, text_width},
};

/// The figure's width where labels leave a choice: that of the page's column.
const WIDTH: f64 = 980.0;
const DENDROGRAM: f64 = 132.0;
const TOP: f64 = 6.0;
const LEVELS: f64 = 254.0;
/// Level of a cell that was not measured.
const MISSING: u8 = 255;

/// The figure, and what its pointer needs.
#[derive(Debug)]
pub(in crate::report) struct Heatmap {
    /// Dendrogram, matrix and labels.
    pub(in crate::report) figure: Markup,
    /// Syndromes in drawn order.
    pub(in crate::report) order: Vec<usize>,
    /// Smallest distance between different syndromes (level 0).
    pub(in crate::report) low: f64,
    /// Largest distance (level 254).
    pub(in crate::report) high: f64,
    /// One byte per cell in drawn order, base64; 255 stands for "not measured".
    pub(in crate::report) levels: String,
}

/// Draws the matrix; `None` for fewer than two syndromes.
pub(in crate::report) fn heatmap(id: &str, discovery: &Discovery) -> Result<Option<Heatmap>, ReportError> {
    let n = discovery.syndromes.len();
    if n < 2 {
        return Ok(None);
    }
    let order = if discovery.order.is_empty() { (0..n).collect() } else { discovery.order.clone() };
    let between = (0..n * n).filter(|cell| cell / n != cell % n).map(|cell| discovery.distances[cell]);
    let (low, high) = extent(between).unwrap_or((0.0, 1.0));
    let levels: Vec<u8> = order
        .iter()
        .flat_map(|&row| order.iter().map(move |&column| row * n + column))
        .map(|cell| level(discovery.distances[cell], low, high))
        .collect();

    let cell = match n {
        ..=24 => 22.0,
        25..=40 => 16.0,
        41..=72 => 11.0,
        73..=130 => 8.0,
        _ => (720.0 / n as f64).max(2.0),
    };
    let labelled = cell >= 8.0;
    let side = cell * n as f64;
    let left = if discovery.merges.is_empty() { 0.0 } else { DENDROGRAM };
    let size = (cell * 0.92_f64).min(12.0);
    let names = order.iter().map(|&i| discovery.syndromes[i].as_str());
    let room = if labelled {
        let widest = names.clone().map(|n| text_width(n, size)).fold(0.0, f64::max);
        widest.min((WIDTH - left - side).max(170.0)) + 12.0
    } else {
        2.0
    };
    let mut canvas = Canvas::new(left + side + room, TOP + side + 34.0);
    for (class, dark) in [("for-light", false), ("for-dark", true)] {
        let uri = bitmap(&levels, n, n, dark)?;
        canvas.bitmap(&format!("cells {class}"), (left, TOP), (side, side), &uri);
    }
    canvas.rect("frame hit", (left, TOP), (side, side), "");
    canvas.rect("cursor", (left, TOP), (cell, cell), "");
    if labelled {
        let class = if size < 9.0 {
            "label tiny"
        } else if size < 11.0 {
            "label small"
        } else {
            "label"
        };
        for (i, name) in names.enumerate() {
            let y = TOP + cell * (i as f64 + 0.5) + size * 0.35;
            canvas.text(class, (left + side + 7.0, y), Anchor::Start, &fit(name, size, room - 8.0));
        }
    }
    dendrogram(&mut canvas, discovery, &order, left, cell);
    let description = format!(
        "{n} syndromes by {n} syndromes, ordered by similarity; distances between different syndromes from {} to {}.",
        decimal(low, 3),
        decimal(high, 3)
    );
    Ok(Some(Heatmap {
        figure: canvas.finish(id, "Distances between syndromes", &description),
        order,
        low,
        high,
        levels: picture::encode(&levels),
    }))
}

/// Distance as one of 255 steps; distances within a syndrome may lie outside and are held at the ends.
fn level(distance: f64, low: f64, high: f64) -> u8 {
    if !distance.is_finite() {
        return MISSING;
    }
    let share = if high > low { (distance - low) / (high - low) } else { 0.5 };
    (share.clamp(0.0, 1.0) * LEVELS).round() as u8
}

/// The tree at the left of the matrix: leaves at its rows, joins at their heights, root at the left.
fn dendrogram(canvas: &mut Canvas, discovery: &Discovery, order: &[usize], left: f64, cell: f64) {
    let Some((low, high)) = extent(discovery.merges.iter().map(|m| m.height)) else {
        return;
    };
    let ticks = Ticks::covering(low.min(0.0), high, 3);
    let x = Scale::new(ticks.bounds(), (left - 6.0, 12.0));
    let bottom = TOP + cell * order.len() as f64;
    for &tick in &ticks.values {
        canvas.line("grid", (x.at(tick), TOP), (x.at(tick), bottom + 4.0));
        let label = decimal(tick, ticks.digits);
        canvas.text("tick", (x.at(tick), bottom + 17.0), Anchor::Middle, &label);
    }
    canvas.text("tick", (left / 2.0 + 3.0, bottom + 32.0), Anchor::Middle, "distance when joined");
    // Row and height of every cluster, leaves first.
    let mut clusters = vec![(f64::NAN, 0.0); order.len()];
    for (place, &leaf) in order.iter().enumerate() {
        clusters[leaf] = (TOP + cell * (place as f64 + 0.5), 0.0);
    }
    for merge in &discovery.merges {
        let ((y_a, h_a), (y_b, h_b)) = (clusters[merge.a], clusters[merge.b]);
        let join = x.at(merge.height);
        let branch = [(x.at(h_a), y_a), (join, y_a), (join, y_b), (x.at(h_b), y_b)];
        canvas.polyline("branch", &branch, "");
        clusters.push(((y_a + y_b) / 2.0, merge.height));
    }
}

/// The key to the colours, with the distances it spans.
pub(in crate::report) fn colour_scale(id: &str, low: f64, high: f64) -> Result<Markup, ReportError> {
    let (width, left) = (250.0, 4.0);
    let mut canvas = Canvas::new(width + 2.0 * left + 26.0, 44.0);
    let steps: Vec<u8> = (0..MISSING).collect();
    for (class, dark) in [("for-light", false), ("for-dark", true)] {
        let uri = bitmap(&steps, steps.len(), 1, dark)?;
        canvas.bitmap(&format!("cells {class}"), (left, 4.0), (width, 12.0), &uri);
    }
    canvas.rect("frame", (left, 4.0), (width, 12.0), "");
    let x = Scale::new((low, high), (left, left + width));
    let ticks = Ticks::covering(low, high, 4);
    for &tick in ticks.values.iter().filter(|t| (low..=high).contains(*t)) {
        canvas.line("axis", (x.at(tick), 16.0), (x.at(tick), 20.0));
        let label = decimal(tick, ticks.digits);
        canvas.text("tick", (x.at(tick), 33.0), Anchor::Middle, &label);
    }
    let description = format!("From {} (alike) to {}.", decimal(low, 3), decimal(high, 3));
    Ok(canvas.finish(id, "Colours and distances", &description))
}

/// Levels as a PNG data URI in the colours of a light or a dark page.
fn bitmap(levels: &[u8], width: usize, height: usize, dark: bool) -> Result<String, ReportError> {
    let pixels: Vec<u8> = levels.iter().flat_map(|&l| shade(l, dark)).collect();
    let mut png = Vec::new();
    PngEncoder::new(Cursor::new(&mut png)).write_image(
        &pixels,
        width as u32,
        height as u32,
        ExtendedColorType::Rgb8,
    )?;
    Ok(Picture::from_bytes(png)?.data_uri())
}

/// What is alike stands out from the page: dark on light, light on dark.
fn shade(level: u8, dark: bool) -> [u8; 3] {
    const LIGHT: [[f64; 3]; 6] = [
        [9.0, 36.0, 60.0],
        [11.0, 84.0, 105.0],
        [42.0, 133.0, 135.0],
        [128.0, 181.0, 162.0],
        [209.0, 219.0, 196.0],
        [248.0, 244.0, 233.0],
    ];
    const DARK: [[f64; 3]; 6] = [
        [255.0, 244.0, 190.0],
        [200.0, 218.0, 150.0],
        [102.0, 178.0, 148.0],
        [42.0, 122.0, 130.0],
        [26.0, 68.0, 86.0],
        [20.0, 32.0, 42.0],
    ];
    if level == MISSING {
        return if dark { [70, 64, 70] } else { [214, 206, 214] };
    }
    let stops = if dark { &DARK } else { &LIGHT };
    let place = f64::from(level) / LEVELS * (stops.len() - 1) as f64;
    let first = (place.floor() as usize).min(stops.len() - 2);
    let share = place - first as f64;
    std::array::from_fn(|channel| {
        let (a, b) = (stops[first][channel], stops[first + 1][channel]);
        (a + (b - a) * share).round() as u8
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::report::Merge;

    #[test]
    fn levels_span_the_distances_between_syndromes() {
        assert_eq!(level(0.2, 0.2, 0.6), 0);
        assert_eq!(level(0.6, 0.2, 0.6), 254);
        assert_eq!(level(0.1, 0.2, 0.6), 0);
        assert_eq!(level(f64::NAN, 0.2, 0.6), MISSING);
        assert_eq!(level(0.3, 0.3, 0.3), 127);
    }

    #[test]
    fn darker_means_more_alike_on_a_light_page_and_the_reverse_on_a_dark_one() {
        let brightness = |level, dark| shade(level, dark).iter().map(|&c| u32::from(c)).sum::<u32>();
        for level in 0..=253 {
            assert!(brightness(level, false) <= brightness(level + 1, false), "{level}");
            assert!(brightness(level, true) >= brightness(level + 1, true), "{level}");
        }
    }

    #[test]
    fn branches_join_the_rows_of_their_leaves() {
        let discovery = Discovery {
            syndromes: ["a", "b", "c"].map(String::from).into(),
            distances: vec![0.0, 0.9, 0.2, 0.9, 0.0, 0.8, 0.2, 0.8, 0.0],
            merges: vec![Merge { a: 0, b: 2, height: 0.2 }, Merge { a: 1, b: 3, height: 0.85 }],
            order: vec![1, 0, 2],
            ..Discovery::default()
        };
        let map = heatmap("f", &discovery).unwrap().unwrap();
        let svg = map.figure.to_string();
        // Rows of 22 units from 6: `b` at 17, `a` at 39, `c` at 61; the pair's middle is 50.
        assert!(svg.contains(" 39L") && svg.contains(" 61"), "{svg}");
        assert!(svg.contains(" 17L") && svg.contains(" 50"), "{svg}");
        assert_eq!((map.low, map.high), (0.2, 0.9));
        assert!(heatmap("f", &Discovery::default()).unwrap().is_none());
    }
}

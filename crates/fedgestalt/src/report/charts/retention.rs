//! Retention: how much of the centralised accuracy a way of training keeps, per setting and k.

use crate::report::{
    axis::Scale,
    format::{decimal, percent},
    svg::{Anchor, Canvas, Markup},
};

const WIDTH: f64 = 460.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 64.0;
const TOP: f64 = 34.0;
const ROW: f64 = 30.0;

/// Bars of one setting: federated shares of the centralised value for each k, in percent, with the local-only
/// shares as rings. The axis begins at zero; lines stand at 90 and 100 percent.
pub(in crate::report) fn retention(
    id: &str,
    setting: &str,
    federated: &[f64; 4],
    local: Option<&[f64; 4]>,
) -> Markup {
    let ks = [1, 5, 10, 30];
    let height = TOP + ROW * 4.0 + 30.0;
    let bottom = TOP + ROW * 4.0;
    let mut canvas = Canvas::new(WIDTH, height);
    let most = federated
        .iter()
        .chain(local.into_iter().flatten())
        .copied()
        .filter(|v| v.is_finite())
        .fold(105.0, f64::max)
        .min(200.0);
    let x = Scale::new((0.0, most), (LEFT, WIDTH - RIGHT));
    canvas.text("chart-title", (0.0, 14.0), Anchor::Start, setting);
    for tick in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let class = if tick == 100.0 { "reference" } else { "grid" };
        canvas.line(class, (x.at(tick), TOP - 4.0), (x.at(tick), bottom + 4.0));
        canvas.text("tick", (x.at(tick), bottom + 18.0), Anchor::Middle, &decimal(tick, 0));
    }
    canvas.line("reference dashed", (x.at(90.0), TOP - 4.0), (x.at(90.0), bottom + 4.0));
    let mut said = Vec::new();
    for (i, (k, &share)) in ks.iter().zip(federated).enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let name = format!("top-{k}");
        canvas.text("label", (LEFT - 8.0, y + 4.0), Anchor::End, &name);
        let alone = local.map_or(f64::NAN, |l| l[i]);
        let hint = format!("{name}: federated {}, local only {}", percent(share), percent(alone));
        let end = x.at(share.clamp(0.0, most));
        canvas.rect("fill federated", (LEFT, y - 7.0), (end - LEFT, 14.0), &hint);
        canvas.circle("ring local", (x.at(alone.clamp(0.0, most)), y), 5.0, &hint);
        canvas.text("value", (WIDTH, y + 4.0), Anchor::End, &percent(share));
        said.push(format!("{name} {}", percent(share)));
    }
    let description = format!("Share of the centralised accuracy kept: {}.", said.join(", "));
    canvas.finish(id, &format!("Retention, {setting}"), &description)
}

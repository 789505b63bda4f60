//! Numbers of the report as rows of text, ready for the templates.

use askama::{Template, filters::HtmlSafe};

use super::{
    AccuracyRow, AccuracyTable, Attendance, Curves, Discovery, FourSettings, Pair, PhaseTime, RowKind,
    Series, Traffic,
    charts::{CurveKind, events, total},
    format::{NONE, bytes, count, decimal, percent, seconds},
};

/// Names of the four settings, in the order of [`FourSettings::in_order`]: probes, then what they are compared with.
pub(super) const SETTINGS: [&str; 4] = ["frequent → frequent", "rare → rare", "frequent → all", "rare → all"];

/// A plain table: names in the first column.
#[derive(Debug, Default, Template)]
#[template(path = "report/grid.html")]
pub(super) struct Grid {
    pub(super) caption: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl HtmlSafe for Grid {}

/// One cell of a four-setting table.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) value: String,
    pub(super) spread: Option<String>,
    pub(super) retention: Option<String>,
    /// `low` under 90 percent, `high` from 100 percent on, else empty.
    pub(super) tone: &'static str,
}

/// One row of a four-setting table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) class: &'static str,
    pub(super) name: String,
    pub(super) note: Option<String>,
    pub(super) cells: Vec<Cell>,
}

/// A four-setting table.
#[derive(Debug, Template)]
#[template(path = "report/accuracy.html")]
pub(super) struct Accuracy {
    pub(super) caption: String,
    pub(super) settings: [&'static str; 4],
    pub(super) rows: Vec<Row>,
    pub(super) note: Option<String>,
}

impl HtmlSafe for Accuracy {}

impl Accuracy {
    /// Lays out `rows`; federated rows carry their share of the central row, and the row called `marked` stands out.
    pub(super) fn new(
        caption: &str,
        rows: &[AccuracyRow],
        marked: Option<&str>,
        note: Option<String>,
    ) -> Self {
        let central = find(rows, RowKind::Central).map(|row| row.values);
        let rows = rows
            .iter()
            .map(|row| {
                let kept = match (row.kind, &central) {
                    (RowKind::Federated, Some(central)) => Some(share(&row.values, central)),
                    _ => None,
                };
                Row {
                    class: match row.kind {
                        _ if marked == Some(row.name.as_str()) => "marked",
                        RowKind::Central => "central",
                        RowKind::Federated => "federated",
                        RowKind::Local => "local",
                        RowKind::Baseline if marked.is_some() => "site",
                        RowKind::Baseline => "baseline",
                    },
                    name: row.name.clone(),
                    note: row.note.clone(),
                    cells: cells(row, kept.as_ref()),
                }
            })
            .collect();
        Self { caption: caption.to_owned(), settings: SETTINGS, rows, note }
    }
}

fn cells(row: &AccuracyRow, kept: Option<&FourSettings>) -> Vec<Cell> {
    let mut cells = Vec::with_capacity(16);
    for (s, values) in row.values.in_order().into_iter().enumerate() {
        for (k, &value) in values.iter().enumerate() {
            let spread = row.spread.as_ref().map(|spread| spread.in_order()[s][k]);
            let kept = kept.map(|kept| kept.in_order()[s][k]);
            cells.push(Cell {
                value: decimal(value, 1),
                spread: spread.filter(|v| v.is_finite()).map(|v| decimal(v, 1)),
                retention: kept.map(percent),
                tone: match kept {
                    Some(kept) if kept < 90.0 => "low",
                    Some(kept) if kept >= 100.0 => "high",
                    _ => "",
                },
            });
        }
    }
    cells
}

/// First row of a kind.
pub(super) fn find(rows: &[AccuracyRow], kind: RowKind) -> Option<&AccuracyRow> {
    rows.iter().find(|row| row.kind == kind)
}

/// `values` as percent of `whole`, cell by cell; NaN where the whole is not positive.
pub(super) fn share(values: &FourSettings, whole: &FourSettings) -> FourSettings {
    let part = |a: &[f64; 4], b: &[f64; 4]| -> [f64; 4] {
        std::array::from_fn(|k| if b[k] > 0.0 { 100.0 * a[k] / b[k] } else { f64::NAN })
    };
    FourSettings {
        frequent_frequent: part(&values.frequent_frequent, &whole.frequent_frequent),
        rare_rare: part(&values.rare_rare, &whole.rare_rare),
        frequent_all: part(&values.frequent_all, &whole.frequent_all),
        rare_all: part(&values.rare_all, &whole.rare_all),
    }
}

/// Mean over the cells that were measured, and the smallest of them with its name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) worst: f64,
    pub(super) worst_cell: String,
    pub(super) cells: usize,
}

/// Summary of one way of training as share of the central one; `None` without a cell to speak of.
pub(super) fn summary(table: &AccuracyTable, kind: RowKind) -> Option<Summary> {
    let central = find(&table.rows, RowKind::Central)?;
    let shares = share(&find(&table.rows, kind)?.values, &central.values);
    let mut found: Option<Summary> = None;
    let mut sum = 0.0;
    let mut cells = 0;
    for (setting, values) in SETTINGS.iter().zip(shares.in_order()) {
        for (k, &value) in [1, 5, 10, 30].iter().zip(values) {
            if !value.is_finite() {
                continue;
            }
            sum += value;
            cells += 1;
            if found.as_ref().is_none_or(|f| value < f.worst) {
                found = Some(Summary {
                    mean: 0.0,
                    worst: value,
                    worst_cell: format!("{setting}, top-{k}"),
                    cells: 0,
                });
            }
        }
    }
    found.map(|f| Summary { mean: sum / cells as f64, cells, ..f })
}

/// Sizes of the four settings.
pub(super) fn sizes(table: &AccuracyTable) -> Option<Grid> {
    (!table.sizes.is_empty()).then(|| Grid {
        caption: "Size of the four settings".to_owned(),
        head: ["Setting", "probes", "gallery images", "syndromes", "splits"].map(String::from).into(),
        rows: SETTINGS
            .iter()
            .zip(&table.sizes)
            .map(|(name, s)| {
                let numbers = [s.probes, s.gallery, s.syndromes, s.splits];
                row(name, numbers.iter().map(|&v| count(v)))
            })
            .collect(),
    })
}

fn row(name: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(rest).collect()
}

fn heads<'a>(first: &str, rest: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    row(first, rest.into_iter().map(str::to_owned))
}

/// Values of a chart of curves, one row per epoch.
pub(super) fn curve_values(kind: CurveKind, member: &str, curves: &Curves) -> Grid {
    let series: Vec<&Series> = curves.global.iter().chain(&curves.central).chain(&curves.sites).collect();
    let mut epochs: Vec<f64> =
        series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).filter(|e| e.is_finite()).collect();
    epochs.sort_by(f64::total_cmp);
    epochs.dedup();
    let value = |s: &Series, epoch: f64| {
        let point = s.points.iter().find(|p| p.0 == epoch);
        point.map_or(NONE.to_owned(), |p| decimal(p.1, kind.digits()))
    };
    Grid {
        caption: format!("{}, {member}", kind.title()),
        head: heads("epoch", series.iter().map(|s| s.name.as_str())),
        rows: epochs.iter().map(|&e| row(&format!("{e}"), series.iter().map(|s| value(s, e)))).collect(),
    }
}

/// Rounds in which something else than plain presence happened.
pub(super) fn attendance_events(attendance: &Attendance) -> Grid {
    Grid {
        caption: "Rounds that a site did not simply take part in".to_owned(),
        head: heads("round", ["site", "what happened"]),
        rows: events(attendance)
            .into_iter()
            .map(|(round, site, what)| vec![round.to_string(), site, what.to_owned()])
            .collect(),
    }
}

/// Closest pairs of different syndromes, nearest first: those given, or the ten found in the matrix.
pub(super) fn closest(discovery: &Discovery) -> Vec<Pair> {
    if !discovery.pairs.is_empty() {
        return discovery.pairs.clone();
    }
    let n = discovery.syndromes.len();
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for a in 0..n {
        for b in a + 1..n {
            let distance = discovery.distances[a * n + b];
            if distance.is_finite() {
                pairs.push((distance, a, b));
            }
        }
    }
    pairs.sort_by(|x, y| x.0.total_cmp(&y.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    pairs.truncate(10);
    pairs
        .into_iter()
        .map(|(distance, a, b)| Pair {
            a: discovery.syndromes[a].clone(),
            b: discovery.syndromes[b].clone(),
            distance,
        })
        .collect()
}

/// Closest pairs as a table.
pub(super) fn pairs(discovery: &Discovery) -> Grid {
    Grid {
        caption: "Closest pairs of different syndromes".to_owned(),
        head: heads("syndrome", ["looks like", "distance"]),
        rows: closest(discovery).into_iter().map(|p| vec![p.a, p.b, decimal(p.distance, 3)]).collect(),
    }
}

/// Each syndrome, in drawn order, with the distance within it and its three nearest others.
pub(super) fn nearest(discovery: &Discovery, order: &[usize]) -> Grid {
    let n = discovery.syndromes.len();
    let rows = order
        .iter()
        .map(|&me| {
            let distance = |other: usize| discovery.distances[me * n + other];
            let mut others: Vec<usize> = (0..n).filter(|&o| o != me && distance(o).is_finite()).collect();
            others.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)).then(a.cmp(&b)));
            let near = (0..3).map(|i| {
                others.get(i).map_or(NONE.to_owned(), |&o| {
                    format!("{} ({})", discovery.syndromes[o], decimal(distance(o), 3))
                })
            });
            let within = decimal(distance(me), 3);
            row(&discovery.syndromes[me], std::iter::once(within).chain(near))
        })
        .collect();
    Grid {
        caption: "Each syndrome and the three nearest to it".to_owned(),
        head: heads("syndrome", ["within", "nearest", "second", "third"]),
        rows,
    }
}

/// Cohorts against random ones.
pub(super) fn cohorts(discovery: &Discovery) -> Grid {
    Grid {
        caption: "Mean pairwise distance of cohorts and of random cohorts of the same size".to_owned(),
        head: heads("cohort", ["size", "mean", "random mean", "random 5–95 %", "p"]),
        rows: discovery
            .cohorts
            .iter()
            .map(|c| {
                let range = format!("{} – {}", decimal(c.random_low, 3), decimal(c.random_high, 3));
                vec![
                    c.name.clone(),
                    c.size.to_string(),
                    decimal(c.mean, 3),
                    decimal(c.random_mean, 3),
                    range,
                    decimal(c.p, 3),
                ]
            })
            .collect(),
    }
}

/// Bytes by site and phase, with totals.
pub(super) fn traffic(traffic: &Traffic) -> Grid {
    let received = traffic.sites.iter().any(|s| !s.received.is_empty());
    let mut head = heads("phase", traffic.sites.iter().map(|s| s.site.as_str()));
    head.push("all sites".to_owned());
    let line = |name: &str, amounts: Vec<u64>| {
        let sum = total(&amounts);
        row(name, amounts.into_iter().chain([sum]).map(bytes))
    };
    let mut rows: Vec<Vec<String>> = traffic
        .phases
        .iter()
        .enumerate()
        .map(|(p, phase)| line(phase, traffic.sites.iter().map(|s| s.sent[p]).collect()))
        .collect();
    rows.push(line("sent", traffic.sites.iter().map(|s| total(&s.sent)).collect()));
    if received {
        let amounts = traffic.sites.iter().map(|s| total(&s.received)).collect();
        rows.push(line("received", amounts));
    }
    Grid { caption: "Bytes by phase and site".to_owned(), head, rows }
}

/// Time of each phase, with the total.
pub(super) fn times(times: &[PhaseTime]) -> Grid {
    let mut rows: Vec<Vec<String>> = times
        .iter()
        .map(|t| vec![t.phase.clone(), seconds(t.seconds), t.note.clone().unwrap_or_default()])
        .collect();
    let sum = times.iter().map(|t| t.seconds).filter(|s| s.is_finite()).sum();
    rows.push(vec!["all phases".to_owned(), seconds(sum), String::new()]);
    Grid { caption: "Wall-clock time by phase".to_owned(), head: heads("phase", ["time", "remark"]), rows }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table() -> AccuracyTable {
        let row = |kind, values: [f64; 4]| AccuracyRow {
            kind,
            values: FourSettings { frequent_frequent: values, ..FourSettings::default() },
            ..AccuracyRow::default()
        };
        AccuracyTable {
            rows: vec![
                row(RowKind::Central, [50.0, 70.0, 0.0, 90.0]),
                row(RowKind::Federated, [45.0, 70.0, 10.0, f64::NAN]),
            ],
            ..AccuracyTable::default()
        }
    }

    #[test]
    fn retention_is_federated_over_central_and_skips_what_was_not_measured() {
        let summary = summary(&table(), RowKind::Federated).unwrap();
        assert_eq!(summary.mean, 95.0);
        assert_eq!(summary.worst, 90.0);
        assert_eq!(summary.worst_cell, "frequent → frequent, top-1");
        assert_eq!(summary.cells, 2);
        assert_eq!(super::summary(&table(), RowKind::Local), None);
    }

    #[test]
    fn cells_carry_retention_and_tone() {
        let layout = Accuracy::new("", &table().rows, None, None);
        assert!(layout.rows[0].cells.iter().all(|c| c.retention.is_none()));
        let cells = &layout.rows[1].cells;
        assert_eq!(cells.len(), 16);
        assert_eq!(cells[0].retention.as_deref(), Some("90.0\u{202f}%"));
        assert_eq!((cells[0].tone, cells[1].tone, cells[2].tone), ("", "high", ""));
        assert_eq!(cells[3].value, NONE);
    }

    #[test]
    fn closest_pairs_are_found_in_the_matrix_and_ties_keep_their_order() {
        let nan = f64::NAN;
        let discovery = Discovery {
            syndromes: ["a", "b", "c", "d"].map(String::from).into(),
            distances: vec![0.0, 0.5, 0.3, nan, 0.5, 0.0, 0.3, 0.9, 0.3, 0.3, 0.0, 0.7, nan, 0.9, 0.7, 0.0],
            ..Discovery::default()
        };
        let found: Vec<String> = closest(&discovery).iter().map(|p| format!("{}{}", p.a, p.b)).collect();
        assert_eq!(found, ["ac", "bc", "ab", "cd", "bd"]);
        let rows = nearest(&discovery, &[3, 0, 1, 2]).rows;
        assert_eq!(rows[0], ["d", "0.000", "c (0.700)", "b (0.900)", NONE]);
    }
}

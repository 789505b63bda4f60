//! The page: sections that have something to show, in the order of an article.

use askama::Template;
use sha2::{Digest, Sha256};

use super::{
    Discovery, Fact, MemberCurves, Newcomer, Picture, Presence, Privacy, Probe, ReleaseFacts, ReportData,
    ReportError, RowKind,
    charts::{self, CurveKind, DistanceScale},
    format::{bytes, decimal, ordinal, percent, seconds},
    picture,
    svg::Markup,
    tables::{self, Accuracy, Grid, SETTINGS, find, share},
};

pub(super) const STYLE: &str = include_str!("../../templates/report/style.css");
pub(super) const SCRIPT: &str = include_str!("../../templates/report/script.js");

/// The whole page.
#[derive(Template)]
#[template(path = "report/page.html")]
struct Page<'a> {
    data: &'a ReportData,
    policy: String,
    style: Markup,
    script: Markup,
    headline: String,
    key_figures: Vec<(String, String)>,
    contents: Vec<(&'static str, &'static str)>,
    accuracy: Option<AccuracySection>,
    training: Option<TrainingSection>,
    attendance: Option<AttendanceSection>,
    probes: Option<ProbeSection<'a>>,
    discovery: Option<DiscoverySection>,
    newcomer: Option<NewcomerSection<'a>>,
    traffic: Option<TrafficSection<'a>>,
    times: Option<TimeSection>,
    privacy: Option<&'a Privacy>,
    release: Option<&'a ReleaseFacts>,
}

struct AccuracySection {
    table: Accuracy,
    sizes: Option<Grid>,
    retention: Vec<Markup>,
    has_local: bool,
}

struct TrainingSection {
    key: Vec<(Markup, String)>,
    members: Vec<MemberView>,
}

struct MemberView {
    name: String,
    charts: Vec<Markup>,
    grids: Vec<Grid>,
}

struct AttendanceSection {
    chart: Markup,
    key: Vec<(Markup, &'static str)>,
    events: Grid,
}

struct ProbeSection<'a> {
    low: String,
    high: String,
    cards: Vec<ProbeView<'a>>,
}

struct ProbeView<'a> {
    probe: &'a Probe,
    face: Option<String>,
    verdict: String,
    hit: &'static str,
    candidates: Vec<CandidateView<'a>>,
    nearest: Vec<NeighbourView<'a>>,
}

struct CandidateView<'a> {
    position: u32,
    /// Positions between this line and the one above were left out.
    gap: bool,
    syndrome: &'a str,
    id: Option<&'a str>,
    dot: Markup,
    distance: String,
    is_true: bool,
}

struct NeighbourView<'a> {
    face: Option<String>,
    syndrome: &'a str,
    site: Option<&'a str>,
    distance: String,
    is_true: bool,
}

struct DiscoverySection {
    map: Option<MapView>,
    pairs: Grid,
    cohorts: Option<(Markup, Grid)>,
    note: Option<String>,
}

struct MapView {
    figure: Markup,
    scale: Markup,
    nearest: Grid,
    levels: String,
    names: String,
    low: f64,
    high: f64,
    tree: bool,
}

struct NewcomerSection<'a> {
    newcomer: &'a Newcomer,
    table: Option<Accuracy>,
}

struct TrafficSection<'a> {
    chart: Markup,
    key: Vec<(Markup, &'a str)>,
    grid: Grid,
    note: Option<&'a str>,
}

struct TimeSection {
    chart: Markup,
    grid: Grid,
}

/// Fills in the template. The lists of `data` must fit together ([`super::shape::check`]).
pub(super) fn render(data: &ReportData) -> Result<String, ReportError> {
    let privacy = data.privacy.as_ref().filter(|p| **p != Privacy::default());
    let release = data.release.as_ref();
    let mut page = Page {
        data,
        policy: policy(),
        style: Markup::constant(STYLE),
        script: Markup::constant(SCRIPT),
        headline: data.headline.clone().unwrap_or_else(|| headline(data)),
        key_figures: key_figures(data),
        contents: Vec::new(),
        accuracy: accuracy(data),
        training: training(data),
        attendance: attendance(data),
        probes: probes(data),
        discovery: data.discovery.as_ref().map(discovery).transpose()?.flatten(),
        newcomer: data.newcomer.as_ref().and_then(newcomer),
        traffic: traffic(data),
        times: times(data),
        privacy,
        release,
    };
    let costs = page.traffic.is_some() || page.times.is_some();
    let sections = [
        (page.accuracy.is_some(), "accuracy", "Accuracy"),
        (page.training.is_some(), "training", "Training"),
        (page.attendance.is_some(), "attendance", "Attendance"),
        (page.probes.is_some(), "probes", "Probes"),
        (page.discovery.is_some(), "discovery", "Discovery"),
        (page.newcomer.is_some(), "newcomer", "The site that joined later"),
        (costs, "costs", "Costs"),
        (page.privacy.is_some(), "privacy", "Privacy"),
        (page.release.is_some(), "release", "Release"),
        (data.configuration.is_some(), "configuration", "Configuration"),
    ];
    page.contents = sections.into_iter().filter(|s| s.0).map(|s| (s.1, s.2)).collect();
    Ok(page.render()?)
}

/// Nothing may be fetched, and only this page's own style and script count: text that slipped through as markup
/// would still not run.
pub(super) fn policy() -> String {
    let hash = |text: &str| picture::encode(&Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; \
         base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// One sentence from the table.
fn headline(data: &ReportData) -> String {
    let Some(kept) = tables::summary(&data.accuracies, RowKind::Federated) else {
        return String::new();
    };
    let alone = tables::summary(&data.accuracies, RowKind::Local)
        .map_or(String::new(), |l| format!("; sites that train alone keep {}", percent(l.mean)));
    format!(
        "Trained together without sharing a photograph, the sites keep {} of centralised accuracy on average over \
         {} cells (lowest: {} at {}){alone}.",
        percent(kept.mean),
        kept.cells,
        percent(kept.worst),
        kept.worst_cell,
    )
}

/// Large numbers under the headline.
fn key_figures(data: &ReportData) -> Vec<(String, String)> {
    let mut figures = Vec::new();
    if let Some(kept) = tables::summary(&data.accuracies, RowKind::Federated) {
        figures.push((percent(kept.mean), "of centralised accuracy kept, mean".to_owned()));
        figures.push((percent(kept.worst), format!("in the weakest cell ({})", kept.worst_cell)));
    }
    if let Some(alone) = tables::summary(&data.accuracies, RowKind::Local) {
        figures.push((percent(alone.mean), "when every site trains alone".to_owned()));
    }
    if let Some(traffic) = data.traffic.as_ref().filter(|t| !t.sites.is_empty()) {
        let sum: u128 = traffic.sites.iter().flat_map(|s| &s.sent).map(|&b| u128::from(b)).sum();
        let mean = sum / traffic.sites.len() as u128;
        let mean = bytes(u64::try_from(mean).unwrap_or(u64::MAX));
        figures.push((mean, "sent by a site, mean".to_owned()));
    }
    let time: f64 = data.times.iter().map(|t| t.seconds).filter(|s| s.is_finite()).sum();
    if time > 0.0 {
        figures.push((seconds(time), "for all phases".to_owned()));
    }
    figures
}

fn accuracy(data: &ReportData) -> Option<AccuracySection> {
    let rows = &data.accuracies.rows;
    if rows.is_empty() {
        return None;
    }
    let central = find(rows, RowKind::Central).map(|r| r.values);
    let kept = |kind| Some(share(&find(rows, kind)?.values, central.as_ref()?));
    let local = kept(RowKind::Local);
    let retention = kept(RowKind::Federated).map_or_else(Vec::new, |federated| {
        (0..4)
            .map(|s| {
                let alone = local.as_ref().map(|l| l.in_order()[s]);
                let id = format!("fig-retention-{s}");
                charts::retention(&id, SETTINGS[s], federated.in_order()[s], alone)
            })
            .collect()
    });
    Some(AccuracySection {
        table: Accuracy::new(
            "Accuracy in percent: recall at 1, 5, 10 and 30 per syndrome, averaged over syndromes",
            rows,
            None,
            data.accuracies.note.clone(),
        ),
        sizes: tables::sizes(&data.accuracies),
        has_local: local.is_some(),
        retention,
    })
}

fn training(data: &ReportData) -> Option<TrainingSection> {
    let training = data.training.as_ref()?;
    let members: Vec<MemberView> = training
        .members
        .iter()
        .enumerate()
        .map(|(m, member)| member_view(m, member, &training.rounds_at))
        .filter(|view| !view.charts.is_empty())
        .collect();
    let all = || training.members.iter().flat_map(|m| [&m.loss, &m.accuracy]);
    let first_name =
        |pick: fn(&super::Curves) -> Option<&super::Series>| all().find_map(pick).map(|s| s.name.clone());
    let mut key = Vec::new();
    if let Some(name) = first_name(|c| c.global.as_ref()) {
        key.push((charts::line_swatch("global", None), name));
    }
    if let Some(name) = first_name(|c| c.central.as_ref()) {
        key.push((charts::line_swatch("central", None), name));
    }
    let sites = all().map(|c| &c.sites).max_by_key(|s| s.len());
    for (i, site) in sites.into_iter().flatten().enumerate() {
        key.push((charts::line_swatch("site", Some(i)), site.name.clone()));
    }
    (!members.is_empty()).then_some(TrainingSection { key, members })
}

fn member_view(number: usize, member: &MemberCurves, rounds_at: &[f64]) -> MemberView {
    let mut view = MemberView { name: member.member.clone(), charts: Vec::new(), grids: Vec::new() };
    let both = [(CurveKind::Loss, "loss", &member.loss), (CurveKind::Accuracy, "accuracy", &member.accuracy)];
    for (kind, slug, curves) in both {
        let id = format!("fig-{slug}-{number}");
        if let Some(chart) = charts::curves(&id, kind, &member.member, curves, rounds_at) {
            view.charts.push(chart);
            view.grids.push(tables::curve_values(kind, &member.member, curves));
        }
    }
    view
}

fn attendance(data: &ReportData) -> Option<AttendanceSection> {
    let attendance = data.attendance.as_ref()?;
    if attendance.sites.is_empty() || attendance.rounds.is_empty() {
        return None;
    }
    let states = [
        Presence::Present,
        Presence::DroppedBefore,
        Presence::DroppedAfter,
        Presence::Away,
        Presence::Returned,
        Presence::Abstained,
    ];
    let seen = |p: &Presence| attendance.rounds.iter().any(|r| r.presence.contains(p));
    Some(AttendanceSection {
        chart: charts::attendance("fig-attendance", attendance),
        key: states.into_iter().filter(seen).map(charts::presence_mark).collect(),
        events: tables::attendance_events(attendance),
    })
}

fn probes(data: &ReportData) -> Option<ProbeSection<'_>> {
    if data.probes.is_empty() {
        return None;
    }
    let scale = DistanceScale::of(&data.probes);
    Some(ProbeSection {
        low: decimal(scale.low, scale.digits),
        high: decimal(scale.high, scale.digits),
        cards: data.probes.iter().map(|p| probe_view(p, scale)).collect(),
    })
}

fn probe_view(probe: &Probe, scale: DistanceScale) -> ProbeView<'_> {
    let (verdict, hit) = match (probe.position, probe.ranked) {
        (None, _) => ("not ranked".to_owned(), "miss"),
        (Some(position), ranked) => {
            let of = ranked.map_or(String::new(), |n| format!(" of {n}"));
            let class = match position {
                1 => "first",
                2..=10 => "near",
                _ => "miss",
            };
            (format!("{}{of}", ordinal(position)), class)
        }
    };
    let mut before = 0;
    let candidates = probe
        .candidates
        .iter()
        .map(|c| {
            let gap = c.position > before + 1;
            before = c.position;
            CandidateView {
                position: c.position,
                gap,
                syndrome: &c.syndrome,
                id: c.id.as_deref(),
                dot: charts::distance_dot(scale, c.distance, c.is_true),
                distance: decimal(c.distance, 3),
                is_true: c.is_true,
            }
        })
        .collect();
    let nearest = probe
        .nearest
        .iter()
        .map(|n| NeighbourView {
            face: n.face.as_ref().map(Picture::data_uri),
            syndrome: &n.syndrome,
            site: n.site.as_deref(),
            distance: decimal(n.distance, 3),
            is_true: n.is_true,
        })
        .collect();
    ProbeView { probe, face: probe.face.as_ref().map(Picture::data_uri), verdict, hit, candidates, nearest }
}

fn discovery(discovery: &Discovery) -> Result<Option<DiscoverySection>, ReportError> {
    let map = charts::heatmap("fig-distances", discovery)?;
    if map.is_none() && discovery.cohorts.is_empty() {
        return Ok(None);
    }
    let map = match map {
        None => None,
        Some(map) => {
            let names: Vec<&str> = map.order.iter().map(|&i| discovery.syndromes[i].as_str()).collect();
            Some(MapView {
                scale: charts::colour_scale("fig-colours", map.low, map.high)?,
                nearest: tables::nearest(discovery, &map.order),
                names: json_list(&names),
                figure: map.figure,
                levels: map.levels,
                low: map.low,
                high: map.high,
                tree: !discovery.merges.is_empty(),
            })
        }
    };
    let cohorts = (!discovery.cohorts.is_empty()).then(|| {
        let chart = charts::cohorts("fig-cohorts", &discovery.cohorts);
        (chart, tables::cohorts(discovery))
    });
    Ok(Some(DiscoverySection { map, pairs: tables::pairs(discovery), cohorts, note: discovery.note.clone() }))
}

/// Names as a JSON array for the script.
fn json_list(names: &[&str]) -> String {
    serde_json::Value::from(names.to_vec()).to_string()
}

fn newcomer(newcomer: &Newcomer) -> Option<NewcomerSection<'_>> {
    if *newcomer == Newcomer::default() {
        return None;
    }
    let table = (!newcomer.rows.is_empty()).then(|| {
        Accuracy::new(
            "Accuracy in percent on each site's own probes",
            &newcomer.rows,
            Some(&newcomer.site),
            newcomer.note.clone(),
        )
    });
    Some(NewcomerSection { newcomer, table })
}

fn traffic(data: &ReportData) -> Option<TrafficSection<'_>> {
    let traffic = data.traffic.as_ref()?;
    if traffic.sites.is_empty() || traffic.phases.is_empty() {
        return None;
    }
    let key = traffic
        .phases
        .iter()
        .enumerate()
        .map(|(i, phase)| (charts::square_swatch(i), phase.as_str()))
        .collect();
    Some(TrafficSection {
        chart: charts::traffic("fig-traffic", traffic),
        key,
        grid: tables::traffic(traffic),
        note: traffic.note.as_deref(),
    })
}

fn times(data: &ReportData) -> Option<TimeSection> {
    (!data.times.is_empty()).then(|| TimeSection {
        chart: charts::phase_times("fig-times", &data.times),
        grid: tables::times(&data.times),
    })
}

/// The facts that a template shows as a list.
impl Page<'_> {
    fn settings(&self) -> &[Fact] {
        &self.data.settings
    }
}

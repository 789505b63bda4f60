//! The HTML report: complete, self-contained, safe, and the same every time.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "report/sample.rs"]
mod sample;

use std::collections::BTreeSet;

use fedgestalt::report::{
    AccuracyRow, AccuracyTable, Attendance, Candidate, CohortSimilarity, Discovery, Fact, FourSettings,
    Merge, Newcomer, Pair, PhaseTime, Presence, Privacy, Probe, ReleaseFacts, ReportData, ReportError,
    RoundAttendance, RowKind, Series, SiteTraffic, Traffic, Training, render,
};
use sample::sample;

/// Elements without an end tag in HTML.
const VOID: [&str; 5] = ["meta", "img", "col", "br", "hr"];

/// Walks the tags of a page: every attribute is quoted, every element is closed in order. Gives the ids on the way
/// and the text of each `<style>` and `<script>`.
fn walk(html: &str) -> (Vec<String>, Vec<String>) {
    let mut open: Vec<String> = Vec::new();
    let mut ids = Vec::new();
    let mut raw = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if rest.starts_with("!DOCTYPE") {
            continue;
        }
        let end = tag_end(rest);
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closing order");
            continue;
        }
        let closed = tag.ends_with('/');
        let name = tag.split([' ', '/']).next().unwrap().to_owned();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "tag <{tag}>");
        attributes(tag[name.len()..].trim_end_matches('/'), &mut ids);
        if name == "style" || name == "script" {
            let stop = rest.find(&format!("</{name}>")).unwrap();
            raw.push(rest[..stop].to_owned());
            rest = &rest[stop..];
        }
        if !closed && !VOID.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    (ids, raw)
}

/// End of a tag: the first `>` outside quotes.
fn tag_end(tag: &str) -> usize {
    let mut quoted = false;
    tag.bytes()
        .position(|b| {
            quoted ^= b == b'"';
            b == b'>' && !quoted
        })
        .unwrap()
}

fn attributes(text: &str, ids: &mut Vec<String>) {
    let mut rest = text.trim();
    while !rest.is_empty() {
        let name_end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let name = &rest[..name_end];
        rest = rest[name_end..].trim_start();
        assert!(!name.starts_with("on"), "event handler {name}");
        assert_ne!(name, "style", "the policy forbids style attributes");
        let Some(value) = rest.strip_prefix("=\"") else {
            assert!(["open"].contains(&name), "attribute {name} of {text}");
            continue;
        };
        let close = value.find('"').unwrap();
        if name == "id" {
            ids.push(value[..close].to_owned());
        }
        rest = value[close + 1..].trim_start();
    }
}

#[test]
fn the_sample_is_a_well_formed_page_with_every_section() {
    let html = render(&sample()).unwrap();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html");
    std::fs::write(path, &html).unwrap();
    let (ids, raw) = walk(&html);
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "ids are unique");
    assert_eq!(raw.len(), 2, "one style sheet, one script");
    for section in [
        "accuracy",
        "training",
        "attendance",
        "probes",
        "discovery",
        "newcomer",
        "costs",
        "privacy",
        "release",
        "configuration",
    ] {
        assert!(ids.iter().any(|id| id == section), "section {section}");
        assert!(html.contains(&format!("href=\"#{section}\"")), "link to {section}");
    }
    for text in [
        "47.1<small class=\"kept low\">88.8\u{202f}%</small>",
        "keep 97.4\u{202f}% of centralised accuracy on average over 16 cells (lowest: 88.8\u{202f}% at frequent → frequent, top-1)",
        "27th of 322",
        "Nicolaides-Baraitser syndrome",
        "vanished before its upload",
        "9f2c4b1e7a60d3589c1f22aa80b7e4d61355cf0d8ea94b72610fd3c4e5a7b890",
    ] {
        assert!(html.contains(text), "{text}");
    }
}

#[test]
fn every_figure_is_named_and_described() {
    let html = render(&sample()).unwrap();
    let figures: Vec<&str> = html.split("<svg ").skip(1).collect();
    let described = figures.iter().filter(|f| f.contains("role=\"img\"")).count();
    assert_eq!(described, 4 + 4 + 1 + 2 + 1 + 2, "retention, curves, rounds, distances, cohorts, costs");
    for figure in figures {
        let svg = &figure[..figure.find("</svg>").unwrap()];
        let named =
            svg.contains("aria-labelledby=") && svg.contains("<title id=") && svg.contains("<desc id=");
        assert!(named || svg.contains("aria-hidden=\"true\""), "{}", &svg[..80]);
    }
    for image in html.split("<img ").skip(1) {
        let tag = &image[..tag_end(image)];
        assert!(tag.contains(" alt=\"") && !tag.contains("alt=\"\""), "a face without text");
    }
}

#[test]
fn nothing_is_fetched() {
    let html = render(&sample()).unwrap();
    let without_namespace = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for reference in ["http:", "https:", "@import", "url(", "<link", "<iframe", "fetch(", "<base"] {
        assert!(!without_namespace.contains(reference), "{reference}");
    }
    for attribute in [" src=\"", " href=\""] {
        for value in html.split(attribute).skip(1) {
            assert!(value.starts_with("data:image/") || value.starts_with('#'), "{}", &value[..40]);
        }
    }
    assert!(html.contains("default-src &#39;none&#39;"));
}

#[test]
fn the_policy_names_the_digests_of_style_and_script() {
    use sha2::{Digest, Sha256};
    let html = render(&sample()).unwrap();
    for text in walk(&html).1 {
        let digest = Picture64::encode(&Sha256::digest(text.as_bytes()));
        assert!(html.contains(&format!("&#39;sha256-{digest}&#39;")), "{digest}");
    }
}

/// Base64, written again here so that the page's own is not its own judge.
struct Picture64;

impl Picture64 {
    fn encode(bytes: &[u8]) -> String {
        let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
        let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
        let mut text: String = bits
            .chunks(6)
            .map(|six| {
                let value = (0..6).fold(0, |v, i| v << 1 | six.get(i).copied().unwrap_or(0));
                letters[usize::from(value)]
            })
            .collect();
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
        text
    }
}

#[test]
fn the_same_data_gives_the_same_page_also_after_json() {
    let data = sample();
    let html = render(&data).unwrap();
    assert_eq!(render(&data).unwrap(), html);
    let json = serde_json::to_string(&data).unwrap();
    let again: ReportData = serde_json::from_str(&json).unwrap();
    assert_eq!(render(&again).unwrap(), html);
}

#[test]
fn an_empty_report_has_a_title_and_no_sections() {
    let data = ReportData { title: "Nothing yet".to_owned(), ..ReportData::default() };
    let html = render(&data).unwrap();
    walk(&html);
    assert!(html.contains("<h1>Nothing yet</h1>"));
    assert!(!html.contains("<section") && !html.contains("<figure") && !html.contains("<dl"));
}

#[test]
fn empty_parts_leave_no_trace() {
    let data = ReportData {
        training: Some(Training::default()),
        discovery: Some(Discovery::default()),
        traffic: Some(Traffic::default()),
        attendance: Some(Attendance::default()),
        privacy: Some(Privacy::default()),
        newcomer: Some(Newcomer::default()),
        ..ReportData::default()
    };
    let html = render(&data).unwrap();
    walk(&html);
    assert!(!html.contains("<section"), "{}", &html[html.find("<section").unwrap()..]);
    // Each part of the sample alone is a page too.
    let whole = sample();
    let parts = [
        ReportData { accuracies: whole.accuracies, ..ReportData::default() },
        ReportData { training: whole.training, ..ReportData::default() },
        ReportData { probes: whole.probes, ..ReportData::default() },
        ReportData { discovery: whole.discovery, ..ReportData::default() },
        ReportData { traffic: whole.traffic, ..ReportData::default() },
        ReportData { times: whole.times, ..ReportData::default() },
        ReportData { newcomer: whole.newcomer, ..ReportData::default() },
        ReportData { attendance: whole.attendance, ..ReportData::default() },
        ReportData { privacy: whole.privacy, ..ReportData::default() },
        ReportData { release: whole.release, ..ReportData::default() },
        ReportData { configuration: whole.configuration, ..ReportData::default() },
    ];
    for part in parts {
        let html = render(&part).unwrap();
        walk(&html);
        assert_eq!(html.matches("<section ").count(), 1);
    }
}

const HOSTILE: &str = "</title></script></svg></table><script>alert(1)</script>\"' onload=x <img src=//evil.example/x> {{7*7}} & \u{0}\u{1b}";

/// A report in which every string is hostile.
fn hostile() -> ReportData {
    let bad = || HOSTILE.to_owned();
    let mut data = sample();
    data.title = bad();
    data.headline = Some(bad());
    data.date = Some(bad());
    data.generator = bad();
    data.settings = vec![Fact::new(HOSTILE, HOSTILE)];
    data.configuration = Some(bad());
    data.accuracies.note = Some(bad());
    for row in &mut data.accuracies.rows {
        (row.name, row.note) = (bad(), Some(bad()));
    }
    for member in &mut data.training.as_mut().unwrap().members {
        member.member = bad();
        for curves in [&mut member.loss, &mut member.accuracy] {
            for series in curves.sites.iter_mut().chain(&mut curves.global).chain(&mut curves.central) {
                series.name = bad();
            }
        }
    }
    for probe in &mut data.probes {
        (probe.name, probe.site, probe.note, probe.truth) = (bad(), Some(bad()), Some(bad()), bad());
        for candidate in &mut probe.candidates {
            (candidate.syndrome, candidate.id) = (bad(), Some(bad()));
        }
        for neighbour in &mut probe.nearest {
            (neighbour.syndrome, neighbour.site) = (bad(), Some(bad()));
        }
    }
    let discovery = data.discovery.as_mut().unwrap();
    discovery.note = Some(bad());
    discovery.syndromes.fill(bad());
    discovery.pairs = vec![Pair { a: bad(), b: bad(), distance: 0.1 }];
    for cohort in &mut discovery.cohorts {
        cohort.name = bad();
    }
    let traffic = data.traffic.as_mut().unwrap();
    traffic.note = Some(bad());
    traffic.phases.fill(bad());
    for site in &mut traffic.sites {
        site.site = bad();
    }
    for time in &mut data.times {
        (time.phase, time.note) = (bad(), Some(bad()));
    }
    let newcomer = data.newcomer.as_mut().unwrap();
    (newcomer.site, newcomer.note) = (bad(), Some(bad()));
    newcomer.steps.fill(bad());
    newcomer.facts = vec![Fact::new(HOSTILE, HOSTILE)];
    for row in &mut newcomer.rows {
        (row.name, row.note) = (bad(), Some(bad()));
    }
    data.attendance.as_mut().unwrap().sites.fill(bad());
    let privacy = data.privacy.as_mut().unwrap();
    privacy.summary = Some(bad());
    privacy.kept.fill(bad());
    privacy.limits.fill(bad());
    for left in &mut privacy.left {
        (left.what, left.to, left.protection, left.learns) = (bad(), bad(), bad(), bad());
    }
    data.release = Some(ReleaseFacts { digest: bad(), facts: vec![Fact::new(HOSTILE, HOSTILE)] });
    data
}

#[test]
fn hostile_strings_stay_text_everywhere() {
    let plain = render(&sample()).unwrap();
    let html = render(&hostile()).unwrap();
    walk(&html);
    for tag in ["<script", "</script", "</title", "<img src=//", "</svg></table>"] {
        let before = plain.matches(tag).count();
        let most = if tag == "</title" { html.matches("<title").count() } else { before };
        assert_eq!(html.matches(tag).count(), most, "{tag}");
    }
    assert!(html.contains("&lt;script&gt;alert(1)"));
    assert!(html.contains("{{7*7}}"), "given text is not a template");
    assert!(!html.contains("alert(1)</script>"));
}

#[test]
fn what_was_not_measured_is_a_dash_and_never_a_number() {
    let nan = f64::NAN;
    let nothing = FourSettings::default();
    let row = |kind| AccuracyRow { kind, spread: Some(nothing), ..AccuracyRow::default() };
    let mut data = sample();
    data.headline = None;
    data.accuracies = AccuracyTable {
        rows: vec![row(RowKind::Central), row(RowKind::Federated), row(RowKind::Local)],
        ..AccuracyTable::default()
    };
    let training = data.training.as_mut().unwrap();
    training.rounds_at = vec![nan, 5.0];
    for member in &mut training.members {
        for series in &mut member.loss.sites {
            series.points.fill((nan, nan));
        }
        member.loss.global = Some(Series {
            name: "g".to_owned(),
            points: vec![(1.0, nan), (2.0, f64::INFINITY), (3.0, 1.5), (nan, 1.0)],
        });
        member.accuracy.sites.clear();
        (member.accuracy.global, member.accuracy.central) = (None, None);
    }
    for probe in &mut data.probes {
        probe.position = None;
        for candidate in &mut probe.candidates {
            candidate.distance = nan;
        }
    }
    let discovery = data.discovery.as_mut().unwrap();
    discovery.distances.fill(nan);
    for merge in &mut discovery.merges {
        merge.height = nan;
    }
    for c in &mut discovery.cohorts {
        (c.mean, c.random_mean, c.random_low, c.random_high, c.p) = (nan, nan, f64::INFINITY, nan, nan);
    }
    for time in &mut data.times {
        time.seconds = nan;
    }
    let html = render(&data).unwrap();
    walk(&html);
    let page = &html[html.find("<body").unwrap()..html.rfind("<script").unwrap()];
    for word in ["NaN", "Infinity", "\"inf", ">inf"] {
        assert!(!page.contains(word), "{word} in {}", &page[page.find(word).unwrap() - 80..]);
    }
    assert!(page.contains("not ranked") && page.contains("<td>–</td>"));
    assert!(!page.contains("class=\"headline\""), "no sentence about nothing");
    // JSON has no NaN: null, and back.
    let again: ReportData = serde_json::from_str(&serde_json::to_string(&data).unwrap()).unwrap();
    assert!(again.accuracies.rows[0].values.rare_all[3].is_nan());
    assert!(again.discovery.unwrap().merges[0].height.is_nan());
}

#[test]
fn lists_that_do_not_fit_together_are_refused_by_name() {
    let discovery = |change: fn(&mut Discovery)| {
        let mut discovery = sample::discovery(5);
        change(&mut discovery);
        ReportData { discovery: Some(discovery), ..ReportData::default() }
    };
    let traffic = Traffic {
        phases: vec!["a".to_owned(), "b".to_owned()],
        sites: vec![SiteTraffic { site: "Bonn".to_owned(), sent: vec![1], received: Vec::new() }],
        note: None,
    };
    let attendance = Attendance {
        sites: vec!["Bonn".to_owned()],
        rounds: vec![RoundAttendance { round: 1, presence: vec![Presence::Away; 2] }],
    };
    let mut sizes = sample();
    sizes.accuracies.sizes.pop();
    let cases = [
        (sizes, "accuracies", "3 setting sizes"),
        (
            discovery(|d| d.distances.truncate(d.distances.len() - 1)),
            "discovery",
            "24 distances for 5 syndromes",
        ),
        (discovery(|d| d.merges.truncate(d.merges.len() - 1)), "discovery", "3 merges for 5 syndromes"),
        (discovery(|d| d.merges[0].a = 9), "discovery", "merge 0 joins cluster 9"),
        (discovery(|d| d.merges[1] = d.merges[0]), "discovery", "merge 1 joins cluster"),
        (discovery(|d| d.order[0] = d.order[1]), "discovery", "twice"),
        (discovery(|d| d.order[4] = 7), "discovery", "beyond 5"),
        (discovery(|d| d.order.truncate(d.order.len() - 1)), "discovery", "4 of 5"),
        (ReportData { traffic: Some(traffic), ..ReportData::default() }, "traffic", "site Bonn: 1 sent"),
        (
            ReportData { attendance: Some(attendance), ..ReportData::default() },
            "attendance",
            "round 1: 2 states",
        ),
    ];
    for (data, section, words) in cases {
        let error = render(&data).unwrap_err();
        assert!(matches!(error, ReportError::Shape { section: s, .. } if s == section));
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn odd_sizes_are_drawn() {
    for count in [0, 1, 2, 3, 30, 100] {
        let html = render(&ReportData { discovery: Some(sample::discovery(count)), ..ReportData::default() })
            .unwrap();
        walk(&html);
        assert_eq!(html.contains("fig-distances"), count >= 2, "{count}");
    }
    let flat = Discovery {
        syndromes: vec!["a".to_owned(), "b".to_owned()],
        distances: vec![0.3; 4],
        merges: vec![Merge { a: 0, b: 1, height: 0.3 }],
        cohorts: vec![CohortSimilarity {
            name: "c".to_owned(),
            size: 2,
            mean: 0.3,
            random_mean: 0.3,
            random_low: 0.3,
            random_high: 0.3,
            p: 1.0,
        }],
        ..Discovery::default()
    };
    let data = ReportData {
        discovery: Some(flat),
        probes: vec![Probe { candidates: vec![Candidate::default()], ..Probe::default() }],
        traffic: Some(Traffic {
            phases: vec!["a".to_owned()],
            sites: vec![SiteTraffic { site: "s".to_owned(), sent: vec![u64::MAX], received: vec![0] }],
            note: None,
        }),
        times: vec![PhaseTime::default(), PhaseTime { seconds: -1.0, ..PhaseTime::default() }],
        ..ReportData::default()
    };
    walk(&render(&data).unwrap());
}

#[test]
fn a_page_of_paper_scale_stays_small() {
    let mut discovery = sample::discovery(10);
    let n = 322;
    let mut dice = sample::Dice::new(1);
    discovery.syndromes = (0..n).map(|i| format!("Syndrome {i}")).collect();
    discovery.distances = (0..n * n).map(|_| dice.roll()).collect();
    discovery.merges.clear();
    discovery.order.clear();
    let mut data = sample();
    data.discovery = Some(discovery);
    let html = render(&data).unwrap();
    walk(&html);
    // Random cells are the worst case: two bitmaps of 103,684 cells and their levels.
    assert!(html.len() < 1_500_000, "{} bytes", html.len());
}

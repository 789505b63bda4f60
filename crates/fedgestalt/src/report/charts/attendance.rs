//! Who took part in which round: one line per site, one mark per round.

use crate::report::{
    Attendance, Presence,
    svg::{Anchor, Canvas, Markup, fit, text_width},
};

const ROW: f64 = 30.0;
const TOP: f64 = 30.0;

/// Style class and words for a state.
fn state(presence: Presence) -> (&'static str, &'static str) {
    match presence {
        Presence::Present => ("present", "took part"),
        Presence::DroppedBefore => ("dropped", "vanished before its upload"),
        Presence::DroppedAfter => ("after", "vanished after its upload, which counts"),
        Presence::Away => ("away", "was away"),
        Presence::Returned => ("returned", "came back and caught up"),
        Presence::Abstained => ("abstained", "sat the round out"),
    }
}

/// The mark of a state for the key, and its meaning.
pub(in crate::report) fn presence_mark(presence: Presence) -> (Markup, &'static str) {
    let mut canvas = Canvas::new(20.0, 20.0);
    mark(&mut canvas, presence, (10.0, 10.0), "");
    (canvas.ornament("swatch tall"), state(presence).1)
}

/// Shapes differ as well as colours.
fn mark(canvas: &mut Canvas, presence: Presence, (x, y): (f64, f64), hint: &str) {
    match presence {
        Presence::Present => canvas.circle("mark present", (x, y), 5.0, hint),
        Presence::DroppedBefore => {
            canvas.circle("mark hollow dropped", (x, y), 6.0, hint);
            canvas.polyline("mark stroke dropped", &[(x - 3.0, y - 3.0), (x + 3.0, y + 3.0)], "");
            canvas.polyline("mark stroke dropped", &[(x - 3.0, y + 3.0), (x + 3.0, y - 3.0)], "");
        }
        Presence::DroppedAfter => {
            canvas.circle("mark hollow dropped", (x, y), 6.0, hint);
            canvas.circle("mark present", (x, y), 3.0, "");
        }
        Presence::Away => canvas.circle("mark away", (x, y), 2.5, hint),
        Presence::Returned => {
            canvas.circle("mark present", (x, y), 5.0, hint);
            canvas.circle("mark hollow returned", (x, y), 8.0, "");
        }
        Presence::Abstained => {
            canvas.rect("mark hollow dropped", (x - 5.0, y - 5.0), (10.0, 10.0), hint);
        }
    }
}

/// The timeline.
pub(in crate::report) fn attendance(id: &str, attendance: &Attendance) -> Markup {
    let names: Vec<String> = attendance.sites.iter().map(|s| fit(s, 12.5, 200.0)).collect();
    let widest = names.iter().map(|n| text_width(n, 12.5)).fold(0.0, f64::max);
    let left = widest.clamp(30.0, 190.0) + 22.0;
    let rounds = attendance.rounds.len();
    let step = if rounds > 40 { 20.0 } else { 30.0 };
    let width = left + step * rounds as f64;
    let mut canvas = Canvas::new(width, TOP + ROW * names.len() as f64 + 4.0);
    let x = |round: usize| left + step * (round as f64 + 0.5);
    let y = |site: usize| TOP + ROW * (site as f64 + 0.5);
    let every = rounds.div_ceil(25).max(1);
    for (r, round) in attendance.rounds.iter().enumerate() {
        if r % every == 0 {
            canvas.text("tick", (x(r), 16.0), Anchor::Middle, &round.round.to_string());
        }
    }
    canvas.text("tick", (left - 12.0, 16.0), Anchor::End, "round");
    let mut told = Vec::new();
    for (s, name) in names.iter().enumerate() {
        canvas.text("label", (left - 12.0, y(s) + 4.0), Anchor::End, name);
        if rounds > 0 {
            canvas.line("grid", (x(0), y(s)), (x(rounds - 1), y(s)));
        }
        let counts = |r: usize| {
            let presence = attendance.rounds[r].presence[s];
            matches!(presence, Presence::Present | Presence::Returned | Presence::DroppedAfter)
        };
        for r in (1..rounds).filter(|&r| counts(r) && counts(r - 1)) {
            canvas.line("thread", (x(r - 1), y(s)), (x(r), y(s)));
        }
        for (r, round) in attendance.rounds.iter().enumerate() {
            let words = state(round.presence[s]).1;
            let hint = format!("Round {}, {}: {words}", round.round, attendance.sites[s]);
            mark(&mut canvas, round.presence[s], (x(r), y(s)), &hint);
            if round.presence[s] != Presence::Present {
                told.push(hint);
            }
        }
    }
    let description = if told.is_empty() {
        "Every site took part in every round.".to_owned()
    } else {
        format!("{}. In all other rounds the sites took part.", told.join(". "))
    };
    canvas.finish(id, "Sites and rounds", &description)
}

/// Everything that was not plain presence, one sentence each.
pub(in crate::report) fn events(attendance: &Attendance) -> Vec<(u32, String, &'static str)> {
    let mut events = Vec::new();
    for round in &attendance.rounds {
        for (site, &presence) in attendance.sites.iter().zip(&round.presence) {
            if presence != Presence::Present {
                events.push((round.round, site.clone(), state(presence).1));
            }
        }
    }
    events
}

//! Do the lists of a report fit together? Everything after this may index without fear.

use super::{ReportData, ReportError};

fn ensure(holds: bool, section: &'static str, detail: impl FnOnce() -> String) -> Result<(), ReportError> {
    if holds { Ok(()) } else { Err(ReportError::Shape { section, detail: detail() }) }
}

/// Checks lengths and indices of every section.
pub(super) fn check(data: &ReportData) -> Result<(), ReportError> {
    let sizes = data.accuracies.sizes.len();
    ensure(sizes == 0 || sizes == 4, "accuracies", || format!("{sizes} setting sizes, expected 4 or none"))?;
    if let Some(discovery) = &data.discovery {
        let n = discovery.syndromes.len();
        let cells = discovery.distances.len();
        ensure(cells == n * n, "discovery", || {
            format!("{cells} distances for {n} syndromes, expected {}", n * n)
        })?;
        let steps = discovery.merges.len();
        ensure(steps == 0 || steps + 1 == n, "discovery", || format!("{steps} merges for {n} syndromes"))?;
        let mut used = vec![false; n + steps];
        for (step, merge) in discovery.merges.iter().enumerate() {
            for cluster in [merge.a, merge.b] {
                let free = cluster < n + step && !used[cluster];
                ensure(free, "discovery", || {
                    format!("merge {step} joins cluster {cluster}, which is not there")
                })?;
                used[cluster] = true;
            }
        }
        let mut seen = vec![false; n];
        for &leaf in &discovery.order {
            let new = leaf < n && !seen[leaf];
            ensure(new, "discovery", || format!("leaf order names {leaf} twice or beyond {n}"))?;
            seen[leaf] = true;
        }
        let leaves = discovery.order.len();
        ensure(leaves == 0 || leaves == n, "discovery", || {
            format!("leaf order has {leaves} of {n} syndromes")
        })?;
    }
    if let Some(traffic) = &data.traffic {
        let phases = traffic.phases.len();
        for site in &traffic.sites {
            let (sent, received) = (site.sent.len(), site.received.len());
            let fits = sent == phases && (received == 0 || received == phases);
            ensure(fits, "traffic", || {
                format!("site {}: {sent} sent and {received} received for {phases} phases", site.site)
            })?;
        }
    }
    if let Some(attendance) = &data.attendance {
        let sites = attendance.sites.len();
        for round in &attendance.rounds {
            let states = round.presence.len();
            ensure(states == sites, "attendance", || {
                format!("round {}: {states} states for {sites} sites", round.round)
            })?;
        }
    }
    Ok(())
}

//! What can be asked of the program, one module for each command.

pub mod align;
pub mod cohort;
pub mod consortium;
pub mod coordinate;
pub mod demo;
pub mod discover;
pub mod encode;
pub mod engine;
pub mod evaluate;
pub mod experiment;
pub mod federate;
pub mod init;
pub mod rank;
pub mod site;
pub mod train;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use federation::{Party, SiteIndex};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::engine::host::Event;

/// A flag that is set when the program is asked to end; asked twice, it ends at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// An event as a line, with the sites' names.
fn told(event: &Event, name: impl Fn(SiteIndex) -> String) -> String {
    let party = |party: &Party| match party {
        Party::Coordinator => "coordinator".to_owned(),
        Party::Site(site) => name(*site),
    };
    match event {
        Event::Notice(Party::Site(site), text) => format!("{} {text}", name(*site)),
        Event::Notice(from, text) => format!("{}: {text}", party(from)),
        Event::Refused(by, why) => format!("{} refused a message: {why}", party(by)),
        Event::WentOn(sites) => {
            let names: Vec<String> = sites.iter().map(|&site| name(site)).collect();
            format!("waited long enough for {}", names.join(", "))
        }
        other => other.to_string(),
    }
}

//! The deployment material says what the program understands.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use clap::Parser;
use fedgestalt::cli::Cli;
use fedgestalt::config::Config;
use fedgestalt::engine::flower::PINNED;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words of a command line; quoted ones in one piece.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('"').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

fn understood(from: &str, line: &[String]) {
    if let Err(error) = Cli::try_parse_from(line) {
        panic!("{from}: {line:?}: {error}");
    }
}

#[test]
fn every_command_line_is_understood() {
    for name in ["hospital.md", "coordinator.md"] {
        let page = read(name);
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("fedgestalt ")).collect();
        assert_eq!(lines.len(), 4, "{name}");
        lines.into_iter().for_each(|line| understood(name, &words(line)));
    }
    for name in ["fedgestalt-site.service", "fedgestalt-coordinator.service"] {
        let unit = read(name);
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/")).unwrap();
        understood(name, &words(line));
        assert!(unit.contains("UMask=0077"), "{name}: secrets are for their owner");
    }
    let file = read("Containerfile");
    let entries: Vec<Vec<String>> = file
        .lines()
        .filter_map(|line| line.strip_prefix("ENTRYPOINT "))
        .map(|list| serde_json::from_str(list).unwrap())
        .collect();
    assert_eq!(entries.len(), 2);
    entries.iter().for_each(|line| understood("Containerfile", line));
    let run = file.lines().find_map(|line| line.strip_prefix("RUN fedgestalt")).unwrap();
    understood("Containerfile", &words(&format!("fedgestalt{run}")));
}

#[test]
fn the_sample_configurations_are_read_and_fit_each_other() {
    let path = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
    let site = Config::read(&path("site.toml")).unwrap();
    let coordinator = Config::read(&path("coordinator.toml")).unwrap();
    site.check().unwrap();
    coordinator.check().unwrap();
    assert_eq!(site.members, coordinator.members);
    // What the one plans, the other allows.
    assert!(coordinator.federation.blind || !site.policy.require_blind);
    assert!(coordinator.kernel.answers_per_site <= site.policy.maximum_answers);
    assert!(coordinator.kernel.distance_step >= site.policy.minimum_distance_step);
    for name in ["hospital.md", "coordinator.md"] {
        assert!(read(name).contains(".toml` beside this page"), "{name} does not name its sample");
    }
}

#[test]
fn flower_is_pinned_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in ["deploy/hospital.md", "deploy/coordinator.md", "deploy/Containerfile"] {
        let text = fs::read_to_string(root.join(name)).unwrap();
        assert!(!text.contains(PINNED), "{name} names Flower's version; `engine install` knows it");
    }
}

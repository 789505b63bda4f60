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
        assert_eq!(lines.len(), if name == "hospital.md" { 4 } else { 5 }, "{name}");
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

/// Words in backquotes that are commands of this program, in running text.
#[test]
fn every_command_in_the_text_is_understood() {
    for name in ["hospital.md", "coordinator.md"] {
        let page = read(name);
        let spans = page.split('`').skip(1).step_by(2).filter(|span| span.starts_with("fedgestalt "));
        for span in spans {
            let line = span.replace("--store ...", "--store s").replace("SUBJECT", "1").replace("NAME", "n");
            understood(name, &words(&line));
        }
        // Options that are named by themselves are those of some command, or of Flower's program.
        let mut command = <Cli as clap::CommandFactory>::command();
        command.build();
        let known: Vec<String> = all_options(&command);
        let flower = ["--enable-supernode-auth", "--isolation", "--superexec-auth-secret-file"];
        for option in page.split(['`', ' ', '\n', '(', ')', ',']).filter(|word| word.starts_with("--")) {
            assert!(flower.contains(&option) || known.iter().any(|k| k == option), "{name}: {option}");
        }
    }
}

fn all_options(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    own.chain(command.get_subcommands().flat_map(all_options)).collect()
}

#[test]
fn the_units_are_in_order_for_systemd() {
    let Ok(output) = std::process::Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("IGNORED: no systemd-analyze here, so the units are not checked by it");
        return;
    };
    assert!(output.status.success());
    let folder = tempfile::tempdir().unwrap();
    for name in ["fedgestalt-site.service", "fedgestalt-coordinator.service"] {
        let path = folder.path().join(name);
        // The program is installed where the unit says, and not where this test runs.
        fs::write(&path, read(name).replace("/usr/local/bin/fedgestalt", "/bin/true")).unwrap();
        let output = std::process::Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
        assert!(output.status.success() && about.is_empty(), "{name}: {said}");
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

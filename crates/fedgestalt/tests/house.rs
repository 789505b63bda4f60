//! ARCHITECTURE.md's invariants about who may depend on whom, checked on the manifests and the resolved dependencies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates by floor, from the ground.
const FLOORS: [&[&str]; 4] =
    [&["domain", "secure", "synthface"], &["vision", "learn"], &["federation"], &["fedgestalt"]];

/// What nothing below the binary may drag in: async, databases, sockets, the operating system's randomness.
const OUTSIDE: [&str; 10] = [
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "rusqlite",
    "libsqlite3-sys",
    "getrandom",
    "hyper",
    "ureq",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|crates| crates.contains(&name))
}

fn manifest(name: &str) -> toml::Table {
    let path = root().join("crates").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_crate_has_its_floor() {
    let found: BTreeSet<String> = std::fs::read_dir(root().join("crates"))
        .expect("the workspace has crates")
        .map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = FLOORS.concat().iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, known, "a new crate needs a floor here and a line in ARCHITECTURE.md");
}

#[test]
fn arrows_point_down_only() {
    for name in FLOORS.concat() {
        let table = manifest(name);
        let Some(dependencies) = table.get("dependencies").and_then(|d| d.as_table()) else { continue };
        for dependency in dependencies.keys() {
            if let Some(below) = floor(dependency) {
                let own = floor(name).expect("listed above");
                assert!(below < own, "{name} (floor {own}) must not depend on {dependency} (floor {below})");
            }
        }
    }
}

#[test]
fn below_the_binary_nothing_reaches_outside() {
    for name in FLOORS[..3].concat() {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "-p", name, "-e", "normal", "--prefix", "none", "--locked", "--offline"])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout).into_owned();
        let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(names.contains(name), "cargo tree lists the crate itself");
        let reached: Vec<&&str> = OUTSIDE.iter().filter(|outside| names.contains(**outside)).collect();
        assert!(reached.is_empty(), "{name} reaches outside through {reached:?}");
    }
}

#[test]
fn below_the_binary_nothing_opens_files_sockets_or_clocks() {
    for name in FLOORS[..3].concat() {
        for file in sources(&root().join("crates").join(name).join("src")) {
            let whole = std::fs::read_to_string(&file).expect("a readable source");
            // Tests may read their vectors.
            let text = whole.split("#[cfg(test)]").next().unwrap_or_default();
            if file.file_name().is_some_and(|name| name == "tests.rs")
                || file.iter().any(|part| part == "tests")
            {
                continue;
            }
            for word in ["std::fs", "std::net", "SystemTime", "Instant::now", "std::env"] {
                assert!(
                    !text.contains(word),
                    "{} uses {word}; pass bytes, seeds and time in",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_or_in_one_named_file() {
    for name in FLOORS.concat() {
        let table = manifest(name);
        let lints =
            table.get("lints").and_then(|l| l.as_table()).unwrap_or_else(|| panic!("{name} has no lints"));
        let workspace = lints.get("workspace").and_then(|w| w.as_bool()) == Some(true);
        let unsafe_code = lints.get("rust").and_then(|r| r.get("unsafe_code")).and_then(|u| u.as_str());
        let allowing: Vec<PathBuf> = sources(&root().join("crates").join(name).join("src"))
            .into_iter()
            .filter(|file| {
                std::fs::read_to_string(file).expect("a readable source").contains("allow(unsafe_code)")
            })
            .collect();
        match (workspace, unsafe_code) {
            (true, None) => assert!(allowing.is_empty(), "{name}: the workspace forbids unsafe code"),
            (false, Some("deny" | "forbid")) => {
                assert!(allowing.len() <= 1, "{name}: unsafe code in more than one file: {allowing:?}");
            }
            _ => panic!("{name} must take the workspace's lints, or deny unsafe_code in its own table"),
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a crate has sources") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

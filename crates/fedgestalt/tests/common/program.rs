//! The program itself, run in a working folder of its own on a consortium small enough for a test.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Seven syndromes, some ninety photographs, three rounds: all stages of a run, each as short as it can be.
pub(crate) const CONFIG: &str = r#"
[[members]]
name = "r50"
kind = "tuned"
recipe = "r50"

[[members]]
name = "r100"
kind = "tuned"
recipe = "r100"

[[members]]
name = "published"
kind = "published"

[training]
epochs = 3
interval = 1
draws = 2

[federation]
sites = 4

[kernel]
pooling = "nearest"
normalisation = "none"

[demo.small]
frequent_syndromes = 5
rare_syndromes = 3
images = 75
difficulty = 0.5
photo_size = 256
"#;

/// The settings of the table, as `results.json` names them.
pub(crate) const SETTINGS: [&str; 4] = ["frequent_frequent", "rare_rare", "frequent_all", "rare_all"];

/// A working folder with a configuration.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    /// A new one.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fedgestalt.toml"), CONFIG).unwrap();
        Self { folder }
    }

    /// A file or folder in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, about to run in it.
    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fedgestalt"));
        command.current_dir(self.folder.path()).args(args.split_whitespace());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that succeeds, with `--json`: what it wrote to standard output, which is one document.
    pub(crate) fn json(&self, args: &str) -> Value {
        let output = self.run(&format!("--json {args}"));
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        document(&output)
    }

    /// Runs a command that fails and says so in both ways: its message for a person.
    pub(crate) fn failure(&self, args: &str) -> String {
        let output = self.run(&format!("--json {args}"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args}: {text}");
        assert!(document(&output)["error"].is_string(), "{args}");
        assert!(!text.contains("panicked"), "{args}: {text}");
        text
    }
}

/// The one JSON document on standard output; anything before or behind it is an error.
pub(crate) fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// A JSON file.
pub(crate) fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

/// A results document without what no two runs share: times, memory, and bytes (a resumed run repeats messages).
pub(crate) fn lasting(results: &Value) -> Value {
    let mut results = results.clone();
    for name in ["seconds", "peak_rss_mb", "bytes_up_per_site"] {
        results.as_object_mut().unwrap().remove(name).unwrap();
    }
    results
}

/// Four accuracies in percent.
pub(crate) fn four(values: &Value) -> [f64; 4] {
    let values: Vec<f64> = values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    values.try_into().unwrap()
}

/// All files and folders below a folder.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

//! `[trunk]`: the network that members share, and what runs it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};

use super::empty_is_none;

/// `[trunk]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrunkConfig {
    /// The ONNX file; `None` (empty in the file) is the shipped network.
    #[serde(with = "empty_is_none")]
    pub file: Option<PathBuf>,
    /// Where it is cut.
    pub cut: Cut,
    /// What runs it.
    pub engine: Engine,
    /// The numbers it is computed in.
    pub precision: Precision,
    /// OpenVINO's library or the folder it lies in; `None` looks where installers put it.
    #[serde(with = "empty_is_none")]
    pub openvino: Option<PathBuf>,
    /// ONNX Runtime's library.
    #[serde(with = "empty_is_none")]
    pub onnxruntime: Option<PathBuf>,
    /// Folder for compiled networks and what was measured of them; `None` is the user's cache folder.
    #[serde(with = "empty_is_none")]
    pub cache: Option<PathBuf>,
    /// Crops that run through it at once, 1 to 1024.
    pub batch: usize,
}

impl Default for TrunkConfig {
    fn default() -> Self {
        Self {
            file: None,
            cut: Cut::Auto,
            engine: Engine::Auto,
            precision: Precision::Auto,
            openvino: None,
            onnxruntime: None,
            cache: None,
            batch: 16,
        }
    }
}

impl TrunkConfig {
    pub(super) fn check(&self, members: impl Iterator<Item = Precision>) -> anyhow::Result<()> {
        ensure!((1..=1024).contains(&self.batch), "[trunk] batch is {}; give 1 to 1024", self.batch);
        let bf16 = std::iter::once(self.precision).chain(members).any(|wish| wish == Precision::Bf16);
        if let (Some(engine), true) = (self.engine.of_f32_only(), bf16) {
            bail!(
                "[trunk] engine is \"{engine}\" and precision \"bf16\" is asked for, and {engine} computes in f32 only; give \
                 engine = \"openvino\" or \"auto\""
            );
        }
        Ok(())
    }

    /// This section with what belongs to the machine (engine, precision, libraries, cache, batch) taken from `here`,
    /// whose relative paths start from `base`.
    pub(super) fn on_machine(&self, here: &Self, base: &Path) -> Self {
        let seen = |path: &Option<PathBuf>| path.as_ref().map(|path| base.join(path));
        Self {
            file: self.file.clone(),
            cut: self.cut.clone(),
            engine: here.engine,
            precision: here.precision,
            openvino: seen(&here.openvino),
            onnxruntime: seen(&here.onnxruntime),
            cache: seen(&here.cache),
            batch: here.batch,
        }
    }
}

/// Where a trunk is cut, as written: `auto`, `end`, or the name of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Cut {
    /// Before Flatten, Gemm, BatchNormalization if the network ends so, else at its end.
    Auto,
    /// At its end.
    End,
    /// At this node's output.
    Node(String),
}

/// What runs a trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The fastest that is there; the shipped network always runs on rten.
    Auto,
    /// rten, pure Rust.
    Rten,
    /// The engine of this program for residual networks.
    Winograd,
    /// OpenVINO, whose library is found at run time.
    OpenVino,
    /// ONNX Runtime, where it is compiled in.
    OnnxRuntime,
}

impl Engine {
    /// Its name, if it cannot compute in bf16.
    pub(super) fn of_f32_only(self) -> Option<&'static str> {
        match self {
            Self::Rten => Some("rten"),
            Self::Winograd => Some("winograd"),
            Self::Auto | Self::OpenVino | Self::OnnxRuntime => None,
        }
    }
}

/// The numbers a trunk is computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where processor and engine have it and the features stay close enough to f32, else f32.
    Auto,
    /// Single precision.
    F32,
    /// bfloat16, if the features stay close enough to f32.
    Bf16,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::End => "end",
            Self::Node(name) => name,
        })
    }
}

impl FromStr for Cut {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(text.to_owned()))
    }
}

impl From<String> for Cut {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" | "" => Self::Auto,
            "end" => Self::End,
            _ => Self::Node(text),
        }
    }
}

impl From<Cut> for String {
    fn from(cut: Cut) -> String {
        cut.to_string()
    }
}

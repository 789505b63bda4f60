use std::path::PathBuf;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use vision::Search;

use super::{Engine, Precision};

/// `[detector]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectorConfig {
    /// The ONNX file; `None` (empty in the file): no detector.
    #[serde(with = "super::empty_is_none")]
    pub file: Option<PathBuf>,
    /// What runs it; libraries and cache are those of `[trunk]`.
    pub engine: Engine,
    /// The numbers it is computed in.
    pub precision: Precision,
    /// Lengths in pixels that the photograph's longer side is brought to, one after the other until there is a face.
    pub sides: Vec<usize>,
    /// Borders as shares of the photograph, tried one after the other with all sides.
    pub paddings: Vec<f32>,
    /// The score from which a detection is a face; 0 for the detector's own.
    pub threshold: f32,
    /// Whether a photograph with several faces is refused.
    pub strict: bool,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        let Search { sides, paddings, threshold, strict } = Search::default();
        Self {
            file: None,
            engine: Engine::Auto,
            precision: Precision::Auto,
            sides,
            paddings,
            threshold: threshold.unwrap_or(0.0),
            strict,
        }
    }
}

impl DetectorConfig {
    /// What the detector is told.
    pub fn search(&self) -> Search {
        Search {
            sides: self.sides.clone(),
            paddings: self.paddings.clone(),
            threshold: (self.threshold > 0.0).then_some(self.threshold),
            strict: self.strict,
        }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.engine != Engine::Winograd,
            "[detector] engine is \"winograd\", which runs trunks only; give \"auto\", \"rten\" or \"openvino\""
        );
        ensure!(
            !(self.engine == Engine::Rten && self.precision == Precision::Bf16),
            "[detector] engine is \"rten\" and precision \"bf16\" is asked for, and rten computes in f32 only; give engine = \"openvino\""
        );
        ensure!(
            !self.sides.is_empty() && self.sides.iter().all(|side| (32..=4096).contains(side)),
            "[detector] sides is {:?}; give one or more lengths from 32 to 4096",
            self.sides
        );
        ensure!(
            !self.paddings.is_empty() && self.paddings.iter().all(|padding| (0.0..=2.0).contains(padding)),
            "[detector] paddings is {:?}; give one or more shares from 0 to 2",
            self.paddings
        );
        ensure!(
            (0.0..1.0).contains(&self.threshold),
            "[detector] threshold is {}; give a score above 0 and below 1, or 0 for the detector's own",
            self.threshold
        );
        Ok(())
    }
}

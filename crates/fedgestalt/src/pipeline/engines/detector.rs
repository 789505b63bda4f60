//! Which engine runs a face detector.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use vision::detect::{Apart, OpenVinoOptions};
use vision::{Detector, OpenVino};

use super::{Engines, calibration};
use crate::config::{Engine, Precision};

/// Photographs from which a library is worth its start under `auto`.
pub const WORTH_AN_ENGINE: usize = 16;

/// How far an engine may be from rten: boxes and points in pixels of the detector's input, scores.
pub const MOST_APART: Apart = Apart { pixels: 0.1, score: 0.001 };

/// Rendered faces that engines are compared on, and the lengths that their photographs are brought to.
const PICTURES: u64 = 2;
const SIDES: [usize; 2] = [640, 320];

/// A detector, and why it is not run as wished, where it is not.
pub struct ChosenDetector {
    /// The detector.
    pub detector: Detector,
    /// Why.
    pub note: Option<String>,
}

/// How far an engine was from rten.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Distance {
    pixels: f32,
    score: f32,
}

impl Distance {
    fn is_close(self) -> bool {
        self.pixels <= MOST_APART.pixels && self.score <= MOST_APART.score
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "boxes and points are up to {:.4} pixels from rten's and scores {:.5}, and {} and {} are allowed",
            self.pixels, self.score, MOST_APART.pixels, MOST_APART.score
        )
    }
}

impl Engines<'_> {
    /// Loads a detector on the engine that the configuration asks for, to look at about so many photographs.
    ///
    /// # Errors
    ///
    /// When the file is not a detector of a known kind; when a named engine is not there, cannot run it or does not
    /// agree with rten.
    pub fn detector(&self, file: &[u8], photographs: usize) -> Result<ChosenDetector> {
        let precision = self.config.detector.precision;
        match self.config.detector.engine {
            Engine::Auto if photographs >= WORTH_AN_ENGINE => match self.openvino()? {
                None => self.detector_compiled_in(file, None),
                Some(library) => match self.detector_on_openvino(&library, file, precision, photographs) {
                    Ok(chosen) => Ok(chosen),
                    Err(error) => {
                        let note = format!("OpenVINO is not used for the detector: {error:#}");
                        self.detector_compiled_in(file, Some(note))
                    }
                },
            },
            Engine::Auto => self.detector_compiled_in(file, None),
            // The configuration refuses the engine for trunks.
            Engine::Rten | Engine::Winograd => {
                Ok(ChosenDetector { detector: Detector::parse(file)?, note: None })
            }
            Engine::OpenVino => {
                let library = self.needed_openvino("detector")?;
                self.detector_on_openvino(&library, file, precision, photographs)
            }
            Engine::OnnxRuntime => self.detector_on_onnxruntime(file),
        }
    }

    /// On the engine for separable convolutions if it takes the detector and agrees with rten, else on rten.
    fn detector_compiled_in(&self, file: &[u8], note: Option<String>) -> Result<ChosenDetector> {
        let reference = Detector::parse(file)?;
        let separable = reference.on_separable(file).ok().filter(|detector| {
            let distance = self.distance(detector, &reference, "separable 1", "");
            distance.is_ok_and(Distance::is_close)
        });
        Ok(ChosenDetector { detector: separable.unwrap_or(reference), note })
    }

    fn detector_on_openvino(
        &self,
        library: &Arc<OpenVino>,
        file: &[u8],
        precision: Precision,
        photographs: usize,
    ) -> Result<ChosenDetector> {
        let cache = self.cache_folder();
        let threads = rayon::current_num_threads();
        let photos = if photographs == 1 { 1 } else { threads };
        let reference = Detector::parse(file)?;
        let load = |precision| {
            let options = OpenVinoOptions { photos, threads, precision, cache: cache.as_deref() };
            reference.on_openvino(library, file, &options)
        };
        let name = format!("openvino {}", library.version());
        let mut note = None;
        // Not under `auto`: a detector is small, and bf16 moves points by tenths of a pixel.
        if precision == Precision::Bf16 {
            let detector = load(vision::Precision::Bf16)?;
            let distance = self.distance(&detector, &reference, &name, library.processor())?;
            if distance.is_close() {
                return Ok(ChosenDetector { detector, note });
            }
            note = Some(format!("bf16 is not used for the detector: {distance}"));
        }
        let detector = load(vision::Precision::F32)?;
        let distance = self.distance(&detector, &reference, &name, library.processor())?;
        accept(distance)?;
        Ok(ChosenDetector { detector, note })
    }

    #[cfg(feature = "onnxruntime")]
    fn detector_on_onnxruntime(&self, file: &[u8]) -> Result<ChosenDetector> {
        let library = self.onnxruntime()?;
        let reference = Detector::parse(file)?;
        let detector = reference.on_onnxruntime(&library, file, rayon::current_num_threads())?;
        accept(self.distance(&detector, &reference, "onnxruntime", "")?)?;
        Ok(ChosenDetector { detector, note: None })
    }

    #[cfg(not(feature = "onnxruntime"))]
    fn detector_on_onnxruntime(&self, _: &[u8]) -> Result<ChosenDetector> {
        Err(super::without_onnxruntime("detector"))
    }

    /// How far a detector is from itself on rten: as measured before, else measured now.
    fn distance(
        &self,
        detector: &Detector,
        reference: &Detector,
        engine: &str,
        processor: &str,
    ) -> Result<Distance> {
        let key = calibration::Key {
            trunk: hex::encode(detector.digest()),
            engine: engine.to_owned(),
            processor: processor.to_owned(),
            precision: detector.precision().to_string(),
            batch: 1,
        };
        let cache = self.cache_folder();
        if let Some(known) = cache.as_deref().and_then(|folder| calibration::read(folder, &key)) {
            return Ok(known);
        }
        let most = detector.fixed_input().map_or(usize::MAX, |[width, height]| width.min(height));
        let mut distance = Distance { pixels: 0.0, score: 0.0 };
        for person in 0..PICTURES {
            let (photo, _) = calibration::rendered(person)?;
            for side in SIDES {
                let apart = detector.apart(reference, &photo, side.min(most))?;
                distance.pixels = distance.pixels.max(apart.pixels);
                distance.score = distance.score.max(apart.score);
            }
        }
        if let Some(folder) = &cache {
            calibration::write(folder, &key, &distance);
        }
        Ok(distance)
    }
}

fn accept(distance: Distance) -> Result<()> {
    if !distance.is_close() {
        bail!("{distance}; use the engine rten");
    }
    Ok(())
}

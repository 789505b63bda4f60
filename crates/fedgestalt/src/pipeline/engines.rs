//! Which engine runs a network, and in which precision: the fastest that is there and gives the same features.

mod calibration;
mod detector;
mod library;
mod network_file;
mod speed;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use vision::openvino_trunk::Options;
use vision::views::VIEWS;
use vision::{OpenVino, OpenVinoTrunk, RtenTrunk, Trunk};

use crate::cohort_dir::CohortDir;
use crate::config::{Config, Engine, Precision};
use crate::pipeline::features::Crops;
use crate::store;
pub use calibration::{Agreement, FACES, LEAST_COSINE, LEAST_COSINE_F32};
pub use detector::{ChosenDetector, MOST_APART, WORTH_AN_ENGINE};
use domain::ImageId;
pub use network_file::{Neck, NetworkFile};

/// How a network is run; written into results, models and the release's card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runs {
    /// `rten`, `winograd`, `openvino`, `onnxruntime`.
    pub engine: String,
    /// Its version, where it is not compiled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `f32` or `bf16`.
    pub precision: String,
    /// How well the features agree with those of rten in f32; `None` for rten itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
}

impl Runs {
    /// Engine and precision.
    pub fn kind(&self) -> String {
        format!("{} {}", self.engine, self.precision)
    }

    fn rten() -> Self {
        Self { engine: "rten".to_owned(), version: None, precision: "f32".to_owned(), agreement: None }
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.engine)?;
        if let Some(version) = &self.version {
            write!(f, " {version}")?;
        }
        write!(f, " in {}", self.precision)?;
        match &self.agreement {
            Some(agreement) => write!(f, ", {agreement}"),
            None => Ok(()),
        }
    }
}

/// A trunk with how it is run and, where something was not as wished, why.
pub struct Chosen {
    /// The trunk.
    pub trunk: Box<dyn Trunk>,
    /// How it is run.
    pub runs: Runs,
    /// Why it is not run as wished.
    pub note: Option<String>,
}

/// CalibrationFaces that engines are compared on: the site's own where there are any.
pub struct CalibrationFaces<'a> {
    /// Where they come from.
    pub crops: &'a dyn Crops,
    /// Which there are.
    pub images: Vec<ImageId>,
}

impl<'a> CalibrationFaces<'a> {
    /// All images of a cohort.
    pub fn of(cohort: &CohortDir, crops: &'a dyn Crops) -> Self {
        Self { crops, images: cohort.cohort.cases().iter().map(|case| case.image.clone()).collect() }
    }
}

/// The engines at hand.
pub struct Engines<'a> {
    config: &'a Config,
    faces: Option<CalibrationFaces<'a>>,
    batch: usize,
    /// How many photographs come one at a time, if they do: all threads work on one batch, and networks are loaded in the least time.
    photographs: Option<usize>,
    cache: Option<PathBuf>,
    openvino: Mutex<Option<Option<Arc<OpenVino>>>>,
}

impl<'a> Engines<'a> {
    /// For a cohort: full batches.
    pub fn new(config: &'a Config, faces: Option<CalibrationFaces<'a>>) -> Self {
        let cache = match &config.trunk.cache {
            Some(folder) => Some(config.resolve(folder)),
            None => library::user_cache(),
        };
        let (batch, openvino) = (config.trunk.batch, Mutex::new(None));
        Self { config, faces, batch, photographs: None, cache, openvino }
    }

    /// For about so many photographs, one at a time: a photograph's views are a batch, on which all threads work together.
    #[must_use]
    pub fn for_photographs(self, photographs: usize) -> Self {
        Self { batch: VIEWS.min(self.batch), photographs: Some(photographs), ..self }
    }

    /// Loads a network on the engine that the configuration asks for. `shipped` tells of the network that comes with the
    /// program, which runs on rten unless another engine is named: its published numbers are rten's.
    ///
    /// # Errors
    ///
    /// When a named engine is not there or cannot run the network; with `auto`, when rten cannot run it.
    pub fn load(&self, file: &NetworkFile, precision: Precision, shipped: bool) -> Result<Chosen> {
        match self.config.trunk.engine {
            Engine::Rten => rten(file, None),
            Engine::Auto if shipped => rten(file, None),
            // Only OpenVINO computes in bf16.
            Engine::Auto if precision != Precision::Bf16 => match self.photographs {
                Some(photographs) => self.soonest(file, precision, photographs),
                None => self.fastest(file, precision),
            },
            Engine::Auto => self.fastest(file, precision),
            Engine::Winograd => self.on_winograd(file),
            Engine::OpenVino => self.on_openvino(&self.needed_openvino("trunk")?, file, precision),
            Engine::OnnxRuntime => self.on_onnxruntime(file, precision),
        }
    }

    /// The network on the engine of most crops in a second: OpenVINO where it computes in bf16, then our own for residual networks,
    /// then OpenVINO in f32, then rten.
    fn fastest(&self, file: &NetworkFile, precision: Precision) -> Result<Chosen> {
        let library = self.openvino()?;
        let in_bf16 = |library: &Arc<OpenVino>| library.has_bf16() && precision != Precision::F32;
        let mut openvino = None;
        if let Some(library) = library.as_ref().filter(|library| in_bf16(library)) {
            match self.on_openvino(library, file, precision) {
                Ok(chosen) if chosen.trunk.precision() == vision::Precision::Bf16 => return Ok(chosen),
                other => openvino = Some(other),
            }
        }
        let unlike = match self.on_winograd(file) {
            Ok(chosen) => {
                let note = match openvino {
                    Some(Ok(openvino)) => openvino.note,
                    Some(Err(error)) => Some(not_openvino(&error)),
                    None => (precision == Precision::Bf16).then(|| {
                        "bf16 needs OpenVINO and a processor that computes in it: f32 is used".to_owned()
                    }),
                };
                return Ok(Chosen { note, ..chosen });
            }
            Err(error) => unlike(&error),
        };
        match openvino.or_else(|| library.map(|library| self.on_openvino(&library, file, precision))) {
            None => rten(file, unlike),
            Some(Ok(chosen)) => Ok(Chosen { note: chosen.note.clone().or(unlike), ..chosen }),
            Some(Err(error)) => rten(file, Some(not_openvino(&error))),
        }
    }

    fn on_winograd(&self, file: &NetworkFile) -> Result<Chosen> {
        let f32 = vision::Precision::F32;
        let (trunk, agreement) = self.measured(file, "winograd 2", "", f32, &|_| file.on_winograd())?;
        accept_f32(&agreement)?;
        Ok(chosen(trunk, None, agreement, None))
    }

    /// OpenVINO's library, which this section of the configuration asks for.
    fn needed_openvino(&self, section: &str) -> Result<Arc<OpenVino>> {
        self.openvino()?.with_context(|| {
            format!(
                "[{section}] engine is \"openvino\", and its library is not there; `pip install openvino`, or name its \
                 folder in [trunk] openvino"
            )
        })
    }

    /// OpenVINO's library, looked for once; `None` if there is none.
    fn openvino(&self) -> Result<Option<Arc<OpenVino>>> {
        let mut looked = self.openvino.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = looked.as_ref() {
            return Ok(found.clone());
        }
        let library = self.openvino_file()?.map(|file| library::load_openvino(&file)).transpose();
        let library = match &self.config.trunk.openvino {
            Some(_) => library?,
            // A library that nobody asked for and that cannot be loaded is as good as none.
            None => library.unwrap_or_default(),
        };
        Ok(looked.insert(library).clone())
    }

    /// Where OpenVINO's library is, if it is anywhere.
    fn openvino_file(&self) -> Result<Option<PathBuf>> {
        let Some(named) = self.config.trunk.openvino.as_ref().map(|path| self.config.resolve(path)) else {
            return Ok(library::openvino());
        };
        let found = library::openvino_in(&named);
        found
            .map(Some)
            .with_context(|| format!("[trunk] openvino: {} holds no libopenvino_c", named.display()))
    }

    /// The first of the wished precisions in which the features agree with rten's.
    fn on_openvino(
        &self,
        library: &Arc<OpenVino>,
        file: &NetworkFile,
        precision: Precision,
    ) -> Result<Chosen> {
        let mut note = None;
        let version = library.version().split('-').next();
        let bf16 = match precision {
            Precision::F32 => false,
            Precision::Auto => library.has_bf16(),
            Precision::Bf16 if library.has_bf16() => true,
            Precision::Bf16 => {
                note = Some("this processor does not compute in bf16: f32 is used".to_owned());
                false
            }
        };
        if bf16 {
            let (trunk, agreement) = self.measured_openvino(library, file, vision::Precision::Bf16)?;
            if agreement.cosine >= LEAST_COSINE {
                return Ok(chosen(trunk, version, agreement, note));
            }
            note = Some(format!("bf16 is not used: {agreement}, and {LEAST_COSINE} is asked for"));
        }
        let (trunk, agreement) = self.measured_openvino(library, file, vision::Precision::F32)?;
        accept_f32(&agreement)?;
        Ok(chosen(trunk, version, agreement, note))
    }

    fn measured_openvino(
        &self,
        library: &Arc<OpenVino>,
        file: &NetworkFile,
        precision: vision::Precision,
    ) -> Result<(OpenVinoTrunk, Agreement)> {
        let cache = self.cache_folder();
        let name = format!("openvino {}", library.version());
        self.measured(file, &name, library.processor(), precision, &|batch| {
            let threads = rayon::current_num_threads();
            let streams = if self.photographs.is_some() { 1 } else { threads };
            let options = Options { streams, threads, batch, precision, cache: cache.as_deref() };
            let known = cache.as_ref().and_then(|_| file.with_batch(batch));
            let known = known.map(|path| OpenVinoTrunk::from_file(library, &path, &file.facts, &options));
            match known {
                Some(Ok(trunk)) => Ok(trunk),
                // From its own bytes it may do with another batch, or say better what is wrong.
                _ => Ok(OpenVinoTrunk::new(library, &file.trunk_file()?, &options)?),
            }
        })
    }

    /// The network on an engine, and how well it agrees with rten: as measured before, else measured now. `make` loads it
    /// for a size of batch.
    fn measured<T: Trunk>(
        &self,
        file: &NetworkFile,
        engine: &str,
        processor: &str,
        precision: vision::Precision,
        make: &dyn Fn(usize) -> Result<T>,
    ) -> Result<(T, Agreement)> {
        let cache = self.cache_folder();
        let key = calibration::Key {
            trunk: hex::encode(file.facts.digest),
            engine: engine.to_owned(),
            processor: processor.to_owned(),
            precision: precision.to_string(),
            batch: self.batch,
        };
        let own = self.faces.as_ref().is_some_and(|faces| !faces.images.is_empty());
        let known = cache.as_deref().and_then(|folder| calibration::read::<Agreement>(folder, &key));
        if let Some(known) = known.filter(|known| known.serves(own)) {
            return Ok((make(if known.crops_apart { self.batch } else { 1 })?, known));
        }
        let mut trunk = make(self.batch)?;
        let crops_apart = vision::keeps_crops_apart(&trunk, self.batch)?;
        if !crops_apart {
            trunk = make(1)?;
        }
        let (crops, own) = calibration::crops(self.faces.as_ref())?;
        let reference = RtenTrunk::new(file.trunk_file()?)?;
        let cosine = calibration::least_cosine(&trunk, &reference, &crops)?;
        let agreement = Agreement { cosine, faces: crops.len(), own, crops_apart };
        if let Some(folder) = &cache {
            calibration::write(folder, &key, &agreement);
        }
        Ok((trunk, agreement))
    }

    /// The folder for what is found out about networks and for compiled ones; `None` where there is none or it cannot be
    /// made: everything works without.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        let folder = self.cache.as_ref()?;
        store::make_folder(folder).ok()?;
        Some(folder.clone())
    }

    #[cfg(feature = "onnxruntime")]
    fn onnxruntime(&self) -> Result<vision::OnnxRuntime> {
        let name = match &self.config.trunk.onnxruntime {
            Some(path) => self.config.resolve(path),
            None => PathBuf::from(library::named("onnxruntime")),
        };
        Ok(vision::OnnxRuntime::load(&name)?)
    }

    #[cfg(feature = "onnxruntime")]
    fn on_onnxruntime(&self, file: &NetworkFile, precision: Precision) -> Result<Chosen> {
        let library = self.onnxruntime()?;
        let threads = rayon::current_num_threads();
        let f32 = vision::Precision::F32;
        let (trunk, agreement) = self.measured(file, "onnxruntime", "", f32, &|batch| {
            Ok(vision::OnnxRuntimeTrunk::new(&library, &file.trunk_file()?, threads, batch)?)
        })?;
        accept_f32(&agreement)?;
        let note = (precision == Precision::Bf16).then(|| "ONNX Runtime is used in f32 only".to_owned());
        Ok(chosen(trunk, None, agreement, note))
    }

    #[cfg(not(feature = "onnxruntime"))]
    fn on_onnxruntime(&self, _: &NetworkFile, _: Precision) -> Result<Chosen> {
        Err(without_onnxruntime("trunk"))
    }
}

#[cfg(not(feature = "onnxruntime"))]
fn without_onnxruntime(section: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "[{section}] engine is \"onnxruntime\", and this program is built without it; build it with `--features \
         onnxruntime`, or give \"auto\""
    )
}

fn rten(file: &NetworkFile, note: Option<String>) -> Result<Chosen> {
    Ok(Chosen { trunk: Box::new(file.on_rten()?), runs: Runs::rten(), note })
}

/// Why a network that our own engine takes is not run on it; that it is of another kind is nothing to tell.
fn unlike(error: &anyhow::Error) -> Option<String> {
    (!error.is::<vision::Error>()).then(|| format!("winograd is not used: {error:#}"))
}

fn not_openvino(error: &anyhow::Error) -> String {
    format!("OpenVINO is not used: {error:#}")
}

fn accept_f32(agreement: &Agreement) -> Result<()> {
    if agreement.cosine < LEAST_COSINE_F32 {
        bail!("{agreement}, and {LEAST_COSINE_F32} is asked for in f32; use the engine rten");
    }
    Ok(())
}

fn chosen(
    trunk: impl Trunk + 'static,
    version: Option<&str>,
    agreement: Agreement,
    note: Option<String>,
) -> Chosen {
    let runs = Runs {
        engine: trunk.engine().to_owned(),
        version: version.map(str::to_owned),
        precision: trunk.precision().to_string(),
        agreement: Some(agreement),
    };
    Chosen { trunk: Box::new(trunk), runs, note }
}

//! OpenVINO's library, which is loaded at run time from where the caller says, and what trunks and detectors share of
//! it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use openvino::{
    CompiledModel, Core, DeviceType, Dimension, InferenceError, PartialShape, PropertyKey, RwPropertyKey,
};

use crate::engine::{guarded, no_library, unusable};
use crate::error::{Error, Result};
use crate::openvino_file::FileNetwork;
use crate::trunk::Precision;

pub(crate) const OPENVINO: &str = "OpenVINO";

/// OpenVINO's library, loaded into the process; a process has one.
pub struct OpenVino {
    core: Mutex<Core>,
    version: String,
    processor: String,
    bf16: bool,
}

impl OpenVino {
    /// Loads `libopenvino_c` (of OpenVINO 2025.1 or later) from this file. A second call gives the library that was
    /// loaded first.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) if the file is no such library, or it has no CPU plugin.
    pub fn load(library: &Path) -> Result<Self> {
        guarded(OPENVINO, "load its library for", || {
            let unusable =
                |e: &dyn std::fmt::Display| no_library(library, OPENVINO, "OpenVINO 2025.1 or later", e);
            openvino_sys::library::load_from(library).map_err(|e| unusable(&e))?;
            let core = Core::new().map_err(|e| unusable(&e))?;
            let property = |key| core.get_property(&DeviceType::CPU, &key).map_err(|e| unusable(&e));
            let (able, processor) =
                (property(PropertyKey::DeviceCapabilities)?, property(PropertyKey::DeviceFullName)?);
            Ok(Self {
                core: Mutex::new(core),
                version: openvino::version().build_number,
                processor,
                bf16: able.split_whitespace().any(|capability| capability == "BF16"),
            })
        })
    }

    /// The library's version, e.g. `2026.4.1-...`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The processor's name.
    pub fn processor(&self) -> &str {
        &self.processor
    }

    /// Whether this processor multiplies bfloat16 numbers in hardware.
    pub fn has_bf16(&self) -> bool {
        self.bf16
    }

    /// Compiles a network of one input, whose shape becomes `shape`; `None` stands for a length that is free.
    pub(crate) fn compile(
        &self,
        model: &[u8],
        shape: [Option<usize>; 4],
        settings: &Settings<'_>,
    ) -> Result<CompiledModel> {
        let mut core = self.core();
        for (key, value) in settings.properties() {
            core.set_property(&DeviceType::CPU, &key, &value).map_err(cannot)?;
        }
        let mut model = core.read_model_from_buffer(model, None).map_err(cannot)?;
        let dimension = |length: Option<usize>| {
            let [least, most] = length.map_or([-1; 2], |length| [length as i64; 2]);
            Dimension::new(least, most)
        };
        let shape = PartialShape::new(4, &shape.map(dimension)).map_err(cannot)?;
        model.reshape_single_input(&shape).map_err(cannot)?;
        core.compile_model(&model, DeviceType::CPU).map_err(cannot)
    }

    /// Compiles the network of a file that fixes its input's shape. With a cache it is found there without being read.
    pub(crate) fn compile_file(&self, file: &Path, settings: &Settings<'_>) -> Result<FileNetwork> {
        FileNetwork::compile(file, &settings.properties())
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a network is compiled.
pub(crate) struct Settings<'a> {
    /// Inputs computed at a time.
    pub(crate) streams: usize,
    /// Threads of all of them together.
    pub(crate) threads: usize,
    pub(crate) precision: Precision,
    /// Folder in which OpenVINO keeps compiled networks.
    pub(crate) cache: Option<&'a Path>,
}

impl Settings<'_> {
    fn properties(&self) -> [(RwPropertyKey, String); 5] {
        let cache = self.cache.map(|folder| folder.to_string_lossy().into_owned()).unwrap_or_default();
        [
            (RwPropertyKey::HintInferencePrecision, self.precision.to_string()),
            (RwPropertyKey::NumStreams, self.streams.to_string()),
            (RwPropertyKey::InferenceNumThreads, self.threads.to_string()),
            // Threads that are bound to cores fare badly beside other work.
            (RwPropertyKey::HintEnableCpuPinning, "NO".to_owned()),
            (RwPropertyKey::CacheDir, cache),
        ]
    }
}

pub(crate) fn cannot(error: InferenceError) -> Error {
    unusable(OPENVINO, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_file_that_is_no_library_is_refused_by_name() {
        let error =
            OpenVino::load(Path::new("/nowhere/libopenvino_c.so")).map(|_| ()).expect_err("no library");
        assert_eq!(error.kind(), ErrorKind::Engine);
        let text = error.to_string();
        assert!(text.contains("/nowhere/libopenvino_c.so") && text.contains("install OpenVINO"), "{text}");
    }
}

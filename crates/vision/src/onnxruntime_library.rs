//! ONNX Runtime's library, which is loaded at run time from where the caller says.

use std::path::Path;

use ort::environment::Environment;
use ort::ep;
use ort::session::Session;

use crate::engine::{guarded, no_library, unusable};
use crate::error::{Error, Result};

pub(crate) const ONNX_RUNTIME: &str = "ONNX Runtime";

/// ONNX Runtime's library, loaded into the process; a process has one.
pub struct OnnxRuntime {
    environment: Environment,
}

impl OnnxRuntime {
    /// Loads `libonnxruntime` (1.17 or later) from this file, or from where the system's loader finds that name. It is
    /// told to send nothing to its makers.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) if the file is no such library.
    pub fn load(library: &Path) -> Result<Self> {
        guarded(ONNX_RUNTIME, "load its library for", || {
            let unusable = |e: &dyn std::fmt::Display| {
                no_library(library, ONNX_RUNTIME, "ONNX Runtime 1.17 or later", e)
            };
            let builder = ort::init_from(library).map_err(|e| unusable(&e))?;
            let environment = builder.with_telemetry(false).build().map_err(|e| unusable(&e))?;
            Ok(Self { environment })
        })
    }

    /// Loads a network: for TensorRT or CUDA where library and machine have them, else for `threads` threads of the
    /// processor.
    pub(crate) fn session(&self, model: &[u8], threads: usize) -> Result<Session> {
        guarded(ONNX_RUNTIME, "load", || {
            // The exhaustive search for kernels times them: which one wins, and so the last bits, would depend on luck.
            let search = ep::cuda::ConvAlgorithmSearch::Heuristic;
            let cards = [
                ep::TensorRT::default().build(),
                ep::CUDA::default().with_conv_algorithm_search(search).with_tf32(false).build(),
            ];
            let build = || -> ort::Result<Session> {
                let builder = Session::builder(&self.environment)?;
                let builder = builder.with_intra_threads(threads.max(1))?;
                builder.with_execution_providers(cards)?.commit_from_memory(model)
            };
            build().map_err(cannot)
        })
    }
}

pub(crate) fn cannot(error: ort::Error) -> Error {
    unusable(ONNX_RUNTIME, error)
}

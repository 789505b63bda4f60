//! Trunks on ONNX Runtime, for graphics cards; its library is loaded at run time from where the caller says.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use ort::value::TensorRef;

use crate::crop::{CROP_SIDE, Crop};
use crate::engine::guarded;
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::TrunkFile;
use crate::trunk::{INPUT_LEN, Precision, Trunk, check_finite, check_out, check_promise, to_input};

const ONNX_RUNTIME: &str = "ONNX Runtime";

/// ONNX Runtime's library, loaded into the process; a process has one.
pub struct OnnxRuntime {
    environment: Environment,
}

impl OnnxRuntime {
    /// Loads `libonnxruntime` (1.17 or later) from this file, or from where the system's loader finds that name. It is
    /// told to send nothing to its makers.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if the file is no such library.
    pub fn load(library: &Path) -> Result<Self> {
        guarded(ONNX_RUNTIME, "load its library for", || {
            let unusable = |e: &dyn std::fmt::Display| {
                Error::new(
                    ErrorKind::Engine,
                    format!(
                        "{} cannot be used as ONNX Runtime's library: {e}; install ONNX Runtime 1.17 or later",
                        library.display()
                    ),
                )
            };
            let builder = ort::init_from(library).map_err(|e| unusable(&e))?;
            let environment = builder.with_telemetry(false).build().map_err(|e| unusable(&e))?;
            Ok(Self { environment })
        })
    }
}

/// A network run by ONNX Runtime: on TensorRT or CUDA where library and machine have them, else on the processor.
///
/// Every batch has the same size (the last one is filled up with black crops), so that the same kernels run for every
/// crop.
pub struct OnnxRuntimeTrunk {
    session: Mutex<Session>,
    batch: usize,
    output_len: usize,
    digest: [u8; 32],
}

impl OnnxRuntimeTrunk {
    /// Loads a network that runs `batch` (at least 1) crops at a time, on the processor with `threads` threads.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if ONNX Runtime cannot load it, or a run on black crops fails or gives numbers of another
    /// shape than the file promises.
    pub fn new(library: &OnnxRuntime, file: &TrunkFile, threads: usize, batch: usize) -> Result<Self> {
        let session = guarded(ONNX_RUNTIME, "load", || {
            // The exhaustive search for kernels times them: which one wins, and so the last bits, would depend on luck.
            let search = ep::cuda::ConvAlgorithmSearch::Heuristic;
            let cards = [
                ep::TensorRT::default().build(),
                ep::CUDA::default().with_conv_algorithm_search(search).with_tf32(false).build(),
            ];
            let build = || -> ort::Result<Session> {
                let builder = Session::builder(&library.environment)?;
                let builder = builder.with_intra_threads(threads.max(1))?;
                builder.with_execution_providers(cards)?.commit_from_memory(file.model())
            };
            build().map_err(unusable)
        })?;
        let mut trunk =
            Self { session: Mutex::new(session), batch: batch.max(1), output_len: 0, digest: file.digest };
        let numbers = trunk.run(&[], |found| Ok(found.len()))?;
        trunk.output_len = numbers / trunk.batch;
        check_promise(trunk.output_len, file.output_len, &file.cut)?;
        Ok(trunk)
    }

    /// Runs one batch, filled up with black crops.
    fn run<R>(&self, crops: &[Crop], take: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        let black = Crop::black();
        let mut input = vec![0.0; self.batch * INPUT_LEN];
        let filled = crops.iter().chain(std::iter::repeat(&black));
        for (crop, planes) in filled.zip(input.chunks_exact_mut(INPUT_LEN)) {
            to_input(crop, planes);
        }
        guarded(ONNX_RUNTIME, "run", || {
            let shape = [self.batch, 3, CROP_SIDE, CROP_SIDE];
            let input = TensorRef::from_array_view((shape, input.as_slice())).map_err(unusable)?;
            let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            let outputs = session.run(ort::inputs![input]).map_err(unusable)?;
            let (_, features) = outputs[0].try_extract_tensor::<f32>().map_err(unusable)?;
            take(features)
        })
    }
}

impl Trunk for OnnxRuntimeTrunk {
    fn output_len(&self) -> usize {
        self.output_len
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn features(&self, crops: &[Crop], out: &mut [f32]) -> Result<()> {
        check_out(crops.len(), self.output_len, out)?;
        for (crops, out) in crops.chunks(self.batch).zip(out.chunks_mut(self.batch * self.output_len)) {
            self.run(crops, |features| {
                check_finite(features)?;
                out.copy_from_slice(&features[..out.len()]);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn engine(&self) -> &str {
        "onnxruntime"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

fn unusable(error: ort::Error) -> Error {
    Error::with_source(
        ErrorKind::Engine,
        format!("ONNX Runtime cannot run the network; use the engine rten for it: {error}"),
        error,
    )
}

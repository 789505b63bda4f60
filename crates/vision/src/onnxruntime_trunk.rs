//! Trunks on ONNX Runtime, for graphics cards.

use std::sync::{Mutex, PoisonError};

use ort::session::Session;
use ort::value::TensorRef;

use crate::crop::{CROP_SIDE, Crop};
use crate::engine::guarded;
use crate::error::Result;
use crate::onnx::TrunkFile;
use crate::onnxruntime_library::{ONNX_RUNTIME, OnnxRuntime, cannot};
use crate::trunk::{INPUT_LEN, Precision, Trunk, check_finite, check_out, check_promise, fill};

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
        let session = library.session(file.model(), threads)?;
        let mut trunk =
            Self { session: Mutex::new(session), batch: batch.max(1), output_len: 0, digest: file.digest };
        let numbers = trunk.run(&[], |found| Ok(found.len()))?;
        trunk.output_len = numbers / trunk.batch;
        check_promise(trunk.output_len, file.output_len, &file.cut)?;
        Ok(trunk)
    }

    /// Runs one batch, filled up with black crops.
    fn run<R>(&self, crops: &[Crop], take: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        let mut input = vec![0.0; self.batch * INPUT_LEN];
        fill(crops, &mut input);
        guarded(ONNX_RUNTIME, "run", || {
            let shape = [self.batch, 3, CROP_SIDE, CROP_SIDE];
            let input = TensorRef::from_array_view((shape, input.as_slice())).map_err(cannot)?;
            let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            let outputs = session.run(ort::inputs![input]).map_err(cannot)?;
            let (_, features) = outputs[0].try_extract_tensor::<f32>().map_err(cannot)?;
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

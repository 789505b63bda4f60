//! Detectors on ONNX Runtime.

use std::sync::{Mutex, PoisonError};

use ort::session::Session;
use ort::value::TensorRef;

use super::{Output, Runner};
use crate::engine::guarded;
use crate::error::Result;
use crate::onnxruntime_library::{ONNX_RUNTIME, OnnxRuntime, cannot};
use crate::trunk::Precision;

pub(in crate::detect) struct OnnxRuntimeRunner(Mutex<Session>);

impl OnnxRuntimeRunner {
    pub(in crate::detect) fn load(library: &OnnxRuntime, file: &[u8], threads: usize) -> Result<Self> {
        library.session(file, threads).map(|session| Self(Mutex::new(session)))
    }
}

impl Runner for OnnxRuntimeRunner {
    fn outputs(&self, [width, height]: [usize; 2], input: &[f32]) -> Result<Vec<Output>> {
        let mut session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guarded(ONNX_RUNTIME, "run", || {
            let input = TensorRef::from_array_view(([1, 3, height, width], input)).map_err(cannot)?;
            let outputs = session.run(ort::inputs![input]).map_err(cannot)?;
            let output = |at: usize| {
                let (shape, values) = outputs[at].try_extract_tensor::<f32>().map_err(cannot)?;
                let shape = shape.iter().map(|&length| length as usize).collect();
                Ok(Output { shape, values: values.to_vec() })
            };
            (0..outputs.len()).map(output).collect()
        })
    }

    fn engine(&self) -> &'static str {
        "onnxruntime"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

//! Detectors on OpenVINO.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::openvino::{CompiledModel, ElementType, InferRequest, InferenceError, Shape, Tensor};

use super::{Output, Runner};
use crate::engine::guarded;
use crate::error::Result;
use crate::openvino_library::{OPENVINO, OpenVino, Settings, cannot};
use crate::trunk::Precision;

/// How OpenVINO runs a detector.
#[derive(Debug, Clone)]
pub struct OpenVinoOptions<'a> {
    /// Photographs looked at at a time; at least 1.
    pub photos: usize,
    /// Threads of all of them together; at least as many.
    pub threads: usize,
    /// Numbers that the layers are computed in.
    pub precision: Precision,
    /// Folder in which OpenVINO keeps compiled networks, so that the next process starts faster.
    pub cache: Option<&'a Path>,
}

pub(in crate::detect) struct OpenVinoRunner {
    lanes: Vec<Mutex<Lane>>,
    outputs: usize,
    precision: Precision,
    // Goes last: requests and network live in the library.
    _network: Mutex<CompiledModel>,
    _library: Arc<OpenVino>,
}

struct Lane {
    request: InferRequest,
    /// The input, and the canvas that it is for.
    input: Option<([usize; 2], Tensor)>,
}

impl OpenVinoRunner {
    /// Compiles the network for any size, or for the width and height that it is fixed at.
    pub(in crate::detect) fn load(
        library: &Arc<OpenVino>,
        file: &[u8],
        fixed: Option<[usize; 2]>,
        options: &OpenVinoOptions<'_>,
    ) -> Result<Self> {
        guarded(OPENVINO, "load", || {
            let lanes = options.photos.max(1);
            let settings = Settings {
                streams: lanes,
                threads: options.threads.max(lanes),
                precision: options.precision,
                cache: options.cache,
            };
            let [width, height] = fixed.map_or([None; 2], |fixed| fixed.map(Some));
            let mut network = library.compile(file, [Some(1), Some(3), height, width], &settings)?;
            let lanes = (0..lanes)
                .map(|_| Ok(Mutex::new(Lane { request: network.create_infer_request()?, input: None })))
                .collect::<std::result::Result<Vec<_>, InferenceError>>()
                .map_err(cannot)?;
            let outputs = network.get_output_size().map_err(cannot)?;
            Ok(Self {
                lanes,
                outputs,
                precision: options.precision,
                _network: Mutex::new(network),
                _library: library.clone(),
            })
        })
    }
}

impl Lane {
    fn run(
        &mut self,
        canvas: [usize; 2],
        values: &[f32],
        outputs: usize,
    ) -> std::result::Result<Vec<Output>, InferenceError> {
        let Self { request, input } = self;
        if input.as_ref().is_none_or(|(made_for, _)| *made_for != canvas) {
            let [width, height] = canvas.map(|length| length as i64);
            *input = Some((canvas, Tensor::new(ElementType::F32, &Shape::new(&[1, 3, height, width])?)?));
        }
        if let Some((_, tensor)) = input {
            tensor.get_data_mut::<f32>()?.copy_from_slice(values);
            request.set_input_tensor(tensor)?;
        }
        request.infer()?;
        let output = |at| {
            let tensor = request.get_output_tensor_by_index(at)?;
            let shape = tensor.get_shape()?.get_dimensions().iter().map(|&length| length as usize).collect();
            Ok(Output { shape, values: tensor.get_data::<f32>()?.to_vec() })
        };
        (0..outputs).map(output).collect()
    }
}

impl Runner for OpenVinoRunner {
    fn outputs(&self, canvas: [usize; 2], input: &[f32]) -> Result<Vec<Output>> {
        // Workers of one pool have a lane each; others wait their turn.
        let lane = &self.lanes[rayon::current_thread_index().unwrap_or(0) % self.lanes.len()];
        let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
        guarded(OPENVINO, "run", || lane.run(canvas, input, self.outputs).map_err(cannot))
    }

    fn engine(&self) -> &'static str {
        "openvino"
    }

    fn precision(&self) -> Precision {
        self.precision
    }
}

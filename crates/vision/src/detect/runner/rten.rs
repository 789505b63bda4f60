//! Detectors on rten.

use std::sync::Arc;

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensorView, Tensor};

use super::{Output, Runner};
use crate::engine::{guarded, panicked};
use crate::error::{Error, ErrorKind, Result};
use crate::rten_trunk::RTEN;
use crate::trunk::Precision;

pub(in crate::detect) struct RtenRunner {
    model: Model,
    input: NodeId,
    outputs: Vec<NodeId>,
    pool: Arc<ThreadPool>,
}

impl RtenRunner {
    pub(in crate::detect) fn load(file: Vec<u8>, pool: Arc<ThreadPool>) -> Result<Self> {
        let model = guarded(RTEN, "load", || {
            ModelOptions::with_all_ops().prepack_weights(true).load(file).map_err(|e| {
                Error::with_source(
                    ErrorKind::Engine,
                    format!("rten cannot load the detector; export it with standard operators: {e}"),
                    e,
                )
            })
        })?;
        let &[input] = model.input_ids() else {
            return Err(Error::new(
                ErrorKind::Engine,
                "rten does not see one input in the detector; export it again",
            ));
        };
        let outputs = model.output_ids().to_vec();
        Ok(Self { model, input, outputs, pool })
    }

    fn run(&self, [width, height]: [usize; 2], input: &[f32]) -> Result<Vec<Output>> {
        let view = NdTensorView::from_data([1, 3, height, width], input);
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::with_source(
                ErrorKind::Engine,
                format!(
                    "rten cannot run the detector on an input of {width} x {height}; export it again, with a dynamic input: {e}"
                ),
                e,
            )
        };
        guarded(RTEN, "run", || {
            let outputs = self
                .model
                .run(vec![(self.input, view.into())], &self.outputs, Some(options))
                .map_err(|e| failed(e.into()))?;
            let output = |value| {
                let tensor =
                    Tensor::<f32>::try_from(value).map_err(|e: rten::TryFromValueError| failed(e.into()))?;
                Ok(Output { shape: tensor.shape().to_vec(), values: tensor.to_vec() })
            };
            outputs.into_iter().map(output).collect()
        })
    }
}

impl Runner for RtenRunner {
    fn outputs(&self, canvas: [usize; 2], input: &[f32]) -> Result<Vec<Output>> {
        // A plain thread waits for the pool without taking up other work, as a worker of another pool would.
        std::thread::scope(|scope| {
            scope.spawn(|| self.run(canvas, input)).join().unwrap_or_else(|_| Err(panicked(RTEN, "run")))
        })
    }

    fn engine(&self) -> &'static str {
        RTEN
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

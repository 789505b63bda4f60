use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensorView, Tensor};
use sha2::{Digest, Sha256};

use super::file::{DetectorFile, EXPECTED};
use super::{DetectorKind, retinaface, scrfd, yunet};
use crate::error::{Error, ErrorKind, Result};

/// Width and height of the input on which a network shows whether it takes any size.
const PROBE: [usize; 2] = [96, 64];

/// A detector's network with its outputs in the order in which its kind decodes them.
pub(super) struct Network {
    pub(super) digest: [u8; 32],
    /// Width and height of the input, if no others work.
    pub(super) fixed: Option<[usize; 2]>,
    model: Model,
    input: NodeId,
    outputs: Vec<NodeId>,
    /// Whether the class scores are still logits.
    logits: bool,
    pool: Arc<ThreadPool>,
}

impl Network {
    pub(super) fn load(bytes: &[u8], threads: usize) -> Result<(DetectorKind, Self)> {
        let file = DetectorFile::parse(bytes)?;
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        let kind = file.kind;
        let digest = Sha256::digest(bytes).into();
        let network = |file, fixed| {
            Self::start(file, digest, fixed, pool.clone())?.ordered(kind, fixed.unwrap_or(PROBE))
        };
        // Exporters often fix the size of an input on which nothing depends; only a run tells.
        let network = match (network(file.dynamic, None), file.declared) {
            (Err(_), Some(fixed)) => network(bytes.to_vec(), Some(fixed))?,
            (network, _) => network?,
        };
        Ok((kind, network))
    }

    fn start(
        file: Vec<u8>,
        digest: [u8; 32],
        fixed: Option<[usize; 2]>,
        pool: Arc<ThreadPool>,
    ) -> Result<Self> {
        let model = guarded("load", || {
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
        Ok(Self { digest, fixed, model, input, outputs, logits: false, pool })
    }

    /// Runs the network on a black input and puts its outputs into the order of `kind`.
    fn ordered(mut self, kind: DetectorKind, canvas: [usize; 2]) -> Result<Self> {
        let found = self.tensors(canvas, &vec![0.0; 3 * canvas[0] * canvas[1]])?;
        let shapes: Vec<Vec<usize>> = found.iter().map(|tensor| tensor.shape().to_vec()).collect();
        let order: Option<Vec<usize>> = match kind {
            DetectorKind::YuNet => {
                let name =
                    |id: NodeId| self.model.node_info(id).and_then(|info| info.name().map(str::to_owned));
                let names: Vec<Option<String>> = self.outputs.iter().map(|&id| name(id)).collect();
                let at = |wanted: &str| names.iter().position(|name| name.as_deref() == Some(wanted));
                yunet::OUTPUTS.into_iter().map(at).collect()
            }
            DetectorKind::Scrfd | DetectorKind::RetinaFace => {
                let at = |shape: &[usize; 2]| shapes.iter().position(|found| is(found, *shape));
                expected(kind, canvas).iter().map(at).collect()
            }
        };
        let fits = |order: &Vec<usize>| {
            order.iter().zip(expected(kind, canvas)).all(|(&at, shape)| is(&shapes[at], shape))
        };
        let Some(order) = order.filter(fits) else {
            return Err(Error::new(
                ErrorKind::Detector,
                format!(
                    "the network looks like {kind}, but for an input of {} x {} it gives {shapes:?} and not {:?}; {EXPECTED}",
                    canvas[0],
                    canvas[1],
                    expected(kind, canvas)
                ),
            ));
        };
        if kind == DetectorKind::RetinaFace {
            // Exports made in training mode end before the softmax.
            let classes: Vec<f32> = found[order[1]].iter().copied().collect();
            self.logits = classes.as_chunks::<2>().0.iter().any(|[no, face]| (no + face - 1.0).abs() > 1e-3);
        }
        self.outputs = order.into_iter().map(|at| self.outputs[at]).collect();
        Ok(self)
    }

    /// The outputs for one input `[1, 3, height, width]`.
    pub(super) fn run(&self, canvas: [usize; 2], input: &[f32]) -> Result<Vec<Vec<f32>>> {
        // A plain thread waits for the pool without taking up other work, as a worker of another pool would.
        let tensors = std::thread::scope(|scope| {
            scope.spawn(|| self.tensors(canvas, input)).join().unwrap_or_else(|_| Err(panicked("run")))
        })?;
        let mut outputs: Vec<Vec<f32>> = tensors.into_iter().map(|tensor| tensor.to_vec()).collect();
        if self.logits {
            for [no, face] in outputs[1].as_chunks_mut::<2>().0 {
                [*no, *face] = [1.0 / (1.0 + (*face - *no).exp()), 1.0 / (1.0 + (*no - *face).exp())];
            }
        }
        Ok(outputs)
    }

    fn tensors(&self, [width, height]: [usize; 2], input: &[f32]) -> Result<Vec<Tensor<f32>>> {
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
        guarded("run", || {
            let outputs = self
                .model
                .run(vec![(self.input, view.into())], &self.outputs, Some(options))
                .map_err(|e| failed(e.into()))?;
            let floats = outputs
                .into_iter()
                .map(|output| Tensor::<f32>::try_from(output).map_err(|e| failed(e.into())));
            floats.collect()
        })
    }
}

/// Shapes `[rows, numbers]` of the outputs for an input of `[width, height]`.
fn expected(kind: DetectorKind, [width, height]: [usize; 2]) -> Vec<[usize; 2]> {
    let strided = |anchors: usize, widths: &'static [usize]| {
        let rows = [8, 16, 32].map(|stride| anchors * width.div_ceil(stride) * height.div_ceil(stride));
        rows.iter().flat_map(|&rows| widths.iter().map(move |&width| [rows, width])).collect()
    };
    match kind {
        DetectorKind::YuNet => strided(1, &yunet::WIDTHS),
        DetectorKind::Scrfd => strided(scrfd::ANCHORS, &scrfd::WIDTHS),
        DetectorKind::RetinaFace => {
            retinaface::WIDTHS.map(|numbers| [retinaface::priors([width, height]), numbers]).to_vec()
        }
    }
}

fn is(shape: &[usize], [rows, numbers]: [usize; 2]) -> bool {
    shape == [rows, numbers] || shape == [1, rows, numbers]
}

/// Runs a call into rten, whose panic on a network it does not expect must not end the program. What the call
/// borrows is not used again after a panic: loading gives it up, and a run leaves the loaded network as it was.
fn guarded<R>(doing: &str, call: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(panicked(doing)))
}

fn panicked(doing: &str) -> Error {
    Error::new(
        ErrorKind::Engine,
        format!(
            "rten panicked when it tried to {doing} the detector; check that the file is intact, or use another one"
        ),
    )
}

use std::sync::Arc;

use ::rten::ThreadPool;
use sha2::{Digest, Sha256};

use super::file::{DetectorFile, EXPECTED};
use super::runner::Runner;
use super::runner::rten::RtenRunner;
use super::{DetectorKind, retinaface, scrfd, yunet};
use crate::error::{Error, ErrorKind, Result};

/// Width and height of the input on which a network shows whether it takes any size.
const PROBE: [usize; 2] = [96, 64];

/// A detector's network with its outputs in the order in which its kind decodes them.
pub(super) struct Network {
    pub(super) digest: [u8; 32],
    /// Width and height of the input, if no others work.
    pub(super) fixed: Option<[usize; 2]>,
    pub(super) runner: Box<dyn Runner>,
    /// The outputs' places among those of the graph.
    order: Vec<usize>,
    /// Whether the class scores are still logits.
    logits: bool,
}

impl Network {
    /// Loads a file on rten.
    pub(super) fn load(bytes: &[u8], pool: Arc<ThreadPool>) -> Result<(DetectorKind, Self)> {
        let file = DetectorFile::parse(bytes)?;
        let digest = Sha256::digest(bytes).into();
        let network = |bytes: &[u8], fixed: Option<[usize; 2]>| -> Result<Self> {
            let runner = Box::new(RtenRunner::load(bytes.to_vec(), pool.clone())?);
            let network = Self { digest, fixed, runner, order: Vec::new(), logits: false };
            network.ordered(&file, fixed.unwrap_or(PROBE))
        };
        // Exporters often fix the size of an input on which nothing depends; only a run tells.
        let network = match (network(&file.dynamic, None), file.declared) {
            (Err(_), Some(fixed)) => network(bytes, Some(fixed))?,
            (network, _) => network?,
        };
        Ok((file.kind, network))
    }

    /// The same file on another engine.
    pub(super) fn moved(
        &self,
        bytes: &[u8],
        start: impl FnOnce(&[u8]) -> Result<Box<dyn Runner>>,
    ) -> Result<Self> {
        let file = DetectorFile::parse(bytes)?;
        if self.digest != <[u8; 32]>::from(Sha256::digest(bytes)) {
            return Err(Error::new(
                ErrorKind::Detector,
                "the detector was loaded from another file; load this one first",
            ));
        }
        let runner = start(if self.fixed.is_some() { bytes } else { &file.dynamic })?;
        Ok(Self {
            digest: self.digest,
            fixed: self.fixed,
            runner,
            order: self.order.clone(),
            logits: self.logits,
        })
    }

    /// Runs the network on a black input and finds its outputs in the order of its kind.
    fn ordered(mut self, file: &DetectorFile, canvas: [usize; 2]) -> Result<Self> {
        let kind = file.kind;
        let found = self.runner.outputs(canvas, &vec![0.0; 3 * canvas[0] * canvas[1]])?;
        let shapes: Vec<&[usize]> = found.iter().map(|output| output.shape.as_slice()).collect();
        let order: Option<Vec<usize>> = match kind {
            DetectorKind::YuNet => {
                let at = |wanted: &str| file.outputs.iter().position(|name| name == wanted);
                yunet::OUTPUTS.into_iter().map(at).collect()
            }
            DetectorKind::Scrfd | DetectorKind::RetinaFace => {
                let at = |shape: &[usize; 2]| shapes.iter().position(|found| is(found, *shape));
                expected(kind, canvas).iter().map(at).collect()
            }
        };
        let fits = |order: &Vec<usize>| {
            let mut places = order.iter().zip(expected(kind, canvas));
            places.all(|(&at, shape)| shapes.get(at).is_some_and(|found| is(found, shape)))
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
            let (classes, _) = found[order[1]].values.as_chunks::<2>();
            self.logits = classes.iter().any(|[no, face]| (no + face - 1.0).abs() > 1e-3);
        }
        self.order = order;
        Ok(self)
    }

    /// The outputs for one input `[1, 3, height, width]`.
    pub(super) fn run(&self, canvas: [usize; 2], input: &[f32]) -> Result<Vec<Vec<f32>>> {
        let mut found = self.runner.outputs(canvas, input)?;
        let take = |&at: &usize| found.get_mut(at).map(|output| std::mem::take(&mut output.values));
        let mut outputs: Vec<Vec<f32>> = self.order.iter().filter_map(take).collect();
        if outputs.len() != self.order.len() {
            return Err(Error::new(
                ErrorKind::Engine,
                format!(
                    "{} gave {} outputs of {}; use the engine rten",
                    self.runner.engine(),
                    outputs.len(),
                    self.order.len()
                ),
            ));
        }
        if self.logits {
            for [no, face] in outputs[1].as_chunks_mut::<2>().0 {
                [*no, *face] = [1.0 / (1.0 + (*face - *no).exp()), 1.0 / (1.0 + (*no - *face).exp())];
            }
        }
        Ok(outputs)
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

//! What runs a detector's network.

#[cfg(feature = "onnxruntime")]
pub(super) mod onnxruntime;
pub(super) mod openvino;
pub(super) mod rten;
pub(super) mod separable;

use crate::error::Result;
use crate::trunk::Precision;

/// An engine with a detector's network loaded.
pub(super) trait Runner: Send + Sync {
    /// The outputs, in the graph's order, for one input `[1, 3, height, width]`; `canvas` is width and height.
    fn outputs(&self, canvas: [usize; 2], input: &[f32]) -> Result<Vec<Output>>;

    fn engine(&self) -> &'static str;

    fn precision(&self) -> Precision;
}

/// One of a network's outputs.
pub(super) struct Output {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

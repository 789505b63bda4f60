//! Weights as they lie in the file.

use prost::bytes::Bytes;

/// The filters of a convolution: output, input, row, column; `f32`, least byte first.
pub(super) struct Weights {
    raw: Bytes,
    /// Numbers per output.
    per_output: usize,
    /// Factor of each output, if there is a scale after the convolution.
    scale: Option<Vec<f32>>,
}

impl Weights {
    pub(super) fn new(raw: Bytes, outputs: usize, scale: Option<Vec<f32>>) -> Self {
        let per_output = raw.len() / size_of::<f32>() / outputs;
        Self { raw, per_output, scale }
    }

    /// An output's filters, input after input, and their factor.
    pub(super) fn output(&self, output: usize) -> (&[[u8; 4]], f32) {
        let (numbers, _) = self.raw.as_chunks::<4>();
        let scale = self.scale.as_ref().map_or(1.0, |scale| scale[output]);
        (&numbers[output * self.per_output..][..self.per_output], scale)
    }
}

//! What follows a convolution: a shift, activations, the sum with another map.

use pulp::Simd;

/// The vectors of something that may be there.
#[inline(always)]
pub(super) fn vectors<S: Simd>(numbers: Option<&[f32]>) -> Option<&[S::f32s]> {
    numbers.map(|numbers| S::as_simd_f32s(numbers).0)
}

/// One vector of something that may be there.
#[expect(
    clippy::manual_map,
    reason = "the compiler may leave a closure out of line, and so without wide vectors"
)]
#[inline(always)]
pub(super) fn at_in<V: Copy>(vectors: Option<&[V]>, at: usize) -> Option<V> {
    match vectors {
        Some(vectors) => Some(vectors[at]),
        None => None,
    }
}

/// Activations and what is added, per channel, after a convolution.
#[derive(Debug, Clone, Default)]
pub(super) struct Finish {
    /// Added to every pixel.
    pub(super) shift: Vec<f32>,
    /// Slopes below zero of the activation before another map is added.
    pub(super) before: Option<Vec<f32>>,
    /// Slopes below zero of the activation after that.
    pub(super) after: Option<Vec<f32>>,
}

/// One vector of channels of a [`Finish`].
pub(super) struct FinishVector<S: Simd> {
    shift: S::f32s,
    before: Option<S::f32s>,
    after: Option<S::f32s>,
}

impl Finish {
    /// Vector `at` of the channels.
    #[inline(always)]
    pub(super) fn vector<S: Simd>(&self, _: S, at: usize) -> FinishVector<S> {
        FinishVector {
            shift: S::as_simd_f32s(&self.shift).0[at],
            before: at_in(vectors::<S>(self.before.as_deref()), at),
            after: at_in(vectors::<S>(self.after.as_deref()), at),
        }
    }
}

impl<S: Simd> FinishVector<S> {
    #[inline(always)]
    pub(super) fn apply(&self, simd: S, sum: S::f32s, other: Option<S::f32s>) -> S::f32s {
        let mut value = simd.add_f32s(sum, self.shift);
        if let Some(slope) = self.before {
            value = bend(simd, value, slope);
        }
        if let Some(other) = other {
            value = simd.add_f32s(value, other);
        }
        if let Some(slope) = self.after {
            value = bend(simd, value, slope);
        }
        value
    }
}

/// `value` above zero, `slope * value` below.
#[inline(always)]
fn bend<S: Simd>(simd: S, value: S::f32s, slope: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.mul_add_e_f32s(slope, simd.min_f32s(value, zero), simd.max_f32s(value, zero))
}

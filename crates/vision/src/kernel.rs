//! Products of matrices whose sums stay in registers.

use std::sync::LazyLock;

use pulp::{Simd, WithSimd};

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Rows of the most common kernels.
pub(crate) const ROWS: usize = 6;

/// The most columns that a panel has.
pub(crate) const WIDEST_PANEL: usize = 32;

/// Something to compute with a processor's vectors: sums of `R` rows times `V` vectors stay in its registers at a time.
pub(crate) trait Task {
    /// What comes out.
    type Output;

    /// Computes it. Has to be inlined, so that it is compiled for the processor's vectors.
    fn run<S: Simd, const R: usize, const V: usize>(self, simd: S) -> Self::Output;
}

/// Computes something with the widest vectors that the processor has.
pub(crate) fn compute<T: Task>(task: T) -> T::Output {
    ARCH.dispatch(Dispatch(task))
}

struct Dispatch<T>(T);

impl<T: Task> WithSimd for Dispatch<T> {
    type Output = T::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T::Output {
        match S::F32_LANES {
            // 32 registers: 24 sums, 2 vectors of the panel, a value of a row.
            16 => self.0.run::<S, 12, 2>(simd),
            // 16 registers: 12 sums.
            8 => self.0.run::<S, 6, 2>(simd),
            4 => self.0.run::<S, 4, 4>(simd),
            _ => self.0.run::<S, 1, 16>(simd),
        }
    }
}

/// Rows that a kernel multiplies at a time, and columns of a panel, on this processor.
pub(crate) fn kernel_shape() -> (usize, usize) {
    struct Shape;

    impl Task for Shape {
        type Output = (usize, usize);

        #[inline(always)]
        fn run<S: Simd, const R: usize, const V: usize>(self, _: S) -> (usize, usize) {
            (R, V * S::F32_LANES)
        }
    }

    compute(Shape)
}

/// Columns of a panel.
pub(crate) fn panel_width() -> usize {
    kernel_shape().1
}

/// Adds to `sums` the products of `R` rows with a panel: for every term of a row, the panel has `V` vectors.
#[inline(always)]
pub(crate) fn multiply<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut rows: [&[f32]; R],
    panel: &[S::f32s],
    mut sums: [[S::f32s; V]; R],
) -> [[S::f32s; V]; R] {
    let (panel, _) = panel.as_chunks::<V>();
    for row in &mut rows {
        *row = &row[..panel.len()];
    }
    for (term, weights) in panel.iter().enumerate() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            let value = simd.splat_f32s(row[term]);
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_e_f32s(value, weight, *sum);
            }
        }
    }
    sums
}

/// The vectors of something that may be there.
#[inline(always)]
pub(crate) fn vectors<S: Simd>(numbers: Option<&[f32]>) -> Option<&[S::f32s]> {
    numbers.map(|numbers| S::as_simd_f32s(numbers).0)
}

/// One vector of something that may be there.
#[expect(
    clippy::manual_map,
    reason = "the compiler may leave a closure out of line, and so without wide vectors"
)]
#[inline(always)]
pub(crate) fn at_in<V: Copy>(vectors: Option<&[V]>, at: usize) -> Option<V> {
    match vectors {
        Some(vectors) => Some(vectors[at]),
        None => None,
    }
}

/// Activations and what is added, per channel, after a convolution.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finish {
    /// Added to every pixel.
    pub(crate) shift: Vec<f32>,
    /// Slopes below zero of the activation before another map is added.
    pub(crate) before: Option<Vec<f32>>,
    /// Slopes below zero of the activation after that.
    pub(crate) after: Option<Vec<f32>>,
}

/// One vector of channels of a [`Finish`].
pub(crate) struct FinishVector<S: Simd> {
    shift: S::f32s,
    before: Option<S::f32s>,
    after: Option<S::f32s>,
}

impl Finish {
    /// Vector `at` of the channels.
    #[inline(always)]
    pub(crate) fn vector<S: Simd>(&self, _: S, at: usize) -> FinishVector<S> {
        FinishVector {
            shift: S::as_simd_f32s(&self.shift).0[at],
            before: at_in(vectors::<S>(self.before.as_deref()), at),
            after: at_in(vectors::<S>(self.after.as_deref()), at),
        }
    }
}

impl<S: Simd> FinishVector<S> {
    #[inline(always)]
    pub(crate) fn apply(&self, simd: S, sum: S::f32s, other: Option<S::f32s>) -> S::f32s {
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

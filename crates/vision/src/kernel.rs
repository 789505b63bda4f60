//! Products of matrices whose sums stay in registers.

use std::sync::LazyLock;

use pulp::{Simd, WithSimd};

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Rows of the kernel for what the others leave.
pub(crate) const REST: usize = 4;

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

/// So many rows and those that fill the last kernel up, where kernels take `rows_of_kernel` or, at the end, [`REST`].
pub(crate) fn filled_up(rows: usize, rows_of_kernel: usize) -> usize {
    let rest = rows % rows_of_kernel;
    rows - rest + rest.next_multiple_of(REST).min(rows_of_kernel)
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

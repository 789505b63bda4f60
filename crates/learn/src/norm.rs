//! `BatchNorm1d` in training, backward and evaluation form.

/// What the backward pass and the running statistics need of a normalised batch.
#[derive(Default)]
pub(crate) struct Normalised {
    /// The standardised values, `n` x `dim`.
    pub(crate) standard: Vec<f32>,
    /// `1 / sqrt(variance + eps)` per column, with the biased variance.
    pub(crate) inverse_std: Vec<f32>,
    /// Mean per column.
    pub(crate) mean: Vec<f64>,
    /// Unbiased variance per column.
    pub(crate) variance: Vec<f64>,
}

/// Sums over rows of `f(row index, column)`, in f64 and in row order.
fn column_sums(n: usize, dim: usize, mut add: impl FnMut(usize, &mut [f64])) -> Vec<f64> {
    let mut sums = vec![0.0; dim];
    for row in 0..n {
        add(row, &mut sums);
    }
    sums
}

/// Standardises the columns of `values` (`n` x `dim`, `n >= 2`) by the batch's own statistics.
pub(crate) fn standardise(values: &[f32], dim: usize, eps: f32, out: &mut Normalised) {
    let n = values.len() / dim;
    let row = |row: usize| &values[row * dim..][..dim];
    let mut mean = column_sums(n, dim, |r, sums| {
        for (sum, &value) in sums.iter_mut().zip(row(r)) {
            *sum += f64::from(value);
        }
    });
    mean.iter_mut().for_each(|mean| *mean /= n as f64);
    let squares = column_sums(n, dim, |r, sums| {
        for ((sum, &value), &mean) in sums.iter_mut().zip(row(r)).zip(&mean) {
            let centred = f64::from(value) - mean;
            *sum += centred * centred;
        }
    });
    out.variance = squares.iter().map(|sum| sum / (n - 1) as f64).collect();
    out.inverse_std =
        squares.iter().map(|sum| (1.0 / (sum / n as f64 + f64::from(eps)).sqrt()) as f32).collect();
    out.standard.resize(values.len(), 0.0);
    for (out_row, row) in out.standard.chunks_exact_mut(dim).zip(values.chunks_exact(dim)) {
        for ((out, &value), (&mean, &inverse)) in
            out_row.iter_mut().zip(row).zip(mean.iter().zip(&out.inverse_std))
        {
            *out = ((f64::from(value) - mean) as f32) * inverse;
        }
    }
    out.mean = mean;
}

/// Moves a running statistic towards that of the batch.
pub(crate) fn track(running: &mut [f32], batch: &[f64], momentum: f64) {
    for (running, &batch) in running.iter_mut().zip(batch) {
        *running = ((1.0 - momentum) * f64::from(*running) + momentum * batch) as f32;
    }
}

/// Turns `grad`, the gradient of the output (`n` x `dim`), into that of the input, in place; returns the gradients of
/// scale and shift.
pub(crate) fn backward(grad: &mut [f32], normalised: &Normalised, scale: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let dim = scale.len();
    let n = grad.len() / dim;
    let mut shift_sum = vec![0.0f64; dim];
    let mut scale_sum = vec![0.0f64; dim];
    for (grad, standard) in grad.chunks_exact(dim).zip(normalised.standard.chunks_exact(dim)) {
        for j in 0..dim {
            shift_sum[j] += f64::from(grad[j]);
            scale_sum[j] += f64::from(grad[j]) * f64::from(standard[j]);
        }
    }
    let shift_grad: Vec<f32> = shift_sum.iter().map(|&sum| sum as f32).collect();
    let scale_grad: Vec<f32> = scale_sum.iter().map(|&sum| sum as f32).collect();
    let mean = |sums: &[f64]| -> Vec<f32> { sums.iter().map(|sum| (sum / n as f64) as f32).collect() };
    let (mean_shift, mean_scale) = (mean(&shift_sum), mean(&scale_sum));
    let factor: Vec<f32> = scale.iter().zip(&normalised.inverse_std).map(|(a, b)| a * b).collect();
    for (grad, standard) in grad.chunks_exact_mut(dim).zip(normalised.standard.chunks_exact(dim)) {
        for j in 0..dim {
            grad[j] = factor[j] * (grad[j] - mean_shift[j] - standard[j] * mean_scale[j]);
        }
    }
    (scale_grad, shift_grad)
}

/// BatchNorm in evaluation as one multiplication and addition per column: `(scale, shift)`.
pub(crate) fn folded(
    weight: &[f32],
    bias: &[f32],
    mean: &[f32],
    var: &[f32],
    eps: f32,
) -> (Vec<f32>, Vec<f32>) {
    let mut scales = Vec::with_capacity(weight.len());
    let mut shifts = Vec::with_capacity(weight.len());
    for (((&weight, &bias), &mean), &var) in weight.iter().zip(bias).zip(mean).zip(var) {
        let scale = f64::from(weight) / (f64::from(var) + f64::from(eps)).sqrt();
        scales.push(scale as f32);
        shifts.push((f64::from(bias) - f64::from(mean) * scale) as f32);
    }
    (scales, shifts)
}

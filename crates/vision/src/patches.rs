//! What a network's first convolution sees of its input.

/// Squares of `kernel` x `kernel` pixels, `stride` apart, the first of them `pad` before the planes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patches {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) pad: usize,
}

impl Patches {
    /// Writes the patch of row `y` and column `x`: plane after plane, row after row; beyond the planes there are zeros.
    pub(crate) fn write(
        self,
        planes: &[f32],
        [width, height]: [usize; 2],
        [x, y]: [usize; 2],
        out: &mut [f32],
    ) {
        let Self { kernel, stride, pad } = self;
        out.fill(0.0);
        let lines = out.chunks_exact_mut(kernel);
        let planes = planes.chunks_exact(width * height);
        let sources = planes.flat_map(|plane| (0..kernel).map(move |down| (plane, down)));
        for (out, (plane, down)) in lines.zip(sources) {
            let y = (y * stride + down).wrapping_sub(pad);
            if y >= height {
                continue;
            }
            let row = &plane[y * width..][..width];
            match (x * stride).checked_sub(pad).and_then(|x| row.get(x..x + kernel)) {
                // Most kernels are of three: no call for so few numbers.
                Some(&[a, b, c]) => [out[0], out[1], out[2]] = [a, b, c],
                Some(row) => out.copy_from_slice(row),
                None => {
                    for (across, out) in out.iter_mut().enumerate() {
                        let x = (x * stride + across).wrapping_sub(pad);
                        *out = row.get(x).copied().unwrap_or(0.0);
                    }
                }
            }
        }
    }
}

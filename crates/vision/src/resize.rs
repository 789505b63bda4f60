//! Resizing squares, in integers: the same bits on every processor.

/// Fraction bits of a weight: a sum of weighted bytes stays below 2^31.
const FRACTION: u32 = 22;

/// Resizes an interleaved RGB square of `from` x `from` pixels to `to` x `to` with the triangle filter, whose
/// support grows with the reduction: bilinear interpolation when it enlarges, antialiased when it shrinks.
/// Columns first, then rows, each rounded to 8 bits; equal to Pillow's `BILINEAR`.
pub(crate) fn square(rgb: &[u8], from: usize, to: usize) -> Vec<u8> {
    debug_assert_eq!(rgb.len(), from * from * 3);
    let taps: Vec<Taps> = (0..to).map(|at| Taps::new(at, from, to)).collect();
    let mut narrow = Vec::with_capacity(from * to * 3);
    for row in rgb.chunks_exact(from * 3) {
        let (pixels, _) = row.as_chunks::<3>();
        for taps in &taps {
            narrow.extend(taps.sum(pixels[taps.first..].iter().copied()));
        }
    }
    let (narrow, _) = narrow.as_chunks::<3>();
    let mut out = Vec::with_capacity(to * to * 3);
    for taps in &taps {
        for column in 0..to {
            let pixels = narrow[taps.first * to + column..].iter().step_by(to);
            out.extend(taps.sum(pixels.copied()));
        }
    }
    out
}

/// The source pixels that make one target pixel along one axis.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn new(at: usize, from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weights: Vec<f64> =
            (first..end).map(|x| (1.0 - ((x as f64 + 0.5 - centre) / support).abs()).max(0.0)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |w: f64| (w / total * f64::from(1 << FRACTION)).round() as i32;
        Self { first, weights: weights.into_iter().map(fixed).collect() }
    }

    fn sum(&self, pixels: impl Iterator<Item = [u8; 3]>) -> [u8; 3] {
        let mut sums = [1 << (FRACTION - 1); 3];
        for (&weight, pixel) in self.weights.iter().zip(pixels) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += weight * i32::from(value);
            }
        }
        sums.map(|sum| (sum >> FRACTION).clamp(0, 255) as u8)
    }
}

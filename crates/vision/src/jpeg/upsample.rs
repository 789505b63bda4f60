//! Components with fewer samples than the picture has pixels: libjpeg's triangle filters between neighbouring samples,
//! repetition for factors other than 2.

use super::blocks::LANES;
use super::markers::{Component, Frame};

/// Gives rows of a component at the picture's size.
pub(super) struct Sampler<'a> {
    plane: &'a [u8],
    stride: usize,
    /// Width and height in samples.
    size: [usize; 2],
    /// Pixels for a sample, across and down.
    factors: [usize; 2],
}

/// Room for a row.
pub(super) struct Scratch {
    sums: Vec<u16>,
    row: Vec<u8>,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(component: &Component, frame: &Frame, plane: &'a [u8]) -> Self {
        let factors = [0, 1].map(|axis| frame.largest[axis] / component.sampling[axis]);
        Self { plane, stride: component.groups * 8 * LANES, size: component.size, factors }
    }

    pub(super) fn scratch(&self) -> Scratch {
        Scratch { sums: vec![0; self.size[0]], row: vec![0; self.size[0] * self.factors[0]] }
    }

    /// Row `y` of the picture: at least as many samples as it has pixels across.
    #[inline(always)]
    pub(super) fn row<'s>(&'s self, y: usize, scratch: &'s mut Scratch) -> &'s [u8] {
        let Scratch { sums, row } = scratch;
        // libjpeg smooths across only where there are more than two samples.
        let smooth = self.size[0] > 2;
        match self.factors {
            [1, 1] => return self.samples(y),
            [2, 1] if smooth => across(self.samples(y), row),
            [2, 2] if smooth => {
                let (near, far) = self.neighbours(y);
                for (sum, (&near, &far)) in sums.iter_mut().zip(near.iter().zip(far)) {
                    *sum = 3 * u16::from(near) + u16::from(far);
                }
                across_sums(sums, row);
            }
            [1, 2] => {
                let (near, far) = self.neighbours(y);
                let bias = 1 + (y % 2) as u16;
                for (out, (&near, &far)) in row.iter_mut().zip(near.iter().zip(far)) {
                    *out = ((3 * u16::from(near) + u16::from(far) + bias) >> 2) as u8;
                }
            }
            [repeated, down] => {
                for (out, &sample) in row.chunks_exact_mut(repeated).zip(self.samples(y / down)) {
                    out.fill(sample);
                }
            }
        }
        row
    }

    #[inline(always)]
    fn samples(&self, row: usize) -> &'a [u8] {
        &self.plane[row * self.stride..][..self.size[0]]
    }

    /// The row of samples that pixel row `y` lies in, and the one on its other side; at the edges the same again.
    #[inline(always)]
    fn neighbours(&self, y: usize) -> (&'a [u8], &'a [u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.size[1] - 1) };
        (self.samples(near), self.samples(far))
    }
}

/// Two pixels for each of more than two samples: three quarters of the sample and a quarter of the nearer neighbour,
/// rounded down and up in turn.
#[inline(always)]
fn across(samples: &[u8], out: &mut [u8]) {
    let (pairs, _) = out.as_chunks_mut::<2>();
    let wide = |at: usize| u16::from(samples[at]);
    let last = samples.len() - 1;
    pairs[0] = [samples[0], ((3 * wide(0) + wide(1) + 2) >> 2) as u8];
    for (pair, three) in pairs[1..last].iter_mut().zip(samples.windows(3)) {
        let [left, middle, right] = [0, 1, 2].map(|at| u16::from(three[at]));
        *pair = [((3 * middle + left + 1) >> 2) as u8, ((3 * middle + right + 2) >> 2) as u8];
    }
    pairs[last] = [((3 * wide(last) + wide(last - 1) + 1) >> 2) as u8, samples[last]];
}

/// As [`across`], from sums of two rows' samples with weights 3 and 1.
#[inline(always)]
fn across_sums(sums: &[u16], out: &mut [u8]) {
    let (pairs, _) = out.as_chunks_mut::<2>();
    let last = sums.len() - 1;
    pairs[0] = [((4 * sums[0] + 8) >> 4) as u8, ((3 * sums[0] + sums[1] + 7) >> 4) as u8];
    for (pair, three) in pairs[1..last].iter_mut().zip(sums.windows(3)) {
        let middle = 3 * three[1];
        *pair = [((middle + three[0] + 8) >> 4) as u8, ((middle + three[2] + 7) >> 4) as u8];
    }
    pairs[last] = [((3 * sums[last] + sums[last - 1] + 8) >> 4) as u8, ((4 * sums[last] + 7) >> 4) as u8];
}

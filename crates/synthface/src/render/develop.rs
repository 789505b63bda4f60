//! From linear light to the file: lens, sensor and tone.

use std::sync::LazyLock;

use crate::capture::Capture;
use crate::math::{Vec3, exp, pow, vec3};

/// sRGB encoding of linear light from 0 to 1, in 8 bits as a fraction.
static TONE: LazyLock<Vec<f32>> = LazyLock::new(|| {
    (0..=4096)
        .map(|i| {
            let v = i as f32 / 4096.0;
            255.0 * if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * pow(v, 1.0 / 2.4) - 0.055 }
        })
        .collect()
});

/// Blurs along rows, then along columns, with a Gaussian of `sigma` pixels.
fn blur(image: &mut [Vec3], size: usize, sigma: f32) {
    if sigma < 0.2 {
        return;
    }
    let reach = ((sigma * 2.6).ceil() as usize).max(1);
    let mut kernel: Vec<f32> = (0..=reach).map(|i| exp(-0.5 * (i as f32 / sigma) * (i as f32 / sigma))).collect();
    let total = kernel[0] + 2.0 * kernel[1..].iter().sum::<f32>();
    kernel.iter_mut().for_each(|k| *k /= total);
    let mut line = vec![Vec3::default(); size + 2 * reach];
    for row in image.chunks_mut(size) {
        line[..reach].fill(row[0]);
        line[reach..reach + size].copy_from_slice(row);
        line[reach + size..].fill(row[size - 1]);
        for (x, out) in row.iter_mut().enumerate() {
            let mut sum = line[x + reach] * kernel[0];
            for (i, &k) in kernel.iter().enumerate().skip(1) {
                sum += (line[x + reach - i] + line[x + reach + i]) * k;
            }
            *out = sum;
        }
    }
    // Columns, a whole row at a time so that memory is read in order.
    let source = image.to_vec();
    for y in 0..size {
        let out = &mut image[y * size..(y + 1) * size];
        out.iter_mut().zip(&source[y * size..]).for_each(|(o, s)| *o = *s * kernel[0]);
        for (i, &k) in kernel.iter().enumerate().skip(1) {
            let above = y.saturating_sub(i) * size;
            let below = (y + i).min(size - 1) * size;
            for ((o, a), b) in out.iter_mut().zip(&source[above..above + size]).zip(&source[below..below + size]) {
                *o += (*a + *b) * k;
            }
        }
    }
}

/// The photograph as 8-bit RGB.
pub(crate) fn develop(mut image: Vec<Vec3>, size: usize, capture: &Capture) -> Vec<u8> {
    blur(&mut image, size, capture.blur * size as f32 / 256.0);
    let mut rgb = Vec::with_capacity(size * size * 3);
    let gain = capture.cast * capture.exposure;
    let noise = capture.noise * 255.0 / 148.0;
    let mut state = capture.noise_seed | 1;
    let tone = &*TONE;
    for light in image {
        let v = light.times(gain);
        let grey = 0.2126 * v.x + 0.7152 * v.y + 0.0722 * v.z;
        let v = vec3(grey, grey, grey) + (v - vec3(grey, grey, grey)) * capture.saturation;
        // xorshift64*; the sums of four of its bytes are close to normal (standard deviation 148).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let sum = |shift: u32| {
            let w = (word >> shift) as u32;
            ((w & 255) + (w >> 8 & 255) + (w >> 16 & 255) + (w >> 24)) as f32 - 510.0
        };
        for (channel, shift) in [(v.x, 0), (v.y, 16), (v.z, 32)] {
            // A shoulder keeps highlights from clipping hard.
            let c = channel.max(0.0);
            let c = if c > 0.7 { 0.7 + 0.3 * (c - 0.7) / (c - 0.7 + 0.3) } else { c };
            let t = c * 4096.0;
            let i = (t as usize).min(4095);
            let coded = tone[i] + (tone[i + 1] - tone[i]) * (t - i as f32);
            let coded = (coded - 118.0) * capture.contrast + 118.0 + noise * sum(shift);
            rgb.push((coded + 0.5).clamp(0.0, 255.0) as u8);
        }
    }
    rgb
}

//! From linear light to the file: lens, sensor and tone.

use crate::capture::Capture;
use crate::math::exp;
use crate::noise::NORMALS;

/// One row of pixels, its red, green and blue light apart so that passes over them are plain loops.
pub(crate) type Planes = [Vec<f32>; 3];

/// 8-bit sRGB code of linear light, with a shoulder that keeps highlights from clipping hard.
fn code(light: f32) -> f32 {
    let over = (light - 0.7).max(0.0);
    let v = light - over + 0.3 * over / (over + 0.3);
    // A fit of the sRGB curve in roots, which are exact and fast: off by less than one in 255.
    let s1 = v.max(0.0).sqrt();
    let s2 = s1.sqrt();
    let s3 = s2.sqrt();
    255.0 * (0.585_122_4 * s1 + 0.783_140_4 * s2 - 0.368_262_7 * s3).max(0.0)
}

/// The half of a Gaussian kernel from its middle on; a single 1 where the blur is too weak to see.
fn kernel(sigma: f32) -> Vec<f32> {
    if sigma < 0.2 {
        return vec![1.0];
    }
    let reach = -crate::math::floor(-sigma * 2.4);
    let mut half: Vec<f32> =
        (0..=reach).map(|i| exp(-0.5 * (i as f32 / sigma) * (i as f32 / sigma))).collect();
    let total = half[0] + 2.0 * half[1..].iter().sum::<f32>();
    half.iter_mut().for_each(|k| *k /= total);
    half
}

/// Adds two neighbours at equal distance to a row.
fn accumulate(row: &mut [f32], before: &[f32], after: &[f32], k: f32) {
    for ((v, a), b) in row.iter_mut().zip(before).zip(after) {
        *v += (a + b) * k;
    }
}

/// The photograph as 8-bit RGB; `expose` writes the linear light of row `y`.
///
/// Rows pass through the lens one by one: each is blurred along itself when it
/// comes in and across its neighbours when the last of them has come.
pub(crate) fn develop(size: usize, capture: &Capture, mut expose: impl FnMut(usize, &mut Planes)) -> Vec<u8> {
    let kernel = kernel(capture.blur * size as f32 / 256.0);
    let reach = kernel.len() - 1;
    let slots = 2 * reach + 1;
    let mut ring = vec![0.0; slots * 3 * size];
    let mut line = vec![0.0; size + 2 * reach];
    let planes = || [(); 3].map(|()| vec![0.0; size]);
    let (mut exposed, mut row) = (planes(), planes());
    let mut noise_at = capture.noise_seed | 1;
    let mut rgb = vec![0; size * size * 3];
    for y in 0..size + reach {
        if y < size {
            expose(y, &mut exposed);
            let slot = &mut ring[(y % slots) * 3 * size..][..3 * size];
            for (out, plane) in slot.chunks_exact_mut(size).zip(&exposed) {
                line[..reach].fill(plane[0]);
                line[reach..reach + size].copy_from_slice(plane);
                line[reach + size..].fill(plane[size - 1]);
                out.iter_mut().zip(plane).for_each(|(o, v)| *o = v * kernel[0]);
                for (i, &k) in kernel.iter().enumerate().skip(1) {
                    accumulate(out, &line[reach - i..], &line[reach + i..], k);
                }
            }
        }
        if y >= reach {
            let at = y - reach;
            for (channel, out) in row.iter_mut().enumerate() {
                let slot = |y: usize| &ring[((y % slots) * 3 + channel) * size..][..size];
                out.iter_mut().zip(slot(at)).for_each(|(o, v)| *o = v * kernel[0]);
                for (i, &k) in kernel.iter().enumerate().skip(1) {
                    accumulate(out, slot(at.saturating_sub(i)), slot((at + i).min(size - 1)), k);
                }
            }
            noise_at = noise_at.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            sense(&mut row, capture, noise_at, &mut rgb[at * 3 * size..][..3 * size]);
        }
    }
    rgb
}

/// Turns the light of a row to bytes; `noise_at` says where in the table its noise starts.
fn sense(row: &mut Planes, capture: &Capture, noise_at: u64, rgb: &mut [u8]) {
    let gain = capture.cast * capture.exposure;
    let [red, green, blue] = row;
    let saturation = capture.saturation;
    for ((r, g), b) in red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut()) {
        let (x, y, z) = (*r * gain.x, *g * gain.y, *b * gain.z);
        let grey = 0.2126 * x + 0.7152 * y + 0.0722 * z;
        *r = grey + (x - grey) * saturation;
        *g = grey + (y - grey) * saturation;
        *b = grey + (z - grey) * saturation;
    }
    let size = red.len();
    let noise = capture.noise * 255.0;
    for (channel, plane) in [red, green, blue].into_iter().enumerate() {
        let start = (noise_at >> (16 * channel)) as usize % (NORMALS.len() - size);
        for (v, n) in plane.iter_mut().zip(&NORMALS[start..start + size]) {
            *v = (code(*v) - 118.0) * capture.contrast + 118.5 + noise * n;
        }
    }
    for (i, out) in rgb.chunks_exact_mut(3).enumerate() {
        out[0] = row[0][i] as u8;
        out[1] = row[1][i] as u8;
        out[2] = row[2][i] as u8;
    }
}

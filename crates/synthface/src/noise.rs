//! Seeded draws and a fixed noise texture.

use std::sync::LazyLock;

use chacha20::ChaCha8Rng;
use rand::{Rng, SeedableRng};

use crate::math::floor;

/// A stream of draws that depends on nothing but its address.
///
/// Every use has its own `domain`, so that for instance the identities on which
/// a network is trained can never coincide with those of a population.
pub(crate) struct Draws(ChaCha8Rng);

impl Draws {
    pub(crate) fn new(domain: &[u8; 8], seed: u64, a: u64, b: u64) -> Draws {
        let mut key = [0; 32];
        key[..8].copy_from_slice(domain);
        key[8..16].copy_from_slice(&seed.to_le_bytes());
        key[16..24].copy_from_slice(&a.to_le_bytes());
        key[24..].copy_from_slice(&b.to_le_bytes());
        Draws(ChaCha8Rng::from_seed(key))
    }

    /// A number to start an independent stream from.
    pub(crate) fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    pub(crate) fn range(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.unit()
    }

    pub(crate) fn chance(&mut self, p: f32) -> bool {
        self.unit() < p
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// Nearly standard normal, within +-4.2: the scaled sum of six uniforms.
    pub(crate) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..6).map(|_| self.unit()).sum();
        (sum - 3.0) * std::f32::consts::SQRT_2
    }
}

const SIZE: usize = 256;
const AREA: usize = SIZE * SIZE;

/// Tileable noise, each sample in [-1, 1].
pub(crate) struct Texture {
    samples: Box<[f32; AREA]>,
}

/// Fine, nearly white noise.
pub(crate) static GRAIN: LazyLock<Texture> =
    LazyLock::new(|| Texture::new(1, &[(256, 0.5), (128, 0.6), (64, 0.35)]));
/// Coarse blotches of several sizes.
pub(crate) static BLOTCH: LazyLock<Texture> =
    LazyLock::new(|| Texture::new(2, &[(8, 0.6), (16, 0.5), (32, 0.35), (64, 0.25), (128, 0.15)]));

impl Texture {
    fn new(seed: u64, octaves: &[(usize, f32)]) -> Texture {
        let mut samples = Box::new([0.0; AREA]);
        for (k, &(cells, amplitude)) in octaves.iter().enumerate() {
            let mut draws = Draws::new(b"texture ", seed, k as u64, 0);
            let lattice: Vec<f32> = (0..cells * cells).map(|_| draws.range(-1.0, 1.0)).collect();
            let step = cells as f32 / SIZE as f32;
            for y in 0..SIZE {
                for x in 0..SIZE {
                    let (fx, fy) = (x as f32 * step, y as f32 * step);
                    let (ix, iy) = (fx as usize, fy as usize);
                    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
                    let (tx, ty) = (ease(fx - ix as f32), ease(fy - iy as f32));
                    let at = |i: usize, j: usize| lattice[(j % cells) * cells + i % cells];
                    let top = at(ix, iy) + (at(ix + 1, iy) - at(ix, iy)) * tx;
                    let low = at(ix, iy + 1) + (at(ix + 1, iy + 1) - at(ix, iy + 1)) * tx;
                    samples[y * SIZE + x] += amplitude * (top + (low - top) * ty);
                }
            }
        }
        let peak = samples.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        samples.iter_mut().for_each(|v| *v /= peak);
        Texture { samples }
    }

    /// The sample at a lattice point, wrapping round.
    #[inline]
    pub(crate) fn at(&self, x: i32, y: i32) -> f32 {
        self.samples[((y as usize % SIZE) * SIZE + x as usize % SIZE) % AREA]
    }

    /// Bilinear sample; one unit is one lattice step.
    #[inline]
    pub(crate) fn smooth(&self, x: f32, y: f32) -> f32 {
        let (ix, iy) = (floor(x), floor(y));
        let (tx, ty) = (x - ix as f32, y - iy as f32);
        let (a, b) = (self.at(ix, iy), self.at(ix + 1, iy));
        let (c, d) = (self.at(ix, iy + 1), self.at(ix + 1, iy + 1));
        let top = a + (b - a) * tx;
        let low = c + (d - c) * tx;
        top + (low - top) * ty
    }
}

/// Nearly standard normal numbers, to be read in a row from a random place.
pub(crate) static NORMALS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut draws = Draws::new(b"sensor  ", 0, 0, 0);
    (0..1 << 15).map(|_| draws.normal()).collect()
});

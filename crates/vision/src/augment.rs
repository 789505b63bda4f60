//! Training-time augmentation of a crop.
//!
//! In this order: with probability 0.1 the crop is shrunk to 50 to 100 pixels a side and enlarged again
//! (triangle filter both ways, antialiased when shrinking, as Pillow's `BILINEAR`); with probability 0.5 it
//! is mirrored; always its brightness, contrast and saturation are multiplied by factors of 0.8 to 1.2 and
//! its hue is turned by up to a tenth of the circle, the four in random order (torchvision's `ColorJitter`);
//! with probability 0.1 it becomes grey. The jitter runs in `f32` and is rounded to 8 bits once.

use crate::crop::{CROP_SIDE, Crop};
use crate::resize;
use crate::views::{greyed, mirrored};

const SHRINK_PROBABILITY: f32 = 0.1;
const SHRINK_SIDES: std::ops::RangeInclusive<usize> = 50..=100;
const MIRROR_PROBABILITY: f32 = 0.5;
const GREY_PROBABILITY: f32 = 0.1;
/// Brightness, contrast and saturation are scaled by `1 - STRENGTH ..= 1 + STRENGTH`.
const STRENGTH: f32 = 0.2;
/// Hue is turned by `-HUE ..= HUE` of the full circle.
const HUE: f32 = 0.1;

const PIXELS: usize = CROP_SIDE * CROP_SIDE;

/// One random draw of the augmentation; the same crop and seed give the same bits everywhere.
pub fn augment(crop: &Crop, seed: u64) -> Crop {
    let recipe = Recipe::draw(seed);
    let mut out = match recipe.shrink {
        Some(side) => shrunk(crop, side),
        None => crop.clone(),
    };
    if recipe.mirror {
        out = mirrored(&out);
    }
    let mut planes = Planes::from(&out);
    for step in recipe.jitter {
        planes.apply(step);
    }
    planes.write(&mut out);
    if recipe.grey { greyed(&out) } else { out }
}

/// What one seed does.
#[derive(Debug, Clone, PartialEq)]
struct Recipe {
    shrink: Option<usize>,
    mirror: bool,
    jitter: [Jitter; 4],
    grey: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Jitter {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Hue(f32),
}

impl Recipe {
    fn draw(seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let shrink = (random.unit() < SHRINK_PROBABILITY)
            .then(|| SHRINK_SIDES.start() + random.below(SHRINK_SIDES.end() - SHRINK_SIDES.start() + 1));
        let mirror = random.unit() < MIRROR_PROBABILITY;
        let mut jitter = [
            Jitter::Brightness(random.between(1.0 - STRENGTH, 1.0 + STRENGTH)),
            Jitter::Contrast(random.between(1.0 - STRENGTH, 1.0 + STRENGTH)),
            Jitter::Saturation(random.between(1.0 - STRENGTH, 1.0 + STRENGTH)),
            Jitter::Hue(random.between(-HUE, HUE)),
        ];
        for last in (1..jitter.len()).rev() {
            jitter.swap(last, random.below(last + 1));
        }
        Self { shrink, mirror, jitter, grey: random.unit() < GREY_PROBABILITY }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): neighbouring seeds give unrelated draws.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n` for small `n` (the bias is below `n / 2^64`).
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

fn shrunk(crop: &Crop, side: usize) -> Crop {
    let small = resize::square(crop.rgb(), CROP_SIDE, side);
    let mut out = crop.clone();
    out.rgb_mut().copy_from_slice(&resize::square(&small, side, CROP_SIDE));
    out
}

/// A crop as three planes of `f32` in 0..=1.
struct Planes([Vec<f32>; 3]);

impl From<&Crop> for Planes {
    fn from(crop: &Crop) -> Self {
        let (pixels, _) = crop.rgb().as_chunks::<3>();
        Self(
            [0, 1, 2].map(|channel| {
                pixels.iter().map(|pixel| f32::from(pixel[channel]) * (1.0 / 255.0)).collect()
            }),
        )
    }
}

impl Planes {
    fn write(&self, crop: &mut Crop) {
        let (pixels, _) = crop.rgb_mut().as_chunks_mut::<3>();
        for (i, pixel) in pixels.iter_mut().enumerate() {
            *pixel = [0, 1, 2].map(|channel| (self.0[channel][i] * 255.0 + 0.5) as u8);
        }
    }

    fn apply(&mut self, step: Jitter) {
        match step {
            Jitter::Brightness(factor) => self.blend(factor, |_, _, _| 0.0),
            Jitter::Contrast(factor) => {
                let mean = self.mean_luma();
                self.blend(factor, |_, _, _| mean);
            }
            Jitter::Saturation(factor) => self.blend(factor, luma),
            Jitter::Hue(turn) => self.each(|r, g, b| turned(r, g, b, turn)),
        }
    }

    /// `factor * colour + (1 - factor) * other`, clamped to 0..=1.
    fn blend(&mut self, factor: f32, other: impl Fn(f32, f32, f32) -> f32) {
        self.each(|r, g, b| {
            let offset = (1.0 - factor) * other(r, g, b);
            [r, g, b].map(|v| (factor * v + offset).clamp(0.0, 1.0))
        });
    }

    fn each(&mut self, colour: impl Fn(f32, f32, f32) -> [f32; 3]) {
        let [r, g, b] = &mut self.0;
        let (r, g, b) = (&mut r[..PIXELS], &mut g[..PIXELS], &mut b[..PIXELS]);
        for i in 0..PIXELS {
            [r[i], g[i], b[i]] = colour(r[i], g[i], b[i]);
        }
    }

    fn mean_luma(&self) -> f32 {
        let [r, g, b] = &self.0;
        let sum: f64 = r.iter().zip(g).zip(b).map(|((&r, &g), &b)| f64::from(luma(r, g, b))).sum();
        (sum / PIXELS as f64) as f32
    }
}

/// Luma with the weights of torchvision's `rgb_to_grayscale`.
fn luma(r: f32, g: f32, b: f32) -> f32 {
    0.2989 * r + 0.587 * g + 0.114 * b
}

/// The colour with its hue turned by `turn` of the circle at equal HSV saturation and value.
fn turned(r: f32, g: f32, b: f32, turn: f32) -> [f32; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    let scale = if chroma > 0.0 { 1.0 / chroma } else { 0.0 };
    // Hue in sixths of the circle.
    let hue = if value == r {
        (g - b) * scale
    } else if value == g {
        (b - r) * scale + 2.0
    } else {
        (r - g) * scale + 4.0
    };
    let hue = hue + 6.0 * turn + 12.0;
    // HSV to RGB without cases: channel n is value - chroma * clamp(min(k, 4 - k), 0, 1), k = n + hue mod 6.
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = n + hue;
        let k = k - 6.0 * (k * (1.0 / 6.0)).floor();
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::{Limits, decode};

    fn crop(name: &str) -> Crop {
        let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
        let photo = decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap();
        Crop::from_photo(&photo).unwrap()
    }

    fn worst(a: &Crop, b: &Crop) -> u8 {
        let pairs = a.rgb().iter().zip(b.rgb());
        pairs.map(|(&a, &b)| a.abs_diff(b)).max().unwrap()
    }

    #[derive(serde::Deserialize)]
    struct Chain {
        steps: Vec<(String, f32)>,
        crop: String,
    }

    #[test]
    fn colour_jitter_agrees_with_the_formulas_in_numpy() {
        let path = format!("{}/tests/data/jitter.json", env!("CARGO_MANIFEST_DIR"));
        let chains: Vec<Chain> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(chains.len(), 10);
        for chain in chains {
            let mut found = crop("crop.png");
            let mut planes = Planes::from(&found);
            for (name, factor) in &chain.steps {
                planes.apply(match name.as_str() {
                    "brightness" => Jitter::Brightness(*factor),
                    "contrast" => Jitter::Contrast(*factor),
                    "saturation" => Jitter::Saturation(*factor),
                    _ => Jitter::Hue(*factor),
                });
            }
            planes.write(&mut found);
            // f32 against f64: a value on a rounding boundary may fall to the other side.
            let worst = worst(&found, &crop(&chain.crop));
            assert!(worst <= 1, "{:?}: {worst}", chain.steps);
        }
    }

    #[test]
    fn shrinking_agrees_with_pillow() {
        for side in [50, 77, 100] {
            let expected = crop(&format!("shrink_{side}.png"));
            assert_eq!(shrunk(&crop("crop.png"), side), expected, "{side}");
        }
    }

    #[test]
    fn grey_is_pillows() {
        assert_eq!(greyed(&crop("crop.png")), crop("grey.png"));
    }

    #[test]
    fn a_seed_is_one_draw() {
        let crop = crop("crop.png");
        assert_eq!(augment(&crop, 5), augment(&crop, 5));
        assert_ne!(augment(&crop, 5), augment(&crop, 6));
    }

    #[test]
    fn the_steps_come_as_often_as_they_should() {
        let draws: Vec<Recipe> = (0..20_000).map(Recipe::draw).collect();
        let share = |test: &dyn Fn(&Recipe) -> bool| {
            draws.iter().filter(|r| test(r)).count() as f64 / draws.len() as f64
        };
        // Five standard deviations of a share of 20,000 draws are at most 0.018.
        let close = |share: f64, expected: f64| (share - expected).abs() < 0.018;
        assert!(close(share(&|r| r.shrink.is_some()), 0.1));
        assert!(close(share(&|r| r.mirror), 0.5));
        assert!(close(share(&|r| r.grey), 0.1));
        let first = |test: fn(&Jitter) -> bool| share(&|r| test(&r.jitter[0]));
        assert!(close(first(|j| matches!(j, Jitter::Brightness(_))), 0.25));
        assert!(close(first(|j| matches!(j, Jitter::Contrast(_))), 0.25));
        assert!(close(first(|j| matches!(j, Jitter::Saturation(_))), 0.25));
        assert!(close(first(|j| matches!(j, Jitter::Hue(_))), 0.25));

        let sides: Vec<usize> = draws.iter().filter_map(|r| r.shrink).collect();
        assert_eq!((sides.iter().min(), sides.iter().max()), (Some(&50), Some(&100)));
        for recipe in &draws {
            for step in recipe.jitter {
                let (value, range) = match step {
                    Jitter::Hue(turn) => (turn, -0.1..=0.1),
                    Jitter::Brightness(f) | Jitter::Contrast(f) | Jitter::Saturation(f) => (f, 0.8..=1.2),
                };
                assert!(range.contains(&value), "{step:?}");
            }
        }
    }

    #[test]
    fn a_hue_turned_all_the_way_is_the_same_colour() {
        for [r, g, b] in [[0.1, 0.5, 0.9], [1.0, 0.0, 0.0], [0.3, 0.3, 0.3], [0.9, 0.2, 0.9], [0.0; 3]] {
            for turn in [-1.0, 0.0, 1.0] {
                for (found, expected) in turned(r, g, b, turn).iter().zip([r, g, b]) {
                    assert!((found - expected).abs() < 1e-5, "{r} {g} {b}");
                }
            }
        }
    }
}

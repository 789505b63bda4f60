//! The inverse DCT (T.81, A.3.3) in the integer form of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with 13 fraction
//! bits, two bits kept between the passes: libjpeg's `islow`. Products and sums of coefficients have 16 bits, as in
//! libjpeg-turbo's vector code, which differs from its plain code for impossible coefficients only.

use std::num::Wrapping;

use super::blocks::{Group, LANES};
use super::markers::Component;

/// A number of each block.
type Lane<T> = [T; LANES];

const FRACTION: u32 = 13;
/// Bits that the first pass keeps.
const KEPT: u32 = 2;

/// Quantization steps as the transform multiplies with them.
pub(super) fn steps(component: &Component) -> [i16; 64] {
    component.quantization.map_or([0; 64], |steps| steps.map(|step| step as i16))
}

/// Transforms rows of `groups` groups each into rows of samples, and makes the coefficients zero again.
pub(super) fn transform_and_clear(band: &mut [Group], groups: usize, steps: &[i16; 64], out: &mut [u8]) {
    for (row, out) in band.chunks_exact_mut(groups).zip(out.chunks_exact_mut(groups * 64 * LANES)) {
        transform(row, steps, out);
        for group in row {
            match group.last {
                0 => group.values[0] = [0; LANES],
                _ => *group = Group::ZERO,
            }
        }
    }
}

/// Transforms a row of groups into eight rows of samples.
pub(super) fn transform(row: &[Group], steps: &[i16; 64], out: &mut [u8]) {
    pulp::Arch::new().dispatch(Transform { row, steps, out });
}

/// The transform of a row, for the processor's widest vectors.
struct Transform<'a> {
    row: &'a [Group],
    steps: &'a [i16; 64],
    out: &'a mut [u8],
}

// A struct and not a closure, loops in place of `array::map`: the compiler may leave those out of line, and so without
// wide vectors.
impl pulp::NullaryFnOnce for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        transform_row(self.row, self.steps, self.out);
    }
}

#[inline(always)]
fn transform_row(row: &[Group], steps: &[i16; 64], out: &mut [u8]) {
    let width = row.len() * 8 * LANES;
    for (at, group) in row.iter().enumerate() {
        let out = &mut out[at * 8 * LANES..];
        match group.last {
            0 => flat(group, steps, out, width),
            // Zigzag places up to 9 lie in the first four rows and columns.
            1..=9 => full::<4>(group, steps, out, width),
            _ => full::<8>(group, steps, out, width),
        }
    }
}

/// Blocks whose only coefficient is the first.
#[inline(always)]
fn flat(group: &Group, steps: &[i16; 64], out: &mut [u8], width: usize) {
    let mut bytes = [[0; 8]; LANES];
    for (bytes, value) in bytes.iter_mut().zip(scaled(&group.values[0], steps[0])) {
        let value = saturated(i32::from(value) << KEPT);
        *bytes = [sample(descale::<{ KEPT + 3 }>(Wrapping(i32::from(value)))); 8];
    }
    for row in out.chunks_mut(width).take(8) {
        row[..8 * LANES].copy_from_slice(bytes.as_flattened());
    }
}

/// Blocks with coefficients in the first `N` rows and columns.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "rows and columns, not places in one array")]
fn full<const N: usize>(group: &Group, steps: &[i16; 64], out: &mut [u8], width: usize) {
    let mut between = [[[0i16; LANES]; 8]; 8];
    for column in 0..N {
        let mut input = [[0i16; LANES]; 8];
        for row in 0..N {
            let at = row * 8 + column;
            input[row] = scaled(&group.values[at], steps[at]);
        }
        let output = pass::<N, { FRACTION - KEPT }>(&input);
        for row in 0..8 {
            for (kept, &value) in between[row][column].iter_mut().zip(&output[row]) {
                *kept = saturated(value);
            }
        }
    }
    for (row, input) in between.iter().enumerate() {
        let output = pass::<N, { FRACTION + KEPT + 3 }>(input);
        let mut samples = [[0; LANES]; 8];
        for (samples, values) in samples.iter_mut().zip(&output) {
            for (byte, &value) in samples.iter_mut().zip(values) {
                *byte = sample(value);
            }
        }
        let bytes = transposed(&samples);
        out[row * width..][..8 * LANES].copy_from_slice(bytes.as_flattened());
    }
}

/// Eight samples of one dimension from their first `N` coefficients, descaled by `SHIFT` bits.
#[inline(always)]
fn pass<const N: usize, const SHIFT: u32>(input: &[Lane<i16>; 8]) -> [Lane<i32>; 8] {
    let mut output = [[0; LANES]; 8];
    for lane in 0..LANES {
        let c = |at: usize| if at < N { input[at][lane] } else { 0 };
        // Impossible coefficients wrap round, as in libjpeg-turbo.
        let wide = |at: usize| Wrapping(i32::from(c(at)));
        let times = |value: Wrapping<i32>, factor: i32| value * Wrapping(factor);

        let turned = times(wide(2) + wide(6), 4433);
        let (low, high) = (turned - times(wide(6), 15137), turned + times(wide(2), 6270));
        let sum = Wrapping(i32::from(c(0).wrapping_add(c(4))) << FRACTION);
        let difference = Wrapping(i32::from(c(0).wrapping_sub(c(4))) << FRACTION);
        let even = [sum + high, difference + low, difference - low, sum - high];

        let a = Wrapping(i32::from(c(7).wrapping_add(c(3))));
        let b = Wrapping(i32::from(c(5).wrapping_add(c(1))));
        let both = times(a + b, 9633);
        let (a, b) = (both - times(a, 16069), both - times(b, 3196));
        let (outer, inner) = (times(wide(7) + wide(1), -7373), times(wide(5) + wide(3), -20995));
        let odd = [
            times(wide(1), 12299) + outer + b,
            times(wide(3), 25172) + inner + a,
            times(wide(5), 16819) + inner + b,
            times(wide(7), 2446) + outer + a,
        ];
        for at in 0..4 {
            output[at][lane] = descale::<SHIFT>(even[at] + odd[at]);
            output[7 - at][lane] = descale::<SHIFT>(even[at] - odd[at]);
        }
    }
    output
}

#[inline(always)]
fn scaled(values: &Lane<i16>, step: i16) -> Lane<i16> {
    let mut products = [0; LANES];
    for (product, value) in products.iter_mut().zip(values) {
        *product = value.wrapping_mul(step);
    }
    products
}

#[inline(always)]
fn descale<const SHIFT: u32>(value: Wrapping<i32>) -> i32 {
    (value + Wrapping(1 << (SHIFT - 1))).0 >> SHIFT
}

#[inline(always)]
fn saturated(value: i32) -> i16 {
    value.clamp(-0x8000, 0x7fff) as i16
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}

/// Rows and columns of 8 x 8 bytes exchanged: halves, quarters, single bytes.
#[inline(always)]
fn transposed(bytes: &[[u8; 8]; 8]) -> [[u8; 8]; 8] {
    let mut rows = [0; 8];
    for (row, bytes) in rows.iter_mut().zip(bytes) {
        *row = u64::from_le_bytes(*bytes);
    }
    for (distance, shift, mask) in
        [(4, 32, 0x0000_0000_ffff_ffff), (2, 16, 0x0000_ffff_0000_ffff), (1, 8, 0x00ff_00ff_00ff_00ff)]
    {
        for at in (0..8).filter(|at| at & distance == 0) {
            let exchanged = ((rows[at] >> shift) ^ rows[at + distance]) & mask;
            rows[at + distance] ^= exchanged;
            rows[at] ^= exchanged << shift;
        }
    }
    let mut exchanged = [[0; 8]; 8];
    for (bytes, row) in exchanged.iter_mut().zip(rows) {
        *bytes = row.to_le_bytes();
    }
    exchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: &mut u32) -> i32 {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 16) as i32
    }

    /// Against the definition in T.81, A.3.3: an integer transform is off by one at most.
    #[test]
    fn blocks_are_what_the_definition_says() {
        let mut seed = 1;
        for (last, count) in [(0, 0), (9, 4), (63, 12)] {
            let mut group = Group { last, ..Group::ZERO };
            for lane in 0..LANES {
                group.values[0][lane] = (random(&mut seed) % 400 - 200) as i16;
                for _ in 0..count {
                    let at = 1 + random(&mut seed) as usize % usize::from(last).max(1);
                    let place = usize::from(super::super::blocks::ZIGZAG[at]);
                    group.values[place][lane] = (random(&mut seed) % 60 - 30) as i16;
                }
            }
            let mut found = [0; 8 * 64];
            transform(std::slice::from_ref(&group), &[3; 64], &mut found);
            for (at, &found) in found.iter().enumerate() {
                let (lane, x, y) = (at % 64 / 8, at % 8, at / 64);
                let cosine = |x: usize, u: usize| {
                    let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
                    scale * ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos()
                };
                let term = |place: usize| {
                    f64::from(group.values[place][lane]) * 3.0 * cosine(x, place % 8) * cosine(y, place / 8)
                };
                let value: f64 = (0..64).map(term).sum::<f64>() / 4.0 + 128.0;
                let off = (value.clamp(0.0, 255.0) - f64::from(found)).abs();
                assert!(off <= 1.0, "{last}, block {lane}, {x} {y}: {found} for {value}");
            }
        }
    }

    #[test]
    fn shortcuts_keep_the_bits() {
        let mut seed = 7;
        for last in [0u8, 9] {
            let mut group = Group { last, ..Group::ZERO };
            for at in 0..=usize::from(last) {
                let place = usize::from(super::super::blocks::ZIGZAG[at]);
                group.values[place] = [0; LANES].map(|_: i16| (random(&mut seed) % 300 - 150) as i16);
            }
            let run = |group: &Group| {
                let mut out = [0; 8 * 64];
                transform(std::slice::from_ref(group), &[5; 64], &mut out);
                out
            };
            assert_eq!(run(&group), run(&Group { last: 63, ..group.clone() }));
        }
    }

    #[test]
    fn impossible_coefficients_do_no_harm() {
        for value in [i16::MIN, i16::MAX] {
            let mut out = [7; 8 * 64];
            transform(&[Group { values: [[value; LANES]; 64], last: 63 }], &[255; 64], &mut out);
            transform(&[Group { values: [[value; LANES]; 64], last: 63 }], &[1; 64], &mut out);
        }
    }
}

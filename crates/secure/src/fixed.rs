//! Fixed point: real numbers as wrapping integers, so that a sum of masked vectors is exact.
//!
//! A value x of an agreed range becomes round(x * 2^k), k as large as the sum of all sites' values and the
//! word allow, in two's complement. Sums wrap, masks cancel, and since the true sum fits a signed word, the
//! decoded result is exactly the sum of the encoded values. A value outside the range is an error:
//! it is never clipped or wrapped.

use std::fmt::Display;

use crate::{Error, ErrorKind, Result};

/// See [`Scale::encode`].
const WHOLE: f64 = 1.5 * (1u64 << 52) as f64;

/// The length of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// 24 bits, the lowest of a u32; the others do not count.
    Short,
    /// 32 bits.
    Long,
}

impl Word {
    /// Bits of a u32 that do not count.
    fn spare(self) -> u32 {
        match self {
            Self::Short => 8,
            Self::Long => 0,
        }
    }

    /// The greatest signed number.
    fn limit(self) -> f64 {
        f64::from(i32::MAX >> self.spare())
    }
}

/// A power-of-two scale for values of one tensor in one word each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    range: f32,
    /// 2^k.
    factor: f64,
    /// 2^-k.
    step: f64,
    word: Word,
}

impl Scale {
    /// The finest scale at which `sites` values of magnitude at most `range` add up to less than half of what a word wraps at.
    ///
    /// # Errors
    /// `OutOfRange` unless `range` is positive and finite; `Parameter` unless there are 1 to 65,536 sites.
    pub fn for_sum(range: f32, sites: usize, word: Word) -> Result<Self> {
        check_sites(sites)?;
        Self::within(range, word.limit() / sites as f64 - 0.5, word)
    }

    /// As [`Scale::for_sum`] for the terms of a weighted mean: values of magnitude at most `range`, each times its site's weight,
    /// where the weights are not negative and add up to 1 at most. The sum is then no larger than the range, for any number of sites.
    ///
    /// # Errors
    /// As [`Scale::for_sum`].
    pub fn for_mean(range: f32, sites: usize, word: Word) -> Result<Self> {
        check_sites(sites)?;
        // Half a step for the rounding of each term; weights and their products are rounded to f32, so the last factor.
        Self::within(range, (word.limit() - 0.5 * sites as f64) * (1.0 - 2f64.powi(-22)), word)
    }

    fn within(range: f32, room: f64, word: Word) -> Result<Self> {
        let exponent = exponent(f64::from(range), room)?;
        Ok(Self { range, factor: 2f64.powi(exponent), step: 2f64.powi(-exponent), word })
    }

    /// Largest magnitude that can be encoded.
    pub fn range(&self) -> f32 {
        self.range
    }

    /// The distance between neighbouring encoded values, a power of two. Encoding moves a value by
    /// at most half of it.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Encodes `values` into `out`, ties to even.
    ///
    /// # Errors
    /// `OutOfRange` with place and value for one that is not finite or larger than the range; `Length`
    /// if the slices differ in length.
    pub fn encode(&self, values: &[f32], out: &mut [u32]) -> Result<()> {
        check_len(values.len(), out.len())?;
        // Written so that NaN fails it too.
        let is_out = |value: f32| value.is_nan() || value.abs() > self.range;
        if let Some(index) = values.iter().position(|&value| is_out(value)) {
            return Err(out_of_range(index, values[index], self.range));
        }
        for (&value, word) in values.iter().zip(out) {
            // Beside 1.5 * 2^52 a double has no digits after the point: the addition rounds, ties to even, and the integer
            // is in the lowest bits.
            *word = (f64::from(value) * self.factor + WHOLE).to_bits() as u32;
        }
        Ok(())
    }

    /// The real value of one word of a sum.
    pub fn value(&self, word: u32) -> f64 {
        let spare = self.word.spare();
        f64::from((word << spare) as i32 >> spare) * self.step
    }

    /// Decodes words of a sum, rounded once to f32.
    ///
    /// # Errors
    /// `Length` if the slices differ in length.
    pub fn decode(&self, words: &[u32], out: &mut [f32]) -> Result<()> {
        check_len(words.len(), out.len())?;
        for (value, &word) in out.iter_mut().zip(words) {
            *value = self.value(word) as f32;
        }
        Ok(())
    }
}

/// A power-of-two scale for values that need 64 bits, such as summed losses.
///
/// A 64-bit two's complement value travels as [`WideScale::WORDS`] limbs of 22 bits in the same vector
/// of u32 words: with at most [`WideScale::MAX_SITES`] sites no limb's sum overflows, so carries can
/// be settled after the sum and nothing in the protocol needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WideScale {
    range: f64,
    exponent: i32,
}

impl WideScale {
    /// Words per value.
    pub const WORDS: usize = 3;
    /// Most sites whose limbs can be added.
    pub const MAX_SITES: usize = 1 << (32 - Self::BITS);
    const BITS: u32 = 22;

    /// The finest scale at which `sites` values of magnitude at most `range` add up to less than 2^63.
    ///
    /// # Errors
    /// `OutOfRange` unless `range` is positive and finite; `Parameter` unless there are 1 to
    /// [`WideScale::MAX_SITES`] sites.
    pub fn for_range(range: f64, sites: usize) -> Result<Self> {
        if sites > Self::MAX_SITES {
            return Err(Error::new(
                ErrorKind::Parameter,
                format!("{sites} sites: 64-bit sums support at most {}", Self::MAX_SITES),
            ));
        }
        check_sites(sites)?;
        // 2^62 rather than 2^63 leaves room for the rounding of the product in f64.
        let exponent = exponent(range, 2f64.powi(62) / sites as f64 - 0.5)?;
        Ok(Self { range, exponent })
    }

    /// Largest magnitude that can be encoded.
    pub fn range(&self) -> f64 {
        self.range
    }

    /// The distance between neighbouring encoded values, a power of two.
    pub fn step(&self) -> f64 {
        2f64.powi(-self.exponent)
    }

    /// Encodes `values` into `out`, [`WideScale::WORDS`] words a value, ties to even.
    ///
    /// # Errors
    /// As [`Scale::encode`].
    pub fn encode(&self, values: &[f64], out: &mut [u32]) -> Result<()> {
        check_len(values.len() * Self::WORDS, out.len())?;
        let factor = 2f64.powi(self.exponent);
        for (index, (&value, limbs)) in values.iter().zip(out.chunks_exact_mut(Self::WORDS)).enumerate() {
            if value.is_nan() || value.abs() > self.range {
                return Err(out_of_range(index, value, self.range));
            }
            let integer = (value * factor).round_ties_even() as i64 as u64;
            for (limb, word) in limbs.iter_mut().enumerate() {
                *word = ((integer >> (Self::BITS * limb as u32)) & ((1 << Self::BITS) - 1)) as u32;
            }
        }
        Ok(())
    }

    /// Decodes words of a sum, rounded once to f64.
    ///
    /// # Errors
    /// `Length` if `words` is not [`WideScale::WORDS`] times as long as `out`.
    pub fn decode(&self, words: &[u32], out: &mut [f64]) -> Result<()> {
        check_len(out.len() * Self::WORDS, words.len())?;
        for (value, limbs) in out.iter_mut().zip(words.chunks_exact(Self::WORDS)) {
            let integer = limbs.iter().enumerate().fold(0u64, |total, (limb, &word)| {
                total.wrapping_add(u64::from(word) << (Self::BITS * limb as u32))
            });
            *value = integer as i64 as f64 * self.step();
        }
        Ok(())
    }
}

/// Whole numbers that are added exactly, such as counts and sums of products.
///
/// A number travels as [`Integers::WORDS`] words: its lowest 22 bits, and the rest in two's complement. With at most
/// [`Integers::MAX_SITES`] sites the low words cannot overflow, and carries are settled after the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integers {
    limit: i64,
}

impl Integers {
    /// Words per number.
    pub const WORDS: usize = 2;
    /// Most sites whose numbers can be added.
    pub const MAX_SITES: usize = 1 << 10;
    const BITS: u32 = 22;

    /// Room for so many sites' numbers.
    ///
    /// # Errors
    /// `Parameter` unless there are 1 to [`Integers::MAX_SITES`] sites.
    pub fn for_sites(sites: usize) -> Result<Self> {
        if sites == 0 || sites > Self::MAX_SITES {
            return Err(Error::new(
                ErrorKind::Parameter,
                format!("{sites} sites: whole numbers are added for 1 to {}", Self::MAX_SITES),
            ));
        }
        Ok(Self { limit: ((1i64 << 53) - 1) / sites as i64 })
    }

    /// Greatest magnitude that one site may bring.
    pub fn limit(&self) -> i64 {
        self.limit
    }

    /// Encodes `values` into `out`, [`Integers::WORDS`] words a value.
    ///
    /// # Errors
    /// `OutOfRange` with place and value for one beyond the limit; `Length` if the slices do not fit.
    pub fn encode(&self, values: &[i64], out: &mut [u32]) -> Result<()> {
        check_len(Self::WORDS * values.len(), out.len())?;
        for (index, (&value, words)) in values.iter().zip(out.chunks_exact_mut(Self::WORDS)).enumerate() {
            if value.unsigned_abs() > self.limit as u64 {
                return Err(out_of_range(index, value, self.limit));
            }
            words[0] = (value & ((1 << Self::BITS) - 1)) as u32;
            words[1] = (value >> Self::BITS) as u32;
        }
        Ok(())
    }

    /// Decodes words of a sum.
    ///
    /// # Errors
    /// `Length` if `words` is not [`Integers::WORDS`] times as long as `out`.
    pub fn decode(&self, words: &[u32], out: &mut [i64]) -> Result<()> {
        check_len(Self::WORDS * out.len(), words.len())?;
        for (value, words) in out.iter_mut().zip(words.chunks_exact(Self::WORDS)) {
            // The low words carry into the high one, which wraps around 2^32 with the whole number around 2^54.
            let low = i64::from(words[0]);
            let high = words[1].wrapping_add((low >> Self::BITS) as u32) as i32;
            *value = (i64::from(high) << Self::BITS) + (low & ((1 << Self::BITS) - 1));
        }
        Ok(())
    }
}

/// Largest e with range * 2^e <= room.
fn exponent(range: f64, room: f64) -> Result<i32> {
    if !(range > 0.0 && range.is_finite()) {
        return Err(Error::new(
            ErrorKind::OutOfRange,
            format!("a range of {range} has no scale: give a positive, finite one"),
        ));
    }
    let mut exponent = (room / range).log2().floor().clamp(-1000.0, 1000.0) as i32;
    // The logarithm may round up across an integer.
    if range * 2f64.powi(exponent) > room {
        exponent -= 1;
    }
    Ok(exponent)
}

fn check_sites(sites: usize) -> Result<()> {
    if sites == 0 || sites > 1 << 16 {
        return Err(Error::new(
            ErrorKind::Parameter,
            format!("{sites} sites: fixed point supports 1 to 65536"),
        ));
    }
    Ok(())
}

fn check_len(expected: usize, got: usize) -> Result<()> {
    if expected != got {
        return Err(Error::new(
            ErrorKind::Length,
            format!("the output has {got} elements where {expected} are needed"),
        ));
    }
    Ok(())
}

fn out_of_range(index: usize, value: impl Display, range: impl Display) -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        format!(
            "value {value} at index {index} is outside the agreed range of +-{range}: \
             check the training that produced it, or agree on a larger range"
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn word(scale: &Scale, value: f32) -> u32 {
        let mut out = [0];
        scale.encode(&[value], &mut out).unwrap();
        out[0]
    }

    proptest! {
        #[test]
        fn whole_numbers_add_up_exactly(sites in 1usize..=1024, seed in any::<u64>()) {
            let integers = Integers::for_sites(sites).unwrap();
            let mut state = seed;
            let mut total = vec![0i64; 3];
            let mut words = vec![0u32; 6];
            for _ in 0..sites {
                let values: Vec<i64> = (0..3)
                    .map(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        // Extremes come up: a third of the values lie at a limit.
                        match state >> 62 {
                            0 => integers.limit(),
                            1 => -integers.limit(),
                            _ => (state as i64 >> 11) % (integers.limit() + 1),
                        }
                    })
                    .collect();
                let mut own = vec![0u32; 6];
                integers.encode(&values, &mut own).unwrap();
                words.iter_mut().zip(own).for_each(|(sum, word)| *sum = sum.wrapping_add(word));
                total.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            let mut got = vec![0; 3];
            integers.decode(&words, &mut got).unwrap();
            prop_assert_eq!(got, total);
        }
    }

    #[test]
    fn a_whole_number_beyond_the_limit_is_named() {
        let integers = Integers::for_sites(4).unwrap();
        let mut out = [0; 4];
        for bad in [integers.limit() + 1, -integers.limit() - 1, i64::MIN] {
            let error = integers.encode(&[7, bad], &mut out).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange);
            assert!(error.to_string().contains("index 1"), "{error}");
        }
        assert_eq!(Integers::for_sites(0).unwrap_err().kind(), ErrorKind::Parameter);
        assert_eq!(Integers::for_sites(1025).unwrap_err().kind(), ErrorKind::Parameter);
    }

    #[test]
    fn the_scale_is_the_finest_whose_sum_fits() {
        for (range, sites) in [(1.0, 3), (1.0, 100), (0.05, 16), (3e5, 7), (1e-30, 255), (1e30, 4)] {
            let scale = Scale::for_sum(range, sites, Word::Long).unwrap();
            let largest = i64::from(word(&scale, range) as i32) * sites as i64;
            assert!(largest <= i64::from(i32::MAX));
            let finer = f64::from(range) * 2.0 / scale.step() * sites as f64;
            assert!(finer + 0.5 * sites as f64 > f64::from(i32::MAX), "{range} {sites}");
        }
        assert_eq!(Scale::for_sum(1.0, 4, Word::Long).unwrap().step(), 2f64.powi(-28));
    }

    #[test]
    fn values_that_cannot_be_encoded_are_named() {
        let scale = Scale::for_sum(1.0, 3, Word::Long).unwrap();
        let mut out = [0; 3];
        for bad in [f32::NAN, f32::INFINITY, -1.000_000_1, 2.0] {
            let error = scale.encode(&[0.5, bad, 0.0], &mut out).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange);
            assert!(error.to_string().contains(&format!("value {bad} at index 1 ")), "{error}");
        }
        scale.encode(&[1.0, -1.0, 0.0], &mut out).unwrap();
        assert_eq!(scale.encode(&[0.0], &mut out).unwrap_err().kind(), ErrorKind::Length);
        for range in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(Scale::for_sum(range, 3, Word::Long).unwrap_err().kind(), ErrorKind::OutOfRange);
        }
        assert_eq!(Scale::for_sum(1.0, 0, Word::Long).unwrap_err().kind(), ErrorKind::Parameter);
        assert!(WideScale::for_range(1.0, WideScale::MAX_SITES).is_ok());
        assert!(WideScale::for_range(1.0, WideScale::MAX_SITES + 1).is_err());
    }

    #[test]
    fn ties_go_to_even() {
        let scale = Scale::for_sum(1.0, 4, Word::Long).unwrap();
        let half = (scale.step() / 2.0) as f32;
        assert_eq!([half, 3.0 * half, -half].map(|v| word(&scale, v)), [0, 2, 0]);
    }

    proptest! {
        #[test]
        fn sums_of_extremes_do_not_wrap(
            sites in 1usize..300, range in prop_oneof![1e-6f32..1e6, Just(0.1), Just(1.0)], low: bool, short: bool,
        ) {
            let scale = Scale::for_sum(range, sites, if short { Word::Short } else { Word::Long }).unwrap();
            let value = if low { -range } else { range };
            let one = word(&scale, value);
            let total = (0..sites).fold(0u32, |total, _| total.wrapping_add(one));
            let truth = scale.value(one) * sites as f64;
            prop_assert_eq!(scale.value(total), truth);
            prop_assert!((truth - f64::from(value) * sites as f64).abs() <= scale.step() / 2.0 * sites as f64);
        }

        #[test]
        fn means_of_extremes_do_not_wrap(
            images in prop::collection::vec(0u32..100_000, 1..300),
            range in prop_oneof![1e-6f32..1e6, Just(0.1), Just(1.0)], low: bool, short: bool,
        ) {
            let sites = images.len();
            let scale = Scale::for_mean(range, sites, if short { Word::Short } else { Word::Long }).unwrap();
            let value = if low { -range } else { range };
            let all: f64 = images.iter().map(|&n| f64::from(n)).sum::<f64>().max(1.0);
            let terms = images.iter().map(|&n| (f64::from(value) * (f64::from(n) / all)) as f32);
            let (words, exact) = terms.fold((0u32, 0.0), |(words, exact), term| {
                (words.wrapping_add(word(&scale, term)), exact + f64::from(term))
            });
            prop_assert!((scale.value(words) - exact).abs() <= scale.step() / 2.0 * sites as f64 * (1.0 + 1e-9));
            // As fine as for one site, whatever the number of sites, up to the power of two.
            prop_assert!(scale.step() <= 2.0 * Scale::for_sum(range, 1, scale.word).unwrap().step());
        }

        #[test]
        fn wide_sums_are_exact(values in prop::collection::vec(-1e6f64..1e6, 1..40)) {
            let sites = values.len();
            let scale = WideScale::for_range(1e6, sites).unwrap();
            let mut total = [0u32; WideScale::WORDS];
            let mut exact = 0i64;
            for value in &values {
                let mut words = [0; WideScale::WORDS];
                scale.encode(&[*value], &mut words).unwrap();
                exact += (value / scale.step()).round_ties_even() as i64;
                for (t, w) in total.iter_mut().zip(words) {
                    *t = t.wrapping_add(w);
                }
            }
            let mut sum = [0.0];
            scale.decode(&total, &mut sum).unwrap();
            prop_assert_eq!(sum[0], exact as f64 * scale.step());
        }

        #[test]
        fn a_value_is_rounded_to_the_nearest_step_ties_to_even(
            value in -1f32..=1.0, half in -500_000i32..500_000, sites in 1usize..300,
        ) {
            let scale = Scale::for_sum(1.0, sites, Word::Long).unwrap();
            let exact = (f64::from(value) / scale.step()).round_ties_even();
            prop_assert_eq!(word(&scale, value) as i32, exact as i32);
            let tie = ((f64::from(half) + 0.5) * scale.step()) as f32;
            let even = if half % 2 == 0 { half } else { half + 1 };
            prop_assert_eq!(word(&scale, tie) as i32, even);
        }

        #[test]
        fn one_value_comes_back_within_half_a_step(value in -10f32..=10.0, wide in -1e9f64..1e9) {
            for length in [Word::Short, Word::Long] {
                let scale = Scale::for_sum(10.0, 3, length).unwrap();
                prop_assert!((scale.value(word(&scale, value)) - f64::from(value)).abs() <= scale.step() / 2.0);
            }
            let scale = WideScale::for_range(1e9, 3).unwrap();
            let (mut words, mut back) = ([0; WideScale::WORDS], [0.0]);
            scale.encode(&[wide], &mut words).unwrap();
            scale.decode(&words, &mut back).unwrap();
            prop_assert!((back[0] - wide).abs() <= scale.step() / 2.0);
        }
    }

    #[test]
    fn limbs_of_the_most_sites_do_not_overflow() {
        let scale = WideScale::for_range(1.0, WideScale::MAX_SITES).unwrap();
        let mut words = [0; WideScale::WORDS];
        // -1 step has every bit set in its limbs.
        scale.encode(&[-scale.step()], &mut words).unwrap();
        let total = words.map(|w| w.checked_mul(WideScale::MAX_SITES as u32).unwrap());
        let mut sum = [0.0];
        scale.decode(&total, &mut sum).unwrap();
        assert_eq!(sum[0], -scale.step() * WideScale::MAX_SITES as f64);
    }
}

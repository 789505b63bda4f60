use std::fmt;
use std::str::FromStr;

use crate::crop::{CROP_LEN, CROP_SIDE, Crop};
use crate::error::{Error, ErrorKind, Result};

/// Numbers a trunk takes per crop: `[3, 112, 112]`.
pub const INPUT_LEN: usize = CROP_LEN;

/// The numbers that a network's layers are computed in. What goes in and comes out is `f32` in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Precision {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16 products, added up in single precision.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::new(
                ErrorKind::Engine,
                format!("`{text}` is no precision of a trunk; give f32 or bf16"),
            )),
        }
    }
}

/// A frozen network that turns crops into features.
pub trait Trunk: Send + Sync {
    /// Numbers per crop that [`features`](Self::features) writes.
    fn output_len(&self) -> usize;

    /// Identifies the network and where it is cut, whatever runs it; trunks with equal digests compute the same
    /// function up to rounding.
    fn digest(&self) -> [u8; 32];

    /// Writes `crops.len() * output_len()` numbers, crop after crop, all finite. Each crop's features depend
    /// on that crop alone: neither its neighbours nor the number of threads change a bit of them.
    ///
    /// # Errors
    /// If `out` has another length, or the network fails or gives numbers that are not finite.
    fn features(&self, crops: &[Crop], out: &mut [f32]) -> Result<()>;

    /// The engine that runs the network, for logs and reports.
    fn engine(&self) -> &str;

    /// The numbers that the network is computed in.
    fn precision(&self) -> Precision;
}

/// Whether a crop gives the same bits in every place of a batch, beside black crops (which fill an unfinished batch up)
/// and beside its like. Runs two batches.
///
/// # Errors
/// As [`Trunk::features`].
pub fn keeps_crops_apart(trunk: &dyn Trunk, batch: usize) -> Result<bool> {
    let pattern: Vec<u8> = (0..CROP_LEN).map(|i| (i * i / 7 % 251) as u8).collect();
    let crops = vec![Crop::from_rgb(pattern)?; batch.max(1)];
    let run = |crops: &[Crop]| -> Result<Vec<u32>> {
        let mut out = vec![0.0; crops.len() * trunk.output_len()];
        trunk.features(crops, &mut out)?;
        Ok(out.iter().map(|v| v.to_bits()).collect())
    };
    let (alone, together) = (run(&crops[..1])?, run(&crops)?);
    Ok(together.chunks_exact(trunk.output_len()).all(|crop| crop == alone))
}

/// Refuses a buffer for the features of `crops` crops that has another length.
pub(crate) fn check_out(crops: usize, output_len: usize, out: &[f32]) -> Result<()> {
    if out.len() == crops * output_len {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Size,
        format!("features of {crops} crops are {crops} x {output_len} numbers, the buffer has {}", out.len()),
    ))
}

/// Refuses features that are not finite.
pub(crate) fn check_finite<'a>(features: impl IntoIterator<Item = &'a f32>) -> Result<()> {
    if features.into_iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Engine,
        "the network gives numbers that are not finite; check that its file is intact and takes pixels in -1..1",
    ))
}

/// Refuses a network that gives another number of features than its file promises, or none.
pub(crate) fn check_promise(found: usize, promised: Option<usize>, cut: &str) -> Result<()> {
    if found > 0 && promised.is_none_or(|len| len == found) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Engine,
        format!(
            "the network gives {found} numbers per crop at `{cut}`, the file says {}; cut it elsewhere",
            promised.unwrap_or_default()
        ),
    ))
}

/// Writes a crop as the networks expect it: planes R, G, B of 112 x 112, each value `(x / 255 - 0.5) / 0.5`.
///
/// # Panics
/// If `out` is not [`INPUT_LEN`] long.
pub fn to_input(crop: &Crop, out: &mut [f32]) {
    assert_eq!(out.len(), INPUT_LEN, "the input of a trunk is 3 x 112 x 112");
    let (pixels, _) = crop.rgb().as_chunks::<3>();
    for (channel, plane) in out.chunks_exact_mut(CROP_SIDE * CROP_SIDE).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(pixels) {
            *value = (f32::from(pixel[channel]) / 255.0 - 0.5) / 0.5;
        }
    }
}

/// Writes a batch as [`to_input`] writes a crop, filled up with black crops: every batch costs and computes the same.
pub(crate) fn fill(crops: &[Crop], out: &mut [f32]) {
    let black = Crop::black();
    for (crop, planes) in crops.iter().chain(std::iter::repeat(&black)).zip(out.chunks_exact_mut(INPUT_LEN)) {
        to_input(crop, planes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn input_is_planar_and_scaled_to_one() {
        let mut rgb = vec![0; CROP_LEN];
        rgb[..3].copy_from_slice(&[0, 51, 255]);
        let mut input = vec![f32::NAN; INPUT_LEN];
        to_input(&Crop::from_rgb(rgb).unwrap(), &mut input);
        let plane = CROP_SIDE * CROP_SIDE;
        assert_eq!(input[0], -1.0);
        assert!((input[plane] + 0.6).abs() < 1e-6);
        assert_eq!(input[2 * plane], 1.0);
        assert_eq!(input[2 * plane + 1], -1.0);
    }

    #[test]
    fn precisions_read_back() {
        for precision in [Precision::F32, Precision::Bf16] {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        assert!("f16".parse::<Precision>().unwrap_err().to_string().contains("f16"));
    }
}

use crate::crop::{CROP_LEN, CROP_SIDE, Crop};
use crate::error::Result;

/// Numbers a trunk takes per crop: `[3, 112, 112]`.
pub const INPUT_LEN: usize = CROP_LEN;

/// A frozen network that turns crops into features.
pub trait Trunk: Send + Sync {
    /// Numbers per crop that [`features`](Self::features) writes.
    fn output_len(&self) -> usize;

    /// Identifies the network and where it is cut; trunks with equal digests compute the same function.
    fn digest(&self) -> [u8; 32];

    /// Writes `crops.len() * output_len()` numbers, crop after crop, all finite. Each crop's features depend
    /// on that crop alone: neither its neighbours nor the number of threads change a bit of them.
    ///
    /// # Errors
    /// If `out` has another length, or the network fails or gives numbers that are not finite.
    fn features(&self, crops: &[Crop], out: &mut [f32]) -> Result<()>;

    /// The engine that runs the network, for logs and reports.
    fn engine(&self) -> &str;
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
}

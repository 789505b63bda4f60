use std::fmt;
use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder, ImageFormat};

use crate::decode::Photo;
use crate::error::{Error, ErrorKind, Result};
use crate::resize;

/// Side of a crop in pixels.
pub const CROP_SIDE: usize = 112;

/// Bytes of a crop: 112 x 112 pixels of interleaved RGB.
pub const CROP_LEN: usize = CROP_SIDE * CROP_SIDE * 3;

/// An aligned face: 112 x 112 pixels, row-major interleaved RGB, 8 bits a channel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Crop(Box<[u8]>);

impl Crop {
    /// Takes 112 x 112 x 3 bytes of interleaved RGB; any other length is an error of kind
    /// [`ErrorKind::Size`].
    pub fn from_rgb(rgb: impl Into<Box<[u8]>>) -> Result<Self> {
        let rgb = rgb.into();
        if rgb.len() != CROP_LEN {
            return Err(Error::new(
                ErrorKind::Size,
                format!(
                    "a crop is {CROP_SIDE} x {CROP_SIDE} x 3 = {CROP_LEN} bytes of RGB, found {} bytes",
                    rgb.len()
                ),
            ));
        }
        Ok(Self(rgb))
    }

    /// A picture that is already a crop, or that has no facial points: 112 x 112 is taken as it is, anything
    /// else is cut to its central square and resized (triangle filter whose support grows with the
    /// reduction, as Pillow's `BILINEAR`).
    pub fn from_photo(photo: &Photo) -> Result<Self> {
        let (width, height) = (photo.width() as usize, photo.height() as usize);
        if (width, height) == (CROP_SIDE, CROP_SIDE) {
            return Self::from_rgb(photo.rgb());
        }
        let side = width.min(height);
        let (left, top) = ((width - side) / 2, (height - side) / 2);
        let square: Vec<u8> = photo
            .rgb()
            .chunks_exact(width * 3)
            .skip(top)
            .take(side)
            .flat_map(|row| &row[left * 3..(left + side) * 3])
            .copied()
            .collect();
        Self::from_rgb(resize::square(&square, side, CROP_SIDE))
    }

    /// The pixels: row-major interleaved RGB, [`CROP_LEN`] bytes.
    pub fn rgb(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn black() -> Self {
        Self(vec![0; CROP_LEN].into_boxed_slice())
    }

    /// The crop as a PNG file without metadata.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut png = Vec::new();
        image::codecs::png::PngEncoder::new(Cursor::new(&mut png))
            .write_image(&self.0, CROP_SIDE as u32, CROP_SIDE as u32, ExtendedColorType::Rgb8)
            .map_err(|e| encode_error(ImageFormat::Png, e))?;
        Ok(png)
    }

    /// The crop as a JPEG file of the given quality (1..=100) without metadata.
    pub fn to_jpeg(&self, quality: u8) -> Result<Vec<u8>> {
        let mut jpeg = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, quality.clamp(1, 100))
            .write_image(&self.0, CROP_SIDE as u32, CROP_SIDE as u32, ExtendedColorType::Rgb8)
            .map_err(|e| encode_error(ImageFormat::Jpeg, e))?;
        Ok(jpeg)
    }
}

/// Faces do not belong in logs: the pixels are left out.
impl fmt::Debug for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Crop(112 x 112 RGB)")
    }
}

fn encode_error(format: ImageFormat, source: image::ImageError) -> Error {
    Error::with_source(ErrorKind::Format, format!("cannot write the crop as {format:?}"), source)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::{Limits, decode};

    fn ramp() -> Vec<u8> {
        (0..CROP_LEN).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn a_crop_has_exactly_its_bytes() {
        assert!(Crop::from_rgb(ramp()).is_ok());
        let error = Crop::from_rgb(vec![0; 10]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Size);
        assert!(error.to_string().contains("found 10 bytes"));
    }

    #[test]
    fn png_round_trips_exactly() {
        let crop = Crop::from_rgb(ramp()).unwrap();
        let photo = decode(&crop.to_png().unwrap(), &Limits::default()).unwrap();
        assert_eq!(Crop::from_photo(&photo).unwrap(), crop);
    }

    #[test]
    fn other_sizes_give_their_central_square() {
        // Left and right thirds are white, the centre black: only the centre is kept.
        let (width, height) = (300, 100);
        let rgb = (0..width * height)
            .flat_map(|i| [if (100..200).contains(&(i % width)) { 0 } else { 255 }; 3])
            .collect();
        let photo = Photo::from_rgb(width as u32, height as u32, rgb).unwrap();
        let crop = Crop::from_photo(&photo).unwrap();
        assert!(crop.rgb().iter().all(|&v| v == 0));
        let tiny = Photo::from_rgb(1, 2, vec![7; 6]).unwrap();
        assert!(Crop::from_photo(&tiny).unwrap().rgb().iter().all(|&v| v == 7));
    }

    #[test]
    fn debug_shows_no_pixels() {
        assert_eq!(format!("{:?}", Crop::black()), "Crop(112 x 112 RGB)");
    }
}

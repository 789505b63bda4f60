//! Photographs: JPEG, PNG or WebP bytes to upright RGB pixels.

use std::fmt;
use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, RgbImage};

use crate::error::{Error, ErrorKind, Result};
use crate::{jpeg, webp};

/// How large a photograph may be. Both limits are checked before pixels are allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of the encoded file.
    pub bytes: usize,
    /// Most pixels (width x height) of the picture.
    pub pixels: u64,
}

impl Default for Limits {
    /// 64 MiB and 64 million pixels: any ordinary camera's photograph. The pixels take 192 MB; a progressive JPEG
    /// three times that and a 16-bit PNG with transparency four times while they are decoded.
    fn default() -> Self {
        Self { bytes: 64 << 20, pixels: 64_000_000 }
    }
}

impl Limits {
    /// The error for a photograph with more pixels.
    pub(crate) fn exceeded(&self, width: u32, height: u32) -> Error {
        Error::new(
            ErrorKind::Limit,
            format!(
                "the photograph is {width} x {height} = {} pixels, the limit is {}; shrink it or raise the limit",
                u64::from(width) * u64::from(height),
                self.pixels
            ),
        )
    }
}

/// A decoded photograph: upright, row-major interleaved RGB, 8 bits a channel, without any metadata.
#[derive(Clone, PartialEq, Eq)]
pub struct Photo {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Photo {
    /// Takes `width * height * 3` bytes of interleaved RGB; refuses an empty picture and any other length.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        let expected = u64::from(width) * u64::from(height) * 3;
        if expected == 0 || rgb.len() as u64 != expected {
            return Err(Error::new(
                ErrorKind::Size,
                format!(
                    "a {width} x {height} RGB photograph has {expected} bytes (and at least one pixel), found {} bytes",
                    rgb.len()
                ),
            ));
        }
        Ok(Self { width, height, rgb })
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels: `width * height * 3` bytes, row-major interleaved RGB.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }
}

/// Faces do not belong in logs: the pixels are left out.
impl fmt::Debug for Photo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Photo({} x {} RGB)", self.width, self.height)
    }
}

/// Decodes a JPEG, PNG or WebP file (of an animation, the first picture).
///
/// EXIF orientation is applied (an unreadable orientation counts as upright), every other piece of metadata
/// is dropped, colour profiles are not applied. Grey becomes RGB, 16 bits are scaled to 8, palettes are
/// expanded, CMYK and YCCK are converted as Pillow does, without a profile. Transparent pixels are laid over black,
/// which is also what alignment puts outside the photograph: what a viewer hides stays hidden. (Pillow's
/// `convert("RGB")` and OpenCV's `imread` drop the transparency and show it; opaque pixels agree with theirs.)
///
/// # Errors
/// [`ErrorKind::Limit`] beyond `limits`, [`ErrorKind::Format`] for anything that is not JPEG, PNG or WebP (told by
/// its first bytes, not its name), [`ErrorKind::Corrupt`] for damaged or truncated files. A JPEG that ends
/// before its end-of-image marker is refused, since its missing part would be filled with grey.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Photo> {
    if bytes.len() > limits.bytes {
        return Err(Error::new(
            ErrorKind::Limit,
            format!(
                "the file has {} bytes, the limit is {}; shrink the photograph or raise the limit",
                bytes.len(),
                limits.bytes
            ),
        ));
    }
    match Format::of(bytes)? {
        Format::Jpeg => {
            let jpeg::Decoded { width, height, rgb, exif } = jpeg::decode(bytes, limits)?;
            let orientation = exif.and_then(|exif| Orientation::from_exif_chunk(&exif));
            match orientation {
                None | Some(Orientation::NoTransforms) => Photo::from_rgb(width, height, rgb),
                Some(turn) => {
                    let picture = RgbImage::from_raw(width, height, rgb);
                    let mut picture = DynamicImage::from(picture.ok_or_else(no_pixels)?);
                    picture.apply_orientation(turn);
                    Photo::from_rgb(picture.width(), picture.height(), picture.into_rgb8().into_raw())
                }
            }
        }
        Format::Png => {
            let mut allocation = image::Limits::default();
            allocation.max_alloc = Some(pixel_bytes(png_pixels(bytes).min(limits.pixels)));
            let decoder =
                PngDecoder::with_limits(Cursor::new(bytes), allocation).map_err(|e| failed("PNG", e))?;
            read("PNG", decoder, limits)
        }
        Format::WebP => {
            webp::check_complete(bytes)?;
            let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| failed("WebP", e))?;
            read("WebP", decoder, limits)
        }
    }
}

fn no_pixels() -> Error {
    Error::new(
        ErrorKind::Size,
        "the picture has fewer pixels than its size says; get it again from its source",
    )
}

enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    fn of(bytes: &[u8]) -> Result<Self> {
        let found = match bytes {
            [0xff, 0xd8, 0xff, ..] => return Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => return Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => return Ok(Self::WebP),
            [] => "an empty file",
            [b'G', b'I', b'F', b'8', ..] => "a GIF",
            [b'B', b'M', ..] => "a BMP",
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "a TIFF or raw file",
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a HEIC, AVIF or video file",
            [b'%', b'P', b'D', b'F', ..] => "a PDF",
            _ => "something else",
        };
        Err(Error::new(
            ErrorKind::Format,
            format!("a photograph must be JPEG, PNG or WebP, found {found}; convert it first"),
        ))
    }
}

/// Bytes that so many of the widest pixels (16-bit RGBA) take, and room for a colour profile: no compressed profile may ask
/// for more than the picture that it belongs to.
fn pixel_bytes(pixels: u64) -> u64 {
    pixels.saturating_mul(8).saturating_add(8 << 20)
}

/// Pixels that a PNG's header states; it comes first.
fn png_pixels(bytes: &[u8]) -> u64 {
    let side =
        |at: usize| bytes.get(at..at + 4).and_then(|side| side.try_into().ok()).map(u32::from_be_bytes);
    let [width, height] = [16, 20].map(|at| u64::from(side(at).unwrap_or(0)));
    width * height
}

fn read(format: &str, mut decoder: impl ImageDecoder, limits: &Limits) -> Result<Photo> {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.pixels {
        return Err(limits.exceeded(width, height));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| failed(format, e))?;
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width(), picture.height());
    Photo::from_rgb(width, height, over_black(picture))
}

/// Interleaved 8-bit RGB, transparent pixels blended with black.
fn over_black(picture: DynamicImage) -> Vec<u8> {
    if !picture.color().has_alpha() {
        return picture.into_rgb8().into_raw();
    }
    let rgba = picture.into_rgba8();
    let blend = |value: u8, alpha: u8| ((u32::from(value) * u32::from(alpha) + 127) / 255) as u8;
    rgba.as_raw()
        .chunks_exact(4)
        .flat_map(|p| [blend(p[0], p[3]), blend(p[1], p[3]), blend(p[2], p[3])])
        .collect()
}

fn failed(format: &str, error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => Error::with_source(
            ErrorKind::Limit,
            format!("the {format} file needs more memory than the limits allow"),
            error,
        ),
        ImageError::Unsupported(_) => Error::with_source(
            ErrorKind::Format,
            format!(
                "the {format} file uses a variant that is not supported; save it again as an ordinary 8-bit {format}: {error}"
            ),
            error,
        ),
        _ => Error::with_source(
            ErrorKind::Corrupt,
            format!("the {format} file is damaged or cut short; get it again from its source: {error}"),
            error,
        ),
    }
}

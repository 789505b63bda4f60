//! JPEG files (ITU-T T.81) to pixels, bit for bit as libjpeg-turbo decodes them with its defaults: accurate integer
//! inverse transform, smooth upsampling of chroma.
//!
//! Read are baseline, extended sequential and progressive frames with Huffman codes and 8 bits a sample, of 1 (grey), 3
//! (YCbCr or RGB) or 4 (CMYK or YCCK) components, with any sampling factors that divide the largest. Where libjpeg warns
//! and goes on (codes that do not exist, scans that end early), the file is refused. Of a progressive file that leaves
//! the last bits of coefficients out, libjpeg smooths blocks; that is not done here.
//!
//! The way of a picture: segments ([`markers`]), scans ([`sequential`], [`progressive`]) to coefficients ([`blocks`]),
//! inverse transform ([`idct`]) to planes, and rows of planes ([`upsample`]) to rows of pixels ([`colour`]). In a file of
//! one scan the transform runs beside the reading.

mod bits;
mod blocks;
mod colour;
mod complete;
mod huffman;
mod idct;
mod markers;
mod planes;
mod progressive;
mod scan;
mod sequential;
mod upsample;

use crate::decode::Limits;
use crate::error::{Error, ErrorKind, Result};
use bits::Bits;
use blocks::Coefficients;
use colour::Colours;
use complete::check_complete;
use markers::{Frame, Segment, Segments};
use planes::Planes;
use scan::Scan;

/// A decoded picture as it lies in the file.
pub(crate) struct Decoded {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Row-major interleaved RGB.
    pub(crate) rgb: Vec<u8>,
    /// The EXIF data (a TIFF file), if there are any.
    pub(crate) exif: Option<Vec<u8>>,
}

/// Decodes a JPEG file.
///
/// # Errors
/// [`ErrorKind::Limit`] beyond `limits` and for more scans than any encoder writes, [`ErrorKind::Format`] for frames of
/// other kinds, [`ErrorKind::Corrupt`] for damaged and truncated files.
pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded> {
    check_complete(bytes)?;
    let mut segments = Segments::new(bytes);
    let frame = match segments.next()? {
        Segment::Frame(frame) => frame,
        Segment::Scan(_) => return Err(corrupt("a scan comes before the frame")),
        Segment::End => return Err(corrupt("it has no picture")),
    };
    let pixels = u64::from(frame.width) * u64::from(frame.height);
    if pixels > limits.pixels {
        return Err(limits.exceeded(frame.width.into(), frame.height.into()));
    }
    let colours = Colours::of(&frame, &segments)?;
    let planes = read_planes(frame, &mut segments)?;
    Ok(Decoded {
        width: planes.frame.width.into(),
        height: planes.frame.height.into(),
        rgb: planes.render(colours),
        exif: segments.exif.map(<[u8]>::to_vec),
    })
}

fn read_planes(mut frame: Frame, segments: &mut Segments<'_>) -> Result<Planes> {
    let mut coefficients: Option<Coefficients> = None;
    loop {
        let header = match segments.next()? {
            Segment::Scan(header) => header,
            Segment::Frame(_) => return Err(corrupt("it has two frames")),
            Segment::End => break,
        };
        let scan = Scan::new(header, &mut frame, segments)?;
        let bits = Bits::new(segments.rest());
        if !frame.progressive && scan.parts.len() == frame.components.len() && coefficients.is_none() {
            // All there is: what follows up to the end is passed over, as libjpeg does.
            return sequential::read_whole(frame, &scan, bits, segments.restart_interval);
        }
        let all = coefficients.get_or_insert_with(|| Coefficients::of(&frame));
        let read = match frame.progressive {
            true => progressive::read(all, &frame, &scan, bits, segments.restart_interval)?,
            false => sequential::read_part(all, &frame, &scan, bits, segments.restart_interval)?,
        };
        segments.skip(read);
    }
    let Some(all) = coefficients else { return Err(corrupt("it has no scan")) };
    if let Some(missing) = frame.components.iter().position(|component| component.quantization.is_none()) {
        return Err(corrupt(format_args!("component {} of its picture is in no scan", missing + 1)));
    }
    Ok(Planes::transformed(frame, &all))
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the JPEG file is damaged or cut short: {what}; get it again from its source"),
    )
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Format,
        format!(
            "the JPEG file uses a variant that is not supported ({what}); save it again as an ordinary 8-bit JPEG"
        ),
    )
}

use super::{Detection, DetectorKind};
use crate::decode::Photo;
use crate::error::{Error, ErrorKind, Result};
use crate::resize;

/// The coarsest stride of the detectors: inputs are multiples of it.
const STRIDE: usize = 32;

/// How a photograph lies in a detector's input: scaled, with black round it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Letterbox {
    /// Width and height of the input.
    pub(super) canvas: [usize; 2],
    /// Width and height of the photograph in it.
    size: [usize; 2],
    /// Where the photograph's upper left corner lies.
    offset: [usize; 2],
    photo: [u32; 2],
}

impl Letterbox {
    pub(super) fn new(photo: [u32; 2], side: usize, padding: f32, fixed: Option<[usize; 2]>) -> Result<Self> {
        if !(STRIDE..=4096).contains(&side) || !(0.0..=2.0).contains(&padding) {
            return Err(Error::new(
                ErrorKind::Size,
                format!(
                    "faces are looked for at a side of {STRIDE} to 4096 and a border of 0 to 2, not {side} and {padding}"
                ),
            ));
        }
        if let Some([width, height]) = fixed.filter(|fixed| side > fixed[0].min(fixed[1])) {
            return Err(Error::new(
                ErrorKind::Size,
                format!(
                    "the detector's input is fixed at {width} x {height}, a side of {side} does not fit; use a smaller \
                     side or a detector exported with a dynamic input"
                ),
            ));
        }
        let longer = f64::from(photo[0].max(photo[1]));
        let scale = side as f64 / (longer * (1.0 + 2.0 * f64::from(padding)));
        let size = photo.map(|length| ((f64::from(length) * scale).round() as usize).clamp(1, side));
        let offset = size.map(|length| (length as f64 * f64::from(padding)).round() as usize);
        let canvas = [0, 1].map(|axis| (size[axis] + 2 * offset[axis]).min(side).next_multiple_of(STRIDE));
        Ok(Self { canvas: fixed.unwrap_or(canvas), size, offset, photo })
    }

    /// The input `[1, 3, height, width]` as the detector was trained on it, black outside the photograph.
    pub(super) fn input(&self, photo: &Photo, kind: DetectorKind) -> Vec<f32> {
        let (order, mean, scale) = match kind {
            DetectorKind::YuNet => ([2, 1, 0], [0.0; 3], 1.0),
            DetectorKind::Scrfd => ([0, 1, 2], [127.5; 3], 1.0 / 128.0),
            DetectorKind::RetinaFace => ([2, 1, 0], [104.0, 117.0, 123.0], 1.0),
        };
        let small = resize::photo(photo.rgb(), self.photo.map(|length| length as usize), self.size);
        let (pixels, _) = small.as_chunks::<3>();
        let [width, height] = self.canvas;
        let mut input = Vec::with_capacity(3 * width * height);
        for (channel, mean) in order.into_iter().zip(mean) {
            let start = input.len();
            input.resize(start + width * height, -mean * scale);
            let rows = input[start..].chunks_exact_mut(width).skip(self.offset[1]);
            for (row, pixels) in rows.zip(pixels.chunks_exact(self.size[0])) {
                for (value, pixel) in row[self.offset[0]..].iter_mut().zip(pixels) {
                    *value = (f32::from(pixel[channel]) - mean) * scale;
                }
            }
        }
        input
    }

    /// Takes a face from the input's pixels to the photograph's.
    pub(super) fn back(&self, face: &mut Detection) {
        let [x, y] = [0, 1].map(|axis| {
            let (scale, offset) =
                (self.photo[axis] as f32 / self.size[axis] as f32, self.offset[axis] as f32);
            move |at: f32| (at - offset) * scale
        });
        let [left, top, right, bottom] = face.bbox;
        face.bbox = [x(left), y(top), x(right), y(bottom)];
        face.points.0 = face.points.0.map(|point| [x(point[0]), y(point[1])]);
    }
}

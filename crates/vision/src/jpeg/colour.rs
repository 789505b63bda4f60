use super::markers::{Adobe, Frame, Segments};
use super::unsupported;
use crate::error::Result;

/// What a picture's components are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    Grey,
    YCbCr,
    Rgb,
    /// Inverted, as Adobe's programs write it.
    Cmyk,
    /// YCbCr of inverted CMY, and inverted K.
    Ycck,
}

impl Colours {
    /// From number and names of the components and the application segments, as libjpeg tells.
    pub(super) fn of(frame: &Frame, segments: &Segments<'_>) -> Result<Self> {
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        Ok(match (ids.as_slice(), segments.adobe) {
            ([_], _) => Self::Grey,
            ([_, _, _], _) if segments.jfif => Self::YCbCr,
            ([_, _, _], Some(Adobe(0))) => Self::Rgb,
            (b"RGB", None) => Self::Rgb,
            ([_, _, _], _) => Self::YCbCr,
            ([_, _, _, _], Some(Adobe(0)) | None) => Self::Cmyk,
            ([_, _, _, _], Some(_)) => Self::Ycck,
            _ => return Err(unsupported(format_args!("{} components", ids.len()))),
        })
    }

    /// A row of pixels from a row of each component.
    #[inline(always)]
    pub(super) fn convert(self, [a, b, c, d]: [&[u8]; 4], out: &mut [u8]) {
        let (out, _) = out.as_chunks_mut::<3>();
        let rest = a.iter().zip(b.iter().zip(c));
        match self {
            Self::Grey => out.iter_mut().zip(a).for_each(|(out, &a)| *out = [a; 3]),
            Self::YCbCr => {
                let (wide, _) = out.as_chunks_mut::<WIDE>();
                let done = wide.len() * WIDE;
                let (a_wide, b_wide, c_wide) = (a.as_chunks().0, b.as_chunks().0, c.as_chunks().0);
                for ((out, a), (b, c)) in wide.iter_mut().zip(a_wide).zip(b_wide.iter().zip(c_wide)) {
                    rgb_wide(a, b, c, out);
                }
                let rest = a.iter().zip(b.iter().zip(c));
                for (out, (&a, (&b, &c))) in out.iter_mut().zip(rest).skip(done) {
                    *out = rgb(a, b, c);
                }
            }
            Self::Rgb => out.iter_mut().zip(rest).for_each(|(out, (&a, (&b, &c)))| *out = [a, b, c]),
            Self::Cmyk => {
                for ((out, (&a, (&b, &c))), &k) in out.iter_mut().zip(rest).zip(d) {
                    *out = [a, b, c].map(|ink| over(ink, k));
                }
            }
            Self::Ycck => {
                for ((out, (&a, (&b, &c))), &k) in out.iter_mut().zip(rest).zip(d) {
                    *out = rgb(a, b, c).map(|ink| over(255 - ink, k));
                }
            }
        }
    }
}

/// Pixels that are converted together.
const WIDE: usize = 32;

#[inline(always)]
fn rgb_wide(y: &[u8; WIDE], cb: &[u8; WIDE], cr: &[u8; WIDE], out: &mut [[u8; 3]; WIDE]) {
    let mut planes = [[0; WIDE]; 3];
    for at in 0..WIDE {
        let [red, green, blue] = rgb(y[at], cb[at], cr[at]);
        (planes[0][at], planes[1][at], planes[2][at]) = (red, green, blue);
    }
    for (at, out) in out.iter_mut().enumerate() {
        *out = [planes[0][at], planes[1][at], planes[2][at]];
    }
}

/// ITU-R BT.601 as JFIF 1.02 uses it, with 16 fraction bits.
#[inline(always)]
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91881 * cr + HALF) >> 16);
    let green = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red.clamp(0, 255) as u8, green.clamp(0, 255) as u8, blue.clamp(0, 255) as u8]
}

/// An inverted ink over inverted black, as Pillow converts CMYK without a profile.
#[inline(always)]
fn over(ink: u8, black: u8) -> u8 {
    let product = u32::from(255 - ink) * u32::from(black) + 128;
    black - (((product >> 8) + product) >> 8) as u8
}

//! Five facial points to the ArcFace crop.

use crate::crop::{CROP_SIDE, Crop};
use crate::decode::Photo;
use crate::error::{Error, ErrorKind, Result};

/// Where the five points lie in a 112 x 112 crop (Deng et al., ArcFace, arXiv 1801.07698; the positions that
/// the insightface networks were trained with), in [`Points`]' order.
pub const TEMPLATE: Points = Points([
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
]);

/// A similarity explains all of the five points' spread for a frontal face and about 60 % in full profile;
/// below this share the points are in the wrong order, mirrored or not a face.
const LEAST_EXPLAINED: f64 = 0.3;

/// Five facial points in pixels (x right, y down, pixel centres at whole numbers): the eye on the left of the
/// picture, the eye on its right, the tip of the nose, the left and the right corner of the mouth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Points(pub [[f32; 2]; 5]);

/// Cuts the aligned face out of a photograph: bilinear sampling through the inverse of [`similarity`], black
/// outside the photograph. No low-pass filter is applied when the face is larger than the crop, since that is
/// how the networks' training faces were cut.
///
/// # Errors
/// [`ErrorKind::Points`] as [`similarity`], and for points that do not lie on this photograph: their centre
/// must be inside, and each of them within one photograph's size of it.
pub fn align(photo: &Photo, points: &Points) -> Result<Crop> {
    let forward = similarity(points)?;
    check_inside(photo, points)?;
    Ok(warp(photo, &inverse(&forward)))
}

/// The least-squares similarity (rotation, one scale, translation; never a reflection) that takes the points
/// to [`TEMPLATE`] (Umeyama 1991, eqs. 40 to 42, in closed form for the plane). Rows of the 2 x 3 matrix give
/// the crop's x and y from the photograph's `(x, y, 1)`.
///
/// # Errors
/// [`ErrorKind::Points`] if a coordinate is not finite, if the points coincide, or if no similarity brings
/// them near the template (swapped or mirrored points).
pub fn similarity(points: &Points) -> Result<[[f32; 3]; 2]> {
    let matrix = similarity_f64(points)?;
    Ok(matrix.map(|row| row.map(|v| v as f32)))
}

fn similarity_f64(points: &Points) -> Result<[[f64; 3]; 2]> {
    if let Some(bad) = points.0.iter().position(|p| !p.iter().all(|v| v.is_finite())) {
        return Err(Error::new(
            ErrorKind::Points,
            format!("facial point {} of 5 is not a finite number; detect or mark the face again", bad + 1),
        ));
    }
    let (from, from_mean) = centred(points);
    let (to, to_mean) = centred(&TEMPLATE);
    // With points as complex numbers z (photograph) and w (template), the least-squares w = a z + b has
    // a = sum(conj(z) w) / sum |z|^2: a rotation and a scale, never a reflection.
    let (mut real, mut imaginary, mut from_spread, mut to_spread) = (0.0, 0.0, 0.0, 0.0);
    for (z, w) in from.iter().zip(&to) {
        real += z[0] * w[0] + z[1] * w[1];
        imaginary += z[0] * w[1] - z[1] * w[0];
        from_spread += z[0] * z[0] + z[1] * z[1];
        to_spread += w[0] * w[0] + w[1] * w[1];
    }
    if from_spread < 1e-3 {
        return Err(Error::new(
            ErrorKind::Points,
            "the five facial points are the same point; detect or mark the face again",
        ));
    }
    let explained = (real * real + imaginary * imaginary) / (from_spread * to_spread);
    if explained < LEAST_EXPLAINED {
        return Err(Error::new(
            ErrorKind::Points,
            format!(
                "the five facial points do not form a face (fit {explained:.2}, at least {LEAST_EXPLAINED} needed); \
                 give them as left eye, right eye, nose, left and right corner of the mouth, left being the left of the picture"
            ),
        ));
    }
    let (a, b) = (real / from_spread, imaginary / from_spread);
    Ok([
        [a, -b, to_mean[0] - a * from_mean[0] + b * from_mean[1]],
        [b, a, to_mean[1] - b * from_mean[0] - a * from_mean[1]],
    ])
}

fn centred(points: &Points) -> ([[f64; 2]; 5], [f64; 2]) {
    let points = points.0.map(|p| p.map(f64::from));
    let mean = [0, 1].map(|axis| points.iter().map(|p| p[axis]).sum::<f64>() / 5.0);
    (points.map(|p| [p[0] - mean[0], p[1] - mean[1]]), mean)
}

fn check_inside(photo: &Photo, points: &Points) -> Result<()> {
    let size = [photo.width() as f32, photo.height() as f32];
    let within = |p: [f32; 2], margin: f32| {
        (0..2).all(|axis| p[axis] >= -margin * size[axis] && p[axis] <= (1.0 + margin) * size[axis])
    };
    let centre = [0, 1].map(|axis| points.0.iter().map(|p| p[axis]).sum::<f32>() / 5.0);
    if within(centre, 0.0) && points.0.iter().all(|&p| within(p, 1.0)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Points,
        format!(
            "the facial points (centre {:.0}, {:.0}) do not lie on the photograph of {} x {} pixels; \
             give them in pixels of the upright photograph",
            centre[0],
            centre[1],
            photo.width(),
            photo.height()
        ),
    ))
}

fn inverse(m: &[[f32; 3]; 2]) -> [[f64; 3]; 2] {
    let m = m.map(|row| row.map(f64::from));
    let determinant = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    let [a, b, c, d] = [m[1][1], -m[0][1], -m[1][0], m[0][0]].map(|v| v / determinant);
    [[a, b, -(a * m[0][2] + b * m[1][2])], [c, d, -(c * m[0][2] + d * m[1][2])]]
}

fn warp(photo: &Photo, back: &[[f64; 3]; 2]) -> Crop {
    let mut crop = Crop::black();
    let (width, height) = (photo.width() as i64, photo.height() as i64);
    for (y, row) in crop.rgb_mut().chunks_exact_mut(CROP_SIDE * 3).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let [u, v] = back.map(|m| m[0] * x as f64 + m[1] * y as f64 + m[2]);
            let (left, top) = (u.floor() as i64, v.floor() as i64);
            if left < -1 || top < -1 || left >= width || top >= height {
                continue;
            }
            let (fx, fy) = ((u - left as f64) as f32, (v - top as f64) as f32);
            let taps = [
                (left, top, (1.0 - fx) * (1.0 - fy)),
                (left + 1, top, fx * (1.0 - fy)),
                (left, top + 1, (1.0 - fx) * fy),
                (left + 1, top + 1, fx * fy),
            ];
            let mut sum = [0.0f32; 3];
            for (tx, ty, weight) in taps {
                if (0..width).contains(&tx) && (0..height).contains(&ty) {
                    let at = ((ty * width + tx) * 3) as usize;
                    for (s, &value) in sum.iter_mut().zip(&photo.rgb()[at..at + 3]) {
                        *s += weight * f32::from(value);
                    }
                }
            }
            for (out, s) in pixel.iter_mut().zip(sum) {
                *out = (s + 0.5) as u8;
            }
        }
    }
    crop
}

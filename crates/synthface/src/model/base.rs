//! The average head: cross-sections with the features of a face raised on them.
//!
//! Lengths are centimetres of an adult. The eye line is y = 0, the middle of
//! the head x = 0; a pupil sits at (3.15, 0), the parting of the lips at
//! y = -7, the chin ends near y = -11.3.

use crate::math::{Vec3, curve, pow, sin_cos, smooth, vec3};

/// Where a point of the surface lies on the average head, whatever the face.
///
/// Features (lips, brows, hairline) are painted in these coordinates, so they
/// follow every deformation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Canon {
    /// Average position to the side, cm.
    pub(crate) x: f32,
    /// Average height, cm.
    pub(crate) y: f32,
    /// Azimuth: 0 in the middle of the face, pi at the back, signed like `x`.
    pub(crate) azimuth: f32,
}

pub(crate) const EYE_X: f32 = 3.15;
pub(crate) const EYE_RADIUS: f32 = 1.28;
/// Depth of the centre of the eyeball.
pub(crate) const EYE_Z: f32 = 6.35;
pub(crate) const INNER_CANTHUS: (f32, f32) = (1.66, -0.14);
pub(crate) const OUTER_CANTHUS: (f32, f32) = (4.66, 0.14);
pub(crate) const MOUTH_Y: f32 = -7.0;
pub(crate) const MOUTH_X: f32 = 2.55;
/// Half the height of the strip of skin that becomes the opening of the mouth.
pub(crate) const SLIT: f32 = 0.05;
pub(crate) const NOSE_TIP: (f32, f32) = (0.0, -3.95);

/// Columns per side and rows of the head's grid.
pub(crate) const SIDE_COLUMNS: usize = 48;
pub(crate) const COLUMNS: usize = 2 * SIDE_COLUMNS + 1;

/// Azimuths of the columns, from the back over the face to the back again.
pub(crate) fn azimuths() -> Vec<f32> {
    let degrees = |i: usize| -> f32 {
        let i = i as f32;
        if i <= 26.0 {
            i * 1.7
        } else if i <= 38.0 {
            44.2 + (i - 26.0) * 3.816_67
        } else {
            90.0 + (i - 38.0) * 9.0
        }
    };
    let half = (1..=SIDE_COLUMNS).map(|i| degrees(i).to_radians());
    let mut all: Vec<f32> = half.clone().map(|a| -a).collect();
    all.reverse();
    all.push(0.0);
    all.extend(half);
    all
}

/// Heights of the rows, top first. Two rows bound the opening of the mouth.
pub(crate) fn heights() -> Vec<f32> {
    let mut rows = Vec::new();
    // The dome, by angle, so that rows crowd towards the top.
    for i in 0..16 {
        let (s, _) = sin_cos(std::f32::consts::FRAC_PI_2 * (1.0 - i as f32 / 20.0));
        rows.push(2.4 + 9.2 * s);
    }
    let mut push_band = |to: f32, step: f32| {
        let from: f32 = rows[rows.len() - 1];
        let n = ((from - to) / step).round().max(1.0);
        for i in 1..=n as i32 {
            rows.push(from + (to - from) * i as f32 / n);
        }
    };
    push_band(1.5, 0.3);
    push_band(-1.2, 0.16);
    push_band(-3.4, 0.25);
    push_band(-5.2, 0.15);
    push_band(MOUTH_Y + SLIT, 0.18);
    push_band(MOUTH_Y - SLIT, 0.11);
    push_band(-8.6, 0.18);
    push_band(-11.35, 0.26);
    push_band(-11.6, 0.06);
    rows
}

/// Widths and depths of the cross-section at height `y`: (half width, front, back, centre).
fn section(y: f32) -> (f32, f32, f32, f32) {
    if y > 3.0 {
        let q = (y - 3.0) / 8.62;
        let dome = pow((1.0 - pow(q, 2.25)).max(0.0), 1.0 / 2.25);
        let centre = -0.9 * q;
        let front = centre + (8.75 + 0.9 * q) * pow(dome, 1.04);
        let back = centre - (9.7 - 0.9 * q) * dome;
        return (7.35 * pow(dome, 1.06), front, back, centre);
    }
    const HALF_WIDTH: [(f32, f32); 12] = [
        (-11.6, 0.15),
        (-11.5, 1.0),
        (-11.2, 1.9),
        (-10.6, 2.85),
        (-9.7, 3.75),
        (-8.5, 4.65),
        (-7.0, 5.45),
        (-5.0, 6.15),
        (-3.0, 6.7),
        (0.0, 7.1),
        (2.0, 7.3),
        (3.0, 7.35),
    ];
    const FRONT: [(f32, f32); 12] = [
        (-11.6, 6.6),
        (-11.45, 7.5),
        (-11.2, 8.25),
        (-10.6, 8.75),
        (-9.7, 8.85),
        (-8.5, 8.75),
        (-7.0, 8.85),
        (-5.0, 8.75),
        (-3.0, 8.55),
        (0.0, 8.45),
        (2.0, 8.75),
        (3.0, 8.75),
    ];
    const BACK: [(f32, f32); 9] = [
        (-11.6, 6.3),
        (-11.2, 4.0),
        (-9.7, 1.0),
        (-8.5, -1.0),
        (-7.0, -3.5),
        (-5.0, -7.2),
        (-3.0, -9.0),
        (0.0, -9.7),
        (3.0, -9.7),
    ];
    const CENTRE: [(f32, f32); 9] = [
        (-11.6, 6.45),
        (-11.2, 5.4),
        (-9.7, 3.3),
        (-8.5, 2.0),
        (-7.0, 0.9),
        (-5.0, 0.2),
        (-3.0, 0.0),
        (0.0, 0.0),
        (3.0, 0.0),
    ];
    (curve(&HALF_WIDTH, y), curve(&FRONT, y), curve(&BACK, y), curve(&CENTRE, y))
}

/// A bump of height 1 at `(cx, cy)` on both sides of the face.
pub(crate) fn pair(c: &Canon, cx: f32, cy: f32, sx: f32, sy: f32) -> f32 {
    bump(c.x.abs() - cx, c.y - cy, sx, sy) * front(c)
}

/// A bump of height 1 on the midline at height `cy`.
pub(crate) fn mid(c: &Canon, cy: f32, sx: f32, sy: f32) -> f32 {
    bump(c.x, c.y - cy, sx, sy) * front(c)
}

/// 1 on the face, 0 behind the ears.
pub(crate) fn front(c: &Canon) -> f32 {
    // Below the jaw the cross-sections close under the chin: all of them are chin.
    smooth(1.75, 1.25, c.azimuth.abs()).max(smooth(-9.0, -10.2, c.y))
}

pub(crate) fn bump(dx: f32, dy: f32, sx: f32, sy: f32) -> f32 {
    let q = (dx / sx) * (dx / sx) + (dy / sy) * (dy / sy);
    if q > 30.0 { 0.0 } else { crate::math::exp(-0.5 * q) }
}

/// A bump that keeps its full height on a plateau and then falls off.
pub(crate) fn mesa(d: f32, half: f32, soft: f32) -> f32 {
    smooth(half + soft, half, d.abs())
}

/// Upper and lower margin of the palpebral fissure above `|x|`, or none beside it.
pub(crate) fn lid_margins(ax: f32) -> Option<(f32, f32)> {
    let s = (ax - INNER_CANTHUS.0) / (OUTER_CANTHUS.0 - INNER_CANTHUS.0);
    if !(0.0..=1.0).contains(&s) {
        return None;
    }
    let base = INNER_CANTHUS.1 + (OUTER_CANTHUS.1 - INNER_CANTHUS.1) * s;
    let arch = 4.0 * s * (1.0 - s);
    let upper = base + 0.66 * pow(arch, 0.62) * (1.06 - 0.2 * s);
    let lower = base - 0.46 * pow(arch, 0.78) * (0.82 + 0.3 * s);
    Some((upper, lower))
}

/// The upper border of the upper vermilion above `|x|`.
pub(crate) fn upper_lip_border(ax: f32) -> f32 {
    let t = (ax / MOUTH_X).min(1.0);
    let peak = bump(ax - 0.52, 0.0, 0.42, 1.0) * 0.10 - bump(ax, 0.0, 0.2, 1.0) * 0.05;
    MOUTH_Y + 0.58 * pow(1.0 - pow(t, 1.7), 0.9) + peak
}

/// The lower border of the lower vermilion below `|x|`.
pub(crate) fn lower_lip_border(ax: f32) -> f32 {
    let t = (ax / (MOUTH_X * 0.97)).min(1.0);
    MOUTH_Y - 0.88 * pow(1.0 - pow(t, 2.1), 0.75)
}

/// Height of the nasal ridge above the cheeks at height `y`.
fn ridge(y: f32) -> f32 {
    const RIDGE: [(f32, f32); 12] = [
        (-5.35, 0.0),
        (-5.05, 0.30),
        (-4.85, 0.85),
        (-4.6, 1.62),
        (-4.3, 2.16),
        (-3.95, 2.36),
        (-3.5, 2.26),
        (-2.5, 1.72),
        (-1.2, 1.15),
        (0.0, 0.72),
        (0.9, 0.45),
        (2.2, 0.0),
    ];
    curve(&RIDGE, y)
}

/// The point of the average head at an azimuth and height.
pub(crate) fn surface(azimuth: f32, y: f32) -> (Vec3, Canon) {
    let (half, front_z, back_z, centre) = section(y);
    let (s, cosine) = sin_cos(azimuth);
    let n = 2.18;
    let x = half * s;
    let depth = pow((1.0 - pow(s.abs(), n)).max(0.0), 1.0 / n);
    let z =
        if cosine >= 0.0 { centre + (front_z - centre) * depth } else { centre - (centre - back_z) * depth };
    let c = Canon { x, y, azimuth };
    (vec3(x, y, z + relief(&c)), c)
}

/// How far features stand out from the cross-sections, along z.
fn relief(c: &Canon) -> f32 {
    let (x, y, ax) = (c.x, c.y, c.x.abs());
    let mut z = 0.0;
    // Orbits, brow ridge, temples.
    z -= 0.95 * pair(c, 2.5, 0.25, 1.15, 0.95);
    z -= 0.25 * pair(c, 4.2, 0.3, 1.1, 0.9);
    z += 0.30 * pair(c, 3.2, 2.05, 2.0, 0.62);
    z += 0.22 * mid(c, 1.9, 1.1, 0.8);
    z -= 0.35 * pair(c, 6.4, 2.8, 1.1, 1.8);
    // Nose: a ridge that widens downwards, a tip, alae with a groove behind.
    let width = curve(
        &[(-5.0, 0.46), (-4.2, 0.60), (-3.4, 0.56), (-2.0, 0.46), (-0.5, 0.44), (0.5, 0.55), (2.0, 0.9)],
        y,
    );
    // A rounded back on slopes that run out into the cheeks.
    let slope = 0.34 - 0.22 * smooth(-3.4, -4.4, y);
    let profile = (1.0 - slope) * bump(x, 0.0, width, 1.0) + slope * bump(x, 0.0, width * 2.1, 1.0);
    z += ridge(y) * profile * front(c);
    z += 0.92 * pair(c, 1.12, -4.40, 0.38, 0.38);
    z += 0.14 * mid(c, -3.95, 0.5, 0.42);
    z -= 0.16 * pair(c, 1.85, -4.3, 0.28, 0.6);
    z -= 0.10 * pair(c, 0.85, -3.9, 0.22, 0.4);
    z -= 0.40 * pair(c, 0.60, -4.80, 0.24, 0.15);
    // Cheeks and the fold from the nose to the mouth.
    z += 0.55 * pair(c, 4.3, -2.3, 1.6, 1.2);
    z += 0.25 * pair(c, 3.2, -4.2, 1.3, 1.3);
    let fold_x = curve(&[(-8.0, 3.3), (-7.0, 3.1), (-5.5, 2.45), (-4.2, 1.85)], y);
    let fold = bump(ax - fold_x, 0.0, 0.28, 1.0) * smooth(-8.2, -6.8, y) * smooth(-3.9, -4.7, y);
    z -= 0.13 * fold * front(c);
    // Muzzle, philtrum, lips.
    z += 0.62 * mid(c, -6.7, 2.1, 1.5);
    z -= 0.14 * mid(c, -5.75, 0.24, 0.5);
    z += 0.07 * pair(c, 0.5, -5.8, 0.2, 0.5);
    let mouth = smooth(MOUTH_X + 0.15, 0.6, ax);
    let upper = upper_lip_border(ax);
    let lower = lower_lip_border(ax);
    let dome = |low: f32, high: f32| {
        let t = (y - low) / (high - low).max(0.05);
        if (0.0..=1.0).contains(&t) { pow(4.0 * t * (1.0 - t), 0.6) } else { 0.0 }
    };
    z += mouth * (0.26 * dome(MOUTH_Y, upper + 0.12) + 0.40 * dome(lower - 0.15, MOUTH_Y));
    z -= 0.16 * bump(0.0, y - MOUTH_Y, 1.0, 0.12) * smooth(MOUTH_X + 0.5, MOUTH_X - 0.3, ax);
    z -= 0.22 * pair(c, 2.75, -7.02, 0.35, 0.4);
    z -= 0.42 * mid(c, -8.62, 1.5, 0.38);
    z += 0.42 * mid(c, -10.0, 1.35, 0.85);
    z
}

//! Vectors and elementary functions that give the same bits on every platform.
//!
//! `f32::sin` and `f32::exp` come from the platform's libm and may differ in
//! the last place between systems; these use only IEEE basic operations, so a
//! photograph is the same file everywhere.

use std::ops::{Add, AddAssign, Mul, Neg, Sub};

/// A point or direction in centimetres (or unitless), right-handed: x to the
/// viewer's right, y up, z towards the viewer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Vec3 {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) z: f32,
}

pub(crate) const fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec3 {
    pub(crate) fn dot(self, o: Vec3) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    pub(crate) fn cross(self, o: Vec3) -> Vec3 {
        vec3(self.y * o.z - self.z * o.y, self.z * o.x - self.x * o.z, self.x * o.y - self.y * o.x)
    }

    pub(crate) fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// The unit vector in this direction; +z for a vector of length zero.
    pub(crate) fn unit(self) -> Vec3 {
        let length = self.length();
        if length > 1e-12 { self * (1.0 / length) } else { vec3(0.0, 0.0, 1.0) }
    }

    /// Component-wise product.
    pub(crate) fn times(self, o: Vec3) -> Vec3 {
        vec3(self.x * o.x, self.y * o.y, self.z * o.z)
    }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, o: Vec3) -> Vec3 {
        vec3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl AddAssign for Vec3 {
    fn add_assign(&mut self, o: Vec3) {
        *self = *self + o;
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, o: Vec3) -> Vec3 {
        vec3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Vec3;
    fn mul(self, k: f32) -> Vec3 {
        vec3(self.x * k, self.y * k, self.z * k)
    }
}

impl Neg for Vec3 {
    type Output = Vec3;
    fn neg(self) -> Vec3 {
        self * -1.0
    }
}

/// A rotation matrix, by rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation([Vec3; 3]);

impl Rotation {
    /// Turns by `yaw` (about y), then `pitch` (about x), then `roll` (about z), in radians.
    pub(crate) fn new(yaw: f32, pitch: f32, roll: f32) -> Rotation {
        let (sy, cy) = sin_cos(yaw);
        let (sp, cp) = sin_cos(pitch);
        let (sr, cr) = sin_cos(roll);
        let about_y = [vec3(cy, 0.0, sy), vec3(0.0, 1.0, 0.0), vec3(-sy, 0.0, cy)];
        let about_x = [vec3(1.0, 0.0, 0.0), vec3(0.0, cp, -sp), vec3(0.0, sp, cp)];
        let about_z = [vec3(cr, -sr, 0.0), vec3(sr, cr, 0.0), vec3(0.0, 0.0, 1.0)];
        Rotation(about_z).after(Rotation(about_x).after(Rotation(about_y)))
    }

    fn after(self, first: Rotation) -> Rotation {
        let column = |i: usize| {
            let pick = |v: Vec3| [v.x, v.y, v.z][i];
            vec3(pick(first.0[0]), pick(first.0[1]), pick(first.0[2]))
        };
        let (a, b, c) = (column(0), column(1), column(2));
        Rotation(self.0.map(|row| vec3(row.dot(a), row.dot(b), row.dot(c))))
    }

    pub(crate) fn apply(&self, v: Vec3) -> Vec3 {
        vec3(self.0[0].dot(v), self.0[1].dot(v), self.0[2].dot(v))
    }
}

pub(crate) fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

pub(crate) fn mix(a: Vec3, b: Vec3, t: f32) -> Vec3 {
    a + (b - a) * t
}

/// 0 below `from`, 1 above `to`, cubic between; `from` may exceed `to`.
pub(crate) fn smooth(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// The next integer at or below `x`. Without SSE4.1 `f32::floor` is a call.
pub(crate) fn floor(x: f32) -> i32 {
    let whole = x as i32;
    whole - i32::from(x < whole as f32)
}

/// `2^x` to a relative error of 1e-4: shapes and shades need no more.
pub(crate) fn exp2(x: f32) -> f32 {
    let x = x.clamp(-126.0, 126.0);
    let whole = floor(x);
    let f = x - whole as f32;
    let series = 1.0
        + f * (std::f32::consts::LN_2
            + f * (0.240_226_5 + f * (0.055_504_1 + f * (0.009_618_1 + f * 0.001_339_9))));
    f32::from_bits(((whole + 127) as u32) << 23) * series
}

/// `e^x` to a relative error of 1e-4 for |x| < 80.
pub(crate) fn exp(x: f32) -> f32 {
    exp2(x * std::f32::consts::LOG2_E)
}

/// Base-2 logarithm of a positive number, to 1e-5 absolute.
pub(crate) fn log2(x: f32) -> f32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let exponent = ((bits >> 23) as i32 - 127) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    // ln m = 2 atanh((m - 1) / (m + 1)), whose series converges fast on [1, 2).
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series =
        s * (2.0 + q * (2.0 / 3.0 + q * (0.4 + q * (2.0 / 7.0 + q * (2.0 / 9.0 + q * (2.0 / 11.0))))));
    exponent + series * std::f32::consts::LOG2_E
}

/// `x^p` for x >= 0.
pub(crate) fn pow(x: f32, p: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { exp2(p * log2(x)) }
}

/// Sine and cosine to 1e-6 for moderate angles in radians.
pub(crate) fn sin_cos(x: f32) -> (f32, f32) {
    (sin(x), sin(x + std::f32::consts::FRAC_PI_2))
}

pub(crate) fn sin(x: f32) -> f32 {
    use std::f32::consts::PI;
    let turns = floor(x / PI + 0.5);
    let r = x - turns as f32 * PI;
    let q = r * r;
    let series =
        r * (1.0 + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0 + q * (1.0 / 362_880.0)))));
    if turns % 2 == 0 { series } else { -series }
}

/// Catmull-Rom interpolation of `(at, value)` knots in increasing `at`; constant outside.
pub(crate) fn curve(knots: &[(f32, f32)], x: f32) -> f32 {
    let last = knots.len() - 1;
    if x <= knots[0].0 {
        return knots[0].1;
    }
    if x >= knots[last].0 {
        return knots[last].1;
    }
    let i = knots.iter().rposition(|k| k.0 <= x).unwrap_or(0).min(last - 1);
    let (x0, y0) = knots[i];
    let (x1, y1) = knots[i + 1];
    let slope = |a: usize, b: usize| (knots[b].1 - knots[a].1) / (knots[b].0 - knots[a].0);
    let m0 = if i > 0 { slope(i - 1, i + 1) } else { slope(i, i + 1) };
    let m1 = if i + 2 <= last { slope(i, i + 2) } else { slope(i, i + 1) };
    let h = x1 - x0;
    let t = (x - x0) / h;
    let (t2, t3) = (t * t, t * t * t);
    (2.0 * t3 - 3.0 * t2 + 1.0) * y0
        + (t3 - 2.0 * t2 + t) * h * m0
        + (-2.0 * t3 + 3.0 * t2) * y1
        + (t3 - t2) * h * m1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elementary_functions_agree_with_libm() {
        // A pixel has 8 bits: a relative error of 1e-4 is a fortieth of its step.
        for i in -400..400 {
            let x = i as f32 * 0.02;
            assert!((sin(x) - x.sin()).abs() < 5e-6, "sin {x}");
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-4, "exp {x}");
            let p = x.abs() + 0.01;
            assert!((log2(p) - p.log2()).abs() < 2e-5, "log2 {p}");
            assert!((pow(p, 2.2) / p.powf(2.2) - 1.0).abs() < 2e-4, "pow {p}");
        }
    }

    #[test]
    fn rotations_keep_length() {
        let r = Rotation::new(0.4, -0.2, 0.1);
        let v = r.apply(vec3(1.0, 2.0, 3.0));
        assert!((v.length() - 14f32.sqrt()).abs() < 1e-5);
    }

    #[test]
    fn curve_passes_its_knots() {
        let knots = [(0.0, 1.0), (1.0, 3.0), (3.0, 2.0), (4.0, 0.0)];
        for (x, y) in knots {
            assert!((curve(&knots, x) - y).abs() < 1e-6);
        }
    }
}

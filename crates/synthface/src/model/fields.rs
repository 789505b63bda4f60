//! How one standard deviation of each axis moves the surface of the head.

use super::base::{Canon, EYE_X, MOUTH_X, MOUTH_Y, SLIT, bump, front, mesa, mid, pair};
use crate::math::{Vec3, smooth, vec3};
use crate::param::Param;

/// A movement of facial muscles, 0 (rest) to 1 (full).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Motion {
    /// Corners of the mouth up and out, cheeks raised.
    Smile,
    /// Lower jaw and lip down.
    JawDrop,
    /// Brows up.
    BrowRaise,
    /// Brows together and down.
    Frown,
}

impl Motion {
    pub(crate) const ALL: [Motion; 4] = [Motion::Smile, Motion::JawDrop, Motion::BrowRaise, Motion::Frown];
}

/// 1 above and on the upper lid, falling to 0 at the brow; the fissure's own part is below 1.
fn upper_lid(c: &Canon) -> f32 {
    let ax = c.x.abs();
    let across = bump(ax - EYE_X, 0.0, 0.95, 1.0);
    let up = smooth(1.75, 0.55, c.y) * smooth(-0.45, 0.4, c.y);
    across * up * front(c)
}

fn lower_lid(c: &Canon) -> f32 {
    let ax = c.x.abs();
    let across = bump(ax - EYE_X - 0.1, 0.0, 0.95, 1.0);
    across * smooth(-1.5, -0.45, c.y) * smooth(0.5, -0.3, c.y) * front(c)
}

/// Everything below the mouth's opening, fading out towards the jaw angles.
fn lower_jaw(c: &Canon) -> f32 {
    let ax = c.x.abs();
    if c.y > MOUTH_Y - SLIT * 0.5 && ax < MOUTH_X + 0.2 {
        return 0.0;
    }
    let corner = smooth(MOUTH_X + 0.05, MOUTH_X * 0.2, ax);
    let below = smooth(-6.6, -9.2, c.y);
    let lip = if c.y < MOUTH_Y - SLIT * 0.5 { corner } else { 0.0 };
    (below + (1.0 - below) * lip) * smooth(6.0, 3.5, ax) * front(c)
}

/// Where the nose is, from the bridge (0) to the tip and the alae (1), zero on the cheeks.
fn nose_below_bridge(c: &Canon) -> f32 {
    smooth(-0.3, -3.7, c.y) * smooth(-6.3, -5.0, c.y) * bump(c.x, 0.0, 1.75, 1.0) * front(c)
}

/// Movement of a point of the head per unit of `param`, in cm. `at` is its average position.
pub(crate) fn field(param: Param, c: &Canon, at: Vec3) -> Vec3 {
    let side = if c.x > 0.0 {
        1.0
    } else if c.x < 0.0 {
        -1.0
    } else {
        0.0
    };
    let (x, y, ax) = (c.x, c.y, c.x.abs());
    let out = |k: f32| vec3(side * k, 0.0, 0.0);
    let up = |k: f32| vec3(0.0, k, 0.0);
    let forth = |k: f32| vec3(0.0, 0.0, k);
    let face = front(c);
    match param {
        Param::HeadWidth => out(0.034 * at.x.abs()),
        Param::CraniumSize => {
            let k = smooth(0.5, 6.0, y);
            vec3(0.036 * at.x, 0.04 * (y - 1.5).max(0.0), 0.036 * at.z) * k
        }
        Param::CraniumHeight => up(0.055 * (y - 3.0).max(0.0)) + forth(0.1 * smooth(4.0, 9.0, y) * face),
        Param::HeadDepth => vec3(-0.012 * at.x, 0.0, 0.03 * at.z.min(0.0)),
        Param::ForeheadWidth => out(0.30 * bump(0.0, y - 4.6, 1.0, 2.5) * smooth(1.5, 6.0, ax)),
        Param::ForeheadBulge => forth(0.36 * mid(c, 5.0, 4.2, 2.1)) + up(0.05 * mid(c, 6.0, 4.0, 2.0)),
        Param::ForeheadHeight => up(0.26 * smooth(2.4, 6.5, y)),
        Param::MetopicRidge => forth(0.16 * mid(c, 5.0, 0.5, 2.2)),
        Param::SupraorbitalRidge => forth(0.20 * pair(c, 3.0, 2.0, 1.9, 0.6)),
        Param::Glabella => forth(0.16 * mid(c, 1.8, 0.9, 0.8)),
        Param::FaceLength => up(0.040 * y.min(0.0) * (0.4 + 0.6 * face)),
        Param::FaceWidth => out(0.28 * bump(0.0, y + 1.8, 1.0, 2.4) * smooth(2.5, 6.2, ax)) + out(0.018 * ax),
        Param::JawWidth => out(0.36 * bump(0.0, y + 7.6, 1.0, 1.9) * smooth(1.6, 4.8, ax)),
        Param::ChinWidth => out(0.26 * bump(0.0, y + 10.2, 1.0, 1.2) * smooth(0.0, 2.4, ax)),
        Param::ChinHeight => up(-0.24 * smooth(-8.4, -10.6, y)),
        Param::ChinProjection => {
            let k = smooth(-7.3, -9.8, y) * smooth(6.2, 2.0, ax);
            vec3(0.0, -0.05 * k, 0.40 * k * face + 0.06 * mid(c, -7.6, 1.8, 0.5))
        }
        Param::ChinDimple => forth(-0.09 * mid(c, -10.1, 0.26, 0.6)),
        Param::ChinCrease => forth(-0.12 * mid(c, -8.75, 1.5, 0.28)),
        Param::Midface => forth(0.32 * mid(c, -3.4, 3.7, 2.3)) + forth(0.12 * mid(c, -6.0, 2.6, 1.0)),
        Param::Malar => forth(0.24 * pair(c, 4.2, -2.3, 1.7, 1.3)) + out(0.06 * pair(c, 6.0, -2.0, 1.4, 1.5)),
        Param::CheekFullness => {
            vec3(side * 0.26 * bump(0.0, y + 5.6, 1.0, 2.0) * smooth(2.6, 5.2, ax), 0.0, 0.0)
                + forth(0.26 * pair(c, 4.0, -5.4, 1.6, 1.7))
        }
        Param::PeriorbitalFullness => {
            forth(0.13 * pair(c, 3.1, 1.0, 1.5, 0.45) + 0.14 * pair(c, 3.2, -1.0, 1.3, 0.4))
        }
        Param::InfraorbitalCrease => forth(-0.10 * pair(c, 2.7, -1.3, 1.0, 0.2)),
        Param::EyeSpacing => {
            out(0.20 * smooth(0.2, 2.2, ax) * smooth(6.9, 4.4, ax) * mesa(y - 0.4, 1.2, 2.2)) * face
        }
        Param::Telecanthus => out(0.13 * pair(c, 1.65, -0.1, 0.55, 0.8)),
        Param::EyeWidth => {
            out(0.105 * (ax - EYE_X) / 1.5 * mesa(ax - EYE_X, 1.55, 1.0) * mesa(y, 0.7, 0.9)) * face
        }
        Param::EyeOpening => up(0.065 * upper_lid(c) - 0.05 * lower_lid(c)),
        Param::EyeSlant => {
            up(0.135 * (ax - EYE_X) / 1.5 * mesa(ax - EYE_X, 1.5, 1.2) * mesa(y - 0.2, 1.0, 1.6)) * face
        }
        Param::EyeDepth => forth(0.20 * pair(c, EYE_X, 0.1, 1.6, 1.1)),
        Param::Epicanthus => {
            let fold = pair(c, 1.75, 0.2, 0.38, 0.42);
            vec3(-side * 0.03 * fold, -0.12 * fold, 0.07 * pair(c, 1.5, 0.0, 0.35, 0.6))
        }
        Param::Ptosis => up(-0.10 * upper_lid(c)),
        Param::LowerLidEversion => {
            up(-0.11 * pair(c, 4.05, -0.35, 0.5, 0.4)) + forth(0.03 * pair(c, 4.05, -0.5, 0.5, 0.3))
        }
        Param::LidColoboma => up(-0.12 * pair(c, 3.9, -0.4, 0.3, 0.35)),
        Param::BrowHeight => up(0.17 * bump(ax - 3.3, 0.0, 2.3, 1.0) * mesa(y - 2.2, 0.5, 1.2)) * face,
        Param::BrowArch => {
            up((0.17 * bump(ax - 3.9, 0.0, 0.9, 1.0)
                - 0.07 * bump(ax - 1.7, 0.0, 0.7, 1.0)
                - 0.10 * bump(ax - 5.5, 0.0, 0.8, 1.0))
                * mesa(y - 2.2, 0.5, 1.2))
                * face
        }
        Param::BrowFlare => up(0.14 * pair(c, 1.5, 2.2, 0.6, 0.6)),
        Param::NoseBridgeHeight => forth(0.25 * mid(c, -0.3, 0.85, 1.25)),
        Param::NoseBridgeWidth => {
            out(0.13 * pair(c, 0.95, -0.5, 0.7, 1.3)) + forth(0.12 * pair(c, 0.95, -0.4, 0.45, 1.2))
        }
        Param::NoseRidge => forth(0.19 * mid(c, -2.0, 0.6, 0.85)),
        Param::NoseRidgeWidth => {
            out(0.10 * pair(c, 0.7, -2.2, 0.6, 1.1)) + forth(0.09 * pair(c, 0.75, -2.2, 0.35, 1.0))
        }
        Param::NoseLength => up(-0.26 * nose_below_bridge(c)),
        Param::NoseProjection => {
            forth(0.26 * bump(x, 0.0, 1.0, 1.0) * smooth(0.0, -3.6, y) * smooth(-5.3, -4.5, y)) * face
        }
        Param::NoseTipWidth => {
            out(0.14 * pair(c, 0.55, -3.95, 0.6, 0.6))
                + forth(0.07 * mid(c, -3.8, 0.75, 0.5))
                + forth(0.08 * pair(c, 0.55, -3.9, 0.35, 0.45))
        }
        Param::NoseTipRotation => {
            up(0.17 * mid(c, -4.15, 0.8, 0.55))
                + up(0.06 * pair(c, 0.9, -4.7, 0.5, 0.3))
                + forth(0.05 * mid(c, -4.8, 0.6, 0.25))
        }
        Param::AlarWidth => out(0.17 * pair(c, 1.35, -4.4, 0.75, 0.75)),
        Param::AlarThickness => {
            forth(0.12 * pair(c, 1.15, -4.4, 0.35, 0.4)) + out(0.05 * pair(c, 1.3, -4.4, 0.5, 0.5))
        }
        Param::NostrilSize => {
            forth(-0.08 * pair(c, 0.62, -4.86, 0.28, 0.16)) + up(0.05 * pair(c, 0.75, -4.65, 0.35, 0.2))
        }
        Param::Columella => up(-0.11 * mid(c, -4.75, 0.32, 0.3)) + forth(0.05 * mid(c, -4.95, 0.3, 0.2)),
        Param::PhiltrumLength => {
            up(-0.20 * smooth(-5.05, -6.3, y) * (1.0 - 0.55 * smooth(-8.5, -11.0, y)) * smooth(6.0, 3.0, ax))
                * face
        }
        Param::PhiltrumDepth => {
            forth(-0.07 * mid(c, -5.75, 0.22, 0.5) + 0.05 * pair(c, 0.5, -5.8, 0.18, 0.45))
        }
        Param::PhiltrumWidth => out(0.08 * pair(c, 0.5, -5.8, 0.4, 0.6)),
        Param::UpperLip => {
            let across = smooth(MOUTH_X, 0.8, ax);
            up(0.10 * across * mesa(y + 6.4, 0.15, 0.42)) * face
                + forth(0.09 * across * bump(0.0, y + 6.65, 1.0, 0.25)) * face
        }
        Param::LowerLip => {
            let across = smooth(MOUTH_X, 0.8, ax);
            up(-0.12 * across * mesa(y + 7.95, 0.2, 0.65)) * face
                + forth(0.10 * across * bump(0.0, y + 7.5, 1.0, 0.35)) * face
        }
        Param::LowerLipEversion => {
            forth(0.12 * mid(c, -7.6, 1.3, 0.3)) + up(-0.07 * mid(c, -7.45, 1.3, 0.35))
        }
        Param::CupidBow => up(0.07 * pair(c, 0.55, -6.42, 0.3, 0.25) - 0.07 * mid(c, -6.45, 0.2, 0.2)),
        Param::LipTent => {
            let k = if y > MOUTH_Y + SLIT * 0.5 { smooth(-5.9, -6.6, y) } else { 0.0 };
            up(0.10 * k * bump(x, 0.0, 0.7, 1.0)) * face + up(-0.05 * pair(c, 1.9, -6.9, 0.6, 0.5))
        }
        Param::MouthWidth => {
            out(0.17 * ax.min(MOUTH_X) / MOUTH_X * smooth(5.0, 2.6, ax) * mesa(y - MOUTH_Y, 0.7, 1.3)) * face
        }
        Param::MouthCorners => up(0.13 * pair(c, 2.6, -7.0, 0.75, 0.8)),
        Param::Muzzle => forth(0.22 * mid(c, -6.9, 2.1, 1.3)),
        Param::MouthOpen => up(-0.14 * lower_jaw(c)),
        Param::NasolabialFold => {
            let fold_x = super::fold_x(y);
            let line = bump(ax - fold_x, 0.0, 0.22, 1.0) * smooth(-8.0, -6.8, y) * smooth(-4.0, -4.7, y);
            let pad =
                bump(ax - fold_x - 0.55, 0.0, 0.45, 1.0) * smooth(-8.0, -6.8, y) * smooth(-3.6, -4.5, y);
            forth((0.07 * pad - 0.09 * line) * face)
        }
        Param::CleftLip => {
            let k = bump(x - 0.6, 0.0, 0.2, 1.0) * smooth(-5.0, -5.6, y);
            if y > MOUTH_Y + SLIT * 0.5 {
                vec3(0.0, 0.14 * k * smooth(-6.0, -6.8, y), -0.10 * k) * face
            } else {
                Vec3::default()
            }
        }
        Param::AsymmetryJaw => vec3(0.22 * smooth(-4.0, -10.0, y) * face, 0.0, 0.0),
        Param::AsymmetryEyes => up(side * 0.07 * mesa(ax - EYE_X, 1.8, 1.2) * mesa(y - 0.8, 1.6, 1.5)) * face,
        Param::AsymmetryMouth => up(side * 0.09 * pair(c, 2.4, -7.0, 1.0, 1.0)),
        Param::Wrinkles => {
            forth(-0.05 * pair(c, 4.4, -6.0, 1.2, 1.4)) + up(-0.05 * pair(c, 4.2, -8.0, 1.0, 1.2))
        }
        _ => Vec3::default(),
    }
}

/// Movement of a point of the head at full `motion`, in cm.
pub(crate) fn motion_field(motion: Motion, c: &Canon) -> Vec3 {
    let side = if c.x > 0.0 {
        1.0
    } else if c.x < 0.0 {
        -1.0
    } else {
        0.0
    };
    let (y, ax) = (c.y, c.x.abs());
    match motion {
        Motion::Smile => {
            let corner = pair(c, 2.5, -6.9, 1.05, 0.95);
            let cheek = pair(c, 3.7, -4.0, 1.2, 1.2);
            vec3(side * 0.55 * corner, 0.42 * corner + 0.22 * cheek, -0.12 * corner + 0.30 * cheek)
                + vec3(0.0, 0.07 * lower_lid(c), 0.0)
                + vec3(0.0, 0.10 * mid(c, -6.5, 1.4, 0.4) - 0.06 * mid(c, -7.6, 1.4, 0.4), 0.0)
        }
        Motion::JawDrop => vec3(0.0, -1.25 * lower_jaw(c), -0.25 * lower_jaw(c)),
        Motion::BrowRaise => vec3(
            0.0,
            0.45 * bump(ax - 3.3, 0.0, 2.3, 1.0) * mesa(y - 2.3, 0.5, 1.3) * front(c) + 0.08 * upper_lid(c),
            0.0,
        ),
        Motion::Frown => {
            let k = pair(c, 1.8, 2.0, 0.9, 0.7);
            vec3(-side * 0.18 * k, -0.25 * k, 0.08 * k)
        }
    }
}

/// Movement of the upper lid per unit of closing (1 closes the average eye), and of the lower lid.
pub(crate) fn blink_field(c: &Canon) -> Vec3 {
    let Some((upper, lower)) = super::base::lid_margins(
        c.x.abs().clamp(super::base::INNER_CANTHUS.0 + 0.02, super::base::OUTER_CANTHUS.0 - 0.02),
    ) else {
        return Vec3::default();
    };
    let ax = c.x.abs();
    let beside = smooth(0.5, 0.0, super::base::INNER_CANTHUS.0 - ax)
        * smooth(0.5, 0.0, ax - super::base::OUTER_CANTHUS.0);
    let gap = upper - lower;
    // The lid's skin unfolds from the crease; above it nothing moves.
    let k = smooth(upper + 0.9, upper + 0.05, c.y) * smooth(lower - 0.05, upper, c.y);
    vec3(0.0, -gap * 0.98 * k * beside * front(c), 0.0)
}

//! How a photograph was taken: what differs between two pictures of one person.

use crate::math::{Vec3, vec3};
use crate::model::Expression;
use crate::noise::Draws;

/// Backgrounds behind the person.
#[derive(Clone, Debug)]
pub(crate) struct Backdrop {
    pub(crate) top: Vec3,
    pub(crate) bottom: Vec3,
    /// Strength of blurred shapes.
    pub(crate) clutter: f32,
    pub(crate) offset: (f32, f32),
    pub(crate) scale: f32,
}

/// Pose, expression, light, camera and picture quality.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    /// Radians.
    pub(crate) yaw: f32,
    pub(crate) pitch: f32,
    pub(crate) roll: f32,
    pub(crate) gaze: (f32, f32),
    pub(crate) expression: Expression,
    /// Pupil size against the iris.
    pub(crate) pupil: f32,
    /// Years since the first photograph.
    pub(crate) years: f32,
    /// Distance of the camera, cm.
    pub(crate) distance: f32,
    /// Size of the head in the frame; 1 fills three quarters.
    pub(crate) zoom: f32,
    /// Place of the face off the middle, as a share of the frame.
    pub(crate) shift: (f32, f32),
    pub(crate) key_direction: Vec3,
    pub(crate) key: Vec3,
    pub(crate) sky: Vec3,
    pub(crate) ground: Vec3,
    pub(crate) rim: f32,
    pub(crate) backdrop: Backdrop,
    /// Standard deviation of the lens blur at 256 px.
    pub(crate) blur: f32,
    /// Standard deviation of sensor noise, of full scale.
    pub(crate) noise: f32,
    pub(crate) noise_seed: u64,
    pub(crate) exposure: f32,
    pub(crate) contrast: f32,
    pub(crate) saturation: f32,
    pub(crate) cast: Vec3,
    pub(crate) hair_lift: f32,
}

impl Capture {
    pub(crate) fn draw(draws: &mut Draws) -> Capture {
        let smile = if draws.chance(0.45) { draws.range(0.25, 1.0) } else { draws.range(0.0, 0.12) };
        let jaw_drop = if draws.chance(0.25) { draws.range(0.1, 0.6) } else { 0.0 };
        let lids =
            if draws.chance(0.06) { draws.range(0.4, 0.9) } else { draws.range(-0.05, 0.14) } + 0.1 * smile;
        let expression = Expression {
            smile,
            jaw_drop,
            brow_raise: (0.35 * draws.normal()).clamp(0.0, 1.0),
            frown: (0.3 * draws.normal()).clamp(0.0, 0.8),
            blink: [lids + 0.03 * draws.normal(), lids + 0.03 * draws.normal()],
        };
        // Light from above, on either side; sometimes soft and grey, sometimes hard and warm.
        let key_direction = vec3(0.75 * draws.normal(), draws.range(0.1, 1.1), draws.range(0.75, 1.6)).unit();
        let warmth = 0.10 * draws.normal();
        let hardness = draws.range(0.35, 1.0);
        let ambient = 0.72 - 0.42 * hardness;
        let tint = vec3(1.0 + warmth, 1.0, 1.0 - warmth);
        let sky_warmth = 0.06 * draws.normal();
        let cast_warmth = 0.07 * draws.normal();
        let cast_green = 0.03 * draws.normal();
        let dark = draws.chance(0.35);
        let level = if dark { draws.range(0.02, 0.2) } else { draws.range(0.2, 0.85) };
        let colour = |draws: &mut Draws, level: f32| {
            vec3(
                level * draws.range(0.65, 1.25),
                level * draws.range(0.7, 1.2),
                level * draws.range(0.65, 1.3),
            )
        };
        let top = colour(draws, level);
        let bottom_level = level * draws.range(0.5, 1.2);
        let bottom = colour(draws, bottom_level);
        Capture {
            yaw: (0.20 * draws.normal()).clamp(-0.55, 0.55),
            pitch: (0.10 * draws.normal()).clamp(-0.28, 0.28),
            roll: (0.075 * draws.normal()).clamp(-0.22, 0.22),
            gaze: ((0.14 * draws.normal()).clamp(-0.4, 0.4), (0.08 * draws.normal()).clamp(-0.2, 0.2)),
            expression,
            pupil: draws.range(0.28, 0.5),
            years: if draws.chance(0.5) { draws.range(0.0, 4.0) } else { 0.0 },
            distance: draws.range(55.0, 160.0),
            zoom: draws.range(0.82, 1.12),
            shift: (0.03 * draws.normal(), 0.025 * draws.normal()),
            key_direction,
            key: tint * (1.15 * hardness + 0.15),
            sky: vec3(1.0 + sky_warmth, 1.0, 1.0 - sky_warmth) * (ambient * draws.range(1.0, 1.35)),
            ground: tint * (ambient * draws.range(0.45, 0.8)),
            rim: if draws.chance(0.3) { draws.range(0.1, 0.5) } else { 0.0 },
            backdrop: Backdrop {
                top,
                bottom,
                clutter: if draws.chance(0.6) { draws.range(0.05, 0.6) } else { 0.02 },
                offset: (draws.range(0.0, 256.0), draws.range(0.0, 256.0)),
                scale: draws.range(6.0, 26.0),
            },
            blur: 0.42 + if draws.chance(0.25) { draws.range(0.2, 1.0) } else { draws.range(0.0, 0.25) },
            noise: if draws.chance(0.3) { draws.range(0.008, 0.02) } else { draws.range(0.002, 0.008) },
            noise_seed: draws.word(),
            exposure: 1.0 + 0.14 * draws.normal(),
            contrast: 1.0 + 0.09 * draws.normal(),
            saturation: (1.0 + 0.15 * draws.normal()).clamp(0.4, 1.4),
            cast: vec3(1.0 + cast_warmth, 1.0 + cast_green, 1.0 - cast_warmth),
            hair_lift: draws.range(0.85, 1.2),
        }
    }
}

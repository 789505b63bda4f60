//! The eyeball seen through the palpebral fissure.

use super::paint::Paint;
use super::raster::Camera;
use super::shade::Light;
use crate::math::{Rotation, Vec3, mix, sin_cos, smooth, vec3};
use crate::model::base::EYE_RADIUS;
use crate::noise::{BLOTCH, GRAIN};
use crate::param::{Param, Params};

/// Where both eyes look and what their irises are like.
pub(crate) struct Eyes {
    pub(crate) centres: [Vec3; 2],
    gaze: [Vec3; 2],
    pupil: f32,
    star: f32,
    /// Sine of the angle under which the iris is seen from the centre of the eyeball.
    iris: f32,
    coloboma: f32,
}

impl Eyes {
    pub(crate) fn new(
        centres: [Vec3; 2],
        pose: &Rotation,
        gaze: (f32, f32),
        pupil: f32,
        params: &Params,
    ) -> Eyes {
        let look = |turn: f32| {
            let (sx, cx) = sin_cos(gaze.0 + turn);
            let (sy, cy) = sin_cos(gaze.1);
            pose.apply(vec3(sx * cy, sy, cx * cy))
        };
        let squint = 0.12 * params[Param::Squint];
        Eyes {
            centres,
            gaze: [look(0.03), look(-0.03 + squint)],
            pupil,
            iris: 0.48 * (1.0 + 0.055 * params[Param::IrisSize]),
            coloboma: params[Param::IrisColoboma].max(0.0) / 3.0,
            star: params[Param::IrisStar].max(0.0) / 3.0,
        }
    }

    /// Light from the pixel `(px, py)` of eye `side`; `lid` is the distance below the upper margin
    /// as a share of the opening, `corner` that from the inner canthus in cm.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn shade(
        &self,
        side: usize,
        camera: &Camera,
        (px, py): (f32, f32),
        lid: f32,
        corner: f32,
        paint: &Paint,
        light: &Light,
    ) -> Vec3 {
        let origin = vec3(0.0, 0.0, camera.distance);
        let ray = camera.ray(px, py).unit();
        let to = origin - self.centres[side];
        let b = to.dot(ray);
        let gap = b * b - (to.dot(to) - EYE_RADIUS * EYE_RADIUS);
        let flesh = paint.lip * 0.9 + paint.skin * 0.15;
        let shadow = 0.30
            + 0.62
                * smooth(-0.08, 0.5, lid)
                * (1.0 - 0.25 * smooth(0.75, 1.1, lid))
                * smooth(-0.6, 0.7, corner);
        if gap <= 0.0 {
            return light.diffuse(vec3(0.0, 0.2, 1.0), 0.55, 1.0).times(flesh);
        }
        let hit = origin + ray * (-b - gap.sqrt());
        let n = (hit - self.centres[side]).unit();
        let gaze = self.gaze[side];
        let off = n - gaze * n.dot(gaze);
        let sine = off.length() / self.iris;
        let facing = n.dot(gaze) > 0.0;
        let veins = (BLOTCH.smooth(n.x * 60.0 + 9.0, n.y * 140.0) - 0.25).max(0.0);
        let mut colour = paint.sclera.times(mix(
            vec3(1.0, 1.0, 1.0),
            vec3(0.95, 0.7, 0.68),
            0.5 * veins + 0.35 * smooth(0.5, 0.0, corner),
        ));
        let mut wet = 0.35;
        if facing && sine < 1.08 {
            let angle = off.x * 7.0 / (off.length() + 1e-3);
            let other = off.y * 7.0 / (off.length() + 1e-3);
            let rays = GRAIN.smooth(angle * 6.0 + 31.0, other * 6.0 + sine * 3.0);
            let star = BLOTCH.smooth(angle * 3.0, other * 3.0 + 80.0);
            let mut iris = paint.iris * (1.0 + 0.35 * rays);
            iris = iris * (0.75 + 0.75 * smooth(0.85, self.pupil, sine));
            iris = mix(
                iris,
                vec3(0.55, 0.6, 0.62),
                self.star * smooth(0.05, 0.3, star) * smooth(1.0, 0.7, sine),
            );
            // The limbus is dark; the lower half of the iris gathers the light.
            iris = iris * (1.0 - 0.65 * smooth(0.78, 1.02, sine));
            iris = iris * (1.0 - 0.35 * off.y / self.iris);
            let pupil = smooth(self.pupil + 0.07, self.pupil - 0.05, sine);
            let gap = smooth(0.16, 0.06, off.x.abs())
                * smooth(0.02, -0.02, off.y)
                * smooth(0.2, 0.5, self.coloboma);
            let pupil = pupil.max(gap);
            iris = mix(iris, vec3(0.006, 0.006, 0.007), pupil);
            let edge = smooth(1.08, 0.92, sine);
            colour = mix(colour, iris, edge);
            wet += 1.1 * edge;
        }
        // The cornea bulges, so its highlight sits off the ball's.
        let cornea = if facing && sine < 1.0 { (n + off * 0.45).unit() } else { n };
        let lit = light.diffuse(n, shadow, 1.0).times(colour) * shadow;
        let h = (light.direction - ray).unit();
        let s = cornea.dot(h).max(0.0);
        let s = s * s;
        let s = s * s;
        let s = s * s;
        let s = s * s;
        let glint = s * s * s * s;
        let glint = glint * glint;
        let window = smooth(0.965, 0.985, cornea.dot(vec3(-0.28, 0.42, 0.86)));
        lit + (light.key * (glint * 1.6) + light.sky * (0.55 * window))
            * (wet * 0.5 * smooth(0.02, 0.25, lid))
    }
}

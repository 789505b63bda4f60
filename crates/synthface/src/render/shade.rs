//! Colour of each visible point: skin, lips, brows, hair, mouth, cloth.

use std::sync::LazyLock;

use super::eye::Eyes;
use super::paint::Paint;
use super::raster::{Camera, Fragment, triangles};
use super::scene::{Material, Scene, Vertex};
use crate::capture::Capture;
use crate::math::{Vec3, floor, mix, smooth, vec3};
use crate::model::base::{
    EYE_X, INNER_CANTHUS, MOUTH_X, MOUTH_Y, lid_margins, lower_lip_border, upper_lip_border,
};
use crate::model::slit_half_height;
use crate::noise::{BLOTCH, GRAIN};
use crate::param::{Param, Params};
use crate::person::Person;

/// One directional light, a sky and a ground.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Light {
    pub(crate) direction: Vec3,
    pub(crate) key: Vec3,
    pub(crate) sky: Vec3,
    pub(crate) ground: Vec3,
    pub(crate) rim: f32,
    /// Halfway between the light and the camera.
    half: Vec3,
}

impl Light {
    pub(crate) fn new(capture: &Capture) -> Light {
        Light {
            direction: capture.key_direction,
            key: capture.key,
            sky: capture.sky,
            ground: capture.ground,
            rim: capture.rim,
            half: (capture.key_direction + vec3(0.0, 0.0, 1.0)).unit(),
        }
    }

    /// Light that a matt white surface returns; red wraps further round than blue, as in skin.
    pub(crate) fn diffuse(&self, n: Vec3, open: f32, softness: f32) -> Vec3 {
        let facing = n.dot(self.direction);
        let wrap = |w: f32| {
            let w = w * softness;
            let t = ((facing + w) / (1.0 + w)).max(0.0);
            t * (0.35 + 0.65 * open.min(1.0))
        };
        let up = 0.5 + 0.5 * n.y;
        let ambient = (self.ground + (self.sky - self.ground) * up) * open;
        self.key.times(vec3(wrap(0.34), wrap(0.17), wrap(0.12))) + ambient
    }

    /// Reflection towards the camera, from a rough (power 8) and a smoother (power 32) layer.
    fn highlights(&self, n: Vec3) -> (f32, f32) {
        let s = n.dot(self.half).max(0.0);
        let s2 = s * s;
        let s8 = s2 * s2 * s2 * s2;
        (s8, s8 * s8 * s8 * s8)
    }
}

/// Outlines of lids and lips over |x|, tabled: they are asked for at every pixel.
struct Outlines {
    lids: Vec<Option<(f32, f32)>>,
    lips: Vec<(f32, f32)>,
}

const STEP: f32 = 0.02;

static OUTLINES: LazyLock<Outlines> = LazyLock::new(|| {
    let at = |i: i32| i as f32 * STEP;
    Outlines {
        lids: (0..260).map(|i| lid_margins(at(i))).collect(),
        lips: (0..260).map(|i| (upper_lip_border(at(i)), lower_lip_border(at(i)))).collect(),
    }
});

impl Outlines {
    fn lid(&self, ax: f32) -> Option<(f32, f32)> {
        let t = ax / STEP;
        let i = t as usize;
        let (a, b) = (*self.lids.get(i)?, *self.lids.get(i + 1)?);
        let (a, b) = (a?, b?);
        let f = t - i as f32;
        Some((a.0 + (b.0 - a.0) * f, a.1 + (b.1 - a.1) * f))
    }

    fn lip(&self, ax: f32) -> (f32, f32) {
        let t = (ax / STEP).min(258.0);
        let i = t as usize;
        let f = t - i as f32;
        let (a, b) = (self.lips[i], self.lips[i + 1]);
        (a.0 + (b.0 - a.0) * f, a.1 + (b.1 - a.1) * f)
    }
}

/// The interpolated attributes of a visible point.
struct Point {
    canon: Vec3,
    normal: Vec3,
    albedo: Vec3,
    open: f32,
    gloss: f32,
}

pub(crate) struct Shader<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) person: &'a Person,
    pub(crate) params: &'a Params,
    pub(crate) paint: &'a Paint,
    pub(crate) eyes: &'a Eyes,
    pub(crate) light: Light,
    pub(crate) camera: Camera,
    pub(crate) smile: f32,
}

impl Shader<'_> {
    /// Light from a fragment at a pixel; nothing where the background is seen.
    pub(crate) fn shade(&self, fragment: &Fragment, px: f32, py: f32) -> Option<Vec3> {
        let (part, triangle, weights) = fragment.seen()?;
        let part = &self.scene.parts[part];
        let corners = triangles(part)[triangle];
        let local = &self.scene.vertices[part.first as usize..];
        let [a, b, c] = corners.map(|i| &local[i as usize]);
        let point = blend(a, b, c, weights);
        Some(match part.material {
            Material::Head => self.head(point, px, py),
            Material::Skin => {
                let n = towards_camera(point.normal);
                self.skin(point.albedo, n, point.open, 0.35, 1.0)
            }
            Material::Hair => {
                self.hair(point.normal, point.canon.x + point.canon.z, point.canon.y, point.open)
            }
            Material::Cloth => {
                let n = towards_camera(point.normal);
                let weave = 1.0 + 0.06 * GRAIN.smooth(point.canon.x * 14.0, point.canon.y * 14.0);
                self.light.diffuse(n, point.open, 0.5).times(point.albedo) * weave
            }
        })
    }

    fn head(&self, point: Point, px: f32, py: f32) -> Vec3 {
        let (x, y, azimuth) = (point.canon.x, point.canon.y, point.canon.z);
        let ax = x.abs();
        let on_face = azimuth.abs() < 1.6;
        let mut albedo = point.albedo;
        let mut normal = point.normal;
        let mut open = point.open;
        let mut gloss = point.gloss;
        let mut fine = 1.0;

        let (sx, sy) = self.person.skin_offset;
        let cover = self.hair_cover(azimuth, y);
        if cover >= 0.995 {
            return self.hair(point.normal, azimuth * 7.0, y, point.open);
        }
        let blotch = BLOTCH.smooth(x * 7.0 + sx, y * 7.0 + sy);
        // Finer than pixels, so that samples need no interpolation.
        let (gx, gy) = (floor(x * 22.0 + sx), floor(y * 22.0 + sy));
        let grain = GRAIN.at(gx, gy);

        if on_face {
            let lid = if (ax - EYE_X).abs() < 1.9 && y.abs() < 1.7 { OUTLINES.lid(ax) } else { None };
            if let Some((upper, lower)) = lid {
                if y < upper && y > lower {
                    let side = usize::from(x > 0.0);
                    let share = (upper - y) / (upper - lower);
                    return self.eyes.shade(
                        side,
                        &self.camera,
                        (px, py),
                        share,
                        ax - INNER_CANTHUS.0,
                        self.paint,
                        &self.light,
                    );
                }
                self.lids(ax, x, y, upper, lower, &mut albedo, &mut open);
            }
            if ax < MOUTH_X + 0.3 && (-8.3..-5.9).contains(&y) {
                let slit = slit_half_height(ax);
                if (y - MOUTH_Y).abs() < slit {
                    return self.mouth(x, (MOUTH_Y + slit - y) / (2.0 * slit), point.open);
                }
                let (high, low) = OUTLINES.lip(ax);
                let soft = 0.075;
                let lip = smooth(high + soft, high - soft, y)
                    * smooth(low - soft, low + soft, y)
                    * smooth(MOUTH_X + 0.05, MOUTH_X - 0.25, ax);
                if lip > 0.0 {
                    let folds = GRAIN.smooth(x * 30.0, y * 4.0);
                    albedo = mix(albedo, self.paint.lip * (1.0 + 0.12 * folds + 0.05 * blotch), 0.85 * lip);
                    gloss += 0.6 * lip;
                    normal.x += 0.10 * lip * folds;
                    fine = 1.0 - lip;
                }
                open *= 1.0
                    - 0.45
                        * crate::model::base::bump(0.0, y - MOUTH_Y, 1.0, 0.10)
                        * smooth(MOUTH_X + 0.1, MOUTH_X - 0.4, ax);
                if self.params[Param::CleftLip] > 0.2 && y > MOUTH_Y {
                    let scar = crate::model::base::bump(x - 0.6, 0.0, 0.10, 1.0)
                        * (self.params[Param::CleftLip] / 3.0).min(1.0);
                    albedo = mix(albedo, self.paint.skin.times(vec3(1.05, 0.8, 0.8)), 0.8 * scar);
                }
            }
            if ax < 1.6 && (-5.4..-4.2).contains(&y) {
                let size = (1.0 + 0.16 * self.params[Param::NostrilSize]).max(0.5);
                let hole = crate::model::base::bump(
                    ax - 0.58 - 0.3 * (y + 4.84),
                    y + 4.84,
                    0.23 * size,
                    0.11 * size,
                );
                let k = 1.0 - 0.85 * smooth(0.40, 0.9, hole);
                open *= k;
                albedo = albedo * (0.45 + 0.55 * k);
            }
            if (0.9..3.9).contains(&y) && ax < 6.4 {
                let cover = self.brow(x, ax, y);
                if cover > 0.0 {
                    albedo = mix(albedo, self.paint.brow, cover);
                    gloss *= 1.0 - 0.8 * cover;
                    fine *= 1.0 - cover;
                }
            }
            self.wrinkles(ax, x, y, &mut normal, &mut open);
            self.spots(x, y, &mut albedo);
            let tag = self.params[Param::EarTag];
            if tag > 0.3 {
                // Before the left ear, as the viewer sees it.
                let dot = crate::model::base::bump((azimuth + 1.33) * 7.0, y + 2.2, 0.28, 0.28)
                    * (tag / 2.5).min(1.0);
                normal.y += 0.6 * dot * (y + 2.2);
                albedo = albedo * (1.0 - 0.25 * dot);
            }
        }

        let rough = 0.5 + 0.35 * self.params[Param::SkinRoughness].max(0.0);
        let texture = 1.0 + 0.055 * blotch + 0.03 * fine * rough * grain;
        let bumped = vec3(
            normal.x + 0.05 * rough * fine * (GRAIN.at(gx + 1, gy) - grain),
            normal.y + 0.05 * rough * fine * (GRAIN.at(gx, gy + 1) - grain),
            normal.z,
        )
        .unit();
        let down = self.params[Param::FaceHair].max(0.0) * 0.10;
        if down > 0.0 {
            let fuzz = smooth(0.1, 0.6, GRAIN.smooth(azimuth * 70.0, y * 9.0));
            let place = smooth(3.6, 5.8, ax)
                + 0.7 * smooth(4.5, 7.0, y)
                + 0.6 * crate::model::base::bump(x, y + 5.9, 1.6, 0.4);
            albedo = mix(albedo, self.paint.hair, (down * fuzz * place).min(0.6));
        }
        let skin = self.skin(albedo * texture, bumped, open, gloss, 1.0);
        if cover <= 0.005 {
            return skin;
        }
        mix(skin, self.hair(point.normal, azimuth * 7.0, y, point.open), cover)
    }

    /// Cover of scalp hair, denser away from its edge.
    fn hair_cover(&self, azimuth: f32, y: f32) -> f32 {
        let above = y - self.paint.scalp_line(azimuth);
        if above < -0.9 {
            return 0.0;
        }
        // Noise lies within +-1.6, so that beyond here the edge's raggedness no longer shows.
        let edge = if above > 1.3 {
            1.0
        } else {
            let (sx, _) = self.person.skin_offset;
            let ragged =
                BLOTCH.smooth(azimuth * 90.0 + sx, y * 5.0) + 0.6 * GRAIN.smooth(azimuth * 160.0, y * 2.5);
            smooth(-0.35, 0.75, above + 0.30 * ragged)
        };
        let sparse = (-self.params[Param::HairDensity]).max(0.0) / 3.2;
        let thin = if sparse > 0.3 {
            smooth(sparse * 1.9 - 1.6, sparse * 1.9 - 1.0, GRAIN.smooth(azimuth * 120.0 + 5.0, y * 1.5))
        } else {
            1.0
        };
        edge * thin * self.paint.hair_cover
    }

    fn skin(&self, albedo: Vec3, n: Vec3, open: f32, gloss: f32, softness: f32) -> Vec3 {
        let thin = self.params[Param::ThinSkin].max(0.0) * 0.12;
        let diffuse = self.light.diffuse(n, open, softness).times(albedo);
        let (broad, narrow) = self.light.highlights(n);
        let edge = 1.0 - n.z.clamp(0.0, 1.0);
        let sheen = edge * edge * edge * (0.10 + self.light.rim);
        let spec = (0.035 * broad + 0.11 * narrow * (1.0 + thin)) * gloss * open.min(1.0);
        diffuse + self.light.key * spec + self.light.sky * (sheen * 0.35 * open)
    }

    /// Lashes, the lid margin and the crease of the upper lid.
    #[allow(clippy::too_many_arguments)]
    fn lids(&self, ax: f32, x: f32, y: f32, upper: f32, lower: f32, albedo: &mut Vec3, open: &mut f32) {
        let length = (0.17 + 0.05 * self.params[Param::LashLength]).max(0.02);
        if y >= upper {
            let above = y - upper;
            let line = smooth(0.11, 0.02, above);
            let fan = smooth(length, 0.0, above)
                * (0.45
                    + 0.55
                        * smooth(
                            -0.25,
                            0.35,
                            GRAIN.smooth(x * 46.0 + above * 30.0 * x.signum(), above * 8.0),
                        ));
            let dense = 0.55 + 0.13 * self.params[Param::LashLength];
            let dark = (0.75 * line + 0.75 * fan).min(0.93)
                * dense.clamp(0.05, 1.0)
                * smooth(INNER_CANTHUS.0 - 0.05, INNER_CANTHUS.0 + 0.6, ax);
            *albedo = mix(*albedo, self.paint.brow * 0.5, dark);
            // The crease runs nearly parallel to the margin, closer to it on the inside.
            let inner = smooth(2.6, 1.7, ax);
            let fold = 0.36 - 0.12 * inner - 0.02 * self.params[Param::PeriorbitalFullness];
            let covered = (0.28 * self.params[Param::Epicanthus].max(0.0)).min(0.75);
            let crease = crate::model::base::bump(0.0, above - fold, 1.0, 0.055)
                * smooth(0.0, 0.3, ax - 1.7)
                * (1.0 - covered);
            *open *= 1.0 - 0.55 * crease;
            *albedo = *albedo * (1.0 - 0.22 * crease);
        } else {
            let below = lower - y;
            let rim = smooth(0.10, 0.02, below);
            *albedo = mix(*albedo, self.paint.lip * 0.55 + self.paint.skin * 0.5, 0.6 * rim);
            let few = smooth(0.18, 0.05, below)
                * smooth(0.1, 0.5, GRAIN.smooth(x * 46.0, below * 8.0))
                * smooth(2.0, 3.4, ax);
            *albedo = *albedo * (1.0 - 0.30 * few);
            let bag = crate::model::base::bump(0.0, below - 0.55, 1.0, 0.12);
            *open *= 1.0 - 0.10 * bag * (1.0 + 0.5 * self.params[Param::InfraorbitalCrease].max(0.0));
        }
    }

    /// Cover of brow hair at a point.
    fn brow(&self, x: f32, ax: f32, y: f32) -> f32 {
        let p = self.params;
        let along = (ax - 1.25) / 4.15;
        let middle = 2.02 + 0.62 * crate::model::base::bump(along - 0.62, 0.0, 0.33, 1.0)
            - 0.35 * smooth(0.75, 1.05, along);
        let thick =
            (0.30 + 0.075 * p[Param::BrowThickness]).max(0.06) * (1.0 - 0.55 * smooth(0.35, 1.0, along));
        let join = smooth(0.4, 2.6, p[Param::BrowJoin]);
        let inner =
            smooth(-0.06 - 0.3 * join, 0.10 - 0.3 * join, along).max(0.8 * join * smooth(-0.6, -0.25, along));
        let lateral = 1.0 - smooth(0.0, -3.0, p[Param::BrowLateral]) * smooth(0.4, 0.65, along);
        let across = (y - middle) / thick;
        let band = smooth(1.35, 0.45, across.abs());
        if band <= 0.0 {
            return 0.0;
        }
        // Hairs lean outwards.
        let stroke = GRAIN.smooth(x * 24.0 - (y - middle) * 26.0 * x.signum(), y * 12.0);
        let dense = (0.60 + 0.15 * p[Param::BrowDensity]).clamp(0.0, 1.15);
        let hairs = smooth(-0.55, 0.25, stroke + 1.5 * (dense - 0.6));
        (band * inner * lateral * smooth(1.06, 0.9, along) * dense * (0.45 + 0.55 * hairs)).clamp(0.0, 0.95)
    }

    /// Lines of the forehead, round the eyes and beside the mouth.
    fn wrinkles(&self, ax: f32, x: f32, y: f32, normal: &mut Vec3, open: &mut f32) {
        let depth = self.params[Param::Wrinkles].max(0.0) / 3.0;
        if depth > 0.12 {
            let bend = y + 0.25 * BLOTCH.smooth(x * 3.0 + 40.0, 3.0);
            if (3.0..6.8).contains(&y) {
                let wave = crate::math::sin(bend * 6.6);
                let place = smooth(6.8, 6.0, y) * smooth(3.0, 3.6, y) * smooth(5.0, 3.0, ax);
                normal.y += 0.20 * depth * wave * place;
                *open *= 1.0 - 0.14 * depth * place * smooth(0.4, 1.0, wave);
            }
            if (4.6..6.2).contains(&ax) && y.abs() < 1.2 {
                let wave = crate::math::sin((y * 1.0 + (ax - 4.6) * y * 0.4) * 11.0);
                normal.y += 0.22 * depth * wave * smooth(6.2, 5.2, ax);
            }
            let loose = BLOTCH.smooth(x * 16.0, y * 5.0);
            normal.x += 0.08 * depth * loose;
        }
        if !(-8.0..-4.3).contains(&y) || !(1.3..3.9).contains(&ax) {
            return;
        }
        let d = ax - crate::model::fold_x(y);
        if d.abs() < 0.5 {
            let k = (0.25 + 0.16 * self.params[Param::NasolabialFold] + 0.55 * self.smile).clamp(0.0, 1.2);
            let line =
                crate::model::base::bump(d, 0.0, 0.14, 1.0) * smooth(-7.8, -6.4, y) * smooth(-4.3, -4.9, y);
            *open *= 1.0 - 0.28 * k * line;
        }
    }

    /// Freckles, naevi, patches and veins.
    fn spots(&self, x: f32, y: f32, albedo: &mut Vec3) {
        let (sx, sy) = self.person.skin_offset;
        let amount = self.params[Param::SkinSpots];
        if amount > 0.4 {
            let dots =
                BLOTCH.smooth(x * 26.0 + sx, y * 26.0 + sy) + 0.5 * GRAIN.smooth(x * 13.0 + sy, y * 13.0);
            let k = smooth(1.05 - 0.22 * amount, 1.25 - 0.22 * amount, dots) * (0.2 + 0.1 * amount).min(0.6);
            *albedo = albedo.times(mix(vec3(1.0, 1.0, 1.0), vec3(0.55, 0.42, 0.34), k));
        }
        let patches = self.params[Param::SkinPatches];
        if patches > 0.3 {
            let k = smooth(0.25, 0.4, BLOTCH.smooth(x * 3.0 + sy, y * 3.0 + sx)) * (0.14 * patches).min(0.6);
            *albedo = mix(*albedo, vec3(0.86, 0.70, 0.62), k);
        }
        let veins = self.params[Param::ThinSkin];
        if veins > 0.3 && y > 1.5 {
            let web = BLOTCH.smooth(x * 5.0 + 90.0, y * 5.0);
            let k = smooth(0.10, 0.0, web.abs()) * (0.11 * veins).min(0.45);
            *albedo = albedo.times(mix(vec3(1.0, 1.0, 1.0), vec3(0.62, 0.7, 0.85), k));
        }
    }

    /// The inside of the mouth; `down` runs from the upper lip (0) to the lower (1).
    fn mouth(&self, x: f32, down: f32, open: f32) -> Vec3 {
        let gap = self.scene.mouth_gap * smooth(MOUTH_X, 0.4, x.abs() * 0.8);
        let dark = vec3(0.030, 0.010, 0.010);
        if gap < 0.16 {
            return self.light.diffuse(vec3(0.0, -0.3, 0.9), 0.25, 1.0).times(self.paint.lip)
                * (0.25 + 0.2 * open);
        }
        let depth = down * gap;
        let side = 1.0 - smooth(1.2, 2.3, x.abs());
        let show = smooth(0.16, 0.3, gap);
        let gum_edge = -0.12 + 0.12 * self.params[Param::Gums].max(0.0) - 0.1 + 0.16 * self.smile;
        let length = 0.62 * (1.0 + 0.07 * self.params[Param::ToothSize]);
        let wide = 0.78 * (1.0 + 0.06 * self.params[Param::ToothSize]);
        let place = (x / wide + 40.0) % 1.0;
        let spread = 0.03 + 0.05 * self.params[Param::ToothGaps].max(0.0);
        let between = smooth(spread, spread + 0.10, place.min(1.0 - place));
        let tooth_end = gum_edge.max(0.0) + length - 0.12 * smooth(0.5, 0.0, place.min(1.0 - place) * 2.0);
        let mut colour = dark;
        let tongue = self.params[Param::Tongue].max(0.0);
        let tongue_top = gap * (0.72 - 0.22 * tongue.min(3.0));
        if depth > tongue_top.max(tooth_end * 0.8) || (tongue > 0.8 && depth > tongue_top) {
            let lit = 0.25 + 0.2 * tongue.min(2.5);
            colour = vec3(0.50, 0.17, 0.17) * (lit * smooth(0.0, 0.5, down));
        } else if depth < tooth_end {
            let enamel = vec3(0.80, 0.76, 0.66) * (0.35 + 0.65 * side);
            colour = mix(dark * 2.0, enamel, between);
            if depth < gum_edge {
                colour = vec3(0.55, 0.20, 0.20);
            }
            colour = colour * (0.45 + 0.55 * smooth(0.0, 0.3, depth));
        }
        let lit = self.light.diffuse(vec3(0.0, -0.1, 1.0), 0.7, 1.0);
        mix(self.paint.lip * 0.15, lit.times(colour), show)
    }

    /// Hair with a highlight across the strands; `across` and `along` are in cm.
    fn hair(&self, normal: Vec3, across: f32, along: f32, open: f32) -> Vec3 {
        let n = towards_camera(normal);
        let curl = self.params[Param::HairCurl].max(0.0);
        let coarse = 1.0 + 0.12 * self.params[Param::HairCoarseness];
        let bend = (0.25 + 0.35 * curl) * crate::math::sin(along * (0.8 + 0.5 * curl) + 0.35 * across)
            + (0.3 + 0.5 * curl) * BLOTCH.smooth(across * 5.0, along * 5.0);
        let strand = GRAIN.smooth((across + bend) * 11.0 / coarse, along * (0.7 + 0.9 * curl))
            + 0.5 * BLOTCH.smooth((across + bend) * 30.0, along * 2.0);
        let lock = BLOTCH.smooth((across + bend) * 9.0, along * (1.2 + 2.0 * curl) + 50.0);
        let up = vec3(0.0, 1.0, 0.0);
        let tangent = (up - n * n.y + vec3(0.25 * strand * 0.3, 0.0, 0.0)).unit();
        let t = (tangent.dot(self.light.half) + 0.10 * strand).clamp(-1.0, 1.0);
        let s = (1.0 - t * t).max(0.0);
        let s2 = s * s;
        let s8 = s2 * s2 * s2 * s2;
        let facing = smooth(-0.25, 0.6, n.dot(self.light.direction));
        let shade = (0.72 + 0.34 * strand + 0.30 * lock).max(0.12);
        let body = self.light.diffuse(n, open, 1.0).times(self.paint.hair) * shade;
        let gleam = (0.045 * s8 * s2 * facing + 0.02 * s2 * facing) * (1.0 + 0.9 * strand).max(0.1);
        body + (self.light.key * 0.6 + self.light.sky * 0.4).times(mix(
            vec3(1.0, 1.0, 1.0),
            self.paint.hair * 2.0,
            0.4,
        )) * gleam
    }
}

fn blend(a: &Vertex, b: &Vertex, c: &Vertex, (wb, wc): (f32, f32)) -> Point {
    let wa = 1.0 - wb - wc;
    let v = |p: Vec3, q: Vec3, r: Vec3| p * wa + q * wb + r * wc;
    Point {
        canon: v(a.canon, b.canon, c.canon),
        normal: v(a.normal, b.normal, c.normal).unit(),
        albedo: v(a.albedo, b.albedo, c.albedo),
        open: a.open * wa + b.open * wb + c.open * wc,
        gloss: a.gloss * wa + b.gloss * wb + c.gloss * wc,
    }
}

fn towards_camera(n: Vec3) -> Vec3 {
    if n.z < -0.05 { -n } else { n }
}

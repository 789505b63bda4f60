//! Colours of a person: skin, hair, lips, and where they change over the face.

use std::sync::LazyLock;

use crate::math::{Vec3, curve, mix, pow, smooth, vec3};
use crate::model::MODEL;
use crate::model::base::{Canon, bump};
use crate::noise::BLOTCH;
use crate::param::{Param, Params};
use crate::person::Person;

/// From sRGB (0 to 1) to linear light.
pub(crate) fn linear(r: f32, g: f32, b: f32) -> Vec3 {
    let channel = |v: f32| if v <= 0.04045 { v / 12.92 } else { pow((v + 0.055) / 1.055, 2.4) };
    vec3(channel(r), channel(g), channel(b))
}

/// Everything the shader needs to know about colours, in linear light.
pub(crate) struct Paint {
    pub(crate) skin: Vec3,
    pub(crate) ear: Vec3,
    pub(crate) neck: Vec3,
    pub(crate) lip: Vec3,
    pub(crate) hair: Vec3,
    pub(crate) brow: Vec3,
    pub(crate) iris: Vec3,
    pub(crate) sclera: Vec3,
    pub(crate) cloth: Vec3,
    /// 0 is bald, 1 covers the scalp.
    pub(crate) hair_cover: f32,
    redness: f32,
    socket: f32,
    stubble: f32,
    mark: f32,
    /// Hairline heights over the azimuth from -pi to pi.
    scalp: Vec<f32>,
}

const SCALP_STEPS: usize = 256;

impl Paint {
    pub(crate) fn new(person: &Person, params: &Params) -> Paint {
        let tone = (params[Param::SkinTone] + 1.6).clamp(-0.6, 4.6) / 4.6;
        let ramp = |stops: [(f32, f32); 5]| curve(&stops, tone);
        let base = linear(
            ramp([(-0.15, 0.97), (0.0, 0.93), (0.35, 0.86), (0.7, 0.60), (1.0, 0.36)]),
            ramp([(-0.15, 0.84), (0.0, 0.77), (0.35, 0.66), (0.7, 0.42), (1.0, 0.24)]),
            ramp([(-0.15, 0.78), (0.0, 0.69), (0.35, 0.53), (0.7, 0.31), (1.0, 0.18)]),
        );
        let rough = params[Param::SkinRoughness].max(0.0);
        let skin = base * (1.0 - 0.02 * rough);
        let flush = vec3(1.0, 0.74, 0.72);
        let dark = (0.5 + 0.22 * params[Param::HairDarkness]).clamp(0.0, 1.0);
        let stops = |v: [(f32, f32); 5]| curve(&v, dark);
        let hair = linear(
            stops([(0.0, 0.86), (0.25, 0.66), (0.5, 0.43), (0.75, 0.25), (1.0, 0.11)]),
            stops([(0.0, 0.74), (0.25, 0.49), (0.5, 0.28), (0.75, 0.17), (1.0, 0.09)]),
            stops([(0.0, 0.52), (0.25, 0.28), (0.5, 0.17), (0.75, 0.12), (1.0, 0.08)]),
        );
        let grey = smooth(0.4, 2.6, params[Param::HairGrey]);
        let hair = mix(hair, linear(0.72, 0.72, 0.70), 0.8 * grey);
        let depth = (person.iris - 0.18 * params[Param::IrisLightness]).clamp(0.0, 1.0);
        let of_iris = |v: [(f32, f32); 4]| curve(&v, depth);
        let iris = linear(
            of_iris([(0.0, 0.42), (0.35, 0.42), (0.6, 0.38), (1.0, 0.22)]),
            of_iris([(0.0, 0.58), (0.35, 0.50), (0.6, 0.26), (1.0, 0.13)]),
            of_iris([(0.0, 0.70), (0.35, 0.38), (0.6, 0.13), (1.0, 0.08)]),
        );
        let blue = params[Param::ScleraBlue].max(0.0) / 3.0;
        let red = params[Param::ScleraRed].max(0.0) / 3.0;
        let sclera =
            linear(0.90 - 0.26 * blue, 0.88 - 0.12 * blue - 0.22 * red, 0.86 - 0.2 * red + 0.03 * blue);
        let lip_flush = vec3(0.86, 0.47, 0.48);
        Paint {
            ear: skin.times(mix(vec3(1.0, 1.0, 1.0), flush, 0.55)),
            neck: skin * 0.94,
            lip: mix(skin.times(lip_flush), linear(0.56, 0.25, 0.25) * (1.0 - 0.6 * tone.max(0.0)), 0.35),
            brow: mix(hair, linear(0.10, 0.08, 0.07), 0.45),
            hair,
            iris,
            sclera,
            cloth: vec3(person.dress[0], person.dress[1], person.dress[2]),
            hair_cover: smooth(-3.4, -1.6, params[Param::HairDensity]),
            redness: 0.38 + 0.16 * params[Param::SkinRedness] - 0.2 * tone.max(0.0),
            socket: 0.16 + 0.10 * params[Param::EyeShadow],
            stubble: if person.male {
                smooth(14.0, 20.0, person.age) * (0.25 + 0.75 * dark) * 0.4
            } else {
                0.0
            },
            mark: params[Param::VascularMark].max(0.0) / 3.0,
            scalp: scalp(person, params),
            skin,
        }
    }

    /// Height of the hairline at an azimuth.
    pub(crate) fn scalp_line(&self, azimuth: f32) -> f32 {
        let t = (azimuth / std::f32::consts::PI * 0.5 + 0.5).clamp(0.0, 1.0) * (SCALP_STEPS - 1) as f32;
        let i = (t as usize).min(SCALP_STEPS - 2);
        let f = t - i as f32;
        self.scalp[i] + (self.scalp[i + 1] - self.scalp[i]) * f
    }

    /// Colour of the skin at a vertex of the head, without what is drawn per pixel.
    pub(crate) fn skin_at(&self, zones: &Zones) -> Vec3 {
        let tint = |k: f32, to: Vec3| mix(vec3(1.0, 1.0, 1.0), to, k);
        let mut colour =
            self.skin.times(tint((self.redness * zones.red).clamp(-0.3, 0.9), vec3(1.02, 0.72, 0.70)));
        colour = colour.times(tint((self.socket * zones.socket).clamp(-0.3, 0.9), vec3(0.62, 0.5, 0.52)));
        colour = colour.times(tint((self.stubble * zones.beard).clamp(0.0, 0.8), vec3(0.55, 0.58, 0.63)));
        if self.mark > 0.0 {
            colour = colour.times(tint(self.mark * zones.mark, vec3(0.98, 0.62, 0.62)));
        }
        colour
    }
}

/// Shares of the zones of skin at a vertex.
pub(crate) struct Zones {
    /// Cheeks, tip of the nose, chin.
    red: f32,
    /// Round the eyes.
    socket: f32,
    beard: f32,
    /// Midline of the forehead and upper lids, where vascular marks lie.
    mark: f32,
    /// Oiliness: forehead and nose shine most.
    pub(crate) gloss: f32,
}

/// The zones at every vertex of the model.
pub(crate) static ZONES: LazyLock<Vec<Zones>> = LazyLock::new(|| MODEL.canon.iter().map(Zones::at).collect());

impl Zones {
    fn at(c: &Canon) -> Zones {
        let ax = c.x.abs();
        let near = |x: f32, y: f32, sx: f32, sy: f32| bump(ax - x, c.y - y, sx, sy);
        let ragged = near(0.0, 4.0, 1.1, 2.2)
            + 0.8 * near(2.6, 1.0, 1.0, 0.4)
            + 0.25 * BLOTCH.smooth(c.x * 9.0, c.y * 9.0);
        let mouth = near(0.0, -7.0, 2.3, 1.2);
        Zones {
            red: 0.9 * near(4.2, -3.4, 1.5, 1.3)
                + 0.8 * near(0.0, -4.1, 1.0, 0.8)
                + 0.35 * near(0.0, -10.2, 1.5, 0.8)
                + 0.3 * near(1.9, -0.6, 0.5, 0.6),
            socket: near(2.6, 0.0, 1.5, 0.95),
            beard: smooth(-5.4, -7.4, c.y) * smooth(0.9, 1.5, 2.0 - mouth) + 0.8 * near(0.0, -5.9, 1.5, 0.4),
            mark: smooth(0.2, 0.8, ragged),
            gloss: 0.35
                + 0.5 * near(0.0, 4.5, 3.0, 1.6)
                + 0.6 * near(0.0, -3.0, 0.8, 1.6)
                + 0.3 * near(4.2, -2.0, 1.0, 0.8),
        }
    }
}

/// The hairline of a person, with fringe and parting.
fn scalp(person: &Person, params: &Params) -> Vec<f32> {
    const LINE: [(f32, f32); 11] = [
        (0.0, 7.2),
        (22.0, 7.4),
        (38.0, 7.3),
        (50.0, 5.9),
        (60.0, 3.7),
        (69.0, 1.4),
        (77.0, -0.4),
        (84.0, 0.6),
        (97.0, 0.3),
        (112.0, -4.5),
        (180.0, -6.8),
    ];
    let style = &person.hairstyle;
    let high = 0.55 * params[Param::Hairline];
    let peak = params[Param::HairPeak];
    (0..SCALP_STEPS)
        .map(|i| {
            let azimuth = (i as f32 / (SCALP_STEPS - 1) as f32 * 2.0 - 1.0) * 180.0;
            let a = azimuth.abs();
            let front = smooth(62.0, 35.0, a);
            let mut y = curve(&LINE, a) + high * front - 0.6 * peak * bump(a, 0.0, 9.0, 1.0);
            y -= 0.35 * high.min(0.0).abs() * smooth(80.0, 60.0, a) * smooth(45.0, 60.0, a);
            // A fringe hangs to one side of the parting more than to the other.
            let lean = 0.75 + 0.25 * smooth(-30.0, 30.0, azimuth * style.parting.signum());
            let fringe = style.fringe * front * lean * 3.6;
            let tuft = 0.35 * style.fringe * BLOTCH.smooth(azimuth * 1.3 + person.skin_offset.0, 7.0);
            y - fringe + tuft * front
        })
        .collect()
}

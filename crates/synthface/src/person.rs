//! Who is in front of the camera: the part of a face that is the same in every photograph.

use crate::noise::Draws;
use crate::param::{Param, Params};

/// How the hair is worn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hairstyle {
    /// 0 is cropped, 1 falls below the shoulders.
    pub(crate) length: f32,
    /// Lift above the skull, cm.
    pub(crate) volume: f32,
    /// How far a fringe covers the forehead, 0 to 1.
    pub(crate) fringe: f32,
    /// Azimuth of the parting.
    pub(crate) parting: f32,
}

/// One person: everything that does not change between photographs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Person {
    pub(crate) params: Params,
    /// Years at the first photograph.
    pub(crate) age: f32,
    pub(crate) male: bool,
    pub(crate) hairstyle: Hairstyle,
    /// Darkness of the iris, 0 (blue) to 1 (brown).
    pub(crate) iris: f32,
    /// Where texture (freckles, blotches) is sampled, so that no two skins are alike.
    pub(crate) skin_offset: (f32, f32),
    pub(crate) dress: [f32; 3],
}

/// Spread of an axis among unaffected people, in its own unit.
fn spread(p: Param) -> f32 {
    use Param::*;
    match p {
        // Signs that hardly occur outside of syndromes.
        CleftLip | Tongue | LidColoboma | LowerLidEversion | EarTag | MetopicRidge | IrisStar
        | IrisColoboma | VascularMark | ThinSkin | SkinPatches | Gums | Squint => 0.0,
        Epicanthus | Ptosis | ChinDimple | ScleraBlue | ScleraRed | NeckWidth => 0.35,
        MouthOpen | FaceHair | BrowJoin | ToothGaps | Wrinkles | SkinRoughness | HairPeak => 0.45,
        AsymmetryJaw | AsymmetryEyes | AsymmetryMouth | BrowLateral | BrowFlare => 0.5,
        HairDensity | Telecanthus | LipTent | InfraorbitalCrease => 0.6,
        // Colours are drawn below.
        SkinTone | HairDarkness | HairGrey | IrisLightness => 0.0,
        _ => 1.0,
    }
}

impl Person {
    /// Draws a person; `scale` widens or narrows the variation of shape.
    pub(crate) fn draw(draws: &mut Draws, scale: f32) -> Person {
        let mut params = Params::AVERAGE;
        for &p in Param::ALL {
            params[p] = draws.normal() * spread(p) * scale;
        }
        // Neighbouring sizes vary together, as in real heads.
        let face = draws.normal() * 0.5 * scale;
        for p in [Param::FaceWidth, Param::JawWidth, Param::HeadWidth, Param::ForeheadWidth] {
            params[p] = 0.8 * params[p] + face;
        }
        let male = draws.chance(0.5);
        // Cohorts of patients are mostly children.
        let age = if draws.chance(0.72) { draws.range(1.5, 17.0) } else { draws.range(17.0, 55.0) };
        age_and_sex(&mut params, age, male);

        let tone = draws.unit();
        params[Param::SkinTone] = 4.4 * tone * tone - 1.5 + 0.3 * draws.normal();
        params[Param::HairDarkness] =
            if tone > 0.55 { 1.6 + 0.5 * draws.normal() } else { draws.range(-2.0, 2.2) };
        let iris = (0.15 + 0.9 * tone + 0.28 * draws.normal()).clamp(0.0, 1.0);
        if tone > 0.6 {
            params[Param::HairCurl] += 2.2 * smooth_tone(tone);
            params[Param::UpperLip] += 0.8 * smooth_tone(tone);
            params[Param::LowerLip] += 0.8 * smooth_tone(tone);
            params[Param::AlarWidth] += 0.9 * smooth_tone(tone);
        }
        let hairstyle = Hairstyle {
            length: if male {
                if draws.chance(0.12) { draws.range(0.3, 0.7) } else { draws.range(0.0, 0.2) }
            } else if age < 3.0 {
                draws.range(0.0, 0.35)
            } else {
                draws.range(0.15, 1.0)
            },
            volume: draws.range(0.35, 1.2) * if age < 3.0 { 0.5 } else { 1.0 },
            fringe: if draws.chance(0.42) { draws.range(0.3, 1.0) } else { 0.0 },
            parting: draws.range(-0.5, 0.5),
        };
        let base = draws.unit();
        let dress = [
            0.05 + 0.75 * draws.unit() * base,
            0.05 + 0.75 * draws.unit() * base,
            0.05 + 0.75 * draws.unit() * base,
        ];
        Person {
            params,
            age,
            male,
            hairstyle,
            iris,
            skin_offset: (draws.range(0.0, 256.0), draws.range(0.0, 256.0)),
            dress,
        }
    }

    /// The same person `years` older.
    pub(crate) fn aged(&self, years: f32) -> Params {
        let mut params = self.params.clone();
        let mut now = Params::AVERAGE;
        age_and_sex(&mut now, self.age + years, self.male);
        let mut then = Params::AVERAGE;
        age_and_sex(&mut then, self.age, self.male);
        params.add(&now, 1.0);
        params.add(&then, -1.0);
        params
    }
}

fn smooth_tone(tone: f32) -> f32 {
    crate::math::smooth(0.6, 1.0, tone)
}

/// Growth and ageing: proportions against those of an adult.
fn age_and_sex(params: &mut Params, age: f32, male: bool) {
    use Param::*;
    // 1 at birth, 0 from 18 years on; half of the way is gone by four years.
    let child = crate::math::exp(-age / 9.5) * crate::math::smooth(19.0, 9.0, age);
    for (p, k) in [
        (CraniumSize, 2.6),
        (ForeheadBulge, 1.6),
        (FaceLength, -3.2),
        (NoseLength, -2.4),
        (NoseBridgeHeight, -1.8),
        (NoseProjection, -2.0),
        (NoseTipRotation, 0.5),
        (AlarWidth, -1.4),
        (ChinProjection, -0.6),
        (ChinHeight, -2.0),
        (CheekFullness, 2.0),
        (EyeOpening, 2.5),
        (EyeWidth, 2.2),
        (JawWidth, -1.0),
        (MouthWidth, -2.0),
        (BrowThickness, -1.0),
        (BrowDensity, -1.0),
        (SupraorbitalRidge, -1.5),
        (Malar, -0.6),
        (EarSize, -0.8),
        (HairDarkness, -0.5),
        (EyeSpacing, 0.6),
        (IrisSize, 1.2),
    ] {
        params[p] += k * child;
    }
    let adult = crate::math::smooth(12.0, 19.0, age) * if male { 1.0 } else { -0.6 };
    for (p, k) in [
        (SupraorbitalRidge, 0.8),
        (JawWidth, 0.7),
        (ChinHeight, 0.6),
        (BrowThickness, 0.8),
        (NoseProjection, 0.4),
        (FaceLength, 0.4),
        (LowerLip, -0.3),
        (LashLength, -0.7),
        (NeckWidth, 0.7),
        (SkinRoughness, 0.4),
    ] {
        params[p] += k * adult;
    }
    let old = crate::math::smooth(28.0, 60.0, age);
    for (p, k) in [
        (Wrinkles, 2.6),
        (NasolabialFold, 1.6),
        (HairGrey, 2.2),
        (Ptosis, 0.8),
        (EarSize, 0.8),
        (NoseLength, 0.6),
        (CheekFullness, -0.8),
        (UpperLip, -0.9),
    ] {
        params[p] += k * old;
    }
    if male {
        params[Hairline] += 2.0 * old;
        params[HairDensity] -= 1.0 * old;
    }
}

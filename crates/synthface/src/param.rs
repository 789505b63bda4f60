//! The coordinates of a face: what identity, age and HPO terms shift.

/// Defines the enum, its list and its names from one table.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One axis of variation of a face.
        ///
        /// The value of an axis is in units of the standard deviation among
        /// unaffected people of the same age; 0 is the average.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Param { $($(#[$doc])* $name,)* }

        impl Param {
            /// Every axis, in the order of [`Params`].
            pub const ALL: &'static [Param] = &[$(Param::$name,)*];

            /// The name used in `data/terms.csv`.
            pub fn name(self) -> &'static str {
                match self { $(Param::$name => stringify!($name),)* }
            }
        }
    };
}

params! {
    /// Width of the whole head.
    HeadWidth,
    /// Size of the braincase (above the brows) against the face.
    CraniumSize,
    /// Height of the braincase.
    CraniumHeight,
    /// Depth of the head, front to back.
    HeadDepth,
    /// Width of the forehead between the temples.
    ForeheadWidth,
    /// Forward bulge of the forehead.
    ForeheadBulge,
    /// Distance from brows to hairline.
    ForeheadHeight,
    /// A keel along the middle of the forehead.
    MetopicRidge,
    /// Prominence of the supraorbital ridges.
    SupraorbitalRidge,
    /// Prominence of the glabella.
    Glabella,
    /// Length of the face below the eyes.
    FaceLength,
    /// Width across the cheekbones.
    FaceWidth,
    /// Width across the jaw angles.
    JawWidth,
    /// Width of the chin; low is pointed.
    ChinWidth,
    /// Height of the chin.
    ChinHeight,
    /// Forward place of the lower jaw; low is micrognathia or retrognathia.
    ChinProjection,
    /// A vertical cleft or dimple in the chin.
    ChinDimple,
    /// Depth of the fold between lower lip and chin.
    ChinCrease,
    /// Forward place of the midface.
    Midface,
    /// Prominence of the cheekbones.
    Malar,
    /// Fullness of the cheeks.
    CheekFullness,
    /// Fullness of the tissue round the eyes.
    PeriorbitalFullness,
    /// A crease under the eye.
    InfraorbitalCrease,
    /// Distance between the eyes.
    EyeSpacing,
    /// Distance of the inner canthi beyond that of the eyes.
    Telecanthus,
    /// Length of the palpebral fissures.
    EyeWidth,
    /// Height of the palpebral fissures.
    EyeOpening,
    /// Slant of the palpebral fissures, outer canthi up.
    EyeSlant,
    /// Forward place of the eyes; low is deep-set, high is proptosis.
    EyeDepth,
    /// Fold over the inner canthus.
    Epicanthus,
    /// Drooping of the upper lids.
    Ptosis,
    /// Eversion of the lateral third of the lower lids.
    LowerLidEversion,
    /// Notch in the lower lid.
    LidColoboma,
    /// Inward (negative) or outward turn of one eye.
    Squint,
    /// Height of the brows above the eyes.
    BrowHeight,
    /// Arching of the brows; low is horizontal.
    BrowArch,
    /// Medial flaring of the brows.
    BrowFlare,
    /// Height of the nasal bridge; low is depressed.
    NoseBridgeHeight,
    /// Width of the nasal bridge.
    NoseBridgeWidth,
    /// Convexity of the nasal ridge; low is concave.
    NoseRidge,
    /// Width of the nasal ridge.
    NoseRidgeWidth,
    /// Length of the nose.
    NoseLength,
    /// Forward projection of the nose.
    NoseProjection,
    /// Width and roundness of the nasal tip.
    NoseTipWidth,
    /// Upward turn of the nasal tip (anteverted nares); low is drooping.
    NoseTipRotation,
    /// Width across the alae.
    AlarWidth,
    /// Thickness of the alae.
    AlarThickness,
    /// Size of the nostrils.
    NostrilSize,
    /// Downward reach of the columella.
    Columella,
    /// Length of the philtrum.
    PhiltrumLength,
    /// Depth of the philtral groove; low is smooth.
    PhiltrumDepth,
    /// Width of the philtrum.
    PhiltrumWidth,
    /// Height and fullness of the upper vermilion.
    UpperLip,
    /// Height and fullness of the lower vermilion.
    LowerLip,
    /// Eversion of the lower lip.
    LowerLipEversion,
    /// Depth of the cupid's bow.
    CupidBow,
    /// Tenting of the upper lip.
    LipTent,
    /// Width of the mouth.
    MouthWidth,
    /// Height of the mouth corners; low is downturned.
    MouthCorners,
    /// Forward place of both lips and the tooth-bearing bone.
    Muzzle,
    /// Parting of the lips at rest.
    MouthOpen,
    /// Depth of the folds from nose to mouth corners.
    NasolabialFold,
    /// Cleft of the upper lip or its repair.
    CleftLip,
    /// Tongue showing between the lips.
    Tongue,
    /// Gaps between the teeth.
    ToothGaps,
    /// Size of the teeth.
    ToothSize,
    /// Gums showing.
    Gums,
    /// Shift of the jaw to one side.
    AsymmetryJaw,
    /// Height difference of the eyes.
    AsymmetryEyes,
    /// Height difference of the mouth corners.
    AsymmetryMouth,
    /// Size of the ears.
    EarSize,
    /// Height at which the ears sit.
    EarHeight,
    /// Angle at which the ears stand out.
    EarProtrusion,
    /// Backward rotation of the ears.
    EarRotation,
    /// Simplicity and thickness of the ear's folds.
    EarFolds,
    /// Size of the ear lobe.
    EarLobe,
    /// Skin tag or pit before the ear.
    EarTag,
    /// Width of the neck, with webbing.
    NeckWidth,
    /// Length of the neck.
    NeckLength,
    /// Thickness of the brows.
    BrowThickness,
    /// Density of brow hairs.
    BrowDensity,
    /// Meeting of the brows in the middle.
    BrowJoin,
    /// Density of the lateral half of the brows.
    BrowLateral,
    /// Length of the lashes.
    LashLength,
    /// Density of scalp hair; low is sparse to bald.
    HairDensity,
    /// Height of the frontal hairline.
    Hairline,
    /// A frontal upsweep or widow's peak.
    HairPeak,
    /// Curl of the hair.
    HairCurl,
    /// Fineness (negative) or coarseness of the hair.
    HairCoarseness,
    /// Darkness of the hair; low is fair.
    HairDarkness,
    /// Grey hairs.
    HairGrey,
    /// Fine hair on the face.
    FaceHair,
    /// Darkness of the skin.
    SkinTone,
    /// Redness of cheeks and nose.
    SkinRedness,
    /// Pigment spots, freckles and naevi.
    SkinSpots,
    /// Pale patches.
    SkinPatches,
    /// Wrinkles and loose skin.
    Wrinkles,
    /// Dryness and roughness of the skin.
    SkinRoughness,
    /// A vascular mark on the forehead and lids.
    VascularMark,
    /// Visible veins and tightness of thin skin.
    ThinSkin,
    /// Darkness round the eyes.
    EyeShadow,
    /// Lightness of the iris.
    IrisLightness,
    /// A keyhole gap in the lower iris.
    IrisColoboma,
    /// Size of iris and cornea.
    IrisSize,
    /// A star-like pattern of the iris.
    IrisStar,
    /// Blueness of the sclerae.
    ScleraBlue,
    /// Redness of the conjunctivae.
    ScleraRed,
}

impl Param {
    /// Number of axes.
    pub const COUNT: usize = Param::ALL.len();

    /// The axis of that name in `data/terms.csv`.
    pub fn from_name(name: &str) -> Option<Param> {
        Param::ALL.iter().copied().find(|p| p.name() == name)
    }

    /// The largest shift that a face can take: beyond it, the mesh would fold.
    pub(crate) fn limit(self) -> f32 {
        match self {
            Param::Midface | Param::ChinProjection | Param::NoseLength => 3.6,
            Param::EyeOpening => 3.0,
            _ => 4.2,
        }
    }
}

/// A value for every axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Params([f32; Param::COUNT]);

impl Params {
    /// The average face.
    pub const AVERAGE: Params = Params([0.0; Param::COUNT]);

    /// The values in the order of [`Param::ALL`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Adds `k` times `other`.
    pub(crate) fn add(&mut self, other: &Params, k: f32) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a += k * b;
        }
    }

    /// Bends every value smoothly into the range that a face can take.
    pub(crate) fn bounded(mut self) -> Params {
        for (&param, v) in Param::ALL.iter().zip(&mut self.0) {
            let limit = param.limit();
            let x = *v / limit;
            // x / (1 + x^4)^(1/4): nearly x up to 0.6, 1 at infinity.
            *v /= (1.0 + x * x * x * x).sqrt().sqrt();
        }
        // A shorter philtrum would push the cheeks into a fold beside the mouth.
        let philtrum = &mut self[Param::PhiltrumLength];
        *philtrum = philtrum.max(-2.7);
        self
    }
}

impl std::ops::Index<Param> for Params {
    type Output = f32;
    fn index(&self, p: Param) -> &f32 {
        &self.0[p as usize]
    }
}

impl std::ops::IndexMut<Param> for Params {
    fn index_mut(&mut self, p: Param) -> &mut f32 {
        &mut self.0[p as usize]
    }
}

//! Faces on photographs: where the five points come from, and the crops of many pictures.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;
use vision::{CROP_SIDE, Crop, Detector, Found, Photo, Points, Search, align};

use crate::cohort_dir::aligned_crop;
use crate::config::Config;
use crate::pipeline::engines::{ChosenDetector, Engines};
use crate::progress::Stage;

/// Finds faces: with the detector that the user brought, or, without one, only where points are given or the picture
/// is an aligned face already.
#[derive(Debug, Default)]
pub struct FaceFinder {
    detector: Option<(PathBuf, Detector)>,
    search: Search,
    note: Option<String>,
}

/// Where a face lies on its photograph, and how that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// By points that were given.
    Given(Points),
    /// The photograph is an aligned face of 112 x 112 pixels.
    Aligned,
    /// By the detector.
    Found(Found),
}

impl Place {
    /// The five points; none where the picture is aligned.
    pub fn points(&self) -> Option<&Points> {
        match self {
            Self::Given(points) => Some(points),
            Self::Aligned => None,
            Self::Found(found) => Some(&found.face.points),
        }
    }

    /// How many faces the detector saw besides the one taken.
    pub fn others(&self) -> usize {
        match self {
            Self::Found(found) => found.others,
            _ => 0,
        }
    }

    /// Cuts the face out.
    ///
    /// # Errors
    ///
    /// When the points do not form a face on this photograph.
    pub fn crop(&self, photo: &Photo) -> vision::Result<Crop> {
        match self.points() {
            Some(points) => align::align(photo, points),
            None => Crop::from_photo(photo),
        }
    }
}

impl FaceFinder {
    /// The detector in `file`, else the one that the configuration names, else none, for about so many photographs.
    /// `strict` refuses those with several faces whatever the configuration says.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not a detector of a known kind, or the engine that the configuration names
    /// cannot run it.
    pub fn open(config: &Config, file: Option<&Path>, strict: bool, photographs: usize) -> Result<Self> {
        let mut search = config.detector.search();
        search.strict |= strict;
        let file = match file {
            Some(file) => Some(file.to_owned()),
            None => config.detector.file.as_ref().map(|file| config.resolve(file)),
        };
        let Some(file) = file else { return Ok(Self { search, ..Self::default() }) };
        let name = file.display().to_string();
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read the face detector {name}"))?;
        let ChosenDetector { detector, note } = Engines::new(config, None)
            .detector(&bytes, photographs)
            .with_context(|| format!("cannot use {name} as a face detector"))?;
        Ok(Self { detector: Some((file, detector)), search, note })
    }

    /// Why the detector is not run as the configuration wishes, if it is not.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The detector and its file, if there is one.
    pub fn detector(&self) -> Option<(&Path, &Detector)> {
        self.detector.as_ref().map(|(file, detector)| (file.as_path(), detector))
    }

    /// What decides the faces found, as text: equal texts find the same faces. Engines are no part of it, since those that
    /// are used agree to a tenth of a pixel.
    pub fn key(&self) -> Option<String> {
        let (_, detector) = self.detector.as_ref()?;
        Some(format!("{} {:?}", hex::encode(detector.digest()), self.search))
    }

    /// Where the face of a photograph lies. Points that are given win over the detector, and a picture of 112 x 112
    /// pixels counts as aligned.
    ///
    /// # Errors
    ///
    /// When no face is found, several are and that is refused, or there is no detector to look with; the message says
    /// how to get one.
    pub fn locate(&self, photo: &Photo, given: Option<&Points>) -> Result<Place> {
        if let Some(points) = given {
            return Ok(Place::Given(*points));
        }
        let (width, height) = (photo.width(), photo.height());
        if [width, height] == [CROP_SIDE as u32; 2] {
            return Ok(Place::Aligned);
        }
        match &self.detector {
            Some((_, detector)) => Ok(Place::Found(detector.find(photo, &self.search)?)),
            None => bail!(
                "it is a photograph of {width} x {height} pixels and nothing says where the face is. Name a face detector \
                 (--detector FILE, or [detector] in fedgestalt.toml): face_detection_yunet_2023mar.onnx from OpenCV's model \
                 zoo, or an SCRFD with key points from insightface, such as det_10g.onnx in its buffalo_l package. Or give \
                 its five points (--points, or points.csv in the cohort). A picture of {CROP_SIDE} x {CROP_SIDE} pixels is \
                 taken as an aligned face, one of another size by `cohort import --as-aligned`"
            ),
        }
    }
}

/// What became of a picture in a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its crop was there.
    Kept,
    /// Its crop was made.
    Made(Place),
    /// There is no crop of it, for this reason.
    Failed(String),
}

/// A crop to be made: where it goes, and where it comes from.
pub trait Job: Sync {
    /// The crop's file.
    fn out(&self) -> &Path;

    /// Whether the crop is there already. A file that a loss of power left empty is not.
    fn is_done(&self) -> bool {
        aligned_crop(self.out()).is_ok()
    }

    /// Makes the crop.
    ///
    /// # Errors
    ///
    /// Whatever keeps this picture, and no other, from having one.
    fn face(&self) -> Result<(Crop, Place)>;

    /// Writes the crop to [`Job::out`].
    ///
    /// # Errors
    ///
    /// When it cannot be written: that ends the batch.
    fn write(&self, crop: &Crop) -> Result<()> {
        Ok(crate::store::write_cache(self.out(), &crop.to_png()?)?)
    }
}

/// Makes the crops of many pictures. A picture that fails does not hold up the others.
///
/// # Errors
///
/// When a crop cannot be written.
pub fn batch<J: Job>(jobs: &[J], stage: &Stage) -> Result<Vec<Outcome>> {
    jobs.par_iter()
        .map(|job| {
            let outcome = if job.is_done() {
                Outcome::Kept
            } else {
                match job.face() {
                    Ok((crop, place)) => {
                        job.write(&crop)?;
                        Outcome::Made(place)
                    }
                    Err(error) => Outcome::Failed(reason(&error)),
                }
            };
            stage.advance(1);
            Ok(outcome)
        })
        .collect()
}

/// The chain of causes, innermost last, on one line.
pub fn reason(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join(": ")
}

/// A line for a person: the file, unless the reason names it, and the reason.
pub fn failure(file: &Path, reason: &str) -> String {
    let file = file.display().to_string();
    if reason.contains(&file) { reason.to_owned() } else { format!("{file}: {reason}") }
}

//! A cohort as a folder of files, in GMDB's layout.
//!
//! ```text
//! gmdb_metadata/gmdb_{train,val,frequent_gallery,frequent_test,rare_gallery,rare_test}_images_vX.csv
//! gmdb_align/<image_id>_aligned.jpg      112 x 112; or _rot_aligned, or .png
//! gmdb_images/<image_id>.jpg             photographs, where they are kept; or .jpeg, .png
//! syndromes.csv                          label,name,mondo,omim,orpha
//! points.csv                             image_id,x0,y0,...,x4,y4: five points on each photograph
//! ```
//!
//! Only the tables have to be there. A face is taken from `gmdb_align`; without it, it is cut out of its photograph with
//! its points; without points, a photograph of 112 x 112 pixels counts as aligned, and others need a detector.

mod images;
mod points;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use domain::{Cohort, ImageId};
use vision::decode::{Limits, decode};
use vision::{Crop, Photo};

pub use images::{ALIGNED, ImageFiles, PHOTOGRAPHS, ROTATED, is_picture};
pub use points::{FACE_COORDS_FILE, Face, POINTS_FILE, PointsTable};
pub use tables::{METADATA, SYNDROMES_FILE, Tables};

use crate::faces::{FaceFinder, Place};

/// A cohort folder that was opened.
#[derive(Debug)]
pub struct CohortDir {
    /// Who is in it and which parts they play.
    pub cohort: Cohort,
    /// Its picture files.
    pub images: ImageFiles,
    /// The points of its photographs.
    pub points: PointsTable,
    /// The version in its tables' names.
    pub version: String,
    path: PathBuf,
    faces: FaceFinder,
    several: Mutex<BTreeMap<ImageId, usize>>,
}

impl CohortDir {
    /// Opens a cohort folder: reads its tables (of the highest version there) and lists its pictures, which are
    /// decoded only when asked for.
    ///
    /// # Errors
    ///
    /// When there are no tables, or a table, `syndromes.csv` or `points.csv` is faulty: file and line are named.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let tables = Tables::read(path)?;
        let cohort = tables.assemble()?;
        let images = ImageFiles::list(path)?;
        let points = PointsTable::read_if_there(&path.join(POINTS_FILE))?;
        Ok(Self {
            cohort,
            images,
            points,
            version: tables.version,
            path: path.to_owned(),
            faces: FaceFinder::default(),
            several: Mutex::default(),
        })
    }

    /// The same with a detector for photographs without points.
    pub fn with_faces(self, faces: FaceFinder) -> Self {
        Self { faces, ..self }
    }

    /// What finds faces on its photographs.
    pub fn faces(&self) -> &FaceFinder {
        &self.faces
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An aligned face.
    ///
    /// # Errors
    ///
    /// When its file is not there or damaged, or it is a photograph without points; the file is named.
    pub fn crop(&self, image: &ImageId) -> anyhow::Result<Crop> {
        if let Some(file) = self.images.aligned(image) {
            return aligned_crop(file);
        }
        let Some(file) = self.images.photograph(image) else {
            bail!(
                "image {image} is not there: neither {0}/{ALIGNED}/{image}_aligned.jpg nor {0}/{PHOTOGRAPHS}/{image}.jpg; \
                 add its file or remove its rows",
                self.path.display()
            );
        };
        let (crop, place) = photograph_crop(file, self.points.get(image), &self.faces)?;
        if place.others() > 0 {
            let mut several = self.several.lock().unwrap_or_else(PoisonError::into_inner);
            several.insert(image.clone(), place.others() + 1);
        }
        Ok(crop)
    }

    /// The images on which the detector has seen several faces so far, and how many; the largest central one was taken.
    pub fn several_faces(&self) -> BTreeMap<ImageId, usize> {
        self.several.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The photograph of an image; `None` if only the aligned face is kept.
    ///
    /// # Errors
    ///
    /// When its file is damaged.
    pub fn photograph(&self, image: &ImageId) -> anyhow::Result<Option<Photo>> {
        self.images.photograph(image).map(read_photo).transpose()
    }
}

/// A face from a file that holds it aligned. Other sizes than 112 x 112 are resized.
pub(crate) fn aligned_crop(file: &Path) -> anyhow::Result<Crop> {
    Crop::from_photo(&read_photo(file)?).with_context(|| file.display().to_string())
}

/// A face from a photograph.
pub(crate) fn photograph_crop(
    file: &Path,
    points: Option<&vision::Points>,
    faces: &FaceFinder,
) -> anyhow::Result<(Crop, Place)> {
    let photo = read_photo(file)?;
    let face = || {
        let place = faces.locate(&photo, points)?;
        anyhow::Ok((place.crop(&photo)?, place))
    };
    face().with_context(|| file.display().to_string())
}

fn read_photo(file: &Path) -> anyhow::Result<Photo> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
    decode(&bytes, &Limits::default()).with_context(|| name.to_string())
}

/// Writes the tables of a cohort and its syndromes, atomically; pictures are the caller's. Tables are written even if
/// they have no rows. A folder whose tables are written last is whole once it has them.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_tables(folder: &Path, cohort: &Cohort, version: &str) -> anyhow::Result<()> {
    tables::write(folder, cohort, version)
}

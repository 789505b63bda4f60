//! How well an engine's features agree with those of rten in f32.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use synthface::Population;
use vision::{Crop, Photo, Points, Trunk};

use super::CalibrationFaces;
use crate::store;

/// CalibrationFaces that are compared, at most.
pub const FACES: usize = 16;
/// The least cosine to f32 that a lower precision needs on every face.
pub const LEAST_COSINE: f64 = 0.999;
/// The least cosine to rten that another engine needs on every face in f32.
pub const LEAST_COSINE_F32: f64 = 0.999_99;

/// Where features of rendered faces stand in for a site's own: their seed, and the side of a rendering.
const RENDERED_SEED: u64 = 16;
const RENDERED_SIDE: u32 = 256;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The least over the faces of the cosine between the trunk's features and rten's in f32.
    pub cosine: f64,
    /// CalibrationFaces compared.
    pub faces: usize,
    /// Whether these were the site's own, not rendered ones.
    pub own: bool,
    /// Whether a face's features do not depend on its place and neighbours in a batch. If they do, batches of 1 are run.
    pub crops_apart: bool,
}

impl Agreement {
    /// Whether it need not be measured again: what was measured on rendered faces gives way to `own` ones.
    pub(super) fn serves(&self, own: bool) -> bool {
        self.own >= own
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.own { "of the cohort" } else { "rendered for it" };
        write!(f, "least cosine to f32 {:.6} over {} faces {whose}", self.cosine, self.faces)
    }
}

/// What an agreement was measured for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) trunk: String,
    pub(super) engine: String,
    pub(super) processor: String,
    pub(super) precision: String,
    pub(super) batch: usize,
}

#[derive(Serialize, Deserialize)]
struct Record<T> {
    key: Key,
    agreement: T,
}

fn file(folder: &Path, key: &Key) -> Option<PathBuf> {
    let digest = Sha256::digest(serde_json::to_vec(key).ok()?);
    Some(folder.join(format!("agreement-{}.json", hex::encode(&digest[..12]))))
}

/// What was measured before.
pub(super) fn read<T: DeserializeOwned>(folder: &Path, key: &Key) -> Option<T> {
    let record: Record<T> = store::read_json(&file(folder, key)?).ok()??;
    (record.key == *key).then_some(record.agreement)
}

/// Keeps it; where that fails it is measured again.
pub(super) fn write<T: Serialize>(folder: &Path, key: &Key, agreement: &T) {
    if let Some(file) = file(folder, key) {
        let _ = store::write_json(&file, &Record { key: key.clone(), agreement });
    }
}

/// Up to [`FACES`] faces from all over the cohort and `true`; rendered ones and `false` where it has none that can be
/// read.
pub(super) fn crops(faces: Option<&CalibrationFaces<'_>>) -> Result<(Vec<Crop>, bool)> {
    if let Some(faces) = faces {
        let step = faces.images.len().div_ceil(FACES).max(1);
        let own: Vec<Crop> =
            faces.images.iter().step_by(step).filter_map(|image| faces.crops.crop(image).ok()).collect();
        if !own.is_empty() {
            return Ok((own, true));
        }
    }
    let aligned = |person| {
        let (photo, points) = rendered(person)?;
        Ok(vision::align::align(&photo, &points)?)
    };
    Ok(((0..FACES as u64).map(aligned).collect::<Result<_>>()?, false))
}

/// A photograph of a person who does not exist, and the points of the face.
pub(super) fn rendered(person: u64) -> Result<(Photo, Points)> {
    let photograph = Population::varied(RENDERED_SEED, person).photograph(0, RENDERED_SIDE);
    let photo = Photo::from_rgb(photograph.width, photograph.height, photograph.rgb)?;
    Ok((photo, Points(photograph.points)))
}

/// The least cosine between two trunks' features of the same crop.
pub(super) fn least_cosine(trunk: &dyn Trunk, reference: &dyn Trunk, crops: &[Crop]) -> Result<f64> {
    let features = |trunk: &dyn Trunk| -> Result<Vec<f32>> {
        let mut out = vec![0.0; crops.len() * trunk.output_len()];
        trunk.features(crops, &mut out).with_context(|| format!("on {}", trunk.engine()))?;
        Ok(out)
    };
    let (found, expected) = (features(trunk)?, features(reference)?);
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let cosine = |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let len = reference.output_len();
    let pairs = found.chunks_exact(len).zip(expected.chunks_exact(len));
    // A face whose features are all zero has no direction; nothing is said for such a network.
    Ok(pairs.map(|(a, b)| cosine(a, b)).fold(1.0, |least, c| if c.is_nan() { -1.0 } else { least.min(c) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use vision::Precision;

    use super::*;

    /// Features that are the crop's first pixels, off by a constant in the second one.
    struct Off(f32);

    impl Trunk for Off {
        fn output_len(&self) -> usize {
            2
        }

        fn digest(&self) -> [u8; 32] {
            [0; 32]
        }

        fn features(&self, crops: &[Crop], out: &mut [f32]) -> vision::Result<()> {
            for (crop, out) in crops.iter().zip(out.chunks_exact_mut(2)) {
                out.copy_from_slice(&[f32::from(crop.rgb()[0]), self.0]);
            }
            Ok(())
        }

        fn engine(&self) -> &str {
            "off"
        }

        fn precision(&self) -> Precision {
            Precision::F32
        }
    }

    #[test]
    fn the_worst_face_counts() {
        let crop = |first: u8| {
            let mut rgb = vec![0; vision::CROP_LEN];
            rgb[0] = first;
            Crop::from_rgb(rgb).unwrap()
        };
        let crops = [crop(200), crop(3), crop(255)];
        // (3, 4) against (3, 0): 3 / 5.
        let cosine = least_cosine(&Off(4.0), &Off(0.0), &crops).unwrap();
        assert!((cosine - 0.6).abs() < 1e-9, "{cosine}");
        assert_eq!(least_cosine(&Off(4.0), &Off(0.0), &[crop(0)]).unwrap(), -1.0);
        assert_eq!(least_cosine(&Off(4.0), &Off(4.0), &crops).unwrap(), 1.0);
    }

    #[test]
    fn rendered_faces_stand_in_and_give_way_to_own_ones() {
        let (rendered, own) = crops(None).unwrap();
        assert_eq!((rendered.len(), own), (FACES, false));
        assert!(rendered.windows(2).all(|pair| pair[0] != pair[1]));
        let folder = tempfile::tempdir().unwrap();
        let key = Key {
            trunk: "ab".into(),
            engine: "e 1".into(),
            processor: "p".into(),
            precision: "bf16".into(),
            batch: 4,
        };
        let agreement = Agreement { cosine: 0.9995, faces: 16, own: false, crops_apart: true };
        write(folder.path(), &key, &agreement);
        assert_eq!(read(folder.path(), &key), Some(agreement.clone()));
        assert_eq!(read::<Agreement>(folder.path(), &Key { processor: "q".into(), ..key.clone() }), None);
        assert!(agreement.serves(false) && !agreement.serves(true));
        let own = Agreement { own: true, ..agreement };
        write(folder.path(), &key, &own);
        assert_eq!(read(folder.path(), &key), Some(own.clone()));
        assert!(own.serves(false) && own.serves(true));
    }
}

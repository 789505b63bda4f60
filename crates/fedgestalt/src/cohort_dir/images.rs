use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use domain::ImageId;

/// The folder with aligned faces.
pub const ALIGNED: &str = "gmdb_align";
/// The folder with photographs.
pub const PHOTOGRAPHS: &str = "gmdb_images";
/// The folder with photographs that GestaltEngine-FaceCropper turned upright, `<image_id>_rot.jpg`.
pub const ROTATED: &str = "gmdb_rot";

/// The picture files of a cohort folder, by name without extension.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFiles {
    aligned: BTreeMap<String, PathBuf>,
    photographs: BTreeMap<String, PathBuf>,
    rotated: BTreeMap<String, PathBuf>,
}

impl ImageFiles {
    /// Lists `gmdb_align`, `gmdb_images` and `gmdb_rot`; any may be missing.
    ///
    /// # Errors
    ///
    /// When one of them is there and cannot be read.
    pub fn list(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            aligned: stems(&folder.join(ALIGNED))?,
            photographs: stems(&folder.join(PHOTOGRAPHS))?,
            rotated: stems(&folder.join(ROTATED))?,
        })
    }

    /// The file with the aligned face of an image.
    pub fn aligned(&self, image: &ImageId) -> Option<&Path> {
        let named = |suffix: &str| self.aligned.get(&format!("{image}{suffix}"));
        named("_aligned").or_else(|| named("_rot_aligned")).map(PathBuf::as_path)
    }

    /// The file with the photograph of an image.
    pub fn photograph(&self, image: &ImageId) -> Option<&Path> {
        self.photographs.get(image.as_str()).map(PathBuf::as_path)
    }

    /// The file with the photograph as FaceCropper turned it, and its name in FaceCropper's table.
    pub fn rotated(&self, image: &ImageId) -> Option<(&Path, String)> {
        let name = format!("{image}_rot");
        self.rotated.get(&name).map(|file| (file.as_path(), name))
    }

    /// Whether there is an aligned face or a photograph.
    pub fn has(&self, image: &ImageId) -> bool {
        self.aligned(image).is_some() || self.photograph(image).is_some()
    }
}

/// Whether a file's name says that it is a picture, of whatever kind: one that cannot be read is to be told of, not
/// passed over.
pub fn is_picture(path: &Path) -> bool {
    let kinds =
        ["jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp", "heic", "heif", "avif", "pgm", "ppm"];
    extension(path).is_some_and(|extension| kinds.contains(&extension.as_str()))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// JPEG and PNG files by name without extension; of two with one name the alphabetically first.
fn stems(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let failed = || format!("cannot read the folder {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.with_context(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(failed)?.path();
        if matches!(extension(&path).as_deref(), Some("jpg" | "jpeg" | "png")) {
            files.push(path);
        }
    }
    files.sort();
    let mut stems = BTreeMap::new();
    for path in files {
        if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) {
            stems.entry(stem.to_owned()).or_insert_with(|| path.clone());
        }
    }
    Ok(stems)
}

//! Encodings on disk, in three formats: safetensors (the program's own, read through the page cache), GestaltMatcher's
//! `all_encodings.csv`, and NumPy's npz.

mod csv;
mod npz;
mod own;
mod spreads;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use domain::encoding::UNIT_TOLERANCE;
use domain::{Encoding, ImageId};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vision::views::VIEWS;

pub use self::spreads::{GallerySpreads, gallery};
use super::ensemble::Blueprint;

/// How encodings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Named tensors, with a digest.
    Safetensors,
    /// GestaltMatcher's `all_encodings.csv`.
    Csv,
    /// NumPy's archive of arrays.
    Npz,
}

impl Format {
    /// The format that a file's name says.
    ///
    /// # Errors
    ///
    /// When its extension is none of `safetensors`, `csv` and `npz`.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|text| text.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "safetensors" => Ok(Self::Safetensors),
            "csv" => Ok(Self::Csv),
            "npz" => Ok(Self::Npz),
            _ => bail!(
                "{} does not end in .safetensors, .csv or .npz; name the file so, or give --format when writing",
                path.display()
            ),
        }
    }
}

/// Whose representation stands at a place of an encoding, in GestaltMatcher's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The member: `m0`, `m1`, ..
    pub model: String,
    /// Whether the view is mirrored.
    pub flip: bool,
    /// Whether the view is grey.
    pub gray: bool,
    /// Values of the representation.
    pub len: usize,
}

/// The slots of an ensemble's encodings: members, and in each the views as [`vision::views`] orders them.
pub fn layout(blueprint: &Blueprint) -> Vec<Slot> {
    let views: [(bool, bool); VIEWS] = [(false, false), (true, false), (false, true), (true, true)];
    let members = blueprint.members.iter().enumerate();
    members
        .flat_map(|(at, member)| {
            let len = blueprint.outputs(member);
            views.map(|(flip, gray)| Slot { model: format!("m{at}"), flip, gray, len })
        })
        .collect()
}

/// Encodings of images by one model, sorted by image.
#[derive(Debug)]
pub struct EncodingFile {
    /// What computed them, where the format can say it: encodings of different models cannot be compared.
    pub model: Option<String>,
    /// What an encoding is laid together from; empty where the file does not say.
    pub layout: Vec<Slot>,
    /// How near the gallery's syndromes are to each other, where the file says it.
    pub spreads: Option<GallerySpreads>,
    images: Vec<ImageId>,
    dim: usize,
    rows: Rows,
}

/// Images x values, row-major.
#[derive(Debug)]
enum Rows {
    Owned(Vec<f32>),
    Mapped(own::Mapped),
}

impl EncodingFile {
    /// Encodings that were just computed.
    ///
    /// # Errors
    ///
    /// When there are none, or they differ in length.
    pub fn new(
        model: Option<String>,
        layout: Vec<Slot>,
        encodings: &BTreeMap<ImageId, Encoding>,
    ) -> Result<Self> {
        let dim = encodings.values().next().context("there are no encodings")?.as_slice().len();
        ensure!(encodings.values().all(|e| e.as_slice().len() == dim), "the encodings differ in length");
        let values = encodings.values().flat_map(|e| e.as_slice()).copied().collect();
        Self::checked(model, layout, encodings.keys().cloned().collect(), dim, Rows::Owned(values))
    }

    /// Puts a file together; `images` may have any order if the rows are owned.
    fn checked(
        model: Option<String>,
        layout: Vec<Slot>,
        images: Vec<ImageId>,
        dim: usize,
        rows: Rows,
    ) -> Result<Self> {
        ensure!(!images.is_empty() && dim > 0, "it holds no encodings");
        let total: usize = layout.iter().map(|slot| slot.len).sum();
        ensure!(
            layout.is_empty() || total == dim,
            "its encodings have {dim} values but its members and views make {total}"
        );
        let mut file = Self { model, layout, spreads: None, images, dim, rows };
        ensure!(
            file.values().len() == file.images.len() * dim,
            "it has {} values for {} images of {dim}",
            file.values().len(),
            file.images.len()
        );
        file.sort();
        if let Some(pair) = file.images.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("image {} is there twice", pair[0]);
        }
        if let Some(at) = file.values().par_chunks(dim).position_first(|row| !is_unit(row)) {
            bail!("the encoding of image {} is not of length 1; encode it again", file.images[at]);
        }
        Ok(file)
    }

    fn sort(&mut self) {
        if self.images.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.sort_by(|&a, &b| self.images[a].cmp(&self.images[b]));
        let values = self.values();
        let sorted = order.iter().flat_map(|&at| &values[at * self.dim..][..self.dim]).copied().collect();
        self.images = order.iter().map(|&at| self.images[at].clone()).collect();
        self.rows = Rows::Owned(sorted);
    }

    fn values(&self) -> &[f32] {
        match &self.rows {
            Rows::Owned(values) => values,
            Rows::Mapped(mapped) => mapped.values(),
        }
    }

    /// The images, sorted.
    pub fn images(&self) -> &[ImageId] {
        &self.images
    }

    /// Values of each encoding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The encoding of an image, without copying.
    pub fn get(&self, image: &ImageId) -> Option<&[f32]> {
        let at = self.images.binary_search(image).ok()?;
        Some(&self.values()[at * self.dim..][..self.dim])
    }

    /// The encoding of an image.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn encoding(&self, image: &ImageId) -> Result<Encoding> {
        let row = self.get(image).with_context(|| format!("there is no encoding of image {image}"))?;
        Ok(Encoding::from_unit(row.to_vec())?)
    }

    /// All encodings, copied.
    ///
    /// # Errors
    ///
    /// None that the checks on loading leave over.
    pub fn encodings(&self) -> Result<BTreeMap<ImageId, Encoding>> {
        self.images.iter().map(|image| Ok((image.clone(), self.encoding(image)?))).collect()
    }

    /// Writes the file, atomically and private.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or the format cannot hold an image's id.
    pub fn save(&self, path: &Path, format: Format) -> Result<()> {
        match format {
            Format::Safetensors => own::save(self, path),
            Format::Csv => csv::save(self, path),
            Format::Npz => npz::save(self, path),
        }
        .with_context(|| format!("cannot write encodings to {}", path.display()))
    }

    /// Reads a file of any of the formats, as its name says.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is not a file of encodings; the file is named, and in a CSV the line.
    pub fn load(path: &Path) -> Result<Self> {
        let format = Format::of(path).context("`fedgestalt encode` writes encodings")?;
        match format {
            Format::Safetensors => own::load(path),
            Format::Csv => csv::load(path),
            Format::Npz => npz::load(path),
        }
        .with_context(|| format!("{} cannot be used as a file of encodings", path.display()))
    }

    /// The model's name, for messages.
    pub fn model_name(&self) -> Cow<'_, str> {
        self.model.as_deref().map_or("an unnamed model".into(), Cow::Borrowed)
    }
}

/// Whether a row has length 1, as [`Encoding::from_unit`] asks, in a form that a gallery is through in milliseconds.
fn is_unit(row: &[f32]) -> bool {
    let (chunks, rest) = row.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    let sum: f32 = lanes.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>();
    (sum.sqrt() - 1.0).abs() <= UNIT_TOLERANCE
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(text: &str) -> ImageId {
        ImageId::new(text).unwrap()
    }

    /// Two members with views of their own length, images in an order that is not alphabetical.
    fn example() -> EncodingFile {
        let slot = |model: &str, flip, gray, len| Slot { model: model.to_owned(), flip, gray, len };
        let views = [(false, false), (true, false), (false, true), (true, true)];
        let layout: Vec<Slot> = [("m0", 3), ("m1", 2)]
            .into_iter()
            .flat_map(|(model, len)| views.map(|(flip, gray)| slot(model, flip, gray, len)))
            .collect();
        let encodings = ["9", "10", "b_2"].iter().enumerate().map(|(at, image)| {
            let parts: Vec<Vec<f32>> = (0..8)
                .map(|slot| {
                    let len = if slot < 4 { 3 } else { 2 };
                    (0..len).map(|i| ((at * 31 + slot * 7 + i * 3) as f32 * 0.37).sin() + 0.01).collect()
                })
                .collect();
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            (id(image), Encoding::from_representations(&parts).unwrap())
        });
        EncodingFile::new(Some("central 1f".to_owned()), layout, &encodings.collect()).unwrap()
    }

    #[test]
    fn every_format_gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = example();
        for (name, format) in
            [("e.safetensors", Format::Safetensors), ("e.csv", Format::Csv), ("e.npz", Format::Npz)]
        {
            let path = folder.path().join(name);
            assert_eq!(Format::of(&path).unwrap(), format);
            file.save(&path, format).unwrap();
            let read = EncodingFile::load(&path).unwrap();
            assert_eq!((read.images(), &read.layout), (file.images(), &file.layout), "{name}");
            // The CSV has representations of length 1, from which encodings are made anew.
            let tolerance = if format == Format::Csv { 1e-7 } else { 0.0 };
            for (a, b) in read.values().iter().zip(file.values()) {
                assert!((a - b).abs() <= tolerance, "{name}: {a} for {b}");
            }
            let model = (format != Format::Csv).then_some("central 1f");
            assert_eq!(read.model.as_deref(), model, "{name}");
            assert_eq!(read.get(&id("10")).unwrap().len(), 20);
            assert!(read.get(&id("11")).is_none());
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (name, format) in [("e.safetensors", Format::Safetensors), ("e.npz", Format::Npz)] {
            let path = folder.path().join(name);
            example().save(&path, format).unwrap();
            let whole = std::fs::read(&path).unwrap();
            for cut in [0, 9, whole.len() / 2, whole.len() - 3] {
                std::fs::write(&path, &whole[..cut]).unwrap();
                let error = format!("{:#}", EncodingFile::load(&path).unwrap_err());
                assert!(error.contains(name), "{cut}: {error}");
            }
        }
        let error = format!("{:#}", EncodingFile::load(Path::new("notes.txt")).unwrap_err());
        assert!(error.contains("notes.txt") && error.contains(".npz"), "{error}");
    }

    #[test]
    fn what_is_no_unit_vector_is_refused_by_image() {
        let build = |values: Vec<f32>| {
            EncodingFile::checked(None, Vec::new(), vec![id("1"), id("2")], 2, Rows::Owned(values))
        };
        assert!(build(vec![0.6, 0.8, 1.0, 0.0]).is_ok());
        for bad in [vec![0.6, 0.8, 0.7, 0.0], vec![0.6, 0.8, f32::NAN, 1.0]] {
            let error = build(bad).unwrap_err().to_string();
            assert!(error.contains("image 2"), "{error}");
        }
        let twice = vec![id("1"), id("1")];
        let rows = Rows::Owned(vec![0.6, 0.8, 1.0, 0.0]);
        assert!(
            EncodingFile::checked(None, Vec::new(), twice, 2, rows)
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }
}

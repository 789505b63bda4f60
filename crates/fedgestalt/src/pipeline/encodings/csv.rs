//! GestaltMatcher's `all_encodings.csv`.
//!
//! Semicolons between the cells, one row per image, member and view (12 for the ensemble of three), and the header
//! `img_name;model;flip;gray;class_conf;representations` (`predict_ensemble.py` of GestaltMatcher-Arc):
//!
//! - `img_name` is the aligned face's file, `123_aligned.jpg` or `123_rot_aligned.jpg`; the image id stands before that;
//! - `model` is `m0`, `m1`, `m2`; `flip` and `gray` are 0 or 1, the latter changing faster;
//! - `class_conf` is a list of the classifier's scores (nothing of a detector), `[0]` for a network without one, as it is
//!   written here: an evaluation reads representations only;
//! - `representations` is a list of length 1 in the Euclidean sense.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use domain::{Encoding, ImageId};
use rayon::prelude::*;

use super::{EncodingFile, Rows, Slot};
use crate::store::atomic::{self, Access};
use crate::store::mapped::Mapped;

const COLUMNS: [&str; 6] = ["img_name", "model", "flip", "gray", "class_conf", "representations"];

/// Images whose rows are put into text together.
const CHUNK: usize = 64;

pub(super) fn save(file: &EncodingFile, path: &Path) -> Result<()> {
    ensure!(
        !file.layout.is_empty(),
        "the encodings do not say which members and views they are from; run `encode` again"
    );
    if let Some(image) = file.images.iter().find(|image| image.as_str().contains([';', '"'])) {
        bail!("image {image} has a semicolon or a quotation mark in its id; write safetensors or npz");
    }
    let mut starts = Vec::with_capacity(file.layout.len());
    let mut dim = 0;
    for slot in &file.layout {
        starts.push(dim);
        dim += slot.len;
    }
    let mut order: Vec<usize> = (0..file.layout.len()).collect();
    order.sort_by_key(|&at| {
        let slot = &file.layout[at];
        (model_order(&slot.model), slot.flip, slot.gray)
    });
    // An encoding is the representations by the root of their number.
    let scale = (file.layout.len() as f64).sqrt();
    let rows: Vec<(&ImageId, &[f32])> =
        file.images.iter().zip(file.values().chunks_exact(file.dim)).collect();
    let text = |chunk: &[(&ImageId, &[f32])]| {
        let mut text = String::new();
        for (image, row) in chunk {
            for &at in &order {
                let Slot { model, flip, gray, len } = &file.layout[at];
                let (flip, gray) = (u8::from(*flip), u8::from(*gray));
                // Writing to a String cannot fail.
                let _ = write!(text, "{image}_aligned.jpg;{model};{flip};{gray};[0];[");
                for (i, &value) in row[starts[at]..starts[at] + len].iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    let _ = write!(text, "{comma}{}", (f64::from(value) * scale) as f32);
                }
                text.push_str("]\n");
            }
        }
        text
    };
    Ok(atomic::write_with(path, Access::Private, |out| {
        writeln!(out, "{}", COLUMNS.join(";"))?;
        for wave in rows.chunks(CHUNK * rayon::current_num_threads()) {
            for text in wave.par_chunks(CHUNK).map(text).collect::<Vec<_>>() {
                out.write_all(text.as_bytes())?;
            }
        }
        Ok(())
    })?)
}

/// `m2` before `m10`.
fn model_order(model: &str) -> (usize, &str) {
    (model.len(), model)
}

/// One row of the file.
struct Row {
    line: usize,
    image: ImageId,
    slot: Slot,
    values: Vec<f32>,
}

pub(super) fn load(path: &Path) -> Result<EncodingFile> {
    let bytes = Mapped::open(path)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut lines = bytes.split(|&byte| byte == b'\n').map(|line| line.trim_ascii_end()).enumerate();
    let (_, header) = lines.next().context("it is empty")?;
    let header: Vec<&[u8]> = header.split(|&byte| byte == b';').map(<[u8]>::trim_ascii).collect();
    let places = COLUMNS.map(|name| header.iter().position(|cell| *cell == name.as_bytes()));
    let [Some(image), Some(model), Some(flip), Some(gray), _, Some(representations)] = places else {
        bail!("line 1: the header is not {}", COLUMNS.join(";"));
    };
    let wanted = [image, model, flip, gray, representations];
    let lines: Vec<(usize, &[u8])> = lines.filter(|(_, line)| !line.is_empty()).collect();
    let rows = lines
        .into_par_iter()
        .map(|(at, line)| {
            parse(line, header.len(), wanted, at + 1).with_context(|| format!("line {}", at + 1))
        })
        .collect::<Result<Vec<Row>>>()?;
    assemble(rows)
}

fn parse(line: &[u8], width: usize, wanted: [usize; 5], number: usize) -> Result<Row> {
    let cells: Vec<&[u8]> = line.split(|&byte| byte == b';').collect();
    ensure!(cells.len() == width, "{} cells instead of {width}", cells.len());
    let text = |at: usize| std::str::from_utf8(cells[wanted[at]].trim_ascii()).context("it is not UTF-8");
    let bit = |at: usize, name: &str| match text(at)? {
        "0" | "False" => Ok(false),
        "1" | "True" => Ok(true),
        _ => bail!("{name} is neither 0 nor 1"),
    };
    let (flip, gray) = (bit(2, "flip")?, bit(3, "gray")?);
    let list = text(4)?.strip_prefix('[').and_then(|list| list.strip_suffix(']'));
    let values = list
        .context("representations is not a list in [ ]")?
        .split(',')
        .map(|value| value.trim().parse().ok().filter(|value: &f32| value.is_finite()))
        .collect::<Option<Vec<f32>>>()
        .context("representations holds something that is no finite number")?;
    let slot = Slot { model: text(1)?.to_owned(), flip, gray, len: values.len() };
    Ok(Row { line: number, image: image_id(text(0)?)?, slot, values })
}

/// The image that an aligned face is of.
fn image_id(file: &str) -> Result<ImageId> {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let stem = stem.strip_suffix("_aligned").unwrap_or(stem);
    Ok(ImageId::new(stem.strip_suffix("_rot").unwrap_or(stem))?)
}

/// Lays the representations of every image together: members in order, their views as [`vision::views`] orders them.
fn assemble(rows: Vec<Row>) -> Result<EncodingFile> {
    type Key = (usize, String, bool, bool);
    let key = |slot: &Slot| -> Key { (slot.model.len(), slot.model.clone(), slot.gray, slot.flip) };
    let mut images: BTreeMap<ImageId, BTreeMap<Key, Row>> = BTreeMap::new();
    for row in rows {
        let (line, image) = (row.line, row.image.clone());
        if let Some(before) = images.entry(image).or_default().insert(key(&row.slot), row) {
            bail!(
                "line {line}: image {} has this member and view in line {} already",
                before.image,
                before.line
            );
        }
    }
    let (first, slots) = images.first_key_value().context("it has no rows")?;
    let first = first.clone();
    let layout: Vec<Slot> = slots.values().map(|row| row.slot.clone()).collect();
    let mut values = Vec::with_capacity(images.len() * layout.iter().map(|slot| slot.len).sum::<usize>());
    for (image, rows) in &images {
        if !rows.values().map(|row| &row.slot).eq(&layout) {
            bail!(
                "image {image} has other members, views or lengths ({} rows) than image {first} ({} rows); \
                 encode all images with the same models",
                rows.len(),
                layout.len()
            );
        }
        let parts: Vec<&[f32]> = rows.values().map(|row| row.values.as_slice()).collect();
        let encoding = Encoding::from_representations(&parts).with_context(|| format!("image {image}"))?;
        values.extend_from_slice(encoding.as_slice());
    }
    let dim = values.len() / images.len();
    EncodingFile::checked(None, layout, images.into_keys().collect(), dim, Rows::Owned(values))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEADER: &str = "img_name;model;flip;gray;class_conf;representations\n";

    fn read(rows: &str) -> Result<EncodingFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all_encodings.csv");
        std::fs::write(&path, format!("{HEADER}{rows}")).unwrap();
        EncodingFile::load(&path)
    }

    #[test]
    fn the_rows_may_have_any_order_and_the_names_either_form() {
        let file = read(
            "7_rot_aligned.jpg;m1;0;0;[0];[0.0, 2.0]\r\n7_rot_aligned.jpg;m0;0;0;[1.5, -2];[3.0, 4.0, 0.0]\n\
             12_aligned.jpg;m0;0;0;[0];[0.0, 0.0, -1e-3]\n12_aligned.jpg;m1;0;0;[0];[-1, 0]\n\n",
        )
        .unwrap();
        let ids: Vec<&str> = file.images.iter().map(ImageId::as_str).collect();
        assert_eq!(ids, ["7", "12"]);
        let half = 0.5f64.sqrt();
        for (row, expected) in [(0, [0.6, 0.8, 0.0, 0.0, 1.0]), (1, [0.0, 0.0, -1.0, -1.0, 0.0])] {
            for (value, expected) in file.values()[row * 5..].iter().zip(expected) {
                assert!((f64::from(*value) - expected * half).abs() < 1e-7, "{value} for {expected}");
            }
        }
        assert_eq!(file.model, None, "the format does not say it");
    }

    #[test]
    fn faults_name_the_line() {
        let good = "7_aligned.jpg;m0;0;0;[0];[1.0]\n";
        let cases = [
            ("7_aligned.jpg;m0;0;[0];[1.0]\n", "line 3: 5 cells instead of 6"),
            ("8_aligned.jpg;m0;0;2;[0];[1.0]\n", "line 3: gray is neither"),
            ("8_aligned.jpg;m0;0;0;[0];1.0\n", "line 3: representations is not a list"),
            ("8_aligned.jpg;m0;0;0;[0];[1.0, NaN]\n", "line 3: representations holds"),
            ("../8.jpg;m0;0;0;[0];[1.0]\n", "line 3: image id"),
            (good, "line 3: image 7 has this member and view in line 2 already"),
            ("8_aligned.jpg;m0;1;0;[0];[1.0]\n", "image 8 has other members"),
            ("8_aligned.jpg;m0;0;0;[0];[1.0, 2.0]\n", "image 8 has other members"),
            ("8_aligned.jpg;m0;0;0;[0];[0.0]\n", "image 8"),
        ];
        for (row, expected) in cases {
            let error = format!("{:#}", read(&format!("{good}{row}")).unwrap_err());
            assert!(error.contains(expected) && error.contains("all_encodings.csv"), "{error}");
        }
        assert!(format!("{:#}", read("").unwrap_err()).contains("no rows"));
    }
}

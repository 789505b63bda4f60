//! NumPy's npz: `numpy.load("encodings.npz")`.
//!
//! | array | type | shape | |
//! |---|---|---|---|
//! | `image_ids` | `<U` (integers are read too) | images | |
//! | `encodings` | `<f4` (`<f8` is read too) | images x values | rows of length 1; `1 - a @ b` is the mean cosine distance |
//! | `model` | `<U` | - | what computed them; optional |
//! | `slot_model`, `slot_flip`, `slot_gray`, `slot_len` | `<U`, `\|u1`, `\|u1`, `<i8` | slots | what a row is laid together from; optional |

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use domain::ImageId;
use npyz::{AutoSerialize, DType, Deserialize, NpyFile, Order, Serialize, TypeChar, WriterBuilder, npz};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{EncodingFile, Rows, Slot};
use crate::store::atomic::{self, Access};

pub(super) fn save(file: &EncodingFile, path: &Path) -> Result<()> {
    Ok(atomic::write_with(path, Access::Private, |out| {
        let mut zip = ZipWriter::new_stream(out);
        let images = [file.images.len() as u64];
        let slots = [file.layout.len() as u64];
        let column = |of: fn(&Slot) -> u8| file.layout.iter().map(of).collect::<Vec<_>>();
        strings(&mut zip, "image_ids", &images, file.images.iter().map(ImageId::as_str))?;
        array(&mut zip, "encodings", &[images[0], file.dim as u64], f32::default_dtype(), file.values())?;
        if let Some(model) = &file.model {
            strings(&mut zip, "model", &[], std::iter::once(model.as_str()))?;
        }
        if !file.layout.is_empty() {
            strings(&mut zip, "slot_model", &slots, file.layout.iter().map(|slot| slot.model.as_str()))?;
            let bits = [("slot_flip", column(|s| s.flip.into())), ("slot_gray", column(|s| s.gray.into()))];
            for (name, values) in &bits {
                array(&mut zip, name, &slots, u8::default_dtype(), values)?;
            }
            let lengths: Vec<i64> = file.layout.iter().map(|slot| slot.len as i64).collect();
            array(&mut zip, "slot_len", &slots, i64::default_dtype(), &lengths)?;
        }
        zip.finish().map_err(io::Error::other)?;
        Ok(())
    })?)
}

fn array<T: Serialize + Clone>(
    zip: &mut ZipWriter<impl Write + io::Seek>,
    name: &str,
    shape: &[u64],
    dtype: DType,
    values: &[T],
) -> io::Result<()> {
    // A fixed date: the same encodings give the same bytes.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(size_of_val(values) as u64 >= u64::from(u32::MAX) / 2);
    zip.start_file(npz::file_name_from_array_name(name), options).map_err(io::Error::other)?;
    let mut writer = npyz::WriteOptions::new().dtype(dtype).shape(shape).writer(zip).begin_nd()?;
    writer.extend(values)?;
    writer.finish()
}

fn strings<'a>(
    zip: &mut ZipWriter<impl Write + io::Seek>,
    name: &str,
    shape: &[u64],
    values: impl Iterator<Item = &'a str>,
) -> io::Result<()> {
    let values: Vec<String> = values.map(str::to_owned).collect();
    let longest = values.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
    let dtype = format!("<U{longest}").parse().map_err(io::Error::other)?;
    array(zip, name, shape, DType::new_scalar(dtype), &values)
}

pub(super) fn load(path: &Path) -> Result<EncodingFile> {
    let file = File::open(path).context("cannot open it")?;
    let mut zip = ZipArchive::new(io::BufReader::new(file)).context("it is not an npz archive")?;
    let (shape, values) = matrix(&mut zip, "encodings")?;
    let &[rows, dim] = &shape[..] else { bail!("its array encodings is not a matrix") };
    let images = image_ids(&mut zip)?;
    ensure!(
        rows == images.len() as u64,
        "its array encodings has {rows} rows for {} image_ids",
        images.len()
    );
    let model = texts(&mut zip, "model")?.and_then(|names| names.into_iter().next());
    let mut layout = Vec::new();
    if let Some(models) = texts(&mut zip, "slot_model")? {
        let flip: Vec<u8> = whole(&mut zip, "slot_flip")?;
        let gray: Vec<u8> = whole(&mut zip, "slot_gray")?;
        let len: Vec<i64> = whole(&mut zip, "slot_len")?;
        let count = models.len();
        ensure!([flip.len(), gray.len(), len.len()] == [count; 3], "its slot_ arrays differ in length");
        for (at, model) in models.into_iter().enumerate() {
            let len = usize::try_from(len[at]).context("a negative slot_len")?;
            layout.push(Slot { model, flip: flip[at] != 0, gray: gray[at] != 0, len });
        }
    }
    EncodingFile::checked(model, layout, images, usize::try_from(dim)?, Rows::Owned(values))
}

type Zip = ZipArchive<io::BufReader<File>>;

/// Opens an array; `None` if the archive has none of this name. What its header promises must be in the archive, so
/// that a damaged header does not ask for memory without end.
fn open<'a>(zip: &'a mut Zip, name: &str) -> Result<Option<NpyFile<impl Read + 'a>>> {
    let entry = match zip.by_name(&npz::file_name_from_array_name(name)) {
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        entry => entry.with_context(|| format!("its array {name} cannot be read"))?,
    };
    let size = entry.size();
    let array = NpyFile::new(entry).with_context(|| format!("its array {name} is damaged"))?;
    let bytes = array.shape().iter().try_fold(item_bytes(&array.dtype())?, |a, &b| a.checked_mul(b));
    ensure!(bytes.is_some_and(|bytes| bytes <= size), "its array {name} is cut short");
    ensure!(
        array.order() == Order::C || array.shape().len() < 2,
        "its array {name} is in Fortran order; save numpy.ascontiguousarray of it"
    );
    Ok(Some(array))
}

fn item_bytes(dtype: &DType) -> Result<u64> {
    match dtype {
        DType::Plain(text) => {
            text.num_bytes().map(|bytes| bytes as u64).context("an array has items without a size")
        }
        _ => bail!("an array has fields; plain arrays are read"),
    }
}

fn needed<'a>(zip: &'a mut Zip, name: &str) -> Result<NpyFile<impl Read + 'a>> {
    open(zip, name)?.with_context(|| format!("it has no array {name}"))
}

fn whole<T: Deserialize>(zip: &mut Zip, name: &str) -> Result<Vec<T>> {
    let array = needed(zip, name)?;
    array.into_vec().with_context(|| format!("its array {name} cannot be read"))
}

fn kind(dtype: &DType) -> Option<(TypeChar, u64)> {
    match dtype {
        DType::Plain(text) => Some((text.type_char(), text.size_field())),
        _ => None,
    }
}

fn matrix(zip: &mut Zip, name: &str) -> Result<(Vec<u64>, Vec<f32>)> {
    let array = needed(zip, name)?;
    let shape = array.shape().to_vec();
    let failed = || format!("its array {name} cannot be read as floats");
    let values = match kind(&array.dtype()) {
        Some((TypeChar::Float, 8)) => {
            array.into_vec::<f64>().with_context(failed)?.into_iter().map(|v| v as f32).collect()
        }
        _ => array.into_vec::<f32>().with_context(failed)?,
    };
    Ok((shape, values))
}

fn texts(zip: &mut Zip, name: &str) -> Result<Option<Vec<String>>> {
    let Some(array) = open(zip, name)? else { return Ok(None) };
    Ok(Some(array.into_vec().with_context(|| format!("its array {name} cannot be read as text"))?))
}

fn image_ids(zip: &mut Zip) -> Result<Vec<ImageId>> {
    const NAME: &str = "image_ids";
    let array = needed(zip, NAME)?;
    let names: Vec<String> = match kind(&array.dtype()) {
        Some((TypeChar::Int, 8)) => array.into_vec::<i64>()?.into_iter().map(|id| id.to_string()).collect(),
        _ => array
            .into_vec()
            .with_context(|| format!("its array {NAME} holds neither text nor 64-bit integers"))?,
    };
    names.iter().map(|name| Ok(ImageId::new(name)?)).collect()
}

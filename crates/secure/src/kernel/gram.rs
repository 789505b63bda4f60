//! Inner products of many vectors with many.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::{Error, ErrorKind, Result};

/// Probes and gallery vectors multiplied together: fixed, so that results do not depend on the
/// number of threads.
const PROBES: usize = 256;
const GALLERY: usize = 512;

/// Inner products of every probe with every gallery vector: `probes` is p x `width`, `gallery`
/// g x `width`, the result p x g, all row after row.
///
/// # Errors
/// `Length` if a length is no multiple of `width`, or `width` is 0.
pub fn gram(probes: &[f32], gallery: &[f32], width: usize) -> Result<Vec<f32>> {
    for (what, values) in [("probes", probes), ("gallery", gallery)] {
        if width == 0 || values.len() % width != 0 {
            return Err(Error::new(
                ErrorKind::Length,
                format!("{} values of {what} are not whole vectors of {width} dimensions", values.len()),
            ));
        }
    }
    let across = gallery.len() / width;
    let mut out = vec![0.0; probes.len() / width * across];
    if out.is_empty() {
        return Ok(out);
    }
    for (probes, out) in probes.chunks(PROBES * width).zip(out.chunks_mut(PROBES * across)) {
        let tiles: Vec<Vec<f32>> =
            gallery.par_chunks(GALLERY * width).map(|gallery| tile(probes, gallery, width)).collect();
        for (place, tile) in tiles.iter().enumerate() {
            let columns = GALLERY.min(across - place * GALLERY);
            for (row, values) in out.chunks_exact_mut(across).zip(tile.chunks_exact(columns)) {
                row[place * GALLERY..][..columns].copy_from_slice(values);
            }
        }
    }
    Ok(out)
}

fn tile(probes: &[f32], gallery: &[f32], width: usize) -> Vec<f32> {
    let (rows, columns) = (probes.len() / width, gallery.len() / width);
    let mut out = vec![0.0; rows * columns];
    matmul(
        MatMut::from_row_major_slice_mut(&mut out, rows, columns),
        Accum::Replace,
        MatRef::from_row_major_slice(probes, rows, width),
        MatRef::from_row_major_slice(gallery, columns, width).transpose(),
        1.0,
        Par::Seq,
    );
    out
}

//! What gallery images have to each other, kept up to date as they come and go, so that no question waits for it.
//!
//! Rankings are normalised by what gallery images of other syndromes have to a syndrome's nearest image. All inner products of
//! a gallery take seconds at the paper's size, and a change of one image changes few of them. So the images are put
//! into *groups* of the same token and galleries, and of every image what it has to the nearest of each group is kept: an image
//! that comes is multiplied once with all others, and one that goes leaves its group to be compared anew. Any union of
//! galleries is a union of groups.

use std::collections::{BTreeMap, BTreeSet};

use domain::Normalisation;
use domain::encoding::vector_products;
use domain::normalise::{Columns, Normaliser, spreads_of_groups};
use rayon::prelude::*;

use super::Entry;

/// Images compared with the others at a time: bounds the memory for inner products.
const BAND: usize = 256;

type Name = ([u8; 16], u32);

/// What every image has to every group.
#[derive(Default)]
pub(super) struct Comparisons {
    /// Column and number of images of each group that was ever there.
    groups: BTreeMap<Name, (usize, usize)>,
    /// By place of the image, then by column; the least number where a group has no image.
    nearest: Vec<Vec<f32>>,
}

fn name(entry: &Entry) -> Name {
    (entry.token, entry.galleries)
}

impl Comparisons {
    fn count(&mut self, entry: &Entry, change: isize) -> usize {
        let next = self.groups.len();
        let (column, images) = self.groups.entry(name(entry)).or_insert((next, 0));
        *images = images.saturating_add_signed(change);
        let column = *column;
        if column == next {
            self.nearest.iter_mut().for_each(|row| row.push(f32::NEG_INFINITY));
        }
        column
    }

    /// An image is about to leave its place, which the last one takes over.
    pub(super) fn leaves(&mut self, entry: &Entry, place: usize) {
        self.count(entry, -1);
        self.nearest.swap_remove(place);
    }

    /// An image is about to be replaced in its place.
    pub(super) fn changes(&mut self, entry: &Entry) {
        self.count(entry, -1);
    }

    /// Compares the images at these places, which are new, with all that are there.
    pub(super) fn came(&mut self, places: &[usize], entries: &[Entry], vectors: &[f32], width: usize) {
        let columns = self.groups.len();
        self.nearest.resize_with(entries.len(), || vec![f32::NEG_INFINITY; columns]);
        for &place in places {
            self.count(&entries[place], 1);
        }
        let columns = self.columns(entries);
        for &place in places {
            self.nearest[place].fill(f32::NEG_INFINITY);
        }
        for (places, products) in products(places, vectors, width) {
            for (&place, row) in places.iter().zip(products.chunks_exact(entries.len())) {
                for (&column, &product) in columns.iter().zip(row) {
                    let best = &mut self.nearest[place][column];
                    *best = best.max(product);
                }
            }
            self.nearer(places, &products, &columns);
        }
    }

    /// Compares groups that have lost an image anew with all images.
    pub(super) fn lost(&mut self, groups: &BTreeSet<Name>, entries: &[Entry], vectors: &[f32], width: usize) {
        if groups.is_empty() {
            return;
        }
        let columns = self.columns(entries);
        for &(column, _) in groups.iter().filter_map(|group| self.groups.get(group)) {
            self.nearest.iter_mut().for_each(|row| row[column] = f32::NEG_INFINITY);
        }
        let left: Vec<usize> =
            (0..entries.len()).filter(|&place| groups.contains(&name(&entries[place]))).collect();
        for (places, products) in products(&left, vectors, width) {
            self.nearer(places, &products, &columns);
        }
    }

    /// What every image has to the images at these places counts for their groups.
    fn nearer(&mut self, places: &[usize], products: &[f32], columns: &[usize]) {
        let images = columns.len();
        self.nearest.par_iter_mut().enumerate().for_each(|(other, nearest)| {
            for (at, &place) in places.iter().enumerate() {
                let best = &mut nearest[columns[place]];
                *best = best.max(products[at * images + other]);
            }
        });
    }

    fn columns(&self, entries: &[Entry]) -> Vec<usize> {
        entries.iter().map(|entry| self.groups[&name(entry)].0).collect()
    }

    /// What a gallery of these images, with numbers that stand for their tokens, is normalised by. In the order given, so that
    /// sums do not depend on who was first to send.
    pub(super) fn normaliser(
        &self,
        normalisation: Normalisation,
        galleries: u32,
        entries: &[Entry],
        places: &[usize],
        labels: &[u32],
    ) -> Option<Normaliser> {
        let tokens: BTreeMap<[u8; 16], u32> =
            places.iter().zip(labels).map(|(&place, &label)| (entries[place].token, label)).collect();
        let here = |((_, of), (_, images)): &(&Name, &(usize, usize))| of & galleries != 0 && *images > 0;
        let groups: Columns = self
            .groups
            .iter()
            .filter(here)
            .filter_map(|((token, _), &(column, _))| Some((column, *tokens.get(token)?)))
            .collect();
        let rows: Vec<&[f32]> = places.iter().map(|&place| &self.nearest[place][..]).collect();
        Normaliser::new(normalisation, &spreads_of_groups(labels, &groups, &rows))
    }
}

/// Inner products of the images at these places with all, so many at a time. No product depends on what else is there: a
/// gallery is normalised alike however it came to be what it is.
fn products<'a>(
    places: &'a [usize],
    vectors: &'a [f32],
    width: usize,
) -> impl Iterator<Item = (&'a [usize], Vec<f32>)> {
    let all: Vec<&[f32]> = vectors.chunks_exact(width).collect();
    places.chunks(BAND).map(move |places| {
        let some: Vec<&[f32]> = places.iter().map(|&place| all[place]).collect();
        (places, vector_products(&some, &all))
    })
}

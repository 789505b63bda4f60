//! What gallery images have to each other, kept up to date as they come and go, so that no question waits for it.
//!
//! Rankings are normalised by what gallery images of other syndromes have to a syndrome's images. All inner products of a
//! gallery take seconds at the paper's size, and a change of one image changes few of them. So the images are put into
//! *groups* of the same token and galleries, and of every image what it has to each group, pooled, is kept: an image that
//! comes is multiplied once with all others, and one that goes leaves its group to be compared anew. Any union of galleries is
//! a union of groups.

use std::collections::{BTreeMap, BTreeSet};

use domain::Scoring;
use domain::encoding::vector_products;
use domain::normalise::{Group, Normaliser, spreads_of_groups};
use domain::pooling::{Pool, Pooling};
use rayon::prelude::*;

use super::Entry;
use crate::plan::KernelPlan;

/// Images compared with the others at a time: bounds the memory for inner products.
const BAND: usize = 256;

type Name = ([u8; 16], u32);

/// What every image has to every group.
#[derive(Default)]
pub(super) struct Comparisons {
    /// Column and number of images of each group that was ever there.
    groups: BTreeMap<Name, (usize, usize)>,
    /// By place of the image, then by column.
    pools: Vec<Vec<Pool>>,
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
            self.pools.iter_mut().for_each(|row| row.push(Pool::default()));
        }
        column
    }

    /// An image is about to leave its place, which the last one takes over.
    pub(super) fn leaves(&mut self, entry: &Entry, place: usize) {
        self.count(entry, -1);
        self.pools.swap_remove(place);
    }

    /// An image is about to be replaced in its place.
    pub(super) fn changes(&mut self, entry: &Entry) {
        self.count(entry, -1);
    }

    /// Compares the images at these places, which are new, with all that are there.
    pub(super) fn came(&mut self, kernel: &KernelPlan, places: &[usize], entries: &[Entry], vectors: &[f32]) {
        let columns = self.groups.len();
        self.pools.resize_with(entries.len(), || vec![Pool::default(); columns]);
        for &place in places {
            self.count(&entries[place], 1);
        }
        let columns = self.columns(entries);
        for &place in places {
            self.pools[place].fill(Pool::default());
        }
        let new: BTreeSet<usize> = places.iter().copied().collect();
        let pooling = kernel.pooling;
        for (places, products) in products(places, vectors, kernel.width) {
            let own = places.iter().zip(products.chunks_exact(entries.len()));
            for (&place, row) in own {
                for (&column, &product) in columns.iter().zip(row) {
                    let pool = &mut self.pools[place][column];
                    *pool = pooling.join(*pool, pooling.of(product));
                }
            }
            // What is new has all others already.
            self.join(pooling, places, &products, &columns, |other| !new.contains(&other));
        }
    }

    /// Compares groups that have lost an image anew with all images.
    pub(super) fn lost(
        &mut self,
        kernel: &KernelPlan,
        groups: &BTreeSet<Name>,
        entries: &[Entry],
        vectors: &[f32],
    ) {
        if groups.is_empty() {
            return;
        }
        let columns = self.columns(entries);
        for &(column, _) in groups.iter().filter_map(|group| self.groups.get(group)) {
            self.pools.iter_mut().for_each(|row| row[column] = Pool::default());
        }
        let left: Vec<usize> =
            (0..entries.len()).filter(|&place| groups.contains(&name(&entries[place]))).collect();
        for (places, products) in products(&left, vectors, kernel.width) {
            self.join(kernel.pooling, places, &products, &columns, |_| true);
        }
    }

    /// What the images that are `meant` have to those at these places joins what they have to their groups.
    fn join(
        &mut self,
        pooling: Pooling,
        places: &[usize],
        products: &[f32],
        columns: &[usize],
        meant: impl Fn(usize) -> bool + Sync,
    ) {
        let images = columns.len();
        self.pools.par_iter_mut().enumerate().filter(|(other, _)| meant(*other)).for_each(
            |(other, pools)| {
                for (at, &place) in places.iter().enumerate() {
                    let pool = &mut pools[columns[place]];
                    *pool = pooling.join(*pool, pooling.of(products[at * images + other]));
                }
            },
        );
    }

    fn columns(&self, entries: &[Entry]) -> Vec<usize> {
        entries.iter().map(|entry| self.groups[&name(entry)].0).collect()
    }

    /// What a gallery of these images, with numbers that stand for their tokens, is normalised by. In the order given, so that
    /// sums do not depend on who was first to send.
    pub(super) fn normaliser(
        &self,
        scoring: Scoring,
        galleries: u32,
        entries: &[Entry],
        places: &[usize],
        labels: &[u32],
    ) -> Option<Normaliser> {
        let tokens: BTreeMap<[u8; 16], u32> =
            places.iter().zip(labels).map(|(&place, &label)| (entries[place].token, label)).collect();
        let here = |((_, of), (_, images)): &(&Name, &(usize, usize))| of & galleries != 0 && *images > 0;
        let group = |((token, _), &(column, images)): (&Name, &(usize, usize))| {
            Some(Group { column, label: *tokens.get(token)?, images })
        };
        let groups: Vec<Group> = self.groups.iter().filter(here).filter_map(group).collect();
        let rows: Vec<&[Pool]> = places.iter().map(|&place| &self.pools[place][..]).collect();
        Normaliser::new(scoring.normalisation, &spreads_of_groups(scoring.pooling, labels, &groups, &rows))
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

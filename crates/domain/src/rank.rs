//! Ranking labels by their nearest gallery image, or by scores.
//!
//! The order is that of a stable sort of the gallery by falling similarity: where two gallery images are equally near,
//! the earlier one comes first. Labels with equal scores are ordered like that by their nearest images. Similarities are compared as given, not as distances, since `1 - s` in f32 would make
//! ties of different values. NaN counts as farthest.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// A label at its place in a ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked<L> {
    /// What is ranked.
    pub label: L,
    /// Its nearest image, as an index into the gallery.
    pub gallery_index: usize,
    /// `1 - similarity` of that image.
    pub distance: f32,
}

/// Whether gallery image `a` stands before `b` in the ranking.
fn before(similarities: &[f32], a: usize, b: usize) -> bool {
    let (x, y) = (value(similarities[a]), value(similarities[b]));
    x > y || (x == y && a < b)
}

/// A similarity as it is compared.
pub(crate) fn value(similarity: f32) -> f32 {
    if similarity.is_nan() { f32::NEG_INFINITY } else { similarity }
}

/// Ranks the labels of a gallery for one probe: one entry per label, nearest first.
///
/// # Panics
///
/// When `similarities` and `labels` differ in length.
pub fn rank<L: Copy + Eq + Hash>(similarities: &[f32], labels: &[L]) -> Vec<Ranked<L>> {
    ranked(similarities, labels, |_, _| Ordering::Equal)
}

/// As [`rank`], in the order of falling scores, one per label from 0 on ([`crate::Scoring::scores`]).
///
/// # Panics
///
/// As [`rank`], and when a label has no score.
pub fn rank_by(scores: &[f64], similarities: &[f32], labels: &[u32]) -> Vec<Ranked<u32>> {
    ranked(similarities, labels, |a, b| scores[*b as usize].total_cmp(&scores[*a as usize]))
}

/// Labels in an order, and where that makes no difference by their nearest images.
fn ranked<L: Copy + Eq + Hash>(
    similarities: &[f32],
    labels: &[L],
    order: impl Fn(&L, &L) -> Ordering,
) -> Vec<Ranked<L>> {
    assert_eq!(similarities.len(), labels.len(), "one similarity per gallery image");
    let mut nearest: HashMap<L, usize> = HashMap::new();
    for (index, &label) in labels.iter().enumerate() {
        let best = nearest.entry(label).or_insert(index);
        if before(similarities, index, *best) {
            *best = index;
        }
    }
    let mut places: Vec<usize> = nearest.into_values().collect();
    // Keys are unique, so the unstable sort is deterministic although the map's order is not.
    places.sort_unstable_by(|&a, &b| {
        order(&labels[a], &labels[b]).then(if before(similarities, a, b) {
            Ordering::Less
        } else {
            Ordering::Greater
        })
    });
    places
        .into_iter()
        .map(|index| Ranked {
            label: labels[index],
            gallery_index: index,
            distance: 1.0 - similarities[index],
        })
        .collect()
}

/// The 0-based place of `wanted` in the ranking, or `None` when the gallery does not have it. Equal to its place in
/// [`rank`], without sorting.
///
/// # Panics
///
/// When `similarities` and `labels` differ in length.
pub fn position<L: Copy + Eq + Hash>(similarities: &[f32], labels: &[L], wanted: &L) -> Option<usize> {
    assert_eq!(similarities.len(), labels.len(), "one similarity per gallery image");
    let nearest = nearest_of(similarities, labels, wanted)?;
    let ahead: HashSet<L> =
        (0..labels.len()).filter(|&i| before(similarities, i, nearest)).map(|i| labels[i]).collect();
    Some(ahead.len())
}

fn nearest_of<L: Eq>(similarities: &[f32], labels: &[L], wanted: &L) -> Option<usize> {
    (0..labels.len())
        .filter(|&i| labels[i] == *wanted)
        .reduce(|best, i| if before(similarities, i, best) { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_farthest_and_zeros_are_equal() {
        let order = |similarities: &[f32]| -> Vec<usize> {
            rank(similarities, &[0, 1, 2, 3]).iter().map(|entry| entry.label).collect()
        };
        assert_eq!(order(&[f32::NAN, -1.0, -f32::NAN, 0.5]), [3, 1, 0, 2]);
        assert_eq!(order(&[-0.0, 0.0, 0.1, 0.0]), [2, 0, 1, 3]);
    }

    #[test]
    fn values_that_make_equal_distances_keep_their_order() {
        let (near, far) = (1e-9f32, 0.0);
        assert_eq!(1.0 - near, 1.0 - far);
        assert_eq!(rank(&[far, near], &["a", "b"])[0].label, "b");
    }

    #[test]
    fn scores_come_before_similarities_and_equal_ones_are_told_apart_by_them() {
        let (similarities, labels) = ([0.9, 0.2, 0.3, 0.4], [0, 1, 2, 1]);
        let order = |scores: &[f64]| -> Vec<(u32, usize)> {
            let ranked = rank_by(scores, &similarities, &labels);
            ranked.iter().map(|entry| (entry.label, entry.gallery_index)).collect()
        };
        assert_eq!(order(&[0.1, 0.5, 0.7]), [(2, 2), (1, 3), (0, 0)]);
        assert_eq!(order(&[0.5, 0.5, 0.5]), [(0, 0), (1, 3), (2, 2)]);
        assert_eq!(order(&[f64::NEG_INFINITY, 0.5, -1.0]), [(1, 3), (2, 2), (0, 0)]);
    }

    #[test]
    fn an_empty_gallery_ranks_nothing() {
        assert!(rank::<u8>(&[], &[]).is_empty());
        assert_eq!(position(&[], &[], &1), None);
    }
}

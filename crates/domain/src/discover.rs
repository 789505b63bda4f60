//! Looking for what nobody has named yet: distances between images, patients and syndromes, mutual ranks, clusters, and
//! whether a group of patients is more alike than chance.

use kodama::Method;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::encoding::inner_products;
use crate::random::Random;
use crate::{Encoding, Error, ErrorKind, Result};

/// A symmetric matrix of distances with a zero diagonal, row-major.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Square", into = "Square")]
pub struct Distances {
    len: usize,
    values: Vec<f64>,
}

/// [`Distances`] as they are serialised: unchecked.
#[derive(Serialize, Deserialize)]
struct Square {
    len: usize,
    values: Vec<f64>,
}

impl TryFrom<Square> for Distances {
    type Error = Error;

    fn try_from(square: Square) -> Result<Self> {
        Self::new(square.len, square.values)
    }
}

impl From<Distances> for Square {
    fn from(distances: Distances) -> Self {
        Self { len: distances.len, values: distances.values }
    }
}

impl Distances {
    /// Takes a `len` x `len` matrix, row-major. Refused unless square, finite, not negative, symmetric and zero on the
    /// diagonal.
    pub fn new(len: usize, values: Vec<f64>) -> Result<Self> {
        if len.checked_mul(len) != Some(values.len()) {
            return Err(Error::new(
                ErrorKind::Length,
                format!("{} distances are not a {len} x {len} matrix", values.len()),
            ));
        }
        for row in 0..len {
            for column in 0..=row {
                let value = values[row * len + column];
                let good = value.is_finite() && value >= 0.0 && value == values[column * len + row];
                if !good || (row == column && value != 0.0) {
                    return Err(Error::new(
                        ErrorKind::InvalidArgument,
                        format!(
                            "the distance in row {row}, column {column} is negative, not finite or not symmetric"
                        ),
                    ));
                }
            }
        }
        Ok(Self { len, values })
    }

    fn from_pairs(len: usize, pair: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let mut values = vec![0.0; len * len];
        values.par_chunks_mut(len.max(1)).enumerate().for_each(|(row, out)| {
            for (column, value) in out.iter_mut().enumerate() {
                if row != column {
                    *value = pair(row.min(column), row.max(column));
                }
            }
        });
        Self { len, values }
    }

    /// Distances between images: `1 - similarity`, and no less than 0.
    ///
    /// # Panics
    ///
    /// When the encodings differ in length.
    pub fn between_images(encodings: &[&Encoding]) -> Self {
        let len = encodings.len();
        let products = inner_products(encodings, encodings);
        Self::from_pairs(len, |row, column| (1.0 - f64::from(products[row * len + column])).max(0.0))
    }

    /// Distances between groups of items (images of a patient, patients of a syndrome): the mean over all pairs of one
    /// item of each. `group_of` gives every item's group, 0..`groups`. Refused when an item's group is out of range,
    /// or a group is empty.
    pub fn between_groups(&self, group_of: &[usize], groups: usize) -> Result<Self> {
        let members = self.members(group_of, groups)?;
        Ok(Self::from_pairs(groups, |a, b| {
            let pairs = members[a].len() * members[b].len();
            members[a].iter().flat_map(|&i| members[b].iter().map(move |&j| self.get(i, j))).sum::<f64>()
                / pairs as f64
        }))
    }

    /// How close each group is in itself: the mean distance over its pairs of distinct items; `None` for a single
    /// item. Arguments and refusals as [`Distances::between_groups`].
    pub fn within_groups(&self, group_of: &[usize], groups: usize) -> Result<Vec<Option<f64>>> {
        Ok(self
            .members(group_of, groups)?
            .iter()
            .map(|items| (items.len() > 1).then(|| self.mean_pairwise(items)))
            .collect())
    }

    fn members(&self, group_of: &[usize], groups: usize) -> Result<Vec<Vec<usize>>> {
        if group_of.len() != self.len {
            return Err(Error::new(
                ErrorKind::Length,
                format!("{} groups given for {} items", group_of.len(), self.len),
            ));
        }
        let mut members = vec![Vec::new(); groups];
        for (item, &group) in group_of.iter().enumerate() {
            let Some(items) = members.get_mut(group) else {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("item {item} is in group {group} of {groups}"),
                ));
            };
            items.push(item);
        }
        match members.iter().position(Vec::is_empty) {
            Some(empty) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("group {empty} has no items; leave it out"),
            )),
            None => Ok(members),
        }
    }

    /// Items compared.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is compared.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One distance.
    ///
    /// # Panics
    ///
    /// When an index is out of range.
    pub fn get(&self, row: usize, column: usize) -> f64 {
        self.row(row)[column]
    }

    /// The distances of one item to all.
    ///
    /// # Panics
    ///
    /// When the index is out of range.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.len..(row + 1) * self.len]
    }

    /// All values, row-major.
    pub fn as_slice(&self) -> &[f64] {
        &self.values
    }

    /// Mutual ranks, row-major: in row `i`, column `j`, the place of `j` among all items by distance from `i`. Place 0
    /// is `i` itself; equally distant items keep their order. Not symmetric.
    pub fn ranks(&self) -> Vec<u32> {
        let mut ranks = vec![0u32; self.values.len()];
        ranks.par_chunks_mut(self.len.max(1)).enumerate().for_each(|(row, out)| {
            let distances = self.row(row);
            let mut order: Vec<usize> = (0..self.len).collect();
            order.sort_by(|&a, &b| (a != row).cmp(&(b != row)).then(distances[a].total_cmp(&distances[b])));
            for (place, item) in (0..).zip(order) {
                out[item] = place;
            }
        });
        ranks
    }

    /// The mean over all pairs of distinct items of a group; NaN for fewer than two.
    ///
    /// # Panics
    ///
    /// When an index is out of range.
    pub fn mean_pairwise(&self, items: &[usize]) -> f64 {
        let pairs = items.len() * items.len().saturating_sub(1) / 2;
        let total: f64 = items
            .iter()
            .enumerate()
            .flat_map(|(at, &i)| items[..at].iter().map(move |&j| self.get(i, j)))
            .sum();
        total / pairs as f64
    }

    /// Agglomerative clustering with average linkage (UPGMA).
    pub fn cluster(&self) -> Dendrogram {
        let mut condensed = Vec::with_capacity(self.len * self.len.saturating_sub(1) / 2);
        for row in 0..self.len {
            condensed.extend_from_slice(&self.row(row)[row + 1..]);
        }
        if self.len < 2 {
            return Dendrogram { leaves: self.len, merges: Vec::new() };
        }
        let dendrogram = kodama::linkage(&mut condensed, self.len, Method::Average);
        let merges = dendrogram
            .steps()
            .iter()
            .map(|step| Merge {
                left: step.cluster1,
                right: step.cluster2,
                height: step.dissimilarity,
                size: step.size,
            })
            .collect();
        Dendrogram { leaves: self.len, merges }
    }
}

/// Two clusters becoming one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// The cluster with the smaller number: a leaf (below the number of leaves `n`), or `n + i` for merge `i`.
    pub left: usize,
    /// The other cluster.
    pub right: usize,
    /// The mean distance between their items.
    pub height: f64,
    /// Leaves of the new cluster.
    pub size: usize,
}

/// The tree of an agglomerative clustering, numbered as in `scipy.cluster.hierarchy`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dendrogram {
    leaves: usize,
    merges: Vec<Merge>,
}

impl Dendrogram {
    /// Items clustered.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// The merges, by rising height; one fewer than leaves.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// The leaves from left to right, so that no branches cross: left subtree before right.
    pub fn leaf_order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.leaves);
        let mut open: Vec<usize> = match self.merges.len() {
            0 => (0..self.leaves).rev().collect(),
            count => vec![self.leaves + count - 1],
        };
        while let Some(cluster) = open.pop() {
            match cluster.checked_sub(self.leaves) {
                None => order.push(cluster),
                Some(merge) => open.extend([self.merges[merge].right, self.merges[merge].left]),
            }
        }
        order
    }

    /// Flat clusters: leaves that merge at a height of at most `threshold` share a number. Numbers count from 0 in the
    /// order of each cluster's first leaf.
    pub fn flat(&self, threshold: f64) -> Vec<usize> {
        let mut representative: Vec<usize> = (0..self.leaves).collect();
        let mut joined: Vec<usize> = (0..self.leaves).collect();
        for merge in &self.merges {
            let (a, b) = (representative[merge.left], representative[merge.right]);
            let (root, other) = (a.min(b), a.max(b));
            representative.push(root);
            if merge.height <= threshold {
                joined[other] = root;
            }
        }
        let mut numbers = vec![usize::MAX; self.leaves];
        let mut next = 0;
        for leaf in 0..self.leaves {
            // A leaf is only ever joined to a smaller one, whose number is known by now.
            numbers[leaf] = if joined[leaf] == leaf {
                next += 1;
                next - 1
            } else {
                numbers[joined[leaf]]
            };
        }
        numbers
    }
}

/// How alike the members of a group are, beside random groups of the same size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CohortSimilarity {
    /// The mean distance over pairs of members.
    pub mean: f64,
    /// Random groups drawn.
    pub draws: usize,
    /// The mean of the random groups' means.
    pub random_mean: f64,
    /// Their standard deviation.
    pub random_sd: f64,
    /// Below this lie 5 % of the random groups' means.
    pub random_5th: f64,
    /// Where the group stands among the random ones, 0..=100: the percentage of them that are at least as close.
    pub percentile: f64,
    /// The empirical p-value of a random group being at least as close, `(1 + such groups) / (1 + draws)`; never 0.
    pub p: f64,
}

/// Compares a group's mean pairwise distance with that of `draws` random groups of the same size, drawn without
/// repetition from all items (the group's own included). Use distances between patients, not images, or a patient's
/// many photographs make any group look alike. Refused for fewer than two members, a member twice or out of range, or no
/// draws.
pub fn cohort_similarity(
    distances: &Distances,
    members: &[usize],
    draws: usize,
    seed: u64,
) -> Result<CohortSimilarity> {
    let invalid = |message: String| Err(Error::new(ErrorKind::InvalidArgument, message));
    if members.len() < 2 || draws == 0 {
        return invalid(format!(
            "{} members and {draws} draws; give two members and one draw or more",
            members.len()
        ));
    }
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) || sorted[sorted.len() - 1] >= distances.len() {
        return invalid(format!("a member is named twice or is not one of the {} items", distances.len()));
    }
    let mean = distances.mean_pairwise(&sorted);
    let mut means: Vec<f64> = (0..draws as u64)
        .into_par_iter()
        .map(|draw| {
            let mut items: Vec<usize> = (0..distances.len()).collect();
            Random::new("cohort similarity", seed, draw).sample(&mut items, sorted.len());
            items.truncate(sorted.len());
            // In the members' own order, so that a random group that is the group has exactly its mean.
            items.sort_unstable();
            distances.mean_pairwise(&items)
        })
        .collect();
    let as_close = means.iter().filter(|random| **random <= mean).count();
    let random_mean = means.iter().sum::<f64>() / draws as f64;
    let random_sd = (means.iter().map(|m| (m - random_mean).powi(2)).sum::<f64>() / draws as f64).sqrt();
    means.sort_by(f64::total_cmp);
    Ok(CohortSimilarity {
        mean,
        draws,
        random_mean,
        random_sd,
        random_5th: means[(draws - 1) / 20],
        percentile: 100.0 * as_close as f64 / draws as f64,
        p: (1 + as_close) as f64 / (1 + draws) as f64,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn small_matrices_have_trees_too() {
        for (len, values, order) in
            [(0, vec![], vec![]), (1, vec![0.0], vec![0]), (2, vec![0.0, 1.0, 1.0, 0.0], vec![0, 1])]
        {
            let distances = Distances::new(len, values).unwrap();
            let tree = distances.cluster();
            assert_eq!(tree.leaf_order(), order);
            assert_eq!(tree.flat(0.5), order, "each leaf alone");
            assert_eq!(distances.ranks().len(), len * len);
        }
    }

    #[test]
    fn ties_give_the_same_tree_again() {
        let len = 9;
        let values = (0..len * len).map(|i| if i / len == i % len { 0.0 } else { 1.0 }).collect();
        let distances = Distances::new(len, values).unwrap();
        let tree = distances.cluster();
        assert_eq!(tree, distances.cluster());
        let mut order = tree.leaf_order();
        order.sort_unstable();
        assert_eq!(order, (0..len).collect::<Vec<_>>());
        assert_eq!(tree.flat(1.0), vec![0; len]);
        assert_eq!(tree.flat(0.99), (0..len).collect::<Vec<_>>());
        // Equally near items rank in their order, after the item itself.
        assert_eq!(distances.ranks()[3 * len..4 * len], [1, 2, 3, 0, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_is_no_distance_is_refused() {
        for values in [vec![0.0, 1.0, 2.0, 0.0], vec![0.0, -1.0, -1.0, 0.0], vec![1.0, 1.0, 1.0, 0.0]] {
            assert_eq!(Distances::new(2, values).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(Distances::new(2, vec![0.0, f64::NAN, f64::NAN, 0.0]).is_err());
        assert_eq!(Distances::new(2, vec![0.0; 3]).unwrap_err().kind(), ErrorKind::Length);
        assert!(serde_json::from_str::<Distances>(r#"{"len":2,"values":[0,1,2,0]}"#).is_err());
    }

    #[test]
    fn images_of_one_face_are_close_and_groups_are_checked() {
        let face = |x: f32, y: f32| Encoding::from_representations(&[&[x, y]]).unwrap();
        let faces = [face(1.0, 0.0), face(1.0, 0.1), face(0.0, 1.0)];
        let distances = Distances::between_images(&faces.iter().collect::<Vec<_>>());
        assert!(distances.get(0, 1) < 0.01 && (distances.get(0, 2) - 1.0).abs() < 1e-6);
        assert_eq!(Distances::new(3, distances.as_slice().to_vec()).unwrap(), distances);
        let within = distances.within_groups(&[0, 0, 1], 2).unwrap();
        assert!(within[0].unwrap() < 0.01 && within[1].is_none());
        for (group_of, groups) in [(&[0, 0][..], 1), (&[0, 0, 2], 2), (&[0, 0, 0], 2)] {
            assert!(distances.between_groups(group_of, groups).is_err());
        }
        for (members, draws) in [(&[0][..], 5), (&[0, 0], 5), (&[0, 3], 5), (&[0, 1], 0)] {
            let error = cohort_similarity(&distances, members, draws, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        // The closest of the three pairs: a third of all random pairs are it.
        let found = cohort_similarity(&distances, &[1, 0], 3000, 1).unwrap();
        assert!((found.percentile - 100.0 / 3.0).abs() < 5.0, "{found:?}");
    }
}

//! How far the means of syndromes lie apart that had no part in finding the directions: what untrained syndromes will show.
//!
//! Along the directions in which the trained syndromes' means differ most, they differ by chance too, and more so the fewer
//! they are; elsewhere they seem not to differ at all. So a tenth of the syndromes at a time is left out, directions are
//! found from the others, and the spread of those left out is measured there, less what their images' own scatter adds to
//! it. Nothing is needed for it but the sums that the form itself is made from.

use rayon::prelude::*;

use super::linear::{self, View};
use super::{Whitened, principal};

/// Parts of the syndromes that are left out in turn.
const FOLDS: usize = 10;
/// The least spread that counts, in units of that within syndromes.
const LEAST: f64 = 1e-4;
/// The same for all directions in which trained means do not differ.
const LEAST_ELSEWHERE: f64 = 1e-6;

/// Spreads of means that were left out, in units of the spread within syndromes.
pub(super) struct HeldOut {
    /// Along the directions of trained means, largest first and falling.
    along: Vec<f64>,
    /// Along each of all others; 0 where there are none.
    elsewhere: f64,
    /// What images of one syndrome scatter along a direction, on average.
    noise: f64,
}

/// One part left out.
pub(super) struct Fold {
    /// Whitened means of the syndromes left out, from the middle of the others.
    pub(super) rows: Vec<f64>,
    /// Images behind each of them.
    pub(super) images: Vec<f64>,
    /// Directions in which the others differ, and how far.
    pub(super) directions: Vec<f64>,
    pub(super) spreads: Vec<f64>,
}

/// Squares summed over a part's syndromes: along the others' directions, and along each direction beside those.
struct Squares {
    along: Vec<f64>,
    elsewhere: Option<f64>,
}

impl HeldOut {
    pub(super) fn new(whitened: &Whitened) -> Self {
        Self::of(whitened, &Fold::all(whitened))
    }

    pub(super) fn of(whitened: &Whitened, folds: &[Fold]) -> Self {
        let noise = whitened.noise();
        let squares: Vec<Squares> = folds.par_iter().map(|fold| fold.squares(whitened, noise)).collect();
        let count = whitened.images.len();
        let ranks = whitened.dim.min(count - 1);
        let mut along = vec![0.0; ranks];
        for fold in &squares {
            for (at, sum) in along.iter_mut().enumerate() {
                *sum += stretched(&fold.along, at, ranks);
            }
        }
        along.iter_mut().for_each(|sum| *sum /= count as f64);
        let beside: Vec<f64> = squares.iter().filter_map(|fold| fold.elsewhere).collect();
        let elsewhere = match beside.len() {
            0 => 0.0,
            _ => (beside.iter().sum::<f64>() / count as f64).max(LEAST_ELSEWHERE),
        };
        fall(&mut along);
        along.iter_mut().for_each(|spread| *spread = spread.max(elsewhere).max(LEAST));
        Self { along, elsewhere, noise }
    }

    /// The weights of so many directions, largest spread first: the root of the share that syndromes have in what is seen
    /// along them.
    pub(super) fn weights(&self, directions: usize) -> Vec<f64> {
        let last = self.along.last().copied().unwrap_or(LEAST);
        (0..directions).map(|rank| self.share(self.along.get(rank).copied().unwrap_or(last))).collect()
    }

    /// The same where the spreads are those of so many directions as a part's others have.
    pub(super) fn stretched_weights(&self, directions: usize) -> Vec<f64> {
        (0..directions).map(|rank| self.share(stretched(&self.along, rank, directions))).collect()
    }

    /// The weight of all other directions.
    pub(super) fn weight_elsewhere(&self) -> f64 {
        self.share(self.elsewhere)
    }

    fn share(&self, spread: f64) -> f64 {
        if spread > 0.0 { (spread / (spread + self.noise)).sqrt() } else { 0.0 }
    }
}

impl Fold {
    /// All parts, each left out once.
    pub(super) fn all(whitened: &Whitened) -> Vec<Self> {
        let folds = FOLDS.min(whitened.images.len());
        (0..folds).into_par_iter().map(|fold| Self::new(whitened, fold)).collect()
    }

    fn new(whitened: &Whitened, fold: usize) -> Self {
        let dim = whitened.dim;
        let rows = || whitened.apart.chunks_exact(dim).enumerate();
        let mut others: Vec<f64> =
            rows().filter(|(at, _)| at % FOLDS != fold).flat_map(|(_, row)| row).copied().collect();
        let mut centre = vec![0.0; dim];
        others.chunks_exact(dim).for_each(|row| linear::add_scaled(&mut centre, 1.0, row));
        let by = -1.0 / (others.len() / dim) as f64;
        others.chunks_exact_mut(dim).for_each(|row| linear::add_scaled(row, by, &centre));
        let (spreads, directions) = principal(&others, dim);
        let (mut left_out, mut images) = (Vec::new(), Vec::new());
        for (at, row) in rows().filter(|(at, _)| at % FOLDS == fold) {
            let mut row = row.to_vec();
            linear::add_scaled(&mut row, by, &centre);
            left_out.extend(row);
            images.push(whitened.images[at]);
        }
        Self { rows: left_out, images, directions, spreads }
    }

    fn squares(&self, whitened: &Whitened, noise: f64) -> Squares {
        let (dim, rank) = (whitened.dim, self.spreads.len());
        // How much of a direction's unit noise is ridge.
        let along = linear::product(View::new(&self.directions, dim), whitened.whitening());
        let noise_along: Vec<f64> =
            along.chunks_exact(dim).map(|row| 1.0 - whitened.ridge * linear::dot(row, row)).collect();
        let mut out = Squares { along: vec![0.0; rank], elsewhere: (rank < dim).then_some(0.0) };
        for (row, images) in self.rows.chunks_exact(dim).zip(&self.images) {
            let by_chance = 1.0 / images;
            let mut rest = linear::dot(row, row) - by_chance * noise * dim as f64;
            for ((sum, direction), noise) in
                out.along.iter_mut().zip(self.directions.chunks_exact(dim)).zip(&noise_along)
            {
                let place = linear::dot(row, direction);
                let square = place * place - by_chance * noise;
                *sum += square;
                rest -= square;
            }
            if let Some(elsewhere) = &mut out.elsewhere {
                *elsewhere += rest / (dim - rank) as f64;
            }
        }
        out
    }
}

/// `values` at place `at` of `length`, as if they were that many.
fn stretched(values: &[f64], at: usize, length: usize) -> f64 {
    let Some(&last) = values.last() else { return 0.0 };
    if length < 2 {
        return values[0];
    }
    let place = at as f64 * (values.len() - 1) as f64 / (length - 1) as f64;
    let low = place as usize;
    match values.get(low + 1) {
        Some(high) => values[low] + (place - low as f64) * (high - values[low]),
        None => last,
    }
}

/// The nearest sequence, by squares, that never rises (pool adjacent violators).
fn fall(values: &mut [f64]) {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for &value in values.iter() {
        let mut pool = (value, 1);
        while let Some(&(sum, count)) = pools.last()
            && sum * pool.1 as f64 <= pool.0 * count as f64
        {
            pools.pop();
            pool = (sum + pool.0, count + pool.1);
        }
        pools.push(pool);
    }
    let mut values = values.iter_mut();
    for (sum, count) in pools {
        values.by_ref().take(count).for_each(|value| *value = sum / count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_that_rises_is_pooled() {
        let mut values = [5.0, 1.0, 3.0, 2.0, 4.0, 0.0];
        fall(&mut values);
        assert_eq!(values, [5.0, 2.5, 2.5, 2.5, 2.5, 0.0]);
    }

    #[test]
    fn a_sequence_is_stretched_between_its_ends() {
        let stretched: Vec<f64> = (0..5).map(|at| stretched(&[4.0, 2.0, 0.0], at, 5)).collect();
        assert_eq!(stretched, [4.0, 3.0, 2.0, 1.0, 0.0]);
    }
}

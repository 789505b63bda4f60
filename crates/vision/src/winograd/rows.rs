//! Which rows of the points' matrices are whose.
//!
//! Where two pixels of a map are left at its lower or right edge, the last tiles are short: four of the six points down, or
//! across, give those two pixels. A point's matrix has rows only for the tiles that need it.

use super::filter::{POINTS, WINDOW};
use super::layout::{Map, TILE};

/// Pixels of a tile that is short in a direction.
pub(super) const SHORT: usize = 2;

/// A tile's directions in which it is short, and the directions in which a point is one that short tiles do without: [`DOWN`] and
/// [`ACROSS`] together. A tile has a point if they have no direction in common.
pub(super) type Kind = usize;

pub(super) const DOWN: Kind = 2;
pub(super) const ACROSS: Kind = 1;
/// Of both.
const KINDS: usize = 4;

/// Which points of a line short tiles do without: those of 2 and -2.
const LONG_ONLY: [bool; WINDOW] = [false, false, false, true, true, false];

/// A point's kind, by its row and column.
#[inline(always)]
const fn point(row: usize, column: usize) -> Kind {
    let down = if LONG_ONLY[row] { DOWN } else { 0 };
    let across = if LONG_ONLY[column] { ACROSS } else { 0 };
    down | across
}

/// Rows of some tiles that follow each other, in the matrices of all points.
pub(super) struct Rows {
    /// Tiles, by kind.
    counts: [usize; KINDS],
    places: Vec<Place>,
}

/// A tile's rows.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) kind: Kind,
    /// In a matrix, by the kind of its point; anything where there is none.
    rows: [usize; KINDS],
}

impl Place {
    /// The tile's row in the matrix of a point, by the point's row and column.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, column: usize) -> usize {
        self.rows[point(row, column)]
    }
}

impl Rows {
    /// Of so many tiles of crops with this map, from the first on.
    pub(super) fn new(map: Map, first: usize, tiles: usize) -> Self {
        let mut counts = [0; KINDS];
        let kinds = (first..first + tiles).map(|tile| kind(map, tile));
        let numbered: Vec<(Kind, usize)> = kinds
            .map(|kind| {
                counts[kind] += 1;
                (kind, counts[kind] - 1)
            })
            .collect();
        let mut before = [[0; KINDS]; KINDS];
        for (kind, before) in before.iter_mut().enumerate() {
            for (point, before) in before.iter_mut().enumerate() {
                *before = (0..kind).filter(|other| other & point == 0).map(|other| counts[other]).sum();
            }
        }
        let place =
            |(kind, number): (Kind, usize)| Place { kind, rows: before[kind].map(|rows| rows + number) };
        Self { counts, places: numbered.into_iter().map(place).collect() }
    }

    /// Rows in the matrix of a point.
    pub(super) fn of_point(&self, number: usize) -> usize {
        debug_assert!(number < POINTS);
        let point = point(number / WINDOW, number % WINDOW);
        (0..KINDS).filter(|kind| kind & point == 0).map(|kind| self.counts[kind]).sum()
    }

    /// Each tile's.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

/// Of a tile of crops with this map.
fn kind(map: Map, tile: usize) -> Kind {
    if map.side % TILE != SHORT {
        return 0;
    }
    let tile = tile % map.tiles();
    let (down, across) = (tile / map.tiles_across(), tile % map.tiles_across());
    let last = map.tiles_across() - 1;
    (if down == last { DOWN } else { 0 }) | (if across == last { ACROSS } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fourteen pixels are three tiles and a short one: 22 x 22 rows in place of 24 x 24.
    #[test]
    fn short_tiles_take_no_row_of_points_that_they_do_without() {
        let map = Map { side: 14, channels: 1 };
        let rows = Rows::new(map, 0, map.tiles());
        let of_points = (0..POINTS).map(|point| rows.of_point(point));
        assert_eq!(of_points.sum::<usize>(), 22 * 22);
        // In every matrix each row is one tile's.
        for number in 0..POINTS {
            let point = point(number / WINDOW, number % WINDOW);
            let tiles = rows.places().iter().filter(|place| place.kind & point == 0);
            let mut taken: Vec<usize> = tiles.map(|place| place.rows[point]).collect();
            taken.sort_unstable();
            assert_eq!(taken, (0..rows.of_point(number)).collect::<Vec<_>>(), "point {number}");
        }
        // Sixteen and thirteen are no such sides.
        for side in [16, 13] {
            let rows = Rows::new(Map { side, channels: 1 }, 0, 16);
            assert!((0..POINTS).all(|point| rows.of_point(point) == 16));
        }
    }
}

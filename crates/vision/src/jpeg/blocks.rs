use super::markers::Frame;

/// Blocks of 8 x 8 that are transformed together: neighbours in a row.
pub(super) const LANES: usize = 8;

/// The coefficients of eight neighbouring blocks.
#[derive(Clone)]
pub(super) struct Group {
    /// By row x 8 + column, each for all blocks.
    pub(super) values: [[i16; LANES]; 64],
    /// The last place in zigzag order at which one of the blocks may have something other than zero.
    pub(super) last: u8,
}

impl Group {
    pub(super) const ZERO: Self = Self { values: [[0; LANES]; 64], last: 0 };
}

/// Natural place (row x 8 + column) of each coefficient in zigzag order: T.81, figure A.6.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The coefficients of a whole picture, by component, block row, group.
pub(super) struct Coefficients(pub(super) Vec<Vec<Group>>);

impl Coefficients {
    /// All zero.
    pub(super) fn of(frame: &Frame) -> Self {
        let groups = |c: &super::markers::Component| vec![Group::ZERO; c.groups * c.rows];
        Self(frame.components.iter().map(groups).collect())
    }
}

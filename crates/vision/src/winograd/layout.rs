//! How feature maps lie in memory.

/// Side of a tile of output pixels.
pub(super) const TILE: usize = 4;
/// Pixels of a tile.
pub(super) const TILE_PIXELS: usize = TILE * TILE;
/// Channels are filled up to a multiple of this with zeros: two of the widest vectors.
const CHANNELS: usize = 32;

/// A square feature map of one crop: tile after tile, each [`TILE`] rows of [`TILE`] pixels, each pixel its channels. So whatever
/// computes some tiles writes to a piece of memory of its own. Tiles that stick out beyond the map hold pixels that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Map {
    /// Pixels along each side.
    pub(super) side: usize,
    /// Channels that mean something.
    pub(super) channels: usize,
}

impl Map {
    /// Tiles along each side.
    pub(super) fn tiles_across(self) -> usize {
        self.side.div_ceil(TILE)
    }

    pub(super) fn tiles(self) -> usize {
        self.tiles_across().pow(2)
    }

    /// Numbers per pixel.
    pub(super) fn depth(self) -> usize {
        self.channels.next_multiple_of(CHANNELS)
    }

    /// Numbers per tile.
    pub(super) fn tile_len(self) -> usize {
        TILE_PIXELS * self.depth()
    }

    /// Numbers per crop.
    pub(super) fn len(self) -> usize {
        self.tiles() * self.tile_len()
    }

    /// Where the channels of the pixel in row `y` and column `x` begin, among those of a crop.
    pub(super) fn offset(self, y: usize, x: usize) -> usize {
        let tile = y / TILE * self.tiles_across() + x / TILE;
        (tile * TILE_PIXELS + y % TILE * TILE + x % TILE) * self.depth()
    }

    /// Row and column of a crop's pixel by its number in memory; it may lie beyond the map.
    pub(super) fn place(self, pixel: usize) -> (usize, usize) {
        let (tile, within) = (pixel / TILE_PIXELS, pixel % TILE_PIXELS);
        let (down, across) = (tile / self.tiles_across(), tile % self.tiles_across());
        (down * TILE + within / TILE, across * TILE + within % TILE)
    }
}

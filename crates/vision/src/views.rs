//! The four test-time views of a crop.

use crate::colour::grey;
use crate::crop::{CROP_SIDE, Crop};

/// How many views an image has.
pub const VIEWS: usize = 4;

/// The views of a crop in the order (mirrored, grey): (no, no), (yes, no), (no, yes), (yes, yes).
pub fn views(crop: &Crop) -> [Crop; VIEWS] {
    let mirror = mirrored(crop);
    let (grey, grey_mirror) = (greyed(crop), greyed(&mirror));
    [crop.clone(), mirror, grey, grey_mirror]
}

/// The crop with left and right exchanged.
pub fn mirrored(crop: &Crop) -> Crop {
    let mut out = crop.clone();
    for row in out.rgb_mut().chunks_exact_mut(CROP_SIDE * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
    out
}

/// The crop in grey (BT.601 luma, as Pillow's `convert("L")`), still with three channels.
pub fn greyed(crop: &Crop) -> Crop {
    let mut out = crop.clone();
    let (pixels, _) = out.rgb_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        *pixel = [grey(pixel[0], pixel[1], pixel[2]); 3];
    }
    out
}

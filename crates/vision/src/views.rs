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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crop::CROP_LEN;

    #[test]
    fn views_are_plain_mirrored_grey_and_both() {
        let mut rgb = vec![0; CROP_LEN];
        rgb[..3].copy_from_slice(&[255, 0, 0]);
        let crop = Crop::from_rgb(rgb).unwrap();
        let corner = |view: &Crop, right: bool| {
            let at = if right { CROP_SIDE - 1 } else { 0 } * 3;
            view.rgb()[at..at + 3].to_vec()
        };
        let [plain, mirror, grey, both] = views(&crop);
        assert_eq!(plain, crop);
        assert_eq!((corner(&mirror, false), corner(&mirror, true)), (vec![0; 3], vec![255, 0, 0]));
        assert_eq!((corner(&grey, false), corner(&grey, true)), (vec![76; 3], vec![0; 3]));
        assert_eq!((corner(&both, false), corner(&both, true)), (vec![0; 3], vec![76; 3]));
        assert_eq!(mirrored(&mirror), crop);
    }
}

//! Small pictures for tests.

use vision::{CROP_LEN, Crop};

/// An aligned face that differs from every other number's: noise of a period of its own.
pub(crate) fn face(number: u64) -> Crop {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let rgb: Vec<u8> = (0..CROP_LEN)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 56) as u8
        })
        .collect();
    Crop::from_rgb(rgb).expect("a crop's bytes")
}

//! Colour formulas shared by the views and the augmentation.

/// Luma of ITU-R BT.601 in 16-bit fixed point, rounded: what Pillow's `convert("L")` computes.
pub(crate) fn grey(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

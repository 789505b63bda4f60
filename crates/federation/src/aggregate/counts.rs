//! How many training images there are: the first sum.

use crate::refusal::{Result, refuse};

/// Images that one site may have of one syndrome, or in all.
const MAX_IMAGES: u64 = 1 << 24;

/// What all sites know of their training images after the counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Training images over all sites, by classifier row.
    pub(crate) rows: Vec<u32>,
    /// Sites that hold the syndrome, by classifier row.
    pub(crate) holders: Vec<u32>,
    /// Training images over all sites.
    pub(crate) images: u64,
}

impl Counts {
    /// Words of one site: images by row, 0 or 1 by row, images.
    pub(crate) fn words(own: &[u32]) -> Result<Vec<u32>> {
        let images: u64 = own.iter().map(|&n| u64::from(n)).sum();
        if images >= MAX_IMAGES {
            refuse!(Update, "{images} training images at one site; at most {MAX_IMAGES} are supported");
        }
        let mut words = own.to_vec();
        words.extend(own.iter().map(|&n| u32::from(n > 0)));
        words.push(images as u32);
        Ok(words)
    }

    pub(crate) fn from_sum(sum: &[u32], rows: usize) -> Result<Self> {
        if sum.len() != 2 * rows + 1 {
            refuse!(Malformed, "counts of {} words for {rows} syndromes", sum.len());
        }
        Ok(Self {
            rows: sum[..rows].to_vec(),
            holders: sum[rows..2 * rows].to_vec(),
            images: u64::from(sum[2 * rows]),
        })
    }
}

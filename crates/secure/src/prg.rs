//! Pads: ChaCha20 keystreams read as little-endian u32 and added to or subtracted from a vector.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use rayon::prelude::*;

use crate::Secret;

/// Words of one parallel piece: 128 KiB, which stays in a core's L2 while every pad passes over it.
const PIECE: usize = 1 << 15;
/// Words of keystream made at a time: 8 KiB, which stays in L1 together with its target.
const TILE: usize = 1 << 11;

/// Most words a keystream can cover: ChaCha20's 32-bit counter of 16-word blocks.
pub(crate) const MAX_WORDS: u64 = 1 << 36;

/// A set of pads, applied together in a single pass over the vector.
#[derive(Default)]
pub(crate) struct Pads {
    add: Vec<Secret>,
    subtract: Vec<Secret>,
}

impl Pads {
    /// Each key expands to one pad and must never expand again under other data.
    pub(crate) fn add(&mut self, key: Secret) {
        self.add.push(key);
    }

    pub(crate) fn subtract(&mut self, key: Secret) {
        self.subtract.push(key);
    }

    /// Applies every pad to `words`, whose first word is word 0 of the keystreams. The result does
    /// not depend on the number of threads: each piece seeks to its own place in the streams.
    pub(crate) fn apply(&self, words: &mut [u32]) {
        self.apply_from(0, words);
    }

    /// As [`Pads::apply`] where `words` begin at a later word of the keystreams.
    pub(crate) fn apply_from(&self, first_word: usize, words: &mut [u32]) {
        words
            .par_chunks_mut(PIECE)
            .enumerate()
            .for_each(|(i, piece)| self.apply_at(first_word + i * PIECE, piece));
    }

    fn apply_at(&self, first_word: usize, piece: &mut [u32]) {
        let mut keystream = [0u32; TILE];
        let mut add = streams(&self.add, first_word);
        let mut subtract = streams(&self.subtract, first_word);
        for tile in piece.chunks_mut(TILE) {
            let keystream = &mut keystream[..tile.len()];
            for stream in &mut add {
                stream.write_keystream(bytemuck::cast_slice_mut(keystream));
                for (word, pad) in tile.iter_mut().zip(&*keystream) {
                    *word = word.wrapping_add(u32::from_le(*pad));
                }
            }
            for stream in &mut subtract {
                stream.write_keystream(bytemuck::cast_slice_mut(keystream));
                for (word, pad) in tile.iter_mut().zip(&*keystream) {
                    *word = word.wrapping_sub(u32::from_le(*pad));
                }
            }
        }
    }
}

fn streams(keys: &[Secret], first_word: usize) -> Vec<ChaCha20> {
    keys.iter()
        .map(|key| {
            // The nonce is zero because every key is used for one stream only.
            let mut stream = ChaCha20::new(key.expose().into(), &[0u8; 12].into());
            stream.seek(first_word as u64 * 4);
            stream
        })
        .collect()
}

/// Adds `term` to `total`, word by word, wrapping.
pub(crate) fn add_assign(total: &mut [u32], term: &[u32]) {
    total.par_chunks_mut(PIECE).zip(term.par_chunks(PIECE)).for_each(|(total, term)| {
        for (t, w) in total.iter_mut().zip(term) {
            *t = t.wrapping_add(*w);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pad_is_the_same_from_any_place_and_with_any_number_of_threads() {
        let mut pads = Pads::default();
        pads.add(Secret::from_bytes([7; 32]));
        pads.subtract(Secret::from_bytes([9; 32]));
        let len = 3 * PIECE + 12_345;
        let mut whole = vec![0; len];
        pads.apply_at(0, &mut whole);
        for threads in [1, 3] {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool starts");
            let mut words = vec![0; len];
            pool.install(|| pads.apply(&mut words));
            assert!(words == whole, "{threads} threads");
        }
    }

    #[test]
    fn adding_and_subtracting_a_pad_cancel() {
        let key = Secret::from_bytes([3; 32]);
        let mut pads = Pads::default();
        pads.add(key.clone());
        pads.subtract(key);
        let mut words: Vec<u32> = (0..10_000).collect();
        pads.apply(&mut words);
        assert!(words.iter().copied().eq(0..10_000));
    }
}

//! What all sites compute alike, computed once where a process holds several of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytemuck::NoUninit;

/// The latest result of a computation, with the digest of what it was computed from.
#[derive(Debug)]
pub struct Latest<T>(Mutex<Option<(blake3::Hash, T)>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Latest<T> {
    /// The latest result if it was computed from the same; else that of `compute`, which becomes the latest. Sites that ask at the
    /// same time do not wait for each other, and may compute it twice.
    ///
    /// # Errors
    /// Those of `compute`.
    pub fn get(&self, from: blake3::Hash, compute: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some((known, result)) = &*self.kept()
            && *known == from
        {
            return Ok(result.clone());
        }
        let result = compute()?;
        *self.kept() = Some((from, result.clone()));
        Ok(result)
    }

    fn kept(&self) -> MutexGuard<'_, Option<(blake3::Hash, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest of rows of numbers, one after the other.
#[derive(Debug, Default)]
pub struct Digest(blake3::Hasher);

impl Digest {
    /// Takes in a row and its length.
    pub fn add<T: NoUninit>(&mut self, numbers: &[T]) {
        self.0.update(&(numbers.len() as u64).to_le_bytes());
        self.0.update(bytemuck::cast_slice(numbers));
    }

    /// Of all that was taken in.
    pub fn finish(&self) -> blake3::Hash {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_same_is_computed_once_and_a_failure_is_not_kept() {
        let (latest, mut computed) = (Latest::default(), 0);
        let mut get = |from: &[u8], result: Result<u32>| {
            let compute = || {
                computed += 1;
                result
            };
            (latest.get(blake3::hash(from), compute), computed)
        };
        assert!(get(b"a", Err(anyhow::anyhow!("no"))).0.is_err());
        let (one, computed) = get(b"a", Ok(1));
        assert_eq!((one.unwrap(), computed), (1, 2));
        let (again, computed) = get(b"a", Ok(7));
        assert_eq!((again.unwrap(), computed), (1, 2));
        let (other, computed) = get(b"b", Ok(2));
        assert_eq!((other.unwrap(), computed), (2, 3));
    }

    #[test]
    fn where_one_row_ends_and_the_next_begins_counts() {
        let digest = |rows: &[&[i64]]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.add(row));
            digest.finish()
        };
        assert_eq!(digest(&[&[1, 2], &[3]]), digest(&[&[1, 2], &[3]]));
        assert_ne!(digest(&[&[1, 2], &[3]]), digest(&[&[1], &[2, 3]]));
        assert_ne!(digest(&[&[1, 2]]), digest(&[&[1, 2], &[]]));
    }
}

//! Memory for maps, used again: what comes fresh from the system costs as much as what is computed in it.

/// Vectors that nobody uses at the moment.
#[derive(Default)]
pub(crate) struct Spaces(Vec<Vec<f32>>);

impl Spaces {
    /// At least `len` numbers, which hold anything.
    pub(crate) fn take(&mut self, len: usize) -> Vec<f32> {
        let fitting = self.0.iter().enumerate().filter(|(_, space)| space.len() >= len);
        if let Some(at) = fitting.min_by_key(|(_, space)| space.len()).map(|(at, _)| at) {
            return self.0.swap_remove(at);
        }
        // The largest of those that are too small will be too small again.
        let largest = self.0.iter().enumerate().max_by_key(|(_, space)| space.len());
        if let Some(at) = largest.map(|(at, _)| at) {
            self.0.swap_remove(at);
        }
        vec![0.0; len]
    }

    pub(crate) fn give(&mut self, space: impl IntoIterator<Item = Vec<f32>>) {
        self.0.extend(space);
    }
}

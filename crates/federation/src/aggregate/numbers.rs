//! Lists of whole numbers, one behind the other in the words of a secure sum.

use secure::fixed::Integers;

use crate::refusal::{RefusalKind, Result, refusal};

/// Words that lists are put into.
pub(super) struct Writer {
    integers: Integers,
    words: Vec<u32>,
}

/// Words that lists are taken from.
pub(super) struct Reader<'a> {
    integers: Integers,
    words: &'a [u32],
}

impl Writer {
    /// No lists yet, with room for so many words.
    pub(super) fn new(integers: Integers, words: usize) -> Self {
        Self { integers, words: Vec::with_capacity(words) }
    }

    /// The next list, which is one of `name`. A number too large to be added is refused.
    pub(super) fn put(&mut self, numbers: &[i64], name: &str) -> Result<()> {
        let start = self.words.len();
        self.words.resize(start + numbers.len() * Integers::WORDS, 0);
        self.integers
            .encode(numbers, &mut self.words[start..])
            .map_err(|e| refusal(RefusalKind::Update, format!("{name}: {e}")))
    }

    /// What was put.
    pub(super) fn words(self) -> Vec<u32> {
        self.words
    }
}

impl<'a> Reader<'a> {
    /// From the start of `words`, whose length the caller has compared with the plan.
    pub(super) fn new(integers: Integers, words: &'a [u32]) -> Self {
        Self { integers, words }
    }

    /// The next list, of so many numbers.
    pub(super) fn take(&mut self, len: usize) -> Result<Vec<i64>> {
        let (words, rest) = self.words.split_at(len * Integers::WORDS);
        self.words = rest;
        let mut numbers = vec![0; len];
        self.integers.decode(words, &mut numbers)?;
        Ok(numbers)
    }

    /// The next number, which stands by itself.
    pub(super) fn one(&mut self) -> Result<i64> {
        Ok(self.take(1)?[0])
    }
}

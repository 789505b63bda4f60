//! The fixed point of a tensor's elements.

use secure::Result;
use secure::fixed::{Scale, WideScale, Word};

use crate::plan::{Aggregation, Plan, Statistics, TensorKind, TensorSpec};

/// One word an element or, where squares are added up, as many as hold a square and its last digits.
///
/// What is trained takes short words, whose steps are 4 millionths at a range of 16. Running statistics have no common size, and
/// take long ones.
#[derive(Debug, Clone, Copy)]
pub(super) enum SegmentScale {
    Narrow(Scale),
    Wide(WideScale),
}

impl SegmentScale {
    pub(super) fn new(plan: &Plan, spec: &TensorSpec, sites: usize) -> Result<Self> {
        if Self::is_wide(plan, spec.kind) {
            return Ok(Self::Wide(WideScale::for_range(f64::from(spec.range), sites)?));
        }
        let word = if Self::is_short(spec.kind) { Word::Short } else { Word::Long };
        let scale = match plan.aggregation {
            Aggregation::Mean => Scale::for_sum(spec.range, sites, word)?,
            // Sites send their parts of a weighted mean.
            _ => Scale::for_mean(spec.range, sites, word)?,
        };
        Ok(Self::Narrow(scale))
    }

    /// Whether the words of a kind of tensor are short.
    pub(super) fn is_short(kind: TensorKind) -> bool {
        kind != TensorKind::Statistics
    }

    /// Words of one element of a kind of tensor.
    pub(super) fn words_per_value(plan: &Plan, kind: TensorKind) -> usize {
        if Self::is_wide(plan, kind) { WideScale::WORDS } else { 1 }
    }

    fn is_wide(plan: &Plan, kind: TensorKind) -> bool {
        kind == TensorKind::Statistics && plan.tuning.statistics == Statistics::Pooled
    }

    pub(super) fn words(self) -> usize {
        match self {
            Self::Narrow(_) => 1,
            Self::Wide(_) => WideScale::WORDS,
        }
    }

    /// Greatest magnitude of an element.
    pub(super) fn range(self) -> f32 {
        match self {
            Self::Narrow(scale) => scale.range(),
            Self::Wide(scale) => scale.range() as f32,
        }
    }

    pub(super) fn encode(self, values: &[f32], words: &mut [u32]) -> Result<()> {
        match self {
            Self::Narrow(scale) => scale.encode(values, words),
            Self::Wide(scale) => {
                let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
                scale.encode(&values, words)
            }
        }
    }

    /// The elements of a sum, each times what `by` says of its place.
    pub(super) fn decode(self, words: &[u32], out: &mut [f32], by: impl Fn(usize) -> f64) -> Result<()> {
        let scaled = |at: usize, value: f64| (value * by(at)) as f32;
        match self {
            Self::Narrow(scale) => {
                let values = out.iter_mut().zip(words).enumerate();
                values.for_each(|(at, (out, &word))| *out = scaled(at, scale.value(word)));
            }
            Self::Wide(scale) => {
                let mut values = vec![0.0; words.len() / WideScale::WORDS];
                scale.decode(words, &mut values)?;
                let values = out.iter_mut().zip(values).enumerate();
                values.for_each(|(at, (out, value))| *out = scaled(at, value));
            }
        }
        Ok(())
    }
}

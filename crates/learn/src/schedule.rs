//! Learning rates over the epochs.

use crate::error::{Result, TrainError};

/// What learning rates are multiplied by, epoch by epoch. Epochs are counted over the whole training, so that a federated
/// and a centralised one have the same rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateSchedule {
    /// 1 throughout.
    Constant,
    /// Half a cosine from 1 to almost 0: `(1 + cos(pi * epoch / epochs)) / 2`.
    Cosine {
        /// Epochs in all.
        epochs: u32,
    },
    /// 1, from half of the epochs on 0.1, from three quarters on 0.01.
    Step {
        /// Epochs in all.
        epochs: u32,
    },
}

impl RateSchedule {
    /// The factor in an epoch, from 0.
    pub fn factor(self, epoch: u32) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine { epochs } => {
                let done = f64::from(epoch.min(epochs)) / f64::from(epochs.max(1));
                0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            Self::Step { epochs } => {
                let (epoch, epochs) = (u64::from(epoch), u64::from(epochs));
                match (2 * epoch >= epochs, 4 * epoch >= 3 * epochs) {
                    (_, true) => 0.01,
                    (true, _) => 0.1,
                    _ => 1.0,
                }
            }
        }
    }

    pub(crate) fn to_numbers(self) -> (u32, u32) {
        match self {
            Self::Constant => (0, 0),
            Self::Cosine { epochs } => (1, epochs),
            Self::Step { epochs } => (2, epochs),
        }
    }

    pub(crate) fn from_numbers(kind: u64, epochs: u64) -> Result<Self> {
        let epochs = u32::try_from(epochs).ok();
        match (kind, epochs) {
            (0, Some(0)) => Ok(Self::Constant),
            (1, Some(epochs)) => Ok(Self::Cosine { epochs }),
            (2, Some(epochs)) => Ok(Self::Step { epochs }),
            _ => Err(TrainError::format(
                "the training state names a schedule of learning rates that does not exist; use an earlier state",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_are_those_of_the_formulas() {
        let factors = |schedule: RateSchedule| (0..8).map(|epoch| schedule.factor(epoch)).collect::<Vec<_>>();
        assert_eq!(factors(RateSchedule::Constant), [1.0; 8]);
        assert_eq!(factors(RateSchedule::Step { epochs: 8 }), [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
        // numpy: 0.5 * (1 + cos(pi * arange(8) / 8))
        let cosine = [
            1.0,
            0.9619397662556434,
            0.8535533905932737,
            0.6913417161825449,
            0.5,
            0.3086582838174552,
            0.14644660940672627,
            0.03806023374435663,
        ];
        for (got, want) in factors(RateSchedule::Cosine { epochs: 8 }).iter().zip(cosine) {
            assert!((got - want).abs() < 1e-15, "{got} against {want}");
        }
    }

    #[test]
    fn a_schedule_goes_through_a_state_and_others_are_refused() {
        for schedule in
            [RateSchedule::Constant, RateSchedule::Cosine { epochs: 50 }, RateSchedule::Step { epochs: 7 }]
        {
            let (kind, epochs) = schedule.to_numbers();
            assert_eq!(RateSchedule::from_numbers(u64::from(kind), u64::from(epochs)).unwrap(), schedule);
        }
        for (kind, epochs) in [(3, 1), (1, u64::MAX), (0, 5)] {
            assert!(RateSchedule::from_numbers(kind, epochs).is_err());
        }
    }
}

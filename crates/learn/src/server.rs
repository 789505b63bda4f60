//! Optimisers that take the sites' average change into the model they share (Reddi et al. 2021, "Adaptive Federated
//! Optimization", algorithm 2; Hsu et al. 2019 for momentum).

use crate::error::{Result, TrainError};

/// What the average change, the pseudo-gradient, is put through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerRule {
    /// Added as it is: federated averaging.
    Average,
    /// Added up with decay: `m = momentum * m + change`, a step along `m`.
    Momentum,
    /// FedAdam, without bias correction.
    Adam,
    /// FedYogi: as Adam, but the second moment forgets at the rate of what comes in.
    Yogi,
}

/// A server optimiser. Every operation is one that IEEE 754 rounds correctly, so every site gets the same bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerOptimizer {
    /// What the change is put through.
    pub rule: ServerRule,
    /// Length of a step, positive.
    pub rate: f64,
    /// Decay of the first moment, in `[0, 1)`; not used by averaging.
    pub momentum: f64,
    /// Decay of the second moment, in `[0, 1)`; used by Adam and Yogi.
    pub beta2: f64,
    /// Adaptivity, positive: added to the root of the second moment, whose starting value is its square.
    pub tau: f64,
}

/// What an optimiser remembers of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerMoments {
    /// First moment; empty where the rule has none.
    pub first: Vec<f32>,
    /// Second moment; empty where the rule has none.
    pub second: Vec<f32>,
}

impl ServerOptimizer {
    /// Refuses settings outside the ranges given at the fields, naming the first.
    pub fn check(&self) -> Result<()> {
        let below_one = |x: f64| (0.0..1.0).contains(&x);
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let checks = [
            ("server_rate", positive(self.rate), "finite and positive"),
            ("server_momentum", below_one(self.momentum), "at least 0 and below 1"),
            ("server_beta2", below_one(self.beta2), "at least 0 and below 1"),
            ("server_tau", positive(self.tau), "finite and positive"),
        ];
        match checks.iter().find(|(_, holds, _)| !holds) {
            Some((key, _, range)) => Err(TrainError::invalid(format!("{key} must be {range}"))),
            None => Ok(()),
        }
    }

    /// The moments before the first step, for a tensor of `len` values.
    pub fn start(&self, len: usize) -> ServerMoments {
        let first = self.rule != ServerRule::Average;
        let second = matches!(self.rule, ServerRule::Adam | ServerRule::Yogi);
        ServerMoments {
            first: vec![0.0; if first { len } else { 0 }],
            second: vec![(self.tau * self.tau) as f32; if second { len } else { 0 }],
        }
    }

    /// The values after a step along their average change, as many as there are values. `moments` are those of the tensor.
    ///
    /// # Panics
    /// If moments or change have another length than the values.
    pub fn step(&self, values: &[f32], change: &[f32], moments: &mut ServerMoments) -> Vec<f32> {
        assert_eq!(values.len(), change.len(), "a change for every value");
        let pairs = values.iter().zip(change);
        if self.rule == ServerRule::Average {
            let rate = self.rate as f32;
            return pairs.map(|(value, change)| value + rate * change).collect();
        }
        assert_eq!(values.len(), moments.first.len(), "a first moment for every value");
        if self.rule == ServerRule::Momentum {
            let next = pairs.zip(&mut moments.first).map(|((&value, &change), first)| {
                *first = (self.momentum * f64::from(*first) + f64::from(change)) as f32;
                (f64::from(value) + self.rate * f64::from(*first)) as f32
            });
            return next.collect();
        }
        assert_eq!(values.len(), moments.second.len(), "a second moment for every value");
        let moments = moments.first.iter_mut().zip(&mut moments.second);
        let next = pairs.zip(moments).map(|((&value, &change), (first, second))| {
            let change = f64::from(change);
            *first = (self.momentum * f64::from(*first) + (1.0 - self.momentum) * change) as f32;
            *second = self.second_moment(f64::from(*second), change * change) as f32;
            let root = f64::from(*second).sqrt();
            (f64::from(value) + self.rate * f64::from(*first) / (root + self.tau)) as f32
        });
        next.collect()
    }

    fn second_moment(&self, second: f64, square: f64) -> f64 {
        if self.rule == ServerRule::Adam {
            return self.beta2 * second + (1.0 - self.beta2) * square;
        }
        let part = (1.0 - self.beta2) * square;
        match second.partial_cmp(&square) {
            Some(std::cmp::Ordering::Less) => second + part,
            Some(std::cmp::Ordering::Greater) => second - part,
            _ => second,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use safetensors::SafeTensors;

    fn optimizer(rule: ServerRule) -> ServerOptimizer {
        ServerOptimizer { rule, rate: 0.1, momentum: 0.9, beta2: 0.99, tau: 1e-3 }
    }

    /// Against numpy in float64 (`reference/server_vectors.py`): six steps of 40 values.
    #[test]
    fn six_steps_of_every_rule_are_those_of_the_paper() {
        let bytes = include_bytes!("../tests/data/server.safetensors");
        let file = SafeTensors::deserialize(bytes).unwrap();
        let read = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap().data();
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let (start, changes) = (read("start"), read("changes"));
        for (name, rule) in [
            ("average", ServerRule::Average),
            ("momentum", ServerRule::Momentum),
            ("adam", ServerRule::Adam),
            ("yogi", ServerRule::Yogi),
        ] {
            let optimizer = optimizer(rule);
            let mut moments = optimizer.start(start.len());
            let mut values = start.clone();
            for change in changes.chunks_exact(start.len()) {
                values = optimizer.step(&values, change, &mut moments);
            }
            for (got, want) in values.iter().zip(read(name)) {
                // Single precision is rounded to after every step; values are below 4.
                assert!((got - want).abs() < 3e-6, "{name}: {got} against {want}");
            }
        }
    }

    #[test]
    fn averaging_adds_the_change_and_nothing_is_remembered() {
        let optimizer = ServerOptimizer { rate: 1.0, ..optimizer(ServerRule::Average) };
        let mut moments = optimizer.start(2);
        assert_eq!(optimizer.step(&[1.0, -2.0], &[0.5, 0.25], &mut moments), [1.5, -1.75]);
        assert!(moments.first.is_empty() && moments.second.is_empty());
    }

    /// What Yogi is for: after one large change Adam's second moment decays at its own rate, Yogi's only by what comes in.
    #[test]
    fn yogi_forgets_a_large_change_more_slowly_than_adam() {
        let second = |rule| {
            let optimizer = optimizer(rule);
            let mut moments = optimizer.start(1);
            optimizer.step(&[0.0], &[1.0], &mut moments);
            (0..300).for_each(|_| drop(optimizer.step(&[0.0], &[0.001], &mut moments)));
            moments.second[0]
        };
        assert!(second(ServerRule::Yogi) > 10.0 * second(ServerRule::Adam));
    }

    #[test]
    fn what_does_not_change_does_not_move() {
        for rule in [ServerRule::Average, ServerRule::Momentum, ServerRule::Adam, ServerRule::Yogi] {
            let optimizer = optimizer(rule);
            let mut moments = optimizer.start(1);
            assert_eq!(optimizer.step(&[0.75], &[0.0], &mut moments), [0.75], "{rule:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        type Spoil = fn(&mut ServerOptimizer);
        let cases: [(&str, Spoil); 4] = [
            ("server_rate", |o| o.rate = 0.0),
            ("server_momentum", |o| o.momentum = 1.0),
            ("server_beta2", |o| o.beta2 = -0.1),
            ("server_tau", |o| o.tau = f64::NAN),
        ];
        for (key, spoil) in cases {
            let mut spoilt = optimizer(ServerRule::Yogi);
            spoil(&mut spoilt);
            assert!(spoilt.check().unwrap_err().to_string().contains(key));
        }
    }
}

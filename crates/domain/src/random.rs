//! Random choices from a seed, with algorithms of our own so that a dependency's new version cannot change a draw.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

pub(crate) struct Random(ChaCha8Rng);

impl Random {
    /// The stream of a purpose, a seed and an index: streams of different arguments are independent.
    pub(crate) fn new(purpose: &str, seed: u64, index: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"fedgestalt domain random 1\0");
        hash.update(seed.to_le_bytes());
        hash.update(index.to_le_bytes());
        hash.update(purpose.as_bytes());
        Self(ChaCha8Rng::from_seed(hash.finalize().into()))
    }

    /// Uniform over `0..bound`, without bias (Lemire 2019).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        let reject_under = bound.wrapping_neg() % bound;
        loop {
            let wide = u128::from(self.0.next_u64()) * u128::from(bound);
            if wide as u64 >= reject_under {
                return (wide >> 64) as usize;
            }
        }
    }

    /// Uniform over (0, 1): never 0, so that its logarithm is finite.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.0.next_u64() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Fisher-Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Moves `count` of the items, a uniform sample without repetition, to the front.
    pub(crate) fn sample<T>(&mut self, items: &mut [T], count: usize) {
        for at in 0..count.min(items.len()) {
            let other = at + self.below(items.len() - at);
            items.swap(at, other);
        }
    }

    /// Standard normal (Marsaglia's polar method).
    fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let s = x * x + y * y;
            if s < 1.0 {
                return x * (-2.0 * s.ln() / s).sqrt();
            }
        }
    }

    /// The logarithm of a Gamma(shape, 1) variable (Marsaglia and Tsang 2000, with their boost below shape 1); the
    /// logarithm, since small shapes give values below the smallest float.
    fn log_gamma_variable(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.log_gamma_variable(shape + 1.0) + self.unit().ln() / shape;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }

    /// Shares of a symmetric Dirichlet distribution; they sum to 1.
    pub(crate) fn dirichlet(&mut self, alpha: f64, parts: usize) -> Vec<f64> {
        let logs: Vec<f64> = (0..parts).map(|_| self.log_gamma_variable(alpha)).collect();
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logs.iter().map(|log| (log - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_is_uniform() {
        let mut random = Random::new("test", 1, 0);
        let mut counts = [0f64; 7];
        for _ in 0..70_000 {
            counts[random.below(7)] += 1.0;
        }
        // Chi-square with 6 degrees of freedom exceeds 22.5 once in a thousand seeds.
        let chi: f64 = counts.iter().map(|c| (c - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi < 22.5, "{counts:?}");
    }

    #[test]
    fn gamma_has_its_mean_and_variance() {
        for shape in [0.1, 0.5, 1.0, 3.0] {
            let mut random = Random::new("test", 2, 0);
            let n = 40_000;
            let draws: Vec<f64> = (0..n).map(|_| random.log_gamma_variable(shape).exp()).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(n);
            let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / f64::from(n);
            // Five standard errors of either estimate; the fourth moment of Gamma(a) about its mean is 3a^2 + 6a.
            let n = f64::from(n);
            assert!((mean - shape).abs() < 5.0 * (shape / n).sqrt(), "mean {mean} of shape {shape}");
            assert!(
                (variance - shape).abs() < 5.0 * ((2.0 * shape * shape + 6.0 * shape) / n).sqrt(),
                "variance {variance} of {shape}"
            );
        }
    }

    #[test]
    fn dirichlet_shares_sum_to_one_even_at_tiny_alpha() {
        for alpha in [1e-4, 0.01, 1.0, 1e6] {
            let shares = Random::new("test", 3, 0).dirichlet(alpha, 16);
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(shares.iter().all(|s| (0.0..=1.0).contains(s)));
        }
    }

    #[test]
    fn streams_differ_by_each_argument() {
        let first = |purpose, seed, index| Random::new(purpose, seed, index).below(1 << 60);
        let all = [first("a", 0, 0), first("b", 0, 0), first("a", 1, 0), first("a", 0, 1)];
        assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
    }
}

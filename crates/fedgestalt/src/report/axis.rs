//! Axes: a linear scale from data to drawing units, with ticks at round numbers.

/// Maps `domain` linearly to `range`; either may run backwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    domain: (f64, f64),
    range: (f64, f64),
}

impl Scale {
    pub(super) fn new(domain: (f64, f64), range: (f64, f64)) -> Self {
        Self { domain, range }
    }

    /// Place of `value`; NaN stays NaN, and an empty domain maps to the middle.
    pub(super) fn at(&self, value: f64) -> f64 {
        let width = self.domain.1 - self.domain.0;
        let share = if width == 0.0 { 0.5 } else { (value - self.domain.0) / width };
        self.range.0 + share * (self.range.1 - self.range.0)
    }
}

/// Round numbers that cover `low..=high`, about `count` of them, and the decimals that tell them apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    pub(super) digits: usize,
}

impl Ticks {
    /// Steps of 1, 2, 2.5 or 5 times a power of ten. Bounds that are not finite, or the wrong way round, give 0 to 1.
    pub(super) fn covering(low: f64, high: f64, count: usize) -> Self {
        let (low, high) =
            if low.is_finite() && high.is_finite() && low <= high { (low, high) } else { (0.0, 1.0) };
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let rough = span / count.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|step| *step >= rough * (1.0 - 1e-9))
            .unwrap_or(10.0 * power);
        let first = (low / step + 1e-9).floor();
        let last = (high / step - 1e-9).ceil().max(first + 1.0);
        let values = (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect();
        let digits = (0..12)
            .find(|&d| {
                let shifted = step * 10f64.powi(d);
                (shifted - shifted.round()).abs() < 1e-6 * shifted.max(1.0)
            })
            .unwrap_or(12) as usize;
        Self { values, digits }
    }

    /// First and last tick.
    pub(super) fn bounds(&self) -> (f64, f64) {
        let first = self.values.first().copied().unwrap_or(0.0);
        (first, self.values.last().copied().unwrap_or(1.0))
    }
}

/// Smallest and largest finite value.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        for (low, high, count, values, digits) in [
            (0.0, 97.0, 5, vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0], 0),
            (0.21, 0.58, 4, vec![0.2, 0.3, 0.4, 0.5, 0.6], 1),
            (0.0, 1.0, 4, vec![0.0, 0.25, 0.5, 0.75, 1.0], 2),
            (-3.0, 3.0, 3, vec![-4.0, -2.0, 0.0, 2.0, 4.0], 0),
        ] {
            let ticks = Ticks::covering(low, high, count);
            assert_eq!(ticks.digits, digits, "{low}..{high}");
            assert_eq!(ticks.values.len(), values.len(), "{:?}", ticks.values);
            for (is, wanted) in ticks.values.iter().zip(&values) {
                assert!((is - wanted).abs() < 1e-9, "{:?}", ticks.values);
            }
        }
    }

    #[test]
    fn odd_bounds_still_give_an_axis() {
        for (low, high) in [
            (f64::NAN, 1.0),
            (0.0, f64::INFINITY),
            (2.0, 1.0),
            (5.0, 5.0),
            (0.0, 0.0),
            (1e-300, 1e-300),
            (1e9, 1e9 + 1.0),
        ] {
            let ticks = Ticks::covering(low, high, 5);
            assert!(ticks.values.len() >= 2 && ticks.values.len() < 20, "{ticks:?}");
            assert!(ticks.values.iter().all(|v| v.is_finite()));
            assert!(ticks.bounds().0 < ticks.bounds().1);
        }
    }

    #[test]
    fn scale_is_linear_and_an_empty_domain_is_harmless() {
        let scale = Scale::new((0.0, 10.0), (100.0, 0.0));
        assert_eq!(scale.at(2.5), 75.0);
        assert_eq!(Scale::new((3.0, 3.0), (0.0, 8.0)).at(3.0), 4.0);
        assert_eq!(extent([f64::NAN, 2.0, -1.0]).unwrap(), (-1.0, 2.0));
        assert!(extent([f64::NAN]).is_none());
    }
}

//! Running statistics of all sites' images together.
//!
//! The variance of pooled images is not the mean of the sites' variances: what their means lie apart is missing from it. First
//! and second moments do add up. Both are taken about the mean that the round began with, which every site has, so that little
//! is lost when one square is taken from the other.

/// By how much the second moment about a round's mean exceeds the round's variance, at a site whose statistics are now `mean`
/// and `variance`: `variance + (mean - round_mean)^2 - round_variance`. All have one length.
pub fn second_moment_change(
    mean: &[f32],
    variance: &[f32],
    round_mean: &[f32],
    round_variance: &[f32],
) -> Vec<f32> {
    let now = mean.iter().zip(variance);
    let round = round_mean.iter().zip(round_variance);
    now.zip(round)
        .map(|((&mean, &variance), (&round_mean, &round_variance))| {
            let away = f64::from(mean) - f64::from(round_mean);
            (f64::from(variance) + away * away - f64::from(round_variance)) as f32
        })
        .collect()
}

/// The variance of all images, from the averages over sites of [`second_moment_change`] and of the mean's change. Rounding, or a
/// site that lies, may bring it below zero; then it is zero.
pub fn pooled_variance(round_variance: &[f32], moment_change: &[f32], mean_change: &[f32]) -> Vec<f32> {
    let changes = moment_change.iter().zip(mean_change);
    round_variance
        .iter()
        .zip(changes)
        .map(|(&variance, (&moment, &mean))| {
            let away = f64::from(mean);
            (f64::from(variance) + f64::from(moment) - away * away).max(0.0) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_changes_nothing_leaves_the_variance() {
        let (mean, variance) = ([0.5, -3.0, 1e4], [0.25, 1e-6, 7.0]);
        let change = second_moment_change(&mean, &variance, &mean, &variance);
        assert_eq!(change, [0.0; 3]);
        assert_eq!(pooled_variance(&variance, &change, &[0.0; 3]), variance);
    }

    #[test]
    fn a_second_moment_below_the_squared_mean_gives_no_negative_variance() {
        assert_eq!(pooled_variance(&[1.0, 1.0], &[0.5, -9.0], &[2.0, 0.0]), [0.0, 0.0]);
    }
}

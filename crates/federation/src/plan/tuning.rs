//! How tuned members are trained: between rounds, across them, and when the rounds end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::action::RoundMetrics;
use crate::refusal::{Refusal, Result, refuse};

/// What the sites' average update is put through before it is added to the model (Reddi et al. 2021).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerOptimizer {
    /// Nothing: federated averaging.
    Average,
    /// Momentum.
    Momentum,
    /// FedAdam.
    Adam,
    /// FedYogi.
    Yogi,
}

/// The server optimiser with its settings. Every site makes its step, since the sum opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerPlan {
    /// What the update is put through.
    pub optimizer: ServerOptimizer,
    /// What the step is multiplied by, above 0 and at most 10; with averaging, 1 averages models.
    pub rate: f64,
    /// Decay of the first moment, 0 to below 1.
    pub momentum: f64,
    /// Decay of the second moment, 0 to below 1.
    pub beta2: f64,
    /// Adaptivity of Adam and Yogi, above 0.
    pub tau: f64,
}

/// What learning rates are multiplied by over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rates {
    /// 1 throughout.
    Constant,
    /// Half a cosine, from 1 to almost 0.
    Cosine,
    /// 1, then 0.1 from half of the epochs on, then 0.01 from three quarters on.
    Step,
    /// 1, then half as much whenever so many rounds in a row brought no smaller loss on all sites' validation images. A round's
    /// loss is told with the next round's sum, so it counts from the round after that on.
    Plateau(u16),
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Cosine => f.write_str("cosine"),
            Self::Step => f.write_str("step"),
            Self::Plateau(patience) => write!(f, "plateau:{patience}"),
        }
    }
}

impl FromStr for Rates {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("plateau:").and_then(rounds)) {
            ("constant", _) => Ok(Self::Constant),
            ("cosine", _) => Ok(Self::Cosine),
            ("step", _) => Ok(Self::Step),
            (_, Some(patience)) => Ok(Self::Plateau(patience)),
            _ => refuse!(
                PlanInvalid,
                "rates {text:?} do not exist; use constant, cosine, step, or plateau:2 to halve them after 2 rounds without a gain"
            ),
        }
    }
}

impl TryFrom<String> for Rates {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Rates> for String {
    fn from(rates: Rates) -> Self {
        rates.to_string()
    }
}

impl Rates {
    /// What a round's learning rates are multiplied by besides the epoch's factor, given the losses of the models before, the
    /// first round's starting model first. A loss that is not finite is no gain; where there was none that is, nothing changes, and
    /// nothing goes below a millionth.
    pub fn pace(self, losses: &[f64]) -> f64 {
        let Self::Plateau(patience) = self else { return 1.0 };
        let (mut pace, mut best, mut since) = (1.0, f64::INFINITY, 0);
        for &loss in losses {
            if loss < best {
                (best, since) = (loss, 0);
            } else if best.is_finite() {
                since += 1;
            }
            if since == patience {
                (pace, since) = (f64::max(pace / 2.0, 1e-6), 0);
            }
        }
        pace
    }
}

/// A number of rounds to wait.
fn rounds(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&rounds| rounds >= 1)
}

/// Whether rare syndromes count more in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeighting {
    /// From a half to 1, the rarer the more.
    Inverse,
    /// All syndromes alike.
    None,
}

/// How the running statistics of BatchNorm become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    /// Means and variances are averaged, as the paper does.
    #[default]
    Averaged,
    /// Those of all images together: in place of a variance's change travels the second moment's about the mean that the round
    /// began with, less that round's variance.
    Pooled,
}

impl Statistics {
    /// Plans that say nothing average; so do those made before there was a choice.
    fn is_averaged(&self) -> bool {
        *self == Self::Averaged
    }
}

/// When the rounds end, by the model's figure on all sites' validation images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Stopping {
    /// After the last epoch, with the last model.
    Never,
    /// When so many rounds in a row brought no smaller loss; the model of the best round is taken.
    Loss(u16),
    /// When so many rounds in a row brought no more images ranked right; the model of the best round is taken.
    Accuracy(u16),
}

impl fmt::Display for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Loss(patience) => write!(f, "loss:{patience}"),
            Self::Accuracy(patience) => write!(f, "accuracy:{patience}"),
        }
    }
}

impl FromStr for Stopping {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self> {
        let stopping = match text.split_once(':') {
            None if text == "never" => Some(Self::Never),
            Some(("loss", patience)) => rounds(patience).map(Self::Loss),
            Some(("accuracy", patience)) => rounds(patience).map(Self::Accuracy),
            _ => None,
        };
        match stopping {
            Some(stopping) => Ok(stopping),
            None => refuse!(
                PlanInvalid,
                "stopping {text:?} does not exist; use never, or loss:3 or accuracy:3 for 3 rounds without a gain"
            ),
        }
    }
}

impl TryFrom<String> for Stopping {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Stopping> for String {
    fn from(stopping: Stopping) -> Self {
        stopping.to_string()
    }
}

impl Stopping {
    /// Rounds without a gain after which it ends; none where it does not.
    fn patience(self) -> Option<usize> {
        match self {
            Self::Never => None,
            Self::Loss(patience) | Self::Accuracy(patience) => Some(usize::from(patience)),
        }
    }

    /// A model's figure, the smaller the better; infinite where nobody had a validation image or the loss is not a number.
    pub fn score(self, metrics: &RoundMetrics) -> f64 {
        let figure = match self {
            Self::Accuracy(_) => -metrics.validation_correct,
            _ => metrics.validation_loss,
        };
        let mean = figure / metrics.validation_images;
        if metrics.validation_images > 0.0 && mean.is_finite() { mean } else { f64::INFINITY }
    }

    /// The best of the models with these figures, from that before the first round on: the first of equals, and the last of
    /// all where none has a figure.
    pub fn best(scores: &[f64]) -> usize {
        let mut best = 0;
        for (at, score) in scores.iter().enumerate() {
            if *score < scores[best] {
                best = at;
            }
        }
        if scores.get(best).is_some_and(|score| score.is_finite()) {
            best
        } else {
            scores.len().saturating_sub(1)
        }
    }

    /// Whether no further round is worth it, given the figures so far.
    pub fn is_over(self, scores: &[f64]) -> bool {
        let since = scores.len().saturating_sub(1 + Self::best(scores));
        self.patience().is_some_and(|patience| since >= patience)
    }
}

/// How tuned members are trained, beyond their recipes. The default is the paper's way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// The server optimiser.
    pub server: ServerPlan,
    /// Strength of the pull towards the round's model in local training, not negative; 0 for none (FedProx).
    pub proximal: f64,
    /// Learning rates over the epochs.
    pub rates: Rates,
    /// Whether rare syndromes count more.
    pub class_weighting: ClassWeighting,
    /// When the rounds end.
    pub stopping: Stopping,
    /// How running statistics become one.
    #[serde(default, skip_serializing_if = "Statistics::is_averaged")]
    pub statistics: Statistics,
}

impl Default for ServerPlan {
    fn default() -> Self {
        Self { optimizer: ServerOptimizer::Average, rate: 1.0, momentum: 0.9, beta2: 0.99, tau: 1e-3 }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            server: ServerPlan::default(),
            proximal: 0.0,
            rates: Rates::Constant,
            class_weighting: ClassWeighting::Inverse,
            stopping: Stopping::Never,
            statistics: Statistics::Averaged,
        }
    }
}

impl Tuning {
    /// Refuses settings outside the ranges given at the fields, by the names that a configuration has for them.
    pub fn check(&self) -> Result<()> {
        let server = &self.server;
        if !(server.rate > 0.0 && server.rate <= 10.0) {
            refuse!(PlanInvalid, "server_rate is {}; give a number above 0, at most 10", server.rate);
        }
        for (key, decay) in [("server_momentum", server.momentum), ("server_beta2", server.beta2)] {
            if !(0.0..1.0).contains(&decay) {
                refuse!(PlanInvalid, "{key} is {decay}; give a number from 0 to below 1");
            }
        }
        if !(server.tau > 0.0 && server.tau <= 1.0) {
            refuse!(PlanInvalid, "server_tau is {}; give a number above 0, at most 1", server.tau);
        }
        if !(self.proximal >= 0.0 && self.proximal <= 1000.0) {
            refuse!(PlanInvalid, "proximal is {}; give a number from 0 to 1000", self.proximal);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rates_read_and_write() {
        for text in ["constant", "cosine", "step", "plateau:2"] {
            assert_eq!(text.parse::<Rates>().unwrap().to_string(), text);
        }
        for text in ["plateau", "plateau:0", "linear", "cosine:2", "plateau:x"] {
            let error = text.parse::<Rates>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn rates_are_halved_whenever_patience_rounds_in_a_row_brought_no_smaller_loss() {
        let losses = [5.0, 4.0, 4.0, 4.5, 3.0, 3.1, f64::INFINITY, 3.2, 3.0];
        let paces = |rates: Rates| (0..=losses.len()).map(|n| rates.pace(&losses[..n])).collect::<Vec<_>>();
        assert_eq!(paces(Rates::Plateau(2)), [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]);
        assert_eq!(paces(Rates::Plateau(9)), [1.0; 10]);
        assert_eq!(Rates::Plateau(1).pace(&[1.0; 5000]), 1e-6, "learning rates never become zero");
        assert_eq!(Rates::Plateau(1).pace(&[f64::INFINITY; 9]), 1.0, "nobody has validation images");
        assert_eq!(paces(Rates::Cosine), [1.0; 10], "the schedule's own factors are not the pace");
    }

    #[test]
    fn stopping_reads_and_writes() {
        for text in ["never", "loss:3", "accuracy:1"] {
            assert_eq!(text.parse::<Stopping>().unwrap().to_string(), text);
        }
        for text in ["loss", "loss:0", "loss:-1", "always", "accuracy:x", "never:2"] {
            let error = text.parse::<Stopping>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn it_is_over_when_patience_rounds_in_a_row_brought_no_gain() {
        let scores = [5.0, 4.0, 3.0, 3.5, 3.0, 2.9, 3.0, 3.1];
        let over = |stopping: Stopping| {
            (1..=scores.len()).filter(|&n| stopping.is_over(&scores[..n])).collect::<Vec<_>>()
        };
        assert_eq!(over(Stopping::Loss(1)), [4, 5, 7, 8]);
        assert_eq!(over(Stopping::Loss(2)), [5, 8], "an equal figure is no gain");
        assert!(over(Stopping::Never).is_empty() && over(Stopping::Accuracy(9)).is_empty());
        assert_eq!(Stopping::best(&scores), 5);
        assert_eq!(Stopping::best(&scores[..5]), 2, "the first of equals");
    }

    #[test]
    fn without_validation_images_training_goes_on_and_the_last_model_stands() {
        let none = RoundMetrics { images: 9.0, ..RoundMetrics::default() };
        let scores = [Stopping::Loss(1).score(&none); 4];
        assert_eq!(Stopping::best(&scores), 3);
        assert!(!Stopping::Loss(1).is_over(&scores));
        let some = RoundMetrics {
            validation_loss: 6.0,
            validation_correct: 3.0,
            validation_images: 4.0,
            ..RoundMetrics::default()
        };
        assert_eq!(Stopping::Loss(1).score(&some), 1.5);
        assert_eq!(Stopping::Accuracy(1).score(&some), -0.75);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_the_name_of_their_key() {
        Tuning::default().check().unwrap();
        type Spoil = fn(&mut Tuning);
        let cases: [(&str, Spoil); 7] = [
            ("server_rate", |t| t.server.rate = 0.0),
            ("server_rate", |t| t.server.rate = f64::NAN),
            ("server_momentum", |t| t.server.momentum = 1.0),
            ("server_beta2", |t| t.server.beta2 = -0.1),
            ("server_tau", |t| t.server.tau = 0.0),
            ("proximal", |t| t.proximal = -1.0),
            ("proximal", |t| t.proximal = f64::INFINITY),
        ];
        for (key, spoil) in cases {
            let mut tuning = Tuning::default();
            spoil(&mut tuning);
            let error = tuning.check().unwrap_err();
            assert!(error.to_string().starts_with(key), "{error}");
        }
    }
}

//! What can be asked of the program.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::command;
use crate::config::Config;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "fedgestalt",
    version,
    about = "Federated GestaltMatcher: hospitals rank rare syndromes from facial photographs together, and no photograph leaves its hospital",
    long_about = "Federated GestaltMatcher. Hospitals train one ensemble face encoder together, compare patients across \
                  hospitals and find new syndromes together, while photographs, encodings and single hospitals' model \
                  updates stay inside each hospital.\n\nBegin with `fedgestalt demo`, which plays it all through with \
                  synthetic patients.",
    after_help = "Every command that takes long can be interrupted; the same command goes on where it was.\n\
                  Exit status: 0 done, 1 failed or findings, 2 wrong usage.",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Configuration file [default: fedgestalt.toml in the working folder, if it is there]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Write the result as one JSON document to standard output
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Show no progress and no remarks
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Threads to use; results do not depend on it [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Global options")]
    pub threads: Option<u16>,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    /// Write a configuration file with every default and what it means
    Init(command::init::InitArgs),
    /// Play the whole job through with synthetic patients: train, federate, rank, report
    Demo(command::demo::DemoArgs),
    /// Train together on your own cohort, all sites on this machine, and compare with training apart
    Federate(command::federate::FederateArgs),
    /// Cut the faces out of photographs: find, align to 112 x 112, note the points
    Align(command::align::AlignArgs),
    /// Compare methods: a grid of federations over one cohort, with its table and figures
    Experiment(command::experiment::ExperimentArgs),
    /// Import, check and hand out cohorts
    Cohort(command::cohort::CohortArgs),
    /// Train on one cohort: all of it (--central), or each site on its own (--local)
    Train(command::train::TrainArgs),
    /// Turn a cohort's photographs into encodings
    Encode(command::encode::EncodeArgs),
    /// Compute the four-setting table (top-1/5/10/30) from encodings
    Evaluate(command::evaluate::EvaluateArgs),
    /// Rank syndromes for a photograph or an image of the cohort
    Rank(command::rank::RankArgs),
    /// Look for new syndromes: distances, clusters, comparison with random cohorts
    Discover(command::discover::DiscoverArgs),
    /// Found a consortium of hospitals and admit sites to it
    Consortium(command::consortium::ConsortiumArgs),
    /// Run the coordinator of a consortium: train with its sites, then serve the kernel
    Coordinate(command::coordinate::CoordinateArgs),
    /// Be a site of a consortium: make keys, enrol, run, ask
    Site(command::site::SiteArgs),
    /// Install the software that the coordinator's engine stands on
    Engine(command::engine::EngineArgs),
}

/// How long to train; what is not said is taken from `[training]`.
#[derive(Debug, Clone, Default, Args)]
pub struct ScheduleArgs {
    /// Local epochs in all [default: from the configuration, 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: Option<u32>,
    /// Local epochs between two aggregations [default: from the configuration, 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub interval: Option<u32>,
    /// Aggregations; with --epochs it sets the interval, otherwise the epochs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Seed of everything that is drawn at random [default: from the configuration, 1]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

impl ScheduleArgs {
    /// Changes `[training]` as the options say: of epochs, interval and rounds, two decide the third.
    ///
    /// # Errors
    ///
    /// When all three are given and do not fit, or there would be more rounds than epochs.
    pub fn apply(&self, config: &mut Config) -> anyhow::Result<()> {
        let training = &mut config.training;
        training.seed = self.seed.unwrap_or(training.seed);
        training.epochs = self.epochs.unwrap_or(training.epochs);
        training.interval = self.interval.unwrap_or(training.interval);
        let Some(rounds) = self.rounds else { return Ok(()) };
        match (self.epochs, self.interval) {
            (Some(epochs), Some(interval)) => anyhow::ensure!(
                epochs.div_ceil(interval) == rounds,
                "--epochs {epochs} and --interval {interval} make {} rounds, not {rounds}; leave one of the three out",
                epochs.div_ceil(interval)
            ),
            (Some(epochs), None) => {
                anyhow::ensure!(
                    rounds <= epochs && epochs % rounds == 0,
                    "{rounds} rounds do not divide {epochs} epochs; give --interval instead of --rounds"
                );
                training.interval = epochs / rounds;
            }
            (None, _) => {
                training.epochs = rounds
                    .checked_mul(training.interval)
                    .ok_or_else(|| anyhow::anyhow!("--rounds {rounds} is too many"))?;
            }
        }
        Ok(())
    }
}

/// `SITE@ROUND`: this site vanishes in this round and comes back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absence {
    /// The site, from 0 as in `site-0`.
    pub site: u16,
    /// The round, from 1.
    pub round: u32,
}

impl FromStr for Absence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('@')
            .and_then(|(site, round)| {
                let site = site.strip_prefix("site-").unwrap_or(site);
                Some(Self {
                    site: site.parse().ok()?,
                    round: round.parse().ok().filter(|&round| round >= 1)?,
                })
            })
            .ok_or_else(|| {
                "give SITE@ROUND, such as 2@3: site-2 vanishes in round 3 (rounds begin at 1)".to_owned()
            })
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.site, self.round)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn two_of_epochs_interval_and_rounds_decide_the_third() {
        let cases = [
            ((None, None, None), Some((50, 5))),
            ((Some(20), None, None), Some((20, 5))),
            ((None, None, Some(4)), Some((20, 5))),
            ((None, Some(2), Some(4)), Some((8, 2))),
            ((Some(20), None, Some(4)), Some((20, 5))),
            ((Some(7), Some(2), Some(4)), Some((7, 2))),
            ((Some(20), Some(2), Some(4)), None),
            ((Some(20), None, Some(3)), None),
            ((Some(2), None, Some(4)), None),
            ((None, None, Some(u32::MAX)), None),
        ];
        for ((epochs, interval, rounds), expected) in cases {
            let mut config = Config::default();
            let args = ScheduleArgs { epochs, interval, rounds, seed: Some(9) };
            let done = args.apply(&mut config).is_ok();
            assert_eq!(done, expected.is_some(), "{args:?}");
            if let Some(expected) = expected {
                assert_eq!((config.training.epochs, config.training.interval), expected, "{args:?}");
                assert_eq!(config.training.seed, 9);
            }
        }
    }

    #[test]
    fn an_absence_is_a_site_at_a_round() {
        assert_eq!("2@3".parse(), Ok(Absence { site: 2, round: 3 }));
        assert_eq!("site-2@3".parse(), Ok(Absence { site: 2, round: 3 }));
        for text in ["2", "@", "2@0", "-1@2", "2@x", "2@3@4"] {
            assert!(text.parse::<Absence>().is_err(), "{text}");
        }
    }
}

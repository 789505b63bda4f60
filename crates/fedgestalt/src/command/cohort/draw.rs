//! `cohort draw`: a cohort handed to sites.

use std::path::PathBuf;

use clap::Args;
use domain::draw::Draw;

use crate::Outcome;
use crate::context::Context;

/// Arguments of `cohort draw`.
#[derive(Debug, Args)]
#[command(long_about = "Hand a cohort to N sites; a subject is never split. Each site becomes a cohort folder of its \
    own (OUT/site-0, OUT/site-1, ...), its images hard links where the file system allows.\n\n\
    near-uniform: subjects at random, evenly. non-overlapping: every syndrome at one site only. dirichlet:ALPHA: each \
    syndrome's subjects by shares from a Dirichlet distribution; the smaller ALPHA, the more uneven.")]
pub struct DrawArgs {
    /// Cohort folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Sites [default: from the configuration, 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub sites: Option<u16>,
    /// How: near-uniform, non-overlapping or dirichlet:ALPHA [default: from the configuration, near-uniform]
    #[arg(long, value_name = "KIND")]
    pub draw: Option<Draw>,
    /// Seed [default: from the configuration, 1]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Folder that gets a cohort folder per site
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Draws.
///
/// # Errors
///
/// When the cohort cannot be used, is too small for so many sites, or the folders cannot be written.
pub fn run(_args: DrawArgs, _context: &Context) -> anyhow::Result<Outcome> {
    anyhow::bail!("`cohort draw` is not there yet")
}

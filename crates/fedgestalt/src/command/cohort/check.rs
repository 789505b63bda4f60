//! `cohort check`: faults of a cohort folder, each with file and line.

use std::path::PathBuf;

use clap::Args;

use crate::Outcome;
use crate::context::Context;

/// Arguments of `cohort check`.
#[derive(Debug, Args)]
#[command(long_about = "Look for faults in a cohort folder, each with file and line: missing images, duplicate ids, an \
    image with two labels or subjects, a subject in both train and test (or gallery and test), syndromes only in \
    validation, test syndromes without gallery. Exit status 1 if there are errors; warnings alone are not.")]
pub struct CheckArgs {
    /// Cohort folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Also decode every image
    #[arg(long)]
    pub decode: bool,
}

/// Checks.
///
/// # Errors
///
/// When the folder holds no tables or a file cannot be read.
pub fn run(_args: CheckArgs, _context: &Context) -> anyhow::Result<Outcome> {
    anyhow::bail!("`cohort check` is not there yet")
}

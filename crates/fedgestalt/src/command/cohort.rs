//! `cohort`: bringing cohorts in, checking them, handing them to sites.

pub mod check;
pub mod draw;
pub mod import;

use clap::{Args, Subcommand};

use crate::Outcome;
use crate::context::Context;

/// Arguments of `cohort`.
#[derive(Debug, Args)]
pub struct CohortArgs {
    /// What to do with a cohort.
    #[command(subcommand)]
    pub command: CohortCommand,
}

/// What to do with a cohort.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum CohortCommand {
    /// Make a cohort folder from GMDB's files, or from a folder per syndrome
    Import(import::ImportArgs),
    /// Look for faults in a cohort folder, each with file and line
    Check(check::CheckArgs),
    /// Hand a cohort to N sites; a subject is never split
    Draw(draw::DrawArgs),
}

/// Runs a command on a cohort.
///
/// # Errors
///
/// As the command.
pub fn run(args: CohortArgs, context: &Context) -> anyhow::Result<Outcome> {
    match args.command {
        CohortCommand::Import(args) => import::run(args, context),
        CohortCommand::Check(args) => check::run(args, context),
        CohortCommand::Draw(args) => draw::run(args, context),
    }
}

//! Federated GestaltMatcher: the program as a library.
//!
//! The only crate that knows files, clocks, SQLite and OS randomness (floor 4). [`cli`] says what can be asked,
//! [`command`] answers it, [`config`] holds what the user decided, [`store`] is a site's folder, [`cohort_dir`] is a
//! cohort as a folder of files, [`report`] is the page at the end. `main.rs` only calls [`main`]; integration tests
//! call [`run`].

pub mod cli;
pub mod cohort_dir;
pub mod command;
pub mod config;
pub mod consortium;
pub mod context;
pub mod engine;
pub mod enrolment;
pub mod experiment;
pub mod faces;
mod memory;
pub mod output;
pub mod pipeline;
pub mod progress;
pub mod report;
pub mod simulate;
pub mod site;
pub mod store;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::context::Context;

/// How a command that did not fail came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be; exit status 0.
    Done,
    /// The work is done and told of, but what it found needs attention (`cohort check` with errors, `--strict` with
    /// images left out); exit status 1.
    Unclean,
}

/// Reads the command line, runs the command, tells of an error. Exit status: 0 done, 1 failed or unclean, 2 wrong
/// usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    if !cli.global.quiet {
        warnings_to_stderr();
    }
    match run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unclean) => ExitCode::FAILURE,
        Err(error) => {
            output::failure(&error, json);
            ExitCode::FAILURE
        }
    }
}

/// Warnings of the engine between machines and of the sites at work, for a person. They name sites, rounds and the other
/// side's words; what a site's patients or keys are is in none of them.
fn warnings_to_stderr() {
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr);
    // One that is there already stays.
    let _ = lines.without_time().with_target(false).with_ansi(false).try_init();
}

/// Runs one command.
///
/// # Errors
///
/// Whatever kept the command from doing its work, with the file or site it happened at.
pub fn run(cli: Cli) -> anyhow::Result<Outcome> {
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Init(args) => command::init::run(args, &context),
        Command::Demo(args) => command::demo::run(args, &context),
        Command::Federate(args) => command::federate::run(args, &context),
        Command::Align(args) => command::align::run(args, &context),
        Command::Experiment(args) => command::experiment::run(args, &context),
        Command::Cohort(args) => command::cohort::run(args, &context),
        Command::Train(args) => command::train::run(args, &context),
        Command::Encode(args) => command::encode::run(args, &context),
        Command::Evaluate(args) => command::evaluate::run(args, &context),
        Command::Rank(args) => command::rank::run(args, &context),
        Command::Discover(args) => command::discover::run(args, &context),
        Command::Consortium(args) => command::consortium::run(args, &context),
        Command::Coordinate(args) => command::coordinate::run(args, &context),
        Command::Site(args) => command::site::run(args, &context),
        Command::Engine(args) => command::engine::run(args, &context),
    }
}

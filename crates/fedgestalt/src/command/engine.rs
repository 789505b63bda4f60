//! `engine`: what the coordinator needs besides this program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::Outcome;
use crate::context::Context;
use crate::engine::flower::{PINNED, superlink};

/// Where the engine is installed unless said otherwise.
pub const DEFAULT: &str = "fedgestalt-engine";

/// Arguments of `engine`.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: EngineCommand,
}

/// What to do with the engine.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum EngineCommand {
    /// Install the SuperLink (Flower, exact version) into a virtual environment of its own; needs Python 3.10 or later
    Install(InstallArgs),
}

/// Arguments of `engine install`.
#[derive(Debug, Args)]
#[command(
    long_about = "Install the SuperLink (Flower, exact version) into a virtual environment of its own; needs \
    Python 3.10 or later with venv and pip.\n\nOnly the coordinator needs it: a hospital runs this program and nothing else."
)]
pub struct InstallArgs {
    /// Folder of the virtual environment
    #[arg(long, value_name = "DIR", default_value = DEFAULT)]
    pub into: PathBuf,
    /// Python to make it with
    #[arg(long, value_name = "FILE", default_value = "python3")]
    pub python: PathBuf,
}

/// Runs a command on the engine.
///
/// # Errors
///
/// As the command.
pub fn run(args: EngineArgs, context: &Context) -> anyhow::Result<Outcome> {
    let EngineCommand::Install(args) = args.command;
    let version = match superlink::installed_version(&args.into) {
        Ok(version) if version == PINNED => version,
        _ => install(&args, context)?,
    };
    let result = json!({ "engine": args.into, "flower": version });
    context.output.result(&result, |_| format!("Flower {version} is in {}", args.into.display()))?;
    Ok(Outcome::Done)
}

fn install(args: &InstallArgs, context: &Context) -> anyhow::Result<String> {
    let stage = context.progress.stage("Virtual environment", 0);
    step(Command::new(&args.python).args(["-m", "venv"]).arg(&args.into), &args.python)?;
    stage.finish(args.into.display());
    let stage = context.progress.stage(format!("Flower {PINNED}"), 0);
    let pip = args.into.join("bin").join("pip");
    step(
        Command::new(&pip)
            .args(["install", "--disable-pip-version-check", "--no-input", "--quiet"])
            .arg(format!("flwr=={PINNED}")),
        &pip,
    )?;
    stage.finish("installed");
    superlink::installed_version(&args.into)
}

fn step(command: &mut Command, program: &Path) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    bail!("{} failed: {}", program.display(), last.into_iter().rev().collect::<Vec<_>>().join(" | "));
}

//! `site`: a hospital in a consortium.

pub mod ask;
mod patients;
pub mod run;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use federation::SiteName;
use serde_json::json;

use crate::Outcome;
use crate::context::Context;
use crate::enrolment::{Invitation, enrol, make_site, read};
use crate::store::{self, SiteStore};

/// Arguments of `site`.
#[derive(Debug, Args)]
pub struct SiteArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SiteCommand,
}

/// What to do as a site.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum SiteCommand {
    /// Make this site's keys, and the request that the consortium admits it by
    Keygen(KeygenArgs),
    /// Pin the consortium's invitation
    Enrol(EnrolArgs),
    /// Take part: train with the others, then bring the gallery and answer this site's questions
    Run(run::RunArgs),
    /// Rank a photograph against the galleries of all sites, through the running site
    Ask(ask::AskArgs),
    /// Take a patient out of the gallery of all sites, through the running site
    Withdraw(ask::WithdrawArgs),
    /// Let a newcomer that the consortium has admitted have the group key, through the running site
    Approve(ask::ApproveArgs),
}

/// Arguments of `site keygen`.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// This site's folder; back it up, the keys are in it
    #[arg(long, value_name = "DIR", default_value = "site")]
    pub store: PathBuf,
    /// This site's name in the consortium
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// File for the request, to be sent to the consortium; it is not secret
    #[arg(long, value_name = "FILE", default_value = "request.json")]
    pub out: PathBuf,
    /// Derive the secrets from this seed, as the simulation does, so that results can be compared; protects nothing
    #[arg(long, value_name = "SEED")]
    pub rehearsal: Option<u64>,
}

/// Arguments of `site enrol`.
#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// This site's folder
    #[arg(long, value_name = "DIR", default_value = "site")]
    pub store: PathBuf,
    /// The invitation that the consortium sent
    #[arg(value_name = "INVITATION")]
    pub invitation: PathBuf,
    /// Its fingerprint, as the consortium said it by another way
    #[arg(long, value_name = "FINGERPRINT")]
    pub fingerprint: Option<String>,
}

/// Runs a command as a site.
///
/// # Errors
///
/// As the command.
pub fn run(args: SiteArgs, context: &Context) -> anyhow::Result<Outcome> {
    match args.command {
        SiteCommand::Keygen(args) => keygen(args, context),
        SiteCommand::Enrol(args) => pin(&args, context),
        SiteCommand::Run(args) => run::run(args, context),
        SiteCommand::Ask(args) => ask::run(args, context),
        SiteCommand::Withdraw(args) => ask::withdraw(args, context),
        SiteCommand::Approve(args) => ask::approve(args, context),
    }
}

fn keygen(args: KeygenArgs, context: &Context) -> anyhow::Result<Outcome> {
    let name = SiteName::new(&args.name)?;
    if args.rehearsal.is_some() {
        context.output.warn("a rehearsal: every secret follows from the seed; nothing is protected");
    }
    let request = make_site(&SiteStore::open(&args.store)?, name, args.rehearsal)?;
    store::write_cache(&args.out, &serde_json::to_vec_pretty(&request)?)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let result = json!({ "site": request.name, "request": args.out, "fingerprint": request.fingerprint() });
    context.output.result(&result, |_| {
        format!(
            "Send {} to the consortium, and tell it this fingerprint by another way, such as the telephone:\n{}",
            args.out.display(),
            request.fingerprint()
        )
    })?;
    Ok(Outcome::Done)
}

fn pin(args: &EnrolArgs, context: &Context) -> anyhow::Result<Outcome> {
    let invitation: Invitation = read(&args.invitation, "an invitation")?;
    let store = SiteStore::open(&args.store)?;
    let (site, roster) = enrol(&store, &invitation, args.fingerprint.as_deref())?;
    let result = json!({
        "consortium": roster.consortium(),
        "roster": roster.serial(),
        "site": roster.name(site),
        "url": invitation.url,
    });
    context.output.result(&result, |_| {
        format!(
            "{} is in roster {} of {}; the coordinator is at {}",
            roster.name(site),
            roster.serial(),
            roster.consortium(),
            invitation.url
        )
    })?;
    Ok(Outcome::Done)
}

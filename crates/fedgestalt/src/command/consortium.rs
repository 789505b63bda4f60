//! `consortium`: founding one and admitting sites.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::Outcome;
use crate::context::Context;
use crate::enrolment::{Charter, Consortium, Request, read};
use crate::output::Table;
use crate::store;

/// Arguments of `consortium`.
#[derive(Debug, Args)]
pub struct ConsortiumArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConsortiumCommand,
}

/// What to do with a consortium.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum ConsortiumCommand {
    /// Make the keys of a consortium and the certificate of its coordinator
    Create(CreateArgs),
    /// Sign a roster with further sites, from the requests they sent, and write the invitation for all
    Admit(AdmitArgs),
}

/// Arguments of `consortium create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Folder of the consortium and its coordinator
    #[arg(long, value_name = "DIR", default_value = "consortium")]
    pub store: PathBuf,
    /// Name of the consortium
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Name or address under which sites reach the coordinator; the certificate is made out to it
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// Port under which they reach it
    #[arg(long, value_name = "PORT", default_value_t = 9443)]
    pub port: u16,
    /// Derive every secret from this seed, as the simulation does, so that results can be compared; protects nothing
    #[arg(long, value_name = "SEED")]
    pub rehearsal: Option<u64>,
}

/// Arguments of `consortium admit`.
#[derive(Debug, Args)]
pub struct AdmitArgs {
    /// Folder of the consortium
    #[arg(long, value_name = "DIR", default_value = "consortium")]
    pub store: PathBuf,
    /// Requests that `site keygen` wrote, in the order of the roster
    #[arg(value_name = "REQUEST", required = true)]
    pub requests: Vec<PathBuf>,
    /// File for the invitation that every site gets
    #[arg(long, value_name = "FILE", default_value = "invitation.json")]
    pub out: PathBuf,
}

/// Runs a command on a consortium.
///
/// # Errors
///
/// As the command.
pub fn run(args: ConsortiumArgs, context: &Context) -> anyhow::Result<Outcome> {
    match args.command {
        ConsortiumCommand::Create(args) => create(args, context),
        ConsortiumCommand::Admit(args) => admit(&args, context),
    }
}

fn create(args: CreateArgs, context: &Context) -> anyhow::Result<Outcome> {
    let host = match args.host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => args.host.clone(),
    };
    let url = format!("https://{host}:{}", args.port);
    if args.rehearsal.is_some() {
        context.output.warn("a rehearsal: every secret follows from the seed; nothing is protected");
    }
    let charter = Charter { name: args.name, url, rehearsal: args.rehearsal };
    let consortium = Consortium::found(&args.store, charter, &[args.host])?;
    let charter = &consortium.charter;
    let result = json!({ "store": args.store, "url": charter.url, "name": charter.name });
    context.output.result(&result, |_| {
        format!(
            "{} is founded in {}; its coordinator will be at {}.\nAsk the hospitals for their requests (`fedgestalt site \
             keygen`), then `fedgestalt consortium admit`.",
            charter.name,
            args.store.display(),
            charter.url
        )
    })?;
    Ok(Outcome::Done)
}

fn admit(args: &AdmitArgs, context: &Context) -> anyhow::Result<Outcome> {
    let consortium = Consortium::open(&args.store)?;
    let requests: Vec<Request> =
        args.requests.iter().map(|file| read(file, "a site's request")).collect::<anyhow::Result<_>>()?;
    let admitted: Vec<(String, String)> =
        requests.iter().map(|request| (request.name.to_string(), request.fingerprint())).collect();
    let roster = consortium.admit(requests)?;
    let invitation = consortium.invitation()?;
    let text = serde_json::to_vec_pretty(&invitation)?;
    store::write_cache(&args.out, &text).with_context(|| format!("cannot write {}", args.out.display()))?;
    let result = json!({
        "roster": roster.serial(),
        "sites": roster.len(),
        "admitted": admitted.iter().map(|(name, fingerprint)| json!({ "site": name, "fingerprint": fingerprint })).collect::<Vec<_>>(),
        "invitation": args.out,
        "fingerprint": invitation.fingerprint(),
    });
    context.output.result(&result, |_| {
        let mut table = Table::new(["site", "fingerprint of its request"]);
        admitted.iter().for_each(|(name, fingerprint)| {
            table.row([name.clone(), fingerprint.clone()]);
        });
        format!(
            "{table}\nCompare each with what the site says on the telephone. Roster {} has {} sites.\nThe invitation for all \
             of them is {}; its fingerprint is {}",
            roster.serial(),
            roster.len(),
            args.out.display(),
            invitation.fingerprint()
        )
    })?;
    Ok(Outcome::Done)
}

//! `init`: writes the configuration file.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::Outcome;
use crate::config::{FILE_NAME, TEMPLATE, recipe_template};
use crate::context::Context;
use crate::store::atomic::{self, Access};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder that gets fedgestalt.toml; made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Write the paper's recipe of trained members instead of the defaults
    #[arg(long)]
    pub recipe: bool,
    /// Replace a fedgestalt.toml that is there
    #[arg(long)]
    pub force: bool,
}

/// Writes [`TEMPLATE`], or [`recipe_template`].
///
/// # Errors
///
/// When there is a file already (and no `--force`), or it cannot be written.
pub fn run(args: InitArgs, context: &Context) -> anyhow::Result<Outcome> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make the folder {}", args.dir.display()))?;
    let file = args.dir.join(FILE_NAME);
    anyhow::ensure!(
        args.force || !file.exists(),
        "{} is there already; give another folder, or --force to replace it",
        file.display()
    );
    let text = if args.recipe { recipe_template() } else { TEMPLATE.to_owned() };
    atomic::write(&file, text.as_bytes(), Access::Shared)?;
    context.output.result(&json!({ "written": file }), |_| format!("wrote {}", file.display()))?;
    Ok(Outcome::Done)
}

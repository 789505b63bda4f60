//! What every command is given besides its arguments.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use crate::cli::Global;
use crate::config::{Config, FILE_NAME};
use crate::output::Output;
use crate::progress::{Mode, Progress};

/// Configuration, output and progress of one run of the program.
#[derive(Debug)]
pub struct Context {
    /// What the user decided, or the defaults.
    pub config: Config,
    /// Where results go.
    pub output: Output,
    /// Where the course of long work is shown.
    pub progress: Progress,
    /// When the program began its work.
    pub began: Instant,
}

impl Context {
    /// Reads the configuration (`--config`, else `fedgestalt.toml` in the working folder, else the defaults) and sets
    /// the number of threads.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be read or says something impossible.
    pub fn new(global: &Global) -> anyhow::Result<Self> {
        let began = Instant::now();
        let config = match &global.config {
            Some(file) => Config::read(file)?,
            None if Path::new(FILE_NAME).is_file() => Config::read(Path::new(FILE_NAME))?,
            None => Config::default(),
        };
        if let Some(threads) = global.threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(usize::from(threads))
                .build_global()
                .context("cannot start the threads asked for with --threads")?;
        }
        Ok(Self {
            config,
            output: Output::new(global.json, global.quiet),
            progress: Progress::new(Mode::for_terminal(global.json, global.quiet)),
            began,
        })
    }
}

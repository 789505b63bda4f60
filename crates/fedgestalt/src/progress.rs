//! How far long work has come: bars on a terminal, plain lines elsewhere.
//!
//! Progress goes to standard error, so that it never mixes with results. Nothing here needs tidying up: the program
//! may be interrupted at any moment, since every file is written atomically and the same command goes on.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain stage tells how far it is.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bars that move.
    Bars,
    /// A line when a stage begins and ends, and every ten seconds.
    Lines,
    /// Not at all.
    Silent,
}

impl Mode {
    /// Bars for a person at a terminal; lines for a program (`--json`) or when standard error is not a terminal;
    /// nothing with `--quiet`.
    pub fn for_terminal(json: bool, quiet: bool) -> Self {
        if quiet {
            Self::Silent
        } else if json || !io::stderr().is_terminal() {
            Self::Lines
        } else {
            Self::Bars
        }
    }
}

/// Where stages are shown.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    bars: MultiProgress,
}

impl Progress {
    /// Shows stages in this way.
    pub fn new(mode: Mode) -> Self {
        let target = match mode {
            Mode::Bars => ProgressDrawTarget::stderr(),
            Mode::Lines | Mode::Silent => ProgressDrawTarget::hidden(),
        };
        Self { mode, bars: MultiProgress::with_draw_target(target) }
    }

    /// Shows nothing; for tests.
    pub fn silent() -> Self {
        Self::new(Mode::Silent)
    }

    /// Begins a stage of `total` steps; with 0 its length is unknown. Several stages may be open at once, and a stage
    /// may be told of steps from any thread.
    pub fn stage(&self, name: impl Into<String>, total: u64) -> Stage {
        let name = name.into();
        let bar =
            self.bars.add(if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) });
        bar.set_style(style(total));
        bar.set_prefix(name.clone());
        if self.mode == Mode::Bars {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        if self.mode == Mode::Lines {
            line(format_args!("{name} ..."));
        }
        Stage {
            name,
            bar,
            mode: self.mode,
            begun: Instant::now(),
            told: Mutex::new(Instant::now()),
            over: false,
        }
    }

    /// A line above the bars; nothing when silent.
    pub fn say(&self, text: impl fmt::Display) {
        match self.mode {
            Mode::Bars => self.bars.suspend(|| line(&text)),
            Mode::Lines => line(text),
            Mode::Silent => {}
        }
    }
}

/// One stage of the work. Dropping it without [`Stage::finish`] leaves it unfinished on the screen.
#[derive(Debug)]
pub struct Stage {
    name: String,
    bar: ProgressBar,
    mode: Mode,
    begun: Instant,
    told: Mutex<Instant>,
    over: bool,
}

impl Stage {
    /// So many more steps are done.
    pub fn advance(&self, steps: u64) {
        self.bar.inc(steps);
        self.tell_now_and_then();
    }

    /// So many steps are done in all.
    pub fn set(&self, steps: u64) {
        self.bar.set_position(steps);
        self.tell_now_and_then();
    }

    /// What is being done, or how it goes: a file's name, a loss.
    pub fn note(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// How long the stage has been going on.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The stage is done; `summary` (which may be empty) stays on the screen. Returns how long it took.
    pub fn finish(mut self, summary: impl fmt::Display) -> Duration {
        self.over = true;
        let took = self.elapsed();
        match self.mode {
            Mode::Bars => self.bar.finish_with_message(summary.to_string()),
            Mode::Lines => {
                let summary = summary.to_string();
                let space = if summary.is_empty() { "" } else { ", " };
                line(format_args!("{}: done in {:.1} s{space}{summary}", self.name, took.as_secs_f64()));
            }
            Mode::Silent => {}
        }
        took
    }

    fn tell_now_and_then(&self) {
        if self.mode != Mode::Lines {
            return;
        }
        // Another thread that holds the lock is telling just now.
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.elapsed() < PLAIN_EVERY {
            return;
        }
        *told = Instant::now();
        let (at, message) = (self.bar.position(), self.bar.message());
        let total = self.bar.length().map(|total| format!(" of {total}")).unwrap_or_default();
        line(format_args!("{}: {at}{total} {message}", self.name));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.over {
            self.bar.abandon();
        }
    }
}

fn style(total: u64) -> ProgressStyle {
    let template = if total == 0 {
        "{prefix:<28} {spinner} {elapsed:>5} {wide_msg}"
    } else {
        "{prefix:<28} {bar:24} {pos:>6}/{len:<6} {elapsed:>5} {wide_msg}"
    };
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}

fn line(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_counts_from_every_thread() {
        let progress = Progress::silent();
        let stage = progress.stage("count", 100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| stage.advance(1)));
            }
        });
        assert_eq!(stage.bar.position(), 100);
        stage.finish("100 counted");
    }

    #[test]
    fn quiet_wins_over_json() {
        assert_eq!(Mode::for_terminal(true, true), Mode::Silent);
        assert_eq!(Mode::for_terminal(true, false), Mode::Lines);
    }
}

//! Results for a person, or for a program (`--json`).
//!
//! Results go to standard output, everything else (progress, notes, errors) to standard error. With `--json` a
//! command writes exactly one JSON document.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// For a program with `json`; without notes with `quiet`.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The result of a command: `value` as one JSON document, or what `human` makes of it.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written, other than because its reader has left.
    pub fn result<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(value)? } else { human(value) };
        let mut out = io::stdout().lock();
        let end = if text.ends_with('\n') { "" } else { "\n" };
        match write!(out, "{text}{end}").and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A remark for a person, on standard error; nothing with `--quiet` or `--json`.
    pub fn note(&self, text: impl fmt::Display) {
        if !self.quiet && !self.json {
            complain(text);
        }
    }

    /// A remark that nobody should miss, on standard error whatever was asked for.
    pub fn warn(&self, text: impl fmt::Display) {
        complain(format_args!("warning: {text}"));
    }
}

/// Tells of the error that ended the program: the chain of causes on standard error, and with `json` also
/// `{"error": ..., "causes": [...]}` on standard output, so that a program that expects a document gets one.
pub fn failure(error: &anyhow::Error, json: bool) {
    if json {
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let document = serde_json::json!({ "error": error.to_string(), "causes": causes });
        // There is nobody left to tell if this fails.
        let _ = writeln!(io::stdout().lock(), "{document}");
    }
    complain(format_args!("error: {error:#}"));
}

/// Unlike `eprintln!` this does not panic when standard error is closed.
fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table in plain text: the first column to the left, the others to the right.
///
/// ```
/// let mut table = fedgestalt::output::Table::new(["site", "images"]);
/// table.row(["site-0", "12"]);
/// assert_eq!(table.to_string(), "site    images\nsite-0      12\n");
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![headings.into_iter().map(Into::into).collect()] }
    }

    /// One more line; missing cells are empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, at: usize| row.get(at).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|at| self.rows.iter().map(|row| cell(row, at).chars().count()).max().unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (at, &width) in widths.iter().enumerate() {
                let text = cell(row, at);
                if at == 0 {
                    line.push_str(&format!("{text:<width$}"));
                } else {
                    line.push_str(&format!("  {text:>width$}"));
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_short_rows_are_filled() {
        let mut table = Table::new(["", "top-1", "top-5"]);
        table.row(["centralised", "52.99", "71.01"]).row(["ü", "1"]);
        assert_eq!(
            table.to_string(),
            "             top-1  top-5\ncentralised  52.99  71.01\nü                1\n"
        );
    }
}

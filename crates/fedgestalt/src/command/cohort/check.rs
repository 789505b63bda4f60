//! `cohort check`: faults of a cohort folder, each with file and line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use domain::ImageId;
use domain::check::{self, Finding, Severity};
use rayon::prelude::*;
use serde::Serialize;

use crate::Outcome;
use crate::cohort_dir::{ImageFiles, POINTS_FILE, PointsTable, Tables, aligned_crop, photograph_crop};
use crate::context::Context;
use crate::faces::FaceFinder;

/// Arguments of `cohort check`.
#[derive(Debug, Args)]
#[command(
    long_about = "Look for faults in a cohort folder, each with file and line: missing images, duplicate ids, an \
    image with two labels or subjects, a subject in both train and test (or gallery and test), syndromes only in \
    validation, test syndromes without gallery. Exit status 1 if there are errors; warnings alone are not."
)]
pub struct CheckArgs {
    /// Cohort folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Also decode every image
    #[arg(long)]
    pub decode: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    dir: PathBuf,
    version: String,
    images: usize,
    errors: usize,
    warnings: usize,
    findings: Vec<Found>,
}

/// One fault.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Found {
    file: String,
    line: Option<u64>,
    severity: Severity,
    kind: String,
    message: String,
}

impl Found {
    fn error(file: &Path, kind: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.display().to_string(),
            line: None,
            severity: Severity::Error,
            kind: kind.to_owned(),
            message: message.into(),
        }
    }

    /// A table that could not be read: its error says "FILE, line N: fault".
    fn faulty(file: &Path, kind: &str, error: &domain::Error) -> Self {
        let text = error.to_string();
        let rest =
            text.strip_prefix(&file.display().to_string()).and_then(|rest| rest.strip_prefix(", line "));
        let place = rest
            .and_then(|rest| rest.split_once(": "))
            .and_then(|(line, fault)| Some((line.parse().ok()?, fault)));
        match place {
            Some((line, fault)) => Self { line: Some(line), ..Self::error(file, kind, fault) },
            None => Self::error(file, kind, text),
        }
    }
}

impl From<Finding> for Found {
    fn from(finding: Finding) -> Self {
        // The kind's own name, as domain serialises it.
        let kind = serde_json::to_value(finding.kind).ok().and_then(|kind| Some(kind.as_str()?.to_owned()));
        Self {
            file: finding.file,
            line: finding.line,
            severity: finding.severity,
            kind: kind.unwrap_or_default(),
            message: finding.message,
        }
    }
}

/// Checks.
///
/// # Errors
///
/// When the folder holds no tables or cannot be read.
pub fn run(args: CheckArgs, context: &Context) -> anyhow::Result<Outcome> {
    let tables = Tables::read(&args.dir)?;
    let images = ImageFiles::list(&args.dir)?;
    let mut findings: Vec<Found> = Vec::new();
    for (path, error) in &tables.faulty {
        findings.push(Found::faulty(path, "faulty_table", error));
    }
    for path in &tables.missing {
        findings.push(Found {
            severity: Severity::Warning,
            ..Found::error(path, "missing_table", "the table is not there; nobody plays its part")
        });
    }
    if let Err((path, error)) = tables.syndromes() {
        findings.push(Found::faulty(&path, "faulty_table", &error));
    }
    findings.extend(check::check(&tables.files, &|image| images.has(image)).into_iter().map(Found::from));
    let points = match PointsTable::read_if_there(&args.dir.join(POINTS_FILE)) {
        Ok(points) => points,
        Err(error) => {
            findings.push(faulty_points(&args.dir.join(POINTS_FILE), &error));
            PointsTable::default()
        }
    };
    let listed: BTreeSet<&ImageId> =
        tables.files.iter().flat_map(|table| &table.rows).map(|row| &row.image).collect();
    if args.decode {
        findings.extend(decode_all(&listed, &images, &points, context)?);
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let report = Report {
        version: tables.version.clone(),
        images: listed.len(),
        errors,
        warnings: findings.len() - errors,
        findings,
        dir: args.dir,
    };
    context.output.result(&report, describe)?;
    Ok(if errors > 0 { Outcome::Unclean } else { Outcome::Done })
}

/// Its error says "FILE:LINE: fault".
fn faulty_points(file: &Path, error: &anyhow::Error) -> Found {
    let text = format!("{error:#}");
    let rest = text.strip_prefix(&format!("{}:", file.display()));
    let place = rest
        .and_then(|rest| rest.split_once(": "))
        .and_then(|(line, fault)| Some((line.parse().ok()?, fault)));
    match place {
        Some((line, fault)) => Found { line: Some(line), ..Found::error(file, "faulty_points", fault) },
        None => Found::error(file, "faulty_points", text),
    }
}

fn decode_all(
    listed: &BTreeSet<&ImageId>,
    images: &ImageFiles,
    points: &PointsTable,
    context: &Context,
) -> anyhow::Result<Vec<Found>> {
    let faces = FaceFinder::open(&context.config, None, false, 1)?;
    let stage = context.progress.stage("Decode", listed.len() as u64);
    let findings: Vec<Found> = listed
        .par_iter()
        .filter_map(|image| {
            let (file, crop) = match (images.aligned(image), images.photograph(image)) {
                (Some(file), _) => (file, aligned_crop(file)),
                (None, Some(file)) => {
                    (file, photograph_crop(file, points.get(image), &faces).map(|(crop, _)| crop))
                }
                // Told of already.
                (None, None) => return None,
            };
            stage.advance(1);
            let causes: Vec<String> = crop.err()?.chain().map(ToString::to_string).collect();
            let name = file.display().to_string();
            let causes: Vec<&str> =
                causes.iter().map(String::as_str).filter(|cause| *cause != name).collect();
            Some(Found::error(file, "damaged_image", causes.join(": ")))
        })
        .collect();
    stage.finish(format_args!("{} images", listed.len()));
    Ok(findings)
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    for Found { file, line, severity, message, .. } in &report.findings {
        let line = line.map(|line| format!("{line}:")).unwrap_or_default();
        let severity = if *severity == Severity::Error { "error" } else { "warning" };
        text.push_str(&format!("{file}:{line} {severity}: {message}\n"));
    }
    text + &format!(
        "{}: {} images, {} errors, {} warnings",
        report.dir.display(),
        report.images,
        report.errors,
        report.warnings
    )
}

//! `discover`: what nobody has named yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use domain::discover::{Distances, cohort_similarity};
use domain::{ImageId, SyndromeId};
use serde::Serialize;

use crate::Outcome;
use crate::cohort_dir::CohortDir;
use crate::consortium::show::name;
use crate::context::Context;
use crate::output::Table;
use crate::pipeline::encodings::EncodingFile;
use crate::store;

/// Arguments of `discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// Cohort in the GMDB layout
    #[arg(long, value_name = "DIR")]
    pub cohort: PathBuf,
    /// Encodings that `encode` wrote
    #[arg(long, value_name = "FILE", default_value = "out/encodings.safetensors")]
    pub encodings: PathBuf,
    /// Images that may share a syndrome: compare their mean distance with random cohorts; separate with commas
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',')]
    pub images: Vec<ImageId>,
    /// Random cohorts to compare with
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub random: u32,
    /// Clusters to cut the dendrogram into [default: as many as syndromes]
    #[arg(long, value_name = "N")]
    pub clusters: Option<usize>,
    /// Seed of the random cohorts [default: from the configuration, 1]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Folder for matrices, clusters and the report
    #[arg(long, value_name = "DIR", default_value = "out/discover")]
    pub out: PathBuf,
}

/// Discovers.
///
/// # Errors
///
/// When the cohort or the encodings cannot be used.
pub fn run(args: DiscoverArgs, context: &Context) -> anyhow::Result<Outcome> {
    let dir = CohortDir::open(&args.cohort)?;
    let cohort = &dir.cohort;
    let file = EncodingFile::load(&args.encodings)?;
    let encodings = file.encodings()?;
    let images: Vec<&ImageId> = file.images().iter().filter(|image| cohort.case(image).is_some()).collect();
    ensure!(
        images.len() >= 2,
        "{} has encodings of fewer than two images of the cohort",
        args.encodings.display()
    );
    let stage = context.progress.stage("Distances", 0);
    let distances =
        Distances::between_images(&images.iter().map(|image| &encodings[*image]).collect::<Vec<_>>());
    let groups: Vec<&SyndromeId> = {
        let all: BTreeSet<&SyndromeId> =
            images.iter().filter_map(|i| cohort.case(i)).map(|c| &c.syndrome).collect();
        all.into_iter().collect()
    };
    let group_of: Vec<usize> =
        images.iter().filter_map(|image| groups.binary_search(&&cohort.case(image)?.syndrome).ok()).collect();
    let between = distances.between_groups(&group_of, groups.len())?;
    let tree = between.cluster();
    let wanted = args.clusters.unwrap_or(groups.len()).clamp(1, images.len());
    let clusters = clusters(&distances, wanted);
    stage.finish(format_args!("{} images of {} syndromes", images.len(), groups.len()));

    store::make_folder(&args.out)?;
    let labels: Vec<&str> = groups.iter().map(|id| id.as_str()).collect();
    let leaves: Vec<&str> = tree.leaf_order().into_iter().map(|leaf| labels[leaf]).collect();
    write(
        &args.out.join("syndrome_distances.csv"),
        &matrix(&labels, |r, c| format!("{:.6}", between.get(r, c))),
    )?;
    let ranks = between.ranks();
    write(
        &args.out.join("syndrome_ranks.csv"),
        &matrix(&labels, |r, c| ranks[r * labels.len() + c].to_string()),
    )?;
    let ids: Vec<&str> = images.iter().map(|image| image.as_str()).collect();
    write(
        &args.out.join("image_distances.csv"),
        &matrix(&ids, |r, c| format!("{:.6}", distances.get(r, c))),
    )?;
    let rows: String =
        images.iter().zip(&clusters).map(|(image, cluster)| format!("{image},{cluster}\n")).collect();
    write(&args.out.join("clusters.csv"), &format!("image_id,cluster\n{rows}"))?;
    store::write_json(&args.out.join("dendrogram.json"), &Dendrogram::new(&labels, &tree))?;

    let seed = args.seed.unwrap_or(context.config.training.seed);
    let cohort_found = match args.images.is_empty() {
        true => None,
        false => Some(suspected(&distances, &images, &args.images, args.random as usize, seed)?),
    };
    let found = Found {
        images: images.len(),
        syndromes: groups.len(),
        clusters: clusters.iter().collect::<BTreeSet<_>>().len(),
        leaf_order: leaves.iter().map(|label| (*label).to_owned()).collect(),
        closest: closest(&between, &groups, |id| name(cohort, id)),
        cohort: cohort_found,
        folder: args.out.display().to_string(),
    };
    store::write_json(&args.out.join("discover.json"), &found)?;
    context.output.result(&found, shown)?;
    Ok(Outcome::Done)
}

/// Pairs of syndromes listed.
const PAIRS: usize = 10;

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    images: usize,
    syndromes: usize,
    clusters: usize,
    leaf_order: Vec<String>,
    closest: Vec<Pair>,
    cohort: Option<Suspected>,
    folder: String,
}

/// Two syndromes and the mean distance between their images.
#[derive(Debug, Serialize)]
struct Pair {
    a: String,
    b: String,
    distance: f64,
}

/// Images that may share a syndrome, against random cohorts of the same size.
#[derive(Debug, Serialize)]
struct Suspected {
    images: Vec<ImageId>,
    mean_distance: f64,
    random_mean: f64,
    random_sd: f64,
    percentile: f64,
    p: f64,
}

/// The tree: leaves, and merges in SciPy's numbering (leaf `i`, or leaves + `k` for the result of merge `k`).
#[derive(Debug, Serialize)]
struct Dendrogram<'a> {
    leaves: Vec<&'a str>,
    merges: Vec<(usize, usize, f64)>,
}

impl<'a> Dendrogram<'a> {
    fn new(labels: &[&'a str], tree: &domain::discover::Dendrogram) -> Self {
        let merges = tree.merges().iter().map(|merge| (merge.left, merge.right, merge.height)).collect();
        Self { leaves: labels.to_vec(), merges }
    }
}

/// Cuts the images' dendrogram into so many clusters: above the merge that would make one fewer.
fn clusters(distances: &Distances, wanted: usize) -> Vec<usize> {
    let tree = distances.cluster();
    let merges = tree.merges();
    let kept = distances.len() - wanted;
    let threshold = match kept {
        0 => -1.0,
        kept => merges[kept - 1].height,
    };
    tree.flat(threshold)
}

fn suspected(
    distances: &Distances,
    images: &[&ImageId],
    wanted: &[ImageId],
    random: usize,
    seed: u64,
) -> anyhow::Result<Suspected> {
    let members = wanted
        .iter()
        .map(|image| {
            images.iter().position(|other| *other == image).with_context(|| {
                format!("image {image} has no encoding or is not in the cohort; check the list given with --images")
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let found = cohort_similarity(distances, &members, random, seed)?;
    Ok(Suspected {
        images: wanted.to_vec(),
        mean_distance: found.mean,
        random_mean: found.random_mean,
        random_sd: found.random_sd,
        percentile: found.percentile,
        p: found.p,
    })
}

fn closest(between: &Distances, groups: &[&SyndromeId], name: impl Fn(&SyndromeId) -> String) -> Vec<Pair> {
    let mut pairs: Vec<(usize, usize)> =
        (0..groups.len()).flat_map(|a| (a + 1..groups.len()).map(move |b| (a, b))).collect();
    pairs.sort_by(|x, y| between.get(x.0, x.1).total_cmp(&between.get(y.0, y.1)));
    pairs
        .into_iter()
        .take(PAIRS)
        .map(|(a, b)| Pair { a: name(groups[a]), b: name(groups[b]), distance: between.get(a, b) })
        .collect()
}

/// A square table with labels on both sides.
fn matrix(labels: &[&str], cell: impl Fn(usize, usize) -> String) -> String {
    let mut out = format!(",{}\n", labels.join(","));
    for (row, label) in labels.iter().enumerate() {
        let cells: Vec<String> = (0..labels.len()).map(|column| cell(row, column)).collect();
        out.push_str(&format!("{label},{}\n", cells.join(",")));
    }
    out
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(store::write_private(path, text.as_bytes())?)
}

fn shown(found: &Found) -> String {
    let mut table = Table::new(["closest syndromes", "distance"]);
    for pair in &found.closest {
        table.row([format!("{} - {}", pair.a, pair.b), format!("{:.4}", pair.distance)]);
    }
    let mut out = format!(
        "{} images of {} syndromes in {} clusters; matrices, clusters and dendrogram are in {}\n\n{table}",
        found.images, found.syndromes, found.clusters, found.folder
    );
    if let Some(cohort) = &found.cohort {
        out.push_str(&format!(
            "\nThe {} images lie {:.4} apart on average; random cohorts {:.4} (standard deviation {:.4}): p = {:.4}\n",
            cohort.images.len(),
            cohort.mean_distance,
            cohort.random_mean,
            cohort.random_sd,
            cohort.p
        ));
    }
    out
}

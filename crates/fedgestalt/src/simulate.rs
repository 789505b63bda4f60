//! The simulated cohort: synthetic patients drawn into a cohort folder in GMDB's layout.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chacha20::ChaCha8Rng;
use domain::cohort::{Case, Cohort, Part, Syndrome};
use domain::{ImageId, SubjectId, SyndromeId, gmdb, split};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use synthface::{Gestalt, Population};

use crate::config::DemoCohort;
use crate::store::{self, Folder};

/// JPEG quality of the photographs.
const QUALITY: u8 = 92;
/// Subjects a syndrome needs in order to be trained on.
const FREQUENT_SUBJECTS: usize = 7;
/// Splits of the rare syndromes.
const SPLITS: u8 = 10;
/// The version in the tables' file names.
const VERSION: &str = "1.0.3";
/// Subjects of the newcomer have numbers from here, so that they are nobody else's.
const NEWCOMER_SUBJECTS: u64 = 1 << 32;
/// Syndromes and subjects per syndrome that the newcomer has.
const NEWCOMER_SYNDROMES: usize = 20;
const NEWCOMER_SUBJECTS_EACH: usize = 3;

/// What a folder of patients was drawn from, so that an interrupted drawing goes on with the same.
#[derive(Serialize, Deserialize)]
struct Drawn {
    cohort: DemoCohort,
    seed: u64,
    complete: bool,
}

const DRAWN: &str = "drawn.json";

/// A photograph to be drawn.
struct Order {
    case: Case,
    syndrome: usize,
    subject: u64,
    image: u64,
}

/// Draws the cohort into `out`, unless it is there already. `tick` is called for each photograph.
pub fn cohort(out: &Path, demo: &DemoCohort, seed: u64, tick: &(dyn Fn() + Sync)) -> Result<()> {
    let (gestalts, orders) = plan(demo, seed)?;
    let syndromes = syndromes(&gestalts)?;
    let cases = orders.iter().map(|order| order.case.clone()).collect();
    let cohort = split::partition(cases, syndromes, FREQUENT_SUBJECTS, SPLITS, seed)?;
    draw(out, demo, seed, gestalts, &orders, &cohort, tick)
}

/// Draws the newcomer's patients: further subjects of some of the frequent syndromes, one of each syndrome as a probe.
pub fn newcomer(out: &Path, demo: &DemoCohort, seed: u64, tick: &(dyn Fn() + Sync)) -> Result<()> {
    let gestalts = gestalts(demo, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6e65_7763_6f6d_6572);
    let mut picked: Vec<usize> = (0..demo.frequent_syndromes).collect();
    for at in (1..picked.len()).rev() {
        picked.swap(at, rng.random_range(0..=at));
    }
    picked.truncate(NEWCOMER_SYNDROMES);
    picked.sort_unstable();
    let mut orders = Vec::new();
    let (mut gallery, mut probes) = (Vec::new(), Vec::new());
    for &syndrome in &picked {
        for subject in 0..NEWCOMER_SUBJECTS_EACH {
            let number = NEWCOMER_SUBJECTS + (syndrome * NEWCOMER_SUBJECTS_EACH + subject) as u64;
            let image = ImageId::new(&format!("n{}", orders.len()))?;
            orders.push(Order {
                case: Case {
                    image: image.clone(),
                    subject: SubjectId::new(&format!("n{number}"))?,
                    syndrome: label(syndrome)?,
                },
                syndrome,
                subject: number,
                image: 0,
            });
            if subject == 0 { probes.push(image) } else { gallery.push(image) }
        }
    }
    let cases = orders.iter().map(|order| order.case.clone()).collect();
    let parts = [(Part::FrequentGallery, gallery), (Part::FrequentTest, probes)].into_iter().collect();
    let cohort = Cohort::new(syndromes(&gestalts)?, cases, parts)?;
    draw(out, demo, seed, gestalts, &orders, &cohort, tick)
}

/// Photographs of [`cohort`], about: for a progress bar.
pub fn images(demo: &DemoCohort, seed: u64) -> Result<usize> {
    Ok(plan(demo, seed)?.1.len())
}

/// The syndromes: real gestalts first, invented ones behind.
fn gestalts(demo: &DemoCohort, seed: u64) -> Vec<Gestalt> {
    let wanted = demo.frequent_syndromes + demo.rare_syndromes;
    let real = synthface::catalogue();
    let mut all: Vec<Gestalt> = real.iter().take(wanted).cloned().collect();
    all.extend(synthface::generated(wanted - all.len(), seed));
    all
}

fn label(syndrome: usize) -> Result<SyndromeId> {
    Ok(SyndromeId::new(&syndrome.to_string())?)
}

fn syndromes(gestalts: &[Gestalt]) -> Result<Vec<Syndrome>> {
    gestalts
        .iter()
        .enumerate()
        .map(|(at, gestalt)| {
            Ok(Syndrome {
                id: label(at)?,
                name: gestalt.name.clone(),
                mondo: None,
                omim: gestalt.omim.clone(),
                orpha: gestalt.orpha.clone(),
            })
        })
        .collect()
}

/// Who is photographed how often. Frequent syndromes have 7 subjects and a long tail above, rare ones 2 to 6; a subject
/// has one to three photographs.
fn plan(demo: &DemoCohort, seed: u64) -> Result<(Vec<Gestalt>, Vec<Order>)> {
    let gestalts = gestalts(demo, seed);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let photographs = |rng: &mut ChaCha8Rng| match rng.random_range(0..10) {
        0..7 => 1,
        7..9 => 2,
        _ => 3,
    };
    let mut people: Vec<(usize, usize)> = Vec::new();
    let push = |people: &mut Vec<(usize, usize)>, syndrome, subjects: usize, rng: &mut ChaCha8Rng| {
        let images: Vec<usize> = (0..subjects).map(|_| photographs(rng)).collect();
        people.extend(images.iter().map(|&images| (syndrome, images)));
        images.iter().sum::<usize>()
    };
    let mut left = demo.images;
    for rare in 0..demo.rare_syndromes {
        let subjects = rng.random_range(2..=6);
        left = left.saturating_sub(push(&mut people, demo.frequent_syndromes + rare, subjects, &mut rng));
    }
    // The tail: exponential, scaled so that the images come out about right.
    let weights: Vec<f64> = (0..demo.frequent_syndromes).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect();
    let per_subject = 1.4;
    let base = (FREQUENT_SUBJECTS * demo.frequent_syndromes) as f64;
    let spare = left as f64 / per_subject - base;
    if spare < 0.0 {
        bail!(
            "{} images are too few for {} frequent and {} rare syndromes; ask for at least {}",
            demo.images,
            demo.frequent_syndromes,
            demo.rare_syndromes,
            demo.images - left + (base * per_subject).ceil() as usize
        );
    }
    let total: f64 = weights.iter().sum();
    for (syndrome, weight) in weights.iter().enumerate() {
        let subjects = FREQUENT_SUBJECTS + (spare * weight / total).round() as usize;
        push(&mut people, syndrome, subjects, &mut rng);
    }
    let mut orders = Vec::new();
    for (subject, (syndrome, images)) in people.into_iter().enumerate() {
        for image in 0..images {
            let case = Case {
                image: ImageId::new(&(orders.len() + 1000).to_string())?,
                subject: SubjectId::new(&subject.to_string())?,
                syndrome: label(syndrome)?,
            };
            orders.push(Order { case, syndrome, subject: subject as u64, image: image as u64 });
        }
    }
    Ok((gestalts, orders))
}

/// Draws what is missing and writes the tables last: a folder with tables is whole.
fn draw(
    out: &Path,
    demo: &DemoCohort,
    seed: u64,
    gestalts: Vec<Gestalt>,
    orders: &[Order],
    cohort: &Cohort,
    tick: &(dyn Fn() + Sync),
) -> Result<()> {
    let folder = Folder::open(out)?;
    let drawn = Drawn { cohort: demo.clone(), seed, complete: false };
    match folder.read_json::<Drawn>(DRAWN)? {
        Some(found) if (&found.cohort, found.seed) != (&drawn.cohort, seed) => bail!(
            "{} holds patients drawn with other settings (seed {} there, {seed} here); give another --out, or delete that folder",
            out.display(),
            found.seed
        ),
        Some(found) if found.complete => {
            orders.iter().for_each(|_| tick());
            return Ok(());
        }
        Some(_) => {}
        None => folder.write_json(DRAWN, &drawn)?,
    }
    let (photographs, metadata) = (folder.subfolder("gmdb_images")?, folder.subfolder("gmdb_metadata")?);
    let population = Population::new(gestalts, demo.difficulty, seed)?;
    let points: Vec<String> = orders
        .par_iter()
        .map(|order| {
            let photograph =
                population.subject(order.syndrome, order.subject).photograph(order.image, demo.photo_size);
            let path = photographs.join(format!("{}.jpg", order.case.image));
            if !path.exists() {
                let mut bytes = Vec::new();
                JpegEncoder::new_with_quality(&mut bytes, QUALITY)
                    .write_image(
                        &photograph.rgb,
                        photograph.width,
                        photograph.height,
                        ExtendedColorType::Rgb8,
                    )
                    .with_context(|| format!("cannot encode {}", path.display()))?;
                store::write_private(&path, &bytes)?;
            }
            tick();
            let numbers: Vec<String> =
                photograph.points.iter().flatten().map(|value| format!("{value:.3}")).collect();
            Ok(format!("{},{}\n", order.case.image, numbers.join(",")))
        })
        .collect::<Result<_>>()?;
    store::write_private(
        &out.join("points.csv"),
        format!("image_id,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\n{}", points.concat()).as_bytes(),
    )?;
    store::write_private(&out.join("syndromes.csv"), syndrome_table(cohort).as_bytes())?;
    for (table, rows) in gmdb::disassemble(cohort) {
        store::write_private(&metadata.join(table.file_name(VERSION)), table.write(&rows).as_bytes())?;
    }
    folder.write_json(DRAWN, &Drawn { complete: true, ..drawn })?;
    Ok(())
}

/// `syndromes.csv`: label, name, and the ids that are known.
fn syndrome_table(cohort: &Cohort) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let rows: String = cohort
        .syndromes()
        .iter()
        .map(|s| {
            let id = |id: &Option<String>| id.clone().unwrap_or_default();
            format!("{},{},{},{},{}\n", s.id, quoted(&s.name), id(&s.mondo), id(&s.omim), id(&s.orpha))
        })
        .collect();
    format!("label,name,mondo,omim,orpha\n{rows}")
}

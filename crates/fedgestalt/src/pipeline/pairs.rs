//! How well each member tells syndromes apart: cosines of validation images with training images, member by member.

use anyhow::{Context as _, Result};
use domain::Encoding;
use learn::{Example, FeatureSource, PairMoments};
use vision::views::VIEWS;

use super::ensemble::Blueprint;
use super::features::view_features;
use super::weights::Weights;

/// Validation images with a training image of their syndrome below which nothing is said about them: sums over few pairs tell
/// of single images.
pub const LEAST_IMAGES: usize = 5;
/// Images encoded together.
const CHUNK: usize = 256;

/// Images to compare, as rows of the tables of views.
pub struct Images<'a> {
    /// Training images.
    pub training: &'a [Example],
    /// Validation images.
    pub validation: &'a [Example],
}

/// The moments over pairs of these images: per validation image the training image of the same syndrome that the ensemble, all
/// members alike, finds nearest, and the nearest of each other syndrome. Nothing where there are too few. `views` are the
/// tables of the networks, whose rows are the same images.
pub fn moments(
    blueprint: &Blueprint,
    weights: Weights,
    views: &[&dyn FeatureSource],
    images: &Images<'_>,
) -> Result<PairMoments> {
    let members: Vec<usize> = blueprint.members.iter().map(|m| VIEWS * blueprint.outputs(m)).collect();
    let mut moments = PairMoments::zeros(members.len());
    let ensemble = blueprint.ensemble(Weights { members: Vec::new(), ..weights })?;
    let encode = |examples: &[Example]| -> Result<Vec<Encoding>> {
        let mut out = Vec::with_capacity(examples.len());
        for chunk in examples.chunks(CHUNK) {
            let features = views.iter().map(|&table| {
                chunk.iter().flat_map(|example| view_features(table, example.row)).collect::<Vec<f32>>()
            });
            out.extend(ensemble.encode(&features.collect::<Vec<_>>(), chunk.len())?);
        }
        Ok(out)
    };
    let known = |example: &&Example| images.training.iter().any(|other| other.label == example.label);
    let asked: Vec<Example> = images.validation.iter().filter(known).copied().collect();
    if asked.len() < LEAST_IMAGES {
        return Ok(moments);
    }
    let training = encode(images.training)?;
    let gallery: Vec<&[f32]> = training.iter().map(Encoding::as_slice).collect();
    let classes = images.training.iter().map(|example| example.label as usize + 1).max().unwrap_or(0);
    for (example, encoding) in asked.iter().zip(encode(&asked)?) {
        let mut nearest: Vec<Option<(f32, usize)>> = vec![None; classes];
        for (at, (similarity, other)) in
            encoding.similarities(&gallery).into_iter().zip(images.training).enumerate()
        {
            let best = &mut nearest[other.label as usize];
            if best.is_none_or(|(before, _)| similarity > before) {
                *best = Some((similarity, at));
            }
        }
        for (class, (_, at)) in nearest.iter().enumerate().filter_map(|(class, best)| Some((class, (*best)?)))
        {
            let cosines = cosines(&encoding, &training[at], &members);
            moments.note(class == example.label as usize, &cosines).context("a pair of images")?;
        }
    }
    Ok(moments)
}

/// Each member's mean cosine over the views: the inner product of its part, which is by the number of members too small.
fn cosines(a: &Encoding, b: &Encoding, members: &[usize]) -> Vec<f64> {
    let mut start = 0;
    let part = members.iter().map(|len| {
        let range = start..start + len;
        start += len;
        let pairs = a.as_slice()[range.clone()].iter().zip(&b.as_slice()[range]);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() * members.len() as f64
    });
    part.collect()
}

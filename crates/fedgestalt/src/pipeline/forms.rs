//! Closed-form members on feature tables: their sums at one site, or over many.

use std::borrow::Cow;

use anyhow::{Context as _, Result};
use federation::ClassWeighting;
use learn::{
    ClosedForm, Example, FeatureSource, FormMoments, FormSettings, Head, Refiner, Ridge, StartMoments,
};
use vision::views::VIEWS;

use super::ensemble::{Blueprint, Form, Member};
use super::features::view_features;
use super::training::{label_counts, loss_weights};
use super::weights::Weights;

/// Images whose representations are held at once.
const CHUNK: usize = 512;

/// The sums of one closed-form member over some training images: every view of each counts.
pub fn moments(
    form: &Form,
    head: &Head,
    views: &dyn FeatureSource,
    training: &[Example],
    shared: &[bool],
) -> Result<FormMoments> {
    let mut total = FormMoments::zeros(form.dim, shared.len());
    for examples in portions(training, shared) {
        let (basis, labels) = basis(form, head, views, &examples)?;
        total.add(&FormMoments::collect(&basis, form.dim, &labels, shared)?)?;
    }
    Ok(total)
}

/// What a closed form is refined on: its basis of training images, every view of each.
pub struct Material {
    /// Row by row.
    pub values: Vec<f32>,
    /// The rows' syndromes.
    pub labels: Vec<u32>,
}

/// The material over some training images; those of syndromes that stay at home are left out.
pub fn material(
    form: &Form,
    head: &Head,
    views: &dyn FeatureSource,
    training: &[Example],
    shared: &[bool],
) -> Result<Material> {
    let training: Vec<Example> =
        training.iter().filter(|example| shared[example.label as usize]).copied().collect();
    let mut material = Material { values: Vec::new(), labels: Vec::new() };
    material.values.reserve_exact(training.len() * VIEWS * form.dim);
    for examples in training.chunks(CHUNK) {
        let (basis, labels) = basis(form, head, views, examples)?;
        material.values.extend(basis);
        material.labels.extend(labels);
    }
    Ok(material)
}

/// A form's basis of the images' views, and their labels.
fn basis(
    form: &Form,
    head: &Head,
    views: &dyn FeatureSource,
    examples: &[Example],
) -> Result<(Vec<f32>, Vec<u32>)> {
    let (features, labels) = gather(views, examples);
    let represent = || Ok(Cow::Owned(head.represent(&features, labels.len())?));
    let basis = form.basis(&features, represent, labels.len())?.into_owned();
    Ok((basis, labels))
}

/// The moments that a tuned member starts from, over some training images: every view of each counts.
pub fn start_moments(
    published: &Head,
    views: &dyn FeatureSource,
    training: &[Example],
    shared: &[bool],
) -> Result<StartMoments> {
    let dim = published.shape().dim;
    let mut total = StartMoments::zeros(dim, shared.len());
    for examples in portions(training, shared) {
        let (features, labels) = gather(views, &examples);
        let representations = published.represent(&features, labels.len())?;
        total.add(&StartMoments::collect(&representations, dim, &labels, shared)?)?;
    }
    Ok(total)
}

/// Takes tuned members from where they are published to where closed forms are; the others stay.
pub fn start(blueprint: &Blueprint, heads: &mut [Head], moments: &[StartMoments]) -> Result<()> {
    for ((at, member, settings), moments) in blueprint.starts().zip(moments) {
        let mut start = || {
            let ridge = settings.ridge.of(&moments.form, settings)?;
            heads[at].start_from(moments, FormSettings { ridge: Ridge::Fixed(ridge), ..settings })
        };
        start().with_context(|| format!("start of member {}", member.name))?;
    }
    Ok(())
}

/// Training images in portions whose representations are held at once.
fn portions(training: &[Example], shared: &[bool]) -> Vec<Vec<Example>> {
    if shared.iter().all(|&shared| shared) {
        return training.chunks(CHUNK).map(<[Example]>::to_vec).collect();
    }
    // A syndrome that stays at home is centred on its own mean, so its images are taken together.
    let mut by_label: Vec<Vec<Example>> = vec![Vec::new(); shared.len()];
    training.iter().for_each(|example| by_label[example.label as usize].push(*example));
    by_label.retain(|examples| !examples.is_empty());
    by_label
}

/// Features and labels of the images' views.
fn gather(views: &dyn FeatureSource, examples: &[Example]) -> (Vec<f32>, Vec<u32>) {
    let mut features = Vec::with_capacity(examples.len() * VIEWS * views.dim());
    let mut labels = Vec::with_capacity(examples.len() * VIEWS);
    for example in examples {
        features.extend(view_features(views, example.row));
        labels.extend([example.label; VIEWS]);
    }
    (features, labels)
}

/// The head under a closed-form member: that of a tuned member, or of the network as published.
pub fn base<'a>(
    blueprint: &'a Blueprint,
    member: &Member,
    form: &Form,
    tuned: &'a [Head],
) -> Result<&'a Head> {
    match form.on {
        Some(at) => tuned.get(at).context("a closed form stands on a member that is not trained"),
        None => Ok(blueprint.network(member).published()?),
    }
}

/// Solves the closed-form members of an ensemble from their sums.
pub fn solve(blueprint: &Blueprint, moments: &[FormMoments]) -> Result<Vec<ClosedForm>> {
    blueprint
        .forms()
        .zip(moments)
        .map(|((member, form), moments)| {
            let solve = || {
                let ridge = form.settings.ridge.of(moments, form.settings)?;
                tracing::info!(member = member.name, ridge, "a closed form's ridge");
                ClosedForm::solve(moments, FormSettings { ridge: Ridge::Fixed(ridge), ..form.settings })
            };
            solve().with_context(|| format!("member {}", member.name))
        })
        .collect()
}

/// The weights of an ensemble whose closed-form members are computed from one pool of images.
pub fn complete<'a>(
    blueprint: &Blueprint,
    heads: Vec<Head>,
    classes: usize,
    weighting: ClassWeighting,
    views: impl Fn(usize) -> Result<(Box<dyn FeatureSource + 'a>, Vec<Example>)>,
) -> Result<Weights> {
    let shared = vec![true; classes];
    let sums = blueprint
        .forms()
        .map(|(member, form)| {
            let (views, training) = views(member.network)?;
            let head = base(blueprint, member, form, &heads)?;
            moments(form, head, views.as_ref(), &training, &shared)
                .with_context(|| format!("member {}", member.name))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut solved = solve(blueprint, &sums)?;
    for (((member, form), moments), solved) in blueprint.forms().zip(&sums).zip(&mut solved) {
        let Some(refinement) = form.refinement else { continue };
        let (views, training) = views(member.network)?;
        let head = base(blueprint, member, form, &heads)?;
        let mut refine = || {
            let material = material(form, head, views.as_ref(), &training, &shared)?;
            let weights = loss_weights(weighting, &label_counts(&training, classes));
            let refiner = Refiner::new(moments, refinement, &weights)?;
            for step in 0..refinement.steps {
                let gradient = refiner.gradient(solved, &material.values, &material.labels)?;
                *solved = refiner.step(solved, &gradient, step)?;
            }
            Ok::<_, anyhow::Error>(())
        };
        refine().with_context(|| format!("member {}", member.name))?;
    }
    Ok(Weights { forms: solved, heads, members: Vec::new() })
}

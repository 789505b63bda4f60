//! Closed-form members on feature tables: their sums at one site, or over many.

use std::borrow::Cow;

use anyhow::{Context as _, Result};
use learn::{ClosedForm, Example, FeatureSource, FormMoments, FormSettings, Head, Ridge};
use vision::views::VIEWS;

use super::ensemble::{Blueprint, Form, Member};
use super::features::view_features;
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
    if shared.iter().all(|&shared| shared) {
        for chunk in training.chunks(CHUNK) {
            total.add(&collect(form, head, views, chunk, shared)?)?;
        }
        return Ok(total);
    }
    // A syndrome that stays at home is centred on its own mean, so its images are taken together.
    let mut by_label: Vec<Vec<Example>> = vec![Vec::new(); shared.len()];
    training.iter().for_each(|example| by_label[example.label as usize].push(*example));
    for examples in by_label.iter().filter(|examples| !examples.is_empty()) {
        total.add(&collect(form, head, views, examples, shared)?)?;
    }
    Ok(total)
}

fn collect(
    form: &Form,
    head: &Head,
    views: &dyn FeatureSource,
    examples: &[Example],
    shared: &[bool],
) -> Result<FormMoments> {
    let mut features = Vec::with_capacity(examples.len() * VIEWS * views.dim());
    let mut labels = Vec::with_capacity(examples.len() * VIEWS);
    for example in examples {
        features.extend(view_features(views, example.row));
        labels.extend([example.label; VIEWS]);
    }
    let represent = || Ok(Cow::Owned(head.represent(&features, labels.len())?));
    let basis = form.basis(&features, represent, labels.len())?;
    Ok(FormMoments::collect(&basis, form.dim, &labels, shared)?)
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
    Ok(Weights { forms: solve(blueprint, &sums)?, heads })
}

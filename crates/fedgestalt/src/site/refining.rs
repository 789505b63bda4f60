//! Refining closed forms at a site: gradients over its own images, and steps by those of all.

use anyhow::{Context, Result};
use federation::{Action, GradientSums, Refine};
use learn::{ClosedForm, FormGradient, FormMoments, Refiner};

use super::Site;
use super::model::shared_syndromes;
use crate::pipeline::ensemble::Blueprint;
use crate::pipeline::forms::{self, Material};
use crate::pipeline::latest::Digest;

/// The refined members at one site, in order.
#[derive(Default)]
pub(super) struct Refining {
    /// Empty before the closed forms are solved.
    refiners: Vec<Refiner>,
    /// What the gradients are over, from the first one on; one for each refiner.
    material: Vec<Material>,
}

impl Refining {
    /// What a step is made from, all of it.
    fn digest(&self, forms: &[ClosedForm], weights: &[f32], refine: &Refine) -> blake3::Hash {
        let mut digest = Digest::default();
        digest.add(&[refine.step]);
        for GradientSums { map, shift, means, loss, rows } in &refine.gradients {
            [map, shift, means].into_iter().for_each(|numbers| digest.add(numbers));
            digest.add(&[*loss, *rows]);
        }
        forms.iter().flat_map(ClosedForm::tensors).for_each(|values| digest.add(values));
        self.refiners.iter().for_each(|refiner| digest.add(&refiner.means()));
        digest.add(weights);
        digest.finish()
    }
}

/// A gradient as the federation adds it.
fn gradient_sums(gradient: FormGradient) -> GradientSums {
    let FormGradient { map, shift, means, loss, rows } = gradient;
    GradientSums { map, shift, means, loss, rows }
}

/// The gradient of all sites as a step takes it.
fn gradient(sums: GradientSums) -> FormGradient {
    let GradientSums { map, shift, means, loss, rows } = sums;
    FormGradient { map, shift, means, loss, rows }
}

/// Places among the closed forms of those that a step refines, each with its place among the refined ones.
fn refined(blueprint: &Blueprint, step: u32) -> Vec<(usize, usize)> {
    let refined = blueprint.forms().enumerate().filter_map(|(at, (_, form))| Some((at, form.refinement?)));
    let refined = refined.enumerate().filter(|(_, (_, refinement))| refinement.steps > step);
    refined.map(|(place, (at, _))| (at, place)).collect()
}

impl Site {
    /// Keeps what the sums say of the syndromes' means, for the steps to come.
    pub(super) fn prepare_refining(&mut self, moments: &[FormMoments]) -> Result<()> {
        let weights = self.model_mut()?.class_weights().to_vec();
        let refiners = self.blueprint.forms().zip(moments).filter_map(|((member, form), moments)| {
            let refiner = Refiner::new(moments, form.refinement?, &weights);
            Some(refiner.with_context(|| format!("member {}", member.name)))
        });
        self.refining = Refining { refiners: refiners.collect::<Result<_>>()?, material: Vec::new() };
        let means: Vec<Vec<f32>> = self.refining.refiners.iter().map(Refiner::means).collect();
        self.files.save_means(&means)
    }

    /// Reads it again after a restart.
    pub(super) fn resume_refining(&mut self) -> Result<()> {
        let weights = self.model_mut()?.class_weights().to_vec();
        let refined = self.blueprint.forms().filter_map(|(_, form)| Some((form.dim, form.refinement?)));
        let refined: Vec<_> = refined.collect();
        let means = self.files.means(refined.len())?;
        let refiners = refined.into_iter().zip(&means).map(|((dim, refinement), means)| {
            Refiner::restored(means, dim, refinement, &weights).context("the kept means of syndromes")
        });
        self.refining = Refining { refiners: refiners.collect::<Result<_>>()?, material: Vec::new() };
        Ok(())
    }

    /// The gradients of a step over this site's training images.
    pub(super) fn gradients(&mut self, step: u32) -> Result<Vec<Action>> {
        match self.own_gradients(step) {
            Ok(gradients) => Ok(self.participant.submit_gradients(&gradients)?),
            Err(error) => self.sit_out(&error),
        }
    }

    fn own_gradients(&mut self, step: u32) -> Result<Vec<GradientSums>> {
        if self.refining.material.is_empty() {
            self.refining.material = self.material()?;
        }
        let (model, _) = self.at_work()?;
        let refined = refined(&self.blueprint, step).into_iter().map(|(at, place)| {
            let refiner =
                self.refining.refiners.get(place).context("the closed forms are not solved here")?;
            let material = &self.refining.material[place];
            Ok(gradient_sums(refiner.gradient(&model.forms()[at], &material.values, &material.labels)?))
        });
        refined.collect()
    }

    fn material(&self) -> Result<Vec<Material>> {
        let (model, lessons) = self.at_work()?;
        let begin = self.begin.as_ref().context("the session has not begun here")?;
        let shared = shared_syndromes(begin);
        let refined = self.blueprint.forms().filter(|(_, form)| form.refinement.is_some());
        let material = refined.map(|(member, form)| {
            let head = forms::base(&self.blueprint, member, form, model.heads())?;
            let views = &self.tables.views[member.network];
            forms::material(form, head, views, &lessons.training_views, &shared)
        });
        material.collect()
    }

    /// A step by the gradients of all sites.
    pub(super) fn refine(&mut self, refine: Refine) -> Result<Vec<Action>> {
        let (model, _) = self.at_work()?;
        let forms = model.forms();
        let from = self.refining.digest(forms, model.class_weights(), &refine);
        let forms = self.blueprint.refined.get(from, || self.stepped(forms, &refine))?;
        self.model_mut()?.set_forms(forms);
        if refined(&self.blueprint, refine.step + 1).is_empty() {
            self.refining.material = Vec::new();
        }
        self.keep(refine.stage)
    }

    fn stepped(&self, forms: &[ClosedForm], refine: &Refine) -> Result<Vec<ClosedForm>> {
        let mut forms = forms.to_vec();
        for ((at, place), sums) in refined(&self.blueprint, refine.step).into_iter().zip(&refine.gradients) {
            let refiner =
                self.refining.refiners.get(place).context("the closed forms are not solved here")?;
            let gradient = gradient(sums.clone());
            tracing::info!(site = %self.name, step = refine.step, loss = gradient.mean_loss(), "a closed form is refined");
            forms[at] = refiner.step(&forms[at], &gradient, refine.step)?;
        }
        Ok(forms)
    }
}

//! Taking over a release that others have trained.

use anyhow::{Context as _, Result};
use federation::{Action, Adoption};
use learn::ClosedForm;

use super::{Site, model};

impl Site {
    /// The release's weights, kept, and this site's gallery by them.
    pub(super) fn adopt(&mut self, adoption: &Adoption) -> Result<Vec<Action>> {
        self.start(self.participant.begin().context("nothing was adopted")?)?;
        let tuned: Vec<_> = self.blueprint.tuned().cloned().collect();
        let mut heads = model::starting_heads(&self.blueprint, adoption.trained.len(), adoption.plan.seed)?;
        for ((member, head), tensors) in tuned.iter().zip(&mut heads).zip(&adoption.tensors) {
            let plan = adoption
                .plan
                .members
                .iter()
                .find(|plan| plan.name == member.name)
                .with_context(|| format!("the release has no member {}", member.name))?;
            for (spec, values) in plan.tensors.iter().zip(tensors) {
                if !values.is_empty() {
                    head.set_tensor(&spec.name, values)?;
                }
            }
        }
        let (forms, weights) = adoption.tensors[tuned.len()..].split_at(adoption.plan.forms.len());
        let forms = forms.iter().map(|tensors| {
            let [mean, projection] = &tensors[..] else { anyhow::bail!("a closed form has two tensors") };
            Ok(ClosedForm::from_tensors(mean.clone(), projection.clone())?)
        });
        let forms = forms.collect::<Result<_>>()?;
        let model = self.model_mut()?;
        model.restart(heads)?;
        model.set_forms(forms);
        model.set_member_weights(weights.iter().flatten().flatten().copied().collect());
        let weights = model.weights();
        self.files.save_weights(adoption.plan.last_model_stage(), &self.blueprint, &weights, None)?;
        self.release = self.participant.released().cloned();
        if let Some(release) = &self.release {
            self.files.save_release(release)?;
        }
        self.finished = true;
        adoption.kernel.as_ref().map_or_else(|| Ok(Vec::new()), |setup| self.gallery(setup))
    }
}

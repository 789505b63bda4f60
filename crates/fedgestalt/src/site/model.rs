//! The model a site trains: one trainer per tuned member, and the weights the round started from.

use anyhow::{Context, Result};
use federation::{
    Aggregation, Begin, FormPlan, FormSums, PairSums, Plan, RecipePlan, RefinementPlan, Rows, Statistics,
    TensorKind, TensorSpec,
};
use learn::{
    Classifier, ClosedForm, FormMoments, FormSettings, Head, Moments, PairKind, PairMoments, Recipe,
    Refinement, Ridge, StartMoments, Trainer, Weighting,
};
use rayon::prelude::*;

use crate::pipeline::ensemble::{Basis, Blueprint, Member, StartingNeck};
use crate::pipeline::training::{LEAST_IMAGES, Pool, loss_weights, rate_schedule, validate};
use crate::pipeline::weights::Weights;
use crate::site::server::Server;

/// What a round's training gave.
pub struct Trained {
    /// Per member and tensor of the plan: the change of every value.
    pub deltas: Vec<Vec<Vec<f32>>>,
    /// Mean training loss of the last epoch, per member; empty where nothing was trained, as the accuracy.
    pub loss: Vec<f64>,
    /// Share of training images classified right in the last epoch, per member.
    pub accuracy: Vec<f64>,
}

/// Loss and accuracy on a site's own validation images, per member; `None` without any.
pub type Validation = Option<Vec<(f64, f64)>>;

/// The tuned members at one site.
#[derive(Debug, Clone)]
pub struct SiteModel {
    plan: Plan,
    /// Whether a classifier row travels.
    shared_rows: Vec<bool>,
    weights: Vec<f32>,
    /// The weights every site had when the round began.
    base: Vec<Head>,
    trainers: Vec<Trainer>,
    server: Server,
    /// All zeros until they are solved.
    forms: Vec<ClosedForm>,
    /// What each member of the ensemble counts; zeros until they are computed, empty where all count alike.
    member_weights: Vec<f32>,
}

/// A member's recipe as the trainers read it.
fn recipe(plan: &Plan, member: usize) -> Recipe {
    let recipe = &plan.members[member].recipe;
    Recipe {
        batch: recipe.batch as usize,
        neck_lr: recipe.neck_lr,
        neck_wd: recipe.neck_wd,
        classifier_lr: recipe.classifier_lr,
        classifier_wd: recipe.classifier_wd,
        dropout: recipe.dropout,
        classifier: classifier(recipe.classifier),
        proximal: plan.tuning.proximal,
        rates: rate_schedule(plan.tuning.rates, plan.epochs),
        ..Recipe::r50()
    }
}

/// A recipe as the plan spells it.
pub fn recipe_plan(recipe: &Recipe) -> RecipePlan {
    RecipePlan {
        batch: recipe.batch as u32,
        neck_lr: recipe.neck_lr,
        neck_wd: recipe.neck_wd,
        classifier_lr: recipe.classifier_lr,
        classifier_wd: recipe.classifier_wd,
        dropout: recipe.dropout,
        classifier: match recipe.classifier {
            Classifier::Linear => federation::Classifier::Linear,
            Classifier::Cosine { scale } => federation::Classifier::Cosine { scale },
            Classifier::ArcFace { scale, margin } => federation::Classifier::Arcface { scale, margin },
        },
    }
}

/// A plan's classifier as the trainers read it.
fn classifier(plan: federation::Classifier) -> Classifier {
    match plan {
        federation::Classifier::Linear => Classifier::Linear,
        federation::Classifier::Cosine { scale } => Classifier::Cosine { scale },
        federation::Classifier::Arcface { scale, margin } => Classifier::ArcFace { scale, margin },
    }
}

/// The closed-form members as the plan spells them.
pub fn form_plans(blueprint: &Blueprint) -> Vec<FormPlan> {
    let tuned = blueprint.tuned_names();
    let forms = blueprint.forms().map(|(member, form)| FormPlan {
        on: form.on.map(|at| tuned[at].clone()),
        basis: match &form.basis {
            Basis::Representation => federation::Basis::Representation,
            Basis::Lift(_, seed) => federation::Basis::Lift { seed: *seed },
            Basis::Projection(_, seed) => federation::Basis::Projection { seed: *seed },
            Basis::Joint(_, seed) => federation::Basis::Joint { seed: *seed },
        },
        refinement: form.refinement.map(|Refinement { steps, rate, scale }| RefinementPlan {
            steps,
            rate,
            scale,
        }),
        ..form_plan(blueprint, member, form.dim, form.settings)
    });
    forms.collect()
}

/// What tuned members start from, as the plan spells it.
pub fn start_plans(blueprint: &Blueprint) -> Vec<FormPlan> {
    let starts = blueprint.starts().map(|(_, member, settings)| {
        form_plan(blueprint, member, blueprint.network(member).neck.output(), settings)
    });
    starts.collect()
}

/// A closed form of the published network's representation.
fn form_plan(blueprint: &Blueprint, member: &Member, dim: usize, settings: FormSettings) -> FormPlan {
    FormPlan {
        name: member.name.clone(),
        on: None,
        trunk: blueprint.network(member).trunk.digest(),
        basis: federation::Basis::Representation,
        dim,
        outputs: settings.outputs.unwrap_or(dim),
        ridge: match settings.ridge {
            Ridge::Fixed(ridge) => federation::Ridge::Fixed(ridge),
            Ridge::HeldOut => federation::Ridge::HeldOut,
        },
        weighting: match settings.weighting {
            Weighting::Power { power, floor } => federation::Weighting::Power { power, floor },
            Weighting::HeldOut => federation::Weighting::HeldOut,
        },
        refinement: None,
    }
}

/// A site's sums as the federation adds them.
pub fn form_sums(moments: FormMoments) -> FormSums {
    let FormMoments { rows, counts, sums, scatter, .. } = moments;
    FormSums { rows, counts, sums, scatter, lengths: 0 }
}

/// The same for what a tuned member starts from.
pub fn start_sums(moments: StartMoments) -> FormSums {
    FormSums { lengths: moments.lengths, ..form_sums(moments.form) }
}

/// The sums of all sites as a start takes them.
pub fn start_moments(sums: FormSums, dim: usize) -> StartMoments {
    StartMoments { lengths: sums.lengths, form: form_moments(sums, dim) }
}

/// A site's pairs of images as the federation adds them.
pub fn pair_sums(moments: PairMoments) -> PairSums {
    let kind = |PairKind { pairs, sums, scatter }| federation::PairMoments { pairs, sums, scatter };
    PairSums { same: kind(moments.same), different: kind(moments.different) }
}

/// The pairs of all sites as weights are computed from them.
pub fn pair_moments(sums: PairSums) -> PairMoments {
    let kind = |federation::PairMoments { pairs, sums, scatter }| PairKind { pairs, sums, scatter };
    PairMoments { same: kind(sums.same), different: kind(sums.different) }
}

/// The sums of all sites as the solver takes them.
pub fn form_moments(sums: FormSums, dim: usize) -> FormMoments {
    FormMoments { dim, rows: sums.rows, counts: sums.counts, sums: sums.sums, scatter: sums.scatter }
}

/// The seed of a member's random choices, the same at every site and for the central baseline.
pub fn member_seed(seed: u64, member: usize) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(member as u64)
}

/// The tuned members before training: from their networks' own necks and the seed.
pub fn starting_heads(blueprint: &Blueprint, classes: usize, seed: u64) -> Result<Vec<Head>> {
    blueprint
        .tuned()
        .enumerate()
        .map(|(at, member)| blueprint.network(member).neck.head(classes, member_seed(seed, at)))
        .collect()
}

/// The plan's description of a head's tensors, and the greatest change of one value in a round.
pub fn tensor_specs(neck: &StartingNeck, statistics: Statistics) -> Vec<TensorSpec> {
    let (input, dim) = (neck.input(), neck.output());
    let (mean, variance) = (4096.0, 65536.0);
    let variance = match statistics {
        Statistics::Averaged => variance,
        // About a mean that may have moved as far as it can.
        Statistics::Pooled => variance + mean * mean,
    };
    let spec =
        |name: &str, shape: Vec<usize>, range, kind| TensorSpec { name: name.into(), shape, range, kind };
    vec![
        spec("neck.weight", vec![dim, input], 16.0, TensorKind::Encoder),
        spec("neck.bias", vec![dim], 64.0, TensorKind::Encoder),
        spec("bn.weight", vec![dim], 64.0, TensorKind::Encoder),
        spec("bn.bias", vec![dim], 64.0, TensorKind::Encoder),
        spec("bn.running_mean", vec![dim], mean, TensorKind::Statistics),
        spec("bn.running_var", vec![dim], variance, TensorKind::Statistics),
        spec("classifier.weight", vec![dim], 16.0, TensorKind::ClassifierRows),
        spec("classifier.bias", vec![], 64.0, TensorKind::ClassifierRows),
    ]
}

/// Places of the running statistics among a head's tensors.
const MEAN: usize = 4;
const VARIANCE: usize = 5;

/// What travels for the variance where statistics are pooled.
fn moment_change(head: &Head, round: &Head) -> Vec<f32> {
    let (now, round) = (head.tensors(), round.tensors());
    learn::second_moment_change(
        now[MEAN].values,
        now[VARIANCE].values,
        round[MEAN].values,
        round[VARIANCE].values,
    )
}

/// Which syndromes so many sites hold that their rows and sums may travel.
pub fn shared_syndromes(begin: &Begin) -> Vec<bool> {
    let holders = begin.holders.iter();
    holders
        .map(|&holders| match begin.plan.rows {
            Rows::All => true,
            Rows::Shared(least) => holders >= u32::from(least),
        })
        .collect()
}

impl SiteModel {
    /// The starting model: the same at every site, from the trunk's own neck and the plan's seed.
    pub fn start(begin: &Begin, blueprint: &Blueprint) -> Result<Self> {
        let plan = begin.plan.clone();
        let weights = loss_weights(plan.tuning.class_weighting, &begin.counts);
        let base = starting_heads(blueprint, begin.trained.len(), plan.seed)?;
        let shared_rows = shared_syndromes(begin)
            .into_iter()
            .map(|shared| shared && plan.aggregation != Aggregation::EncoderOnly)
            .collect();
        let forms = plan.forms.iter().map(|form| ClosedForm::zeros(form.dim, form.outputs)).collect();
        let specs: Vec<&[TensorSpec]> = plan.members.iter().map(|member| &member.tensors[..]).collect();
        let server = Server::new(&plan.tuning.server, &base, &specs);
        let weighed = plan.kernel.as_ref().and_then(|kernel| kernel.weighed);
        let member_weights = vec![0.0; usize::from(weighed.unwrap_or(0))];
        let (none, trainers) = (Vec::new(), Vec::new());
        let mut model =
            Self { plan, shared_rows, weights, base: none, trainers, server, forms, member_weights };
        model.restart(base)?;
        Ok(model)
    }

    /// The weights as they stand; closed-form members only once they are solved.
    pub fn weights(&self) -> Weights {
        // Zeros are no weights yet.
        let weights = &self.member_weights;
        let members = if weights.iter().all(|&weight| weight == 0.0) { Vec::new() } else { weights.clone() };
        Weights { heads: self.base.clone(), forms: self.forms.clone(), members }
    }

    /// Takes in what each member counts.
    pub fn set_member_weights(&mut self, weights: Vec<f32>) {
        self.member_weights = weights;
    }

    /// The closed-form members as they stand; all zeros before they are solved.
    pub fn forms(&self) -> &[ClosedForm] {
        &self.forms
    }

    /// Takes the closed-form members in.
    pub fn set_forms(&mut self, forms: Vec<ClosedForm>) {
        self.forms = forms;
    }

    /// Replaces the weights by those kept from an earlier run.
    pub fn restart(&mut self, heads: Vec<Head>) -> Result<()> {
        self.trainers = heads
            .iter()
            .enumerate()
            .map(|(member, head)| {
                let settings = recipe(&self.plan, member);
                Trainer::new(head.clone(), settings, &self.weights, member_seed(self.plan.seed, member))
                    .with_context(|| format!("member {}", self.plan.members[member].name))
            })
            .collect::<Result<_>>()?;
        self.base = heads;
        Ok(())
    }

    /// What the server's step remembers; nothing where updates are averaged.
    pub fn server_state(&self) -> Result<Vec<Head>> {
        self.server.state(&self.base)
    }

    /// Takes in what [`SiteModel::server_state`] gave in an earlier run.
    pub fn restart_server(&mut self, state: &[Head]) -> Result<()> {
        self.server.restore(state)
    }

    /// The weights of the last round that was applied.
    pub fn heads(&self) -> &[Head] {
        &self.base
    }

    /// Class weights from the counts of all sites.
    pub fn class_weights(&self) -> &[f32] {
        &self.weights
    }

    /// The tensors of the plan, per member, for hashing and publishing.
    pub fn tensors(&self) -> Vec<Vec<&[f32]>> {
        let heads = self.base.iter();
        let heads = heads.map(|head| head.tensors().into_iter().map(|tensor| tensor.values).collect());
        let forms = self.forms.iter().map(|form| form.tensors().to_vec());
        let weights = (!self.member_weights.is_empty()).then(|| vec![&self.member_weights[..]]);
        heads.chain(forms).chain(weights).collect()
    }

    /// Trains all members, each on its pool, for some epochs and returns what changed: nothing where a site has too few
    /// images to train on. Such a site stays in the sum, so that the others keep their number and nobody learns of it.
    pub fn train(
        &mut self,
        epochs: std::ops::Range<u32>,
        pace: f64,
        pools: &[Pool<'_>],
        tick: &(dyn Fn() + Sync),
    ) -> Result<Trained> {
        if pools.iter().any(|pool| pool.training.len() < LEAST_IMAGES) {
            return Ok(self.untrained());
        }
        let stats = self
            .trainers
            .par_iter_mut()
            .zip(&self.plan.members)
            .zip(pools)
            .map(|((trainer, member), pool)| {
                let mut last = None;
                trainer.set_pace(pace).with_context(|| format!("member {}", member.name))?;
                for epoch in epochs.clone() {
                    let stats = trainer
                        .epoch(pool.draws, pool.training, epoch)
                        .with_context(|| format!("member {}", member.name))?;
                    last = Some(stats);
                    tick();
                }
                last.with_context(|| format!("member {}: a round without an epoch", member.name))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Trained {
            deltas: self.deltas(),
            loss: stats.iter().map(|s| s.loss).collect(),
            accuracy: stats.iter().map(|s| s.accuracy).collect(),
        })
    }

    /// The change of every value since the round began.
    fn deltas(&self) -> Vec<Vec<Vec<f32>>> {
        let changes = self.trainers.iter().zip(&self.base).map(|(trainer, base)| {
            let head = trainer.head();
            let change = head.tensors().into_iter().zip(base.tensors()).map(|(after, before)| {
                after.values.iter().zip(before.values).map(|(after, before)| after - before).collect()
            });
            let mut change: Vec<Vec<f32>> = change.collect();
            if self.pools_statistics() {
                change[VARIANCE] = moment_change(&head, base);
            }
            change
        });
        changes.collect()
    }

    fn pools_statistics(&self) -> bool {
        self.plan.tuning.statistics == Statistics::Pooled
    }

    /// The heads as training left them.
    pub fn trained_heads(&self) -> Vec<Head> {
        self.trainers.iter().map(Trainer::head).collect()
    }

    /// As [`SiteModel::train`], from what an earlier process kept of the same training.
    pub fn trained_before(&mut self, heads: &[Head], loss: Vec<f64>, accuracy: Vec<f64>) -> Result<Trained> {
        for (trainer, head) in self.trainers.iter_mut().zip(heads) {
            trainer.set_head(head, Moments::Reset)?;
        }
        Ok(Trained { deltas: self.deltas(), loss, accuracy })
    }

    fn untrained(&self) -> Trained {
        let still =
            |head: &Head| head.tensors().iter().map(|tensor| vec![0.0; tensor.values.len()]).collect();
        Trained { deltas: self.base.iter().map(still).collect(), loss: Vec::new(), accuracy: Vec::new() }
    }

    /// Takes an aggregate into the weights. Classifier rows that stay at the site go on from its own training.
    pub fn apply(&mut self, deltas: &[Vec<Vec<f32>>]) -> Result<()> {
        for (member, deltas) in deltas.iter().enumerate() {
            let own = self.trainers[member].head();
            let mut next = self.base[member].clone();
            for (at, delta) in deltas.iter().enumerate() {
                let spec = &self.plan.members[member].tensors[at];
                let base = self.base[member].tensors()[at].values;
                let mut values = self.server.step((member, at), spec.kind, base, delta);
                if spec.kind == TensorKind::ClassifierRows {
                    let width: usize = spec.shape.iter().product();
                    let trained = own.tensors();
                    for (row, shared) in self.shared_rows.iter().enumerate() {
                        if !shared {
                            let range = row * width..(row + 1) * width;
                            values[range.clone()].copy_from_slice(&trained[at].values[range]);
                        }
                    }
                }
                if at == VARIANCE && self.pools_statistics() {
                    values = learn::pooled_variance(base, delta, &deltas[MEAN]);
                } else if at == VARIANCE {
                    // A weighted mean of variances is positive; its fixed-point rounding may reach just below zero.
                    values.iter_mut().for_each(|v| *v = v.max(0.0));
                }
                next.set_tensor(&spec.name, &values)?;
            }
            self.trainers[member].set_head(&next, Moments::Reset)?;
            self.base[member] = next;
        }
        Ok(())
    }

    /// Loss and accuracy of the round's weights on validation images.
    pub fn validate(&self, pools: &[Pool<'_>]) -> Result<Validation> {
        let members = self.base.iter().zip(pools).zip(&self.plan.members);
        members
            .map(|((head, pool), member)| {
                validate(head, pool, &self.weights, classifier(member.recipe.classifier))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;

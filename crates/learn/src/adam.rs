//! Adam with L2 weight decay added to the gradient, as `torch.optim.Adam`.

use std::sync::LazyLock;

use crate::recipe::Recipe;

static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// The constants of one update of one parameter group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamStep {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    inverse_sqrt_correction2: f32,
    eps: f32,
    step_size: f32,
    proximal: f32,
}

impl AdamStep {
    /// The update number `step` (from 1) with learning rate `lr` and weight decay `decay`.
    pub(crate) fn new(recipe: &Recipe, lr: f64, decay: f64, step: u64) -> Self {
        let power = |beta: f64| 1.0 - beta.powf(step as f64);
        let (correction1, correction2) = (power(recipe.beta1), power(recipe.beta2));
        Self {
            decay: decay as f32,
            one_minus_beta1: (1.0 - recipe.beta1) as f32,
            beta2: recipe.beta2 as f32,
            one_minus_beta2: (1.0 - recipe.beta2) as f32,
            inverse_sqrt_correction2: (1.0 / correction2.sqrt()) as f32,
            eps: recipe.adam_eps as f32,
            step_size: (lr / correction1) as f32,
            proximal: recipe.proximal as f32,
        }
    }

    /// Updates `values` and their moments by `grad`; all four have the same length. Values are pulled towards `anchor`, which is
    /// as long, or empty where nothing pulls.
    pub(crate) fn apply(
        self,
        values: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
        grad: &[f32],
        anchor: &[f32],
    ) {
        if anchor.is_empty() {
            return self.apply_free(values, first, second, grad);
        }
        ARCH.dispatch(
            #[inline(always)]
            || {
                for ((((w, m), v), &g), &anchor) in
                    values.iter_mut().zip(first).zip(second).zip(grad).zip(anchor)
                {
                    self.one(w, m, v, g + self.proximal * (*w - anchor));
                }
            },
        );
    }

    fn apply_free(self, values: &mut [f32], first: &mut [f32], second: &mut [f32], grad: &[f32]) {
        // The same loop, compiled for the widest vectors the processor has. Every operation rounds by itself (Rust does
        // not contract), so the width does not change the result.
        ARCH.dispatch(
            #[inline(always)]
            || {
                for (((w, m), v), &g) in values.iter_mut().zip(first).zip(second).zip(grad) {
                    self.one(w, m, v, g);
                }
            },
        );
    }

    #[inline(always)]
    fn one(self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = g + self.decay * *w;
        *m += self.one_minus_beta1 * (g - *m);
        *v = self.beta2 * *v + self.one_minus_beta2 * (g * g);
        *w -= self.step_size * *m / (v.sqrt() * self.inverse_sqrt_correction2 + self.eps);
    }
}

/// A small tensor with its moments.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub(crate) values: Vec<f32>,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    /// The values that training is pulled towards; empty where nothing pulls.
    pub(crate) anchor: Vec<f32>,
}

impl Param {
    /// `values` with zero moments.
    pub(crate) fn new(values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { first: zeros.clone(), second: zeros, values, anchor: Vec::new() }
    }

    pub(crate) fn update(&mut self, step: AdamStep, grad: &[f32]) {
        step.apply(&mut self.values, &mut self.first, &mut self.second, grad, &self.anchor);
    }
}

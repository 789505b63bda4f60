//! The server's step, which every site makes by itself since the sum opens nowhere else, and what it remembers.

use anyhow::Result;
use federation::{ServerPlan, TensorKind, TensorSpec};
use learn::{Head, ServerMoments, ServerOptimizer, ServerRule};

/// The server optimiser at one site, for all members.
#[derive(Debug, Clone)]
pub struct Server {
    trained: ServerOptimizer,
    statistics: ServerOptimizer,
    /// Per member and tensor.
    moments: Vec<Vec<ServerMoments>>,
}

fn optimizer(plan: &ServerPlan) -> ServerOptimizer {
    let rule = match plan.optimizer {
        federation::ServerOptimizer::Average => ServerRule::Average,
        federation::ServerOptimizer::Momentum => ServerRule::Momentum,
        federation::ServerOptimizer::Adam => ServerRule::Adam,
        federation::ServerOptimizer::Yogi => ServerRule::Yogi,
    };
    let ServerPlan { rate, momentum, beta2, tau, .. } = *plan;
    ServerOptimizer { rule, rate, momentum, beta2, tau }
}

impl Server {
    /// Before the first round.
    pub fn new(plan: &ServerPlan, heads: &[Head], specs: &[&[TensorSpec]]) -> Self {
        let trained = optimizer(plan);
        let statistics = ServerOptimizer { rule: ServerRule::Average, rate: 1.0, ..trained };
        let mut server = Self { trained, statistics, moments: Vec::new() };
        let members = heads.iter().zip(specs).map(|(head, specs)| {
            let tensors = head.tensors().into_iter().zip(*specs);
            tensors.map(|(tensor, spec)| server.of(spec.kind).start(tensor.values.len())).collect()
        });
        server.moments = members.collect();
        server
    }

    /// Statistics are averages and not steps.
    fn of(&self, kind: TensorKind) -> ServerOptimizer {
        if kind == TensorKind::Statistics { self.statistics } else { self.trained }
    }

    /// A tensor's values after the step along their average change.
    pub fn step(
        &mut self,
        (member, tensor): (usize, usize),
        kind: TensorKind,
        values: &[f32],
        change: &[f32],
    ) -> Vec<f32> {
        self.of(kind).step(values, change, &mut self.moments[member][tensor])
    }

    /// What it remembers, in the shape of heads: first moments of every member, then second ones; empty for a rule that
    /// remembers nothing.
    pub fn state(&self, members: &[Head]) -> Result<Vec<Head>> {
        let parts: [fn(&ServerMoments) -> &Vec<f32>; 2] = [|m| &m.first, |m| &m.second];
        let mut heads = Vec::new();
        for part in parts {
            if self.moments.iter().flatten().all(|moments| part(moments).is_empty()) {
                continue;
            }
            for (member, moments) in members.iter().zip(&self.moments) {
                let mut head = Head::zeros(member.shape(), member.bn_eps())?;
                for (name, moments) in Head::TENSORS.iter().zip(moments) {
                    if !part(moments).is_empty() {
                        head.set_tensor(name, part(moments))?;
                    }
                }
                heads.push(head);
            }
        }
        Ok(heads)
    }

    /// Takes in what [`Server::state`] gave.
    pub fn restore(&mut self, state: &[Head]) -> Result<()> {
        let (first, second) = state.split_at(state.len().min(self.moments.len()));
        for (at, moments) in self.moments.iter_mut().enumerate() {
            for (tensor, moments) in moments.iter_mut().enumerate() {
                for (heads, values) in [(first, &mut moments.first), (second, &mut moments.second)] {
                    if values.is_empty() {
                        continue;
                    }
                    let Some(head) = heads.get(at) else {
                        anyhow::bail!("the server's moments are not whole; begin the session anew");
                    };
                    let kept = head.tensors()[tensor].values;
                    anyhow::ensure!(kept.len() == values.len(), "the server's moments are of other members");
                    values.copy_from_slice(kept);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pipeline::ensemble::StartingNeck;
    use crate::site::model::tensor_specs;
    use federation::Statistics;

    fn steps(
        server: &mut Server,
        head: &Head,
        specs: &[TensorSpec],
        rounds: std::ops::Range<u32>,
    ) -> Vec<Vec<f32>> {
        let mut values: Vec<Vec<f32>> = head.tensors().iter().map(|tensor| tensor.values.to_vec()).collect();
        for round in rounds {
            for (tensor, spec) in specs.iter().enumerate() {
                let change: Vec<f32> =
                    (0..values[tensor].len()).map(|at| (at as f32 + round as f32).sin()).collect();
                values[tensor] = server.step((0, tensor), spec.kind, &values[tensor], &change);
            }
        }
        values
    }

    #[test]
    fn statistics_are_averaged_whatever_the_optimiser() {
        let specs = tensor_specs(&StartingNeck::Identity(4), Statistics::Averaged);
        let head = Head::identity(4, 3, 1).unwrap();
        for optimizer in [federation::ServerOptimizer::Average, federation::ServerOptimizer::Yogi] {
            let plan = ServerPlan { optimizer, rate: 2.0, ..ServerPlan::default() };
            let mut server = Server::new(&plan, std::slice::from_ref(&head), &[&specs]);
            let change = [0.25; 4];
            let mean = server.step((0, 4), TensorKind::Statistics, &[1.0, -2.0, 0.0, 0.5], &change);
            assert_eq!(mean, [1.25, -1.75, 0.25, 0.75]);
            let scale = server.step((0, 2), TensorKind::Encoder, &[1.0; 4], &change);
            assert_ne!(scale, [1.25; 4]);
        }
    }

    #[test]
    fn a_restored_server_goes_on_bit_for_bit() {
        let specs = tensor_specs(&StartingNeck::Identity(4), Statistics::Averaged);
        let head = Head::identity(4, 3, 1).unwrap();
        let heads = std::slice::from_ref(&head);
        for optimizer in [
            federation::ServerOptimizer::Average,
            federation::ServerOptimizer::Momentum,
            federation::ServerOptimizer::Adam,
            federation::ServerOptimizer::Yogi,
        ] {
            let plan = ServerPlan { optimizer, ..ServerPlan::default() };
            let mut straight = Server::new(&plan, heads, &[&specs]);
            steps(&mut straight, &head, &specs, 0..3);
            let state = straight.state(heads).unwrap();
            let mut restored = Server::new(&plan, heads, &[&specs]);
            restored.restore(&state).unwrap();
            let (a, b) =
                (steps(&mut straight, &head, &specs, 3..6), steps(&mut restored, &head, &specs, 3..6));
            assert_eq!(a, b, "{optimizer:?}");
            if optimizer != federation::ServerOptimizer::Average {
                let mut fresh = Server::new(&plan, heads, &[&specs]);
                assert_ne!(a, steps(&mut fresh, &head, &specs, 3..6), "{optimizer:?} remembers");
                assert!(fresh.restore(&[]).is_err());
            }
        }
    }
}

//! How tuned members are trained, gathered from `[training]` and `[federation]`.

use anyhow::{anyhow, ensure};
use federation::{ServerPlan, Tuning};

use super::Config;

impl Config {
    /// How tuned members are trained, beyond their recipes.
    pub fn tuning(&self) -> Tuning {
        let (training, federation) = (&self.training, &self.federation);
        Tuning {
            server: ServerPlan {
                optimizer: federation.server_optimizer,
                rate: federation.server_rate,
                momentum: federation.server_momentum,
                beta2: federation.server_beta2,
                tau: federation.server_tau,
            },
            proximal: federation.proximal,
            rates: training.rates,
            class_weighting: training.class_weighting,
            stopping: training.stopping,
            statistics: federation.statistics,
        }
    }

    /// Sets how tuned members are trained.
    pub(super) fn set_tuning(&mut self, tuning: Tuning) {
        let Tuning { server, proximal, rates, class_weighting, stopping, statistics } = tuning;
        let (training, federation) = (&mut self.training, &mut self.federation);
        (training.rates, training.class_weighting, training.stopping) = (rates, class_weighting, stopping);
        (federation.proximal, federation.statistics) = (proximal, statistics);
        (federation.server_optimizer, federation.server_rate) = (server.optimizer, server.rate);
        (federation.server_momentum, federation.server_beta2) = (server.momentum, server.beta2);
        federation.server_tau = server.tau;
    }

    pub(super) fn check_tuning(&self) -> anyhow::Result<()> {
        ensure!(self.training.epochs >= 1, "[training] epochs is 0; give at least 1");
        ensure!(self.training.interval >= 1, "[training] interval is 0; give at least 1");
        self.tuning().check().map_err(|refusal| anyhow!("[federation] {refusal}"))
    }
}

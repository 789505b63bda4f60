//! What a person asks of a site once the kernel is open, and what becomes of its gallery.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use domain::ImageId;
use domain::cohort::Cohort;
use federation::{Action, KernelSetup, Probe};
use jiff::Timestamp;

use super::Site;
use super::tables::Tables;
use crate::consortium::federated::holdings;

/// What a change of the cohort came to in the gallery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GalleryChange {
    /// Images of this site in the gallery now.
    pub images: usize,
    /// Those that were not in it before.
    pub new: usize,
    /// Those that left it.
    pub withdrawn: usize,
}

impl Site {
    /// Asks about a face that is not in the cohort, against every gallery; `name` is this site's own for it. The answer
    /// comes in [`Site::asked`].
    pub fn ask_about(&mut self, name: ImageId, crop: &vision::Crop) -> Result<Vec<Action>> {
        let weights = self.model.as_ref().context("this site has no model yet")?.weights();
        let views = vision::views::views(crop);
        let features = self.blueprint.networks.iter().map(|network| {
            let mut out = vec![0.0; views.len() * network.trunk.output_len()];
            network.trunk.features(&views, &mut out)?;
            Ok(out)
        });
        let features = features.collect::<Result<Vec<_>>>()?;
        let encoding = self.blueprint.ensemble(weights)?.encode(&features, 1)?.pop();
        let encoding = encoding.context("the networks gave no encoding")?.as_slice().to_vec();
        let probe = Probe { image: name.clone(), galleries: vec![u32::MAX], encoding };
        let actions = self.participant.submit_probes(vec![probe])?;
        self.asked.insert(name, None);
        Ok(actions)
    }

    /// Takes a patient's photographs out of the gallery of all sites and out of this site's store.
    pub fn withdraw(&mut self, subject: &domain::SubjectId) -> Result<Vec<Action>> {
        let mine = |case: &&domain::Case| case.subject == *subject;
        let images: Vec<ImageId> =
            self.cohort.cases().iter().filter(mine).map(|case| case.image.clone()).collect();
        ensure!(!images.is_empty(), "subject {subject} is not at this site");
        let actions = self.participant.withdraw(&images)?;
        self.files.store().withdraw(subject, Timestamp::now())?;
        self.cohort = self.cohort.restrict(&|case| case.subject != *subject);
        Ok(actions)
    }

    /// The patients as they are now: brings the gallery up to date, if there is a kernel.
    pub fn renew(&mut self, cohort: Cohort, tables: Arc<Tables>) -> Result<(Vec<Action>, GalleryChange)> {
        self.participant.update_holdings(holdings(&cohort))?;
        self.cohort = cohort;
        self.tables = tables;
        self.refresh()
    }

    /// Brings the gallery up to date with the patients: after a start, it may be that a killed process did not.
    pub fn refresh(&mut self) -> Result<(Vec<Action>, GalleryChange)> {
        let before: BTreeSet<ImageId> = self.participant.uploaded().into_iter().collect();
        let actions = self.gallery(&KernelSetup { dim: self.blueprint.dim(), label: [0; 32] })?;
        let now: BTreeSet<ImageId> = self.participant.uploaded().into_iter().collect();
        let change = GalleryChange {
            images: now.len(),
            new: now.difference(&before).count(),
            withdrawn: before.difference(&now).count(),
        };
        Ok((actions, change))
    }
}

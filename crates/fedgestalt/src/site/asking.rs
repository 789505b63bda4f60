//! What a person asks of a site once the kernel is open.

use anyhow::{Context as _, Result};
use domain::ImageId;
use federation::{Action, Probe};
use jiff::Timestamp;

use super::Site;

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
        anyhow::ensure!(!images.is_empty(), "subject {subject} is not at this site");
        let actions = self.participant.withdraw(&images)?;
        self.files.store().withdraw(subject, Timestamp::now())?;
        Ok(actions)
    }
}

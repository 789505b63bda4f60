//! A site's feature tables and what is learnt from them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use domain::cohort::{Case, Cohort, Part};
use domain::{Encoding, ImageId, SyndromeId};
use learn::{Example, FeatureSource};

use crate::pipeline::ensemble::{Blueprint, Ensemble};
use crate::pipeline::features::{Crops, Table, Variants, table, view_features};
use crate::pipeline::pairs::Images;
use crate::pipeline::training::{Pool, examples};

/// Images encoded together.
const ENCODE_CHUNK: usize = 256;

/// The feature tables of a site, per network of the blueprint.
pub struct Tables {
    /// Augmented draws of the training images; `None` where nothing is tuned on the network.
    pub draws: Vec<Option<Table>>,
    /// The four views of every image.
    pub views: Vec<Table>,
}

impl Tables {
    /// Opens the tables in `folder`, computing what is missing; with augmented draws on the networks that any of the
    /// blueprints tunes, the first of which says which networks there are. `tick` is told of finished images.
    pub fn prepare(
        folder: &Path,
        blueprints: &[&Blueprint],
        cohort: &Cohort,
        crops: &dyn Crops,
        draws: Variants,
        tick: &(dyn Fn(usize) + Sync),
    ) -> Result<Self> {
        let all: Vec<ImageId> = cohort.cases().iter().map(|case| case.image.clone()).collect();
        let training = cohort.part(Part::Train);
        let mut tables = Self { draws: Vec::new(), views: Vec::new() };
        let networks = blueprints.first().map_or(&[][..], |blueprint| &blueprint.networks);
        for (at, network) in networks.iter().enumerate() {
            let trunk = network.trunk.as_ref();
            tables.views.push(table(folder, trunk, &all, crops, Variants::Views, tick)?);
            tables.draws.push(match is_tuned(blueprints, at) {
                true => Some(table(folder, trunk, training, crops, draws, tick)?),
                false => None,
            });
        }
        Ok(tables)
    }

    /// How many steps [`Tables::prepare`] counts.
    pub fn steps(blueprints: &[&Blueprint], cohort: &Cohort) -> usize {
        let networks = blueprints.first().map_or(0, |blueprint| blueprint.networks.len());
        let tuned = (0..networks).filter(|&at| is_tuned(blueprints, at)).count();
        networks * cohort.cases().len() + tuned * cohort.part(Part::Train).len()
    }

    /// Encodes images of these tables.
    pub fn encode(&self, ensemble: &Ensemble<'_>, images: &[ImageId]) -> Result<BTreeMap<ImageId, Encoding>> {
        let mut out = BTreeMap::new();
        for chunk in images.chunks(ENCODE_CHUNK) {
            let features = self
                .views
                .iter()
                .map(|table| {
                    let mut all = Vec::new();
                    for image in chunk {
                        let row = table.row_of(image.as_str()).with_context(|| {
                            format!("image {image} has no features; run the same command again")
                        })?;
                        all.extend(view_features(table, row));
                    }
                    Ok(all)
                })
                .collect::<Result<Vec<_>>>()?;
            let encodings = ensemble.encode(&features, chunk.len())?;
            out.extend(chunk.iter().cloned().zip(encodings));
        }
        Ok(out)
    }
}

fn is_tuned(blueprints: &[&Blueprint], network: usize) -> bool {
    blueprints.iter().any(|blueprint| blueprint.is_tuned(network))
}

/// Finds an image's row in a table.
pub type RowOf<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// Training and validation examples of a cohort on its tables, for a list of trained syndromes.
pub struct Lessons {
    /// Training images, as rows of the tables of draws; none where nothing is tuned.
    pub training: Vec<Example>,
    /// Training images, as rows of the tables of views.
    pub training_views: Vec<Example>,
    /// Validation images.
    pub validation: Vec<Example>,
}

impl Lessons {
    /// Finds the rows of the cohort's training and validation images.
    pub fn new(
        cohort: &Cohort,
        trained: &[SyndromeId],
        draw_row: Option<RowOf<'_>>,
        view_row: RowOf<'_>,
    ) -> Result<Self> {
        // In the order of image ids: a training then does not depend on how its patients were handed out.
        let labelled = |part| {
            let mut cases: Vec<&Case> =
                cohort.part(part).iter().filter_map(|image| cohort.case(image)).collect();
            cases.sort_by(|a, b| a.image.cmp(&b.image));
            cases.into_iter().map(|case| (case.image.as_str(), &case.syndrome))
        };
        Ok(Self {
            training: match draw_row {
                Some(draw_row) => examples(labelled(Part::Train), draw_row, trained)?,
                None => Vec::new(),
            },
            training_views: examples(labelled(Part::Train), view_row, trained)?,
            validation: examples(labelled(Part::Validation), view_row, trained)?,
        })
    }

    /// The images whose pairs say what members count.
    pub fn as_pairs(&self) -> Images<'_> {
        Images { training: &self.training_views, validation: &self.validation }
    }

    /// The pool of one network.
    pub fn pool<'a>(&'a self, draws: &'a dyn FeatureSource, views: &'a dyn FeatureSource) -> Pool<'a> {
        Pool { draws, views, training: &self.training, validation: &self.validation }
    }
}

/// The pools of the tuned members, in order.
pub fn pools<'a>(blueprint: &Blueprint, tables: &'a Tables, lessons: &'a Lessons) -> Vec<Pool<'a>> {
    blueprint
        .tuned()
        .filter_map(|member| {
            let draws = tables.draws[member.network].as_ref()?;
            Some(lessons.pool(draws, &tables.views[member.network]))
        })
        .collect()
}

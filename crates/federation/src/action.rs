use std::ops::Range;

use domain::{ImageId, SyndromeId};
use prost::bytes::Bytes;
use secure::SiteIndex;

use crate::envelope::{Kind, Party};
use crate::plan::Plan;
use crate::release::{Release, SignedRelease};
use crate::roster::SignedRoster;

/// Tensors of every member in plan order: `[member][tensor][element]`.
pub type Tensors = Vec<Vec<Vec<f32>>>;

/// An encoded message and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Who sends it.
    pub from: Party,
    /// Who shall get it.
    pub to: Party,
    /// What it is, for accounting and the audit log.
    pub kind: Kind,
    /// The stage it belongs to.
    pub round: u32,
    /// The message; a clone shares the bytes.
    pub bytes: Bytes,
}

/// What the host shall do, in the order given.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Move these bytes.
    Send(Outgoing),
    /// Write `snapshot()` durably (at a site: and the model, if it changed) before the next action.
    Save,
    /// Site: the lists and counts stand. Build the starting model from the plan's seed, then call
    /// [`crate::Participant::model_applied`].
    Begin(Box<Begin>),
    /// Site: train these epochs (from 0), then call [`crate::Participant::submit_update`] or
    /// [`crate::Participant::abstain`].
    Train {
        /// The round, from 1.
        round: u32,
        /// The epochs, from 0.
        epochs: Range<u32>,
        /// What learning rates are multiplied by besides the epochs' factors: less than 1 where the models before brought no
        /// gain ([`crate::Rates::pace`]).
        pace: f64,
    },
    /// Site: take this aggregate into the model as it was after the round before, then call
    /// [`crate::Participant::model_applied`].
    Apply(Apply),
    /// Site: keep this vector until [`Action::Recall`] asks for it or the process ends. It is as secret as the model. Only after
    /// [`crate::Participant::keep_outside`].
    Keep {
        /// The stage it belongs to. Those of earlier stages can go.
        stage: u32,
        /// The vector.
        words: Vec<u32>,
    },
    /// Site: hand the vector of this stage to [`crate::Participant::recalled`], and keep it.
    Recall {
        /// The stage.
        stage: u32,
    },
    /// Site: validate the model as it stands, then call [`crate::Participant::submit_validation`].
    Validate,
    /// Site: the rounds are over. Take the model back to what it was after this round (0: before the first), then call
    /// [`crate::Participant::model_applied`].
    Choose {
        /// The best round.
        round: u32,
    },
    /// Site: add up the training images' representations for what trained members start from and call
    /// [`crate::Participant::submit_sums`], with one of the plan's starts each.
    CollectStart,
    /// Site: compute from these sums what trained members start from, one of the plan's starts each, then call
    /// [`crate::Participant::model_applied`].
    Start(Solve),
    /// Site: add up the training images' representations for the closed-form members and call
    /// [`crate::Participant::submit_sums`].
    Collect,
    /// Site: compute the closed-form members from these sums, then call [`crate::Participant::model_applied`].
    Solve(Solve),
    /// Site: add up the gradients over the training images of the closed forms that this step refines, and call
    /// [`crate::Participant::submit_gradients`].
    Gradient {
        /// The step, from 0.
        step: u32,
    },
    /// Site: refine the closed forms by these gradients, then call [`crate::Participant::model_applied`].
    Refine(Refine),
    /// Site: compare validation images with training images, member by member, and call
    /// [`crate::Participant::submit_pairs`].
    Compare,
    /// Site: compute the members' weights from these sums, then call [`crate::Participant::model_applied`].
    Weigh(Weigh),
    /// Site: encode the gallery with the final model and call [`crate::Participant::submit_gallery`]. Comes again when the
    /// coordinator has lost a part of it.
    Encode(KernelSetup),
    /// Site: the gallery of all sites stands. Call [`crate::Participant::submit_probes`], with none if
    /// there are none, and when the answers are in [`crate::Participant::submit_metrics`].
    Ask,
    /// Site: rankings of probes asked about before.
    Answers(Vec<Answer>),
    /// Site: the added metrics of all sites, as words of [`domain::evaluate::HitCounts`].
    Metrics(Vec<u32>),
    /// Site: it is this site's turn to publish. Call [`crate::Participant::publish`].
    Publish,
    /// The release with enough signatures. Keep it.
    Released(Box<SignedRelease>),
    /// Newcomer: the release, checked, with its weights and syndromes.
    Adopt(Box<Adoption>),
    /// Site: the consortium has signed a newer roster, which is in force here now. Pin it in place of the one before.
    Roster(Box<SignedRoster>),
    /// Site: this newcomer asks for the group key. Ask a person; call [`crate::Participant::approve`].
    Approve {
        /// The newcomer's place in the roster.
        site: SiteIndex,
    },
    /// Something worth a line in the log: who refused, sat out or fell away, and why.
    Notice(String),
    /// The session's work is done; the kernel stays open.
    Finished,
    /// The session cannot go on at this party.
    Halt {
        /// Why, with the culprit's name.
        reason: String,
    },
}

/// What the sites know together before training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The plan.
    pub plan: Plan,
    /// Syndromes that some site trains on: the classifier's rows, in order.
    pub trained: Vec<SyndromeId>,
    /// Every syndrome that some site has, in order.
    pub all: Vec<SyndromeId>,
    /// Training images over all sites, by row.
    pub counts: Vec<u32>,
    /// Sites that train on it, by row.
    pub holders: Vec<u32>,
    /// Training images over all sites.
    pub images: u64,
    /// The sites that take part, by place in the roster.
    pub sites: Vec<SiteIndex>,
}

impl Eq for Plan {}

/// One aggregate.
#[derive(Debug, Clone, PartialEq)]
pub struct Apply {
    /// The round, from 1.
    pub round: u32,
    /// The stage it was, see [`Plan::stage_of`].
    pub stage: u32,
    /// Averaged deltas; zeros where nothing is shared (classifier rows that stay local).
    pub deltas: Tensors,
    /// The sites' metrics, added.
    pub metrics: RoundMetrics,
    /// Whose updates are in it.
    pub sites: Vec<SiteIndex>,
    /// The round whose model may yet be asked for by [`Action::Choose`], as may this round's: the best so far. None where the
    /// last model is the release's.
    pub best: Option<u32>,
}

/// Whole numbers behind one closed-form member, in whatever units the sites agree on; they are added exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormSums {
    /// Representations behind `scatter`.
    pub rows: i64,
    /// Representations per trained syndrome.
    pub counts: Vec<i64>,
    /// Their sums, syndrome x dim.
    pub sums: Vec<i64>,
    /// Upper triangle of the second moment, row by row.
    pub scatter: Vec<i64>,
    /// Sum of the lengths that the representations had; travels with what trained members start from alone.
    pub lengths: i64,
}

/// Whole numbers behind the members' weights: cosines of pairs of images, a number for each member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairSums {
    /// Pairs of images of one syndrome.
    pub same: PairMoments,
    /// Pairs of images of two.
    pub different: PairMoments,
}

/// Of some pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairMoments {
    /// How many.
    pub pairs: i64,
    /// The cosines' sums, by member.
    pub sums: Vec<i64>,
    /// Upper triangle of their second moment, row by row.
    pub scatter: Vec<i64>,
}

/// What the members' weights are computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weigh {
    /// The stage.
    pub stage: u32,
    /// Over all sites.
    pub sums: PairSums,
}

/// What the closed-form members are computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solve {
    /// The stage.
    pub stage: u32,
    /// One for each of the plan's forms, or of its starts, over all sites.
    pub sums: Vec<FormSums>,
    /// Whose sums are in it.
    pub sites: Vec<SiteIndex>,
}

/// Whole numbers of one closed form's gradient, in whatever units the sites agree on; they are added exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GradientSums {
    /// By the map, `outputs` x `dim`.
    pub map: Vec<i64>,
    /// By what is taken from the images' values, `outputs`.
    pub shift: Vec<i64>,
    /// By the syndromes' means, syndrome x `outputs`.
    pub means: Vec<i64>,
    /// The loss.
    pub loss: i64,
    /// Representations.
    pub rows: i64,
}

/// What closed forms are refined by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refine {
    /// The stage.
    pub stage: u32,
    /// The step, from 0.
    pub step: u32,
    /// One for each of the plan's forms that the step refines, over all sites.
    pub gradients: Vec<GradientSums>,
    /// Whose gradients are in it.
    pub sites: Vec<SiteIndex>,
}

/// Sums over a site's images in the last epoch of a round; added up over sites.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RoundMetrics {
    /// Sum of the training loss over images.
    pub loss: f64,
    /// Training images ranked right.
    pub correct: f64,
    /// Training images.
    pub images: f64,
    /// Sum of the validation loss over images.
    pub validation_loss: f64,
    /// Validation images ranked right.
    pub validation_correct: f64,
    /// Validation images.
    pub validation_images: f64,
}

/// What encodings must look like.
#[derive(Debug, Clone)]
pub struct KernelSetup {
    /// Length of an encoding.
    pub dim: usize,
    /// Names the kernel: the same at every site of the release.
    pub label: [u8; 32],
}

/// A diagnosed image for the gallery. It is masked before it leaves the site.
#[derive(Debug, Clone)]
pub struct GalleryImage {
    /// The image; only a pseudonym leaves the site.
    pub image: ImageId,
    /// Its syndrome; only a token leaves the site.
    pub syndrome: SyndromeId,
    /// Bit 0: frequent gallery; bit 1 + s: rare gallery of split s.
    pub galleries: u32,
    /// Unit-length encoding.
    pub encoding: Vec<f32>,
}

/// An image to be ranked.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The image; only a pseudonym leaves the site.
    pub image: ImageId,
    /// One ranking for each entry: a gallery image takes part when it shares a bit with the entry.
    pub galleries: Vec<u32>,
    /// Unit-length encoding.
    pub encoding: Vec<f32>,
}

/// One ranking of one probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The probe.
    pub image: ImageId,
    /// The galleries it was ranked in.
    pub galleries: u32,
    /// Nearest first, at most as many as the plan's `top`.
    pub ranked: Vec<RankedSyndrome>,
}

/// One place in a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedSyndrome {
    /// The syndrome; none when it is a token of a syndrome this site has never heard of.
    pub syndrome: Option<SyndromeId>,
    /// Distance of its nearest gallery image, rounded up to the plan's step.
    pub distance: f32,
    /// Pseudonym of that image.
    pub nearest: [u8; 16],
    /// That image, when it is this site's own.
    pub own: Option<ImageId>,
}

/// What a newcomer takes over.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The plan the release was trained under.
    pub plan: Plan,
    /// The release, its signatures checked.
    pub release: Release,
    /// Weights of every member's published tensors; empty where a tensor is not published.
    pub tensors: Tensors,
    /// The syndromes that were trained, in order.
    pub trained: Vec<SyndromeId>,
    /// Every syndrome of the release, in order.
    pub all: Vec<SyndromeId>,
    /// What encodings must look like.
    pub kernel: Option<KernelSetup>,
}

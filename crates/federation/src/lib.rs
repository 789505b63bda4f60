//! What a site and the coordinator say to each other, as state machines.
//!
//! A [`Participant`] lives at each site, one [`Coordinator`] in the middle. Both are *sans-I/O*: they
//! take encoded messages and the host's results, and give back [`Action`]s. Neither knows files, sockets,
//! clocks or OS randomness; a host (an *engine*) moves the bytes and does the work that the actions ask for.
//!
//! # The course of a session
//!
//! 1. **Enrolment.** The coordinator offers a signed [`Plan`]; each site checks it against its own
//!    [`Policy`] and accepts or refuses by name. The founder gives the group key to the others in sealed
//!    boxes; the sites unite their syndrome lists under that key.
//! 2. **Counts.** Images per syndrome are added by secure sum (stage 0). [`Action::Begin`] hands the host
//!    the united lists and the sums; the host builds its starting model and calls
//!    [`Participant::model_applied`], and the sites compare its hash.
//!    Where members start from closed forms, first [`Action::CollectStart`], [`Participant::submit_sums`], secure sum,
//!    [`Action::Start`], [`Participant::model_applied`].
//! 3. **Rounds** 1..=[`Plan::rounds`]: [`Action::Train`], [`Participant::submit_update`], secure sum,
//!    [`Action::Apply`], [`Participant::model_applied`], comparison of signed hashes. Where the plan has a
//!    [`Stopping`], rounds end when validation brings no gain: [`Action::Validate`],
//!    [`Participant::submit_validation`], secure sum, [`Action::Choose`], [`Participant::model_applied`].
//! 4. **Kernel** (when the plan has one): [`Action::Encode`] and [`Participant::submit_gallery`],
//!    [`Action::Ask`] and [`Participant::submit_probes`], [`Action::Answers`] and
//!    [`Participant::submit_metrics`], [`Action::Metrics`].
//! 5. **Release**: one site gets [`Action::Publish`] and calls [`Participant::publish`]; all sign;
//!    [`Action::Released`], [`Action::Finished`]. The kernel stays open for questions, withdrawals and
//!    for sites that join later ([`Participant::join`], [`Action::Adopt`]).
//!
//! # A host
//!
//! ```ignore
//! let mut queue: VecDeque<Outgoing> = sends(coordinator.start(plan)?);
//! loop {
//!     while let Some(message) = queue.pop_front() {
//!         let actions = match message.to {
//!             Party::Coordinator => coordinator.handle(message.bytes),
//!             Party::Site(site) => participants[site].handle(message.bytes),
//!         };
//!         match actions {
//!             Ok(actions) => perform(actions, &mut queue),   // in order; see below
//!             Err(refusal) => log(refusal),                  // the state is as before
//!         }
//!     }
//!     if finished { break }
//!     // Nothing is under way: somebody is away.
//!     match coordinator.deadline() {
//!         Ok(actions) => perform(actions, &mut queue),
//!         Err(_) => perform(coordinator.retry()?, &mut queue), // too few answered: a new attempt
//!     }
//! }
//! ```
//!
//! Actions are performed in order. [`Action::Save`] means: write `snapshot()` (and, at a site, the model)
//! durably before performing the next action; a restored party then never uses a pad twice. A host answers
//! [`Action::Begin`], [`Action::Train`], [`Action::Apply`], [`Action::Encode`], [`Action::Ask`],
//! [`Action::Answers`] and [`Action::Publish`] with the call named in each one's documentation, at once or hours later.
//!
//! # What the coordinator learns
//!
//! Names and public keys of the sites, the plan, how many syndromes there are, digests, masked vectors,
//! tokens and pseudonyms. Never a photograph, an encoding, a single site's update, a syndrome's name, the
//! group key or (in blind mode) the global model.

mod action;
mod aggregate;
mod coordinator;
mod envelope;
mod group;
mod identity;
mod limits;
mod participant;
mod plan;
mod policy;
mod refusal;
mod release;
mod roster;
mod wire;

pub use action::{
    Action, Adoption, Answer, Apply, Begin, FormSums, GalleryImage, GradientSums, KernelSetup, Outgoing,
    PairMoments, PairSums, Probe, RankedSyndrome, Refine, RoundMetrics, Solve, Tensors, Weigh,
};
pub use aggregate::{Layout, Update};
pub use coordinator::{Coordinator, CoordinatorSetup};
pub use envelope::{Envelope, Kind, Opened, Party};
pub use group::GroupState;
pub use identity::{ConsortiumKey, ConsortiumPublic, CoordinatorKey, CoordinatorPublic, SiteKey, SitePublic};
pub use participant::{AbstainReason, Participant, SiteSetup};
pub use plan::{
    Aggregation, Basis, ClassWeighting, Classifier, FormPlan, KernelPlan, MemberPlan, Plan, Rates,
    RecipePlan, RefinementPlan, Ridge, Rows, ServerOptimizer, ServerPlan, Statistics, Stopping, TensorKind,
    TensorSpec, Tuning, Weighting,
};
pub use policy::Policy;
pub use prost::bytes::Bytes;
pub use refusal::{Refusal, RefusalKind};
pub use release::{KernelRelease, MemberRelease, Release, SignedRelease};
pub use roster::{Roster, SignedRoster, SiteName};
pub use secure::SiteIndex;

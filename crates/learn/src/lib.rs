//! Head training on frozen features: the neck (`Linear` + `BatchNorm1d`) and the classifier
//! (`Dropout` + `Linear`, or cosines) of the face extractor, trained by Adam on weighted cross-entropy.
//!
//! The trunk is frozen, so its features of a fixed number of augmented draws are computed once and kept in
//! a [`cache::FeatureTable`]; an epoch then costs only the head. There is no autodiff: the gradients are
//! written out, and the update of the neck's weight is fused into the pass that computes its gradient,
//! because at 25,088 x 512 weights memory traffic is what a step costs.
//!
//! ```
//! use learn::{Example, Head, MemoryFeatures, Recipe, Trainer, class_weights};
//!
//! # fn main() -> Result<(), learn::TrainError> {
//! let features = MemoryFeatures::new(2, 1, vec![1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.9])?;
//! let rows: Vec<Example> = (0..4).map(|row| Example { row, label: (row / 2) as u32 }).collect();
//! let head = Head::identity(2, 2, 1)?;
//! let mut trainer = Trainer::new(head, Recipe::r50(), &class_weights(&[2, 2]), 7)?;
//! for epoch in 0..3 {
//!     let stats = trainer.epoch(&features, &rows, epoch)?;
//!     assert!(stats.loss.is_finite());
//! }
//! let representations = trainer.head().represent(&[1.0, 0.0], 1)?;
//! assert_eq!(representations.len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here reads files, clocks or OS randomness, and no result depends on the number of threads.

mod adam;
pub mod cache;
mod classifier;
mod closed_form;
mod error;
mod fisher;
mod head;
mod loss;
mod matmul;
mod norm;
mod pooled;
mod random;
mod recipe;
mod schedule;
mod server;
mod source;
mod trainer;
mod values;

pub use classifier::Classifier;
pub use closed_form::{
    ClosedForm, FormSettings, Gradient as FormGradient, Moments as FormMoments, RandomFeatures, Refinement,
    Refiner, Ridge, StartMoments, Weighting,
};
pub use error::{ErrorKind, Result, TrainError};
pub use fisher::{Kind as PairKind, PairMoments};
pub use head::{Head, HeadShape, NeckInit, TensorView};
pub use loss::Scores;
pub use pooled::{pooled_variance, second_moment_change};
pub use recipe::{Recipe, class_weights};
pub use schedule::RateSchedule;
pub use server::{ServerMoments, ServerOptimizer, ServerRule};
pub use source::{Example, FeatureSource, MemoryFeatures};
pub use trainer::{EpochStats, Moments, Trainer};
pub use values::Values;

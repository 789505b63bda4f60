//! From images to trained ensembles: features, training, encodings, weights on disk.

pub mod bundle;
pub mod encodings;
pub mod engines;
pub mod ensemble;
pub mod features;
pub mod forms;
pub mod latest;
pub mod pairs;
pub mod training;
pub mod weights;

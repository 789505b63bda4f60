//! Synthetic patients drawn from HPO facial terms.
//!
//! A [`Gestalt`] is a syndrome's set of facial terms with frequencies. A
//! [`Population`] draws patients from it: a person with an identity, an age, a
//! skin and hair, who shows each term with its frequency and some severity. A
//! [`Subject`] takes photographs: a parametric 3-D head, deformed by all of
//! that, posed, lit and rendered in software, with its five landmarks known.
//!
//! Nothing here is a picture of a person or learnt from one. Same numbers in,
//! same bytes out, on any platform and in any order.

mod capture;
mod error;
mod gestalt;
mod math;
mod model;
mod noise;
mod param;
mod person;
mod population;
mod render;
mod term;

pub use error::{Error, ErrorKind};
pub use gestalt::{ATTRIBUTION, Gestalt, UNSTATED_FREQUENCY, catalogue, generated};
pub use param::{Param, Params};
pub use population::{Photograph, Population, Subject};
pub use term::HpoTerm;

//! Residual networks of plain convolutions, computed by Winograd's minimal filtering.
//!
//! A network ([`network`]) is a list of convolutions ([`conv`]) of feature maps ([`layout`]), each with the activation and the
//! sum that follow it. What takes the time are products of matrices, whose sums stay in registers ([`crate::kernel`]), between the
//! transforms of windows, filters and tiles ([`filter`]). Every number is a sum of the same terms in the same order, whatever
//! the batch and the number of threads.

mod conv;
mod few;
mod filter;
mod finish;
mod layout;
mod minimal;
mod network;
mod prepare;
mod rows;
mod run;
mod taps;
mod weights;

pub(crate) use run::{Runner, Workspace};

//! Secure sum: every site learns the sum of all sites' vectors; the coordinator adds masked vectors
//! and learns none of them, in blind mode not even their sum.
//!
//! The protocol has the shape of Bonawitz et al., "Practical Secure Aggregation for
//! Privacy-Preserving Machine Learning" (CCS 2017), Figure 4, in its variant with signatures, on the
//! complete graph. [`Site`] and [`Aggregator`] are its two roles, as state machines over messages:
//!
//! | Fig. 4 round | site | message | coordinator |
//! |---|---|---|---|
//! | 0 AdvertiseKeys | [`Site::start`] | [`Advert`] | [`Aggregator::accept_advert`] |
//! | 1 ShareKeys | [`Site::receive_adverts`] | [`SealedShares`] | [`Aggregator::accept_shares`] |
//! | 2 MaskedInputCollection | [`Site::receive_inbox`], [`Site::upload`] | [`MaskedInput`] | [`Aggregator::accept_input`] |
//! | 3 ConsistencyCheck | [`Site::receive_survivors`] | [`Consent`] | [`Aggregator::accept_consent`] |
//! | 4 Unmasking | [`Site::receive_consents`] | [`Unmasking`] | [`Aggregator::accept_unmasking`], [`Aggregator::finish`] |
//! | | [`BlindSum::open`] | [`BlindSum`] | |
//!
//! # Where it leaves the paper, and why
//!
//! In the paper any *t* sites can reconstruct a site's mask key and self mask from Shamir shares.
//! Consortia are small and *t* is about two thirds of the sites, so *n* - 2 curious sites that pool
//! their shares with the coordinator's transcript would open the other two. This protocol lets no
//! number of shares suffice alone:
//!
//! - Mask keys are not shared. The pairwise seeds towards a site that vanished are given up by its
//!   partners themselves, one seed each, with their consent (round 3). The seed between two sites
//!   that both take part is never known to anyone else.
//! - The self mask is expanded from two halves: one is Shamir-shared (round 1), the other is the
//!   *opening* that its owner gives with its consent. A vector whose owner did not consent stays
//!   closed even to those who hold enough shares.
//! - Every survivor on the list must consent, not only *t* of them. If some vanish between upload
//!   and consent, their vectors are left out and the others are asked again with the shorter list
//!   ([`Consented::Again`]); lists only shrink, and seeds given up for a site are final. Between
//!   consent and unmasking, all but *t* may vanish and their vectors still count.
//!
//! What holds then: any *n* - 2 sites that keep to the protocol and pool everything with the
//! coordinator learn of the other two only the sum of both vectors. Against a coordinator that lies,
//! with at most 2*t* - *n* - 1 sites helping it, a vector opens only in a sum with those of at least
//! *t* sites in all, as in the paper (section 6.2). What cannot hold: a coordinator that may declare
//! sites dropped can, together with *t* - 1 sites, ask for the sum of these and one more.
//!
//! # Freshness
//!
//! All of a site's secrets are derived from the seed given to [`Site::start`] and the digest of the
//! [`SumConfig`], which names session, purpose, round and attempt; pads depend also on all adverts.
//! A repeated attempt therefore has fresh pads even if the seed is repeated. One thing is the
//! caller's: never to start the same configuration twice with the same seed and different data.

mod aggregator;
mod blind;
mod config;
mod message;
mod site;
mod wire;

#[cfg(test)]
mod tests;

pub use aggregator::{Aggregator, Consented, Phase};
pub use blind::{BlindSum, Opened};
pub use config::{Session, SumConfig};
pub use message::{Advert, Consent, Consents, Inbox, MaskedInput, SealedShares, Survivors, Unmasking};
pub use site::Site;

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
//! Consortia are small and *t* is about two thirds of the sites, so from 6 sites on, *n* - 2 curious
//! sites that pool their shares with the coordinator's transcript would open the other two. In this
//! protocol shares alone do not suffice:
//!
//! - Mask keys are not shared. The pairwise seeds towards a site that vanished are given up by its
//!   partners themselves, one seed each, with their consent (round 3). The seed between two sites
//!   that both take part is never known to anyone else.
//! - The self mask is expanded from two halves: one is Shamir-shared (round 1), the other, the
//!   *opening*, leaves its owner after the upload, with its consent. It leaves under one *veil* from
//!   each other survivor, a key that both ends compute from their agreed secret and the list, and
//!   which the other lifts by consenting to the same list. So the openings come out together, when all
//!   on one list have consented to it, and not before.
//! - Every survivor on the list must consent, not only *t* of them. If some vanish between upload
//!   and consent, their vectors are left out and the others are asked again with the shorter list
//!   ([`Consented::Again`]); lists only shrink. Between consent and unmasking, all but *t* may
//!   vanish and their vectors still count.
//!
//! # What holds and what does not
//!
//! - Any *n* - 2 sites that keep to the protocol and pool everything with the coordinator learn of the
//!   other two, both in the sum, only the sum of their vectors. The vector of a site that vanished
//!   before it consented stays closed.
//! - Against a coordinator that lies, with at most 2*t* - *n* - 1 sites helping it, a vector opens only
//!   in a sum with those of at least *t* sites in all, as in the paper (section 6.2).
//! - A sum over fewer others gives more away: *n* - 1 sites know the last one's vector from the
//!   result, and whoever knows two sums that differ in one site knows that site's vector. This
//!   also holds if colluding sites let an agreed list fall (by vanishing without consent) and
//!   another site vanishes before the next is agreed: a test shows it. So does, with *t* - 1 sites,
//!   a coordinator that declares honest sites dropped.
//! - Nothing protects the result from a site that uploads nonsense, or the sites from a coordinator
//!   that alters the sum: compare what came of it.
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
pub use config::{Session, SumConfig, Words};
pub use message::{Advert, Consent, Consents, Inbox, MaskedInput, SealedShares, Survivors, Unmasking};
pub use site::Site;

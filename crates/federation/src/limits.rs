//! How long a message may be: derived from the plan, by kind.

use crate::envelope::{Kind, OVERHEAD};
use crate::plan::MAX_SYNDROMES;

/// Payload of one part of a kernel upload, a query or a weights blob.
pub(crate) const PART: usize = 8 << 20;
const SLACK: usize = 4096;

/// What is known about a session when a message arrives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Sites in the roster.
    pub(crate) sites: usize,
    /// Bytes of the largest vector of a secure sum; 0 before it is known.
    pub(crate) vector: usize,
}

impl Limits {
    /// The longest payload that an honest party sends.
    pub(crate) fn payload(&self, kind: Kind) -> usize {
        let n = self.sites + 1;
        let list = MAX_SYNDROMES * 130 / 4;
        match kind {
            Kind::PlanOffer | Kind::JoinPackage | Kind::ReleaseDraft | Kind::Released => 4 << 20,
            Kind::SyndromeList => list,
            Kind::Lists => n * (list + OVERHEAD),
            Kind::Input => self.vector + SLACK,
            Kind::SumResult => self.vector + n * 256 + SLACK,
            Kind::Adverts | Kind::Shares | Kind::Inbox | Kind::Consents | Kind::Hashes | Kind::Unmasking => {
                n * 1024 + SLACK
            }
            Kind::KernelUpload | Kind::KernelQuery | Kind::ReleaseBlob => PART + (1 << 20),
            Kind::KernelAnswer | Kind::GalleryReady => 4 * PART,
            Kind::Withdraw | Kind::Roster => 1 << 20,
            _ => n * 64 + SLACK,
        }
    }
}

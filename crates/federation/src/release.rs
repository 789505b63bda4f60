use std::collections::{BTreeMap, BTreeSet};

use domain::evaluate::{Accuracies, HitCounts, Setting};
use serde::{Deserialize, Serialize};

use crate::identity::{Digest, digest, hexed, hexed_option};
use crate::refusal::{RefusalKind, Result, refusal, refuse};
use crate::roster::{Roster, SiteName};

const LABEL: &str = "fedgestalt/release/v1";
/// Version of the release format.
const VERSION: u32 = 1;
const MAX_CARD: usize = 1 << 20;

/// Sites that must agree out of so many: at least 3, at least two thirds.
pub(crate) fn threshold(sites: usize) -> usize {
    (2 * sites).div_ceil(3).max(3)
}

/// A member of the ensemble in a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRelease {
    /// Name, such as `r50`.
    pub name: String,
    /// Digest of its trunk.
    #[serde(with = "hexed")]
    pub trunk: [u8; 32],
    /// Digest of its published tensors.
    #[serde(with = "hexed")]
    pub tensors: [u8; 32],
}

/// The private kernel that goes with a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelRelease {
    /// Length of an encoding.
    pub dim: usize,
    /// Length of a masked vector.
    pub width: usize,
    /// Views in an encoding.
    pub views: u8,
    /// Names the kernel; rotation and tokens derive from it and the group key.
    #[serde(with = "hexed")]
    pub label: [u8; 32],
    /// Digest of the members' weights, where they are fitted. They are sealed with the weights of the networks.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hexed_option")]
    pub weights: Option<[u8; 32]>,
}

/// What a finished training publishes. The weights travel apart, sealed under the group key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Version of this format, 1.
    pub version: u32,
    /// The session that made it.
    #[serde(with = "hexed")]
    pub session: [u8; 16],
    /// Digest of the plan.
    #[serde(with = "hexed")]
    pub plan: [u8; 32],
    /// Digest of the roster of the session.
    #[serde(with = "hexed")]
    pub roster: [u8; 32],
    /// The sites that took part.
    pub sites: Vec<SiteName>,
    /// Rounds that are in the model.
    pub rounds: u32,
    /// Hash of the whole shared model, as compared after the last round.
    #[serde(with = "hexed")]
    pub model: [u8; 32],
    /// The members.
    pub members: Vec<MemberRelease>,
    /// Digest of the syndrome list.
    #[serde(with = "hexed")]
    pub syndromes: [u8; 32],
    /// The kernel, if there is one.
    pub kernel: Option<KernelRelease>,
    /// Macro top-1, 5, 10, 30 in percent over all sites' probes, by setting; nothing where there were no probes.
    pub metrics: BTreeMap<String, [f64; 4]>,
    /// Digest of the sealed weights.
    #[serde(with = "hexed")]
    pub weights: [u8; 32],
    /// The model card, as text.
    pub card: String,
}

impl Release {
    pub(crate) const VERSION: u32 = VERSION;

    /// Canonical bytes: JSON with the fields in the order above.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release has only strings and finite numbers")
    }

    /// From canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let release: Self = serde_json::from_slice(bytes)
            .map_err(|e| refusal(RefusalKind::Malformed, format!("not a release: {e}")))?;
        if release.version != VERSION {
            refuse!(UnsupportedVersion, "release version {}; this program reads {VERSION}", release.version);
        }
        if release.card.len() > MAX_CARD {
            refuse!(Oversized, "a model card of {} bytes; at most {MAX_CARD}", release.card.len());
        }
        if release.encode() != bytes {
            refuse!(Malformed, "the release is not in its canonical spelling");
        }
        Ok(release)
    }

    /// Digest of the canonical bytes: what sites sign and what names the release.
    pub fn digest(&self) -> Digest {
        digest(LABEL, &[&self.encode()])
    }
}

/// The metrics of a release out of the added hit counts.
pub(crate) fn metrics(words: &[u32], syndromes: usize, splits: usize) -> Result<BTreeMap<String, [f64; 4]>> {
    let counts = HitCounts::from_words(syndromes, splits, words)
        .map_err(|e| refusal(RefusalKind::Malformed, format!("metrics: {e}")))?;
    let table: Accuracies = counts.table();
    let settings = Setting::ALL.iter().map(|&s| (s.key().to_owned(), table.get(s)));
    Ok(settings.filter(|(_, row)| row.iter().all(|x| x.is_finite())).collect())
}

/// A release with the signatures of sites that checked it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRelease {
    /// The release.
    pub release: Release,
    signatures: Vec<SiteSignature>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteSignature {
    site: SiteName,
    #[serde(with = "hexed")]
    signature: [u8; 64],
}

impl SignedRelease {
    pub(crate) fn new(release: Release, signatures: impl IntoIterator<Item = (SiteName, [u8; 64])>) -> Self {
        let signatures =
            signatures.into_iter().map(|(site, signature)| SiteSignature { site, signature }).collect();
        Self { release, signatures }
    }

    /// As JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release has only strings and finite numbers")
    }

    /// From JSON; signatures are not yet checked.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let signed: Self = serde_json::from_slice(bytes)
            .map_err(|e| refusal(RefusalKind::Malformed, format!("not a signed release: {e}")))?;
        Release::decode(&signed.release.encode())?;
        Ok(signed)
    }

    /// Names of the sites that signed.
    pub fn signers(&self) -> impl Iterator<Item = &SiteName> {
        self.signatures.iter().map(|s| &s.site)
    }

    /// Checks the signatures: at least two thirds (and three) of the sites that took part, each of them
    /// in the roster given, which may be newer than the session's.
    pub fn verify(&self, roster: &Roster) -> Result<()> {
        let digest = self.release.digest();
        let mut seen = BTreeSet::new();
        for SiteSignature { site, signature } in &self.signatures {
            if !self.release.sites.contains(site) || !seen.insert(site) {
                refuse!(BadSignature, "{site} signed the release twice or took no part in it");
            }
            let keys = roster.find(site).and_then(|place| roster.site(place));
            match keys {
                Some(keys) => {
                    keys.verify(&digest, signature).map_err(|e| e.at(format!("release, {site}")))?
                }
                // A site that has left since does not count, but spoils nothing.
                None => {
                    seen.remove(site);
                }
            }
        }
        let wanted = threshold(self.release.sites.len());
        if seen.len() < wanted {
            refuse!(TooFewSites, "{} valid signatures under the release; {wanted} are needed", seen.len());
        }
        Ok(())
    }
}

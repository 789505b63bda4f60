use std::fmt;

use secure::SiteIndex;
use serde::{Deserialize, Serialize};

use crate::identity::{
    ConsortiumKey, ConsortiumPublic, CoordinatorPublic, Digest, SitePublic, digest, hexed,
};
use crate::refusal::{Refusal, RefusalKind, Result, refusal, refuse};

const LABEL: &str = "fedgestalt/roster/v1";
/// More sites than any consortium has; bounds every list in the protocol.
const MAX_SITES: usize = 1000;

/// A site's name, 1 to 64 bytes, as people write it (`charite`, `bonn-igsb`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteName(String);

impl SiteName {
    /// Checks the name: 1 to 64 bytes, letters, digits, `-`, `_` and `.`, not beginning with a dot.
    pub fn new(name: &str) -> Result<Self> {
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(fits) {
            refuse!(
                RosterRefused,
                "a site's name has 1 to 64 bytes of letters, digits, '-', '_' and '.'; rename the site"
            );
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SiteName {
    type Error = Refusal;
    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl From<SiteName> for String {
    fn from(name: SiteName) -> String {
        name.0
    }
}

/// One place in the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    name: SiteName,
    keys: SitePublic,
    retired: bool,
}

/// Who belongs to the consortium. Places never move: a site that leaves is retired in its place, so a
/// [`SiteIndex`] means the same site in every later roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    consortium: String,
    serial: u64,
    coordinator: CoordinatorPublic,
    sites: Vec<Place>,
}

impl Roster {
    /// A roster of the given sites, in order. Refused when names or keys repeat.
    pub fn new(
        consortium: &str,
        serial: u64,
        coordinator: CoordinatorPublic,
        sites: Vec<(SiteName, SitePublic)>,
    ) -> Result<Self> {
        let sites = sites.into_iter().map(|(name, keys)| Place { name, keys, retired: false }).collect();
        let roster = Self { consortium: consortium.to_owned(), serial, coordinator, sites };
        roster.check()?;
        Ok(roster)
    }

    fn check(&self) -> Result<()> {
        if self.consortium.is_empty() || self.consortium.len() > 128 {
            refuse!(RosterRefused, "the consortium's name has 1 to 128 bytes");
        }
        if self.sites.is_empty() || self.sites.len() > MAX_SITES {
            refuse!(RosterRefused, "a roster has 1 to {MAX_SITES} sites, not {}", self.sites.len());
        }
        for (i, site) in self.sites.iter().enumerate() {
            site.keys.verifying()?;
            for other in &self.sites[..i] {
                if other.name == site.name
                    || other.keys.sign == site.keys.sign
                    || other.keys.seal == site.keys.seal
                {
                    refuse!(
                        RosterRefused,
                        "{} and {} share a name or a key; give each site its own",
                        other.name,
                        site.name
                    );
                }
            }
        }
        Ok(())
    }

    /// The next roster (serial + 1) with one more site at the end.
    pub fn with_site(&self, name: SiteName, keys: SitePublic) -> Result<Self> {
        let mut next = self.clone();
        next.serial += 1;
        next.sites.push(Place { name, keys, retired: false });
        next.check()?;
        Ok(next)
    }

    /// The next roster (serial + 1) without this site; its place stays, retired.
    pub fn retire(&self, name: &SiteName) -> Result<Self> {
        let mut next = self.clone();
        next.serial += 1;
        match next.sites.iter_mut().find(|place| place.name == *name) {
            Some(place) => place.retired = true,
            None => refuse!(RosterRefused, "{name} is not in the roster; nothing to retire"),
        }
        Ok(next)
    }

    /// The consortium's name.
    pub fn consortium(&self) -> &str {
        &self.consortium
    }

    /// Grows with every change; a site replaces its pinned roster only by one with a higher serial.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The coordinator's key.
    pub fn coordinator(&self) -> CoordinatorPublic {
        self.coordinator
    }

    /// Number of places, retired ones included.
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Whether there is no place at all (never true of a checked roster).
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// The active sites with their places.
    pub fn sites(&self) -> impl Iterator<Item = (SiteIndex, &SiteName, &SitePublic)> {
        self.sites
            .iter()
            .enumerate()
            .filter(|(_, place)| !place.retired)
            .map(|(i, place)| (SiteIndex(i as u16), &place.name, &place.keys))
    }

    /// The keys of an active site; none for a stranger or a retired site.
    pub fn site(&self, site: SiteIndex) -> Option<&SitePublic> {
        self.sites.get(usize::from(site.0)).filter(|place| !place.retired).map(|place| &place.keys)
    }

    /// The site's name, retired or not; `site 9` when there is no such place.
    pub fn name(&self, site: SiteIndex) -> String {
        self.sites
            .get(usize::from(site.0))
            .map_or_else(|| format!("site {}", site.0), |place| place.name.to_string())
    }

    /// The place of an active site by name.
    pub fn find(&self, name: &SiteName) -> Option<SiteIndex> {
        self.sites().find(|(_, other, _)| *other == name).map(|(site, _, _)| site)
    }

    /// The place of an active site by its keys.
    pub fn find_keys(&self, keys: &SitePublic) -> Option<SiteIndex> {
        self.sites().find(|(_, _, other)| *other == keys).map(|(site, _, _)| site)
    }

    /// Digest of the canonical bytes.
    pub fn digest(&self) -> Digest {
        digest(LABEL, &[&self.bytes()])
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a roster has only strings and numbers")
    }

    /// Signs the roster as the consortium.
    pub fn sign(&self, key: &ConsortiumKey) -> SignedRoster {
        SignedRoster { roster: self.clone(), signature: key.sign(&self.digest()) }
    }

    /// Whether this roster may replace `old`: same consortium, higher serial, every place kept.
    /// Refused unless this roster is the old one, or a later one of the same consortium in which no place has moved.
    pub fn succeeds_or_equals(&self, old: &Roster) -> Result<()> {
        if self == old { Ok(()) } else { self.succeeds(old) }
    }

    pub(crate) fn succeeds(&self, old: &Roster) -> Result<()> {
        if self.consortium != old.consortium {
            refuse!(RosterRefused, "this roster is of another consortium; keep the pinned one");
        }
        if self.serial <= old.serial {
            refuse!(
                RosterRefused,
                "roster serial {} is not newer than the pinned {}",
                self.serial,
                old.serial
            );
        }
        for (i, place) in old.sites.iter().enumerate() {
            match self.sites.get(i) {
                Some(new)
                    if new.name == place.name
                        && new.keys == place.keys
                        && (new.retired || !place.retired) => {}
                _ => refuse!(
                    RosterRefused,
                    "the new roster moves, re-keys or revives {}; places are for ever",
                    place.name
                ),
            }
        }
        Ok(())
    }

    /// Refused unless this roster may replace `old` and does nothing but add sites: what a running party takes over without
    /// asking a person.
    pub(crate) fn only_adds_to(&self, old: &Roster) -> Result<()> {
        self.succeeds(old)?;
        if self.coordinator != old.coordinator {
            refuse!(RosterRefused, "roster {} names another coordinator; a person must pin it", self.serial);
        }
        if self.removes_from(old) {
            refuse!(
                RosterRefused,
                "roster {} retires a site, so the group key must change; end this session and begin one under it",
                self.serial
            );
        }
        Ok(())
    }

    /// Whether some site active in `old` is retired here, so that the group key must change.
    pub(crate) fn removes_from(&self, old: &Roster) -> bool {
        old.sites().any(|(site, _, _)| self.site(site).is_none())
    }
}

/// A roster with the consortium's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRoster {
    roster: Roster,
    #[serde(with = "hexed")]
    signature: [u8; 64],
}

impl SignedRoster {
    /// As JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a roster has only strings and numbers")
    }

    /// From JSON; the signature is not yet checked.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let signed: Self = serde_json::from_slice(bytes)
            .map_err(|e| refusal(RefusalKind::Malformed, format!("not a signed roster: {e}")))?;
        signed.roster.check()?;
        Ok(signed)
    }

    /// Checks the signature against the pinned consortium key and gives the roster.
    pub fn verify(&self, consortium: &ConsortiumPublic) -> Result<Roster> {
        self.roster.check()?;
        consortium.verify(&self.roster.digest(), &self.signature).map_err(|_| {
            refusal(RefusalKind::RosterRefused, "the roster is not signed by the pinned consortium key")
        })?;
        Ok(self.roster.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identity::{CoordinatorKey, SiteKey};

    fn roster(n: u8) -> Roster {
        let sites = (0..n)
            .map(|i| (SiteName::new(&format!("site{i}")).unwrap(), SiteKey::from_seed(&[i + 1; 32]).public()))
            .collect();
        Roster::new("test", 1, CoordinatorKey::from_seed(&[0; 32]).public(), sites).unwrap()
    }

    #[test]
    fn signed_by_the_consortium_only() {
        let key = ConsortiumKey::from_seed(&[9; 32]);
        let signed = SignedRoster::decode(&roster(4).sign(&key).encode()).unwrap();
        assert_eq!(signed.verify(&key.public()).unwrap(), roster(4));
        let other = ConsortiumKey::from_seed(&[8; 32]);
        assert_eq!(signed.verify(&other.public()).unwrap_err().kind(), RefusalKind::RosterRefused);
        let text = String::from_utf8(signed.encode()).unwrap().replace("site3", "site7");
        let forged = SignedRoster::decode(text.as_bytes()).unwrap();
        assert_eq!(forged.verify(&key.public()).unwrap_err().kind(), RefusalKind::RosterRefused);
    }

    #[test]
    fn places_never_move() {
        let old = roster(3);
        let new = old.retire(&SiteName::new("site1").unwrap()).unwrap();
        let new =
            new.with_site(SiteName::new("late").unwrap(), SiteKey::from_seed(&[77; 32]).public()).unwrap();
        new.succeeds(&old).unwrap();
        assert!(new.removes_from(&old));
        assert_eq!(new.site(SiteIndex(1)), None);
        assert_eq!(new.find(&SiteName::new("late").unwrap()), Some(SiteIndex(3)));
        assert_eq!(old.succeeds(&new).unwrap_err().kind(), RefusalKind::RosterRefused);
        let mut moved = new.clone();
        moved.serial += 1;
        moved.sites.swap(0, 2);
        assert_eq!(moved.succeeds(&new).unwrap_err().kind(), RefusalKind::RosterRefused);
    }

    #[test]
    fn repeated_names_or_keys_are_refused() {
        let keys = SiteKey::from_seed(&[1; 32]).public();
        assert!(roster(2).with_site(SiteName::new("again").unwrap(), keys).is_err());
        assert!(SiteName::new("a/b").is_err() && SiteName::new("").is_err() && SiteName::new("..").is_err());
    }
}

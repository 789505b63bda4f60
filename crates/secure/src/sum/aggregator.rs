//! The coordinator's side of the secure sum.

use std::collections::BTreeMap;

use crate::prg::{Pads, add_assign};
use crate::shamir::{self, Share};
use crate::{Error, ErrorKind, Result, Secret, SiteIndex};

use super::message::{adverts_digest, commitment, consent_statement};
use super::site::{point, self_mask};
use super::{
    Advert, BlindSum, Consent, Consents, Inbox, MaskedInput, SealedShares, SumConfig, Survivors, Unmasking,
};

/// What the coordinator is collecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Round 0.
    Adverts,
    /// Round 1.
    Shares,
    /// Round 2.
    Inputs,
    /// Round 3.
    Consents,
    /// Round 4.
    Unmaskings,
    /// The sum is made.
    Finished,
}

/// How collecting consents ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consented {
    /// Every survivor consented: send this to each of them.
    Agreed(Consents),
    /// Some survivors vanished: ask those left again with this shorter list.
    Again(Survivors),
}

/// The coordinator of one sum. `accept_*` takes one site's message; `close_*` ends the phase with
/// those who answered, if they reach the threshold. A refused message or call changes nothing.
///
/// It keeps each site's masked vector until [`Aggregator::finish`]: which ones count is known only
/// when the survivors have consented.
#[derive(Debug)]
pub struct Aggregator {
    config: SumConfig,
    phase: Phase,
    adverts: BTreeMap<SiteIndex, Advert>,
    adverts_digest: [u8; 32],
    shares: BTreeMap<SiteIndex, SealedShares>,
    inputs: BTreeMap<SiteIndex, Vec<u32>>,
    survivors: Vec<SiteIndex>,
    consents: BTreeMap<SiteIndex, Consent>,
    unmaskings: BTreeMap<SiteIndex, Unmasking>,
}

impl Aggregator {
    /// Starts collecting adverts.
    pub fn new(config: SumConfig) -> Self {
        Self {
            config,
            phase: Phase::Adverts,
            adverts: BTreeMap::new(),
            adverts_digest: [0; 32],
            shares: BTreeMap::new(),
            inputs: BTreeMap::new(),
            survivors: Vec::new(),
            consents: BTreeMap::new(),
            unmaskings: BTreeMap::new(),
        }
    }

    /// The sum's facts.
    pub fn config(&self) -> &SumConfig {
        &self.config
    }

    /// What is being collected.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Who may still speak in this phase, ascending. When empty, the phase can be closed.
    pub fn awaited(&self) -> Vec<SiteIndex> {
        let heard = |site: &SiteIndex| match self.phase {
            Phase::Adverts => self.adverts.contains_key(site),
            Phase::Shares => self.shares.contains_key(site),
            Phase::Inputs => self.inputs.contains_key(site),
            Phase::Consents => self.consents.contains_key(site),
            Phase::Unmaskings => self.unmaskings.contains_key(site),
            Phase::Finished => true,
        };
        let mut sites = self.expected();
        sites.retain(|site| !heard(site));
        sites
    }

    /// Who has a part in this phase.
    fn expected(&self) -> Vec<SiteIndex> {
        match self.phase {
            Phase::Adverts => self.config.all(),
            Phase::Shares => self.adverts.keys().copied().collect(),
            Phase::Inputs => self.shares.keys().copied().collect(),
            Phase::Consents | Phase::Unmaskings => self.survivors.clone(),
            Phase::Finished => Vec::new(),
        }
    }

    /// Round 0: takes a site's keys.
    ///
    /// # Errors
    /// `OutOfPhase`, `WrongSession`, `UnknownSite`, `Duplicate`; `Signature` if the site did not sign them.
    pub fn accept_advert(&mut self, advert: Advert) -> Result<()> {
        self.admit(Phase::Adverts, &advert.tag, advert.site)?;
        advert.verify(&self.config)?;
        self.adverts.insert(advert.site, advert);
        Ok(())
    }

    /// Ends round 0. Send the adverts to each site that sent one.
    ///
    /// # Errors
    /// `BelowThreshold`, naming the missing; `OutOfPhase`.
    pub fn close_adverts(&mut self) -> Result<Vec<Advert>> {
        self.closing(Phase::Adverts)?;
        self.enough(&self.adverts, "keys")?;
        let adverts: Vec<Advert> = self.adverts.values().cloned().collect();
        self.adverts_digest = adverts_digest(&self.config, &adverts);
        self.phase = Phase::Shares;
        Ok(adverts)
    }

    /// Round 1: takes a site's sealed shares.
    ///
    /// # Errors
    /// `OutOfPhase`, `WrongSession`, `UnknownSite`, `Duplicate`; `Inconsistent` unless there is exactly one
    /// box for each other site that advertised.
    pub fn accept_shares(&mut self, shares: SealedShares) -> Result<()> {
        self.admit(Phase::Shares, &shares.tag, shares.site)?;
        let others = self.adverts.keys().filter(|&&site| site != shares.site);
        if !shares.boxes.iter().map(|(site, _)| site).eq(others) {
            return Err(self.refuse(
                ErrorKind::Inconsistent,
                &format!("{} sealed shares to other sites than advertised", shares.site),
            ));
        }
        self.shares.insert(shares.site, shares);
        Ok(())
    }

    /// Ends round 1. Send each inbox to its site.
    ///
    /// # Errors
    /// `BelowThreshold`, naming the missing; `OutOfPhase`.
    pub fn close_shares(&mut self) -> Result<Vec<(SiteIndex, Inbox)>> {
        self.closing(Phase::Shares)?;
        self.enough(&self.shares, "shares")?;
        let inboxes = self
            .shares
            .keys()
            .map(|&to| {
                let boxes = self
                    .shares
                    .iter()
                    .filter_map(|(&from, message)| {
                        let (_, share) = message.boxes.iter().find(|(site, _)| *site == to)?;
                        Some((from, share.clone()))
                    })
                    .collect();
                let inbox = Inbox { tag: self.config.tag(), site: to, boxes };
                (to, inbox)
            })
            .collect();
        self.phase = Phase::Inputs;
        Ok(inboxes)
    }

    /// Round 2: takes a site's masked vector.
    ///
    /// # Errors
    /// `OutOfPhase`, `WrongSession`, `UnknownSite`, `Duplicate`, `Length`.
    pub fn accept_input(&mut self, input: MaskedInput) -> Result<()> {
        self.admit(Phase::Inputs, &input.tag, input.site)?;
        input.check(&self.config)?;
        self.inputs.insert(input.site, input.words);
        Ok(())
    }

    /// Ends round 2. Send the list to each site on it.
    ///
    /// # Errors
    /// `BelowThreshold`, naming the missing; `OutOfPhase`.
    pub fn close_inputs(&mut self) -> Result<Survivors> {
        self.closing(Phase::Inputs)?;
        self.enough(&self.inputs, "masked vectors")?;
        self.survivors = self.inputs.keys().copied().collect();
        self.phase = Phase::Consents;
        Ok(self.survivors_message())
    }

    /// Round 3: takes a survivor's consent.
    ///
    /// # Errors
    /// `OutOfPhase`, `WrongSession`, `UnknownSite`, `Duplicate`; `Signature` if it is not for the current
    /// list; `Inconsistent` unless it has exactly one seed for each site that vanished and one veil
    /// for each other survivor.
    pub fn accept_consent(&mut self, consent: Consent) -> Result<()> {
        self.admit(Phase::Consents, &consent.tag, consent.site)?;
        let statement = self.consent_statement();
        self.config.verify(consent.site, &statement, &consent.signature, "the list of survivors")?;
        let vanished = self.shares.keys().filter(|site| !self.survivors.contains(site));
        let partners = self.survivors.iter().filter(|&&site| site != consent.site);
        if !consent.seeds.iter().map(|(site, _)| site).eq(vanished)
            || !consent.veils.iter().map(|(site, _)| site).eq(partners)
        {
            return Err(self.refuse(
                ErrorKind::Inconsistent,
                &format!("{} gave seeds or veils for other sites than the list says", consent.site),
            ));
        }
        self.consents.insert(consent.site, consent);
        Ok(())
    }

    /// Ends round 3, or begins it again without those who have vanished since their upload.
    ///
    /// # Errors
    /// `BelowThreshold`, naming the missing; `OutOfPhase`.
    pub fn close_consents(&mut self) -> Result<Consented> {
        self.closing(Phase::Consents)?;
        self.enough(&self.consents, "consents")?;
        if self.consents.len() < self.survivors.len() {
            self.survivors = self.consents.keys().copied().collect();
            self.inputs.retain(|site, _| self.survivors.contains(site));
            self.consents.clear();
            return Ok(Consented::Again(self.survivors_message()));
        }
        self.phase = Phase::Unmaskings;
        Ok(Consented::Agreed(Consents { tag: self.config.tag(), signatures: self.signatures() }))
    }

    /// Round 4: takes a survivor's shares.
    ///
    /// # Errors
    /// `OutOfPhase`, `WrongSession`, `UnknownSite`, `Duplicate`; `Inconsistent` unless it has exactly one
    /// share for each survivor; `Sealed` for a share other than the one committed to.
    pub fn accept_unmasking(&mut self, unmasking: Unmasking) -> Result<()> {
        self.admit(Phase::Unmaskings, &unmasking.tag, unmasking.site)?;
        if !unmasking.shares.iter().map(|(site, _)| site).eq(&self.survivors) {
            return Err(self.refuse(
                ErrorKind::Inconsistent,
                &format!("{} gave shares of other sites than the survivors", unmasking.site),
            ));
        }
        for (owner, share) in &unmasking.shares {
            let found = commitment(&self.adverts_digest, *owner, share);
            if self.promised(*owner, unmasking.site) != Some(found) {
                return Err(self.refuse(
                    ErrorKind::Sealed,
                    &format!(
                        "{} gave a share of {owner} that is not the one {owner} committed to",
                        unmasking.site
                    ),
                ));
            }
        }
        self.unmaskings.insert(unmasking.site, unmasking);
        Ok(())
    }

    /// Ends round 4: adds the survivors' vectors and removes all masks but the blind ones.
    ///
    /// # Errors
    /// `BelowThreshold`, naming the missing; `OutOfPhase`.
    pub fn finish(&mut self) -> Result<BlindSum> {
        self.closing(Phase::Unmaskings)?;
        self.enough(&self.unmaskings, "unmasking shares")?;
        let mut pads = Pads::default();
        for &site in &self.survivors {
            let seed = shamir::reconstruct(&self.shares_of(site))?;
            let opening = self.opening_of(site);
            pads.subtract(self_mask(&seed, &opening, &self.adverts_digest));
            for (gone, seed) in &self.consents[&site].seeds {
                if site < *gone {
                    pads.subtract(seed.clone());
                } else {
                    pads.add(seed.clone());
                }
            }
        }
        let mut inputs = std::mem::take(&mut self.inputs).into_values();
        let mut words = inputs.next().unwrap_or_default();
        for input in inputs {
            add_assign(&mut words, &input);
        }
        pads.apply(&mut words);
        self.config.words().clear(&mut words);
        let sum = BlindSum {
            tag: self.config.tag(),
            adverts: self.adverts_digest,
            blind_tag: self.blind_tag(),
            sharers: self.shares.keys().copied().collect(),
            signatures: self.signatures(),
            short: self.config.words().short,
            words,
        };
        self.phase = Phase::Finished;
        Ok(sum)
    }

    /// A survivor's opening, freed of the veils that the consents of all others lift.
    fn opening_of(&self, owner: SiteIndex) -> Secret {
        let mut opening = self.consents[&owner].veiled.clone();
        let veils = self.consents.values().flat_map(|consent| &consent.veils);
        for (_, veil) in veils.filter(|(site, _)| *site == owner) {
            opening.xor(veil);
        }
        opening
    }

    /// A threshold of shares of one survivor's self-mask seed.
    fn shares_of(&self, owner: SiteIndex) -> Vec<Share> {
        self.unmaskings
            .values()
            .filter_map(|unmasking| {
                let (_, share) = unmasking.shares.iter().find(|(site, _)| *site == owner)?;
                Some(Share { x: point(unmasking.site), y: share.clone() })
            })
            .take(self.config.threshold())
            .collect()
    }

    /// The commitment of `owner` to the share it gave `holder`.
    fn promised(&self, owner: SiteIndex, holder: SiteIndex) -> Option<[u8; 32]> {
        let message = self.shares.get(&owner)?;
        if owner == holder {
            return Some(message.own);
        }
        let (_, share) = message.boxes.iter().find(|(site, _)| *site == holder)?;
        Some(share.commitment)
    }

    fn consent_statement(&self) -> Vec<u8> {
        let sharers: Vec<SiteIndex> = self.shares.keys().copied().collect();
        consent_statement(&self.config, &self.adverts_digest, &self.blind_tag(), &sharers, &self.survivors)
    }

    /// The sites check that theirs are all the same before they go on, so any one will do.
    fn blind_tag(&self) -> [u8; 16] {
        self.adverts.values().next().map_or([0; 16], |advert| advert.blind_tag)
    }

    fn signatures(&self) -> Vec<(SiteIndex, [u8; 64])> {
        self.consents.iter().map(|(site, consent)| (*site, consent.signature)).collect()
    }

    fn survivors_message(&self) -> Survivors {
        Survivors { tag: self.config.tag(), sites: self.survivors.clone() }
    }

    fn admit(&self, phase: Phase, tag: &[u8; 16], site: SiteIndex) -> Result<()> {
        self.config.check_tag(tag)?;
        self.config.check_site(site)?;
        self.closing(phase)?;
        if !self.expected().contains(&site) {
            return Err(self.refuse(
                ErrorKind::UnknownSite,
                &format!("{site} has no part in this phase: it was given up earlier"),
            ));
        }
        if !self.awaited().contains(&site) {
            return Err(
                self.refuse(ErrorKind::Duplicate, &format!("{site} has already spoken in this phase"))
            );
        }
        Ok(())
    }

    fn closing(&self, phase: Phase) -> Result<()> {
        if self.phase != phase {
            return Err(
                self.refuse(ErrorKind::OutOfPhase, &format!("collecting {:?}, not {phase:?}", self.phase))
            );
        }
        Ok(())
    }

    fn enough<T>(&self, heard: &BTreeMap<SiteIndex, T>, what: &str) -> Result<()> {
        let present: Vec<SiteIndex> = heard.keys().copied().collect();
        self.config.check_threshold(&present, &self.config.all(), what)
    }

    fn refuse(&self, kind: ErrorKind, problem: &str) -> Error {
        Error::new(kind, format!("{}: {problem}", self.config.name()))
    }
}

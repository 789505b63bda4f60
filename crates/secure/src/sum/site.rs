//! A site's side of the secure sum.

use std::collections::BTreeMap;

use chacha20::ChaCha20Rng;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use ed25519_dalek::{Signer, SigningKey};
use rand::SeedableRng;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::key::derive;
use crate::prg::Pads;
use crate::{Error, ErrorKind, GroupKey, Result, Secret, SiteIndex, shamir};

use super::blind::{blind_seed, blind_tag, check_blind_tag};
use super::message::{BOX, SealedShare, adverts_digest, commitment, consent_statement};
use super::wire::drain_words;
use super::{
    Advert, BlindSum, Consent, Consents, Inbox, MaskedInput, Opened, SealedShares, SumConfig, Survivors,
    Unmasking,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Advertised,
    Shared,
    Ready,
    Uploaded,
    Consented,
    Unmasked,
}

/// One site in one sum. Each method takes the coordinator's next message and returns the site's; a
/// refused message or call changes nothing.
#[derive(Debug)]
pub struct Site {
    config: SumConfig,
    me: SiteIndex,
    key: SigningKey,
    blind: Option<GroupKey>,
    advert: Advert,
    phase: Phase,
    pub(crate) secrets: Secrets,
    adverts_digest: [u8; 32],
    /// With each other site of U1 in the paper.
    agreed: BTreeMap<SiteIndex, Agreed>,
    /// U2: who shared.
    sharers: Vec<SiteIndex>,
    /// This site's share of each sharer's self-mask seed.
    pub(crate) shares: BTreeMap<SiteIndex, Secret>,
    /// U3: whom this site last consented to sum with.
    survivors: Vec<SiteIndex>,
}

/// What this site and one peer agree on by X25519. Every use derives a key from it that is salted
/// with everybody's keys: who was shown other adverts gets another one.
struct Agreed {
    boxes: Secret,
    masks: Secret,
}

impl Agreed {
    fn box_key(&self, adverts: &[u8; 32], from: SiteIndex, to: SiteIndex) -> Secret {
        derive(self.boxes.expose(), adverts, "sum/box", &sites_bytes([from, to]))
    }
}

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agreed(..)")
    }
}

pub(crate) struct Secrets {
    /// c^SK: opens boxes.
    pub(crate) box_key: StaticSecret,
    /// s^SK: agrees on pairwise masks.
    pub(crate) mask_key: StaticSecret,
    /// The half of the self mask that is shared (b_u).
    pub(crate) self_seed: Secret,
    /// The half of the self mask that the consents of all survivors together give out.
    pub(crate) opening: Secret,
    /// Seeds the coefficients of the sharing.
    coefficients: Secret,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    fn draw(seed: &[u8; 32], config: &SumConfig) -> Self {
        let draw = |label: &str| derive(seed, config.digest(), label, b"");
        Self {
            box_key: StaticSecret::from(*draw("sum/draw/box").expose()),
            mask_key: StaticSecret::from(*draw("sum/draw/mask").expose()),
            self_seed: draw("sum/draw/self"),
            opening: draw("sum/draw/opening"),
            coefficients: draw("sum/draw/coefficients"),
        }
    }
}

impl Site {
    /// Round 0 (AdvertiseKeys): draws ephemeral keys and signs them. With `blind` the vector is
    /// also masked towards the coordinator under the group key. `seed` must be fresh and secret.
    ///
    /// # Errors
    /// `UnknownSite` if `me` is not in the roster; `Signature` if `key` is not the roster's for `me`.
    pub fn start(
        config: SumConfig,
        me: SiteIndex,
        key: &SigningKey,
        blind: Option<&GroupKey>,
        seed: [u8; 32],
    ) -> Result<(Self, Advert)> {
        config.check_site(me)?;
        if key.verifying_key() != config.sites()[me.get()] {
            return Err(Error::new(
                ErrorKind::Signature,
                format!(
                    "this site's key is not the one the roster has for {me}: check the roster and the key file"
                ),
            ));
        }
        let seed = Secret::from_bytes(seed);
        let secrets = Secrets::draw(seed.expose(), &config);
        let mut advert = Advert {
            tag: config.tag(),
            site: me,
            box_key: PublicKey::from(&secrets.box_key).to_bytes(),
            mask_key: PublicKey::from(&secrets.mask_key).to_bytes(),
            blind_tag: blind_tag(&config, blind),
            signature: [0; 64],
        };
        advert.signature = key.sign(&advert.statement(&config)).to_bytes();
        let site = Self {
            me,
            key: key.clone(),
            blind: blind.cloned(),
            advert: advert.clone(),
            phase: Phase::Advertised,
            secrets,
            adverts_digest: [0; 32],
            agreed: BTreeMap::new(),
            sharers: Vec::new(),
            shares: BTreeMap::new(),
            survivors: Vec::new(),
            config,
        };
        Ok((site, advert))
    }

    /// This site's place in the roster.
    pub fn index(&self) -> SiteIndex {
        self.me
    }

    /// The sum's facts.
    pub fn config(&self) -> &SumConfig {
        &self.config
    }

    /// Round 1 (ShareKeys): checks everybody's keys, splits the self-mask seed and seals the shares.
    ///
    /// # Errors
    /// `BelowThreshold` with fewer adverts than the threshold; `Malformed` if a site appears twice;
    /// `Signature` for keys that their site did not sign; `GroupKey` for a site in another mode or
    /// under another group key; `Inconsistent` if this site's own advert is missing or changed, or
    /// keys repeat or are degenerate.
    pub fn receive_adverts(&mut self, adverts: &[Advert]) -> Result<SealedShares> {
        self.expect(&[Phase::Advertised], "adverts")?;
        let mut adverts = adverts.to_vec();
        adverts.sort_by_key(|advert| advert.site);
        let sites: Vec<SiteIndex> = adverts.iter().map(|advert| advert.site).collect();
        self.config.check_list(&sites)?;
        self.config.check_threshold(&sites, &self.config.all(), "keys")?;
        if !adverts.contains(&self.advert) {
            return Err(self.inconsistent("the adverts do not contain this site's own as it was sent"));
        }
        for (i, advert) in adverts.iter().enumerate() {
            advert.verify(&self.config)?;
            check_blind_tag(
                &advert.blind_tag,
                &self.config,
                self.blind.as_ref(),
                &format!("the advert of {}", advert.site),
            )?;
            let keys = [advert.box_key, advert.mask_key];
            if keys[0] == keys[1]
                || adverts[..i]
                    .iter()
                    .any(|other| keys.contains(&other.box_key) || keys.contains(&other.mask_key))
            {
                return Err(self.inconsistent(&format!("the advert of {} repeats a key", advert.site)));
            }
        }
        let digest = adverts_digest(&self.config, &adverts);
        let agreed = self.agree(&adverts)?;
        let message = self.share(&adverts, &digest, &agreed)?;

        self.adverts_digest = digest;
        self.agreed = agreed;
        self.phase = Phase::Shared;
        Ok(message)
    }

    /// Splits the self-mask seed among `adverts` and keeps the own share.
    fn share(
        &mut self,
        adverts: &[Advert],
        digest: &[u8; 32],
        agreed: &BTreeMap<SiteIndex, Agreed>,
    ) -> Result<SealedShares> {
        let points: Vec<u8> = adverts.iter().map(|advert| point(advert.site)).collect();
        // Other adverts must mean other polynomials: two sharings with the same coefficients
        // would let shares of one count for the other.
        let coefficients = derive(self.secrets.coefficients.expose(), digest, "sum/polynomial", b"");
        let mut rng = ChaCha20Rng::from_seed(*coefficients.expose());
        let shares = shamir::split(&self.secrets.self_seed, self.config.threshold(), &points, &mut rng)?;
        let mut own = None;
        let mut boxes = Vec::with_capacity(adverts.len() - 1);
        for (advert, share) in adverts.iter().zip(shares) {
            let commitment = commitment(digest, self.me, &share.y);
            let Some(agreed) = agreed.get(&advert.site) else {
                own = Some((share.y, commitment));
                continue;
            };
            let sealed = seal(&agreed.box_key(digest, self.me, advert.site), &share.y);
            boxes.push((advert.site, SealedShare { commitment, sealed }));
        }
        let (share, own) = own.ok_or_else(|| self.inconsistent("the adverts lack this site"))?;
        self.shares = BTreeMap::from([(self.me, share)]);
        Ok(SealedShares { tag: self.config.tag(), site: self.me, own, boxes })
    }

    /// Round 2 (MaskedInputCollection), first half: opens the shares that the others sealed to this site.
    ///
    /// # Errors
    /// `BelowThreshold` if too few have shared; `UnknownSite` for one that did not advertise or if the
    /// inbox is another site's; `Sealed` for a box that does not open, as when its sender saw
    /// other adverts, or whose share is not the one committed to.
    pub fn receive_inbox(&mut self, inbox: &Inbox) -> Result<()> {
        self.expect(&[Phase::Shared], "an inbox")?;
        self.config.check_tag(&inbox.tag)?;
        if inbox.site != self.me {
            return Err(Error::new(
                ErrorKind::UnknownSite,
                format!("an inbox for {} was delivered to {}", inbox.site, self.me),
            ));
        }
        let mut sharers: Vec<SiteIndex> = inbox.boxes.iter().map(|(site, _)| *site).collect();
        self.config.check_list(&sharers)?;
        match sharers.binary_search(&self.me) {
            Ok(_) => return Err(self.inconsistent("the inbox has a box from this site itself")),
            Err(place) => sharers.insert(place, self.me),
        }
        self.config.check_threshold(&sharers, &self.config.all(), "shares")?;
        let mut shares = BTreeMap::new();
        for (from, share) in &inbox.boxes {
            shares.insert(*from, self.open_share(*from, share)?);
        }

        self.shares.extend(shares);
        self.sharers = sharers;
        self.phase = Phase::Ready;
        Ok(())
    }

    fn open_share(&self, from: SiteIndex, share: &SealedShare) -> Result<Secret> {
        let key = self.agreed(from)?.box_key(&self.adverts_digest, from, self.me);
        let opened = open(&key, &share.sealed).ok_or_else(|| {
            Error::new(
                ErrorKind::Sealed,
                format!(
                    "the share of {from} for {} does not open: it was altered, or the coordinator showed \
                     {from} and {} different keys",
                    self.me, self.me
                ),
            )
        })?;
        if commitment(&self.adverts_digest, from, &opened) != share.commitment {
            return Err(Error::new(
                ErrorKind::Sealed,
                format!("the share of {from} for {} is not the one it committed to", self.me),
            ));
        }
        Ok(opened)
    }

    /// Round 2, second half: masks `words` in place, in one pass, and hands them back as the upload.
    ///
    /// # Errors
    /// `Length` if the vector has another length than agreed; `OutOfPhase` on a second call: a pad
    /// is used once.
    pub fn upload(&mut self, mut words: Vec<u32>) -> Result<MaskedInput> {
        let pads = self.take_pads(words.len())?;
        pads.apply(&mut words);
        self.config.words().clear(&mut words);
        let short = self.config.words().short;
        Ok(MaskedInput { tag: self.config.tag(), site: self.me, short, words })
    }

    /// As [`Site::upload`], written behind what `out` has already: the bytes of [`MaskedInput::encode`]. The words are freed
    /// as they are written.
    ///
    /// # Errors
    /// As [`Site::upload`].
    pub fn upload_into(&mut self, words: Vec<u32>, out: Vec<u8>) -> Result<Vec<u8>> {
        let pads = self.take_pads(words.len())?;
        let shape = self.config.words();
        let head =
            MaskedInput { tag: self.config.tag(), site: self.me, short: 0, words: Vec::new() }.encode();
        // Fresh zeros take no memory before they are written.
        let mut message = vec![0; out.len() + head.len() + shape.bytes()];
        message[..out.len()].copy_from_slice(&out);
        message[out.len()..out.len() + head.len()].copy_from_slice(&head);
        drain_words(words, shape, &mut message, |first, part| pads.apply_from(first, part));
        Ok(message)
    }

    /// The pads of the upload, once.
    fn take_pads(&mut self, words: usize) -> Result<Pads> {
        self.expect(&[Phase::Ready], "a vector to upload")?;
        self.config.check_words(words)?;
        let mut pads = Pads::default();
        pads.add(self_mask(&self.secrets.self_seed, &self.secrets.opening, &self.adverts_digest));
        for &peer in self.sharers.iter().filter(|&&peer| peer != self.me) {
            let seed = self.pair_seed(peer)?;
            if self.me < peer {
                pads.add(seed);
            } else {
                pads.subtract(seed);
            }
        }
        if let Some(key) = &self.blind {
            pads.add(blind_seed(key, &self.config, &self.adverts_digest, self.me));
        }
        self.phase = Phase::Uploaded;
        Ok(pads)
    }

    /// Round 3 (ConsistencyCheck): signs the list of survivors, gives its part in opening their self
    /// masks, which takes all of them, and gives up its pairwise seeds towards those not on the list.
    /// May be called again with a shorter list, never with a site that was given up.
    ///
    /// # Errors
    /// `BelowThreshold` for a list under the threshold; `Inconsistent` for one that lacks this site, has
    /// a site that did not share, or one that an earlier list left out.
    pub fn receive_survivors(&mut self, survivors: &Survivors) -> Result<Consent> {
        self.expect(&[Phase::Uploaded, Phase::Consented], "a list of survivors")?;
        self.config.check_tag(&survivors.tag)?;
        let list = &survivors.sites;
        self.config.check_list(list)?;
        let allowed = match self.phase {
            Phase::Consented => &self.survivors,
            _ => &self.sharers,
        };
        self.config.check_threshold(list, allowed, "vectors to be summed")?;
        if !list.contains(&self.me) {
            return Err(self.inconsistent("the list of survivors leaves this site out although it is here"));
        }
        if let Some(site) = list.iter().find(|site| !allowed.contains(site)) {
            return Err(self.inconsistent(&format!(
                "the list of survivors has {site}, which shared no keys or was given up before"
            )));
        }
        let statement = consent_statement(
            &self.config,
            &self.adverts_digest,
            &self.advert.blind_tag,
            &self.sharers,
            list,
        );
        let digest: [u8; 32] = Sha256::digest(&statement).into();
        let mut veiled = self.secrets.opening.clone();
        let (mut veils, mut seeds) = (Vec::new(), Vec::new());
        for &peer in self.sharers.iter().filter(|&&peer| peer != self.me) {
            if list.contains(&peer) {
                veiled.xor(&self.veil(peer, [self.me, peer], &digest)?);
                veils.push((peer, self.veil(peer, [peer, self.me], &digest)?));
            } else {
                seeds.push((peer, self.pair_seed(peer)?));
            }
        }
        let consent = Consent {
            tag: self.config.tag(),
            site: self.me,
            signature: self.key.sign(&statement).to_bytes(),
            veiled,
            veils,
            seeds,
        };
        self.survivors = list.clone();
        self.phase = Phase::Consented;
        Ok(consent)
    }

    /// Round 4 (Unmasking): checks that every survivor signed the list this site signed last, and
    /// gives out its shares of their self-mask seeds. Of a site that was given up it never does.
    ///
    /// # Errors
    /// `Inconsistent` if the signers are not exactly the survivors; `Signature` if one signed something
    /// else, as when the coordinator showed different lists.
    pub fn receive_consents(&mut self, consents: &Consents) -> Result<Unmasking> {
        self.expect(&[Phase::Consented], "consents")?;
        self.config.check_tag(&consents.tag)?;
        let signers: Vec<SiteIndex> = consents.sites().collect();
        self.config.check_threshold(&signers, &self.survivors, "consents")?;
        if signers != self.survivors {
            return Err(self.inconsistent("the consents are not those of the survivors this site signed for"));
        }
        let statement = consent_statement(
            &self.config,
            &self.adverts_digest,
            &self.advert.blind_tag,
            &self.sharers,
            &self.survivors,
        );
        for (site, signature) in &consents.signatures {
            self.config.verify(*site, &statement, signature, "the list of survivors")?;
        }
        let shares =
            self.survivors.iter().filter_map(|site| Some((*site, self.shares.get(site)?.clone()))).collect();
        self.phase = Phase::Unmasked;
        Ok(Unmasking { tag: self.config.tag(), site: self.me, shares })
    }

    /// Opens the result, which must come from the keys and the list that this site signed.
    ///
    /// # Errors
    /// `Inconsistent` if it does not; otherwise as [`BlindSum::open`].
    pub fn open(&self, sum: &BlindSum) -> Result<Opened> {
        self.open_whole(sum.clone())
    }

    /// As [`Site::open`] without a copy of the words.
    ///
    /// # Errors
    /// As [`Site::open`].
    pub fn open_whole(&self, sum: BlindSum) -> Result<Opened> {
        let shared = self.phase > Phase::Advertised;
        if shared && sum.adverts != self.adverts_digest {
            return Err(self.inconsistent("the blind sum was made under other keys than this site was shown"));
        }
        let sites = sum.sites();
        if self.phase >= Phase::Consented && sites.contains(&self.me) && sites != self.survivors {
            return Err(self.inconsistent("the blind sum is over other sites than this site signed for"));
        }
        sum.into_opened(&self.config, self.blind.as_ref())
    }

    /// X25519 with every peer's keys, once.
    fn agree(&self, adverts: &[Advert]) -> Result<BTreeMap<SiteIndex, Agreed>> {
        let agree = |peer: SiteIndex, mine: &StaticSecret, theirs: [u8; 32]| {
            let shared = mine.diffie_hellman(&PublicKey::from(theirs));
            if !shared.was_contributory() {
                return Err(self.inconsistent(&format!("{peer} advertised a degenerate key")));
            }
            Ok(Secret::from_bytes(shared.to_bytes()))
        };
        let peers = adverts.iter().filter(|advert| advert.site != self.me);
        peers
            .map(|peer| {
                let agreed = Agreed {
                    boxes: agree(peer.site, &self.secrets.box_key, peer.box_key)?,
                    masks: agree(peer.site, &self.secrets.mask_key, peer.mask_key)?,
                };
                Ok((peer.site, agreed))
            })
            .collect()
    }

    fn agreed(&self, peer: SiteIndex) -> Result<&Agreed> {
        self.agreed.get(&peer).ok_or_else(|| {
            Error::new(
                ErrorKind::UnknownSite,
                format!("{peer} has advertised no keys for {}", self.config.name()),
            )
        })
    }

    /// The seed of the mask between this site and `peer` (s_{u,v}); both compute the same.
    pub(crate) fn pair_seed(&self, peer: SiteIndex) -> Result<Secret> {
        let order = sites_bytes([self.me.min(peer), self.me.max(peer)]);
        let agreed = self.agreed(peer)?.masks.expose();
        Ok(derive(agreed, &self.adverts_digest, "sum/pair", &order))
    }

    /// What hides the owner's opening until the helper, too, consents to the list with this digest.
    /// One of `[owner, helper]` is this site, the other `peer`; both compute the same.
    pub(crate) fn veil(
        &self,
        peer: SiteIndex,
        [owner, helper]: [SiteIndex; 2],
        list: &[u8; 32],
    ) -> Result<Secret> {
        let context = [&sites_bytes([owner, helper])[..], list].concat();
        let agreed = self.agreed(peer)?.masks.expose();
        Ok(derive(agreed, &self.adverts_digest, "sum/veil", &context))
    }

    fn expect(&self, phases: &[Phase], what: &str) -> Result<()> {
        if phases.contains(&self.phase) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::OutOfPhase,
            format!(
                "{} cannot take {what} for {} now (it has {}): the message is late, early or repeated",
                self.me,
                self.config.name(),
                match self.phase {
                    Phase::Advertised => "advertised its keys",
                    Phase::Shared => "shared its secret",
                    Phase::Ready => "opened its inbox",
                    Phase::Uploaded => "uploaded",
                    Phase::Consented => "consented",
                    Phase::Unmasked => "unmasked",
                }
            ),
        ))
    }

    fn inconsistent(&self, problem: &str) -> Error {
        Error::new(
            ErrorKind::Inconsistent,
            format!("{}: {problem}; do not go on with this attempt", self.config.name()),
        )
    }
}

/// The field element at which a site's share is taken.
pub(crate) fn point(site: SiteIndex) -> u8 {
    // A roster has at most 255 sites.
    site.0 as u8 + 1
}

fn sites_bytes([first, second]: [SiteIndex; 2]) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.0.to_le_bytes(), second.0.to_le_bytes());
    [a, b, c, d]
}

/// The key of a self mask, from its shared half and its opening.
pub(crate) fn self_mask(seed: &Secret, opening: &Secret, adverts: &[u8; 32]) -> Secret {
    let both = zeroize::Zeroizing::new([*seed.expose(), *opening.expose()].concat());
    derive(&both, adverts, "sum/self", b"")
}

/// ChaCha20-Poly1305 under a key that seals exactly one message, hence the zero nonce.
fn seal(key: &Secret, share: &Secret) -> [u8; BOX] {
    let mut out = [0; BOX];
    out[..32].copy_from_slice(share.expose());
    let (body, tag) = out.split_at_mut(32);
    let made = ChaCha20Poly1305::new(key.expose().into())
        .encrypt_inout_detached(&[0; 12].into(), b"", body.into())
        .expect("32 bytes are within the cipher's limit");
    tag.copy_from_slice(&made);
    out
}

fn open(key: &Secret, sealed: &[u8; BOX]) -> Option<Secret> {
    let (body, tag) = sealed.split_first_chunk::<32>()?;
    let mut share = zeroize::Zeroizing::new(*body);
    let tag: &[u8; 16] = tag.first_chunk()?;
    ChaCha20Poly1305::new(key.expose().into())
        .decrypt_inout_detached(&[0; 12].into(), b"", share.as_mut_slice().into(), tag.into())
        .ok()?;
    Some(Secret::from_bytes(*share))
}

//! How a site comes into a consortium, over files that people hand to each other.
//!
//! The site makes its keys and a *request* with the public halves; the consortium puts the request into its roster, signs
//! it and gives out an *invitation* with everything that the site pins: the consortium's key, the roster, the
//! coordinator's address and certificate. Neither file is secret. Both can be replaced on the way, so their fingerprints
//! are compared by another way, such as the telephone.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use federation::{
    ConsortiumKey, ConsortiumPublic, CoordinatorKey, Roster, SignedRoster, SiteIndex, SiteKey, SiteName,
    SitePublic,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::consortium::secret;
use crate::engine::flower::key::{LineKey, check_public};
use crate::engine::flower::tls;
use crate::store::{Folder, SiteStore};

const REQUEST: &str = "fedgestalt-request/1";
const INVITATION: &str = "fedgestalt-invitation/1";
const SITE: &str = "site.json";
const ENROLLED: &str = "invitation.json";
const SITE_KEY: &str = "site";
const LINE_KEY: &str = "line";
const CONSORTIUM: &str = "consortium.json";
const REQUESTS: &str = "requests.json";
const ROSTER: &str = "roster.signed";
const CONSORTIUM_KEY: &str = "consortium.key";
const COORDINATOR_KEY: &str = "coordinator.key";
const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "certificate.pem";
const CERTIFICATE_KEY: &str = "certificate.key";

/// 32 fresh bytes from the operating system.
///
/// # Errors
///
/// When it gives none.
pub fn fresh() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).ok().context("the operating system gives no random bytes")?;
    Ok(bytes)
}

/// A secret: fresh, or in a rehearsal that of the simulation with this seed.
fn secret_of(rehearsal: Option<u64>, what: &str) -> Result<[u8; 32]> {
    rehearsal.map_or_else(fresh, |seed| Ok(secret(seed, what)))
}

/// Eight groups of four characters to be read out and compared.
pub fn fingerprint(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let text = hex::encode(&hash.finalize()[..16]);
    let groups: Vec<&str> = (0..8).map(|at| &text[4 * at..4 * at + 4]).collect();
    groups.join("-")
}

/// What a site asks to be let in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    format: String,
    /// Its name in the roster.
    pub name: SiteName,
    /// Its keys in the roster.
    pub keys: SitePublic,
    /// The key it connects with; PEM.
    pub line: String,
    /// By the key in the roster over the key it connects with.
    vouched: String,
}

impl Request {
    /// Checks that the file is what it says and that its keys belong together.
    ///
    /// # Errors
    ///
    /// When not.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.format == REQUEST,
            "a request of format {:?}; this program reads {REQUEST}",
            self.format
        );
        check_public(&self.line).with_context(|| format!("request of {}", self.name))?;
        let signature = hex::decode(&self.vouched).context("a request with a damaged signature")?;
        self.keys
            .vouched(self.line.as_bytes(), &signature)
            .with_context(|| format!("the request of {} was changed on its way; ask for it again", self.name))
    }

    /// To be compared with what the site says by another way.
    pub fn fingerprint(&self) -> String {
        fingerprint(&[self.name.as_str().as_bytes(), &self.keys.sign, &self.keys.seal, self.line.as_bytes()])
    }
}

/// What a site pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    format: String,
    /// Who signs rosters.
    pub consortium: ConsortiumPublic,
    /// Where the coordinator is: `https://host:port`.
    pub url: String,
    /// What vouches for its certificate; PEM.
    pub authority: String,
    /// The signed roster in hexadecimal.
    roster: String,
    /// All secrets follow from a seed that everybody knows.
    pub rehearsal: bool,
}

impl Invitation {
    /// The signed roster.
    ///
    /// # Errors
    ///
    /// When it is damaged, or not signed by the consortium.
    pub fn roster(&self) -> Result<(SignedRoster, Roster)> {
        ensure!(
            self.format == INVITATION,
            "an invitation of format {:?}; this program reads {INVITATION}",
            self.format
        );
        let signed =
            SignedRoster::decode(&hex::decode(&self.roster).context("an invitation with a damaged roster")?)?;
        let roster = signed.verify(&self.consortium)?;
        Ok((signed, roster))
    }

    /// To be compared with what the consortium says by another way: its key and the coordinator's certificate. It stays the
    /// same when sites come and go.
    pub fn fingerprint(&self) -> String {
        fingerprint(&[&self.consortium.0, self.authority.as_bytes()])
    }
}

/// Reads a JSON file that somebody else has made.
///
/// # Errors
///
/// When it cannot be read, is too long, or is something else.
pub fn read<T: DeserializeOwned>(file: &Path, what: &str) -> Result<T> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
    ensure!(bytes.len() < 4 << 20, "{name} is too long to be {what}");
    serde_json::from_slice(&bytes).with_context(|| format!("{name} is not {what}"))
}

/// What a site knows of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteIdentity {
    /// Its name.
    pub name: SiteName,
    /// The seed that its secrets follow from; only in a rehearsal.
    pub rehearsal: Option<u64>,
}

/// Makes a site's keys in its store, or finds them there, and the request with their public halves.
///
/// # Errors
///
/// When the store belongs to a site of another name.
pub fn make_site(store: &SiteStore, name: SiteName, rehearsal: Option<u64>) -> Result<Request> {
    let identity = SiteIdentity { name, rehearsal };
    match store.folder().read_json::<SiteIdentity>(SITE)? {
        Some(found) if found.name == identity.name && found.rehearsal == rehearsal => {}
        Some(found) => {
            bail!("{} belongs to {}; give another --store", store.folder().path().display(), found.name)
        }
        None => store.folder().write_json(SITE, &identity)?,
    }
    if store.key(SITE_KEY)?.is_none() {
        store.put_key(SITE_KEY, &secret_of(rehearsal, &format!("{} key", identity.name))?)?;
    }
    if store.key(LINE_KEY)?.is_none() {
        let mut scalar = [0; 48];
        // In a rehearsal too: nothing that is computed depends on it.
        getrandom::fill(&mut scalar).ok().context("the operating system gives no random bytes")?;
        LineKey::from_secret(&scalar)?;
        store.put_key(LINE_KEY, &scalar)?;
    }
    let site = SiteKeys::open(store)?;
    let line = site.line.public_pem().to_owned();
    Ok(Request {
        format: REQUEST.to_owned(),
        vouched: hex::encode(site.key.vouch(line.as_bytes())),
        name: identity.name,
        keys: site.key.public(),
        line,
    })
}

/// A site's secrets.
pub struct SiteKeys {
    /// Who it is.
    pub identity: SiteIdentity,
    /// Of the roster.
    pub key: SiteKey,
    /// Of the line.
    pub line: LineKey,
}

impl SiteKeys {
    /// From the store.
    ///
    /// # Errors
    ///
    /// When there are none yet, or others may read them.
    pub fn open(store: &SiteStore) -> Result<Self> {
        let none = "this store has no keys; `fedgestalt site keygen` makes them";
        let identity = store.folder().read_json(SITE)?.context(none)?;
        let key = store.key(SITE_KEY)?.context(none)?;
        let key =
            <[u8; 32]>::try_from(&key[..]).ok().context("the site's key is damaged; restore keys/site")?;
        let line = store.key(LINE_KEY)?.context(none)?;
        Ok(Self { identity, key: SiteKey::from_seed(&key), line: LineKey::from_secret(&line)? })
    }
}

/// Pins an invitation. A later one must be of the same consortium and not older.
///
/// # Errors
///
/// When the site is not in its roster, the fingerprint is another, or an invitation of another consortium is pinned.
pub fn enrol(
    store: &SiteStore,
    invitation: &Invitation,
    expected: Option<&str>,
) -> Result<(SiteIndex, Roster)> {
    let site = SiteKeys::open(store)?;
    let (_, roster) = invitation.roster()?;
    let Some(index) = roster.find_keys(&site.key.public()) else {
        bail!(
            "roster {} of {:?} does not have this site's keys; give the consortium the request that `site keygen` wrote",
            roster.serial(),
            roster.consortium()
        );
    };
    ensure!(
        invitation.rehearsal == site.identity.rehearsal.is_some(),
        "a rehearsal and a real consortium do not mix: make this site's keys {} --rehearsal",
        if invitation.rehearsal { "with" } else { "without" }
    );
    let fingerprint = invitation.fingerprint();
    if let Some(pinned) = enrolled(store)? {
        ensure!(
            pinned.consortium == invitation.consortium,
            "this site belongs to another consortium ({}); give another --store",
            pinned.fingerprint()
        );
        roster.succeeds_or_equals(&pinned.roster()?.1)?;
    }
    match expected {
        Some(expected) => ensure!(
            expected.trim().eq_ignore_ascii_case(&fingerprint),
            "the invitation's fingerprint is {fingerprint} and not the one you were told; it was replaced on its way"
        ),
        None => bail!(
            "the invitation's fingerprint is {fingerprint}. Ask the consortium for it by another way, such as the \
             telephone, and if it is the same run this again with --fingerprint {fingerprint}"
        ),
    }
    store.folder().write_json(ENROLLED, invitation)?;
    Ok((index, roster))
}

/// Pins a newer roster of the same consortium, which the participant has checked, in place of the invitation's.
///
/// # Errors
///
/// When it cannot be written.
pub fn pin_roster(store: &SiteStore, signed: &SignedRoster) -> Result<()> {
    // In a simulation there is no invitation.
    let Some(mut invitation) = enrolled(store)? else { return Ok(()) };
    invitation.roster = hex::encode(signed.encode());
    Ok(store.folder().write_json(ENROLLED, &invitation)?)
}

/// The invitation that is pinned.
///
/// # Errors
///
/// When it cannot be read.
pub fn enrolled(store: &SiteStore) -> Result<Option<Invitation>> {
    Ok(store.folder().read_json(ENROLLED)?)
}

/// What the consortium knows of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Charter {
    /// Its name.
    pub name: String,
    /// Where sites find the coordinator.
    pub url: String,
    /// The seed that its secrets follow from; only in a rehearsal.
    pub rehearsal: Option<u64>,
}

/// A consortium's folder: keys, roster, certificate. The coordinator runs on it.
pub struct Consortium {
    /// What it is.
    pub charter: Charter,
    folder: Folder,
}

impl Consortium {
    /// Founds a consortium whose coordinator is at `url`.
    ///
    /// # Errors
    ///
    /// When there is one in the folder already, or the address is none.
    pub fn found(path: &Path, charter: Charter, hosts: &[String]) -> Result<Self> {
        let folder = Folder::open(path)?;
        ensure!(
            folder.read(CONSORTIUM)?.is_none(),
            "{} holds a consortium already; give another --store",
            path.display()
        );
        folder.write_secret(CONSORTIUM_KEY, &secret_of(charter.rehearsal, "consortium key")?)?;
        folder.write_secret(COORDINATOR_KEY, &secret_of(charter.rehearsal, "coordinator key")?)?;
        let identity = tls::make(hosts, &charter.name, Timestamp::now())?;
        folder.write(AUTHORITY, identity.authority.as_bytes())?;
        folder.write(CERTIFICATE, identity.chain.as_bytes())?;
        folder.write_secret(CERTIFICATE_KEY, identity.key.as_bytes())?;
        folder.write_json(CONSORTIUM, &charter)?;
        Ok(Self { charter, folder })
    }

    /// Opens the folder.
    ///
    /// # Errors
    ///
    /// When there is no consortium in it.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Folder::open(path)?;
        let charter = folder.read_json(CONSORTIUM)?.with_context(|| {
            format!("{} holds no consortium; `fedgestalt consortium create` makes one", path.display())
        })?;
        Ok(Self { charter, folder })
    }

    fn seed(&self, name: &str) -> Result<[u8; 32]> {
        let key = self.folder.read_secret(name)?.with_context(|| format!("{name} is gone; restore it"))?;
        <[u8; 32]>::try_from(&key[..]).ok().with_context(|| format!("{name} is damaged; restore it"))
    }

    /// The coordinator's key.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn coordinator_key(&self) -> Result<CoordinatorKey> {
        Ok(CoordinatorKey::from_seed(&self.seed(COORDINATOR_KEY)?))
    }

    fn key(&self) -> Result<ConsortiumKey> {
        Ok(ConsortiumKey::from_seed(&self.seed(CONSORTIUM_KEY)?))
    }

    /// The public key of the consortium.
    ///
    /// # Errors
    ///
    /// When the key is gone.
    pub fn public(&self) -> Result<ConsortiumPublic> {
        Ok(self.key()?.public())
    }

    /// Certificate chain and key of the coordinator's front; PEM.
    ///
    /// # Errors
    ///
    /// When they are gone.
    pub fn certificate(&self) -> Result<(String, String)> {
        let chain = self.text(CERTIFICATE)?;
        let key = self.folder.read_secret(CERTIFICATE_KEY)?.context("certificate.key is gone; restore it")?;
        Ok((chain, String::from_utf8(key.to_vec()).context("certificate.key is damaged")?))
    }

    fn text(&self, name: &str) -> Result<String> {
        let bytes = self.folder.read(name)?.with_context(|| format!("{name} is gone; restore it"))?;
        String::from_utf8(bytes).with_context(|| format!("{name} is damaged; restore it"))
    }

    /// The signed roster and the requests behind it.
    ///
    /// # Errors
    ///
    /// When nobody was admitted yet.
    pub fn roster(&self) -> Result<(SignedRoster, Roster, Vec<Request>)> {
        let signed = self.folder.read(ROSTER)?;
        let signed =
            signed.context("nobody was admitted yet; `fedgestalt consortium admit` signs a roster")?;
        let signed = SignedRoster::decode(&signed)?;
        let roster = signed.verify(&self.public()?)?;
        Ok((signed, roster, self.folder.read_json(REQUESTS)?.unwrap_or_default()))
    }

    /// When the roster of a folder was written last; needs no lock.
    pub fn roster_written(path: &Path) -> Option<SystemTime> {
        std::fs::metadata(path.join(ROSTER)).and_then(|metadata| metadata.modified()).ok()
    }

    /// Signs a roster with these sites besides those that are in it, in order.
    ///
    /// # Errors
    ///
    /// When a request is damaged, or a name or key is there already.
    pub fn admit(&self, requests: Vec<Request>) -> Result<Roster> {
        requests.iter().try_for_each(Request::check)?;
        let place = |request: &Request| (request.name.clone(), request.keys);
        let (roster, all) = match self.folder.read(ROSTER)? {
            Some(_) => {
                let (_, mut roster, mut all) = self.roster()?;
                for request in requests {
                    roster = roster.with_site(request.name.clone(), request.keys)?;
                    all.push(request);
                }
                (roster, all)
            }
            None => {
                let coordinator = self.coordinator_key()?.public();
                let name = match self.charter.rehearsal {
                    // The name is in the roster's digest: that of the simulation, so that results can be compared.
                    Some(_) => "simulated consortium",
                    None => &self.charter.name,
                };
                (Roster::new(name, 1, coordinator, requests.iter().map(place).collect())?, requests)
            }
        };
        self.folder.write_json(REQUESTS, &all)?;
        self.folder.write(ROSTER, &roster.sign(&self.key()?).encode())?;
        Ok(roster)
    }

    /// What the sites get.
    ///
    /// # Errors
    ///
    /// When nobody was admitted yet.
    pub fn invitation(&self) -> Result<Invitation> {
        let (signed, _, _) = self.roster()?;
        Ok(Invitation {
            format: INVITATION.to_owned(),
            consortium: self.public()?,
            url: self.charter.url.clone(),
            authority: self.text(AUTHORITY)?,
            roster: hex::encode(signed.encode()),
            rehearsal: self.charter.rehearsal.is_some(),
        })
    }

    /// A folder of the running coordinator, inside.
    ///
    /// # Errors
    ///
    /// When another process works in it.
    pub fn subfolder(&self, name: &str) -> Result<Folder> {
        Ok(Folder::open(&self.folder.path().join(name))?)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }
}

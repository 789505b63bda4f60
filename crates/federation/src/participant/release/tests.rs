//! Rosters that a coordinator hands out while it serves.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::envelope::Signer;
use crate::identity::{ConsortiumKey, CoordinatorKey, SiteKey};
use crate::participant::SiteSetup;
use crate::policy::Policy;
use crate::roster::Roster;

fn coordinator() -> CoordinatorKey {
    CoordinatorKey::from_seed(&[90; 32])
}

fn consortium() -> ConsortiumKey {
    ConsortiumKey::from_seed(&[91; 32])
}

fn key(site: u8) -> SiteKey {
    SiteKey::from_seed(&[site + 1; 32])
}

fn name(site: u8) -> SiteName {
    SiteName::new(&format!("hospital{site}")).unwrap()
}

fn roster(sites: u8) -> Roster {
    let sites = (0..sites).map(|at| (name(at), key(at).public())).collect();
    Roster::new("toy", 5, coordinator().public(), sites).unwrap()
}

fn participant(pinned: &Roster) -> Participant {
    let setup = SiteSetup {
        key: key(1),
        consortium: consortium().public(),
        roster: pinned.sign(&consortium()),
        policy: Policy::default(),
        holdings: BTreeMap::new(),
        group: None,
        seed: [4; 32],
    };
    Participant::new(setup).unwrap()
}

/// What the coordinator says, under its own key.
fn told(signed: &SignedRoster) -> Bytes {
    let envelope = Envelope {
        session: [7; 16],
        kind: Kind::Roster,
        round: 1,
        attempt: 0,
        sender: Party::Coordinator,
        recipient: None,
        payload: signed.encode().into(),
    };
    envelope.seal(&Signer::Coordinator(&coordinator()))
}

#[test]
fn a_roster_that_adds_sites_is_pinned_and_a_site_in_no_session_asks_to_join() {
    let old = roster(3);
    let mut site = participant(&old);
    let newer = old.with_site(name(3), key(3).public()).unwrap().sign(&consortium());
    let actions = site.handle(told(&newer)).unwrap();
    let pinned = actions.iter().find_map(|action| match action {
        Action::Roster(roster) => Some(roster),
        _ => None,
    });
    assert_eq!(**pinned.unwrap(), newer);
    assert_eq!(site.roster().serial(), 6);
    let asks = |actions: &[Action]| {
        actions.iter().any(|a| matches!(a, Action::Send(m) if m.kind == Kind::JoinRequest))
    };
    assert!(asks(&actions));
    // Killed now, it asks again; it is told the same again, and pins nothing.
    let restored = |bytes: &[u8]| {
        let setup = SiteSetup {
            key: key(1),
            consortium: consortium().public(),
            roster: newer.clone(),
            policy: Policy::default(),
            holdings: BTreeMap::new(),
            group: None,
            seed: [5; 32],
        };
        Participant::restore(setup, bytes).unwrap()
    };
    let mut site = restored(&site.snapshot());
    assert!(asks(&site.rejoin().unwrap()));
    let again = site.handle(told(&newer)).unwrap();
    assert!(!again.iter().any(|action| matches!(action, Action::Roster(_))));
}

#[test]
fn any_other_roster_is_refused_and_changes_nothing() {
    let old = roster(3);
    let stranger = ConsortiumKey::from_seed(&[1; 32]);
    let added = old.with_site(name(3), key(3).public()).unwrap();
    let swapped = {
        let sites = [1, 0, 2].map(|at| (name(at), key(at).public())).to_vec();
        Roster::new("toy", 9, coordinator().public(), sites).unwrap()
    };
    let usurped = {
        let sites = (0..3).map(|at| (name(at), key(at).public())).collect();
        Roster::new("toy", 9, CoordinatorKey::from_seed(&[8; 32]).public(), sites).unwrap()
    };
    let cases = [
        ("signed by a stranger", added.sign(&stranger)),
        (
            "older",
            Roster::new(
                "toy",
                4,
                coordinator().public(),
                vec![
                    (name(0), key(0).public()),
                    (name(1), key(1).public()),
                    (name(2), key(2).public()),
                    (name(3), key(3).public()),
                ],
            )
            .unwrap()
            .sign(&consortium()),
        ),
        ("retires a site", old.retire(&name(2)).unwrap().sign(&consortium())),
        ("retires this site", old.retire(&name(1)).unwrap().sign(&consortium())),
        ("moves places", swapped.sign(&consortium())),
        ("names another coordinator", usurped.sign(&consortium())),
    ];
    for (what, signed) in cases {
        let mut site = participant(&old);
        let before = site.snapshot();
        let refusal = site.handle(told(&signed)).unwrap_err();
        assert_eq!(refusal.kind(), RefusalKind::RosterRefused, "{what}: {refusal}");
        assert_eq!(site.roster(), &old, "{what}");
        assert!(site.snapshot() == before, "{what}");
    }
}

//! Fixed messages: one of every kind, and one for each way an envelope can be refused.
//!
//! `FEDERATION_WRITE_VECTORS=1 cargo test -p federation --test vectors` writes them anew, which a change
//! of the protocol's version asks for.

#![allow(clippy::unwrap_used)]

#[path = "harness/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;

use federation::*;
use serde::{Deserialize, Serialize};
use world::*;

#[derive(Serialize, Deserialize)]
struct Vector {
    /// The kind of an accepted message, or of the refusal.
    outcome: String,
    round: u32,
    attempt: u32,
    payload_len: usize,
    message: String,
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/messages.json")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// A full session in which one site drops out and a newcomer joins, so that every kind is sent.
fn sent() -> (Vec<Outgoing>, Roster) {
    let mut world = World::new(4, 1, |plan| {
        plan.kernel = Some(toy_kernel());
        plan.members.truncate(1);
    });
    world.start();
    while world.sites[0].applied.is_empty() {
        world.deliver();
    }
    world.kill(1);
    world.revive(1);
    world.pump();
    let (image, _, _) = images(1, &world.sites[1].holdings, false).remove(0);
    world.site_calls(1, |p| p.withdraw(&[image]));
    let old = world.roster.verify(&consortium().public()).unwrap();
    let newer = old.with_site(SiteName::new("hospital4").unwrap(), site_key(4).public()).unwrap();
    world.roster = newer.sign(&consortium());
    let signed = world.roster.clone();
    world.add_site(4, holdings(4));
    let told = world.coordinator.as_mut().unwrap().adopt_roster(&signed).unwrap();
    world.coordinator_does(told);
    while !world.queue.is_empty() {
        world.deliver();
    }
    // Abstaining and halting, in sessions of their own.
    let mut sent = world.sent;
    let mut poisoned = World::new(4, 1, |_| {});
    poisoned.sites[3].poison.insert(1);
    poisoned.sites[2].drift = Some(2);
    poisoned.run();
    sent.extend(poisoned.sent.into_iter().filter(|m| matches!(m.kind, Kind::Abstain | Kind::Halted)));
    (sent, newer)
}

fn make() -> BTreeMap<String, Vector> {
    let (sent, roster) = sent();
    let mut vectors = BTreeMap::new();
    let mut put = |name: String, bytes: Vec<u8>| {
        let (outcome, round, attempt, payload_len) =
            match Envelope::open(bytes.clone().into(), &roster, |_| 1 << 20) {
                Ok(opened) => {
                    let e = opened.envelope;
                    (format!("{:?}", e.kind), e.round, e.attempt, e.payload.len())
                }
                Err(refusal) => (format!("{:?}", refusal.kind()), 0, 0, 0),
            };
        vectors.insert(name, Vector { outcome, round, attempt, payload_len, message: hex(&bytes) });
    };
    for &kind in Kind::ALL {
        let smallest = sent.iter().filter(|m| m.kind == kind).min_by_key(|m| m.bytes.len());
        let message = smallest.unwrap_or_else(|| panic!("no {kind:?} was sent"));
        put(format!("{kind:?}"), message.bytes.to_vec());
    }
    // An envelope begins 08 version 12 10 session 18 kind.
    let open = sent.iter().find(|m| m.kind == Kind::Advert).unwrap().bytes.to_vec();
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = open.clone();
        change(&mut bytes);
        bytes
    };
    put("bad_version".into(), edit(&|b| b[1] = 2));
    put("bad_session_length".into(), {
        let mut bytes = edit(&|b| b[3] = 15);
        bytes.remove(19);
        bytes
    });
    put("bad_kind".into(), edit(&|b| b[21] = 99));
    put("bad_signature".into(), edit(&|b| *b.last_mut().unwrap() ^= 1));
    put("bad_payload".into(), edit(&|b| b[40] ^= 1));
    put("bad_truncated".into(), edit(&|b| b.truncate(b.len() / 2)));
    put("bad_unknown_field".into(), edit(&|b| b.extend([0x78, 1])));
    put("bad_repeated_field".into(), edit(&|b| b.extend([0x08, 1])));
    put("bad_empty".into(), Vec::new());
    put("bad_oversized".into(), edit(&|b| b.resize((1 << 20) + 1000, 0)));
    let sender = open
        .windows(2)
        .position(|w| w == [0x30, open[open.iter().position(|&x| x == 0x30).unwrap() + 1]])
        .unwrap();
    put("bad_unknown_sender".into(), edit(&|b| b[sender + 1] = 50));
    vectors.get_mut("bad_oversized").unwrap().message = "oversized".into();
    vectors
}

#[test]
fn fixed_messages_open_as_they_did() {
    if std::env::var_os("FEDERATION_WRITE_VECTORS").is_some() {
        std::fs::create_dir_all(file().parent().unwrap()).unwrap();
        std::fs::write(file(), serde_json::to_string_pretty(&make()).unwrap() + "\n").unwrap();
    }
    let vectors: BTreeMap<String, Vector> = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
    let roster = {
        let old = roster(4);
        old.with_site(SiteName::new("hospital4").unwrap(), site_key(4).public()).unwrap()
    };
    for &kind in Kind::ALL {
        assert!(vectors.contains_key(&format!("{kind:?}")), "no vector for {kind:?}");
    }
    for (name, vector) in &vectors {
        let bytes =
            if vector.message == "oversized" { vec![0; (1 << 20) + 1000] } else { unhex(&vector.message) };
        match Envelope::open(bytes.into(), &roster, |_| 1 << 20) {
            Ok(opened) => {
                let e = opened.envelope;
                assert!(!name.starts_with("bad_"), "{name} opens");
                assert_eq!(format!("{:?}", e.kind), vector.outcome, "{name}");
                assert_eq!(
                    (e.round, e.attempt, e.payload.len()),
                    (vector.round, vector.attempt, vector.payload_len),
                    "{name}"
                );
            }
            Err(refusal) => {
                assert!(name.starts_with("bad_"), "{name}: {refusal}");
                assert_eq!(format!("{:?}", refusal.kind()), vector.outcome, "{name}: {refusal}");
            }
        }
    }
    let outcome = |name: &str| vectors[name].outcome.as_str();
    assert_eq!(outcome("bad_version"), "UnsupportedVersion");
    assert_eq!(outcome("bad_signature"), "BadSignature");
    assert_eq!(outcome("bad_payload"), "BadSignature");
    assert_eq!(outcome("bad_unknown_field"), "Malformed");
    assert_eq!(outcome("bad_repeated_field"), "Malformed");
    assert_eq!(outcome("bad_unknown_sender"), "UnknownSender");
    assert_eq!(outcome("bad_oversized"), "Oversized");
}

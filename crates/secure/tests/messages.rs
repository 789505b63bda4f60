//! Reading messages: whatever the bytes, nothing panics, and only what could have been written is read.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use secure::Result;
use secure::ed25519_dalek::SigningKey;
use secure::sum::*;

const KINDS: usize = 9;

/// Reads the bytes as the message of this kind and writes it again.
fn round_trip(kind: usize, bytes: &[u8], config: &SumConfig) -> Result<Vec<u8>> {
    match kind {
        0 => Advert::decode(bytes, config).map(|m| m.encode()),
        1 => SealedShares::decode(bytes, config).map(|m| m.encode()),
        2 => Inbox::decode(bytes, config).map(|m| m.encode()),
        3 => MaskedInput::decode(bytes, config).map(|m| m.encode()),
        4 => Survivors::decode(bytes, config).map(|m| m.encode()),
        5 => Consent::decode(bytes, config).map(|m| m.encode()),
        6 => Consents::decode(bytes, config).map(|m| m.encode()),
        7 => Unmasking::decode(bytes, config).map(|m| m.encode()),
        _ => BlindSum::decode(bytes, config).map(|m| m.encode()),
    }
}

fn config() -> SumConfig {
    let keys = (1..=4u8).map(|i| SigningKey::from_bytes(&[i; 32]).verifying_key());
    let session = Session { id: [1; 16], purpose: "round".into(), round: 2, attempt: 0 };
    SumConfig::new(session, keys.collect(), Words { short: 1, long: 2 }).unwrap()
}

/// A message of this kind with random content.
fn message(kind: usize) -> impl Strategy<Value = Vec<u8>> {
    let subset = prop::sample::subsequence(vec![0u16, 1, 2, 3], 0..=4);
    (0u16..4, prop::collection::vec(any::<u8>(), 600), subset.clone(), subset).prop_map(
        move |(site, content, first, second)| {
            let mut out = vec![2, kind as u8 + 1];
            out.extend_from_slice(&config().digest()[..16]);
            let mut content = content.into_iter();
            let put = |out: &mut Vec<u8>, content: &mut std::vec::IntoIter<u8>, count: usize| {
                out.extend(content.by_ref().take(count));
            };
            let list = |out: &mut Vec<u8>, content: &mut std::vec::IntoIter<u8>, sites: &[u16], len| {
                out.extend_from_slice(&(sites.len() as u16).to_le_bytes());
                for site in sites {
                    out.extend_from_slice(&site.to_le_bytes());
                    out.extend(content.by_ref().take(len));
                }
            };
            if ![4, 6, 8].contains(&kind) {
                out.extend_from_slice(&site.to_le_bytes());
            }
            match kind {
                0 => put(&mut out, &mut content, 32 + 32 + 16 + 64),
                1 => {
                    put(&mut out, &mut content, 32);
                    list(&mut out, &mut content, &first, 80);
                }
                2 => list(&mut out, &mut content, &first, 80),
                3 => put(&mut out, &mut content, 3 + 2 * 4),
                4 => list(&mut out, &mut content, &first, 0),
                5 => {
                    put(&mut out, &mut content, 64 + 32);
                    list(&mut out, &mut content, &first, 32);
                    list(&mut out, &mut content, &second, 32);
                }
                6 => list(&mut out, &mut content, &first, 64),
                7 => list(&mut out, &mut content, &first, 32),
                _ => {
                    put(&mut out, &mut content, 32 + 16);
                    list(&mut out, &mut content, &first, 0);
                    list(&mut out, &mut content, &second, 64);
                    put(&mut out, &mut content, 3 + 2 * 4);
                }
            }
            out
        },
    )
}

fn any_message() -> impl Strategy<Value = (usize, Vec<u8>)> {
    (0..KINDS).prop_flat_map(|kind| (Just(kind), message(kind)))
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_nothing_shorter_or_longer(
        (kind, bytes) in any_message(), more in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let config = config();
        prop_assert_eq!(&round_trip(kind, &bytes, &config).unwrap(), &bytes);
        for len in 0..bytes.len() {
            prop_assert!(round_trip(kind, &bytes[..len], &config).is_err(), "cut at {}", len);
        }
        let longer = [&bytes[..], &more].concat();
        prop_assert!(round_trip(kind, &longer, &config).is_err());
        for other in (0..KINDS).filter(|other| *other != kind) {
            prop_assert!(round_trip(other, &bytes, &config).is_err());
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_read_as_it_is(
        (kind, mut bytes) in any_message(), place: prop::sample::Index, value: u8,
    ) {
        let place = place.index(bytes.len());
        bytes[place] = value;
        if let Ok(written) = round_trip(kind, &bytes, &config()) {
            prop_assert_eq!(written, bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0..KINDS, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let config = config();
        prop_assert!(round_trip(kind, &bytes, &config).is_err());
        let mut headed = vec![1, kind as u8 + 1];
        headed.extend_from_slice(&config.digest()[..16]);
        headed.extend_from_slice(&bytes);
        if let Ok(written) = round_trip(kind, &headed, &config) {
            prop_assert_eq!(written, headed);
        }
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

fn header() -> Header {
    let ids = ["b", "a", "täglich"].map(str::to_owned).to_vec();
    Header::new([7; 32], 99, 5, 2, ids).unwrap()
}

fn feature(image: usize, draw: usize, index: usize) -> f32 {
    (image * 100 + draw * 10 + index) as f32 / 8.0
}

fn file() -> Vec<u8> {
    let mut bytes = header().encode();
    for image in 0..3 {
        for draw in 0..2 {
            let row: Vec<f32> = (0..5).map(|index| feature(image, draw, index)).collect();
            encode_row(&row, &mut bytes).unwrap();
        }
    }
    bytes
}

fn check_contents(table: &FeatureTable<&[u8]>) {
    assert_eq!((table.dim(), table.rows(), table.draws()), (5, 3, 2));
    assert_eq!((table.row_of("a"), table.row_of("täglich"), table.row_of("c")), (Some(1), Some(2), None));
    let mut out = [f32::NAN; 5];
    for image in 0..3 {
        for draw in 0..2 {
            table.copy_row(image, draw, &mut out);
            let want: Vec<f32> = (0..5).map(|index| feature(image, draw, index)).collect();
            assert_eq!(out[..], want[..]);
        }
    }
}

#[test]
fn a_table_is_read_as_it_was_written_at_any_alignment() {
    let bytes = file();
    let table = FeatureTable::parse(&bytes[..]).unwrap();
    assert_eq!(table.header(), &header());
    assert_eq!(table.header().data_offset() % 64, 0);
    check_contents(&table);
    let mut shifted = vec![0];
    shifted.extend_from_slice(&bytes);
    check_contents(&FeatureTable::parse(&shifted[1..]).unwrap());
}

#[test]
fn every_cut_is_called_one() {
    let bytes = file();
    for length in 0..bytes.len() {
        let error = FeatureTable::parse(&bytes[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{length}: {error}");
        assert!(error.to_string().contains("compute the features again"));
    }
}

#[test]
fn every_change_of_the_header_is_noticed() {
    let bytes = file();
    for at in 0..header().data_offset() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(FeatureTable::parse(changed).is_err(), "byte {at}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(FeatureTable::parse(longer).unwrap_err().kind(), ErrorKind::Format);
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let new = |dim, draws, ids: &[&str]| {
        Header::new([0; 32], 0, dim, draws, ids.iter().map(|id| (*id).to_owned()).collect())
    };
    assert!(new(1, 1, &[]).is_ok(), "an empty cohort is a table without rows");
    for (result, expected) in [
        (new(0, 1, &["a"]), "at least one"),
        (new(1, 0, &["a"]), "at least one"),
        (new(1 << 40, 1, &["a"]), "too large"),
        (new(u32::MAX as usize, u32::MAX as usize, &["a"]), "too large"),
        (new(1, 1, &["a", "b", "a"]), "rows 0 and 2"),
        (new(1, 1, &[&"x".repeat(70_000)]), "row 0"),
    ] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn features_that_f16_cannot_hold_are_refused_and_nothing_is_appended() {
    let mut bytes = vec![1, 2];
    for (value, expected) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (70_000.0, "70000")] {
        let error = encode_row(&[0.0, value], &mut bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.to_string().contains(&format!("feature 1 is {expected}")), "{error}");
    }
    assert_eq!(bytes, [1, 2]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(FeatureTable::parse(&bytes[..]).is_err());
    }

    /// Bytes with a right magic, version and digest, so that parsing goes deep.
    #[test]
    fn arbitrary_headers_never_panic(
        dim in prop_oneof![0u32..4, any::<u32>()],
        draws in prop_oneof![0u32..4, any::<u32>()],
        images in prop_oneof![0u32..6, any::<u32>()],
        ids in proptest::collection::vec(0u8..4, 0..24),
        length in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = MAGIC.to_vec();
        for field in [VERSION, dim, draws, images] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 40]);
        bytes.extend_from_slice(&length.unwrap_or(ids.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&ids);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        bytes.extend_from_slice(&tail);
        if let Ok(table) = FeatureTable::parse(&bytes[..]) {
            prop_assert_eq!(table.header().file_bytes(), bytes.len());
            prop_assert_eq!(&bytes[..table.header().data_offset()], &table.header().encode()[..]);
        }
    }

    #[test]
    fn rows_come_back_within_half_a_unit_of_f16(row in proptest::collection::vec(-60_000.0f32..60_000.0, 1..40)) {
        let mut bytes = Header::new([0; 32], 0, row.len(), 1, vec!["a".into()]).unwrap().encode();
        encode_row(&row, &mut bytes).unwrap();
        let table = FeatureTable::parse(bytes).unwrap();
        let mut out = vec![0.0; row.len()];
        table.copy_row(0, 0, &mut out);
        for (got, want) in out.iter().zip(&row) {
            // Eleven significant bits, or the spacing of the subnormal numbers.
            prop_assert!((got - want).abs() <= (want.abs() * 2f32.powi(-11)).max(2f32.powi(-25)));
        }
    }
}

use proptest::prelude::*;
use vision::ErrorKind;
use vision::decode::{Limits, decode};

use crate::{data, json, photo};

#[test]
fn every_variant_becomes_the_same_upright_rgb() {
    for (file, expected, tolerance) in json::<Vec<(String, String, u8)>>("decode.json") {
        let (found, expected) = (photo(&file), photo(&expected));
        assert_eq!((found.width(), found.height()), (expected.width(), expected.height()), "{file}");
        let worst = found.rgb().iter().zip(expected.rgb()).map(|(&a, &b)| a.abs_diff(b)).max();
        // JPEG decoders round in their own ways; everything else is exact.
        assert!(worst <= Some(tolerance), "{file}: {worst:?} > {tolerance}");
    }
}

#[test]
fn nothing_of_the_metadata_survives() {
    let text = b"a description that must not survive";
    for file in ["decode_exif6.jpg", "decode_exif6.png"] {
        assert!(data(file).windows(text.len()).any(|w| w == text));
        let crop = vision::Crop::from_photo(&photo(file)).unwrap();
        for encoded in [crop.to_png().unwrap(), crop.to_jpeg(95).unwrap()] {
            assert!(!encoded.windows(text.len()).any(|w| w == text));
            assert!(!encoded.windows(4).any(|w| w == b"Exif" || w == b"eXIf"));
        }
    }
}

#[test]
fn limits_are_kept_before_pixels_are_allocated() {
    let bytes = data("decode_rgb.png");
    let kind = |bytes: &[u8], limits: Limits| decode(bytes, &limits).unwrap_err().kind();
    let tight = Limits { bytes: bytes.len() - 1, ..Limits::default() };
    assert_eq!(kind(&bytes, tight), ErrorKind::Limit);
    for file in ["decode_rgb.png", "decode_exif1.jpg", "decode_rgb16.png"] {
        let limits = |pixels| Limits { pixels, ..Limits::default() };
        assert_eq!(kind(&data(file), limits(40 * 24 - 1)), ErrorKind::Limit, "{file}");
        assert!(decode(&data(file), &limits(40 * 24)).is_ok(), "{file}");
    }
    // A PNG of a few bytes that claims 65,535 x 65,535 pixels: 12.9 GB of RGB.
    let mut bomb = bytes.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(kind(&bomb, Limits::default()), ErrorKind::Limit);
    // The same for JPEG: the sizes stand in the start-of-frame segment.
    let mut bomb = data("decode_exif1.jpg");
    let frame = bomb.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert_eq!(kind(&bomb, Limits::default()), ErrorKind::Limit);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn other_files_are_named() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "an empty file"),
        (b"GIF89a......", "a GIF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP"),
        (b"\0\0\0\x18ftypheic", "a HEIC"),
        (b"II*\0\x08\0\0\0", "a TIFF"),
        (b"%PDF-1.7", "a PDF"),
        (b"image_id,label,subject\n", "something else"),
    ];
    for (bytes, expected) in cases {
        let error = decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_file_cut_short_is_refused_wherever_it_is_cut() {
    for file in ["decode_exif3.jpg", "decode_progressive.jpg", "decode_rgb.png"] {
        let whole = data(file);
        // The PNG's last chunk (12 bytes, IEND) may be missing: the pixels are complete without it.
        let end = whole.len() - if file.ends_with("png") { 12 } else { 0 };
        for length in 8..end {
            let error = decode(&whole[..length], &Limits::default())
                .expect_err(&format!("{file} cut to {length} of {} bytes", whole.len()));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{file} {length}: {error}");
        }
    }
}

#[test]
fn what_follows_the_picture_is_ignored() {
    let mut bytes = data("decode_exif1.jpg");
    bytes.extend_from_slice(b"camera maker's preview \xff\xda\xff");
    assert_eq!(decode(&bytes, &Limits::default()).unwrap(), photo("decode_exif1.jpg"));
}

const HOSTILE: [&str; 8] = [
    "decode_exif6.jpg",
    "decode_progressive.jpg",
    "decode_420.jpg",
    "decode_cmyk.jpg",
    "decode_rgb16.png",
    "decode_palette.png",
    "decode_transparent.png",
    "decode_exif6.png",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        file in 0..HOSTILE.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
        (from, to, length) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..64),
    ) {
        let mut bytes = data(HOSTILE[file]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let length = length.min(bytes.len() - from.max(to));
        bytes.copy_within(from..from + length, to);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let limits = Limits { pixels: 1 << 20, ..Limits::default() };
        if let Ok(photo) = decode(&bytes, &limits) {
            prop_assert!(u64::from(photo.width()) * u64::from(photo.height()) <= limits.pixels);
        }
    }

    #[test]
    fn noise_behind_a_signature_never_panics(
        jpeg in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let signature: &[u8] = if jpeg { b"\xff\xd8\xff" } else { b"\x89PNG\r\n\x1a\n" };
        let limits = Limits { pixels: 1 << 20, ..Limits::default() };
        let _ = decode(&[signature, &noise].concat(), &limits);
    }
}

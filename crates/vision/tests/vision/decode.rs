use std::path::PathBuf;

use proptest::prelude::*;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use vision::ErrorKind;
use vision::decode::{Limits, decode};

use crate::{data, json, photo};

#[test]
fn every_variant_becomes_the_same_upright_rgb() {
    // Two scripts, two pictures: the first in what alignment and tests need, the second in what archives hold.
    let mut cases: Vec<(String, String, u8)> = json("decode.json");
    let archive: Vec<(String, String, u8)> = json("photographs/photographs.json");
    assert!(archive.len() >= 20);
    let inside = |name: String| format!("photographs/{name}");
    cases.extend(archive.into_iter().map(|(file, expected, t)| (inside(file), inside(expected), t)));
    for (file, expected, tolerance) in cases {
        let (found, expected) = (photo(&file), photo(&expected));
        assert_eq!((found.width(), found.height()), (expected.width(), expected.height()), "{file}");
        let worst = found.rgb().iter().zip(expected.rgb()).map(|(&a, &b)| a.abs_diff(b)).max();
        // JPEG decoders round in their own ways; everything else is exact.
        assert!(worst <= Some(tolerance), "{file}: {worst:?} > {tolerance}");
    }
}

/// What `reference/jpeg_vectors.py` wrote: a name, where the file lies in `jpeg.bin`, its length, the picture's width and
/// height, and the SHA-256 of its pixels by libjpeg-turbo.
type Jpeg = (String, usize, usize, u32, u32, String);

#[test]
fn every_kind_of_jpeg_has_the_bits_that_libjpeg_turbo_gives_it() {
    let (bytes, files) = (data("jpeg.bin"), json::<Vec<Jpeg>>("jpeg.json"));
    assert!(files.len() > 100);
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|(name, start, length, width, height, digest)| {
            match decode(&bytes[*start..][..*length], &Limits::default()) {
                Ok(found) if (found.width(), found.height()) != (*width, *height) => {
                    Some(format!("{name}: size"))
                }
                Ok(found) if hex(&Sha256::digest(found.rgb())) != *digest => Some(format!("{name}: pixels")),
                Ok(_) => None,
                Err(error) => Some(format!("{name}: {error}")),
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}

/// All JPEG files that the reference script found in the material, by path and SHA-256 of OpenCV's pixels.
#[test]
#[cfg_attr(not(has_material), ignore = "the material is not there: set FEDGESTALT_MATERIAL")]
fn real_jpegs_have_the_bits_that_opencv_reads() {
    let material = PathBuf::from(std::env::var_os("FEDGESTALT_MATERIAL").unwrap());
    let Some(listed) = crate::agreement::folder().map(|folder| folder.join("jpegs.json")) else { return };
    if !listed.exists() {
        println!("skipped: {} is not there; write it with reference/agreement.py", listed.display());
        return;
    }
    let files: Vec<(String, String)> = serde_json::from_slice(&std::fs::read(listed).unwrap()).unwrap();
    assert!(files.len() > 1000);
    let wrong: Vec<&str> = files
        .par_iter()
        .filter_map(|(file, digest)| {
            let found = decode(&std::fs::read(material.join(file)).unwrap(), &Limits::default());
            let same = found.is_ok_and(|photo| hex(&Sha256::digest(photo.rgb())) == *digest);
            (!same).then_some(file.as_str())
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} differ: {wrong:?}", wrong.len(), files.len());
    println!("{} files", files.len());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn threads_change_no_bit_of_a_jpeg() {
    let noise: Vec<u8> =
        (0..700 * 500 * 3).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90);
    encoder.encode(&noise, 700, 500, image::ExtendedColorType::Rgb8).unwrap();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| decode(&jpeg, &Limits::default()).unwrap())
    };
    assert!(on(1) == on(3));
}

#[test]
fn nothing_of_the_metadata_survives() {
    let text = b"a description that must not survive";
    for file in ["decode_exif6.jpg", "decode_exif6.png", "photographs/exif6.webp"] {
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
    let cases: [(&[u8], &str); 6] = [
        (b"", "an empty file"),
        (b"GIF89a......", "a GIF"),
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
    let files = [
        "decode_exif3.jpg",
        "decode_progressive.jpg",
        "photographs/ycck.jpg",
        "decode_rgb.png",
        "photographs/interlaced.png",
        "photographs/lossy.webp",
        "photographs/exif6.webp",
    ];
    for file in files {
        let whole = data(file);
        // The PNG's last chunk (12 bytes, IEND) may be missing: the pixels are complete without it.
        let end = whole.len() - if file.ends_with("png") { 12 } else { 0 };
        let start = if file.ends_with("webp") { 12 } else { 8 };
        for length in start..end {
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

/// Small files that ask for much: refused before anything is allocated for what they claim.
#[test]
fn bombs_are_refused() {
    let refused = |name: &str, bytes: &[u8], kind: ErrorKind| {
        let error = decode(bytes, &Limits::default()).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
    };
    // A metadata chunk of 4 GB in a file of 60 bytes.
    let mut webp = data("photographs/exif6.webp");
    let chunk = webp.windows(4).position(|w| w == b"EXIF").unwrap();
    webp[chunk + 4..chunk + 8].copy_from_slice(&[0xf0, 0xff, 0xff, 0xff]);
    refused("chunk", &webp, ErrorKind::Corrupt);
    webp[4..8].copy_from_slice(&[0xf0, 0xff, 0xff, 0xff]);
    refused("file size", &webp, ErrorKind::Corrupt);
    // A picture of 16,383 x 16,383 pixels: sizes less one, in 14 bits each, behind the signature of a lossless picture.
    let mut webp = data("photographs/lossless.webp");
    let picture = webp.windows(4).position(|w| w == b"VP8L").unwrap();
    webp[picture + 9..picture + 13].copy_from_slice(&(16_382u32 << 14 | 16_382).to_le_bytes());
    refused("canvas", &webp, ErrorKind::Limit);
    // A progressive JPEG whose last scan is repeated a million times would be gone through for hours.
    let jpeg = data("decode_progressive.jpg");
    let scan = jpeg.windows(2).rposition(|w| w == [0xff, 0xda]).unwrap();
    let (start, end) = (&jpeg[..jpeg.len() - 2], &jpeg[jpeg.len() - 2..]);
    let scans = jpeg[scan..jpeg.len() - 2].repeat(20_000);
    refused("scans", &[start, &scans, end].concat(), ErrorKind::Limit);
}

/// A progressive JPEG of one grey (or full colour) square in which a scan takes some bytes only: all its blocks end at once.
fn hollow(side: u16, components: u8, scans: impl IntoIterator<Item = Hollow>) -> Vec<u8> {
    let segment = |marker: u8, content: &[u8]| {
        [&[0xff, marker][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat()
    };
    let [high, low] = side.to_be_bytes();
    let of_components: Vec<u8> = (1..=components).flat_map(|id| [id, 0x11, 0]).collect();
    let frame = [&[8, high, low, high, low, components][..], &of_components].concat();
    // One code of one bit each: no difference for DC, the end of 2^14 blocks and more for AC.
    let table = |class: u8, symbol: u8| [&[class, 1][..], &[0; 15], &[symbol]].concat();
    let mut jpeg = [0xff, 0xd8].to_vec();
    jpeg.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    jpeg.extend(segment(0xc2, &frame));
    jpeg.extend(segment(0xc4, &[table(0, 0), table(0x10, 0xe0)].concat()));
    let blocks = usize::from(side).div_ceil(8).pow(2);
    for Hollow { components, band: [first, last], bits } in scans {
        let of_components: Vec<u8> = components.iter().flat_map(|&id| [id, 0]).collect();
        jpeg.extend(segment(
            0xda,
            &[&[components.len() as u8][..], &of_components, &[first, last, bits]].concat(),
        ));
        // Zeros: a code for every block, or 15 bits for 16,384 of them.
        let bits = if first == 0 { blocks * components.len() } else { 15 * blocks.div_ceil(1 << 14) };
        jpeg.resize(jpeg.len() + bits.div_ceil(8), 0);
    }
    jpeg.extend([0xff, 0xd9]);
    jpeg
}

struct Hollow {
    components: Vec<u8>,
    band: [u8; 2],
    bits: u8,
}

/// Scans of a few bytes that go through a whole picture each: what they take is added up before any is read.
#[test]
fn scans_and_blocks_of_a_jpeg_are_bounded_together() {
    let scans = |count: usize, components: &[u8]| {
        let dc = Hollow { components: components.to_vec(), band: [0, 0], bits: 0 };
        let ac = |_| Hollow { components: vec![1], band: [1, 63], bits: 0x10 };
        std::iter::once(dc).chain((1..count).map(ac)).collect::<Vec<_>>()
    };
    let refused = |bytes: &[u8], bound: &str| {
        let error = decode(bytes, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains(bound), "{error}");
    };
    // A small picture may have a hundred scans, and no more.
    assert!(decode(&hollow(64, 1, scans(100, &[1])), &Limits::default()).is_ok());
    refused(&hollow(64, 1, scans(101, &[1])), "more than 100 scans");
    // 7,992 x 7,992 pixels in full colour are 998,001 blocks for each component: three, and then one for every scan.
    refused(&hollow(7992, 3, scans(39, &[1, 2, 3])), "more than 40000000 blocks");
    // The same of interleaved scans, three for each; of scans of another order of components, and beside a frame's end.
    let all = || Hollow { components: vec![3, 1, 2], band: [0, 0], bits: 0x10 };
    refused(&hollow(7992, 3, (0..14).map(|_| all())), "more than 40000000 blocks");
}

#[test]
fn jpegs_of_rare_processes_are_refused() {
    // Lossless, hierarchical and arithmetic-coded frames: no camera writes them, no decoder here reads them.
    let jpeg = data("decode_exif1.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    for process in [0xc3, 0xc5, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcd, 0xce, 0xcf] {
        let mut jpeg = jpeg.clone();
        jpeg[frame + 1] = process;
        let error = decode(&jpeg, &Limits::default()).expect_err(&format!("{process:x}"));
        assert!(matches!(error.kind(), ErrorKind::Format | ErrorKind::Corrupt), "{process:x}: {error}");
    }
    let mut deep = jpeg;
    deep[frame + 4] = 12;
    assert!(decode(&deep, &Limits::default()).is_err());
}

const HOSTILE: [&str; 12] = [
    "decode_exif6.jpg",
    "decode_progressive.jpg",
    "decode_420.jpg",
    "decode_cmyk.jpg",
    "decode_rgb16.png",
    "decode_palette.png",
    "decode_transparent.png",
    "decode_exif6.png",
    "photographs/ycck.jpg",
    "photographs/lossy.webp",
    "photographs/exif6.webp",
    "photographs/animation.webp",
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

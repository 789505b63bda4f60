use proptest::prelude::*;
use serde::Deserialize;
use vision::detect::decode;
use vision::{Detection, Detector, DetectorKind, ErrorKind, Photo, Search};

use crate::{data, json, photo};

#[derive(Deserialize)]
pub(crate) struct Face {
    bbox: [f32; 4],
    pub(crate) points: [[f32; 2]; 5],
    score: f32,
}

#[derive(Deserialize)]
struct Look {
    photo: String,
    side: usize,
    padding: f32,
    faces: Vec<Face>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    kind: String,
    fixed: Option<[usize; 2]>,
    looks: Vec<Look>,
}

fn detector(name: &str) -> Detector {
    Detector::parse(&data(&format!("detectors/{name}"))).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The largest distances of box sides and points in pixels, and of scores.
pub(crate) fn distances(found: &Detection, expected: &Face) -> (f32, f32, f32) {
    let sides = found.bbox.iter().zip(expected.bbox).map(|(a, b)| (a - b).abs());
    let points = found.points.0.iter().zip(expected.points);
    let points = points.map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]));
    let score = (found.score - expected.score).abs();
    (sides.fold(0.0, f32::max), points.fold(0.0, f32::max), score)
}

#[test]
fn detectors_agree_with_onnx_runtime_and_the_reference_decoders() {
    let mut faces = 0;
    for case in json::<Vec<Case>>("detectors/detectors.json") {
        let detector = detector(&case.file);
        assert_eq!(
            (detector.kind().to_string(), detector.fixed_input()),
            (case.kind, case.fixed),
            "{}",
            case.file
        );
        for look in case.looks {
            let photo = photo(&format!("detectors/{}", look.photo));
            let found =
                detector.detect_at(&photo, look.side, look.padding, detector.kind().threshold()).unwrap();
            let name = format!("{} {} {} {}", case.file, look.photo, look.side, look.padding);
            assert_eq!(found.len(), look.faces.len(), "{name}");
            for (found, expected) in found.iter().zip(&look.faces) {
                let (sides, points, score) = distances(found, expected);
                // A level of rounding in a resized pixel moves these networks' boxes by hundredths.
                assert!(sides < 0.1 && points < 0.05 && score < 2e-3, "{name}: {sides} {points} {score}");
                faces += 1;
            }
        }
    }
    assert!(faces > 100, "{faces}");
}

#[test]
fn other_files_are_refused_with_what_was_found() {
    let cases = [
        ("tiny.onnx", ErrorKind::Detector, "[N, 3, 112, 112]: a recognition network for aligned faces"),
        ("detectors/bad_scrfd_without_points.onnx", ErrorKind::Detector, "an SCRFD without key points"),
        ("detectors/bad_yunet_2022.onnx", ErrorKind::Detector, "a YuNet of 2022 or earlier"),
        ("detectors/bad_three_outputs.onnx", ErrorKind::Detector, "looks like RetinaFace, but"),
        (
            "detectors/bad_half.onnx",
            ErrorKind::Detector,
            "the input input [1, 3, height, width] is not float32",
        ),
        ("detectors/bad_batch.onnx", ErrorKind::Detector, "this network takes input [4, 3, height, width]"),
        ("bad_external.onnx", ErrorKind::Model, "one file"),
        ("detectors/detectors.json", ErrorKind::Model, "found a text file"),
        ("detectors/squares.png", ErrorKind::Model, "not an ONNX network"),
    ];
    for (file, kind, expected) in cases {
        let error = Detector::parse(&data(file)).map(|_| ()).expect_err(file);
        assert_eq!(error.kind(), kind, "{file}: {error}");
        assert!(error.to_string().contains(expected), "{file}: {error}; expected: {expected}");
        if kind == ErrorKind::Detector {
            assert!(error.to_string().contains("expected YuNet"), "{file}: {error}");
        }
    }
    let whole = data("detectors/yunet.onnx");
    for length in (0..whole.len()).step_by(7) {
        assert!(Detector::parse(&whole[..length]).is_err(), "{length}");
    }
}

/// Red squares (left, top, side) on grey: the stand-ins for detectors see a face in a square of a stride's size.
fn squares(width: u32, height: u32, squares: &[[u32; 3]]) -> Photo {
    let rgb = (0..height).flat_map(|y| (0..width).map(move |x| [x, y])).flat_map(|[x, y]| {
        let inside = |&[left, top, side]: &[u32; 3]| {
            (left..left + side).contains(&x) && (top..top + side).contains(&y)
        };
        if squares.iter().any(inside) { [230, 20, 20] } else { [60, 60, 60] }
    });
    Photo::from_rgb(width, height, rgb.collect()).unwrap()
}

#[test]
fn a_face_is_searched_for_from_scale_to_scale() {
    let detector = detector("yunet.onnx");
    // 64 of 640 pixels: twice the coarsest stride at a side of 640, that stride at 320.
    let close = squares(640, 640, &[[256, 256, 64]]);
    assert_eq!(detector.detect(&close, 640).unwrap(), []);
    let found = detector.find(&close, &Search::default()).unwrap();
    assert_eq!((found.side, found.padding, found.others), (320, 0.0, 0));
    let [left, top, right, bottom] = found.face.bbox;
    assert!((left + right - 2.0 * 288.0).abs() < 4.0 && (top + bottom - 2.0 * 288.0).abs() < 4.0);
    assert!(vision::align::align(&close, &found.face.points).is_ok());

    // The whole picture: nothing but a border makes a square of it.
    let filling = squares(160, 160, &[[0, 0, 160]]);
    let narrow = Search { sides: vec![320, 96], paddings: vec![0.0], ..Search::default() };
    let error = detector.find(&filling, &narrow).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFace);
    for expected in ["YuNet", "160 x 160", "[320, 96]", "[0.0]", "0.6"] {
        assert!(error.to_string().contains(expected), "{error}");
    }
    let wide = Search { paddings: vec![0.0, 1.0], ..narrow };
    let found = detector.find(&filling, &wide).unwrap();
    assert_eq!((found.side, found.padding), (96, 1.0));
    let [left, top, right, bottom] = found.face.bbox;
    assert!(
        (left + right - 160.0).abs() < 8.0 && (top + bottom - 160.0).abs() < 8.0,
        "{:?}",
        found.face.bbox
    );
}

#[test]
fn of_several_faces_the_largest_central_one_is_taken() {
    let detector = detector("scrfd.onnx");
    let group = squares(640, 640, &[[288, 320, 16], [32, 32, 32], [320, 288, 32], [600, 600, 8]]);
    let found = detector.find(&group, &Search::default()).unwrap();
    assert_eq!((found.others, found.side), (3, 640));
    let [left, top, ..] = found.face.bbox;
    assert!((left - 313.6).abs() < 4.0 && (top - 278.4).abs() < 4.0, "{:?}", found.face.bbox);

    let strict = Search { strict: true, ..Search::default() };
    let error = detector.find(&group, &strict).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SeveralFaces);
    assert!(error.to_string().contains("4 faces"), "{error}");
    let alone = squares(640, 640, &[[320, 288, 32]]);
    assert_eq!(detector.find(&alone, &strict).unwrap().others, 0);
}

#[test]
fn sides_beyond_a_fixed_input_are_not_tried() {
    let detector = detector("retinaface_200.onnx");
    let photo = squares(192, 192, &[[64, 96, 32]]);
    let error = detector.detect(&photo, 320).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Size);
    assert!(error.to_string().contains("fixed at 200 x 200"), "{error}");
    let found = detector.find(&photo, &Search { sides: vec![640, 192], ..Search::default() }).unwrap();
    assert_eq!(found.side, 192);
    let empty = squares(192, 192, &[]);
    let error = detector.find(&empty, &Search::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFace);
    assert!(error.to_string().contains("sides tried: [160]"), "{error}");
}

#[test]
fn sizes_that_cannot_be_looked_at_are_refused() {
    let detector = detector("yunet.onnx");
    let photo = squares(64, 64, &[]);
    for (side, padding) in [(0, 0.0), (31, 0.0), (4097, 0.0), (64, -0.1), (64, 2.1), (64, f32::NAN)] {
        let error = detector.detect_at(&photo, side, padding, 0.5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Size, "{side} {padding}");
    }
    // Photographs of one row or column still have an input.
    for (width, height) in [(1, 1), (1, 500), (500, 1)] {
        let line = Photo::from_rgb(width, height, vec![9; (width * height * 3) as usize]).unwrap();
        for padding in [0.0, 0.5, 2.0] {
            assert_eq!(detector.detect_at(&line, 64, padding, 0.6).unwrap(), []);
        }
    }
}

#[test]
fn threads_change_nothing() {
    let photo = photo("detectors/large.png");
    for file in ["yunet.onnx", "scrfd.onnx", "retinaface.onnx"] {
        let bytes = data(&format!("detectors/{file}"));
        let [one, two] =
            [1, 2].map(|n| Detector::with_threads(&bytes, n).unwrap().detect(&photo, 640).unwrap());
        assert_eq!(one, two, "{file}");
        assert!(!one.is_empty());
    }
}

#[test]
fn detectors_are_told_apart_by_their_bytes() {
    let digest = |file: &str| detector(file).digest();
    assert_eq!(digest("yunet.onnx"), digest("yunet.onnx"));
    assert_ne!(digest("scrfd.onnx"), digest("scrfd_640.onnx"));
}

const KINDS: [DetectorKind; 3] = [DetectorKind::YuNet, DetectorKind::Scrfd, DetectorKind::RetinaFace];

fn any_number() -> impl Strategy<Value = f32> {
    prop_oneof![-4.0f32..4.0, any::<f32>(), Just(f32::NAN), Just(f32::INFINITY), Just(f32::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_output_gives_finite_faces(
        kind in 0..KINDS.len(),
        outputs in prop::collection::vec(prop::collection::vec(any_number(), 0..400), 0..14),
        canvas in [0usize..200, 0usize..200],
        threshold in any_number(),
    ) {
        let faces = decode(KINDS[kind], &outputs, canvas, threshold);
        for face in &faces {
            prop_assert!(face.score >= threshold && face.score <= 1.0);
            prop_assert!(face.bbox.iter().chain(face.points.0.as_flattened()).all(|v| v.is_finite()));
            prop_assert!(face.bbox[0] < face.bbox[2] && face.bbox[1] < face.bbox[3]);
        }
        prop_assert!(faces.is_sorted_by(|a, b| a.score >= b.score));
    }

    #[test]
    fn damaged_detectors_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = data("detectors/scrfd.onnx");
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(detector) = Detector::with_threads(&bytes, 1) {
            let _ = detector.detect(&squares(64, 64, &[[0, 32, 32]]), 64);
        }
    }
}

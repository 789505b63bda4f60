use serde::Deserialize;
use vision::align::{TEMPLATE, align, similarity};
use vision::{CROP_SIDE, Crop, ErrorKind, Photo, Points};

use crate::{crop, json, photo};

#[derive(Deserialize)]
struct Case {
    points: [[f32; 2]; 5],
    matrix: [[f64; 3]; 2],
    crop: String,
}

/// Peak signal-to-noise ratio in dB.
fn psnr(a: &Crop, b: &Crop) -> f64 {
    let squared: f64 =
        a.rgb().iter().zip(b.rgb()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.rgb().len() as f64 / squared.max(1e-9)).log10()
}

#[test]
fn agrees_with_skimage_and_opencv() {
    let photo = photo("align_photo.png");
    for case in json::<Vec<Case>>("align.json") {
        let points = Points(case.points);
        let matrix = similarity(&points).unwrap();
        for (found, expected) in matrix.as_flattened().iter().zip(case.matrix.as_flattened()) {
            // Only the rounding to f32 differs, of translations up to some hundred pixels.
            assert!(
                (f64::from(*found) - expected).abs() < 1e-3,
                "{}: {matrix:?}, expected {:?}",
                case.crop,
                case.matrix
            );
        }
        let aligned = align(&photo, &points).unwrap();
        // OpenCV rounds sampling positions and weights to fixed point.
        let quality = psnr(&aligned, &crop(&case.crop));
        println!("{}: {quality:.1} dB", case.crop);
        assert!(quality >= 40.0, "{}: {quality:.1} dB", case.crop);
    }
}

#[test]
fn the_template_itself_needs_no_change() {
    let identity = similarity(&TEMPLATE).unwrap();
    for (found, expected) in identity.as_flattened().iter().zip([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]) {
        assert!((found - expected).abs() < 1e-5);
    }
    let photo = Photo::from_rgb(CROP_SIDE as u32, CROP_SIDE as u32, crop("crop.png").rgb().to_vec()).unwrap();
    assert_eq!(align(&photo, &TEMPLATE).unwrap(), crop("crop.png"));
}

#[test]
fn what_lies_outside_the_photograph_is_black() {
    let white = Photo::from_rgb(200, 200, vec![255; 200 * 200 * 3]).unwrap();
    // The upper left corner of the photograph is the centre of the face.
    let points = Points(TEMPLATE.0.map(|[x, y]| [x - 55.0, y - 71.0]));
    let crop = align(&white, &points).unwrap();
    let at = |x: usize, y: usize| crop.rgb()[(y * CROP_SIDE + x) * 3];
    assert_eq!((at(20, 20), at(54 - 2, 100), at(100, 100)), (0, 0, 255));
}

#[test]
fn points_that_are_no_face_are_refused() {
    let photo = photo("align_photo.png");
    let face = TEMPLATE.0.map(|[x, y]| [x + 40.0, y + 30.0]);
    assert!(align(&photo, &Points(face)).is_ok());
    let changed = |change: &dyn Fn([f32; 2]) -> [f32; 2]| Points(face.map(change));
    let mut nan = face;
    nan[3][1] = f32::NAN;
    let [a, b, nose, c, d] = face;
    let cases = [
        ("same point", Points([[50.0, 50.0]; 5])),
        ("not a finite number", Points(nan)),
        ("not a finite number", changed(&|[x, _]| [x, f32::INFINITY])),
        ("do not lie on the photograph", changed(&|[x, y]| [x + 500.0, y])),
        ("do not lie on the photograph", changed(&|[x, y]| [x, y - 1e9])),
        // As a fraction of the picture instead of pixels.
        ("same point", changed(&|[x, y]| [x / 20000.0, y / 17000.0])),
        ("left being the left of the picture", changed(&|[x, y]| [200.0 - x, y])),
        ("do not form a face", Points([c, b, nose, a, d])),
        ("do not lie on the photograph", Points([[f32::MAX, 0.0], [0.0, f32::MAX], a, b, c])),
    ];
    for (expected, points) in cases {
        let error = align(&photo, &points).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Points, "{error}");
        assert!(error.to_string().contains(expected), "{error}; expected: {expected}");
    }
}

#[test]
fn a_turned_and_a_profile_face_are_accepted() {
    let photo = photo("align_photo.png");
    let upside_down = TEMPLATE.0.map(|[x, y]| [150.0 - x, 150.0 - y]);
    let profile = TEMPLATE.0.map(|[x, y]| [80.0 + (x - 56.0) * 0.05, y + 20.0]);
    for points in [upside_down, profile] {
        align(&photo, &Points(points)).unwrap();
    }
}

use std::path::PathBuf;

use serde::Deserialize;
use vision::align::{align, similarity};
use vision::decode::{Limits, decode};
use vision::{Crop, Cut, Detector, Points, RtenTrunk, Search, Trunk, TrunkFile};

use crate::detect::{Face, distances};

#[derive(Deserialize)]
struct Case {
    photo: String,
    decoded: String,
    side: usize,
    padding: f32,
    faces: Vec<Face>,
    matrix: [[f32; 3]; 2],
    crop: String,
    embedding: Vec<f32>,
}

fn peak_signal_to_noise(found: &Crop, expected: &Crop) -> f64 {
    let square = |(&a, &b): (&u8, &u8)| f64::from(a.abs_diff(b)).powi(2);
    let error: f64 =
        found.rgb().iter().zip(expected.rgb()).map(square).sum::<f64>() / found.rgb().len() as f64;
    10.0 * (255.0 * 255.0 / error.max(1e-9)).log10()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Where `reference/agreement.py` wrote to: `agreement` in the material, or what `FEDGESTALT_AGREEMENT` says.
pub(crate) fn folder() -> Option<PathBuf> {
    let inside = || Some(PathBuf::from(std::env::var_os("FEDGESTALT_MATERIAL")?).join("agreement"));
    std::env::var_os("FEDGESTALT_AGREEMENT").map(PathBuf::from).or_else(inside)
}

/// Real photographs through YuNet, alignment and EdgeFace, against what `reference/agreement.py` wrote: the whole way from the
/// file to the embedding, and each step by itself.
#[test]
#[cfg_attr(not(has_material), ignore = "the material is not there: set FEDGESTALT_MATERIAL")]
fn real_photographs_agree_with_opencv_skimage_and_onnx_runtime() {
    let material = PathBuf::from(std::env::var_os("FEDGESTALT_MATERIAL").unwrap());
    let Some(folder) = folder().filter(|folder| folder.join("agreement.json").exists()) else {
        println!("skipped: there is no agreement.json; write it with reference/agreement.py");
        return;
    };
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases: Vec<Case> = serde_json::from_slice(&read(folder.join("agreement.json"))).unwrap();
    let yunet = read(material.join("models/yunet.onnx"));
    let rten = Detector::parse(&yunet).unwrap();
    let separable = rten.on_separable(&yunet).unwrap();
    let embedder = TrunkFile::parse(&read(material.join("models/edgeface_xxs.onnx")), Cut::End).unwrap();
    let embedder = RtenTrunk::new(embedder).unwrap();
    let picture = |path: PathBuf| decode(&read(path), &Limits::default()).unwrap();
    for detector in [&rten, &separable] {
        let (mut sides, mut points, mut score, mut matrix, mut psnr) = (0f32, 0f32, 0f32, 0f32, f64::MAX);
        let mut least = 1f32;
        for case in &cases {
            let photo = picture(folder.join(&case.decoded));
            let found =
                detector.find(&photo, &Search::default()).unwrap_or_else(|e| panic!("{}: {e}", case.photo));
            assert_eq!((found.side, found.padding), (case.side, case.padding), "{}", case.photo);
            let all =
                detector.detect_at(&photo, case.side, case.padding, detector.kind().threshold()).unwrap();
            assert_eq!(all.len(), case.faces.len(), "{}", case.photo);
            for (found, expected) in all.iter().zip(&case.faces) {
                let apart = distances(found, expected);
                (sides, points, score) = (sides.max(apart.0), points.max(apart.1), score.max(apart.2));
            }
            // Matrix and crop from the reference's points, so that each step is held by itself.
            let expected = Points(case.faces[0].points);
            let m = similarity(&expected).unwrap();
            for (found, expected) in m.as_flattened().iter().zip(case.matrix.as_flattened()) {
                matrix = matrix.max((found - expected).abs());
            }
            let reference = Crop::from_photo(&picture(folder.join(&case.crop))).unwrap();
            psnr = psnr.min(peak_signal_to_noise(&align(&photo, &expected).unwrap(), &reference));
            // And the whole way with our own points, from the file.
            let file = picture(material.join(&case.photo));
            assert!(file == photo, "{}: other pixels than Pillow's", case.photo);
            let found = detector.find(&file, &Search::default()).unwrap();
            let mut embedding = vec![0.0; embedder.output_len()];
            embedder.features(&[align(&file, &found.face.points).unwrap()], &mut embedding).unwrap();
            least = least.min(cosine(&embedding, &case.embedding));
        }
        println!(
            "{}, {} photographs: boxes within {sides:.4} px, points {points:.4} px, scores {score:.4}, matrices {matrix:.6}, crops from {psnr:.1} dB, \
             embeddings from cosine {least:.6}",
            detector.engine(),
            cases.len()
        );
        assert!(cases.len() >= 50);
        assert!(sides < 1.0 && points < 0.5, "boxes {sides} px, points {points} px");
        assert!(matrix < 1e-3, "matrix {matrix}");
        assert!(psnr >= 40.0, "crops {psnr} dB");
        assert!(least >= 0.999, "embeddings {least}");
    }
}

//! Arbitrary tensors as the outputs of each detector. The first bytes choose the kind, the size of the input, the threshold and
//! the lengths of the outputs; the rest are their numbers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::DetectorKind;
use vision::detect::decode;

fuzz_target!(|bytes: &[u8]| {
    let Some(([kind, width, height, threshold, length], rest)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let (kind, widths): (_, &[usize]) = match kind % 3 {
        0 => (DetectorKind::YuNet, &[1, 1, 4, 10, 1, 1, 4, 10, 1, 1, 4, 10]),
        1 => (DetectorKind::Scrfd, &[1, 4, 10, 1, 4, 10, 1, 4, 10]),
        _ => (DetectorKind::RetinaFace, &[4, 2, 10]),
    };
    let canvas = [usize::from(*width) * 3, usize::from(*height) * 3];
    let threshold = f32::from(*threshold) / 255.0;
    let numbers: Vec<f32> = rest.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    // The numbers go round: a short input fills many anchors.
    let mut endless = numbers.iter().copied().cycle();
    let rows = usize::from(*length);
    let outputs: Vec<Vec<f32>> =
        widths.iter().map(|width| endless.by_ref().take(rows * width).collect()).collect();
    for face in decode(kind, &outputs, canvas, threshold) {
        assert!(face.score >= threshold && face.score <= 1.0);
        assert!(face.bbox.iter().chain(face.points.0.as_flattened()).all(|v| v.is_finite()));
        assert!(face.bbox[0] < face.bbox[2] && face.bbox[1] < face.bbox[3]);
    }
});

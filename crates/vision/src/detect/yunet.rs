use super::{Detection, detection};

/// Names of the outputs, in the order in which [`decode`] takes them.
pub(super) const OUTPUTS: [&str; 12] = [
    "cls_8", "obj_8", "bbox_8", "kps_8", "cls_16", "obj_16", "bbox_16", "kps_16", "cls_32", "obj_32",
    "bbox_32", "kps_32",
];

/// Numbers per cell in each of a stride's outputs.
pub(super) const WIDTHS: [usize; 4] = [1, 1, 4, 10];

/// One anchor per cell, at its upper left corner; centre and points are offsets in strides, sizes logarithms of
/// strides; the score is the geometric mean of class and objectness (OpenCV's `FaceDetectorYN`).
pub(super) fn decode(outputs: &[Vec<f32>], [width, height]: [usize; 2], threshold: f32) -> Vec<Detection> {
    let mut faces = Vec::new();
    for (outputs, stride) in outputs.chunks_exact(4).zip([8, 16, 32]) {
        let columns = width.div_ceil(stride).max(1);
        let cells = columns * height.div_ceil(stride);
        let (classes, objects) = (&outputs[0], &outputs[1]);
        let (boxes, points) = (outputs[2].as_chunks::<4>().0, outputs[3].as_chunks::<10>().0);
        let rows = classes.iter().zip(objects).zip(boxes.iter().zip(points));
        for (cell, ((class, object), (bbox, points))) in rows.enumerate().take(cells) {
            let score = (class.clamp(0.0, 1.0) * object.clamp(0.0, 1.0)).sqrt();
            if score.is_nan() || score < threshold {
                continue;
            }
            let at = [(cell % columns) as f32, (cell / columns) as f32];
            let stride = stride as f32;
            let [x, y] = [(at[0] + bbox[0]) * stride, (at[1] + bbox[1]) * stride];
            let [half_width, half_height] = [bbox[2].exp() * stride / 2.0, bbox[3].exp() * stride / 2.0];
            let bbox = [x - half_width, y - half_height, x + half_width, y + half_height];
            let (points, _) = points.as_chunks::<2>();
            let points = std::array::from_fn(|i| [0, 1].map(|axis| (points[i][axis] + at[axis]) * stride));
            faces.extend(detection(bbox, points, score));
        }
    }
    faces
}

use super::{Detection, detection};

/// Anchors per cell.
pub(super) const ANCHORS: usize = 2;

/// Numbers per anchor in each of a stride's outputs, in the order in which [`decode`] takes them.
pub(super) const WIDTHS: [usize; 3] = [1, 4, 10];

/// Two anchors per cell, at its upper left corner; a box is four distances to its sides, a point an offset, all in strides.
pub(super) fn decode(outputs: &[Vec<f32>], [width, height]: [usize; 2], threshold: f32) -> Vec<Detection> {
    let mut faces = Vec::new();
    for (outputs, stride) in outputs.chunks_exact(3).zip([8, 16, 32]) {
        let columns = width.div_ceil(stride).max(1);
        let anchors = ANCHORS * columns * height.div_ceil(stride);
        let (boxes, points) = (outputs[1].as_chunks::<4>().0, outputs[2].as_chunks::<10>().0);
        for (anchor, (&score, (bbox, points))) in
            outputs[0].iter().zip(boxes.iter().zip(points)).enumerate().take(anchors)
        {
            if score.is_nan() || score < threshold {
                continue;
            }
            let cell = anchor / ANCHORS;
            let stride = stride as f32;
            let at = [(cell % columns) as f32 * stride, (cell / columns) as f32 * stride];
            let [left, top, right, bottom] = bbox.map(|distance| distance * stride);
            let bbox = [at[0] - left, at[1] - top, at[0] + right, at[1] + bottom];
            let (points, _) = points.as_chunks::<2>();
            let points = std::array::from_fn(|i| [0, 1].map(|axis| at[axis] + points[i][axis] * stride));
            faces.extend(detection(bbox, points, score.min(1.0)));
        }
    }
    faces
}

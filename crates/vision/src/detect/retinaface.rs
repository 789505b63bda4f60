use super::{Detection, detection};

/// Sides of a cell's two priors, for each stride.
const PRIORS: [(usize, [f32; 2]); 3] = [(8, [16.0, 32.0]), (16, [64.0, 128.0]), (32, [256.0, 512.0])];

/// By what the network's offsets of centres and logarithms of sizes are divided.
const VARIANCES: [f32; 2] = [0.1, 0.2];

/// Numbers per prior: box, classes (background, face), points, in the order in which [`decode`] takes them.
pub(super) const WIDTHS: [usize; 3] = [4, 2, 10];

/// Priors of an input of `[width, height]`.
pub(super) fn priors([width, height]: [usize; 2]) -> usize {
    PRIORS
        .iter()
        .map(|(stride, sides)| width.div_ceil(*stride) * height.div_ceil(*stride) * sides.len())
        .sum()
}

/// Offsets to priors centred in their cells, stride by stride, two per cell.
pub(super) fn decode(outputs: &[Vec<f32>], [width, height]: [usize; 2], threshold: f32) -> Vec<Detection> {
    let [boxes, classes, points] = outputs else { return Vec::new() };
    let rows =
        boxes.as_chunks::<4>().0.iter().zip(classes.as_chunks::<2>().0).zip(points.as_chunks::<10>().0);
    let priors = PRIORS.iter().flat_map(|&(stride, sides)| {
        let columns = width.div_ceil(stride);
        (0..columns * height.div_ceil(stride)).flat_map(move |cell| {
            let centre = |at: usize| (at as f32 + 0.5) * stride as f32;
            sides.map(|side| ([centre(cell % columns), centre(cell / columns)], side))
        })
    });
    let mut faces = Vec::new();
    for (((offset, class), points), (centre, side)) in rows.zip(priors) {
        let score = class[1];
        if score.is_nan() || score < threshold {
            continue;
        }
        let moved = |by: [f32; 2]| [0, 1].map(|axis| centre[axis] + by[axis] * VARIANCES[0] * side);
        let [x, y] = moved([offset[0], offset[1]]);
        let half = |log: f32| side * (log * VARIANCES[1]).exp() / 2.0;
        let (half_width, half_height) = (half(offset[2]), half(offset[3]));
        let bbox = [x - half_width, y - half_height, x + half_width, y + half_height];
        let (points, _) = points.as_chunks::<2>();
        faces.extend(detection(bbox, std::array::from_fn(|i| moved(points[i])), score.min(1.0)));
    }
    faces
}

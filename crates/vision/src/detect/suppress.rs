use super::Detection;

/// Candidates looked at beyond the best of them cost time and bring nothing.
const MOST: usize = 1000;

/// Non-maximum suppression: faces by falling score, without those that overlap a better one by more than `overlap`.
pub(super) fn suppress(mut faces: Vec<Detection>, overlap: f32) -> Vec<Detection> {
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    faces.truncate(MOST);
    let mut kept: Vec<Detection> = Vec::new();
    for face in faces {
        if kept.iter().all(|better| intersection_over_union(&better.bbox, &face.bbox) <= overlap) {
            kept.push(face);
        }
    }
    kept
}

fn intersection_over_union(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let side = |low: f32, high: f32| (high - low).max(0.0);
    let area = |r: &[f32; 4]| side(r[0], r[2]) * side(r[1], r[3]);
    let both = side(a[0].max(b[0]), a[2].min(b[2])) * side(a[1].max(b[1]), a[3].min(b[3]));
    both / (area(a) + area(b) - both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::Points;

    fn face(bbox: [f32; 4], score: f32) -> Detection {
        Detection { bbox, points: Points([[0.0; 2]; 5]), score }
    }

    #[test]
    fn the_best_of_overlapping_faces_is_kept() {
        // The second overlaps the first by 80 / 120, the third by 20 / 180; equal scores keep their order.
        let faces = vec![
            face([2.0, 0.0, 12.0, 10.0], 0.7),
            face([0.0, 0.0, 10.0, 10.0], 0.9),
            face([8.0, 0.0, 18.0, 10.0], 0.8),
            face([50.0, 0.0, 60.0, 10.0], 0.8),
        ];
        let kept = suppress(faces.clone(), 0.4);
        assert_eq!(kept, [faces[1], faces[2], faces[3]]);
        assert_eq!(suppress(faces.clone(), 0.7).len(), 4);
        assert_eq!(suppress(faces, 0.1).len(), 2);
    }
}

//! The parametric head: an average mesh and one displacement field per axis.
//!
//! The same construction as a statistical 3-D morphable model, with fields
//! written by hand instead of learnt from scans: no face of a real person is in it.

pub(crate) mod base;
pub(crate) mod fields;

use std::sync::LazyLock;

use base::{COLUMNS, Canon, SLIT};
use fields::Motion;

use crate::math::{Vec3, curve, smooth, vec3};
use crate::param::{Param, Params};

/// Horizontal place of the fold between nose and mouth at height `y`.
pub(crate) fn fold_x(y: f32) -> f32 {
    curve(&[(-8.0, 3.3), (-7.0, 3.1), (-5.5, 2.45), (-4.2, 1.85)], y)
}

/// Facial expression, each 0 (rest) to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Expression {
    pub(crate) smile: f32,
    pub(crate) jaw_drop: f32,
    pub(crate) brow_raise: f32,
    pub(crate) frown: f32,
    /// Closing of the left and right eye (as the viewer sees them).
    pub(crate) blink: [f32; 2],
}

/// Displacements of the vertices, zero runs left out; x, y, z of one after the other, so
/// that adding a field is one pass over plain numbers.
struct Field {
    runs: Vec<(usize, Vec<f32>)>,
}

impl Field {
    fn new(displacement: impl Fn(usize) -> Vec3, vertices: usize) -> Field {
        let mut runs: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut quiet = 0;
        for i in 0..vertices {
            let d = displacement(i);
            let small = d.dot(d) < 1e-8;
            match runs.last_mut() {
                Some((start, run)) if *start + run.len() == 3 * i && (!small || quiet < 3) => {
                    run.extend([d.x, d.y, d.z]);
                }
                _ if !small => runs.push((3 * i, vec![d.x, d.y, d.z])),
                _ => {}
            }
            quiet = if small { quiet + 1 } else { 0 };
        }
        Field { runs }
    }

    fn add(&self, weight: f32, to: &mut [f32]) {
        for (start, run) in &self.runs {
            for (p, d) in to[*start..*start + run.len()].iter_mut().zip(run) {
                *p += d * weight;
            }
        }
    }
}

/// The average head with its fields, made once.
pub(crate) struct Model {
    /// Positions, x, y and z in turn.
    average: Vec<f32>,
    pub(crate) canon: Vec<Canon>,
    pub(crate) triangles: Vec<[u32; 3]>,
    pub(crate) rows: usize,
    fields: Vec<Field>,
    motions: Vec<Field>,
    blinks: [Field; 2],
    /// Vertices of the lids and their share of resting on the eyeball, with the side (0 left, 1 right).
    lids: Vec<(u32, usize, f32)>,
}

pub(crate) static MODEL: LazyLock<Model> = LazyLock::new(Model::new);

/// A head of a certain person with a certain expression, in head coordinates (cm).
pub(crate) struct Head {
    pub(crate) positions: Vec<Vec3>,
    /// Centres of the eyeballs, the viewer's left first.
    pub(crate) eyes: [Vec3; 2],
}

impl Model {
    fn new() -> Model {
        let azimuths = base::azimuths();
        let heights = base::heights();
        let rows = heights.len();
        let (average, canon): (Vec<Vec3>, Vec<Canon>) =
            heights.iter().flat_map(|&y| azimuths.iter().map(move |&a| base::surface(a, y))).unzip();
        let mut triangles = Vec::with_capacity(2 * rows * COLUMNS);
        for r in 0..rows - 1 {
            for c in 0..COLUMNS - 1 {
                let a = (r * COLUMNS + c) as u32;
                let (b, d, e) = (a + 1, a + COLUMNS as u32, a + COLUMNS as u32 + 1);
                triangles.push([a, d, b]);
                triangles.push([b, d, e]);
            }
        }
        let n = average.len();
        let fields =
            Param::ALL.iter().map(|&p| Field::new(|i| fields::field(p, &canon[i], average[i]), n)).collect();
        let motions =
            Motion::ALL.iter().map(|&m| Field::new(|i| fields::motion_field(m, &canon[i]), n)).collect();
        let blink = |side: f32| {
            Field::new(
                |i| {
                    if canon[i].x * side > 0.0 { fields::blink_field(&canon[i]) } else { Vec3::default() }
                },
                n,
            )
        };
        let blinks = [blink(-1.0), blink(1.0)];
        let lids = canon
            .iter()
            .enumerate()
            .filter_map(|(i, c)| {
                let share = smooth(1.5, 0.75, c.y)
                    * smooth(-1.35, -0.65, c.y)
                    * smooth(2.0, 1.35, (c.x.abs() - base::EYE_X).abs())
                    * base::front(c);
                (share > 0.01).then_some((i as u32, usize::from(c.x > 0.0), share))
            })
            .collect();
        let average = average.iter().flat_map(|p| [p.x, p.y, p.z]).collect();
        Model { average, canon, triangles, rows, fields, motions, blinks, lids }
    }

    /// Deforms the average head.
    pub(crate) fn head(&self, params: &Params, expression: &Expression) -> Head {
        let mut flat = self.average.clone();
        for (field, &weight) in self.fields.iter().zip(params.as_slice()) {
            if weight != 0.0 && !field.runs.is_empty() {
                field.add(weight, &mut flat);
            }
        }
        let motions = [expression.smile, expression.jaw_drop, expression.brow_raise, expression.frown];
        for (field, weight) in self.motions.iter().zip(motions) {
            if weight != 0.0 {
                field.add(weight, &mut flat);
            }
        }
        for (field, weight) in self.blinks.iter().zip(expression.blink) {
            if weight != 0.0 {
                field.add(weight, &mut flat);
            }
        }
        let mut positions: Vec<Vec3> = flat.as_chunks().0.iter().map(|&[x, y, z]| vec3(x, y, z)).collect();
        let eyes = [eye_centre(params, -1.0), eye_centre(params, 1.0)];
        for &(i, side, share) in &self.lids {
            let p = &mut positions[i as usize];
            let centre = eyes[side];
            let (dx, dy) = (p.x - centre.x, p.y - centre.y);
            let reach = (base::EYE_RADIUS + 0.09) * (base::EYE_RADIUS + 0.09);
            let rest = centre.z + (reach - dx * dx - dy * dy).max(0.0).sqrt();
            // The lid lies on the ball where the ball is further forward.
            let lift = (rest - p.z).max(-0.25);
            let soft = if lift > 0.0 { lift } else { lift * 0.6 };
            p.z += soft * share;
        }
        Head { positions, eyes }
    }

    /// The point of a deformed surface that sits at `(x, y)` on the average face.
    pub(crate) fn locate(&self, positions: &[Vec3], x: f32, y: f32) -> Vec3 {
        let row =
            (0..self.rows).rev().find(|&r| self.canon[r * COLUMNS].y >= y).unwrap_or(0).min(self.rows - 2);
        let on_row = |r: usize| {
            let middle = COLUMNS / 2;
            let line = &self.canon[r * COLUMNS..(r + 1) * COLUMNS];
            let step: isize = if x < 0.0 { -1 } else { 1 };
            let mut c = middle;
            while c > 1 && c < COLUMNS - 2 && (line[(c as isize + step) as usize].x - x) * (step as f32) < 0.0
            {
                c = (c as isize + step) as usize;
            }
            let d = (c as isize + step) as usize;
            let t = ((x - line[c].x) / (line[d].x - line[c].x)).clamp(0.0, 1.0);
            let (a, b) = (positions[r * COLUMNS + c], positions[r * COLUMNS + d]);
            a + (b - a) * t
        };
        let (y0, y1) = (self.canon[row * COLUMNS].y, self.canon[(row + 1) * COLUMNS].y);
        let t = ((y - y0) / (y1 - y0)).clamp(0.0, 1.0);
        let (a, b) = (on_row(row), on_row(row + 1));
        a + (b - a) * t
    }
}

/// The eyeball follows the fields of its orbit.
fn eye_centre(params: &Params, side: f32) -> Vec3 {
    let canon = Canon { x: side * base::EYE_X, y: 0.02, azimuth: side * 0.45 };
    let at = vec3(side * base::EYE_X, 0.02, base::EYE_Z);
    let mut centre = at;
    use Param::*;
    for p in [HeadWidth, EyeSpacing, EyeDepth, EyeSlant, FaceLength, AsymmetryEyes, Midface, Malar, FaceWidth]
    {
        let d = fields::field(p, &canon, at);
        let k = match p {
            // A retruded midface leaves the eyes where they are: that is proptosis by shallow orbits.
            Midface => 0.35,
            Malar => 0.2,
            EyeSlant => 0.0,
            _ => 1.0,
        };
        centre += d * (params[p] * k);
    }
    centre
}

/// Half height of the lips' parting at `x` in average coordinates; 0 beyond the corners.
pub(crate) fn slit_half_height(ax: f32) -> f32 {
    SLIT * smooth(base::MOUTH_X, base::MOUTH_X - 0.5, ax)
}

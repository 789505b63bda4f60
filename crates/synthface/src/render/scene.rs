//! Head, ears, neck, shoulders and hair as one list of triangles before the camera.

use super::paint::{Paint, ZONES};
use crate::capture::Capture;
use crate::math::{Rotation, Vec3, curve, lerp, mix, pow, sin_cos, smooth, vec3};
use crate::model::base::{COLUMNS, EYE_RADIUS, MOUTH_X, MOUTH_Y, NOSE_TIP, SLIT};
use crate::model::{Head, MODEL, Model};
use crate::param::{Param, Params};
use crate::person::Person;

/// What a triangle is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Material {
    /// The head: skin, lips, brows, scalp hair, and eyes and mouth through their openings.
    Head,
    /// Ears and neck.
    Skin,
    /// Hair that hangs beside and behind the head.
    Hair,
    Cloth,
}

/// Triangles of one material; `culled` leaves out those seen from behind.
pub(crate) struct Part {
    pub(crate) material: Material,
    pub(crate) culled: bool,
    pub(crate) first: u32,
    pub(crate) triangles: Vec<[u32; 3]>,
}

/// What the shader interpolates across a triangle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vertex {
    pub(crate) position: Vec3,
    pub(crate) normal: Vec3,
    pub(crate) albedo: Vec3,
    /// Average x, average y, azimuth: see [`crate::model::base::Canon`].
    pub(crate) canon: Vec3,
    /// Share of ambient light that reaches the point.
    pub(crate) open: f32,
    pub(crate) gloss: f32,
}

pub(crate) struct Scene {
    pub(crate) vertices: Vec<Vertex>,
    pub(crate) parts: Vec<Part>,
    /// Centres of the eyeballs before the camera.
    pub(crate) eyes: [Vec3; 2],
    /// The five points, in ArcFace's order.
    pub(crate) points: [Vec3; 5],
    /// How far the lips stand apart in the middle, cm.
    pub(crate) mouth_gap: f32,
    pub(crate) pose: Rotation,
}

/// A regular grid of points with normals, to be joined to triangles.
struct Grid {
    columns: usize,
    rows: usize,
    points: Vec<Vec3>,
}

impl Grid {
    fn new(columns: usize, rows: usize, at: impl Fn(f32, f32) -> Vec3) -> Grid {
        let points = (0..rows)
            .flat_map(|r| (0..columns).map(move |c| (c, r)))
            .map(|(c, r)| at(c as f32 / (columns - 1) as f32, r as f32 / (rows - 1) as f32))
            .collect();
        Grid { columns, rows, points }
    }

    fn triangles(&self) -> Vec<[u32; 3]> {
        let mut list = Vec::with_capacity(2 * self.rows * self.columns);
        for r in 0..self.rows - 1 {
            for c in 0..self.columns - 1 {
                let a = (r * self.columns + c) as u32;
                let (b, d) = (a + 1, a + self.columns as u32);
                list.push([a, d, b]);
                list.push([b, d, d + 1]);
            }
        }
        list
    }
}

/// Normals of a grid by central differences; they point to the side from which columns run rightwards.
fn normals(points: &[Vec3], columns: usize, rows: usize) -> Vec<Vec3> {
    let mut out = Vec::with_capacity(points.len());
    for r in 0..rows {
        let (above, below) = (r.saturating_sub(1), (r + 1).min(rows - 1));
        for c in 0..columns {
            let (left, right) = (c.saturating_sub(1), (c + 1).min(columns - 1));
            let across = points[r * columns + right] - points[r * columns + left];
            let down = points[below * columns + c] - points[above * columns + c];
            out.push(down.cross(across).unit());
        }
    }
    out
}

/// How open each point of the head is to the sky: hollows are darker than ridges.
fn openness(points: &[Vec3], normals: &[Vec3]) -> Vec<f32> {
    let rows = points.len() / COLUMNS;
    let mut open = vec![1.0; points.len()];
    for (reach, strength) in [(3usize, 0.55f32), (8, 0.75)] {
        for r in 0..rows {
            let (above, below) = (r.saturating_sub(reach), (r + reach).min(rows - 1));
            for c in 0..COLUMNS {
                let (left, right) = (c.saturating_sub(reach), (c + reach).min(COLUMNS - 1));
                let i = r * COLUMNS + c;
                let around = points[r * COLUMNS + left]
                    + points[r * COLUMNS + right]
                    + points[above * COLUMNS + c]
                    + points[below * COLUMNS + c];
                let away = around * 0.25 - points[i];
                let hollow = away.dot(normals[i]) / (away.length() + 0.35 * reach as f32 * 0.15 + 0.05);
                open[i] *= 1.0 - strength * hollow.clamp(-0.2, 1.0);
            }
        }
    }
    open.iter_mut().for_each(|o| *o = o.clamp(0.12, 1.12));
    open
}

/// The head's turn about the top of the neck.
#[derive(Clone, Copy)]
struct Turn(Rotation);

impl Turn {
    const PIVOT: Vec3 = vec3(0.0, -5.0, -2.0);

    fn place(&self, p: Vec3) -> Vec3 {
        self.0.apply(p - Turn::PIVOT) + Turn::PIVOT
    }
}

impl Scene {
    pub(crate) fn new(person: &Person, params: &Params, capture: &Capture, paint: &Paint) -> Scene {
        let model: &Model = &MODEL;
        let Head { mut positions, eyes } = model.head(params, &capture.expression);
        let turn = Turn(Rotation::new(capture.yaw, capture.pitch, capture.roll));
        let mut scene = Scene {
            vertices: Vec::with_capacity(positions.len() + 4096),
            parts: Vec::with_capacity(6),
            eyes: eyes.map(|e| turn.place(e)),
            points: landmarks(model, &positions, &eyes, turn),
            mouth_gap: mouth_gap(model, &positions),
            pose: turn.0,
        };
        let ears = [ear_anchor(model, &positions, -1.0), ear_anchor(model, &positions, 1.0)];
        let open = openness(&positions, &normals(&positions, COLUMNS, model.rows));
        lift_hair(&mut positions, model, paint, person.hairstyle.volume * capture.hair_lift);
        scene.add_head(model, &positions, &open, paint, turn);
        for (anchor, side) in ears.into_iter().zip([-1.0, 1.0]) {
            let (grid, open) = ear(side, anchor, params);
            scene.add(Material::Skin, &grid, paint.ear, |i| open[i], |_| 1.0, turn);
        }
        let around_neck = neck(params, person);
        let shade = |i: usize| lerp(0.85, 0.42, smooth(-15.0, -8.5, around_neck.points[i].y));
        // The neck turns with the head at its top and not at its foot.
        scene.add(Material::Skin, &around_neck, paint.neck, shade, |p| smooth(-15.5, -7.0, p.y), turn);
        scene.add(Material::Cloth, &torso(person), paint.cloth, |_| 0.9, |_| 0.0, turn);
        if person.hairstyle.length > 0.22 && params[Param::HairDensity] > -2.2 {
            scene.add(Material::Hair, &curtain(person, params), paint.hair, |_| 0.75, |_| 1.0, turn);
        }
        scene
    }

    fn add_head(&mut self, model: &Model, positions: &[Vec3], open: &[f32], paint: &Paint, turn: Turn) {
        let normals = normals(positions, COLUMNS, model.rows);
        for (i, (c, zones)) in model.canon.iter().zip(ZONES.iter()).enumerate() {
            self.vertices.push(Vertex {
                position: turn.place(positions[i]),
                normal: turn.0.apply(normals[i]),
                albedo: paint.skin_at(zones),
                canon: vec3(c.x, c.y, c.azimuth),
                open: open[i],
                gloss: zones.gloss,
            });
        }
        self.parts.push(Part { material: Material::Head, culled: true, first: 0, triangles: Vec::new() });
    }

    /// Appends a grid, seen from both sides.
    fn add(
        &mut self,
        material: Material,
        grid: &Grid,
        albedo: Vec3,
        open: impl Fn(usize) -> f32,
        share: impl Fn(Vec3) -> f32,
        turn: Turn,
    ) {
        let first = self.vertices.len() as u32;
        let normals = normals(&grid.points, grid.columns, grid.rows);
        let gloss = if material == Material::Skin { 0.5 } else { 0.1 };
        for (i, (&p, &n)) in grid.points.iter().zip(&normals).enumerate() {
            let share = share(p);
            self.vertices.push(Vertex {
                position: mix(p, turn.place(p), share),
                normal: if share > 0.99 { turn.0.apply(n) } else { n },
                albedo,
                canon: p,
                open: open(i),
                gloss,
            });
        }
        self.parts.push(Part { material, culled: false, first, triangles: grid.triangles() });
    }
}

/// The five points of ArcFace: eyes, tip of the nose, corners of the mouth.
fn landmarks(model: &Model, positions: &[Vec3], eyes: &[Vec3; 2], turn: Turn) -> [Vec3; 5] {
    let pupil = vec3(0.0, 0.02, EYE_RADIUS);
    [
        turn.place(eyes[0] + pupil),
        turn.place(eyes[1] + pupil),
        turn.place(model.locate(positions, NOSE_TIP.0, NOSE_TIP.1)),
        turn.place(model.locate(positions, -MOUTH_X, MOUTH_Y)),
        turn.place(model.locate(positions, MOUTH_X, MOUTH_Y)),
    ]
}

/// Distance between the lips in the middle.
fn mouth_gap(model: &Model, positions: &[Vec3]) -> f32 {
    let upper = model.locate(positions, 0.0, MOUTH_Y + SLIT);
    let lower = model.locate(positions, 0.0, MOUTH_Y - SLIT);
    (upper.y - lower.y).max(0.0)
}

/// Where an ear is attached: a quarter turn from the face, a little below the eyes.
fn ear_anchor(model: &Model, positions: &[Vec3], side: f32) -> Vec3 {
    let column = if side < 0.0 { 10 } else { COLUMNS - 11 };
    let row = (0..model.rows).find(|&r| model.canon[r * COLUMNS].y <= -0.9).unwrap_or(0);
    positions[row * COLUMNS + column]
}

/// Raises the scalp above the hairline by the volume of the hair.
fn lift_hair(positions: &mut [Vec3], model: &Model, paint: &Paint, volume: f32) {
    let volume = volume * paint.hair_cover;
    if volume <= 0.01 {
        return;
    }
    let line: Vec<f32> =
        (0..COLUMNS).map(|c| paint.scalp_line(model.canon[COLUMNS * 20 + c].azimuth)).collect();
    for (i, p) in positions.iter_mut().enumerate() {
        let c = &model.canon[i];
        let k = smooth(-0.2, 1.9, c.y - line[i % COLUMNS]);
        if k > 0.0 {
            let away = vec3(p.x, (p.y - 3.0).max(0.0), p.z + 0.6).unit();
            *p += away * (volume * k);
        }
    }
}

fn ear(side: f32, anchor: Vec3, params: &Params) -> (Grid, Vec<f32>) {
    let stand = (27.0 + 11.0 * params[Param::EarProtrusion]).clamp(8.0, 78.0).to_radians();
    let (s, c) = sin_cos(stand);
    let back = vec3(side * s, 0.0, -c);
    let out = vec3(side * c, 0.0, s);
    let (ts, tc) = sin_cos((9.0 + 7.0 * params[Param::EarRotation]).to_radians());
    let up = vec3(0.0, tc, 0.0) + back * ts;
    let size = 1.0 + 0.075 * params[Param::EarSize];
    let (tall, wide) = (3.05 * size, 3.0 * size);
    let base = anchor + vec3(-side * 0.05, 0.42 * params[Param::EarHeight], 0.0);
    let lobe = 1.0 + 0.22 * params[Param::EarLobe];
    let folds = (1.0 - 0.25 * params[Param::EarFolds]).clamp(0.15, 1.7);
    let (columns, rows) = (13, 21);
    let outline = |q: f32| {
        let round = pow((1.0 - q * q).max(0.0), 0.42);
        round
            * curve(
                &[
                    (-1.0, 0.5 * lobe),
                    (-0.75, 0.5 * lobe),
                    (-0.3, 0.66),
                    (0.2, 0.92),
                    (0.6, 1.0),
                    (1.0, 0.85),
                ],
                q,
            )
    };
    let mut open = Vec::with_capacity(columns * rows);
    let mut points = Vec::with_capacity(columns * rows);
    for row in 0..rows {
        let q = 1.0 - 2.0 * (row as f32 / (rows - 1) as f32);
        let edge = outline(q);
        for column in 0..columns {
            let a = column as f32 / (columns - 1) as f32;
            let p = a * edge;
            let rim = smooth(0.72, 0.93, a) * smooth(-0.75, -0.3, q);
            let concha = crate::model::base::bump(p - 0.34, q + 0.12, 0.2, 0.33);
            let antihelix = crate::model::base::bump(p - edge * 0.68, 0.0, 0.11, 1.0) * smooth(-0.6, -0.1, q);
            let tragus = crate::model::base::bump(p - 0.1, q + 0.2, 0.08, 0.15);
            let relief = folds * (0.34 * rim - 0.40 * concha + 0.22 * antihelix) + 0.25 * tragus
                - 0.75 * smooth(-0.35, -1.0, q) * (1.0 - 0.5 * a);
            points.push(base + back * (p * wide) + up * (q * tall) + out * relief);
            open.push((0.85 + 0.5 * relief - 0.45 * concha - 0.25 * smooth(0.2, 0.0, a)).clamp(0.25, 1.05));
        }
    }
    if side < 0.0 {
        // Mirror the columns, so that they run rightwards on both sides.
        points.chunks_mut(columns).for_each(<[Vec3]>::reverse);
        open.chunks_mut(columns).for_each(<[f32]>::reverse);
    }
    (Grid { columns, rows, points }, open)
}

fn neck(params: &Params, person: &Person) -> Grid {
    let child = smooth(16.0, 3.0, person.age);
    let width = (4.45 - 0.9 * child) * (1.0 + 0.05 * params[Param::NeckWidth].min(2.0));
    let web = 0.35 * params[Param::NeckWidth].max(0.0);
    let length = 8.5 + 0.7 * params[Param::NeckLength] - 1.5 * child;
    Grid::new(25, 14, |a, b| {
        let (s, c) = sin_cos((a - 0.5) * std::f32::consts::PI * 1.5);
        let y = -5.0 - (length + 2.5) * b;
        let flare = 2.4 * smooth(0.45, 1.0, b) + web * smooth(0.1, 0.8, b);
        let muscle = 0.25 * crate::model::base::bump((a - 0.5).abs() - 0.13, 0.0, 0.05, 1.0);
        vec3((width + flare) * s, y, -1.9 + (4.6 - 0.5 * child + muscle) * c - 1.2 * b)
    })
}

fn torso(person: &Person) -> Grid {
    let child = smooth(16.0, 2.0, person.age);
    let reach = lerp(17.5, 12.0, child) * if person.male { 1.05 } else { 0.95 };
    let top = -12.6 + 1.2 * child;
    Grid::new(33, 14, |a, b| {
        let (s, c) = sin_cos((a - 0.5) * std::f32::consts::PI * 1.1);
        // The first rows close the collar round the neck.
        let collar = smooth(0.0, 0.08, b);
        let half = (4.9 + (reach - 4.9) * pow(b, 0.55)) * lerp(0.4, 1.0, collar);
        let y = top - 7.5 * pow(b, 1.6) - 1.2 * smooth(0.0, 0.7, c) * (1.0 - b) - 8.0 * smooth(0.7, 1.0, b);
        vec3(half * s, y, -3.0 + (4.4 + 4.5 * b) * lerp(0.4, 1.0, collar) * c)
    })
}

/// Long hair: a curtain round the back of the head from ear to ear.
fn curtain(person: &Person, params: &Params) -> Grid {
    let length = person.hairstyle.length;
    let volume = person.hairstyle.volume;
    let curl = params[Param::HairCurl].max(0.0);
    let bottom = lerp(-3.0, -19.0, (length - 0.22) / 0.78);
    let width = 7.35 * (1.0 + 0.034 * params[Param::HeadWidth]) + 0.55 * volume + 0.2 * curl;
    Grid::new(41, 22, |a, b| {
        let azimuth = lerp(-1.0, 1.0, a) * 1.75 + std::f32::consts::PI;
        let (s, c) = sin_cos(azimuth);
        let y = lerp(7.5, bottom, b);
        let fall = smooth(-2.0, -12.0, y);
        let crown = pow((1.0 - (y.max(1.0) - 1.0) * (y.max(1.0) - 1.0) / 110.0).max(0.0), 0.5);
        let wave = 0.18 * (1.0 + curl) * crate::math::sin(y * (0.9 + 0.25 * curl) + 9.0 * a);
        let half = width * crown * (1.0 + 0.12 * fall) + wave;
        vec3(-half * s, y, -0.8 + 1.6 * fall + (9.6 + volume) * crown * c * (1.0 - 0.25 * fall))
    })
}

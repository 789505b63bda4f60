//! Which triangle each pixel sees.

use super::scene::{Part, Scene, Vertex};
use crate::math::{Vec3, floor};
use crate::model::MODEL;
use crate::render::scene::Material;

/// A pinhole camera on the z axis, looking back at the origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Camera {
    pub(crate) distance: f32,
    /// Focal length in pixels.
    pub(crate) focal: f32,
    pub(crate) centre: (f32, f32),
}

impl Camera {
    /// Pixel coordinates (x right, y down; the first pixel's centre is 0) and depth.
    pub(crate) fn project(&self, p: Vec3) -> [f32; 3] {
        let depth = self.distance - p.z;
        let k = self.focal / depth;
        [self.centre.0 + k * p.x, self.centre.1 - k * p.y, depth]
    }

    /// Direction through a pixel, with z = -1.
    pub(crate) fn ray(&self, px: f32, py: f32) -> Vec3 {
        crate::math::vec3((px - self.centre.0) / self.focal, (self.centre.1 - py) / self.focal, -1.0)
    }
}

/// What one pixel sees: a triangle and the weights of its second and third corner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    depth: f32,
    /// Part in the highest four bits, triangle in the others.
    index: u32,
    /// In 65535ths.
    weights: [u16; 2],
}

const NOTHING: Fragment = Fragment { depth: f32::INFINITY, index: u32::MAX, weights: [0; 2] };

impl Fragment {
    /// Part, triangle and weights; nothing where the background is seen.
    pub(crate) fn seen(&self) -> Option<(usize, usize, (f32, f32))> {
        let weight = |w: u16| f32::from(w) * (1.0 / 65535.0);
        (self.index != u32::MAX).then(|| {
            (
                (self.index >> 28) as usize,
                (self.index & 0x0fff_ffff) as usize,
                (weight(self.weights[0]), weight(self.weights[1])),
            )
        })
    }
}

/// The triangles of a part; those of the head are the model's own.
pub(crate) fn triangles(part: &Part) -> &[[u32; 3]] {
    if part.material == Material::Head { &MODEL.triangles } else { &part.triangles }
}

/// The smaller number; unlike `f32::min` one instruction, as nothing here is NaN.
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

fn most(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Fills `pixels` with what each of `size * size` pixels sees.
pub(crate) fn rasterise(scene: &Scene, camera: &Camera, size: usize, pixels: &mut Vec<Fragment>) {
    pixels.clear();
    pixels.resize(size * size, NOTHING);
    let screen: Vec<[f32; 3]> = scene.vertices.iter().map(|v: &Vertex| camera.project(v.position)).collect();
    let limit = size as f32 - 1.0;
    for (index, part) in scene.parts.iter().enumerate() {
        let local = &screen[part.first as usize..];
        for (t, corners) in triangles(part).iter().enumerate() {
            let [a, b, c] = corners.map(|i| local[i as usize]);
            let area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]);
            // Screen y runs down, so a front face has a negative area.
            if area.abs() < 1e-9 || (part.culled && area > 0.0) {
                continue;
            }
            let y0 = -floor(-most(least(least(a[1], b[1]), c[1]), 0.0));
            let y1 = floor(least(most(most(a[1], b[1]), c[1]), limit));
            if y0 > y1 {
                continue;
            }
            let x0 = -floor(-most(least(least(a[0], b[0]), c[0]), 0.0));
            let x1 = floor(least(most(most(a[0], b[0]), c[0]), limit));
            if x0 > x1 {
                continue;
            }
            let inverse = 1.0 / area;
            // Weights of b and c are affine in the pixel.
            let (bx, by) = ((c[1] - a[1]) * inverse, -(c[0] - a[0]) * inverse);
            let (cx, cy) = (-(b[1] - a[1]) * inverse, (b[0] - a[0]) * inverse);
            for y in y0 as usize..=y1 as usize {
                let dy = y as f32 - a[1];
                let span = &mut pixels[y * size + x0 as usize..=y * size + x1 as usize];
                for (x, pixel) in (x0..).zip(span) {
                    let dx = x as f32 - a[0];
                    let wb = bx * dx + by * dy;
                    let wc = cx * dx + cy * dy;
                    if wb < 0.0 || wc < 0.0 || wb + wc > 1.0 {
                        continue;
                    }
                    let depth = a[2] + wb * (b[2] - a[2]) + wc * (c[2] - a[2]);
                    if depth < pixel.depth {
                        *pixel = Fragment {
                            depth,
                            index: (index as u32) << 28 | t as u32,
                            weights: [(wb * 65535.0 + 0.5) as u16, (wc * 65535.0 + 0.5) as u16],
                        };
                    }
                }
            }
        }
    }
}

//! Draws a person in a software renderer: mesh, depth buffer, one shaded point per pixel.

mod develop;
mod eye;
mod paint;
mod raster;
mod scene;
mod shade;

use std::cell::Cell;

use crate::capture::{Backdrop, Capture};
use crate::math::mix;
use crate::noise::BLOTCH;
use crate::param::Params;
use crate::person::Person;

/// A rendered picture with the places of its five points.
pub(crate) struct Picture {
    pub(crate) rgb: Vec<u8>,
    pub(crate) points: [[f32; 2]; 5],
}

/// Centimetres that the frame's side covers at zoom 1.
const FRAME: f32 = 31.0;

thread_local! {
    // Nearly a megabyte: taken anew for each picture it costs a tenth of the time in page faults.
    static FRAGMENTS: Cell<Vec<raster::Fragment>> = const { Cell::new(Vec::new()) };
}

pub(crate) fn render(person: &Person, params: &Params, capture: &Capture, size: usize) -> Picture {
    let paint = paint::Paint::new(person, params);
    let scene = scene::Scene::new(person, params, capture, &paint);
    let pixels = size as f32;
    let scale = pixels * capture.zoom / FRAME;
    let camera = raster::Camera {
        distance: capture.distance,
        // Measured at the depth of the face, so that a near camera does not enlarge it.
        focal: scale * (capture.distance - 7.0),
        centre: (pixels * (0.5 + capture.shift.0), pixels * (0.5 + capture.shift.1) - 2.2 * scale),
    };
    let eyes = eye::Eyes::new(scene.eyes, &scene.pose, capture.gaze, capture.pupil, params);
    let shader = shade::Shader {
        scene: &scene,
        person,
        params,
        paint: &paint,
        eyes: &eyes,
        light: shade::Light::new(capture),
        camera,
        smile: capture.expression.smile,
    };
    let mut fragments = FRAGMENTS.take();
    raster::rasterise(&scene, &camera, size, &mut fragments);
    let rgb = develop::develop(size, capture, |y, row| {
        backdrop(&capture.backdrop, y, row);
        for (x, fragment) in fragments[y * size..(y + 1) * size].iter().enumerate() {
            if let Some(light) = shader.shade(fragment, x as f32, y as f32) {
                row[0][x] = light.x;
                row[1][x] = light.y;
                row[2][x] = light.z;
            }
        }
    });
    FRAGMENTS.set(fragments);
    let points = scene.points.map(|p| {
        let [x, y, _] = camera.project(p);
        [x, y]
    });
    Picture { rgb, points }
}

/// A row of the background: a gradient with blurred shapes.
fn backdrop(b: &Backdrop, y: usize, row: &mut develop::Planes) {
    // The shapes are broad: they are sampled at every eighth pixel and joined by lines.
    const STRIDE: usize = 8;
    let size = row[0].len();
    let pixel = 1.0 / size as f32;
    let v = y as f32 * pixel;
    let blob = |x: usize| {
        let noise = BLOTCH.smooth(x as f32 * pixel * b.scale + b.offset.0, v * b.scale + b.offset.1);
        (1.0 + b.clutter * noise).max(0.05)
    };
    let colour = mix(b.top, b.bottom, v);
    let mut left = blob(0);
    for start in (0..size).step_by(STRIDE) {
        let right = blob(start + STRIDE);
        let end = (start + STRIDE).min(size);
        let shade: [f32; STRIDE] =
            std::array::from_fn(|i| left + (right - left) * (i as f32 / STRIDE as f32));
        for (plane, c) in row.iter_mut().zip([colour.x, colour.y, colour.z]) {
            for (v, k) in plane[start..end].iter_mut().zip(shade) {
                *v = c * k;
            }
        }
        left = right;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::Expression;
    use crate::noise::Draws;
    use crate::param::Param;
    use crate::term::{HpoTerm, joint_shift};

    /// An adult who smiles with open mouth, slightly from the side, in clean light.
    fn sitter() -> (Person, Capture) {
        let mut person = Person::draw(&mut Draws::new(b"test    ", 1, 0, 0), 0.0);
        person.params = Params::AVERAGE;
        person.hairstyle.fringe = 0.0;
        let mut capture = Capture::draw(&mut Draws::new(b"test    ", 2, 0, 0));
        capture.yaw = 0.3;
        capture.noise = 0.0;
        capture.blur = 0.4;
        capture.expression = Expression { smile: 0.6, jaw_drop: 0.5, ..Expression::default() };
        (person, capture)
    }

    /// Share of pixels that differ visibly between two pictures.
    fn changed(a: &Picture, b: &Picture) -> f32 {
        let differing = a.rgb.iter().zip(&b.rgb).filter(|(x, y)| x.abs_diff(**y) > 3).count();
        differing as f32 / a.rgb.len() as f32
    }

    #[test]
    fn every_axis_shows() {
        let (person, capture) = sitter();
        let plain = render(&person, &Params::AVERAGE, &capture, 160);
        for &p in Param::ALL {
            // Some axes show to one side only: no fewer gums than none.
            let shown = [3.0, -3.0].map(|v| {
                let mut params = Params::AVERAGE;
                params[p] = v;
                changed(&plain, &render(&person, &params, &capture, 160))
            });
            let most = shown[0].max(shown[1]);
            assert!(most > 2e-4, "{} changes {most} of the pixels", p.name());
        }
    }

    #[test]
    fn every_term_shows() {
        let (person, capture) = sitter();
        let plain = render(&person, &Params::AVERAGE, &capture, 160);
        for term in HpoTerm::drawable() {
            let params = joint_shift(&[(term, 1.0)]).bounded();
            let share = changed(&plain, &render(&person, &params, &capture, 160));
            assert!(share > 1e-4, "{term} {} changes {share} of the pixels", term.name().unwrap());
        }
    }

    #[test]
    fn terms_move_the_points_as_they_say() {
        let (person, mut capture) = sitter();
        capture.yaw = 0.0;
        capture.pitch = 0.0;
        capture.roll = 0.0;
        let points = |term: &str| {
            let term: HpoTerm = term.parse().unwrap();
            render(&person, &joint_shift(&[(term, 1.0)]).bounded(), &capture, 256).points
        };
        let plain = render(&person, &Params::AVERAGE, &capture, 256).points;
        let eyes = |p: &[[f32; 2]; 5]| p[1][0] - p[0][0];
        let mouth = |p: &[[f32; 2]; 5]| p[4][0] - p[3][0];
        let philtrum = |p: &[[f32; 2]; 5]| p[3][1] - p[2][1];
        // Hypertelorism and hypotelorism, wide and narrow mouth, long and short philtrum.
        assert!(eyes(&points("HP:0000316")) > eyes(&plain) + 5.0);
        assert!(eyes(&points("HP:0000601")) < eyes(&plain) - 5.0);
        assert!(mouth(&points("HP:0000154")) > mouth(&plain) + 4.0);
        assert!(mouth(&points("HP:0000160")) < mouth(&plain) - 4.0);
        assert!(philtrum(&points("HP:0000343")) > philtrum(&plain) + 2.0);
        assert!(philtrum(&points("HP:0000322")) < philtrum(&plain) - 2.0);
    }

    #[test]
    fn a_mirrored_pose_mirrors_the_points() {
        let (person, mut capture) = sitter();
        capture.shift = (0.0, 0.0);
        let mut take = |yaw: f32, roll: f32| {
            (capture.yaw, capture.roll) = (yaw, roll);
            render(&person, &Params::AVERAGE, &capture, 256).points
        };
        let (a, b) = (take(0.3, 0.1), take(-0.3, -0.1));
        for (i, j) in [(0, 1), (2, 2), (3, 4)] {
            assert!((a[i][0] + b[j][0] - 256.0).abs() < 0.1, "{a:?} {b:?}");
            assert!((a[i][1] - b[j][1]).abs() < 0.1, "{a:?} {b:?}");
        }
    }
}

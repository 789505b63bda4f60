//! Draws a person in a software renderer: mesh, depth buffer, one shaded point per pixel.

mod develop;
mod eye;
mod paint;
mod raster;
mod scene;
mod shade;

use crate::capture::{Backdrop, Capture};
use crate::math::{Vec3, mix};
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
        light: shade::Light {
            direction: capture.key_direction,
            key: capture.key,
            sky: capture.sky,
            ground: capture.ground,
            rim: capture.rim,
        },
        camera,
        smile: capture.expression.smile,
    };
    let fragments = raster::rasterise(&scene, &camera, size);
    let image = fragments
        .iter()
        .enumerate()
        .map(|(i, fragment)| {
            let (x, y) = ((i % size) as f32, (i / size) as f32);
            if fragment.part == u8::MAX {
                backdrop(&capture.backdrop, x / pixels, y / pixels)
            } else {
                shader.shade(fragment, x, y)
            }
        })
        .collect();
    let points = scene.points.map(|p| {
        let [x, y, _] = camera.project(p);
        [x, y]
    });
    Picture { rgb: develop::develop(image, size, capture), points }
}

fn backdrop(b: &Backdrop, x: f32, y: f32) -> Vec3 {
    let blob = BLOTCH.smooth(x * b.scale + b.offset.0, y * b.scale + b.offset.1);
    mix(b.top, b.bottom, y) * (1.0 + b.clutter * blob).max(0.05)
}

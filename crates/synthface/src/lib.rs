//! Synthetic patients drawn from HPO facial terms.
//!
//! A [`Gestalt`] is a syndrome's set of facial terms with frequencies. A
//! [`Population`] draws patients from it: a person with an identity, an age, a
//! skin and hair, who shows each term with its frequency and some severity. A
//! [`Subject`] takes photographs: a parametric 3-D head, deformed by all of
//! that, posed, lit and rendered in software, with its five landmarks known.
//!
//! Nothing here is a picture of a person or learnt from one. Same numbers in,
//! same bytes out, on any platform and in any order.

mod capture;
mod error;
mod gestalt;
mod math;
mod model;
mod noise;
mod param;
mod person;
mod population;
mod render;
mod term;

pub use error::{Error, ErrorKind};
pub use gestalt::{ATTRIBUTION, Gestalt, UNSTATED_FREQUENCY, catalogue, generated};
pub use param::{Param, Params};
pub use population::{Photograph, Population, Subject};
pub use term::HpoTerm;

/// tmp
pub fn probe(sets: &[(Param, f32)], yaw: f32, pitch: f32, smile: f32, size: usize, seed: u64) -> Vec<u8> {
    let mut d = noise::Draws::new(b"tmp     ", seed, 0, 0);
    let mut person = person::Person::draw(&mut d, 0.0);
    person.params = Params::AVERAGE;
    person.hairstyle.fringe = 0.0;
    person.hairstyle.length = 0.1;
    for (p, v) in sets { person.params[*p] = *v; }
    let mut d = noise::Draws::new(b"tmp1    ", 1, 0, 1);
    let mut c = capture::Capture::draw(&mut d);
    c.yaw = yaw; c.pitch = pitch; c.roll = 0.0; c.gaze = (0.0, 0.0); c.zoom = 1.25; c.shift = (0.0, 0.0); c.distance = 110.0;
    c.expression = model::Expression { smile, ..Default::default() };
    c.expression.blink = [0.05; 2];
    c.key_direction = math::vec3(-0.5, 0.7, 1.0).unit(); c.key = math::vec3(0.95, 0.93, 0.9); c.sky = math::vec3(0.4, 0.41, 0.44); c.ground = math::vec3(0.25, 0.22, 0.2);
    c.noise = 0.0; c.blur = 0.45; c.exposure = 1.0; c.contrast = 1.0; c.cast = math::vec3(1.0, 1.0, 1.0); c.saturation = 1.0; c.rim = 0.0;
    render::render(&person, &person.params.clone().bounded(), &c, size).rgb
}

/// tmp
pub fn probe_age(age: f32, seed: u64, scale: f32, yaw: f32, size: usize) -> Vec<u8> {
    let mut d = noise::Draws::new(b"tmp     ", seed, 0, 0);
    let mut person = person::Person::draw(&mut d, scale);
    let now = person.aged(age - person.age);
    person.params = now;
    person.age = age;
    let mut d = noise::Draws::new(b"tmp1    ", 1, 0, 1);
    let mut c = capture::Capture::draw(&mut d);
    c.yaw = yaw; c.pitch = 0.0; c.roll = 0.0; c.zoom = 1.15; c.shift = (0.0, 0.0); c.distance = 110.0;
    c.expression = model::Expression { smile: 0.3, ..Default::default() };
    c.expression.blink = [0.05; 2];
    c.key_direction = math::vec3(-0.5, 0.7, 1.0).unit(); c.key = math::vec3(0.95, 0.93, 0.9); c.sky = math::vec3(0.4, 0.41, 0.44); c.ground = math::vec3(0.25, 0.22, 0.2);
    c.noise = 0.005; c.blur = 0.45; c.exposure = 1.0; c.contrast = 1.0; c.cast = math::vec3(1.0, 1.0, 1.0); c.saturation = 1.0; c.rim = 0.0;
    render::render(&person, &person.params.clone().bounded(), &c, size).rgb
}

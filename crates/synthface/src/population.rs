//! Patients of many syndromes, and people without one.

use crate::capture::Capture;
use crate::error::{Error, ErrorKind};
use crate::gestalt::Gestalt;
use crate::math::exp2;
use crate::noise::Draws;
use crate::param::Params;
use crate::person::Person;
use crate::render::render;
use crate::term::{HpoTerm, joint_shift};

/// A population of patients, from which subjects are drawn by number.
///
/// Drawing is a pure function of (seed, syndrome, subject, image): order of calls
/// and threads do not matter, and a population never has to be held in memory.
#[derive(Clone, Debug)]
pub struct Population {
    gestalts: Vec<Gestalt>,
    difficulty: f32,
    seed: u64,
}

/// One person, with or without a syndrome.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    person: Person,
    terms: Vec<(HpoTerm, f32)>,
    photographs: u64,
}

/// A rendered photograph.
#[derive(Clone, Debug, PartialEq)]
pub struct Photograph {
    /// `width * height` pixels of 8-bit sRGB, row by row.
    pub rgb: Vec<u8>,
    /// Pixels per row.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
    /// Eye on the left of the image, eye on the right, tip of the nose, left and right corner of the
    /// mouth, as (x, y) in pixels with (0, 0) the middle of the first pixel: the order of ArcFace.
    pub points: [[f32; 2]; 5],
}

impl Population {
    /// A population of these syndromes.
    ///
    /// `difficulty` says how hard its syndromes are to tell apart: it weakens the
    /// shift that a syndrome gives a face ([`Population::signal`]) and widens the
    /// variation between people ([`Population::variation`]), both continuously and
    /// monotonically. 0 is easy, 1 the default, 2 hard; any number from 0 to 10 is allowed.
    ///
    /// # Errors
    /// [`ErrorKind::Population`] where there is no gestalt or the difficulty is out of range.
    pub fn new(gestalts: Vec<Gestalt>, difficulty: f32, seed: u64) -> Result<Population, Error> {
        let refuse = |what: String| Err(Error::new(ErrorKind::Population, what));
        if gestalts.is_empty() {
            return refuse(
                "a population needs at least one gestalt; take catalogue() or generated()".to_owned(),
            );
        }
        if !(0.0..=10.0).contains(&difficulty) {
            return refuse(format!("difficulty {difficulty} is not within 0 and 10; 1 is the default"));
        }
        Ok(Population { gestalts, difficulty, seed })
    }

    /// The syndromes, in the order of their indices.
    pub fn gestalts(&self) -> &[Gestalt] {
        &self.gestalts
    }

    /// Factor on the shift of a syndrome: `1.6 * 2^(-0.68 * difficulty)`, 1 at the default.
    pub fn signal(&self) -> f32 {
        1.6 * exp2(-0.678_072 * self.difficulty)
    }

    /// Factor on the spread of shape between people: from 0.6 by way of 1 at the default towards 1.4.
    pub fn variation(&self) -> f32 {
        1.4 - 0.8 * exp2(-self.difficulty)
    }

    /// Patient number `subject` of the syndrome with index `syndrome` in [`Population::gestalts`].
    ///
    /// # Panics
    /// Where there is no such syndrome.
    pub fn subject(&self, syndrome: usize, subject: u64) -> Subject {
        let gestalt = &self.gestalts[syndrome];
        let mut draws = Draws::new(b"patient ", self.seed, syndrome as u64, subject);
        let mut person = Person::draw(&mut draws, self.variation());
        let terms: Vec<(HpoTerm, f32)> = gestalt
            .terms
            .iter()
            .filter_map(|&(term, frequency)| {
                let (shown, severity) = (draws.chance(frequency), draws.range(0.6, 1.25));
                shown.then_some((term, severity))
            })
            .collect();
        let signal = self.signal();
        person.params.add(&joint_shift(&terms), signal);
        person.params.add(&gestalt.shift, signal);
        Subject { person, terms, photographs: draws.word() }
    }

    /// A person without a syndrome. These people share no draw with the patients of any population.
    pub fn unaffected(seed: u64, subject: u64) -> Subject {
        let mut draws = Draws::new(b"healthy ", seed, subject, 0);
        let person = Person::draw(&mut draws, 1.0);
        Subject { person, terms: Vec::new(), photographs: draws.word() }
    }

    /// A person with a random set of facial terms and no syndrome: for training a network to see
    /// shapes of any kind. These people share no draw with the patients of any population.
    pub fn varied(seed: u64, subject: u64) -> Subject {
        let mut draws = Draws::new(b"varied  ", seed, subject, 0);
        let mut person = Person::draw(&mut draws, 1.0);
        let all: Vec<HpoTerm> = HpoTerm::drawable().collect();
        let wanted = draws.below(15);
        let terms: Vec<(HpoTerm, f32)> =
            (0..wanted).map(|_| (all[draws.below(all.len())], draws.range(0.5, 1.25))).collect();
        person.params.add(&joint_shift(&terms), 1.0);
        Subject { person, terms, photographs: draws.word() }
    }
}

impl Subject {
    /// The terms that this person shows, each with its severity (1 is typical).
    pub fn terms(&self) -> &[(HpoTerm, f32)] {
        &self.terms
    }

    /// Age in years at the first photograph.
    pub fn age(&self) -> f32 {
        self.person.age
    }

    /// The coordinates of this person's face at the first photograph.
    pub fn params(&self) -> Params {
        self.person.params.clone().bounded()
    }

    /// The coordinates of the face in photograph `image`: some are taken years later.
    pub fn params_at(&self, image: u64) -> Params {
        self.person.aged(self.capture(image).years).bounded()
    }

    fn capture(&self, image: u64) -> Capture {
        Capture::draw(&mut Draws::new(b"photo   ", self.photographs, image, 0))
    }

    /// Takes photograph number `image` with `size` pixels a side.
    ///
    /// Made for 256 to 512 pixels; smaller (from 96, for speed) and larger (to 1024) ones are
    /// drawn too, and a size outside of that is moved to the nearer end.
    pub fn photograph(&self, image: u64, size: u32) -> Photograph {
        let size = size.clamp(96, 1024);
        let capture = self.capture(image);
        let params = self.person.aged(capture.years).bounded();
        let picture = render(&self.person, &params, &capture, size as usize);
        Photograph { rgb: picture.rgb, width: size, height: size, points: picture.points }
    }
}

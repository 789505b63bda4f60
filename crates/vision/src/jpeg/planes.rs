use rayon::prelude::*;

use super::blocks::{Coefficients, LANES};
use super::colour::Colours;
use super::idct;
use super::markers::{Component, Frame};
use super::upsample::{Sampler, Scratch};

/// Rows of pixels that are made at a time.
const ROWS: usize = 16;

/// The samples of a picture's components.
pub(super) struct Planes {
    pub(super) frame: Frame,
    /// Rows of whole groups.
    pub(super) planes: Vec<Vec<u8>>,
}

impl Planes {
    /// A component's plane, black.
    pub(super) fn empty(component: &Component) -> Vec<u8> {
        vec![0; component.rows * component.groups * 64 * LANES]
    }

    /// All components' inverse transforms.
    pub(super) fn transformed(frame: Frame, all: &Coefficients) -> Self {
        let planes = frame.components.iter().zip(&all.0).map(|(component, groups)| {
            let mut plane = Self::empty(component);
            let steps = idct::steps(component);
            let rows = plane.par_chunks_exact_mut(component.groups * 64 * LANES);
            rows.zip(groups.par_chunks_exact(component.groups))
                .for_each(|(out, row)| idct::transform(row, &steps, out));
            plane
        });
        let planes = planes.collect();
        Self { frame, planes }
    }

    /// The picture as interleaved RGB.
    pub(super) fn render(&self, colours: Colours) -> Vec<u8> {
        let (width, height) = (usize::from(self.frame.width), usize::from(self.frame.height));
        let mut rgb = vec![0; width * height * 3];
        let samplers: Vec<Sampler<'_>> = (self.frame.components.iter().zip(&self.planes))
            .map(|(component, plane)| Sampler::new(component, &self.frame, plane))
            .collect();
        rgb.par_chunks_mut(ROWS * width * 3).enumerate().for_each_init(
            || samplers.iter().map(Sampler::scratch).collect::<Vec<_>>(),
            |scratch, (at, out)| {
                let first = at * ROWS;
                pulp::Arch::new().dispatch(Rows { samplers: &samplers, scratch, colours, width, first, out });
            },
        );
        rgb
    }
}

/// Some rows of pixels, for the processor's widest vectors.
struct Rows<'a> {
    samplers: &'a [Sampler<'a>],
    scratch: &'a mut [Scratch],
    colours: Colours,
    width: usize,
    first: usize,
    out: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { samplers, scratch, colours, width, first, out } = self;
        for (row, out) in out.chunks_exact_mut(width * 3).enumerate() {
            let mut samples: [&[u8]; 4] = [&[]; 4];
            for (samples, (sampler, scratch)) in samples.iter_mut().zip(samplers.iter().zip(&mut *scratch)) {
                *samples = &sampler.row(first + row, scratch)[..width];
            }
            colours.convert(samples, out);
        }
    }
}

//! A network, run.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::bytes::Bytes;
use rayon::prelude::*;

use super::conv::Room;
use super::layout::TILE_PIXELS;
use super::network::Network;
use crate::crop::{CROP_SIDE, Crop};
use crate::error::Result;
use crate::spaces::Spaces;
use crate::trunk::{INPUT_LEN, to_input};

/// Maps of at most this many pixels a side are small: many crops' fit into a processor's caches, and the filters between them are
/// large.
const SMALL: usize = 16;
/// Crops whose large maps are computed together, by as many threads: at least and at most.
const FEWEST: usize = 2;
const MOST: usize = 8;
/// Crops whose small maps are computed together: their filters, which are not kept, are transformed once for all of them.
const TOGETHER: usize = 64;

/// Runs after which there will be more: filters are kept.
const RUNS_OF_FEW: usize = 2;

/// A network and where its run is divided.
pub(crate) struct Runner {
    network: Network,
    /// Convolutions before the small maps: those are run on few crops at a time.
    early: usize,
    /// For every convolution, the maps that nothing takes after it.
    done: Vec<Vec<usize>>,
    /// Runs of the convolutions before the small maps.
    runs: AtomicUsize,
}

/// Memory for runs, used again.
#[derive(Default)]
pub(crate) struct Workspace {
    maps: Spaces,
    room: Room,
}

impl Runner {
    /// Reads a network that was cut, as an ONNX file.
    ///
    /// # Errors
    /// If it is not such a network; the node at which it differs is named.
    pub(crate) fn read(model: Bytes) -> Result<Self> {
        let network = Network::read(model)?;
        let mut last = vec![0; network.steps.len() + 1];
        for (at, step) in network.steps.iter().enumerate() {
            for map in std::iter::once(step.from).chain(step.other) {
                last[map] = at;
            }
        }
        last[network.end] = network.steps.len();
        let mut done = vec![Vec::new(); network.steps.len()];
        for (map, &at) in last.iter().enumerate() {
            if let Some(done) = done.get_mut(at) {
                done.push(map);
            }
        }
        // Only one map goes from the early part to the other.
        let passes = |at: usize| last[..at].iter().all(|&last| last < at);
        let early = (1..network.steps.len())
            .find(|&at| network.map(at).side <= SMALL && passes(at))
            .unwrap_or(network.steps.len());
        Ok(Self { network, early, done, runs: AtomicUsize::new(0) })
    }

    /// Features per crop.
    pub(crate) fn output_len(&self) -> usize {
        let map = self.network.map(self.network.end);
        map.channels * map.side * map.side
    }

    /// Writes each crop's features.
    pub(crate) fn run(&self, crops: &[Crop], out: &mut [f32], workspace: &mut Workspace) {
        let few = rayon::current_num_threads().clamp(FEWEST, MOST);
        let passed = self.network.map(self.early).len();
        for (crops, out) in crops.chunks(TOGETHER).zip(out.chunks_mut(TOGETHER * self.output_len())) {
            let mut maps = workspace.maps.take(crops.len() * passed);
            for (crops, maps) in crops.chunks(few).zip(maps.chunks_mut(few * passed)) {
                self.runs.fetch_add(1, Ordering::Relaxed);
                let patches = self.patches(crops, workspace);
                let end = self.steps(0..self.early, crops.len(), patches, workspace);
                let len = crops.len() * passed;
                maps[..len].copy_from_slice(&end[..len]);
                workspace.maps.give([end]);
            }
            let maps = self.steps(self.early..self.network.steps.len(), crops.len(), maps, workspace);
            self.features(&maps, out);
            workspace.maps.give([maps]);
        }
    }

    /// Runs convolutions, from the map before the first of them to that of the last.
    fn steps(&self, steps: Range<usize>, crops: usize, map: Vec<f32>, workspace: &mut Workspace) -> Vec<f32> {
        let keep = self.runs.load(Ordering::Relaxed) > RUNS_OF_FEW;
        let mut maps: Vec<Option<Vec<f32>>> = vec![None; self.network.steps.len() + 1];
        maps[steps.start] = Some(map);
        for at in steps.clone() {
            let step = &self.network.steps[at];
            let len = crops * step.conv.to.len();
            let mut out = workspace.maps.take(len);
            let map = |number: usize| maps[number].as_deref().unwrap_or_default();
            let (x, other) = (map(step.from), step.other.map(map));
            step.conv.run(x, other, &mut out[..len], &mut workspace.room, keep);
            maps[at + 1] = Some(out);
            for &done in &self.done[at] {
                workspace.maps.give(maps[done].take());
            }
        }
        maps[steps.end].take().unwrap_or_default()
    }

    /// What the first convolution sees of each crop.
    fn patches(&self, crops: &[Crop], workspace: &mut Workspace) -> Vec<f32> {
        let (patches, map) = (self.network.patches, self.network.first);
        let mut out = workspace.maps.take(crops.len() * map.len());
        out[..crops.len() * map.len()].par_chunks_mut(map.len()).zip(crops).for_each(|(out, crop)| {
            let mut planes = vec![0.0; INPUT_LEN];
            to_input(crop, &mut planes);
            out.par_chunks_mut(map.tile_len()).enumerate().for_each(|(tile, out)| {
                for (pixel, out) in out.chunks_exact_mut(map.depth()).enumerate() {
                    let (y, x) = map.place(tile * TILE_PIXELS + pixel);
                    patches.write(&planes, [CROP_SIDE; 2], [x, y], out);
                }
            });
        });
        out
    }

    /// Maps laid out flat: channel after channel, row after row.
    fn features(&self, maps: &[f32], out: &mut [f32]) {
        let map = self.network.map(self.network.end);
        let crops = maps.par_chunks(map.len()).zip(out.par_chunks_mut(self.output_len()));
        crops.for_each(|(maps, out)| {
            for y in 0..map.side {
                for x in 0..map.side {
                    let pixel = &maps[map.offset(y, x)..][..map.channels];
                    for (channel, &value) in pixel.iter().enumerate() {
                        let value = match &self.network.norm {
                            Some([scale, shift]) => value * scale[channel] + shift[channel],
                            None => value,
                        };
                        out[(channel * map.side + y) * map.side + x] = value;
                    }
                }
            }
        });
    }
}

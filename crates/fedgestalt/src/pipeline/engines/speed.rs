//! Which engine answers first where there are few photographs. Loading a compiled network takes longer than running it once, so
//! the engine of most crops in a second need not be the one that answers first. Both are measured, once, and kept.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use vision::views::VIEWS;
use vision::{Crop, Trunk};

use super::calibration::{self, Key};
use super::{Chosen, Engines, NetworkFile, rten};
use crate::config::Precision;

/// Tries, of which the fastest counts.
const TRIES: usize = 2;

/// Seconds that an engine takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Speed {
    /// From a network's file to the features of the first photograph.
    first: f64,
    /// For every other one.
    next: f64,
}

/// Those of OpenVINO, and of the fastest engine that is compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Speeds {
    compiled_in: Speed,
    /// `None` where OpenVINO cannot run the network.
    openvino: Option<Speed>,
}

impl Speed {
    fn of(self, photographs: usize) -> f64 {
        self.first + self.next * photographs.saturating_sub(1) as f64
    }

    fn least(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), next: self.next.min(other.next) }
    }
}

impl Speeds {
    fn openvino_is_sooner(&self, photographs: usize) -> bool {
        self.openvino.is_some_and(|openvino| openvino.of(photographs) < self.compiled_in.of(photographs))
    }
}

impl Engines<'_> {
    /// The network on the engine that answers first for so many photographs.
    pub(super) fn soonest(
        &self,
        file: &NetworkFile,
        precision: Precision,
        photographs: usize,
    ) -> Result<Chosen> {
        match self.speeds(file, precision)? {
            Some(speeds) if speeds.openvino_is_sooner(photographs) => {
                match self.openvino()?.map(|library| self.on_openvino(&library, file, precision)) {
                    Some(Ok(chosen)) => Ok(chosen),
                    // It ran when it was measured.
                    Some(Err(error)) => {
                        Ok(Chosen { note: Some(super::not_openvino(&error)), ..self.compiled_in(file)? })
                    }
                    None => self.compiled_in(file),
                }
            }
            _ => self.compiled_in(file),
        }
    }

    /// The network on our own engine if it takes it, else on rten.
    fn compiled_in(&self, file: &NetworkFile) -> Result<Chosen> {
        match self.on_winograd(file) {
            Ok(chosen) => Ok(chosen),
            Err(error) => rten(file, super::unlike(&error)),
        }
    }

    /// What was measured, now or before; `None` where there is nothing to choose from, or no folder for compiled networks: they
    /// would be compiled each time.
    fn speeds(&self, file: &NetworkFile, precision: Precision) -> Result<Option<Speeds>> {
        let (Some(library), Some(folder)) = (self.openvino_file()?, self.cache_folder()) else {
            return Ok(None);
        };
        let key = Key {
            trunk: hex::encode(file.facts.digest),
            engine: format!("soonest of compiled in 2 and {}", stamp(&library)),
            processor: format!("{}, {} threads", processor(), rayon::current_num_threads()),
            precision: format!("{precision:?}"),
            batch: self.batch,
        };
        if let Some(known) = calibration::read(&folder, &key) {
            return Ok(Some(known));
        }
        if file.is_unsettled() {
            return Ok(None);
        }
        // What is timed is what the next process will do.
        let known = file.as_known();
        let file = known.as_ref().unwrap_or(file);
        // One network at a time, so that none is timed beside another.
        static MEASURING: Mutex<()> = Mutex::new(());
        let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled_in = || self.compiled_in(file);
        let openvino = || self.on_openvino(&self.needed_openvino("trunk")?, file, precision);
        let (photo, points) = calibration::rendered(0)?;
        let views = vision::views::views(&vision::align::align(&photo, &points)?);
        let speeds =
            Speeds { compiled_in: speed(&compiled_in, &views)?, openvino: speed(&openvino, &views).ok() };
        calibration::write(&folder, &key, &speeds);
        Ok(Some(speeds))
    }
}

/// Times an engine, after a load that compares its features and fills its caches.
fn speed(load: &dyn Fn() -> Result<Chosen>, views: &[Crop; VIEWS]) -> Result<Speed> {
    drop(load()?);
    let run = |trunk: &dyn Trunk| -> Result<()> {
        let mut features = vec![0.0; VIEWS * trunk.output_len()];
        Ok(trunk.features(views, &mut features)?)
    };
    let mut least = Speed { first: f64::INFINITY, next: f64::INFINITY };
    for _ in 0..TRIES {
        let began = Instant::now();
        let chosen = load()?;
        run(&*chosen.trunk)?;
        let first = began.elapsed().as_secs_f64();
        run(&*chosen.trunk)?;
        least = least.least(Speed { first, next: began.elapsed().as_secs_f64() - first });
    }
    Ok(least)
}

/// By which a library is known again without loading it.
fn stamp(library: &Path) -> String {
    let meta = fs::metadata(library).ok();
    let modified = meta.as_ref().and_then(|meta| meta.modified().ok()?.duration_since(UNIX_EPOCH).ok());
    let len = meta.map_or(0, |meta| meta.len());
    format!("{} of {len} bytes at {:?}", library.display(), modified.unwrap_or_default())
}

/// The processor's name, where the system tells it: a cache may lie on a drive that machines share.
fn processor() -> String {
    let all = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = all.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    names.map(|(_, name)| name.to_owned()).next().unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_pays_off_after_some_photographs() {
        let compiled_in = Speed { first: 0.10, next: 0.09 };
        let openvino = Some(Speed { first: 0.30, next: 0.04 });
        let speeds = Speeds { compiled_in, openvino };
        assert!(!speeds.openvino_is_sooner(1));
        // 0.10 + 4 * 0.09 = 0.46 and 0.30 + 4 * 0.04 = 0.46, then it is ahead.
        assert!(!speeds.openvino_is_sooner(4));
        assert!(speeds.openvino_is_sooner(6));
        assert!(!Speeds { openvino: None, ..speeds }.openvino_is_sooner(1000));
    }
}

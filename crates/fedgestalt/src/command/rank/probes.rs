//! From photographs to encodings. Faces are found while networks are loaded, and a network runs while the next is loaded.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use domain::Encoding;
use vision::views::VIEWS;
use vision::{Crop, Points};

use super::{RankArgs, Seconds, timed};
use crate::context::Context;
use crate::faces::FaceFinder;
use crate::pipeline::bundle::Loaded;
use crate::pipeline::encodings::EncodingFile;
use crate::pipeline::ensemble::{Blueprint, Ensemble, Network};

/// How long networks may load before that is said: the first start after a change compares engines, which takes some seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Photographs as probes.
pub(super) struct Encoded {
    /// In the order of the photographs.
    pub(super) probes: Vec<anyhow::Result<Probe>>,
    /// Names the model.
    model: String,
    dim: usize,
}

/// One of them.
pub(super) struct Probe {
    pub(super) encoding: Encoding,
    /// Faces that the detector saw, if there were several.
    pub(super) faces: Option<usize>,
    pub(super) seconds: Seconds,
}

impl Encoded {
    /// Finds the faces, loads the networks and runs them.
    pub(super) fn new(args: &RankArgs, points: Option<&Points>, context: &Context) -> anyhow::Result<Self> {
        let (model, trunk) = (args.model.as_deref(), args.trunk.as_deref());
        let (tell, ready) = mpsc::channel();
        let (found, loaded) = std::thread::scope(|scope| {
            let found = scope.spawn(|| Faces::find(args, points, context));
            let loaded = scope.spawn(move || {
                let tell = |at: usize, network: &Arc<Network>| {
                    // Nobody listens where no photograph can be used.
                    let _ = tell.send((at, network.clone()));
                };
                timed(|| Loaded::for_photographs(&context.config, model, trunk, args.photos.len(), &tell))
            });
            let mut found = found.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Ok(faces) = &mut found {
                faces.see(&ready, context);
            }
            (found, loaded.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (Faces { note, faces }, (loaded, model)) = (found?, loaded?);
        note.into_iter().for_each(|note| context.output.note(note));
        let Loaded { blueprint, weights, name } = loaded;
        // Taking compiled networks apart takes as long as loading them: they go with the process, which ends soon.
        let blueprint: &Blueprint = Box::leak(Box::new(blueprint));
        blueprint.remarks().iter().for_each(|remark| context.output.note(remark));
        let ensemble = blueprint.with(weights)?;
        let probe = |face: anyhow::Result<Face>| face?.probe(&ensemble, model);
        Ok(Self { probes: faces.into_iter().map(probe).collect(), dim: blueprint.dim(), model: name })
    }

    /// Whether they can be compared with the encodings of a file.
    pub(super) fn check(&self, file: &EncodingFile, path: &Path, context: &Context) -> anyhow::Result<()> {
        let (path, name, dim) = (path.display(), &self.model, self.dim);
        match &file.model {
            Some(model) => ensure!(
                model == name,
                "{path} was made by {model} but the model at hand is {name}; give the same --model and --trunk as to `encode`"
            ),
            None => context.output.warn(format_args!(
                "{path} does not say which model made it; the ranking means something only if that was {name}"
            )),
        }
        ensure!(
            file.dim() == dim,
            "the encodings in {path} have {} values and those of the model at hand {dim}; give the same --model and --trunk",
            file.dim()
        );
        Ok(())
    }
}

/// The faces of all photographs.
struct Faces {
    /// Why the detector is not run as wished, where it is not.
    note: Option<String>,
    faces: Vec<anyhow::Result<Face>>,
}

/// One of them.
struct Face {
    crop: Crop,
    /// Faces that the detector saw beside it.
    others: usize,
    /// What the networks make of its views, in the order of the networks.
    features: Vec<Vec<f32>>,
    seconds: Seconds,
}

impl Faces {
    fn find(args: &RankArgs, points: Option<&Points>, context: &Context) -> anyhow::Result<Self> {
        let (finder, loading) = timed(|| {
            FaceFinder::open(&context.config, args.detector.as_deref(), args.strict, args.photos.len())
        })?;
        let faces = args.photos.iter().map(|photo| Face::find(&finder, photo, points, loading)).collect();
        Ok(Self { note: finder.note().map(str::to_owned), faces })
    }

    /// Runs each network on all faces as soon as it is there. One at a time: each takes all threads.
    fn see(&mut self, networks: &Receiver<(usize, Arc<Network>)>, context: &Context) {
        let mut said = false;
        loop {
            let (at, network) = match networks.recv_timeout(PATIENCE) {
                Ok(loaded) => loaded,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if !std::mem::replace(&mut said, true) {
                        context.output.note(
                            "networks are read and engines compared; what comes of it is kept, and the next start is faster",
                        );
                    }
                    continue;
                }
            };
            for face in &mut self.faces {
                let seen = match face {
                    Ok(face) => face.see(at, &network),
                    Err(_) => continue,
                };
                if let Err(error) = seen {
                    *face = Err(error);
                }
            }
        }
    }
}

impl Face {
    /// Decode, detect, align.
    fn find(
        finder: &FaceFinder,
        file: &Path,
        points: Option<&Points>,
        detector: f64,
    ) -> anyhow::Result<Self> {
        let (photo, decode) = timed(|| {
            let bytes = std::fs::read(file).context("cannot read it")?;
            Ok(vision::decode::decode(&bytes, &vision::decode::Limits::default())?)
        })?;
        let (place, detect) = timed(|| finder.locate(&photo, points))?;
        let (crop, align) = timed(|| Ok(place.crop(&photo)?))?;
        let seconds = Seconds { detector, decode, detect, align, ..Seconds::default() };
        Ok(Self { crop, others: place.others(), features: Vec::new(), seconds })
    }

    /// What the network at this place makes of its views.
    fn see(&mut self, at: usize, network: &Network) -> anyhow::Result<()> {
        let (features, trunk) = timed(|| {
            let mut features = vec![0.0; VIEWS * network.trunk.output_len()];
            network.trunk.features(&vision::views::views(&self.crop), &mut features)?;
            Ok(features)
        })?;
        self.features.resize(self.features.len().max(at + 1), Vec::new());
        self.features[at] = features;
        self.seconds.trunk += trunk;
        Ok(())
    }

    /// Its encoding.
    fn probe(self, ensemble: &Ensemble<'_>, model: f64) -> anyhow::Result<Probe> {
        let encode = || ensemble.encode(&self.features, 1)?.pop().context("the networks gave no encoding");
        let (encoding, neck) = timed(encode)?;
        Ok(Probe {
            encoding,
            faces: (self.others > 0).then_some(self.others + 1),
            seconds: Seconds { model, neck, ..self.seconds },
        })
    }
}

//! Faces and their five points on a photograph, by an ONNX detector that the user brings.
//!
//! Which detector a file is, is read from its graph: see [`DetectorKind`]. [`Detector::detect`] looks at one scale,
//! [`Detector::find`] goes through scales until it finds a face: portraits fill the frame, and detectors miss
//! faces that are larger than those they were trained on.

mod file;
mod letterbox;
mod network;
mod retinaface;
mod runner;
mod scrfd;
mod suppress;
mod yunet;

use std::fmt;
use std::sync::Arc;

use ::rten::ThreadPool;

use crate::OpenVino;
use crate::align::{self, Points};
use crate::decode::Photo;
use crate::error::{Error, ErrorKind, Result};
use crate::trunk::Precision;
use file::DetectorFile;
use letterbox::Letterbox;
use network::Network;
use runner::Runner;
use runner::openvino::OpenVinoRunner;
use runner::separable::SeparableRunner;

pub use runner::openvino::OpenVinoOptions;

/// The detectors whose outputs are understood. All give five facial points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DetectorKind {
    /// YuNet of OpenCV's model zoo, 2023 and later (Wu et al., Machine Intelligence Research 2023): outputs `cls`,
    /// `obj`, `bbox` and `kps` at strides 8, 16 and 32.
    YuNet,
    /// SCRFD with key points (Guo et al., arXiv 2105.04714), the `_bnkps` / `_kps` files of insightface: nine outputs.
    Scrfd,
    /// RetinaFace (Deng et al., arXiv 1905.00641) as PyTorch implementations export it, with a MobileNet-0.25 or
    /// ResNet-50 backbone: outputs for boxes, classes and points over the priors of three strides.
    RetinaFace,
}

impl DetectorKind {
    /// The score from which a detection counts as a face unless [`Search::threshold`] says otherwise.
    pub fn threshold(self) -> f32 {
        match self {
            Self::YuNet => 0.6,
            Self::Scrfd => 0.5,
            Self::RetinaFace => 0.6,
        }
    }

    /// Of two boxes that overlap by more than this (intersection over union), the one with the lower score goes.
    fn overlap(self) -> f32 {
        match self {
            Self::YuNet => 0.3,
            Self::Scrfd | Self::RetinaFace => 0.4,
        }
    }
}

impl fmt::Display for DetectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::YuNet => "YuNet",
            Self::Scrfd => "SCRFD",
            Self::RetinaFace => "RetinaFace",
        })
    }
}

/// A face on a photograph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Left, top, right and bottom in pixels of the photograph; parts may lie outside it.
    pub bbox: [f32; 4],
    /// The five points in pixels of the photograph.
    pub points: Points,
    /// The detector's confidence, in 0..=1.
    pub score: f32,
}

/// Anchors that [`Detector::apart`] compares.
pub const COMPARED: usize = 100;

/// The largest distances between what two engines make of a photograph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apart {
    /// Of a box's side or a point's coordinate, in pixels of the detector's input.
    pub pixels: f32,
    /// Of a score.
    pub score: f32,
}

/// Where and how [`Detector::find`] looks for a face.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Lengths in pixels to which the photograph's longer side is brought, in the order in which they are tried.
    pub sides: Vec<usize>,
    /// Borders put round the photograph, as shares of its size; each is tried with every side before the next.
    pub paddings: Vec<f32>,
    /// The score from which a detection is a face; `None` for the detector's own
    /// ([`DetectorKind::threshold`]).
    pub threshold: Option<f32>,
    /// Whether a photograph with several faces is refused.
    pub strict: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { sides: vec![640, 320, 160, 1280], paddings: vec![0.0, 0.5], threshold: None, strict: false }
    }
}

/// What [`Detector::find`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The largest central face.
    pub face: Detection,
    /// How many other faces there were.
    pub others: usize,
    /// The side at which they were found, one of [`Search::sides`].
    pub side: usize,
    /// The padding at which they were found, one of [`Search::paddings`].
    pub padding: f32,
}

/// A face detector: an ONNX file, and the engine that runs it.
pub struct Detector {
    kind: DetectorKind,
    network: Network,
}

impl Detector {
    /// Loads a detector on rten, with as many threads as the current rayon pool has.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the bytes are not an ONNX network, [`ErrorKind::Detector`] if the network is not one of
    /// [`DetectorKind`] (the message says what was found), [`ErrorKind::Engine`] if the engine cannot run it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::with_threads(bytes, rayon::current_num_threads())
    }

    /// Loads a detector on rten, with `threads` threads (at least 1).
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn with_threads(bytes: &[u8], threads: usize) -> Result<Self> {
        let pool = Arc::new(ThreadPool::with_num_threads(threads.max(1)));
        let (kind, network) = Network::load(bytes, pool)?;
        Ok(Self { kind, network })
    }

    /// This detector on OpenVINO; `bytes` is the file that it was loaded from.
    ///
    /// What the file's outputs are and whether it takes any size stays as rten has shown it: a run that fails on free
    /// lengths can take OpenVINO down, and the program with it.
    ///
    /// # Errors
    /// [`ErrorKind::Detector`] if it is another file, [`ErrorKind::Engine`] if OpenVINO cannot load it.
    pub fn on_openvino(
        &self,
        library: &Arc<OpenVino>,
        bytes: &[u8],
        options: &OpenVinoOptions<'_>,
    ) -> Result<Self> {
        self.moved(bytes, |file| {
            Ok(Box::new(OpenVinoRunner::load(library, file, self.network.fixed, options)?))
        })
    }

    /// This detector on the engine of this crate for separable convolutions, as YuNet is; it is run by the threads of the
    /// current rayon pool. As [`on_openvino`](Self::on_openvino).
    ///
    /// # Errors
    /// As [`on_openvino`](Self::on_openvino), if it has other steps.
    pub fn on_separable(&self, bytes: &[u8]) -> Result<Self> {
        self.moved(bytes, |file| Ok(Box::new(SeparableRunner::load(file)?)))
    }

    /// This detector on ONNX Runtime, with `threads` threads (at least 1) where it runs on the processor; as
    /// [`on_openvino`](Self::on_openvino).
    ///
    /// # Errors
    /// As [`on_openvino`](Self::on_openvino).
    #[cfg(feature = "onnxruntime")]
    pub fn on_onnxruntime(&self, library: &crate::OnnxRuntime, bytes: &[u8], threads: usize) -> Result<Self> {
        let load = runner::onnxruntime::OnnxRuntimeRunner::load;
        self.moved(bytes, |file| Ok(Box::new(load(library, file, threads)?)))
    }

    /// Whether [`on_separable`](Self::on_separable) takes the steps of a file, without loading it.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if it does not; the node at which it differs is named.
    pub fn check_separable(bytes: &[u8]) -> Result<()> {
        SeparableRunner::load(bytes).map(|_| ())
    }

    fn moved(&self, bytes: &[u8], start: impl FnOnce(&[u8]) -> Result<Box<dyn Runner>>) -> Result<Self> {
        Ok(Self { kind: self.kind, network: self.network.moved(bytes, start)? })
    }

    /// Which detector a file says it is, by its graph, without loading it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), but for what only a run shows.
    pub fn kind_of(bytes: &[u8]) -> Result<DetectorKind> {
        DetectorFile::parse(bytes).map(|file| file.kind)
    }

    /// Which detector the file is.
    pub fn kind(&self) -> DetectorKind {
        self.kind
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> [u8; 32] {
        self.network.digest
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &'static str {
        self.network.runner.engine()
    }

    /// The numbers that it is computed in.
    pub fn precision(&self) -> Precision {
        self.network.runner.precision()
    }

    /// The width and height of the input, if the file fixes them. Then sides beyond them are not tried, and smaller
    /// ones stand in a corner of the input.
    pub fn fixed_input(&self) -> Option<[usize; 2]> {
        self.network.fixed
    }

    /// The faces at one scale, best first: the photograph's longer side is brought to `side` pixels, scores start at
    /// [`DetectorKind::threshold`].
    ///
    /// # Errors
    /// [`ErrorKind::Size`] if `side` is not in 32..=4096 or does not fit the detector's fixed input,
    /// [`ErrorKind::Engine`] if the network fails.
    pub fn detect(&self, photo: &Photo, side: usize) -> Result<Vec<Detection>> {
        self.detect_at(photo, side, 0.0, self.kind.threshold())
    }

    /// As [`detect`](Self::detect), with a black border of `padding` (0..=2) times the photograph's size on each side
    /// and scores from `threshold`. The bordered photograph's longer side is brought to `side`.
    ///
    /// # Errors
    /// As [`detect`](Self::detect); [`ErrorKind::Size`] for another padding too.
    pub fn detect_at(
        &self,
        photo: &Photo,
        side: usize,
        padding: f32,
        threshold: f32,
    ) -> Result<Vec<Detection>> {
        let letterbox = Letterbox::new([photo.width(), photo.height()], side, padding, self.network.fixed)?;
        let input = letterbox.input(photo, self.kind);
        let outputs = self.network.run(letterbox.canvas, &input)?;
        let mut faces = decode(self.kind, &outputs, letterbox.canvas, threshold);
        for face in &mut faces {
            letterbox.back(face);
        }
        Ok(faces)
    }

    /// How far it is from the same detector on another engine, at one scale: over the [`COMPARED`] anchors of which
    /// `reference` is the surest, faces or not.
    ///
    /// # Errors
    /// As [`detect_at`](Self::detect_at), of either.
    pub fn apart(&self, reference: &Self, photo: &Photo, side: usize) -> Result<Apart> {
        let letterbox = Letterbox::new([photo.width(), photo.height()], side, 0.0, self.network.fixed)?;
        let input = letterbox.input(photo, self.kind);
        let anchors = |detector: &Self| -> Result<Vec<Detection>> {
            let outputs = detector.network.run(letterbox.canvas, &input)?;
            Ok(candidates(self.kind, &outputs, letterbox.canvas, 0.0))
        };
        let (found, expected) = (anchors(self)?, anchors(reference)?);
        if found.len() != expected.len() {
            return Ok(Apart { pixels: f32::INFINITY, score: f32::INFINITY });
        }
        let mut pairs: Vec<_> = found.iter().zip(&expected).collect();
        pairs.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
        let mut apart = Apart { pixels: 0.0, score: 0.0 };
        for (found, expected) in pairs.into_iter().take(COMPARED) {
            let numbers = |face: &Detection| face.bbox.into_iter().chain(face.points.0.into_iter().flatten());
            let lengths = numbers(found).zip(numbers(expected)).map(|(a, b)| (a - b).abs());
            apart.pixels = lengths.fold(apart.pixels, f32::max);
            apart.score = apart.score.max((found.score - expected.score).abs());
        }
        Ok(apart)
    }

    /// Looks for the one face of a portrait, scale by scale, until there is one. Of several faces it takes the
    /// largest central one: area less twice the squared distance between the centres of box and photograph, as
    /// insightface's tools do.
    ///
    /// # Errors
    /// [`ErrorKind::NoFace`] if no scale shows a face, [`ErrorKind::SeveralFaces`] if there are several and
    /// [`Search::strict`] forbids it, and as [`detect_at`](Self::detect_at).
    pub fn find(&self, photo: &Photo, search: &Search) -> Result<Found> {
        let threshold = search.threshold.unwrap_or(self.kind.threshold());
        let fits = |&&side: &&usize| self.network.fixed.is_none_or(|fixed| side <= fixed[0].min(fixed[1]));
        let sides: Vec<usize> = search.sides.iter().filter(fits).copied().collect();
        for &padding in &search.paddings {
            for &side in &sides {
                let mut faces = self.detect_at(photo, side, padding, threshold)?;
                faces.retain(|face| align::similarity(&face.points).is_ok());
                let Some(&face) =
                    faces.iter().max_by(|a, b| prominence(photo, a).total_cmp(&prominence(photo, b)))
                else {
                    continue;
                };
                if search.strict && faces.len() > 1 {
                    return Err(Error::new(
                        ErrorKind::SeveralFaces,
                        format!(
                            "the photograph shows {} faces ({} at side {side}); cut it to the patient's face, give its five \
                             points, or allow several to take the largest central one",
                            faces.len(),
                            self.kind
                        ),
                    ));
                }
                return Ok(Found { face, others: faces.len() - 1, side, padding });
            }
        }
        Err(Error::new(
            ErrorKind::NoFace,
            format!(
                "{} finds no face with a score of {threshold} or more on the photograph of {} x {} pixels (sides tried: \
                 {sides:?}, borders: {:?}); use a sharper, more frontal photograph, cut it to the head, or give its five points",
                self.kind,
                photo.width(),
                photo.height(),
                search.paddings
            ),
        ))
    }
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector")
            .field("kind", &self.kind)
            .field("engine", &self.engine())
            .field("fixed_input", &self.network.fixed)
            .finish_non_exhaustive()
    }
}

fn prominence(photo: &Photo, face: &Detection) -> f32 {
    let [left, top, right, bottom] = face.bbox;
    let off = |low: f32, high: f32, size: u32| (low + high - size as f32) / 2.0;
    let (x, y) = (off(left, right, photo.width()), off(top, bottom, photo.height()));
    (right - left) * (bottom - top) - 2.0 * (x * x + y * y)
}

/// A network's outputs in the order of its kind, each with the numbers of one anchor side by side, as faces in pixels
/// of the input (`[width, height]`), best first. For the fuzz targets.
///
/// Rows that are missing, not finite or without extent are left out.
#[doc(hidden)]
pub fn decode(
    kind: DetectorKind,
    outputs: &[Vec<f32>],
    canvas: [usize; 2],
    threshold: f32,
) -> Vec<Detection> {
    suppress::suppress(candidates(kind, outputs, canvas, threshold), kind.overlap())
}

/// The anchors whose score reaches the threshold, in the order of the outputs.
fn candidates(
    kind: DetectorKind,
    outputs: &[Vec<f32>],
    canvas: [usize; 2],
    threshold: f32,
) -> Vec<Detection> {
    match kind {
        DetectorKind::YuNet => yunet::decode(outputs, canvas, threshold),
        DetectorKind::Scrfd => scrfd::decode(outputs, canvas, threshold),
        DetectorKind::RetinaFace => retinaface::decode(outputs, canvas, threshold),
    }
}

/// A face from its parts, if all numbers are finite and the box has an extent.
fn detection(bbox: [f32; 4], points: [[f32; 2]; 5], score: f32) -> Option<Detection> {
    let finite = bbox.iter().chain(points.as_flattened()).all(|v| v.is_finite());
    let area = (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]);
    let extent = bbox[2] > bbox[0] && bbox[3] > bbox[1] && area.is_finite();
    (finite && extent).then_some(Detection { bbox, points: Points(points), score })
}

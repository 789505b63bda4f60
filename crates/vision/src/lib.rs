//! From a photograph to trunk features.
//!
//! The way of a photograph: [`decode::decode`] (bytes to upright RGB pixels, metadata dropped),
//! [`detect::Detector`] (the face and its five points), [`align::align`] (five facial points to the 112 x 112 ArcFace template), [`views::views`] (the four
//! test-time views) or [`augment::augment`] (one training draw), and a [`Trunk`] (crops to features).
//! A trunk is any ONNX file that takes `[N, 3, 112, 112]`: [`onnx::TrunkFile`] checks and cuts it,
//! [`WinogradTrunk`] runs residual networks and [`RtenTrunk`] any, with what is compiled in, [`OpenVinoTrunk`] with OpenVINO's
//! library where there is one.
//!
//! Nothing here opens files, reads clocks or draws its own randomness: bytes and seeds are arguments, and
//! the same arguments give the same bits whatever the number of threads.

pub mod align;
pub mod augment;
mod colour;
mod crop;
pub mod decode;
pub mod detect;
mod engine;
mod error;
mod jpeg;
mod kernel;
pub mod onnx;
#[cfg(feature = "onnxruntime")]
mod onnxruntime_library;
#[cfg(feature = "onnxruntime")]
pub mod onnxruntime_trunk;
mod openvino_file;
mod openvino_library;
pub mod openvino_trunk;
mod patches;
mod resize;
pub mod rten_trunk;
mod spaces;
mod trunk;
pub mod views;
mod webp;
mod winograd;
pub mod winograd_trunk;

pub use align::Points;
pub use crop::{CROP_LEN, CROP_SIDE, Crop};
pub use decode::Photo;
pub use detect::{Detection, Detector, DetectorKind, Found, Search};
pub use error::{Error, ErrorKind, Result};
pub use onnx::{Cut, NeckWeights, TrunkFacts, TrunkFile};
#[cfg(feature = "onnxruntime")]
pub use onnxruntime_library::OnnxRuntime;
#[cfg(feature = "onnxruntime")]
pub use onnxruntime_trunk::OnnxRuntimeTrunk;
pub use openvino_library::OpenVino;
pub use openvino_trunk::OpenVinoTrunk;
pub use rten_trunk::RtenTrunk;
pub use trunk::{INPUT_LEN, Precision, Trunk, keeps_crops_apart, to_input};
pub use winograd_trunk::WinogradTrunk;

//! The crate against other implementations; the reference vectors are written by
//! `reference/vision_vectors.py`.
#![allow(clippy::unwrap_used)]

mod agreement;
mod align;
mod decode;
mod detect;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod openvino;
mod trunk;

#[cfg(not(feature = "onnxruntime"))]
mod onnxruntime {
    #[test]
    #[ignore = "give --features onnxruntime, and set FEDGESTALT_ONNXRUNTIME to its library"]
    fn trunks_and_detectors_run_on_it() {}
}

use serde::de::DeserializeOwned;
use vision::decode::{Limits, decode as decode_bytes};
use vision::{Crop, Photo};

fn data(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&data(name)).unwrap()
}

fn photo(name: &str) -> Photo {
    decode_bytes(&data(name), &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn crop(name: &str) -> Crop {
    Crop::from_photo(&photo(name)).unwrap()
}

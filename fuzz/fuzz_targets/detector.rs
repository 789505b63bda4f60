//! Bytes as a detector's ONNX file, up to the point where an engine would run it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = vision::Detector::kind_of(bytes);
    let _ = vision::Detector::check_separable(bytes);
});

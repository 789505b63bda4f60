//! Bytes as a photograph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::Crop;
use vision::decode::{Limits, decode};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { pixels: 1 << 20, ..Limits::default() };
    if let Ok(photo) = decode(bytes, &limits) {
        assert!(u64::from(photo.width()) * u64::from(photo.height()) <= limits.pixels);
        Crop::from_photo(&photo).expect("every photograph gives a crop");
    }
});

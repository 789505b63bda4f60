//! Bytes as a trunk's ONNX file, with every way to cut it; nothing is run.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::{Cut, TrunkFile, WinogradTrunk};

fuzz_target!(|bytes: &[u8]| {
    for cut in [Cut::Auto, Cut::End, Cut::Node("features".to_owned())] {
        if let Ok(file) = TrunkFile::parse(bytes, cut) {
            // What was cut is a network again.
            TrunkFile::parse(file.model(), Cut::End).expect("a cut network is a network");
            let _ = WinogradTrunk::new(&file);
        }
    }
});

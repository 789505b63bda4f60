//! ONNX Runtime against rten. The environment variable `FEDGESTALT_ONNXRUNTIME` names the library, or the folder it lies in;
//! `FEDGESTALT_NETWORKS` a folder with `r50.onnx` from `reference/iresnet.py`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use vision::{
    Cut, Detector, ErrorKind, OnnxRuntime, OnnxRuntimeTrunk, Precision, RtenTrunk, Trunk, TrunkFile,
    keeps_crops_apart,
};

use crate::openvino::{crops, least_cosine, named_library};
use crate::trunk::{features, parse};
use crate::{data, photo};

/// The library, which a process loads once.
fn library() -> &'static OnnxRuntime {
    static LIBRARY: OnceLock<OnnxRuntime> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        OnnxRuntime::load(&named_library("FEDGESTALT_ONNXRUNTIME", "libonnxruntime.so")).unwrap()
    })
}

fn assert_agrees(name: &str, bytes: &[u8], count: u64) {
    let crops = crops(count);
    let file = TrunkFile::parse(bytes, Cut::Auto).unwrap();
    let expected = features(&RtenTrunk::new(file.clone()).unwrap(), &crops);
    let trunk = OnnxRuntimeTrunk::new(library(), &file, 2, 4).unwrap();
    assert_eq!((trunk.engine(), trunk.precision()), ("onnxruntime", Precision::F32));
    assert_eq!((trunk.digest(), trunk.output_len()), (file.digest, expected.len() / crops.len()));
    let found = least_cosine(&features(&trunk, &crops), &expected, crops.len());
    println!("{name}: least cosine to rten {found:.7}");
    assert!(found >= 0.99999, "{name}: {found}");
    assert!(keeps_crops_apart(&trunk, 4).unwrap(), "{name}");
}

#[test]
#[cfg_attr(not(has_onnxruntime), ignore = "ONNX Runtime is not there: set FEDGESTALT_ONNXRUNTIME")]
fn it_agrees_with_rten_on_the_shipped_trunk_and_on_small_iresnets() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fedgestalt/assets/trunk.onnx");
    assert_agrees("shipped trunk", &std::fs::read(shipped).unwrap(), 12);
    for file in ["iresnet.onnx", "iresnet_unfolded.onnx", "mini_iresnet.onnx"] {
        assert_agrees(file, &data(file), 12);
    }
}

#[test]
#[cfg_attr(
    not(all(has_onnxruntime, has_networks)),
    ignore = "set FEDGESTALT_ONNXRUNTIME and FEDGESTALT_NETWORKS"
)]
fn it_agrees_with_rten_on_iresnet_50() {
    let folder = PathBuf::from(std::env::var_os("FEDGESTALT_NETWORKS").unwrap());
    assert_agrees("iResNet-50", &std::fs::read(folder.join("r50.onnx")).unwrap(), 6);
}

#[test]
#[cfg_attr(not(has_onnxruntime), ignore = "ONNX Runtime is not there: set FEDGESTALT_ONNXRUNTIME")]
fn a_crop_has_the_same_bits_beside_any_other_on_any_number_of_threads() {
    let crops = crops(19);
    let file = parse("iresnet.onnx", Cut::Auto);
    let bits = |threads, group| -> Vec<u32> {
        let trunk = OnnxRuntimeTrunk::new(library(), &file, threads, 8).unwrap();
        crops.chunks(group).flat_map(|crops| features(&trunk, crops)).map(f32::to_bits).collect()
    };
    let expected = bits(1, 19);
    for (threads, group) in [(1, 1), (1, 8), (2, 19), (3, 5)] {
        assert!(bits(threads, group) == expected, "{threads} threads, groups of {group}");
    }
}

#[test]
#[cfg_attr(not(has_onnxruntime), ignore = "ONNX Runtime is not there: set FEDGESTALT_ONNXRUNTIME")]
fn networks_that_cannot_run_are_refused() {
    for (file, expected) in
        [("bad_operator.onnx", "NoSuchOperator"), ("bad_length.onnx", "the file says 146")]
    {
        let error = OnnxRuntimeTrunk::new(library(), &parse(file, Cut::End), 1, 1).map(|_| file);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
        assert!(error.to_string().contains(expected), "{error}; expected: {expected}");
    }
    let log = OnnxRuntimeTrunk::new(library(), &parse("bad_log.onnx", Cut::End), 1, 4).unwrap();
    let error = log.features(&crops(1), &mut vec![0.0; log.output_len()]).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
    // A network for one crop at a time is not run on four.
    let one = parse("tiny_one.onnx", Cut::Auto);
    let error = OnnxRuntimeTrunk::new(library(), &one, 1, 4).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
    let trunk = OnnxRuntimeTrunk::new(library(), &one, 1, 1).unwrap();
    let expected = features(&RtenTrunk::new(one).unwrap(), &crops(5));
    assert!(least_cosine(&features(&trunk, &crops(5)), &expected, 5) > 0.999_999);
}

#[test]
#[cfg_attr(not(has_onnxruntime), ignore = "ONNX Runtime is not there: set FEDGESTALT_ONNXRUNTIME")]
fn every_kind_of_detector_sees_on_it_what_it_sees_on_rten_with_any_number_of_threads() {
    for file in ["yunet.onnx", "scrfd.onnx", "scrfd_640.onnx", "retinaface.onnx", "retinaface_200.onnx"] {
        let bytes = data(&format!("detectors/{file}"));
        let reference = Detector::parse(&bytes).unwrap();
        let on = |threads| reference.on_onnxruntime(library(), &bytes, threads).unwrap();
        let (one, three) = (on(1), on(3));
        assert_eq!((one.engine(), one.precision()), ("onnxruntime", Precision::F32));
        assert_eq!((one.kind(), one.fixed_input()), (reference.kind(), reference.fixed_input()), "{file}");
        let sides = if one.fixed_input() == Some([200, 200]) { [96, 200] } else { [160, 640] };
        for (name, side) in [("squares.png", sides[0]), ("squares.png", sides[1]), ("large.png", sides[0])] {
            let photo = photo(&format!("detectors/{name}"));
            let apart = one.apart(&reference, &photo, side).unwrap();
            assert!(apart.pixels < 0.01 && apart.score < 1e-4, "{file} {name} {side}: {apart:?}");
            let faces = one.detect(&photo, side).unwrap();
            assert_eq!(faces.len(), reference.detect(&photo, side).unwrap().len(), "{file} {name} {side}");
            assert_eq!(faces, three.detect(&photo, side).unwrap(), "{file} {name} {side}");
        }
        let other = reference.on_onnxruntime(library(), &data("detectors/bad_half.onnx"), 1);
        assert_eq!(other.map(|_| ()).unwrap_err().kind(), ErrorKind::Detector);
    }
}

//! OpenVINO against rten. The environment variable `FEDGESTALT_OPENVINO` names the library, or the folder it lies in;
//! `FEDGESTALT_NETWORKS` a folder with `r50.onnx` and `r100.onnx` from `reference/iresnet.py`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vision::augment::augment;
use vision::detect::OpenVinoOptions;
use vision::openvino_trunk::Options;
use vision::{
    Crop, Cut, Detector, ErrorKind, OpenVino, OpenVinoTrunk, Precision, RtenTrunk, Trunk, TrunkFile,
    keeps_crops_apart,
};

use crate::trunk::{features, parse};
use crate::{crop, data, photo};

/// The library that an environment variable names, or the one in the folder that it names.
pub(crate) fn named_library(variable: &str, name: &str) -> PathBuf {
    let named = PathBuf::from(std::env::var_os(variable).unwrap());
    if !named.is_dir() {
        return named;
    }
    let mut inside = std::fs::read_dir(&named).unwrap().map(|entry| entry.unwrap().path());
    inside
        .find(|path| path.file_name().unwrap().to_string_lossy().contains(name))
        .unwrap_or_else(|| panic!("{} has no {name}", named.display()))
}

fn library() -> Arc<OpenVino> {
    Arc::new(OpenVino::load(&named_library("FEDGESTALT_OPENVINO", "openvino_c.")).unwrap())
}

fn options(threads: usize, batch: usize, precision: Precision) -> Options<'static> {
    Options { streams: threads, threads, batch, precision, cache: None }
}

/// The smallest cosine between the features of the same crop.
pub(crate) fn least_cosine(a: &[f32], b: &[f32], crops: usize) -> f64 {
    let len = a.len() / crops;
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    a.chunks_exact(len)
        .zip(b.chunks_exact(len))
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt())
        .fold(f64::INFINITY, f64::min)
}

pub(crate) fn crops(count: u64) -> Vec<Crop> {
    let sources = [crop("crop.png"), crop("crop2.png")];
    (0..count).map(|seed| augment(&sources[seed as usize % 2], seed)).collect()
}

fn assert_agrees(name: &str, bytes: &[u8], count: u64) {
    let library = library();
    let crops = crops(count);
    let file = TrunkFile::parse(bytes, Cut::Auto).unwrap();
    let expected = features(&RtenTrunk::new(file.clone()).unwrap(), &crops);
    let mut precisions = vec![(Precision::F32, 0.99999)];
    if library.has_bf16() {
        precisions.push((Precision::Bf16, 0.999));
    }
    for (precision, least) in precisions {
        let trunk = OpenVinoTrunk::new(&library, &file, &options(2, 4, precision)).unwrap();
        assert_eq!((trunk.engine(), trunk.precision()), ("openvino", precision));
        assert_eq!((trunk.digest(), trunk.batch()), (file.digest, 4));
        let found = least_cosine(&features(&trunk, &crops), &expected, crops.len());
        println!("{name}, {precision}: least cosine to rten {found:.7}");
        assert!(found >= least, "{name}, {precision}: {found}");
        assert!(keeps_crops_apart(&trunk, 4).unwrap(), "{name}, {precision}");
    }
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn it_agrees_with_rten_on_the_shipped_trunk_and_on_small_iresnets() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fedgestalt/assets/trunk.onnx");
    assert_agrees("shipped trunk", &std::fs::read(shipped).unwrap(), 12);
    for file in ["iresnet.onnx", "iresnet_unfolded.onnx", "mini_iresnet.onnx"] {
        assert_agrees(file, &data(file), 12);
    }
}

#[test]
#[cfg_attr(not(all(has_openvino, has_networks)), ignore = "set FEDGESTALT_OPENVINO and FEDGESTALT_NETWORKS")]
fn it_agrees_with_rten_on_iresnet_50() {
    let folder = PathBuf::from(std::env::var_os("FEDGESTALT_NETWORKS").unwrap());
    assert_agrees("iResNet-50", &std::fs::read(folder.join("r50.onnx")).unwrap(), 6);
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn a_crop_has_the_same_bits_in_any_batch_beside_any_other_on_any_thread() {
    let library = library();
    let crops = crops(19);
    let file = parse("iresnet.onnx", Cut::Auto);
    for precision in [Precision::F32, Precision::Bf16] {
        let bits = |streams, threads, batch, group| -> Vec<u32> {
            let options = Options { streams, ..options(threads, batch, precision) };
            let trunk = OpenVinoTrunk::new(&library, &file, &options).unwrap();
            crops.chunks(group).flat_map(|crops| features(&trunk, crops)).map(f32::to_bits).collect()
        };
        let expected = bits(1, 1, 16, 19);
        for (streams, threads, group) in [(1, 1, 1), (2, 2, 19), (2, 2, 5), (3, 3, 16), (1, 2, 19), (1, 4, 5)]
        {
            assert!(
                bits(streams, threads, 16, group) == expected,
                "{precision}, {threads} threads in {streams} streams, groups of {group}"
            );
        }
        // Shapes are compiled separately and may round differently; nothing is promised across them but closeness.
        let alone: Vec<f32> = bits(1, 1, 1, 19).into_iter().map(f32::from_bits).collect();
        let expected: Vec<f32> = expected.into_iter().map(f32::from_bits).collect();
        assert!(least_cosine(&alone, &expected, crops.len()) > 0.999_99);
    }
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn networks_that_cannot_run_are_refused_and_fixed_batches_are_run_crop_by_crop() {
    let library = library();
    for (file, expected) in
        [("bad_operator.onnx", "NoSuchOperator"), ("bad_length.onnx", "the file says 146")]
    {
        let error = OpenVinoTrunk::new(&library, &parse(file, Cut::End), &options(1, 1, Precision::F32))
            .map(|_| file);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
        assert!(error.to_string().contains(expected), "{error}; expected: {expected}");
    }
    let log = OpenVinoTrunk::new(&library, &parse("bad_log.onnx", Cut::End), &options(1, 4, Precision::F32));
    let log = log.unwrap();
    let error = log.features(&[crop("crop.png")], &mut vec![0.0; log.output_len()]).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
    let one = parse("tiny_one.onnx", Cut::Auto);
    let trunk = OpenVinoTrunk::new(&library, &one, &options(2, 8, Precision::F32)).unwrap();
    let expected = features(&RtenTrunk::new(one).unwrap(), &crops(9));
    assert!(least_cosine(&features(&trunk, &crops(9)), &expected, 9) > 0.999_999);
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn every_kind_of_detector_sees_on_it_what_it_sees_on_rten_with_any_number_of_threads() {
    let library = library();
    for file in ["yunet.onnx", "scrfd.onnx", "scrfd_640.onnx", "retinaface.onnx", "retinaface_200.onnx"] {
        let bytes = data(&format!("detectors/{file}"));
        let reference = Detector::parse(&bytes).unwrap();
        let on = |photos, threads| {
            let options = OpenVinoOptions { photos, threads, precision: Precision::F32, cache: None };
            reference.on_openvino(&library, &bytes, &options).unwrap()
        };
        let (one, two) = (on(1, 1), on(2, 3));
        assert_eq!((one.engine(), one.precision()), ("openvino", Precision::F32));
        assert_eq!((one.kind(), one.fixed_input()), (reference.kind(), reference.fixed_input()), "{file}");
        let sides = if one.fixed_input() == Some([200, 200]) { [96, 200] } else { [160, 640] };
        for (name, side) in [("squares.png", sides[0]), ("squares.png", sides[1]), ("large.png", sides[0])] {
            let photo = photo(&format!("detectors/{name}"));
            let apart = one.apart(&reference, &photo, side).unwrap();
            assert!(apart.pixels < 0.01 && apart.score < 1e-4, "{file} {name} {side}: {apart:?}");
            let faces = one.detect(&photo, side).unwrap();
            assert_eq!(faces.len(), reference.detect(&photo, side).unwrap().len(), "{file} {name} {side}");
            assert_eq!(faces, two.detect(&photo, side).unwrap(), "{file} {name} {side}");
        }
        let options = OpenVinoOptions { photos: 1, threads: 1, precision: Precision::F32, cache: None };
        let other = reference.on_openvino(&library, &data("detectors/bad_half.onnx"), &options);
        assert_eq!(other.map(|_| ()).unwrap_err().kind(), ErrorKind::Detector);
    }
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn a_network_compiled_from_a_file_gives_the_same_bits_cold_and_from_the_cache() {
    let library = library();
    let crops = crops(7);
    let file = parse("iresnet.onnx", Cut::Auto);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.onnx");
    std::fs::write(&path, file.with_batch(2).unwrap()).unwrap();
    let plain = options(2, 2, Precision::F32);
    let expected = features(&OpenVinoTrunk::new(&library, &file, &plain).unwrap(), &crops);
    let cached = Options { cache: Some(folder.path()), ..plain };
    for _ in 0..2 {
        let trunk = OpenVinoTrunk::from_file(&library, &path, &file.facts(), &cached).unwrap();
        assert_eq!((trunk.batch(), trunk.streams(), trunk.output_len()), (2, 2, file.output_len.unwrap()));
        assert!(features(&trunk, &crops) == expected);
    }
    let blobs = std::fs::read_dir(folder.path()).unwrap();
    assert!(blobs.flatten().any(|entry| entry.path().extension().is_some_and(|end| end == "blob")));

    let refused = |path: &Path, options: &Options<'_>| {
        let trunk = OpenVinoTrunk::from_file(&library, path, &file.facts(), options);
        trunk.map(|_| ()).expect_err("it cannot be used").to_string()
    };
    assert!(refused(&folder.path().join("none.onnx"), &cached).contains("OpenVINO cannot compile"));
    let damaged = folder.path().join("damaged.onnx");
    std::fs::write(&damaged, &file.with_batch(2).unwrap()[..4000]).unwrap();
    assert!(refused(&damaged, &cached).contains("OpenVINO cannot"));
    // The file is one for two crops at a time.
    assert!(refused(&path, &Options { batch: 4, ..cached }).contains("the file says"));
}

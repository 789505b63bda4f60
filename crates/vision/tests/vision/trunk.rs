use proptest::prelude::*;
use serde::Deserialize;
use vision::{Crop, Cut, ErrorKind, NeckWeights, RtenTrunk, Trunk, TrunkFile, WinogradTrunk};

use crate::{crop, data, json};

#[derive(Deserialize)]
struct Network {
    file: String,
    cut: Option<String>,
    neck: bool,
    crops: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    crop: String,
    features: Vec<f32>,
    output: Vec<f32>,
}

pub(crate) fn parse(file: &str, cut: Cut) -> TrunkFile {
    TrunkFile::parse(&data(file), cut).unwrap_or_else(|e| panic!("{file}: {e}"))
}

pub(crate) fn features(trunk: &dyn Trunk, crops: &[Crop]) -> Vec<f32> {
    let mut out = vec![f32::NAN; crops.len() * trunk.output_len()];
    trunk.features(crops, &mut out).unwrap();
    out
}

fn represent(neck: &NeckWeights, features: &[f32]) -> Vec<f32> {
    let row = |o: usize| {
        let row = &neck.weight[o * neck.input..(o + 1) * neck.input];
        let dense: f64 = row.iter().zip(features).map(|(&w, &x)| f64::from(w * x)).sum();
        let centred = dense + f64::from(neck.bias[o] - neck.bn_mean[o]);
        let scale = f64::from(neck.bn_weight[o]) / f64::from(neck.bn_var[o] + neck.bn_eps).sqrt();
        (centred * scale + f64::from(neck.bn_bias[o])) as f32
    };
    (0..neck.output).map(row).collect()
}

/// Both engines work in f32 and differ in the order of their sums.
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * largest.max(1.0), "{what}[{i}]: {f}, expected {e}");
    }
}

#[test]
fn trunk_and_neck_agree_with_onnx_runtime() {
    let networks = json::<Vec<Network>>("networks.json");
    for network in networks.into_iter().chain(json::<Vec<Network>>("iresnet.json")) {
        let file = parse(&network.file, Cut::Auto);
        assert_eq!(file.neck.is_some(), network.neck, "{}", network.file);
        if let Some(cut) = &network.cut {
            assert_eq!(&file.cut, cut, "{}", network.file);
        }
        let neck = file.neck.clone();
        let trunk = RtenTrunk::new(file).unwrap();
        let whole = RtenTrunk::new(parse(&network.file, Cut::End)).unwrap();
        for expected in &network.crops {
            let what = format!("{} {}", network.file, expected.crop);
            let crop = [crop(&expected.crop)];
            let found = features(&trunk, &crop);
            assert_close(&what, &found, &expected.features);
            assert_close(&what, &features(&whole, &crop), &expected.output);
            if let Some(neck) = &neck {
                assert_eq!(neck.input, trunk.output_len());
                assert_close(&what, &represent(neck, &found), &expected.output);
            }
        }
    }
}

#[test]
fn the_same_bits_whatever_the_threads_and_the_grouping() {
    let crops: Vec<Crop> = (0..16u64).map(|seed| vision::augment::augment(&crop("crop.png"), seed)).collect();
    for cut in [Cut::Auto, Cut::End] {
        let one = RtenTrunk::with_threads(parse("mini_iresnet.onnx", cut.clone()), 1).unwrap();
        let two = RtenTrunk::with_threads(parse("mini_iresnet.onnx", cut), 2).unwrap();
        assert_eq!((one.threads(), two.threads()), (1, 2));
        let expected: Vec<u32> = features(&one, &crops).iter().map(|v| v.to_bits()).collect();
        for trunk in [&one, &two] {
            for group in [1, 7, 16] {
                let found: Vec<u32> =
                    crops.chunks(group).flat_map(|crops| features(trunk, crops)).map(f32::to_bits).collect();
                assert_eq!(found, expected, "{} threads, groups of {group}", trunk.threads());
            }
        }
    }
}

#[test]
fn residual_networks_agree_with_onnx_runtime_without_an_engine_from_elsewhere() {
    // Folded BatchNorms and unfolded ones.
    for network in json::<Vec<Network>>("iresnet.json") {
        let trunk = WinogradTrunk::new(&parse(&network.file, Cut::Auto)).unwrap();
        assert_eq!(trunk.engine(), "winograd");
        for expected in &network.crops {
            let found = features(&trunk, &[crop(&expected.crop)]);
            assert_close(&format!("{} {}", network.file, expected.crop), &found, &expected.features);
        }
    }
    let rten = RtenTrunk::new(parse("mini_iresnet.onnx", Cut::Auto)).unwrap();
    let trunk = WinogradTrunk::new(&parse("mini_iresnet.onnx", Cut::Auto)).unwrap();
    let crops = [crop("crop.png"), crop("crop2.png")];
    assert_eq!(trunk.digest(), rten.digest());
    assert_close("mini_iresnet.onnx", &features(&trunk, &crops), &features(&rten, &crops));
}

#[test]
fn minimal_filtering_gives_the_same_bits_whatever_the_threads_and_the_grouping() {
    // More than are computed together.
    let crops: Vec<Crop> = (0..70u64).map(|seed| vision::augment::augment(&crop("crop.png"), seed)).collect();
    let trunk = WinogradTrunk::new(&parse("iresnet.onnx", Cut::Auto)).unwrap();
    let expected: Vec<u32> = crops
        .iter()
        .flat_map(|crop| features(&trunk, std::slice::from_ref(crop)))
        .map(f32::to_bits)
        .collect();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for group in [3, 70] {
            let found: Vec<u32> = pool.install(|| {
                crops.chunks(group).flat_map(|crops| features(&trunk, crops)).map(f32::to_bits).collect()
            });
            assert!(found == expected, "{threads} threads, groups of {group}");
        }
    }
    assert!(vision::keeps_crops_apart(&trunk, 16).unwrap());
}

#[test]
fn networks_of_another_kind_are_left_to_other_engines_and_the_node_is_named() {
    for (file, cut, why) in [
        ("tiny.onnx", Cut::Auto, "(AveragePool)"),
        ("iresnet.onnx", Cut::End, "(Gemm): there is no such step here"),
    ] {
        let error = WinogradTrunk::new(&parse(file, cut)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine);
        assert!(
            error.to_string().contains(why) && error.to_string().contains("use the engine rten"),
            "{error}"
        );
    }
}

#[test]
fn loading_uses_the_threads_of_the_current_pool() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let trunk = pool.install(|| RtenTrunk::new(parse("tiny.onnx", Cut::Auto)).unwrap());
    assert_eq!(trunk.threads(), 3);
    assert_eq!(trunk.engine(), "rten");
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let trunk = RtenTrunk::new(parse("tiny.onnx", Cut::Auto)).unwrap();
    let error = trunk.features(&[crop("crop.png")], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Size);
    trunk.features(&[], &mut []).unwrap();
}

#[test]
fn any_value_or_node_can_be_the_cut() {
    let by_value = parse("tiny.onnx", Cut::Node("pooled".into()));
    let by_node = parse("tiny.onnx", Cut::Node("pool".into()));
    assert_eq!((by_value.cut.as_str(), by_value.output_len), ("pooled", None));
    assert_eq!(by_value.digest, by_node.digest);
    assert!(by_value.neck.is_none());
    // [1, 3, 7, 7], laid flat: what Flatten makes of it.
    let crops = [crop("crop.png"), crop("crop2.png")];
    let pooled = features(&RtenTrunk::new(by_value).unwrap(), &crops);
    let flat = features(&RtenTrunk::new(parse("tiny.onnx", Cut::Auto)).unwrap(), &crops);
    assert_eq!(pooled, flat);
    // Two outputs need not be told apart if the cut is named.
    parse("bad_outputs.onnx", Cut::Node("features".into()));

    let error = TrunkFile::parse(&data("tiny.onnx"), Cut::Node("pol".into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cut);
    assert!(error.to_string().contains("`normed` (BatchNormalization), `dense` (Gemm)"), "{error}");
    let error = TrunkFile::parse(&data("tiny_nodes.onnx"), Cut::Node("weight".into())).unwrap_err();
    assert!(error.to_string().contains("does not depend on the input"), "{error}");
}

#[test]
fn the_digest_tells_files_and_cuts_apart() {
    let digests = [
        parse("tiny.onnx", Cut::Auto).digest,
        parse("tiny.onnx", Cut::End).digest,
        parse("tiny_floats.onnx", Cut::Auto).digest,
    ];
    assert!(digests[0] != digests[1] && digests[0] != digests[2]);
    assert_eq!(digests[0], parse("tiny.onnx", Cut::Node("features".into())).digest);
    // Pinned: releases name trunks by it.
    let hex: String = digests[0].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "397e9540938042cb45ffc570b487919c2b1ffc018f9c249f6d4953d91b4cacf8");
}

#[test]
fn what_the_cut_leaves_without_use_is_dropped() {
    let whole = data("mini_iresnet.onnx").len();
    let file = parse("mini_iresnet.onnx", Cut::Auto);
    let neck = file.neck.as_ref().unwrap();
    assert!(file.model().len() + neck.weight.len() * 4 < whole);
    // The neck is gone from the network, so it can no longer be found there.
    let again = TrunkFile::parse(file.model(), Cut::Auto).unwrap();
    assert!(again.neck.is_none());
}

#[test]
fn files_that_are_no_trunk_are_refused_with_the_reason() {
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec();
    let cases: [(Vec<u8>, ErrorKind, &str); 16] = [
        (vec![], ErrorKind::Model, "found an empty file"),
        (b"not a network\n".to_vec(), ErrorKind::Model, "found a text file"),
        (lfs, ErrorKind::Model, "git lfs pull"),
        (b"PK\x03\x04....".to_vec(), ErrorKind::Model, "PyTorch checkpoint"),
        (data("crop.png"), ErrorKind::Model, "not an ONNX network"),
        (data("bad_last_channels.onnx"), ErrorKind::Model, "image [N, 112, 112, 3]: the channels come last"),
        (
            data("bad_size.onnx"),
            ErrorKind::Model,
            "takes [N, 3, 112, 112] of float32, this network takes image [N, 3, 224, 224]",
        ),
        (data("bad_half.onnx"), ErrorKind::Model, "not float32"),
        (data("bad_batch.onnx"), ErrorKind::Model, "[8, 3, 112, 112]: the batch size is fixed"),
        (data("bad_inputs.onnx"), ErrorKind::Model, "this network has 2: image [N, 3, 112, 112]; age [N, 1]"),
        (data("bad_outputs.onnx"), ErrorKind::Cut, "2 outputs"),
        (data("bad_output.onnx"), ErrorKind::Cut, "gives float32 features, the output normed"),
        (data("bad_external.onnx"), ErrorKind::Model, "`weight` lie in another file"),
        (data("bad_nan.onnx"), ErrorKind::Model, "not finite"),
        (
            data("bad_short.onnx"),
            ErrorKind::Model,
            "`weight` cannot be used: it has 733 numbers, its sizes are [5, 147]",
        ),
        (data("bad_cycle.onnx"), ErrorKind::Cut, "does not depend on the input"),
    ];
    for (bytes, kind, expected) in cases {
        let error = TrunkFile::parse(&bytes, Cut::Auto).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}; expected: {expected}");
    }
}

#[test]
fn networks_that_cannot_run_are_refused_when_they_are_loaded() {
    let cases = [
        ("bad_log.onnx", "not finite"),
        ("bad_operator.onnx", "NoSuchOperator"),
        ("bad_length.onnx", "gives 147 numbers per crop at `features`, the file says 146"),
    ];
    for (file, expected) in cases {
        let error = RtenTrunk::new(parse(file, Cut::End)).map(|_| file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
        assert!(error.to_string().contains(expected), "{error}; expected: {expected}");
    }
}

#[test]
fn a_network_cut_short_is_refused_wherever_it_is_cut() {
    let whole = data("tiny.onnx");
    for length in 0..whole.len() {
        let error = TrunkFile::parse(&whole[..length], Cut::Auto).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model, "{length}: {error}");
    }
}

#[test]
#[cfg_attr(not(has_material), ignore = "set FEDGESTALT_MATERIAL")]
fn edgeface_agrees_with_onnx_runtime() {
    let material = std::env::var_os("FEDGESTALT_MATERIAL").unwrap();
    let path = std::path::Path::new(&material).join("models/edgeface_xxs.onnx");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    #[derive(Deserialize)]
    struct Start {
        crop: String,
        start: Vec<f32>,
    }
    // Its last layer widens 168 values to 512 and has no BatchNormalization: it is used as a whole.
    let file = TrunkFile::parse(&bytes, Cut::Auto).unwrap();
    assert!(file.neck.is_none());
    let trunk = RtenTrunk::new(file).unwrap();
    for expected in json::<Vec<Start>>("edgeface.json") {
        let found = features(&trunk, &[crop(&expected.crop)]);
        assert_eq!(found.len(), 512);
        for (f, e) in found.iter().zip(&expected.start) {
            // Twenty layers of attention in f32: engines differ in the fifth digit.
            assert!((f - e).abs() < 1e-4, "{}: {f}, expected {e}", expected.crop);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_networks_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        (from, to, length) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0usize..64),
    ) {
        let mut bytes = data("tiny.onnx");
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let length = length.min(bytes.len() - from.max(to));
        bytes.copy_within(from..from + length, to);
        for cut in [Cut::Auto, Cut::End, Cut::Node("pooled".into())] {
            let _ = TrunkFile::parse(&bytes, cut);
        }
    }
}

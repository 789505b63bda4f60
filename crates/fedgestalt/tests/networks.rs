//! Networks in the program: which engine runs them, how often, and what their tables are.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use domain::ImageId;
use fedgestalt::config::Config;
use fedgestalt::pipeline::engines::{CalibrationFaces, Engines};
use fedgestalt::pipeline::ensemble::{Blueprint, Network};
use fedgestalt::pipeline::features::{Crops, Table, Variants, table, view_features};
use learn::FeatureSource;
use serde_json::{Value, json};
use vision::views::{VIEWS, views};
use vision::{CROP_LEN, Crop, Precision, Trunk};

fn network(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vision/tests/data").join(name)
}

/// A configuration with this `[trunk]` and these members' files.
fn config(trunk: &str, members: &[(&str, &str)]) -> Config {
    let members: String = members
        .iter()
        .enumerate()
        .map(|(at, (kind, file))| {
            let file = network(file);
            format!("[[members]]\nname = \"m{at}\"\nkind = \"{kind}\"\ntrunk = \"{}\"\n", file.display())
        })
        .collect();
    Config::parse(&format!("[trunk]\ncache = \"{}\"\n{trunk}\n{members}", cache().display())).unwrap()
}

/// A folder for compiled networks that lasts as long as the tests.
fn cache() -> &'static Path {
    static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// Pictures that differ from image to image.
struct Patterns;

impl Crops for Patterns {
    fn crop(&self, image: &ImageId) -> Result<Crop> {
        let seed: usize = image.as_str().parse()?;
        let rgb: Vec<u8> =
            (0..CROP_LEN).map(|i| ((i / 3 % 112 * (seed + 3) + i / 700) % 256) as u8).collect();
        Ok(Crop::from_rgb(rgb)?)
    }
}

fn images(count: usize) -> Vec<ImageId> {
    (0..count).map(|i| ImageId::new(&i.to_string()).unwrap()).collect()
}

/// Counts the crops that go through a trunk.
struct Counting {
    inner: Box<dyn Trunk>,
    crops: Arc<AtomicUsize>,
}

impl Trunk for Counting {
    fn output_len(&self) -> usize {
        self.inner.output_len()
    }

    fn digest(&self) -> [u8; 32] {
        self.inner.digest()
    }

    fn features(&self, crops: &[Crop], out: &mut [f32]) -> vision::Result<()> {
        self.crops.fetch_add(crops.len(), Ordering::Relaxed);
        self.inner.features(crops, out)
    }

    fn engine(&self) -> &str {
        self.inner.engine()
    }

    fn precision(&self) -> Precision {
        self.inner.precision()
    }
}

fn view_table(folder: &Path, trunk: &dyn Trunk, images: &[ImageId]) -> Table {
    table(folder, trunk, images, &Patterns, Variants::Views, &|_| {}).unwrap()
}

#[test]
fn members_on_one_network_compute_it_once() {
    let config = config(
        "engine = \"rten\"",
        &[("tuned", "mini_iresnet.onnx"), ("tuned", "iresnet.onnx"), ("published", "iresnet.onnx")],
    );
    let mut blueprint = Blueprint::load(&config, None, &Engines::new(&config, None)).unwrap();
    assert_eq!(blueprint.networks.len(), 2);
    let counts: Vec<Arc<AtomicUsize>> = (0..2).map(|_| Arc::default()).collect();
    for (network, count) in blueprint.networks.iter_mut().zip(&counts) {
        let network = Arc::get_mut(network).unwrap();
        let inner = std::mem::replace(&mut network.trunk, Box::new(Nothing));
        network.trunk = Box::new(Counting { inner, crops: count.clone() });
    }
    let folder = tempfile::tempdir().unwrap();
    let images = images(5);
    let features: Vec<Vec<f32>> = blueprint
        .networks
        .iter()
        .map(|network| {
            let table = view_table(folder.path(), network.trunk.as_ref(), &images);
            (0..images.len()).flat_map(|row| view_features(&table, row)).collect()
        })
        .collect();
    let encodings = blueprint.with(None).unwrap().encode(&features, images.len()).unwrap();
    assert_eq!((encodings.len(), encodings[0].as_slice().len()), (5, 3 * VIEWS * 8));
    for count in &counts {
        assert_eq!(count.load(Ordering::Relaxed), 5 * VIEWS);
    }
    // A second model on the same networks reads the tables and computes nothing.
    for network in &blueprint.networks {
        view_table(folder.path(), network.trunk.as_ref(), &images);
    }
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 5 * VIEWS));
}

/// Stands in while a trunk is taken out.
struct Nothing;

impl Trunk for Nothing {
    fn output_len(&self) -> usize {
        1
    }

    fn digest(&self) -> [u8; 32] {
        [0; 32]
    }

    fn features(&self, _: &[Crop], out: &mut [f32]) -> vision::Result<()> {
        out.fill(0.0);
        Ok(())
    }

    fn engine(&self) -> &str {
        "nothing"
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

#[test]
fn a_table_holds_each_images_views_in_order_and_grows_where_it_stopped() {
    let config = config("engine = \"rten\"", &[("tuned", "iresnet.onnx")]);
    let blueprint = Blueprint::load(&config, None, &Engines::new(&config, None)).unwrap();
    let trunk = blueprint.networks[0].trunk.as_ref();
    // More than two chunks, the last one unfinished.
    let images = images(75);
    let folder = tempfile::tempdir().unwrap();
    let table = view_table(folder.path(), trunk, &images);
    let dim = trunk.output_len();
    for at in [0, 31, 32, 63, 64, 74] {
        let views = views(&Patterns.crop(&images[at]).unwrap());
        let mut expected = vec![0.0; VIEWS * dim];
        trunk.features(&views, &mut expected).unwrap();
        let found = view_features(&table, at);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= expected.abs() / 1024.0 + 1e-6, "{at}: {found}, {expected}");
        }
    }
    // An image that cannot be read stops the table and is named; what was whole before it stays.
    let mut broken = images.clone();
    broken[70] = ImageId::new("x").unwrap();
    let other = tempfile::tempdir().unwrap();
    let failed = super_table(other.path(), trunk, &broken);
    assert!(format!("{:#}", failed.unwrap_err()).contains("image x"));
    let partial = std::fs::read_dir(other.path()).unwrap().next().unwrap().unwrap().path();
    assert!(partial.to_string_lossy().ends_with(".partial"));
    assert!(std::fs::metadata(partial).unwrap().len() as usize >= 64 * VIEWS * dim * 2);
}

fn super_table(folder: &Path, trunk: &dyn Trunk, images: &[ImageId]) -> Result<()> {
    table(folder, trunk, images, &Patterns, Variants::Views, &|_| {}).map(|_| ())
}

#[test]
fn engines_that_are_not_there_are_refused_by_name() {
    let load = |trunk: &str| {
        let config = config(trunk, &[("tuned", "iresnet.onnx")]);
        Blueprint::load(&config, None, &Engines::new(&config, None)).map(|_| ())
    };
    let error = format!("{:#}", load("engine = \"openvino\"\nopenvino = \"/nowhere\"").unwrap_err());
    assert!(error.contains("iresnet.onnx") && error.contains("/nowhere"), "{error}");
    if cfg!(not(feature = "onnxruntime")) {
        let error = format!("{:#}", load("engine = \"onnxruntime\"").unwrap_err());
        assert!(error.contains("--features onnxruntime"), "{error}");
    }
}

#[test]
fn the_shipped_network_runs_on_rten_unless_another_engine_is_named() {
    let config = Config::parse(&format!("[trunk]\ncache = \"{}\"", cache().display())).unwrap();
    let blueprint = Blueprint::load(&config, None, &Engines::new(&config, None)).unwrap();
    assert_eq!(blueprint.networks.len(), 1);
    assert_eq!(blueprint.networks[0].runs.kind(), "rten f32");
    assert!(blueprint.remarks().is_empty());
}

#[test]
fn residual_networks_need_no_engine_from_elsewhere_and_others_go_to_rten() {
    let load = |trunk: &str, file: &str, faces| {
        let config = config(trunk, &[("tuned", file)]);
        Blueprint::load(&config, None, &Engines::new(&config, faces))
    };
    let images = images(20);
    let faces = || Some(CalibrationFaces { crops: &Patterns, images: images.clone() });
    for trunk in ["precision = \"f32\"", "engine = \"winograd\""] {
        let blueprint = load(trunk, "iresnet.onnx", faces()).unwrap();
        let network = &blueprint.networks[0];
        assert_eq!(network.runs.kind(), "winograd f32");
        let agreement = network.runs.agreement.clone().unwrap();
        assert!(agreement.own && agreement.crops_apart && agreement.cosine >= 0.999_99, "{agreement:?}");
        let said = blueprint.remarks().join("\n");
        assert!(said.contains("iresnet.onnx runs on winograd in f32, least cosine to f32 1.0000"), "{said}");
    }
    // A pooling layer.
    let blueprint = load("openvino = \"\"", "tiny.onnx", faces()).unwrap();
    assert_ne!(blueprint.networks[0].runs.engine, "winograd");
    let error = format!("{:#}", load("engine = \"winograd\"", "tiny.onnx", None).map(|_| ()).unwrap_err());
    assert!(error.contains("tiny.onnx") && error.contains("(AveragePool)"), "{error}");
}

#[test]
fn every_network_is_told_of_once_it_can_run() {
    let config =
        config("engine = \"rten\"", &[("tuned", "mini_iresnet.onnx"), ("published", "iresnet.onnx")]);
    let told = Mutex::new(Vec::new());
    let loaded = |at: usize, network: &Arc<Network>| told.lock().unwrap().push((at, network.name()));
    let engines = Engines::new(&config, None).for_photographs(1);
    let blueprint = Blueprint::load_telling(&config, None, &engines, &loaded).unwrap();
    let mut told = told.into_inner().unwrap();
    told.sort();
    let names: Vec<_> = blueprint.networks.iter().map(|network| network.name()).enumerate().collect();
    assert_eq!(told, names);
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn few_photographs_are_seen_by_the_engine_that_answers_first() {
    let cache = tempfile::tempdir().unwrap();
    let file = network("iresnet.onnx");
    let text = format!(
        "[trunk]\ncache = \"{}\"\n[[members]]\nname = \"m\"\nkind = \"published\"\ntrunk = \"{}\"\n",
        cache.path().display(),
        file.display()
    );
    let config = Config::parse(&text).unwrap();
    let engine = |photographs: usize| {
        let engines = Engines::new(&config, None).for_photographs(photographs);
        Blueprint::load(&config, None, &engines).unwrap().networks[0].runs.engine.clone()
    };
    engine(1);
    // The first load has measured both. A start that takes a second pays off after ten photographs.
    let records = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let is_speeds = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "json")
            && read(path)["agreement"]["compiled_in"]["first"].as_f64().is_some_and(|seconds| seconds > 0.0)
    };
    let record = records.into_iter().find(is_speeds).unwrap();
    let mut measured = read(&record);
    assert!(measured["agreement"]["openvino"]["first"].as_f64().unwrap() > 0.0);
    measured["agreement"] = json!({
        "compiled_in": { "first": 0.2, "next": 0.2 },
        "openvino": { "first": 1.1, "next": 0.1 },
    });
    std::fs::write(&record, measured.to_string()).unwrap();
    assert_eq!([1, 9, 11, 100].map(engine), ["winograd", "winograd", "openvino", "openvino"]);
}

#[test]
#[cfg_attr(not(has_openvino), ignore = "OpenVINO is not there: set FEDGESTALT_OPENVINO to its folder")]
fn openvino_runs_in_the_precision_that_agrees_and_says_so() {
    let load = |trunk: &str, faces| {
        let config = config(trunk, &[("tuned", "iresnet.onnx")]);
        Blueprint::load(&config, None, &Engines::new(&config, faces)).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let images = images(40);
    let (mut tables, mut in_bf16) = (BTreeMap::new(), false);
    for precision in ["f32", "auto"] {
        let faces = CalibrationFaces { crops: &Patterns, images: images.clone() };
        let blueprint = load(&format!("engine = \"openvino\"\nprecision = \"{precision}\""), Some(faces));
        let network = &blueprint.networks[0];
        assert_eq!(network.runs.engine, "openvino");
        let agreement = network.runs.agreement.clone().unwrap();
        // Sixteen of forty at most, every third one.
        assert!(agreement.own && agreement.crops_apart && agreement.faces == 14, "{agreement:?}");
        if precision == "f32" {
            assert_eq!(network.runs.precision, "f32");
        }
        in_bf16 |= network.runs.precision == "bf16";
        assert!(agreement.cosine >= if precision == "f32" { 0.999_99 } else { 0.999 }, "{agreement:?}");
        let said = blueprint.remarks().join("\n");
        assert!(said.contains("iresnet.onnx runs on openvino 20"), "{said}");
        let table = view_table(folder.path(), network.trunk.as_ref(), &images);
        tables.insert(*table.header().trunk(), table.rows());
    }
    // bf16 (where the processor has it), f32 and rten are tables of their own of one trunk.
    let rten = load("engine = \"rten\"", None);
    let table = view_table(folder.path(), rten.networks[0].trunk.as_ref(), &images);
    assert_eq!(*table.header().trunk(), rten.networks[0].trunk.digest());
    tables.insert(*table.header().trunk(), table.rows());
    assert_eq!(tables.len(), if in_bf16 { 3 } else { 2 });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), tables.len());
    // What was measured is remembered.
    let kept = std::fs::read_dir(cache())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("agreement-"));
    assert!(kept.count() >= 2);
}

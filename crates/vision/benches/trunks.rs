//! Milliseconds per crop, memory and loading time of trunks, by engine, precision, threads and batch:
//! `cargo bench -p vision --bench trunks`. Every line is a process of its own, so that memory is its own.
//!
//! | variable | default | means |
//! |---|---|---|
//! | `TRUNK` | a toy | ONNX files, with `:` between them; their times are added up |
//! | `ENGINES` | all there are | of `rten`, `winograd`, `openvino-f32`, `openvino-bf16`, `onnxruntime` (a feature), with `,` |
//! | `THREADS` | `1,2` | |
//! | `BATCHES` | `1,4,16,64` | crops in a batch |
//! | `REPEATS` | `5` | the fastest counts |
//! | `FEDGESTALT_OPENVINO` | - | OpenVINO's library, or its folder |
//! | `FEDGESTALT_ONNXRUNTIME` | - | ONNX Runtime's library |
//! | `JSON` | - | if set, one JSON object per line instead of a table |
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use vision::openvino_trunk::Options;
use vision::{
    CROP_LEN, Crop, Cut, NeckWeights, OpenVino, OpenVinoTrunk, Precision, RtenTrunk, Trunk, TrunkFile,
    WinogradTrunk,
};

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn main() {
    match std::env::var("TRUNKS_ONE") {
        Ok(_) => one(),
        Err(_) => all(),
    }
}

fn all() {
    let mut engines = vec!["rten", "winograd"];
    if std::env::var_os("FEDGESTALT_OPENVINO").is_some() {
        engines.extend(["openvino-f32", "openvino-bf16"]);
    }
    if cfg!(feature = "onnxruntime") && std::env::var_os("FEDGESTALT_ONNXRUNTIME").is_some() {
        engines.push("onnxruntime");
    }
    let json = std::env::var_os("JSON").is_some();
    if !json {
        println!("engine         threads  batch  ms/crop  cpu ms/crop  crops/s  load s  peak MB");
    }
    for engine in variable("ENGINES", &engines.join(",")).split(',') {
        for threads in variable("THREADS", "1,2").split(',') {
            for batch in variable("BATCHES", "1,4,16,64").split(',') {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.env("TRUNKS_ONE", "1").env("ENGINE", engine);
                let output = command.env("THREADS", threads).env("BATCH", batch).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                let line = String::from_utf8(output.stdout).unwrap();
                let found: serde_json::Value = serde_json::from_str(&line).unwrap();
                let number = |name: &str| found[name].as_f64().unwrap();
                if json {
                    print!("{line}");
                    continue;
                }
                println!(
                    "{engine:<13} {threads:>8} {batch:>6} {:>8.2} {:>12.2} {:>8.1} {:>7.2} {:>8.0}",
                    number("ms"),
                    number("cpu_ms"),
                    1e3 / number("ms"),
                    number("load_s"),
                    number("peak_mb")
                );
            }
        }
    }
}

fn one() {
    let toy = format!("{}/tests/data/mini_iresnet.onnx", env!("CARGO_MANIFEST_DIR"));
    let engine = variable("ENGINE", "rten");
    let threads: usize = variable("THREADS", "2").parse().unwrap();
    let batch: usize = variable("BATCH", "16").parse().unwrap();
    let began = Instant::now();
    let trunks: Vec<Box<dyn Trunk>> =
        variable("TRUNK", &toy).split(':').map(|file| load(&engine, file, threads, batch)).collect();
    let load_s = began.elapsed().as_secs_f64();
    let whole = batch * threads;
    let crops = crops(whole * 32usize.div_ceil(whole));
    let (mut ms, mut cpu_ms) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..variable("REPEATS", "5").parse().unwrap() {
        let (began, used) = (Instant::now(), cpu_seconds());
        for trunk in &trunks {
            let mut out = vec![0.0; whole * trunk.output_len()];
            for crops in crops.chunks(whole) {
                trunk.features(crops, &mut out).unwrap();
            }
        }
        let per_crop = 1e3 / crops.len() as f64;
        ms = ms.min(began.elapsed().as_secs_f64() * per_crop);
        cpu_ms = cpu_ms.min((cpu_seconds() - used) * per_crop);
    }
    println!(
        "{}",
        serde_json::json!({
            "engine": engine, "threads": threads, "batch": batch, "ms": ms, "cpu_ms": cpu_ms, "load_s": load_s,
            "peak_mb": status_mb("VmHWM:"),
        })
    );
}

fn load(engine: &str, path: &str, threads: usize, batch: usize) -> Box<dyn Trunk> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    // The whole network: a trunk with its neck, as it is published.
    let file = TrunkFile::parse(&bytes, Cut::End).unwrap_or_else(|e| panic!("{path}: {e}"));
    drop(bytes);
    let openvino = |precision| -> Box<dyn Trunk> {
        let library = Arc::new(OpenVino::load(&library("FEDGESTALT_OPENVINO", "openvino_c.")).unwrap());
        let options = Options { streams: threads, threads, batch, precision, cache: None };
        Box::new(OpenVinoTrunk::new(&library, &file, &options).unwrap())
    };
    match engine {
        "rten" => Box::new(RtenTrunk::with_threads(file, threads).unwrap()),
        "winograd" => {
            let file = TrunkFile::parse(file.model(), Cut::Auto).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let trunk = pool.install(|| WinogradTrunk::new(&file).unwrap());
            Box::new(WithNeck { trunk, neck: file.neck, pool })
        }
        "openvino-f32" => openvino(Precision::F32),
        "openvino-bf16" => openvino(Precision::Bf16),
        #[cfg(feature = "onnxruntime")]
        "onnxruntime" => {
            let library =
                vision::OnnxRuntime::load(&library("FEDGESTALT_ONNXRUNTIME", "onnxruntime.")).unwrap();
            Box::new(vision::OnnxRuntimeTrunk::new(&library, &file, threads, batch).unwrap())
        }
        other => panic!("there is no engine {other} in this build"),
    }
}

/// The whole network of an engine that ends before the neck.
struct WithNeck {
    trunk: WinogradTrunk,
    neck: Option<NeckWeights>,
    pool: rayon::ThreadPool,
}

impl Trunk for WithNeck {
    fn output_len(&self) -> usize {
        self.neck.as_ref().map_or(self.trunk.output_len(), |neck| neck.output)
    }

    fn digest(&self) -> [u8; 32] {
        self.trunk.digest()
    }

    fn features(&self, crops: &[Crop], out: &mut [f32]) -> vision::Result<()> {
        self.pool.install(|| {
            let Some(neck) = &self.neck else { return self.trunk.features(crops, out) };
            let mut features = vec![0.0; crops.len() * neck.input];
            self.trunk.features(crops, &mut features)?;
            let crops = features.par_chunks(neck.input).zip(out.par_chunks_mut(neck.output));
            crops.for_each(|(features, out)| {
                for (value, weights) in out.iter_mut().zip(neck.weight.chunks_exact(neck.input)) {
                    let mut sums = [0f32; 32];
                    for (a, b) in features.as_chunks::<32>().0.iter().zip(weights.as_chunks::<32>().0) {
                        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                            *sum += a * b;
                        }
                    }
                    *value = sums.iter().sum();
                }
            });
            Ok(())
        })
    }

    fn engine(&self) -> &str {
        self.trunk.engine()
    }

    fn precision(&self) -> Precision {
        self.trunk.precision()
    }
}

fn library(variable: &str, name: &str) -> PathBuf {
    let named = PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| panic!("set {variable}")));
    let inside = |folder: &Path| {
        let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.find(|file| file.file_name().unwrap().to_string_lossy().contains(name))
    };
    if named.is_dir() { inside(&named).unwrap_or_else(|| panic!("no {name} there")) } else { named }
}

fn crops(count: usize) -> Vec<Crop> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| Crop::from_rgb((0..CROP_LEN).map(|_| next()).collect::<Vec<_>>()).unwrap()).collect()
}

/// Processor time of this process, all threads; in the system's ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

fn status_mb(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse().ok());
    kb.map_or(f64::NAN, |kb: f64| kb / 1024.0)
}

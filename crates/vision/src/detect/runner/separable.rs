//! Detectors of separable convolutions (YuNet) on an engine of this crate, which computes channel by channel what rten
//! computes twenty times slower.

mod network;
mod steps;

use std::sync::{Mutex, PoisonError};

use prost::bytes::Bytes;

use super::{Output, Runner};
use crate::engine::guarded;
use crate::error::{Error, ErrorKind, Result};
use crate::spaces::Spaces;
use crate::trunk::Precision;
use network::Network;

const SEPARABLE: &str = "separable";

/// Maps lie row by row, pixel by pixel, a pixel's channels together.
pub(in crate::detect) struct SeparableRunner {
    network: Network,
    spaces: Mutex<Vec<Spaces>>,
}

/// A feature map's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    width: usize,
    height: usize,
}

impl SeparableRunner {
    /// # Errors
    /// [`ErrorKind::Engine`] if the network has other steps than those of `steps`; the node is named.
    pub(in crate::detect) fn load(file: &[u8]) -> Result<Self> {
        let network = guarded(SEPARABLE, "load", || Network::read(Bytes::copy_from_slice(file)))?;
        Ok(Self { network, spaces: Mutex::default() })
    }
}

impl Runner for SeparableRunner {
    fn outputs(&self, [width, height]: [usize; 2], input: &[f32]) -> Result<Vec<Output>> {
        if width == 0 || input.len() != 3 * width * height {
            return Err(Error::new(ErrorKind::Size, "the input is not three planes of its size"));
        }
        let free = || self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spaces = free().pop().unwrap_or_default();
        let outputs =
            guarded(SEPARABLE, "run", || self.network.run(Size { width, height }, input, &mut spaces))?;
        free().push(spaces);
        Ok(outputs)
    }

    fn engine(&self) -> &'static str {
        SEPARABLE
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use rten::ThreadPool;

    use super::*;
    use crate::detect::runner::rten::RtenRunner;
    use crate::onnx::written::{Line, written};

    const STEM: [Line<'static>; 2] = [("a", "Conv3x2 12 3", &["x"]), ("b", "Relu", &["a"])];

    fn lines(rest: &[Line<'static>]) -> Vec<Line<'static>> {
        STEM.iter().chain(rest).copied().collect()
    }

    #[test]
    fn it_computes_what_rten_computes_at_any_size_and_with_any_threads() {
        // As YuNet: separable convolutions, pooling, a finer map from a coarser one, pixels in rows.
        let nodes = lines(&[
            ("c", "Conv1x1 20 12", &["b"]),
            ("d", "Depthwise 20", &["c"]),
            ("e", "Relu", &["d"]),
            ("f", "MaxPool", &["e"]),
            ("g", "Conv1x1 20 20", &["f"]),
            ("h", "Resize", &["g"]),
            ("i", "Add", &["e", "h"]),
            ("j", "Conv1x1 4 20", &["i"]),
            ("k", "Depthwise 4", &["j"]),
            ("l", "Transpose", &["k"]),
            ("boxes", "Reshape 4", &["l"]),
            ("m", "Conv1x1 1 20", &["f"]),
            ("n", "Depthwise 1", &["m"]),
            ("o", "Transpose", &["n"]),
            ("p", "Reshape 1", &["o"]),
            ("scores", "Sigmoid", &["p"]),
        ]);
        let file = written(&[1, 3, -1, -1], &nodes, &["scores", "boxes"]);
        let rten = RtenRunner::load(file.clone(), Arc::new(ThreadPool::with_num_threads(1))).unwrap();
        let own = SeparableRunner::load(&file).unwrap();
        for [width, height] in [[64, 32], [4, 4], [36, 100], [64, 32]] {
            let input: Vec<f32> =
                (0..3 * width * height).map(|i| (i * i / 7 % 251) as f32 / 125.0 - 1.0).collect();
            let expected = rten.outputs([width, height], &input).unwrap();
            let mut bits = Vec::new();
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let found = pool.install(|| own.outputs([width, height], &input)).unwrap();
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.shape, expected.shape);
                    let largest = expected.values.iter().fold(1f32, |most, value| most.max(value.abs()));
                    for (found, expected) in found.values.iter().zip(&expected.values) {
                        assert!((found - expected).abs() <= 2e-6 * largest, "{found}, expected {expected}");
                    }
                }
                bits.push(
                    found.iter().flat_map(|o| o.values.iter().map(|v| v.to_bits())).collect::<Vec<u32>>(),
                );
            }
            assert!(bits[0] == bits[1], "{width} x {height}");
        }
        // Pooling an odd map leaves a row out, so that what is made finer again no longer fits; rten refuses that, too.
        for runner in [&rten as &dyn Runner, &own] {
            let input = vec![0.0; 3 * 34 * 34];
            assert_eq!(runner.outputs([34, 34], &input).err().unwrap().kind(), ErrorKind::Engine);
        }
        // What is made finer again and again would take all memory.
        let names: Vec<String> = (0..20).map(|at| format!("r{at}")).collect();
        let inputs: Vec<[&str; 1]> =
            ["b"].into_iter().chain(names.iter().map(String::as_str)).map(|n| [n]).collect();
        let finer: Vec<Line<'_>> = names
            .iter()
            .zip(&inputs)
            .map(|(name, input)| (name.as_str(), "Resize", input.as_slice()))
            .collect();
        let end = [("t", "Transpose", inputs[20].as_slice()), ("o", "Reshape 12", ["t"].as_slice())];
        let nodes: Vec<Line<'_>> = STEM.iter().chain(&finer).chain(&end).copied().collect();
        let bomb = SeparableRunner::load(&written(&[1, 3, -1, -1], &nodes, &["o"])).unwrap();
        let error = bomb.outputs([66, 66], &[0.0; 3 * 66 * 66]).err().unwrap();
        assert!(error.to_string().contains("too large"), "{error}");
        assert_eq!(own.outputs([8, 8], &[0.0; 3]).err().unwrap().kind(), ErrorKind::Size);
    }

    #[test]
    fn other_networks_are_refused_and_the_node_is_named() {
        let cases: [(&[Line<'static>], &str); 5] = [
            (&[("c", "Conv3x1 12 12", &["b"])], "`c` (Conv): it is no separable convolution"),
            (&[("c", "Depthwise 6", &["b"])], "`c` (Conv)"),
            (&[("c", "Conv1x1 12 12", &["a"])], "`b` (Relu): there is no such step here"),
            (&[("c", "Softmax", &["b"])], "`c` (Softmax): there is no such step here"),
            (&[("c", "MaxPool", &["b"])], "its output `c` is no map's pixels"),
        ];
        for (rest, why) in cases {
            let file = written(&[1, 3, -1, -1], &lines(rest), &["c"]);
            let error = SeparableRunner::load(&file).map(|_| ()).unwrap_err();
            assert!(error.kind() == ErrorKind::Engine && error.to_string().contains(why), "{error}");
        }
    }
}

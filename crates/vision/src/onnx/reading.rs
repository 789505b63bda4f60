//! What the readers of networks for this crate's own engines share: constants, convolutions, and refusals that name the node.

use std::collections::HashMap;

use prost::bytes::Bytes;

use super::graph::Graph;
use super::proto::{NodeProto, TensorProto};
use crate::error::{Error, ErrorKind, Result};

/// More channels than any face network's map has.
const MOST_CHANNELS: usize = 4096;

/// A graph that is being read for an engine that takes only some networks.
pub(crate) struct Reading<'a> {
    graph: &'a Graph,
    /// What refusals begin with: that the network is of another kind.
    unlike: &'static str,
    /// How many nodes and outputs take a value.
    uses: HashMap<String, usize>,
}

/// A convolution that treats rows and columns alike.
pub(crate) struct Convolution {
    pub(crate) outputs: usize,
    /// Input channels of a group.
    pub(crate) inputs: usize,
    pub(crate) groups: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) pad: usize,
    /// Output, input, row, column; `f32`, least byte first.
    pub(crate) weights: Bytes,
    pub(crate) bias: Vec<f32>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(graph: &'a Graph, unlike: &'static str) -> Self {
        let mut uses: HashMap<String, usize> = HashMap::new();
        let taken = graph.nodes().iter().flat_map(|node| &node.input);
        for name in taken.chain(graph.outputs().iter().map(|output| &output.name)) {
            *uses.entry(name.clone()).or_default() += 1;
        }
        Self { graph, unlike, uses }
    }

    /// Whether nothing but this node takes its first input.
    pub(crate) fn alone(&self, node: &NodeProto) -> bool {
        node.input.first().is_some_and(|name| self.taken_once(name))
    }

    pub(crate) fn taken_once(&self, name: &str) -> bool {
        self.uses.get(name) == Some(&1)
    }

    /// The constant that a node takes.
    pub(crate) fn tensor(&self, node: &NodeProto, at: usize) -> Result<TensorProto> {
        let name = node.input.get(at).ok_or_else(|| self.differs(node, "an input is missing"))?;
        self.graph.constant(name)?.ok_or_else(|| self.differs(node, "its weights are no constants"))
    }

    /// Its numbers.
    pub(crate) fn numbers(&self, node: &NodeProto, at: usize) -> Result<Vec<f32>> {
        let raw = self.floats(node, &self.tensor(node, at)?)?;
        Ok(numbers(&raw).collect())
    }

    fn floats(&self, node: &NodeProto, tensor: &TensorProto) -> Result<Bytes> {
        tensor.floats().ok_or_else(|| self.differs(node, "its weights are not float32"))
    }

    pub(crate) fn convolution(&self, node: &NodeProto) -> Result<Convolution> {
        let tensor = self.tensor(node, 1)?;
        let channels = |n: i64| usize::try_from(n).ok().filter(|n| (1..=MOST_CHANNELS).contains(n));
        let sizes: Option<Vec<usize>> = tensor.dims.iter().map(|&n| channels(n)).collect();
        let Some(&[outputs, inputs, kernel, width]) = sizes.as_deref() else {
            return Err(self.differs(node, "its filters are no squares, or between too many channels"));
        };
        let (strides, pads) = (node.ints("strides"), node.ints("pads"));
        let all = |values: &[i64], value: i64| values.iter().all(|&v| v == value);
        let (stride, pad) = (strides.first().map_or(1, |&s| s), pads.first().map_or(0, |&p| p));
        let auto = node.attribute("auto_pad").is_some_and(|a| !a.s.is_empty() && a.s != "NOTSET".as_bytes());
        if kernel != width || !all(strides, stride) || !all(pads, pad) || auto {
            return Err(self.differs(node, "it does not treat rows and columns alike"));
        }
        if !all(node.ints("dilations"), 1) {
            return Err(self.differs(node, "it has gaps"));
        }
        let groups = node.attribute("group").map_or(1, |group| group.i);
        let [stride, pad, groups] = [stride, pad, groups].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if !(1..=11).contains(&kernel) || !(1..=11).contains(&stride) || pad >= kernel {
            return Err(self.differs(node, "its size, stride or padding is none that a face network has"));
        }
        let weights = self.floats(node, &tensor)?;
        let bias = if node.input.len() > 2 { self.numbers(node, 2)? } else { vec![0.0; outputs] };
        if weights.len() != outputs * inputs * kernel * kernel * size_of::<f32>() || bias.len() != outputs {
            return Err(self.differs(node, "it has another number of weights than it says"));
        }
        Ok(Convolution { outputs, inputs, groups, kernel, stride, pad, weights, bias })
    }

    /// Refuses the network for a node.
    pub(crate) fn differs(&self, node: &NodeProto, why: &str) -> Error {
        let name = node.output.first().map_or(node.name.as_str(), String::as_str);
        self.refused(&format!("`{name}` ({}): {why}", node.op_type))
    }

    /// Refuses the network.
    pub(crate) fn refused(&self, why: &str) -> Error {
        Error::new(ErrorKind::Engine, format!("{}, {why}; use the engine rten for it", self.unlike))
    }
}

/// Numbers as they lie in a file.
pub(crate) fn numbers(raw: &[u8]) -> impl Iterator<Item = f32> {
    raw.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

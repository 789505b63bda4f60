use std::collections::{HashMap, HashSet};

use prost::Message;
use prost::bytes::Bytes;

use super::proto::{
    EXTERNAL, FLOAT, GraphProto, NodeProto, TensorProto, TensorType, TypeProto, ValueInfoProto,
};
use super::{describe, not_onnx};
use crate::crop::CROP_SIDE;
use crate::error::{Error, ErrorKind, Result};

/// How deep `If` and `Loop` bodies may nest; real networks for faces have none.
const DEEPEST_BODY: usize = 8;

/// How many operators that change nothing are followed in a row: it ends at a cycle in a broken file.
pub(super) const LONGEST_CHAIN: usize = 16;

/// A graph with its nodes and constants indexed by the values that they define.
pub(crate) struct Graph {
    proto: GraphProto,
    nodes: Vec<NodeProto>,
    /// value -> index of the node that computes it
    producers: HashMap<String, usize>,
    /// value -> index of the initializer that holds it
    constants: HashMap<String, usize>,
}

impl Graph {
    pub(crate) fn new(proto: GraphProto) -> Result<Self> {
        if !proto.sparse_initializer.is_empty() {
            return Err(Error::new(
                ErrorKind::Model,
                "the network has sparse weights, which are not supported; export it with dense weights",
            ));
        }
        let mut nodes = Vec::with_capacity(proto.node.len());
        let mut producers = HashMap::new();
        for (index, bytes) in proto.node.iter().enumerate() {
            let node = NodeProto::decode(bytes.clone()).map_err(not_onnx)?;
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if producers.insert(output.clone(), index).is_some() {
                    return Err(Error::new(
                        ErrorKind::Model,
                        format!("the network computes the value `{output}` twice; export it again"),
                    ));
                }
            }
            nodes.push(node);
        }
        let mut constants = HashMap::new();
        for (index, bytes) in proto.initializer.iter().enumerate() {
            let tensor = decode_tensor(bytes.clone())?;
            if tensor.data_location == EXTERNAL {
                return Err(Error::new(
                    ErrorKind::Model,
                    format!(
                        "the weights of `{}` lie in another file (ONNX external data); save the network as one file",
                        tensor.name
                    ),
                ));
            }
            constants.insert(tensor.name, index);
        }
        Ok(Self { proto, nodes, producers, constants })
    }

    /// The inputs that are not constants: older files list the weights as inputs too.
    pub(crate) fn inputs(&self) -> Vec<&ValueInfoProto> {
        self.proto.input.iter().filter(|input| !self.constants.contains_key(&input.name)).collect()
    }

    /// Every value is computed before it is used.
    pub(crate) fn nodes(&self) -> &[NodeProto] {
        &self.nodes
    }

    pub(crate) fn into_proto(self) -> GraphProto {
        self.proto
    }

    pub(crate) fn outputs(&self) -> &[ValueInfoProto] {
        &self.proto.output
    }

    /// The one true input (older files list the weights as inputs too), which must be
    /// `f32 [N or 1, 3, 112, 112]`.
    pub(crate) fn check_input(&self) -> Result<ValueInfoProto> {
        let inputs = self.inputs();
        let &[input] = inputs.as_slice() else {
            let names: Vec<String> = inputs.iter().map(|input| describe(input)).collect();
            return Err(Error::new(
                ErrorKind::Model,
                format!(
                    "a trunk has one input [N, 3, {CROP_SIDE}, {CROP_SIDE}], this network has {}: {}",
                    inputs.len(),
                    names.join("; ")
                ),
            ));
        };
        let refuse = |why: &str| {
            Err(Error::new(
                ErrorKind::Model,
                format!(
                    "a trunk takes [N, 3, {CROP_SIDE}, {CROP_SIDE}] of float32, this network takes {}: {why}",
                    describe(input)
                ),
            ))
        };
        if input.elem_type() != Some(FLOAT) {
            return refuse("the numbers are not float32; export it in single precision");
        }
        let Some([batch, rest @ ..]) = input.dims() else {
            return refuse("the shape is missing; export it with its input shape");
        };
        let sides: Vec<Option<usize>> = rest.iter().map(|dim| dim.fixed()).collect();
        if sides == [Some(CROP_SIDE), Some(CROP_SIDE), Some(3)] {
            return refuse("the channels come last; export it with channels first (NCHW)");
        }
        if sides != [Some(3), Some(CROP_SIDE), Some(CROP_SIDE)] {
            return refuse("this is not a network for aligned 112 x 112 faces");
        }
        if batch.fixed().is_some_and(|n| n != 1) {
            return refuse("the batch size is fixed; export it with a dynamic batch or a batch of 1");
        }
        Ok(input.clone())
    }

    pub(crate) fn only_output(&self) -> Result<String> {
        match self.proto.output.as_slice() {
            [output] if output.elem_type().is_some_and(|found| found != FLOAT) => Err(Error::new(
                ErrorKind::Cut,
                format!(
                    "a trunk gives float32 features, the output {} of this network is of another type (ONNX's number {}); \
                     name the value to cut at",
                    describe(output),
                    output.elem_type().unwrap_or_default()
                ),
            )),
            [output] => Ok(output.name.clone()),
            outputs => {
                let names: Vec<String> = outputs.iter().map(describe).collect();
                Err(Error::new(
                    ErrorKind::Cut,
                    format!(
                        "the network has {} outputs ({}); name the value to cut at",
                        outputs.len(),
                        names.join("; ")
                    ),
                ))
            }
        }
    }

    /// The computed value of this name, or the first output of the node of this name.
    pub(super) fn value_named(&self, name: &str) -> Result<String> {
        if self.producers.contains_key(name) {
            return Ok(name.to_owned());
        }
        let named = self.nodes.iter().find(|node| !name.is_empty() && node.name == name);
        if let Some(output) = named.and_then(|node| node.output.first()) {
            return Ok(output.clone());
        }
        let last: Vec<String> = self
            .nodes
            .iter()
            .rev()
            .take(5)
            .filter_map(|node| Some(format!("`{}` ({})", node.output.first()?, node.op_type)))
            .collect();
        Err(Error::new(
            ErrorKind::Cut,
            format!(
                "the network has no value or node `{name}` to cut at; its last values are {}",
                last.join(", ")
            ),
        ))
    }

    /// The node that computes a value.
    pub(super) fn producer(&self, value: &str) -> Option<&NodeProto> {
        self.producers.get(value).map(|&index| &self.nodes[index])
    }

    /// The tensor of a constant value: an initializer or a `Constant` node, also behind `Identity` (exporters
    /// share equal constants that way) or a `Cast` from half precision.
    pub(crate) fn constant(&self, value: &str) -> Result<Option<TensorProto>> {
        let mut value = value;
        for _ in 0..LONGEST_CHAIN {
            if let Some(&index) = self.constants.get(value) {
                return decode_tensor(self.proto.initializer[index].clone()).map(Some);
            }
            let Some(node) = self.producer(value) else {
                return Ok(None);
            };
            let to_float = || node.attribute("to").is_some_and(|to| to.i == i64::from(FLOAT));
            match (node.op(), node.input.as_slice()) {
                ("Identity", [input]) => value = input,
                ("Cast", [input]) if to_float() => value = input,
                ("Constant", _) => {
                    let tensor = node.attribute("value").and_then(|a| a.t.clone());
                    return tensor.map(decode_tensor).transpose();
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Numbers per crop of a value, if the file declares all its sizes but the first.
    pub(super) fn declared_len(&self, value: &str) -> Option<usize> {
        let info = self.proto.output.iter().chain(&self.proto.value_info).find(|info| info.name == value)?;
        let (_, rest) = info.dims()?.split_first()?;
        rest.iter().try_fold(1usize, |len, dim| len.checked_mul(dim.fixed()?))
    }

    /// The graph with `value` as its only output and without what that output does not need.
    pub(super) fn cut_at(&self, value: &str) -> Result<GraphProto> {
        let mut wanted: HashSet<String> = HashSet::new();
        let mut live = vec![false; self.nodes.len()];
        let mut open = vec![value.to_owned()];
        while let Some(name) = open.pop() {
            if let Some(&index) = self.producers.get(&name)
                && !live[index]
            {
                live[index] = true;
                open.extend(referenced(&self.nodes[index], 0)?);
            }
            wanted.insert(name);
        }
        let keep = |bytes: &[Bytes], live: &dyn Fn(usize) -> bool| -> Vec<Bytes> {
            let kept = bytes.iter().enumerate().filter(|(index, _)| live(*index));
            kept.map(|(_, bytes)| bytes.clone()).collect()
        };
        let live_constants: HashSet<usize> = self
            .constants
            .iter()
            .filter(|(name, _)| wanted.contains(*name))
            .map(|(_, &index)| index)
            .collect();
        let mut input = self.proto.input.clone();
        input.retain(|input| !self.constants.contains_key(&input.name));
        if !input.iter().any(|input| wanted.contains(&input.name)) {
            return Err(Error::new(
                ErrorKind::Cut,
                format!("the value `{value}` does not depend on the input; cut the network elsewhere"),
            ));
        }
        Ok(GraphProto {
            node: keep(&self.proto.node, &|index| live[index]),
            name: self.proto.name.clone(),
            initializer: keep(&self.proto.initializer, &|index| live_constants.contains(&index)),
            input,
            output: vec![ValueInfoProto {
                name: value.to_owned(),
                r#type: Some(TypeProto { tensor_type: Some(TensorType { elem_type: FLOAT, shape: None }) }),
            }],
            value_info: Vec::new(),
            sparse_initializer: Vec::new(),
        })
    }
}

fn decode_tensor(bytes: Bytes) -> Result<TensorProto> {
    TensorProto::decode(bytes).map_err(not_onnx)
}

/// Every value a node reads, those that the bodies of `If` and `Loop` take from outside included.
fn referenced(node: &NodeProto, depth: usize) -> Result<Vec<String>> {
    let mut names: Vec<String> = node.input.iter().filter(|name| !name.is_empty()).cloned().collect();
    let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    for body in bodies {
        if depth == DEEPEST_BODY {
            return Err(Error::new(
                ErrorKind::Model,
                format!("the network nests control flow more than {DEEPEST_BODY} deep; export it without"),
            ));
        }
        let body = GraphProto::decode(body.clone()).map_err(not_onnx)?;
        names.extend(body.output.into_iter().map(|output| output.name));
        for bytes in body.node {
            let inner = NodeProto::decode(bytes).map_err(not_onnx)?;
            names.extend(referenced(&inner, depth + 1)?);
        }
    }
    Ok(names)
}

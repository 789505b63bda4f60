use prost::Message;
use prost::bytes::Bytes;

use super::{DetectorKind, yunet};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::graph::Graph;
use crate::onnx::proto::{CutModelProto, Dimension, FLOAT, GraphProto, ModelProto, ValueInfoProto};
use crate::onnx::{check_is_protobuf, describe, not_onnx};

pub(super) const EXPECTED: &str = "expected YuNet (OpenCV's model zoo, 2023 or later), SCRFD with key points (insightface) or RetinaFace \
                        (PyTorch, MobileNet-0.25 or ResNet-50), saved as ONNX";

/// A detector's file as its graph describes it.
pub(super) struct DetectorFile {
    /// What its outputs look like; only a run shows whether they are.
    pub(super) kind: DetectorKind,
    /// Width and height of the input that it declares, if fixed.
    pub(super) declared: Option<[usize; 2]>,
    /// Names of its outputs, in the graph's order.
    pub(super) outputs: Vec<String>,
    /// The network with a dynamic height and width.
    pub(super) dynamic: Vec<u8>,
}

impl DetectorFile {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        check_is_protobuf(bytes)?;
        let model = ModelProto::decode(Bytes::copy_from_slice(bytes)).map_err(not_onnx)?;
        let Some(graph) = model.graph.clone().filter(|_| !model.opset_import.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Model,
                "the file holds no ONNX graph; give a detector saved as .onnx",
            ));
        };
        let graph = Graph::new(GraphProto::decode(graph).map_err(not_onnx)?)?;
        let declared = input_size(&graph)?;
        let kind = kind(&graph)?;
        let outputs = graph.outputs().iter().map(|output| output.name.clone()).collect();
        Ok(Self { kind, declared, outputs, dynamic: without_sizes(model, graph) })
    }
}

/// Width and height of the graph's input, if fixed.
fn input_size(graph: &Graph) -> Result<Option<[usize; 2]>> {
    let refuse = |found: String| Err(Error::new(ErrorKind::Detector, format!("{found}; {EXPECTED}")));
    let inputs = graph.inputs();
    let &[input] = inputs.as_slice() else {
        return refuse(format!("a detector has one input, this network has {}", inputs.len()));
    };
    if input.elem_type() != Some(FLOAT) {
        return refuse(format!("the input {} is not float32", describe(input)));
    }
    let Some([batch, channels, height, width]) = input.dims() else {
        return refuse(format!(
            "a detector takes [1, 3, height, width], this network takes {}",
            describe(input)
        ));
    };
    if batch.fixed().is_some_and(|n| n != 1) || channels.fixed().is_some_and(|n| n != 3) {
        return refuse(format!(
            "a detector takes [1, 3, height, width], this network takes {}",
            describe(input)
        ));
    }
    match (width.fixed(), height.fixed()) {
        (Some(112), Some(112)) => refuse(format!(
            "the network takes {}: a recognition network for aligned faces, not a detector",
            describe(input)
        )),
        (Some(width), Some(height)) if width.max(height) <= 4096 => Ok(Some([width, height])),
        (Some(_), Some(_)) => refuse(format!("the input {} is larger than 4096 pixels", describe(input))),
        _ => Ok(None),
    }
}

/// Which kind the names and number of the outputs speak for; a run checks the shapes.
fn kind(graph: &Graph) -> Result<DetectorKind> {
    let outputs = graph.outputs();
    let named = |names: &[&str]| names.iter().all(|name| outputs.iter().any(|output| output.name == *name));
    let found = match outputs.len() {
        12 if named(&yunet::OUTPUTS) => return Ok(DetectorKind::YuNet),
        3 if named(&["loc", "conf", "iou"]) => "a YuNet of 2022 or earlier, whose outputs differ".to_owned(),
        9 => return Ok(DetectorKind::Scrfd),
        3 => return Ok(DetectorKind::RetinaFace),
        6 => "6 outputs, perhaps an SCRFD without key points (take a `_bnkps` or `_kps` file)".to_owned(),
        n => {
            format!("{n} outputs ({})", outputs.iter().take(12).map(describe).collect::<Vec<_>>().join("; "))
        }
    };
    Err(Error::new(
        ErrorKind::Detector,
        format!("the network is no known face detector: found {found}; {EXPECTED}"),
    ))
}

/// The network with a dynamic height and width.
fn without_sizes(model: ModelProto, graph: Graph) -> Vec<u8> {
    let name = graph.inputs().first().map(|input| input.name.clone());
    let mut graph = graph.into_proto();
    let free = |name: &str| Dimension { dim_value: None, dim_param: Some(name.to_owned()) };
    for input in graph.input.iter_mut().filter(|input| Some(&input.name) == name.as_ref()) {
        let shape = input.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()).and_then(|t| t.shape.as_mut());
        if let Some([_, _, height, width]) = shape.map(|shape| shape.dim.as_mut_slice()) {
            (*height, *width) = (free("height"), free("width"));
        }
    }
    graph.value_info.clear();
    graph.output = graph.output.into_iter().map(|output| ValueInfoProto { r#type: None, ..output }).collect();
    let model = CutModelProto {
        ir_version: model.ir_version,
        graph: Some(graph),
        opset_import: model.opset_import,
        functions: model.functions,
    };
    model.encode_to_vec()
}

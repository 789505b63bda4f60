//! Networks in writing, for tests.

use prost::Message;
use prost::bytes::Bytes;

use super::proto::{
    AttributeProto, CutModelProto, Dimension, FLOAT, GraphProto, INT64, NodeProto, TensorProto, TensorShape,
    TensorType, TypeProto, ValueInfoProto,
};

/// A node: what it gives, what it is, what it takes. What it is tells its sizes, too: `Conv3x2 8 4` is a convolution of 3 x 3, every
/// second pixel, to 8 channels from 4; `Depthwise 8` one of 3 x 3 within 8 channels; `BatchNormalization 8`, `PRelu 8` and
/// `Reshape 8` (to rows of 8) have sizes, too.
pub(crate) type Line<'a> = (&'a str, &'a str, &'a [&'a str]);

/// A file with an input `x` of this shape; weights come from a generator.
pub(crate) fn written(input: &[i64], nodes: &[Line<'_>], outputs: &[&str]) -> Vec<u8> {
    let mut constants = Constants { state: 7, tensors: Vec::new() };
    let nodes = nodes.iter().map(|line| node(line, &mut constants).encode_to_vec().into()).collect();
    let value = |name: &str, shape: Option<TensorShape>| ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { tensor_type: Some(TensorType { elem_type: FLOAT, shape }) }),
    };
    let dim = |&n: &i64| Dimension { dim_value: Some(n), dim_param: None };
    let graph = GraphProto {
        name: "written".to_owned(),
        node: nodes,
        initializer: constants.tensors,
        input: vec![value("x", Some(TensorShape { dim: input.iter().map(dim).collect() }))],
        output: outputs.iter().map(|name| value(name, None)).collect(),
        ..GraphProto::default()
    };
    // `OperatorSetIdProto { version: 11 }`
    let opset_import = vec![Bytes::from_static(&[0x10, 11])];
    CutModelProto { ir_version: 6, graph: Some(graph), opset_import, functions: Vec::new() }.encode_to_vec()
}

struct Constants {
    state: u32,
    tensors: Vec<Bytes>,
}

impl Constants {
    fn add(&mut self, dims: &[usize], data_type: i32, raw: Vec<u8>) -> String {
        let name = format!("w{}", self.tensors.len());
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        let tensor = TensorProto {
            dims,
            data_type,
            name: name.clone(),
            raw_data: raw.into(),
            ..TensorProto::default()
        };
        self.tensors.push(tensor.encode_to_vec().into());
        name
    }

    /// Numbers from `low` to `low + 1`.
    fn weights(&mut self, dims: &[usize], low: f32) -> String {
        let mut next = || {
            self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.state >> 8) as f32 / (1 << 24) as f32 + low
        };
        let raw = (0..dims.iter().product()).flat_map(|_| next().to_le_bytes()).collect();
        self.add(dims, FLOAT, raw)
    }

    fn numbers(&mut self, values: &[f32]) -> String {
        self.add(&[values.len()], FLOAT, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn integers(&mut self, values: &[i64]) -> String {
        self.add(&[values.len()], INT64, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

fn node(&(output, what, inputs): &Line<'_>, constants: &mut Constants) -> NodeProto {
    let words: Vec<&str> = what.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    let ints = |name: &str, values: &[i64]| AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        ..AttributeProto::default()
    };
    let mut input: Vec<String> = inputs.iter().map(|&input| input.to_owned()).collect();
    let mut attribute = Vec::new();
    let op_type =
        match words[0].split_at(words[0].find(|c: char| c.is_ascii_digit()).unwrap_or(words[0].len())) {
            ("Conv", size) => {
                let (kernel, stride) = size.split_once('x').unwrap();
                let (kernel, stride): (usize, i64) = (kernel.parse().unwrap(), stride.parse().unwrap());
                input.push(constants.weights(&[number(1), number(2), kernel, kernel], -0.5));
                input.push(constants.weights(&[number(1)], -0.5));
                attribute.push(ints("strides", &[stride; 2]));
                attribute.push(ints("pads", &[kernel as i64 / 2; 4]));
                attribute.push(ints("dilations", &[1; 2]));
                "Conv"
            }
            ("Depthwise", _) => {
                input.push(constants.weights(&[number(1), 1, 3, 3], -0.5));
                input.push(constants.weights(&[number(1)], -0.5));
                attribute.push(ints("strides", &[1; 2]));
                attribute.push(ints("pads", &[1; 4]));
                attribute.push(ints("dilations", &[1; 2]));
                let group = number(1) as i64;
                attribute.push(AttributeProto {
                    name: "group".to_owned(),
                    i: group,
                    ..AttributeProto::default()
                });
                "Conv"
            }
            ("BatchNormalization", _) => {
                input.extend([0.5, -0.5, -0.5, 0.5].map(|low| constants.weights(&[number(1)], low)));
                "BatchNormalization"
            }
            ("PRelu", _) => {
                input.push(constants.weights(&[number(1), 1, 1], -0.5));
                "PRelu"
            }
            ("MaxPool", _) => {
                attribute.push(ints("kernel_shape", &[2; 2]));
                attribute.push(ints("strides", &[2; 2]));
                "MaxPool"
            }
            ("Resize", _) => {
                input.push(constants.numbers(&[]));
                input.push(constants.numbers(&[1.0, 1.0, 2.0, 2.0]));
                for (name, value) in [
                    ("mode", "nearest"),
                    ("coordinate_transformation_mode", "asymmetric"),
                    ("nearest_mode", "floor"),
                ] {
                    let s = Bytes::from_static(value.as_bytes());
                    attribute.push(AttributeProto { name: name.to_owned(), s, ..AttributeProto::default() });
                }
                "Resize"
            }
            ("Transpose", _) => {
                attribute.push(ints("perm", &[0, 2, 3, 1]));
                "Transpose"
            }
            ("Reshape", _) => {
                input.push(constants.integers(&[1, -1, number(1) as i64]));
                "Reshape"
            }
            (plain, _) => plain,
        };
    let output = vec![output.to_owned()];
    NodeProto { input, output, op_type: op_type.to_owned(), attribute, ..NodeProto::default() }
}

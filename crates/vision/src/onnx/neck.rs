use half::f16;

use super::graph::{Graph, LONGEST_CHAIN};
use super::proto::{FLOAT, FLOAT16, NodeProto, TensorProto};
use crate::error::{Error, ErrorKind, Result};

/// ONNX's default for `BatchNormalization.epsilon`, and PyTorch's.
const DEFAULT_EPSILON: f32 = 1e-5;

/// The last layers of a face network: the starting weights of a neck. In evaluation,
/// `y = (W x + bias - bn_mean) / sqrt(bn_var + bn_eps) * bn_weight + bn_bias`.
#[derive(Clone, PartialEq)]
pub struct NeckWeights {
    /// Length of the trunk's features.
    pub input: usize,
    /// Length of the representation.
    pub output: usize,
    /// Row-major `[output, input]`.
    pub weight: Vec<f32>,
    /// `[output]`; zeros where the network has none.
    pub bias: Vec<f32>,
    /// `[output]`. If the network has no BatchNormalization, the five `bn_` fields are the one that changes
    /// nothing (its variance is `1 - bn_eps`).
    pub bn_weight: Vec<f32>,
    /// `[output]`
    pub bn_bias: Vec<f32>,
    /// `[output]`
    pub bn_mean: Vec<f32>,
    /// `[output]`, not negative.
    pub bn_var: Vec<f32>,
    /// Added to the variance.
    pub bn_eps: f32,
}

impl std::fmt::Debug for NeckWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NeckWeights({} -> {})", self.input, self.output)
    }
}

/// The end of a network: where to cut, and what lies behind the cut.
pub(super) struct Tail {
    pub(super) features: String,
    pub(super) neck: NeckWeights,
}

/// Recognises `Flatten -> Gemm [-> BatchNormalization]` before the value `end`.
pub(super) fn find(graph: &Graph, end: &str) -> Result<Option<Tail>> {
    let last = source(graph, end);
    let normalization = producer_of(graph, last, "BatchNormalization");
    let linear_end = match normalization {
        Some(node) => match node.input.first() {
            Some(input) => source(graph, input),
            None => return Ok(None),
        },
        None => last,
    };
    let Some(linear) = Linear::ending_at(graph, linear_end)? else {
        return Ok(None);
    };
    let features = source(graph, &linear.features).to_owned();
    if producer_of(graph, &features, "Flatten").is_none()
        && producer_of(graph, &features, "Reshape").is_none()
    {
        return Ok(None);
    }
    let neck = linear.into_neck(graph, normalization)?;
    // A last layer that widens is not what condenses a feature map into a representation: such a network is a generic
    // embedder, to be used as a whole. With BatchNormalization behind it there is no doubt.
    if normalization.is_none() && neck.input <= neck.output {
        return Ok(None);
    }
    Ok(Some(Tail { features, neck }))
}

/// The value behind operators that change nothing in evaluation.
fn source<'a>(graph: &'a Graph, mut value: &'a str) -> &'a str {
    for _ in 0..LONGEST_CHAIN {
        match graph.producer(value) {
            Some(node) if matches!(node.op(), "Identity" | "Dropout") => match node.input.first() {
                Some(input) => value = input,
                None => break,
            },
            _ => break,
        }
    }
    value
}

fn producer_of<'a>(graph: &'a Graph, value: &str, op: &str) -> Option<&'a NodeProto> {
    graph.producer(value).filter(|node| node.op() == op)
}

/// A dense layer `scale * x W + bias_scale * bias` on constant weights.
struct Linear {
    features: String,
    weight: TensorProto,
    /// The weight is `[output, input]`, not `[input, output]`.
    transposed: bool,
    scale: f32,
    bias: Option<TensorProto>,
    bias_scale: f32,
}

impl Linear {
    fn ending_at(graph: &Graph, value: &str) -> Result<Option<Self>> {
        let Some(node) = graph.producer(value) else {
            return Ok(None);
        };
        match (node.op(), node.input.as_slice()) {
            ("Gemm", [features, weight, rest @ ..]) => {
                let int = |name| node.attribute(name).is_some_and(|a| a.i != 0);
                let float = |name| node.attribute(name).map_or(1.0, |a| a.f);
                let bias = match rest.first().filter(|name| !name.is_empty()) {
                    Some(name) => match graph.constant(name)? {
                        Some(bias) => Some(bias),
                        None => return Ok(None),
                    },
                    None => None,
                };
                if int("transA") {
                    return Ok(None);
                }
                Ok(graph.constant(weight)?.map(|weight| Self {
                    features: features.clone(),
                    weight,
                    transposed: int("transB"),
                    scale: float("alpha"),
                    bias,
                    bias_scale: float("beta"),
                }))
            }
            ("MatMul", [features, weight]) => Ok(graph.constant(weight)?.map(|weight| Self {
                features: features.clone(),
                weight,
                transposed: false,
                scale: 1.0,
                bias: None,
                bias_scale: 1.0,
            })),
            ("Add", [a, b]) => {
                for (product, bias) in [(a, b), (b, a)] {
                    if producer_of(graph, product, "MatMul").is_some()
                        && let Some(bias) = graph.constant(bias)?
                        && let Some(linear) = Self::ending_at(graph, product)?
                    {
                        return Ok(Some(Self { bias: Some(bias), ..linear }));
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn into_neck(self, graph: &Graph, normalization: Option<&NodeProto>) -> Result<NeckWeights> {
        let &[rows, columns] = sizes(&self.weight)?.as_slice() else {
            return Err(unfit(&self.weight, "its last dense layer is not a matrix"));
        };
        let values = values(&self.weight)?;
        let (output, input) = if self.transposed { (rows, columns) } else { (columns, rows) };
        let mut weight = if self.transposed {
            values
        } else {
            let column = |o| values[o..].iter().step_by(output).copied();
            (0..output).flat_map(column).collect()
        };
        weight.iter_mut().for_each(|w| *w *= self.scale);
        let mut bias = match &self.bias {
            Some(bias) => per_output(bias, output)?,
            None => vec![0.0; output],
        };
        bias.iter_mut().for_each(|b| *b *= self.bias_scale);

        let mut neck = NeckWeights {
            input,
            output,
            weight,
            bias,
            bn_weight: vec![1.0; output],
            bn_bias: vec![0.0; output],
            bn_mean: vec![0.0; output],
            bn_var: vec![1.0 - DEFAULT_EPSILON; output],
            bn_eps: DEFAULT_EPSILON,
        };
        if let Some(node) = normalization {
            let parameter = |index: usize| match node.input.get(index) {
                Some(name) => match graph.constant(name)? {
                    Some(tensor) => per_output(&tensor, output),
                    None => Err(not_constant(name)),
                },
                None => Err(not_constant("an absent input")),
            };
            neck.bn_weight = parameter(1)?;
            neck.bn_bias = parameter(2)?;
            neck.bn_mean = parameter(3)?;
            neck.bn_var = parameter(4)?;
            neck.bn_eps = node.attribute("epsilon").map_or(DEFAULT_EPSILON, |a| a.f);
        }
        neck.check()?;
        Ok(neck)
    }
}

impl NeckWeights {
    fn check(&self) -> Result<()> {
        let tensors = [&self.weight, &self.bias, &self.bn_weight, &self.bn_bias, &self.bn_mean, &self.bn_var];
        let finite = tensors.iter().all(|t| t.iter().all(|v| v.is_finite()));
        let positive = self.bn_var.iter().all(|&v| v >= 0.0) && self.bn_eps > 0.0;
        if finite && positive {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Model,
            "the network's last layers hold numbers that are not finite, or a negative variance; get the file again from its source",
        ))
    }
}

fn sizes(tensor: &TensorProto) -> Result<Vec<usize>> {
    tensor
        .dims
        .iter()
        .map(|&dim| usize::try_from(dim).ok().filter(|&n| n > 0))
        .collect::<Option<_>>()
        .ok_or_else(|| unfit(tensor, "it has an empty or negative size"))
}

/// A constant of `output` numbers, spread if it is a single one.
fn per_output(tensor: &TensorProto, output: usize) -> Result<Vec<f32>> {
    let values = values(tensor)?;
    match values.as_slice() {
        &[value] => Ok(vec![value; output]),
        _ if values.len() == output => Ok(values),
        _ => Err(unfit(tensor, &format!("it has {} numbers where {output} are needed", values.len()))),
    }
}

/// The numbers of a float or half-precision tensor, as many as its sizes say.
fn values(tensor: &TensorProto) -> Result<Vec<f32>> {
    let raw = &tensor.raw_data[..];
    let values: Vec<f32> = match tensor.data_type {
        FLOAT if !raw.is_empty() => {
            let (numbers, rest) = raw.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(unfit(tensor, "its bytes are cut short"));
            }
            numbers.iter().map(|&b| f32::from_le_bytes(b)).collect()
        }
        FLOAT => tensor.float_data.clone(),
        FLOAT16 if !raw.is_empty() => {
            let (numbers, rest) = raw.as_chunks::<2>();
            if !rest.is_empty() {
                return Err(unfit(tensor, "its bytes are cut short"));
            }
            numbers.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
        }
        // Half precision without raw data is stored as bit patterns in 32-bit integers.
        FLOAT16 => tensor.int32_data.iter().map(|&bits| f16::from_bits(bits as u16).to_f32()).collect(),
        other => return Err(unfit(tensor, &format!("its data type is {other}, not float"))),
    };
    let expected = sizes(tensor)?.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
    if expected != Some(values.len()) {
        return Err(unfit(
            tensor,
            &format!("it has {} numbers, its sizes are {:?}", values.len(), tensor.dims),
        ));
    }
    Ok(values)
}

fn not_constant(name: &str) -> Error {
    Error::new(
        ErrorKind::Model,
        format!(
            "the final BatchNormalization reads {name}, which is not a constant; export the network in evaluation mode"
        ),
    )
}

fn unfit(tensor: &TensorProto, why: &str) -> Error {
    Error::new(
        ErrorKind::Model,
        format!(
            "the network's weights `{}` cannot be used: {why}; get the file again from its source",
            tensor.name
        ),
    )
}

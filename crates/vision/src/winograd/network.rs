//! Residual networks of plain convolutions, read from ONNX.

use std::collections::HashMap;

use prost::Message;
use prost::bytes::Bytes;

use super::conv::{Conv, Way};
use super::finish::Finish;
use super::layout::Map;
use super::weights::Weights;
use crate::crop::CROP_SIDE;
use crate::error::Result;
use crate::onnx::graph::Graph;
use crate::onnx::not_onnx;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
use crate::onnx::reading::{Convolution, Reading};
use crate::patches::Patches;

const UNLIKE: &str = "the network is no residual network of plain convolutions";

/// Convolutions in order. Maps are numbered: 0 is the patches of the crop, `n` what convolution `n - 1` gives.
pub(super) struct Network {
    pub(super) patches: Patches,
    /// The map that they are.
    pub(super) first: Map,
    pub(super) steps: Vec<Step>,
    /// The map that becomes the features.
    pub(super) end: usize,
    /// Scale and shift of its channels.
    pub(super) norm: Option<[Vec<f32>; 2]>,
}

pub(super) struct Step {
    pub(super) conv: Conv,
    /// The map that it takes.
    pub(super) from: usize,
    /// The map that is added.
    pub(super) other: Option<usize>,
}

/// A convolution that is still being read.
struct Draft {
    from: usize,
    norm: Option<[Vec<f32>; 2]>,
    size: Size,
    inputs: Map,
    to: Map,
    raw: Bytes,
    scale: Option<Vec<f32>>,
    shift: Vec<f32>,
    before: Option<Vec<f32>>,
    other: Option<usize>,
    after: Option<Vec<f32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    kernel: usize,
    stride: usize,
    pad: usize,
}

/// What a name in the file stands for.
#[derive(Clone)]
enum Value {
    /// The crop.
    Crop,
    /// A map.
    Map(usize),
    /// A map after a scale and a shift of each channel.
    Norm(usize, [Vec<f32>; 2]),
    /// A map laid out flat, channel after channel.
    Flat(usize, Option<[Vec<f32>; 2]>),
}

struct Reader<'a> {
    file: Reading<'a>,
    values: HashMap<String, Value>,
    drafts: Vec<Draft>,
    patches: Option<(Patches, Map)>,
}

impl Network {
    /// Reads a network that was cut.
    ///
    /// # Errors
    /// If it has anything but plain convolutions, normalisations, activations and sums of maps; the node is named.
    pub(super) fn read(model: Bytes) -> Result<Self> {
        let model = ModelProto::decode(model).map_err(not_onnx)?;
        let proto = GraphProto::decode(model.graph.unwrap_or_default()).map_err(not_onnx)?;
        let graph = Graph::new(proto)?;
        let input = graph.check_input()?.name;
        let end = graph.only_output()?;
        let values = HashMap::from([(input, Value::Crop)]);
        let file = Reading::new(&graph, UNLIKE);
        let mut reader = Reader { file, values, drafts: Vec::new(), patches: None };
        for node in graph.nodes() {
            if let Some(value) = reader.node(node)? {
                let [output, ..] = node.output.as_slice() else {
                    return Err(reader.file.differs(node, "it gives nothing"));
                };
                reader.values.insert(output.clone(), value);
            }
        }
        let (end, norm) = match reader.values.remove(&end) {
            Some(Value::Map(map) | Value::Flat(map, None)) if map > 0 => (map, None),
            Some(Value::Norm(map, norm) | Value::Flat(map, Some(norm))) if map > 0 => (map, Some(norm)),
            _ => return Err(reader.file.refused(&format!("its end `{end}` is no feature map"))),
        };
        let Reader { file, drafts, patches, .. } = reader;
        let (patches, first) = patches.ok_or_else(|| file.refused("it has no convolution"))?;
        if end != drafts.len() {
            return Err(file.refused("it does not end with its last convolution"));
        }
        let steps = drafts.into_iter().map(Draft::finish).collect();
        Ok(Self { patches, first, steps, end, norm })
    }

    /// The maps' sizes, by number.
    pub(super) fn map(&self, number: usize) -> Map {
        match number.checked_sub(1) {
            None => self.first,
            Some(step) => self.steps[step].conv.to,
        }
    }
}

impl Reader<'_> {
    /// What a node gives; `None` for a constant.
    fn node(&mut self, node: &NodeProto) -> Result<Option<Value>> {
        let taken = |at: usize| node.input.get(at).and_then(|name| self.values.get(name)).cloned();
        let known = |at: usize| taken(at).ok_or_else(|| self.file.differs(node, "it takes an unknown value"));
        let value = match node.op() {
            "Constant" => return Ok(None),
            // A shared constant.
            "Identity" if taken(0).is_none() => return Ok(None),
            "Identity" | "Dropout" if self.file.alone(node) => known(0)?,
            "Conv" => self.convolution(node, known(0)?)?,
            "BatchNormalization" => self.normalisation(node, known(0)?)?,
            "Relu" => self.activation(node, known(0)?, &[0.0])?,
            "LeakyRelu" => {
                let slope = node.attribute("alpha").map_or(0.01, |alpha| alpha.f);
                self.activation(node, known(0)?, &[slope])?
            }
            "PRelu" => self.activation(node, known(0)?, &self.file.numbers(node, 1)?)?,
            "Add" => self.sum(node, known(0)?, known(1)?)?,
            "Flatten" | "Reshape" => match known(0)? {
                Value::Map(map) => Value::Flat(map, None),
                Value::Norm(map, norm) => Value::Flat(map, Some(norm)),
                Value::Crop | Value::Flat(..) => {
                    return Err(self.file.differs(node, "it lays no feature map out"));
                }
            },
            _ => return Err(self.file.differs(node, "there is no such step here")),
        };
        Ok(Some(value))
    }

    fn convolution(&mut self, node: &NodeProto, input: Value) -> Result<Value> {
        let read = self.file.convolution(node)?;
        let Convolution { outputs, inputs, kernel, stride, pad, weights: raw, bias: shift, .. } = read;
        if read.groups != 1 {
            return Err(self.file.differs(node, "it is a convolution in groups"));
        }
        let size = Size { kernel, stride, pad };
        let side =
            |side: usize| size.side(side).ok_or_else(|| self.file.differs(node, "it is larger than the map"));
        let (from, norm, map) = match input {
            Value::Crop if self.patches.is_none() && inputs == 3 => {
                let map = Map { side: side(CROP_SIDE)?, channels: 3 * kernel * kernel };
                self.patches = Some((Patches { kernel, stride, pad }, map));
                let to = Map { side: map.side, channels: outputs };
                let size = Size { kernel: 1, stride: 1, pad: 0 };
                self.drafts.push(Draft::new(0, None, size, map, to, raw, shift));
                return Ok(Value::Map(self.drafts.len()));
            }
            Value::Map(map) if map > 0 => (map, None, self.drafts[map - 1].to),
            Value::Norm(map, norm) if size == Size::WINOGRAD => (map, Some(norm), self.drafts[map - 1].to),
            _ => return Err(self.file.differs(node, "it does not follow another convolution")),
        };
        if map.channels != inputs {
            return Err(self.file.differs(node, "it takes another number of channels"));
        }
        let to = Map { side: side(map.side)?, channels: outputs };
        self.drafts.push(Draft::new(from, norm, size, map, to, raw, shift));
        Ok(Value::Map(self.drafts.len()))
    }

    fn normalisation(&mut self, node: &NodeProto, input: Value) -> Result<Value> {
        let Value::Map(map @ 1..) = input else {
            return Err(self.file.differs(node, "it follows no convolution"));
        };
        let [gain, bias, mean, variance] = [1, 2, 3, 4].map(|at| self.file.numbers(node, at));
        let (gain, bias, mean, variance) = (gain?, bias?, mean?, variance?);
        let channels = self.drafts[map - 1].to.channels;
        if [&gain, &bias, &mean, &variance].iter().any(|values| values.len() != channels) {
            return Err(self.file.differs(node, "it is for another number of channels"));
        }
        let eps = f64::from(node.attribute("epsilon").map_or(1e-5, |eps| eps.f));
        let scale: Vec<f64> = gain
            .iter()
            .zip(&variance)
            .map(|(&gain, &variance)| f64::from(gain) / (f64::from(variance) + eps).sqrt())
            .collect();
        let shifted = |values: &dyn Fn(usize) -> f64| -> Vec<f32> {
            (0..channels)
                .map(|c| ((values(c) - f64::from(mean[c])) * scale[c] + f64::from(bias[c])) as f32)
                .collect()
        };
        let alone = self.file.alone(node);
        let draft = &mut self.drafts[map - 1];
        if alone && draft.is_bare() {
            draft.shift = shifted(&|c| f64::from(draft.shift[c]));
            draft.scale = Some(scale.iter().map(|&scale| scale as f32).collect());
            return Ok(Value::Map(map));
        }
        let scale = scale.iter().map(|&scale| scale as f32).collect();
        Ok(Value::Norm(map, [scale, shifted(&|_| 0.0)]))
    }

    /// `slopes` below zero: one for each channel, or for all.
    fn activation(&mut self, node: &NodeProto, input: Value, slopes: &[f32]) -> Result<Value> {
        let Value::Map(map @ 1..) = input else {
            return Err(self.file.differs(node, "it follows no convolution"));
        };
        let alone = self.file.alone(node);
        let draft = &mut self.drafts[map - 1];
        let channels = draft.to.channels;
        let slopes = match slopes {
            &[slope] => vec![slope; channels],
            slopes if slopes.len() == channels => slopes.to_vec(),
            _ => return Err(self.file.differs(node, "it has another number of slopes than channels")),
        };
        let place = if draft.other.is_some() { &mut draft.after } else { &mut draft.before };
        if !alone || place.is_some() {
            return Err(self.file.differs(node, "it does not directly follow a convolution or a sum"));
        }
        *place = Some(slopes);
        Ok(Value::Map(map))
    }

    /// The later of the two maps takes the other one up.
    fn sum(&mut self, node: &NodeProto, a: Value, b: Value) -> Result<Value> {
        let (Value::Map(a), Value::Map(b)) = (a, b) else {
            return Err(self.file.differs(node, "it adds no two feature maps"));
        };
        let (earlier, later) = (a.min(b), a.max(b));
        let name = |map: usize| if map == a { &node.input[0] } else { &node.input[1] };
        let alone = self.file.taken_once(name(later));
        if earlier == 0 || earlier == later {
            return Err(self.file.differs(node, "it adds no two feature maps"));
        }
        if self.drafts[earlier - 1].to != self.drafts[later - 1].to {
            return Err(self.file.differs(node, "it adds maps of other sizes"));
        }
        let draft = &mut self.drafts[later - 1];
        if !alone || draft.other.is_some() || draft.after.is_some() {
            return Err(self
                .file
                .differs(node, "neither of its maps is a convolution's that nothing else takes"));
        }
        draft.other = Some(earlier);
        Ok(Value::Map(later))
    }
}

impl Draft {
    fn new(
        from: usize,
        norm: Option<[Vec<f32>; 2]>,
        size: Size,
        inputs: Map,
        to: Map,
        raw: Bytes,
        shift: Vec<f32>,
    ) -> Self {
        Self { from, norm, size, inputs, to, raw, scale: None, shift, before: None, other: None, after: None }
    }

    /// Whether nothing follows it yet.
    fn is_bare(&self) -> bool {
        self.scale.is_none() && self.before.is_none() && self.other.is_none()
    }

    fn finish(self) -> Step {
        let filled = |values: Vec<f32>, map: Map| -> Vec<f32> {
            let mut values = values;
            values.resize(map.depth(), 0.0);
            values
        };
        let Self { from, norm, size, inputs, to, raw, scale, shift, before, other, after } = self;
        let finish = Finish {
            shift: filled(shift, to),
            before: before.map(|slopes| filled(slopes, to)),
            after: after.map(|slopes| filled(slopes, to)),
        };
        let way = if size == Size::WINOGRAD {
            Way::Winograd { norm: norm.map(|norm| norm.map(|values| filled(values, inputs))) }
        } else {
            Way::Taps { kernel: size.kernel, stride: size.stride, pad: size.pad }
        };
        let weights = Weights::new(raw, to.channels, scale);
        Step { conv: Conv::new(inputs, to, way, weights, finish), from, other }
    }
}

impl Size {
    const WINOGRAD: Self = Self { kernel: 3, stride: 1, pad: 1 };

    /// Pixels along a side of what it gives for so many.
    fn side(self, side: usize) -> Option<usize> {
        (side + 2 * self.pad).checked_sub(self.kernel).map(|free| free / self.stride + 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::error::ErrorKind;
    use crate::onnx::written::{Line, written};
    use crate::{Crop, Cut, RtenTrunk, Trunk, TrunkFile, WinogradTrunk};

    fn network(nodes: &[Line<'_>]) -> TrunkFile {
        let output = nodes.last().unwrap().0;
        TrunkFile::parse(&written(&[1, 3, 112, 112], nodes, &[output]), Cut::End).unwrap()
    }

    #[test]
    fn whatever_follows_a_convolution_is_read_as_another_engine_reads_it() {
        let crop = Crop::from_rgb((0..crate::CROP_LEN).map(|i| (i * i / 7 % 251) as u8).collect::<Vec<_>>())
            .unwrap();
        let networks: [&[Line<'_>]; 6] = [
            // As iResNet: a norm before, an activation within, a projected shortcut that comes after.
            &[
                ("a", "Conv3x2 8 3", &["x"]),
                ("b", "PRelu 8", &["a"]),
                ("n", "BatchNormalization 8", &["b"]),
                ("c", "Conv3x1 8 8", &["n"]),
                ("d", "BatchNormalization 8", &["c"]),
                ("e", "PRelu 8", &["d"]),
                ("f", "Conv3x2 12 8", &["e"]),
                ("s", "Conv1x2 12 8", &["b"]),
                ("g", "Add", &["f", "s"]),
                ("h", "BatchNormalization 12", &["g"]),
                ("o", "Flatten", &["h"]),
            ],
            // As ResNet: activations after the sum, the shortcut's projection first.
            &[
                ("a", "Conv7x2 8 3", &["x"]),
                ("b", "Relu", &["a"]),
                ("s", "Conv1x2 16 8", &["b"]),
                ("c", "Conv3x2 16 8", &["b"]),
                ("d", "Relu", &["c"]),
                ("e", "Conv3x1 16 16", &["d"]),
                ("g", "Add", &["e", "s"]),
                ("h", "Relu", &["g"]),
                ("i", "Conv3x1 16 16", &["h"]),
                ("j", "Add", &["h", "i"]),
                ("o", "LeakyRelu", &["j"]),
            ],
            // A norm that cannot be folded, since its convolution is added as it is.
            &[
                ("a", "Conv3x2 8 3", &["x"]),
                ("n", "BatchNormalization 8", &["a"]),
                ("c", "Conv3x1 8 8", &["n"]),
                ("o", "Add", &["a", "c"]),
            ],
            // Names that stand for the same map, one after the other.
            &[
                ("a", "Conv3x2 8 3", &["x"]),
                ("b", "Identity", &["a"]),
                ("c", "Identity", &["b"]),
                ("o", "Relu", &["c"]),
            ],
            // Maps of a side that no tile divides, down to one pixel.
            &[
                ("a", "Conv5x3 5 3", &["x"]),
                ("b", "Conv3x2 40 5", &["a"]),
                ("c", "Conv3x1 70 40", &["b"]),
                ("d", "Conv3x5 6 70", &["c"]),
                ("o", "Conv3x4 3 6", &["d"]),
            ],
            &[("o", "Conv1x1 2 3", &["x"])],
        ];
        for (at, nodes) in networks.iter().enumerate() {
            let file = network(nodes);
            let found = features(&WinogradTrunk::new(&file).unwrap(), &crop);
            let expected = features(&RtenTrunk::new(file).unwrap(), &crop);
            assert_eq!(found.len(), expected.len(), "network {at}");
            let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 2e-5 * largest,
                    "network {at}: {found}, expected {expected}"
                );
            }
        }
    }

    fn features(trunk: &dyn Trunk, crop: &Crop) -> Vec<f32> {
        let mut out = vec![f32::NAN; trunk.output_len()];
        trunk.features(std::slice::from_ref(crop), &mut out).unwrap();
        out
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        let stem = ("a", "Conv3x2 8 3", ["x"].as_slice());
        let cases: [(&[Line<'_>], &str); 7] = [
            // Two names for one map: what is folded into it would show under both.
            (
                &[
                    stem,
                    ("b", "Identity", &["a"]),
                    ("c", "Identity", &["a"]),
                    ("d", "Relu", &["b"]),
                    ("o", "Add", &["d", "c"]),
                ],
                "`b` (Identity)",
            ),
            (
                &[stem, ("b", "Relu", &["a"]), ("o", "Add", &["a", "b"])],
                "`b` (Relu): it does not directly follow",
            ),
            (&[stem, ("b", "Conv3x1 8 9", &["a"])], "`b` (Conv): it takes another number of channels"),
            (&[stem, ("b", "BatchNormalization 9", &["a"])], "another number of channels"),
            (&[stem, ("o", "Sigmoid", &["a"])], "`o` (Sigmoid): there is no such step here"),
            (&[stem, ("b", "Conv1x2 8 8", &["a"]), ("o", "Add", &["a", "b"])], "maps of other sizes"),
            (
                &[stem, ("b", "Flatten", &["a"]), ("o", "Relu", &["b"])],
                "`o` (Relu): it follows no convolution",
            ),
        ];
        for (nodes, why) in cases {
            let error = WinogradTrunk::new(&network(nodes)).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Engine);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}

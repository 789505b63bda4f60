//! The network, read from ONNX, and its run.

use std::collections::HashMap;

use prost::Message;
use prost::bytes::Bytes;
use rayon::prelude::*;

use super::steps::{self, Depthwise, Pointwise};
use super::{Output, Size};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::graph::Graph;
use crate::onnx::not_onnx;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
use crate::onnx::reading::{Convolution, Reading, numbers};
use crate::patches::Patches;
use crate::spaces::Spaces;

const UNLIKE: &str = "the detector is not made of separable convolutions";

/// More numbers than any detector's map has: 1 GiB.
const MOST_NUMBERS: usize = 1 << 28;

/// Steps in order. Maps are numbered: 0 is the patches of the input, `n` what step `n - 1` gives.
pub(super) struct Network {
    patches: Patches,
    steps: Vec<Step>,
    ends: Vec<End>,
    /// For every step, the maps that nothing takes after it.
    done: Vec<Vec<usize>>,
}

struct Step {
    kind: Kind,
    from: usize,
    channels: usize,
}

enum Kind {
    Pointwise(Pointwise),
    Depthwise(Depthwise),
    /// The largest of 2 x 2.
    Pool,
    /// Each pixel twice in both directions.
    Double,
    /// The sum with this map.
    Add(usize),
}

/// An output: a map's pixels, row by row.
#[derive(Clone, Copy)]
struct End {
    map: usize,
    sigmoid: bool,
}

/// What a name stands for.
#[derive(Clone, Copy)]
enum Value {
    Input,
    Map(usize),
    /// A map with its channels last, and then its pixels in a row: as maps lie here.
    Last(usize),
    End(End),
}

struct Reader<'a> {
    file: Reading<'a>,
    values: HashMap<String, Value>,
    patches: Option<Patches>,
    steps: Vec<Step>,
}

impl Network {
    pub(super) fn read(model: Bytes) -> Result<Self> {
        let model = ModelProto::decode(model).map_err(not_onnx)?;
        let graph = Graph::new(GraphProto::decode(model.graph.unwrap_or_default()).map_err(not_onnx)?)?;
        let file = Reading::new(&graph, UNLIKE);
        let inputs = graph.inputs();
        let &[input] = inputs.as_slice() else { return Err(file.refused("it has several inputs")) };
        let values = HashMap::from([(input.name.clone(), Value::Input)]);
        let mut reader = Reader { file, values, patches: None, steps: Vec::new() };
        for node in graph.nodes().iter().filter(|node| node.op() != "Constant") {
            let value = reader.node(node)?;
            let [output] = node.output.as_slice() else {
                return Err(reader.file.differs(node, "it gives several values"));
            };
            reader.values.insert(output.clone(), value);
        }
        let end = |name: &String| match reader.values.get(name) {
            Some(&Value::End(end)) => Ok(end),
            Some(&Value::Last(map)) => Ok(End { map, sigmoid: false }),
            _ => Err(reader.file.refused(&format!("its output `{name}` is no map's pixels"))),
        };
        let ends = graph.outputs().iter().map(|output| end(&output.name)).collect::<Result<Vec<_>>>()?;
        let Reader { file, patches, steps, .. } = reader;
        let patches = patches.ok_or_else(|| file.refused("it has no convolution"))?;
        let mut last: Vec<usize> = (0..=steps.len()).map(|map| map.saturating_sub(1)).collect();
        for (at, step) in steps.iter().enumerate() {
            last[step.from] = at;
            if let Kind::Add(other) = step.kind {
                last[other] = at;
            }
        }
        for end in &ends {
            last[end.map] = steps.len();
        }
        let mut done = vec![Vec::new(); steps.len()];
        for (map, &at) in last.iter().enumerate().filter(|&(_, &at)| at < steps.len()) {
            done[at].push(map);
        }
        Ok(Self { patches, steps, ends, done })
    }

    /// The outputs for three planes of `size`.
    pub(super) fn run(&self, size: Size, planes: &[f32], spaces: &mut Spaces) -> Result<Vec<Output>> {
        let Patches { kernel, stride, pad } = self.patches;
        let side = |side: usize| {
            let free = (side + 2 * pad).checked_sub(kernel);
            free.map(|free| free / stride + 1).ok_or_else(|| unfit("smaller than the first convolution"))
        };
        let first = Size { width: side(size.width)?, height: side(size.height)? };
        let depth = steps::depth(3 * kernel * kernel);
        check_len(first.pixels() * depth)?;
        let mut map = spaces.take(first.pixels() * depth);
        let rows = map[..first.pixels() * depth].par_chunks_exact_mut(first.width * depth);
        rows.enumerate().for_each(|(y, row)| {
            for (x, out) in row.chunks_exact_mut(depth).enumerate() {
                self.patches.write(planes, [size.width, size.height], [x, y], out);
            }
        });

        let mut sizes = vec![(first, depth)];
        let mut maps = vec![Some(map)];
        for (step, done) in self.steps.iter().zip(&self.done) {
            let (from, depth) = sizes[step.from];
            let (to, depth_out) = match &step.kind {
                Kind::Pointwise(conv) => (from, conv.depth()),
                Kind::Pool => (Size { width: from.width / 2, height: from.height / 2 }, depth),
                Kind::Double => (Size { width: 2 * from.width, height: 2 * from.height }, depth),
                Kind::Depthwise(_) | Kind::Add(_) => (from, depth),
            };
            check_len(to.pixels() * depth_out)?;
            let map = |at: usize| -> &[f32] {
                let (size, depth) = sizes[at];
                maps[at].as_deref().map_or(&[], |map| &map[..size.pixels() * depth])
            };
            let len = to.pixels() * depth_out;
            let mut space = spaces.take(len);
            let (x, out) = (map(step.from), &mut space[..len]);
            match &step.kind {
                Kind::Pointwise(conv) => conv.run(x, out),
                Kind::Depthwise(conv) => conv.run(from, x, out),
                Kind::Pool => steps::pool(depth, from, x, to, out),
                Kind::Double => steps::double(depth, to, x, out),
                &Kind::Add(other) if sizes[other] == (from, depth) => steps::add(x, map(other), out),
                Kind::Add(_) => return Err(unfit("such that two maps that are added differ in size")),
            }
            maps.push(Some(space));
            sizes.push((to, depth_out));
            for &done in done {
                spaces.give(maps[done].take());
            }
        }
        let outputs = self.ends.iter().map(|end| {
            let ((size, depth), channels) = (sizes[end.map], self.channels(end.map));
            let map = maps[end.map].as_deref().unwrap_or_default();
            let pixels = map[..size.pixels() * depth].chunks_exact(depth);
            let mut values: Vec<f32> = pixels.flat_map(|pixel| &pixel[..channels]).copied().collect();
            if end.sigmoid {
                values.iter_mut().for_each(|value| *value = 1.0 / (1.0 + (-*value).exp()));
            }
            Output { shape: vec![1, size.pixels(), channels], values }
        });
        let outputs = outputs.collect();
        spaces.give(maps.into_iter().flatten());
        Ok(outputs)
    }

    fn channels(&self, map: usize) -> usize {
        map.checked_sub(1).map_or(0, |step| self.steps[step].channels)
    }
}

impl Size {
    fn pixels(self) -> usize {
        self.width * self.height
    }
}

impl Reader<'_> {
    fn node(&mut self, node: &NodeProto) -> Result<Value> {
        let taken = |at: usize| node.input.get(at).and_then(|name| self.values.get(name)).copied();
        let known = |at: usize| taken(at).ok_or_else(|| self.file.differs(node, "it takes an unknown value"));
        match (node.op(), known(0)?) {
            ("Conv", value) => self.convolution(node, value),
            ("Relu", Value::Map(map @ 1..)) if self.file.alone(node) => match &mut self.steps[map - 1].kind {
                Kind::Pointwise(Pointwise { relu, .. }) | Kind::Depthwise(Depthwise { relu, .. })
                    if !*relu =>
                {
                    *relu = true;
                    Ok(Value::Map(map))
                }
                _ => Err(self.file.differs(node, "it follows no convolution")),
            },
            ("MaxPool", Value::Map(map @ 1..)) => {
                let two = |name: &str| node.ints(name) == [2, 2];
                if !two("kernel_shape") || !two("strides") || node.ints("pads").iter().any(|&pad| pad != 0) {
                    return Err(self.file.differs(node, "it takes not the largest of 2 x 2"));
                }
                if node.attribute("ceil_mode").is_some_and(|mode| mode.i != 0) {
                    return Err(self.file.differs(node, "it rounds sizes up"));
                }
                Ok(self.push(Kind::Pool, map, self.steps[map - 1].channels))
            }
            ("Resize", Value::Map(map @ 1..)) => {
                let scales = self.file.numbers(node, 2)?;
                let nearest = node.attribute("mode").is_none_or(|mode| mode.s == "nearest".as_bytes());
                if scales != [1.0, 1.0, 2.0, 2.0] || !nearest {
                    return Err(self.file.differs(node, "it does not double"));
                }
                Ok(self.push(Kind::Double, map, self.steps[map - 1].channels))
            }
            ("Add", Value::Map(a @ 1..)) => match known(1)? {
                Value::Map(b @ 1..) if self.steps[a - 1].channels == self.steps[b - 1].channels => {
                    Ok(self.push(Kind::Add(b), a, self.steps[a - 1].channels))
                }
                _ => Err(self.file.differs(node, "it adds no two maps")),
            },
            ("Transpose", Value::Map(map @ 1..)) if node.ints("perm") == [0, 2, 3, 1] => Ok(Value::Last(map)),
            ("Reshape", Value::Last(map)) => {
                let shape = self.file.tensor(node, 1)?;
                // [1, pixels, channels]
                match shape.integers().as_deref() {
                    Some(&[1, -1, channels]) if channels == self.steps[map - 1].channels as i64 => {
                        Ok(Value::End(End { map, sigmoid: false }))
                    }
                    _ => Err(self.file.differs(node, "it does not lay pixels out in a row")),
                }
            }
            ("Sigmoid", Value::End(end)) if !end.sigmoid => Ok(Value::End(End { sigmoid: true, ..end })),
            _ => Err(self.file.differs(node, "there is no such step here")),
        }
    }

    fn convolution(&mut self, node: &NodeProto, value: Value) -> Result<Value> {
        let read = self.file.convolution(node)?;
        let Convolution { outputs, inputs, groups, kernel, stride, pad, bias, .. } = read;
        let weights: Vec<f32> = numbers(&read.weights).collect();
        let channels = |map: usize| self.steps[map - 1].channels;
        match (value, [kernel, stride, pad]) {
            (Value::Input, _) if inputs == 3 && groups == 1 && self.patches.is_none() => {
                self.patches = Some(Patches { kernel, stride, pad });
                let terms = 3 * kernel * kernel;
                Ok(self.push(Kind::Pointwise(Pointwise::new(&weights, terms, &bias)), 0, outputs))
            }
            (Value::Map(map @ 1..), [1, 1, 0]) if groups == 1 && channels(map) == inputs => {
                Ok(self.push(Kind::Pointwise(Pointwise::new(&weights, inputs, &bias)), map, outputs))
            }
            (Value::Map(map @ 1..), [3, 1, 1])
                if inputs == 1 && groups == outputs && channels(map) == outputs =>
            {
                Ok(self.push(Kind::Depthwise(Depthwise::new(&weights, &bias)), map, outputs))
            }
            _ => Err(self.file.differs(node, "it is no separable convolution")),
        }
    }

    fn push(&mut self, kind: Kind, from: usize, channels: usize) -> Value {
        self.steps.push(Step { kind, from, channels });
        Value::Map(self.steps.len())
    }
}

fn check_len(numbers: usize) -> Result<()> {
    match numbers {
        0 => Err(unfit("too small")),
        1..=MOST_NUMBERS => Ok(()),
        _ => Err(unfit("too large")),
    }
}

fn unfit(why: &str) -> Error {
    Error::new(ErrorKind::Engine, format!("the detector's input is {why}; give another side"))
}

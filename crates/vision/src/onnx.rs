//! ONNX files as trunks: checking, cutting, and taking the neck's starting weights out.

pub(crate) mod graph;
mod neck;
pub(crate) mod proto;
pub(crate) mod reading;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod written;

use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use graph::Graph;
pub use neck::NeckWeights;
use proto::{CutModelProto, GraphProto, ModelProto, ValueInfoProto};

/// Where a network is cut to become a trunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cut {
    /// Before the final Gemm and BatchNormalization if the network ends `Flatten -> Gemm ->
    /// BatchNormalization` (they become the [neck](TrunkFile::neck)), else [`Cut::End`]. `Reshape` stands for
    /// `Flatten` and `MatMul [-> Add]` for `Gemm` too. The `BatchNormalization` may be missing (folded) where
    /// the `Gemm` gives fewer values than it takes.
    #[default]
    Auto,
    /// After the value or node of this name; whatever its shape, it is laid out flat.
    Node(String),
    /// At the network's only output.
    End,
}

/// What is known of a network once it has been checked and cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkFacts {
    /// [`TrunkFile::digest`].
    pub digest: [u8; 32],
    /// [`TrunkFile::input`].
    pub input: String,
    /// [`TrunkFile::cut`].
    pub cut: String,
    /// [`TrunkFile::output_len`].
    pub output_len: Option<usize>,
}

/// A network checked and cut, ready for an engine.
#[derive(Clone)]
pub struct TrunkFile {
    /// SHA-256 over the whole file's SHA-256 and the value at which it is cut.
    pub digest: [u8; 32],
    /// The input as the file declares it, e.g. `input.1 [N, 3, 112, 112]`.
    pub input: String,
    /// The value at which the network is cut.
    pub cut: String,
    /// Numbers per crop, where the file tells (an engine finds out in any case).
    pub output_len: Option<usize>,
    /// The layers after an [`Cut::Auto`] cut, if the network ends in them.
    pub neck: Option<NeckWeights>,
    /// Cheap to clone: engines and their references share it.
    model: Bytes,
}

impl TrunkFile {
    /// Reads an ONNX file that takes `[N, 3, 112, 112]` (or `[1, 3, 112, 112]`) of `f32`, cuts it, and drops
    /// everything that the cut leaves without use.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the bytes are not ONNX, are cut short, keep weights in other files, or declare
    /// another input; [`ErrorKind::Cut`] if there is nothing to cut at. The message says what was found and
    /// what is needed.
    pub fn parse(bytes: &[u8], cut: Cut) -> Result<Self> {
        Self::parse_owned(bytes.to_vec(), cut)
    }

    /// As [`TrunkFile::parse`], without a copy of what may be hundreds of megabytes.
    ///
    /// # Errors
    /// As [`TrunkFile::parse`].
    pub fn parse_owned(bytes: Vec<u8>, cut: Cut) -> Result<Self> {
        check_is_protobuf(&bytes)?;
        let file_digest: [u8; 32] = Sha256::digest(&bytes).into();
        let model = ModelProto::decode(Bytes::from(bytes)).map_err(not_onnx)?;
        let Some(graph_bytes) = model.graph.filter(|_| !model.opset_import.is_empty()) else {
            return Err(Error::new(
                ErrorKind::Model,
                "the file holds no ONNX graph; give a network saved as .onnx",
            ));
        };
        let graph = Graph::new(GraphProto::decode(graph_bytes).map_err(not_onnx)?)?;
        let input = graph.check_input()?;

        let end = || graph.only_output();
        let (value, neck) = match &cut {
            Cut::End => (end()?, None),
            Cut::Node(name) => (graph.value_named(name)?, None),
            Cut::Auto => match neck::find(&graph, &end()?)? {
                Some(tail) => (tail.features, Some(tail.neck)),
                None => (end()?, None),
            },
        };
        let output_len = neck.as_ref().map(|neck| neck.input).or_else(|| graph.declared_len(&value));
        let cut_model = CutModelProto {
            ir_version: model.ir_version,
            graph: Some(graph.cut_at(&value)?),
            opset_import: model.opset_import,
            functions: model.functions,
        };
        Ok(Self {
            digest: digest(&file_digest, &value),
            input: describe(&input),
            cut: value,
            output_len,
            neck,
            model: cut_model.encode_to_vec().into(),
        })
    }

    /// A network that was parsed before, from what it gave then: facts, neck, and [`TrunkFile::model`], which may be a mapped
    /// file.
    pub fn known(
        facts: TrunkFacts,
        neck: Option<NeckWeights>,
        model: impl AsRef<[u8]> + Send + 'static,
    ) -> Self {
        let TrunkFacts { digest, input, cut, output_len } = facts;
        Self { digest, input, cut, output_len, neck, model: Bytes::from_owner(model) }
    }

    /// What is known of it.
    pub fn facts(&self) -> TrunkFacts {
        TrunkFacts {
            digest: self.digest,
            input: self.input.clone(),
            cut: self.cut.clone(),
            output_len: self.output_len,
        }
    }

    /// The cut network as an ONNX file that takes `batch` crops, `[batch, 3, 112, 112]`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] if the network was not one.
    pub fn with_batch(&self, batch: usize) -> Result<Vec<u8>> {
        let mut model = CutModelProto::decode(self.model.clone()).map_err(not_onnx)?;
        for input in model.graph.iter_mut().flat_map(|graph| &mut graph.input) {
            input.fix(0, batch);
        }
        Ok(model.encode_to_vec())
    }

    /// The cut network as an ONNX file with one input and one output.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// As [`TrunkFile::model`], without a copy.
    pub(crate) fn shared_model(&self) -> Bytes {
        self.model.clone()
    }

    pub(crate) fn into_model(self) -> Vec<u8> {
        self.model.into()
    }
}

impl std::fmt::Debug for TrunkFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrunkFile")
            .field("input", &self.input)
            .field("cut", &self.cut)
            .field("output_len", &self.output_len)
            .field("neck", &self.neck)
            .finish_non_exhaustive()
    }
}

fn digest(file: &[u8; 32], cut: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"fedgestalt trunk v1\0");
    hash.update(file);
    hash.update(cut.as_bytes());
    hash.finalize().into()
}

/// Tells the common mistakes apart before the parser only says "invalid wire type".
pub(crate) fn check_is_protobuf(bytes: &[u8]) -> Result<()> {
    let found = match bytes {
        [] => "an empty file",
        _ if bytes.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer; fetch the real file with `git lfs pull`"
        }
        _ if bytes.starts_with(b"PK\x03\x04") => "a ZIP archive or PyTorch checkpoint; export it as ONNX",
        _ if bytes.iter().take(512).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => "a text file",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Model, format!("expected an ONNX network, found {found}")))
}

pub(crate) fn not_onnx(error: prost::DecodeError) -> Error {
    Error::with_source(
        ErrorKind::Model,
        format!("the file is not an ONNX network, or it is cut short; get it again from its source: {error}"),
        error,
    )
}

pub(crate) fn describe(input: &ValueInfoProto) -> String {
    let shape: Vec<String> = input.dims().unwrap_or_default().iter().map(ToString::to_string).collect();
    format!("{} [{}]", input.name, shape.join(", "))
}

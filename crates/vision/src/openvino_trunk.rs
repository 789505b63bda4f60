//! Trunks on OpenVINO.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openvino::{CompiledModel, InferRequest};

use crate::crop::{CROP_SIDE, Crop};
use crate::engine::{guarded, panicked};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{TrunkFacts, TrunkFile};
use crate::openvino_file::FileRequest;
use crate::openvino_library::{OPENVINO, OpenVino, Settings, cannot};
use crate::trunk::{Precision, Trunk, check_finite, check_out, check_promise, fill};

/// How a trunk is run.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Batches computed at a time; at least 1. One per thread gives the most crops in a second, one of them all loads in the
    /// least time.
    pub streams: usize,
    /// Threads of all of them together; at least 1.
    pub threads: usize,
    /// Crops in a batch; at least 1. A last batch with fewer crops costs as much as a full one.
    pub batch: usize,
    /// Numbers that the layers are computed in.
    pub precision: Precision,
    /// Folder in which OpenVINO keeps compiled networks, so that the next process starts faster.
    pub cache: Option<&'a Path>,
}

impl Options<'_> {
    fn settings(&self) -> Settings<'_> {
        let (streams, threads) = (self.streams.max(1), self.threads.max(1));
        Settings { streams, threads, precision: self.precision, cache: self.cache }
    }
}

/// A network run by OpenVINO on the CPU.
///
/// Every batch has the same size (the last one is filled up with black crops), so the work done for a crop does not
/// depend on how many crops there are. Threads that share a batch divide its output and not its sums, so the number of
/// threads changes no bit. That a crop's place in the batch does not matter either is up to OpenVINO's kernels for the
/// processor at hand: [`keeps_crops_apart`](crate::keeps_crops_apart) tries it, and a batch of 1 is the way out.
pub struct OpenVinoTrunk {
    requests: Vec<Mutex<Request>>,
    batch: usize,
    output_len: usize,
    digest: [u8; 32],
    precision: Precision,
    // Go last: requests live in a network, and both in the library.
    _network: Option<Mutex<CompiledModel>>,
    _library: Arc<OpenVino>,
}

/// A place to run a network in.
enum Request {
    /// Of one compiled from memory.
    Memory(InferRequest),
    /// Of one compiled from a file.
    File(FileRequest),
}

impl Request {
    fn output_len(&self) -> Result<usize> {
        match self {
            Self::Memory(request) => {
                request.get_output_tensor().and_then(|tensor| tensor.get_size()).map_err(cannot)
            }
            Self::File(request) => request.output_len(),
        }
    }

    /// Runs the network: `fill` writes its input, `take` reads its output.
    fn run(&mut self, fill: impl FnOnce(&mut [f32]), take: impl FnOnce(&[f32]) -> Result<()>) -> Result<()> {
        let request = match self {
            Self::Memory(request) => request,
            Self::File(request) => return request.run(fill, take),
        };
        let mut input = request.get_input_tensor().map_err(cannot)?;
        fill(input.get_data_mut::<f32>().map_err(cannot)?);
        request.infer().map_err(cannot)?;
        let output = request.get_output_tensor().map_err(cannot)?;
        take(output.get_data::<f32>().map_err(cannot)?)
    }
}

impl OpenVinoTrunk {
    /// Compiles a network. Where it does not take the batch (its file may fix one), it is run crop by crop.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if OpenVINO cannot compile it, if a trial run fails or gives numbers of another shape
    /// than the file promises.
    pub fn new(library: &Arc<OpenVino>, file: &TrunkFile, options: &Options<'_>) -> Result<Self> {
        let compiled =
            guarded(OPENVINO, "load", || Self::compile(library, file, options, options.batch.max(1)));
        match compiled {
            Err(_) if options.batch > 1 => {
                guarded(OPENVINO, "load", || Self::compile(library, file, options, 1))
            }
            other => other,
        }
    }

    fn compile(
        library: &Arc<OpenVino>,
        file: &TrunkFile,
        options: &Options<'_>,
        batch: usize,
    ) -> Result<Self> {
        let shape = [Some(batch), Some(3), Some(CROP_SIDE), Some(CROP_SIDE)];
        let mut network = library.compile(file.model(), shape, &options.settings())?;
        let requests = (0..options.streams.max(1))
            .map(|_| Ok(Request::Memory(network.create_infer_request().map_err(cannot)?)))
            .collect::<Result<Vec<_>>>()?;
        Self { _network: Some(Mutex::new(network)), ..Self::of(library, requests, &file.facts(), options) }
            .checked(batch, &file.facts())
    }

    /// Compiles the network of a file that [`TrunkFile::with_batch`] wrote for this size of batch. Where there is a cache,
    /// this takes a fraction of the time of [`OpenVinoTrunk::new`].
    ///
    /// # Errors
    /// As [`OpenVinoTrunk::new`].
    pub fn from_file(
        library: &Arc<OpenVino>,
        file: &Path,
        facts: &TrunkFacts,
        options: &Options<'_>,
    ) -> Result<Self> {
        guarded(OPENVINO, "load", || {
            let network = Arc::new(library.compile_file(file, &options.settings())?);
            let requests = (0..options.streams.max(1)).map(|_| network.request().map(Request::File));
            let requests = requests.collect::<Result<Vec<_>>>()?;
            Self::of(library, requests, facts, options).checked(options.batch.max(1), facts)
        })
    }

    fn of(
        library: &Arc<OpenVino>,
        requests: Vec<Request>,
        facts: &TrunkFacts,
        options: &Options<'_>,
    ) -> Self {
        Self {
            requests: requests.into_iter().map(Mutex::new).collect(),
            batch: 0,
            output_len: 0,
            digest: facts.digest,
            precision: options.precision,
            _network: None,
            _library: library.clone(),
        }
    }

    /// With the length of its output, if that is what the file promises.
    fn checked(self, batch: usize, facts: &TrunkFacts) -> Result<Self> {
        let numbers = self.request(0).output_len()?;
        let output_len = numbers / batch;
        check_promise(output_len, facts.output_len, &facts.cut)?;
        if numbers % batch != 0 {
            return Err(Error::new(
                ErrorKind::Engine,
                format!(
                    "the network gives {numbers} numbers for {batch} crops; export it with a dynamic batch"
                ),
            ));
        }
        Ok(Self { batch, output_len, ..self })
    }

    /// How many batches are run at a time.
    pub fn streams(&self) -> usize {
        self.requests.len()
    }

    /// Crops in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    fn request(&self, index: usize) -> MutexGuard<'_, Request> {
        self.requests[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one batch: `1..=batch` crops.
    fn run(&self, request: &mut Request, crops: &[Crop], out: &mut [f32]) -> Result<()> {
        let take = |features: &[f32]| {
            let features = features.get(..out.len()).ok_or_else(|| {
                Error::new(ErrorKind::Engine, "OpenVINO gave fewer numbers than before; use another engine")
            })?;
            check_finite(features)?;
            out.copy_from_slice(features);
            Ok(())
        };
        guarded(OPENVINO, "run", || request.run(|planes| fill(crops, planes), take))
    }
}

impl Trunk for OpenVinoTrunk {
    fn output_len(&self) -> usize {
        self.output_len
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn features(&self, crops: &[Crop], out: &mut [f32]) -> Result<()> {
        check_out(crops.len(), self.output_len, out)?;
        let batches = crops.chunks(self.batch).zip(out.chunks_mut(self.batch * self.output_len));
        let queue = Mutex::new(batches);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = |index: usize| -> Result<()> {
            let mut request = self.request(index);
            while let Some((crops, out)) = next() {
                self.run(&mut request, crops, out)?;
            }
            Ok(())
        };
        let workers = crops.len().div_ceil(self.batch).min(self.requests.len());
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|index| scope.spawn(move || work(index))).collect();
            running
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(panicked(OPENVINO, "run"))))
        })
    }

    fn engine(&self) -> &str {
        "openvino"
    }

    fn precision(&self) -> Precision {
        self.precision
    }
}

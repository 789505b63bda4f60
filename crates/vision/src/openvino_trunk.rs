//! Trunks on OpenVINO.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openvino::{CompiledModel, InferRequest};

use crate::crop::{CROP_SIDE, Crop};
use crate::engine::{guarded, panicked};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::TrunkFile;
use crate::openvino_library::{OPENVINO, OpenVino, Settings, cannot};
use crate::trunk::{Precision, Trunk, check_finite, check_out, check_promise, fill};

/// How a trunk is run.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Batches computed at a time, one thread each; at least 1.
    pub threads: usize,
    /// Crops in a batch; at least 1. A last batch with fewer crops costs as much as a full one.
    pub batch: usize,
    /// Numbers that the layers are computed in.
    pub precision: Precision,
    /// Folder in which OpenVINO keeps compiled networks, so that the next process starts faster.
    pub cache: Option<&'a Path>,
}

/// A network run by OpenVINO on the CPU.
///
/// Every batch has the same size (the last one is filled up with black crops) and is computed by one thread, so
/// the work done for a crop does not depend on how many crops there are or on the number of threads. That its place
/// in the batch does not matter either is up to OpenVINO's kernels for the processor at hand:
/// [`keeps_crops_apart`](crate::keeps_crops_apart) tries it, and a batch of 1 is the way out.
pub struct OpenVinoTrunk {
    requests: Vec<Mutex<InferRequest>>,
    batch: usize,
    output_len: usize,
    digest: [u8; 32],
    precision: Precision,
    // Goes last: requests and network live in the library.
    _network: Mutex<CompiledModel>,
    _library: Arc<OpenVino>,
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
        let threads = options.threads.max(1);
        let settings =
            Settings { streams: threads, threads, precision: options.precision, cache: options.cache };
        let shape = [Some(batch), Some(3), Some(CROP_SIDE), Some(CROP_SIDE)];
        let mut network = library.compile(file.model(), shape, &settings)?;
        let requests = (0..threads)
            .map(|_| network.create_infer_request().map(Mutex::new))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(cannot)?;
        let mut trunk = Self {
            requests,
            batch,
            output_len: 0,
            digest: file.digest,
            precision: options.precision,
            _network: Mutex::new(network),
            _library: library.clone(),
        };
        let numbers = trunk.output_numbers()?;
        trunk.output_len = numbers / batch;
        check_promise(trunk.output_len, file.output_len, &file.cut)?;
        if numbers % batch != 0 {
            return Err(Error::new(
                ErrorKind::Engine,
                format!(
                    "the network gives {numbers} numbers for {batch} crops; export it with a dynamic batch"
                ),
            ));
        }
        Ok(trunk)
    }

    /// How many batches are run at a time.
    pub fn threads(&self) -> usize {
        self.requests.len()
    }

    /// Crops in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    fn request(&self, index: usize) -> MutexGuard<'_, InferRequest> {
        self.requests[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output_numbers(&self) -> Result<usize> {
        let tensor = self.request(0).get_output_tensor().map_err(cannot)?;
        tensor.get_size().map_err(cannot)
    }

    /// Runs one batch: `1..=batch` crops.
    fn run(&self, request: &mut InferRequest, crops: &[Crop], out: &mut [f32]) -> Result<()> {
        guarded(OPENVINO, "run", || {
            let mut input = request.get_input_tensor().map_err(cannot)?;
            let planes = input.get_data_mut::<f32>().map_err(cannot)?;
            fill(crops, planes);
            request.infer().map_err(cannot)?;
            let output = request.get_output_tensor().map_err(cannot)?;
            let features = output.get_data::<f32>().map_err(cannot)?;
            let features = features.get(..out.len()).ok_or_else(|| {
                Error::new(ErrorKind::Engine, "OpenVINO gave fewer numbers than before; use another engine")
            })?;
            check_finite(features)?;
            out.copy_from_slice(features);
            Ok(())
        })
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

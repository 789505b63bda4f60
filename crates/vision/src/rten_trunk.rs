//! Trunks on rten, the pure-Rust inference engine.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rten::{LoadError, Model, ModelOptions, NodeId, RunOptions, ThreadPool};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensorView, Tensor};

use crate::crop::{CROP_SIDE, Crop};
use crate::engine::{guarded, panicked};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{TrunkFacts, TrunkFile};
use crate::trunk::{INPUT_LEN, Precision, Trunk, check_finite, check_out, check_promise, to_input};

pub(crate) const RTEN: &str = "rten";

/// A network run by rten on the CPU.
///
/// Every crop is run by itself on one thread, as many crops at a time as there are threads. So the features
/// of a crop cannot depend on the crops beside it or on the number of threads. They do depend, in the last
/// bits, on the vector instructions of the processor.
pub struct RtenTrunk {
    model: Model,
    input: NodeId,
    output: NodeId,
    output_len: usize,
    digest: [u8; 32],
    cut: String,
    workers: Vec<Arc<ThreadPool>>,
}

impl RtenTrunk {
    /// Loads a network with as many threads as the current rayon pool has.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if rten cannot load it, or if one run on a black crop fails or gives numbers of
    /// another shape than the file promises.
    pub fn new(file: TrunkFile) -> Result<Self> {
        Self::with_threads(file, rayon::current_num_threads())
    }

    /// Loads a network that runs on `threads` threads (at least 1).
    ///
    /// # Errors
    /// As [`RtenTrunk::new`].
    pub fn with_threads(file: TrunkFile, threads: usize) -> Result<Self> {
        let facts = file.facts();
        let mut trunk = Self::load(&facts, threads, |options| options.load(file.into_model()))?;
        trunk.output_len = trunk.run(&Crop::black(), &trunk.workers[0])?.len();
        check_promise(trunk.output_len, facts.output_len, &trunk.cut)?;
        Ok(trunk)
    }

    /// Loads a network that was checked, cut and run before from the file that [`TrunkFile::model`] was kept in: weights are
    /// read to where they stay. It is not tried again; every run is checked as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if the file is not there or is not such a network, or if `facts` lack the output's length.
    pub fn from_file(file: &Path, facts: &TrunkFacts, threads: usize) -> Result<Self> {
        let Some(promised) = facts.output_len else {
            return Err(Error::new(ErrorKind::Engine, "the length of the network's output is not known"));
        };
        let mut trunk = Self::load(facts, threads, |options| options.load_file(file))?;
        trunk.output_len = promised;
        Ok(trunk)
    }

    fn load(
        facts: &TrunkFacts,
        threads: usize,
        load: impl FnOnce(&ModelOptions) -> std::result::Result<Model, LoadError>,
    ) -> Result<Self> {
        let mut options = ModelOptions::with_all_ops();
        options.prepack_weights(true);
        let model = guarded(RTEN, "load", || {
            load(&options).map_err(|e| {
                Error::with_source(
                    ErrorKind::Engine,
                    format!("rten cannot load the network; export it with standard operators: {e}"),
                    e,
                )
            })
        })?;
        let (&[input], &[output]) = (model.input_ids(), model.output_ids()) else {
            return Err(Error::new(
                ErrorKind::Engine,
                "rten does not see one input and one output in the cut network; cut it elsewhere",
            ));
        };
        let workers = (0..threads.max(1)).map(|_| Arc::new(ThreadPool::with_num_threads(1))).collect();
        let output_len = facts.output_len.unwrap_or_default();
        Ok(Self { model, input, output, output_len, digest: facts.digest, cut: facts.cut.clone(), workers })
    }

    /// How many crops are run at a time.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    fn run(&self, crop: &Crop, pool: &Arc<ThreadPool>) -> Result<Tensor<f32>> {
        let mut input = vec![0.0; INPUT_LEN];
        to_input(crop, &mut input);
        let view = NdTensorView::from_data([1, 3, CROP_SIDE, CROP_SIDE], input.as_slice());
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::with_source(
                ErrorKind::Engine,
                format!(
                    "rten cannot run the network; export it for an input of [1, 3, {CROP_SIDE}, {CROP_SIDE}]: {e}"
                ),
                e,
            )
        };
        let inputs = vec![(self.input, view.into())];
        let [output] = guarded(RTEN, "run", || {
            self.model.run_n(inputs, [self.output], Some(options)).map_err(|e| failed(e.into()))
        })?;
        let output: Tensor<f32> = output.try_into().map_err(|e: rten::TryFromValueError| failed(e.into()))?;
        check_finite(output.iter())?;
        Ok(output)
    }
}

impl Trunk for RtenTrunk {
    fn output_len(&self) -> usize {
        self.output_len
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn features(&self, crops: &[Crop], out: &mut [f32]) -> Result<()> {
        check_out(crops.len(), self.output_len, out)?;
        let queue = Mutex::new(crops.iter().zip(out.chunks_exact_mut(self.output_len)));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = |pool: &Arc<ThreadPool>| -> Result<()> {
            while let Some((crop, out)) = next() {
                let features = self.run(crop, pool)?;
                check_promise(features.len(), Some(self.output_len), &self.cut)?;
                for (out, &value) in out.iter_mut().zip(features.iter()) {
                    *out = value;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = self
                .workers
                .iter()
                .take(crops.len())
                .map(|pool| scope.spawn(|| pool.run(|| work(pool))))
                .collect();
            running
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(panicked(RTEN, "run"))))
        })
    }

    fn engine(&self) -> &str {
        RTEN
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

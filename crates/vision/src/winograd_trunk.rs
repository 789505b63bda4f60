//! Trunks on the engine of this crate, for residual networks.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::crop::Crop;
use crate::engine::guarded;
use crate::error::Result;
use crate::onnx::TrunkFile;
use crate::trunk::{Precision, Trunk, check_finite, check_out, check_promise};
use crate::winograd::{Runner, Workspace};

const WINOGRAD: &str = "winograd";

/// A residual network of plain convolutions (an iResNet), run on the CPU in single precision by Winograd's minimal filtering:
/// about a quarter of the products of other engines.
///
/// The features of a crop do not depend on the crops beside it or on the number of threads. They do depend, in the last bits, on
/// whether the processor adds products in one rounding.
pub struct WinogradTrunk {
    runner: Runner,
    digest: [u8; 32],
    workspaces: Arc<Workspaces>,
}

/// Memory that no run uses at the moment.
type Workspaces = Mutex<Vec<Workspace>>;

/// That of all networks of this process, as long as there are any: they run one after the other.
static WORKSPACES: Mutex<Weak<Workspaces>> = Mutex::new(Weak::new());

fn workspaces() -> Arc<Workspaces> {
    let mut shared = WORKSPACES.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let new = Arc::default();
        *shared = Arc::downgrade(&new);
        new
    })
}

impl WinogradTrunk {
    /// Loads a network. It is run by as many threads as the rayon pool has in which [`Trunk::features`] is called.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`](crate::ErrorKind::Engine) if it has anything but plain convolutions, normalisations, activations
    /// and sums of maps, or gives features of another length than the file promises.
    pub fn new(file: &TrunkFile) -> Result<Self> {
        let runner = guarded(WINOGRAD, "load", || Runner::read(file.shared_model()))?;
        check_promise(runner.output_len(), file.output_len, &file.cut)?;
        Ok(Self { runner, digest: file.digest, workspaces: workspaces() })
    }
}

impl Trunk for WinogradTrunk {
    fn output_len(&self) -> usize {
        self.runner.output_len()
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn features(&self, crops: &[Crop], out: &mut [f32]) -> Result<()> {
        check_out(crops.len(), self.output_len(), out)?;
        let workspaces = || self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workspace = workspaces().pop().unwrap_or_default();
        guarded(WINOGRAD, "run", || {
            self.runner.run(crops, out, &mut workspace);
            Ok(())
        })?;
        workspaces().push(workspace);
        check_finite(&*out)
    }

    fn engine(&self) -> &str {
        WINOGRAD
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

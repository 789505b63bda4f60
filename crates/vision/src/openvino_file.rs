//! Networks that OpenVINO compiles from a file. With a cache it then knows a compiled network by its file's path, size and
//! time, and neither reads nor digests hundreds of megabytes of weights again; the `openvino` crate compiles only what is
//! in memory.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use openvino::RwPropertyKey;
use openvino_sys as sys;

use crate::error::{Error, ErrorKind, Result};
use crate::openvino_library::OPENVINO;

const CPU: &CStr = c"CPU";

/// A compiled network. Its library must be loaded and stay so, as [`OpenVino`](crate::OpenVino)'s does.
pub(crate) struct FileNetwork {
    // In the order in which they are freed.
    network: Handle<sys::ov_compiled_model_t>,
    _core: Handle<sys::ov_core_t>,
}

/// A place to run a network in, for one thread at a time.
pub(crate) struct FileRequest {
    // In the order in which they are freed.
    request: Handle<sys::ov_infer_request_t>,
    _network: Arc<FileNetwork>,
}

/// A pointer that OpenVINO gave us to own.
struct Handle<T> {
    pointer: NonNull<T>,
    free: unsafe fn(*mut T),
}

// SAFETY: OpenVINO's objects are not bound to the thread that made them.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: what is shared between threads is a compiled network, from which they may make requests at the same time.
unsafe impl Sync for FileNetwork {}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the call that belongs to `free`, and nobody else frees it.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

impl<T> Handle<T> {
    /// What `make` writes into the place it is given.
    fn new(
        doing: &str,
        free: unsafe fn(*mut T),
        make: impl FnOnce(*mut *mut T) -> sys::ov_status_e,
    ) -> Result<Self> {
        let mut pointer = null_mut();
        check(doing, make(&mut pointer))?;
        let pointer = NonNull::new(pointer).ok_or_else(|| failed(doing, "it gave nothing"))?;
        Ok(Self { pointer, free })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl FileNetwork {
    /// Compiles the network in `file`, which says its input's shape, with these properties of the CPU.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] with OpenVINO's reason.
    pub(crate) fn compile(file: &Path, properties: &[(RwPropertyKey, String)]) -> Result<Self> {
        let path = text("path", &file.to_string_lossy())?;
        // SAFETY (here and below): pointers are to live objects of the type that the C interface names, texts end with
        // a zero byte and outlive the call.
        let core = Handle::new("start", sys::ov_core_free, |place| unsafe { sys::ov_core_create(place) })?;
        for (key, value) in properties {
            let (key, value) = (text("property", key.as_ref())?, text("property", value)?);
            let set =
                unsafe { sys::ov_core_set_property(core.get(), CPU.as_ptr(), key.as_ptr(), value.as_ptr()) };
            check("set a property", set)?;
        }
        let network = Handle::new("compile the network", sys::ov_compiled_model_free, |place| unsafe {
            sys::ov_core_compile_model_from_file(core.get(), path.as_ptr(), CPU.as_ptr(), 0, place)
        })?;
        Ok(Self { network, _core: core })
    }

    /// A place to run it in.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] with OpenVINO's reason.
    pub(crate) fn request(self: &Arc<Self>) -> Result<FileRequest> {
        let request = Handle::new("prepare a run", sys::ov_infer_request_free, |place| unsafe {
            sys::ov_compiled_model_create_infer_request(self.network.get(), place)
        })?;
        Ok(FileRequest { request, _network: self.clone() })
    }
}

impl FileRequest {
    /// Numbers that a run gives.
    ///
    /// # Errors
    /// As [`FileRequest::run`].
    pub(crate) fn output_len(&self) -> Result<usize> {
        Ok(self.output()?.values()?.len())
    }

    /// Runs the network: `fill` writes its input, `take` reads its output.
    ///
    /// # Errors
    /// [`ErrorKind::Engine`] if OpenVINO fails or the network does not take and give `f32`; what `take` returns.
    pub(crate) fn run<R>(
        &mut self,
        fill: impl FnOnce(&mut [f32]),
        take: impl FnOnce(&[f32]) -> Result<R>,
    ) -> Result<R> {
        let mut input = Tensor::new(|place| unsafe {
            sys::ov_infer_request_get_input_tensor(self.request.get(), place)
        })?;
        fill(input.values_mut()?);
        check("run the network", unsafe { sys::ov_infer_request_infer(self.request.get()) })?;
        take(self.output()?.values()?)
    }

    fn output(&self) -> Result<Tensor> {
        Tensor::new(|place| unsafe { sys::ov_infer_request_get_output_tensor(self.request.get(), place) })
    }
}

/// A tensor of `f32` that belongs to a request.
struct Tensor(Handle<sys::ov_tensor_t>);

impl Tensor {
    fn new(make: impl FnOnce(*mut *mut sys::ov_tensor_t) -> sys::ov_status_e) -> Result<Self> {
        let tensor = Self(Handle::new("give a tensor", sys::ov_tensor_free, make)?);
        let mut kind = sys::ov_element_type_e::DYNAMIC;
        check("tell a tensor's type", unsafe { sys::ov_tensor_get_element_type(tensor.0.get(), &mut kind) })?;
        if kind != sys::ov_element_type_e::F32 {
            return Err(failed("run the network", "it does not take and give float32"));
        }
        Ok(tensor)
    }

    /// Where its numbers lie, and how many they are.
    fn parts(&self) -> Result<(*mut f32, usize)> {
        let (mut len, mut data) = (0, null_mut());
        check("tell a tensor's size", unsafe { sys::ov_tensor_get_size(self.0.get(), &mut len) })?;
        check("give a tensor's data", unsafe { sys::ov_tensor_data(self.0.get(), &mut data) })?;
        if data.is_null() || !data.cast::<f32>().is_aligned() {
            return Err(failed("give a tensor's data", "it has no place"));
        }
        Ok((data.cast(), len))
    }

    fn values(&self) -> Result<&[f32]> {
        let (data, len) = self.parts()?;
        // SAFETY: `len` numbers of type f32 (seen in `new`) lie there as long as the tensor lives, which is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(data, len) })
    }

    fn values_mut(&mut self) -> Result<&mut [f32]> {
        let (data, len) = self.parts()?;
        // SAFETY: as above; the request that shares the numbers is borrowed for writing, and does not run.
        Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
    }
}

fn text(what: &str, value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| failed("compile the network", &format!("a {what} with a zero byte")))
}

fn check(doing: &str, status: sys::ov_status_e) -> Result<()> {
    if status == sys::ov_status_e::OK {
        return Ok(());
    }
    // SAFETY: a text of the library that outlives it, or nothing.
    let reason = unsafe { sys::ov_get_last_err_msg() };
    let reason = (!reason.is_null()).then(|| unsafe { CStr::from_ptr(reason) }.to_string_lossy());
    Err(failed(doing, reason.as_deref().unwrap_or("it says nothing more")))
}

fn failed(doing: &str, reason: &str) -> Error {
    Error::new(
        ErrorKind::Engine,
        format!("{OPENVINO} cannot {doing}; use the engine rten for it: {}", reason.trim_end()),
    )
}

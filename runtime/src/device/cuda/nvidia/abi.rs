//! libcuda's functions, looked up by name in the library that cudarc opened, with result codes as integers.
//!
//! cudarc's functions return an enum of the known result codes. A newer driver may return another code, which would be an
//! invalid enum value. Signatures are compared with cudarc's, which come from NVIDIA's headers.

use std::ffi::{CString, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUjit_option, CUmodule, CUresult, CUstream, CUstreamCaptureMode, CUtensorMap, CUtensorMapDataType,
    CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion, CUtensorMapSwizzle, cuuint32_t, cuuint64_t,
};

/// A result code, a `CUresult` that may be unknown to cudarc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Answer(pub(super) u32);

impl Answer {
    /// True if this is the code `known`.
    pub(super) fn is(self, known: CUresult) -> bool {
        self.0 == known as u32
    }
}

/// Looks up a function of libcuda.
///
/// # Safety
/// `F` must be the type of a pointer to the function `name`, and libcuda must be installed.
unsafe fn symbol<F: Copy>(name: &str) -> Option<F> {
    let name = CString::new(name).ok()?;
    // SAFETY: the library is installed (caller) and never unloaded (cudarc keeps it), so the pointer stays valid. The caller
    // guarantees its type.
    unsafe { sys::culib().get::<F>(name.as_bytes_with_nul()).ok().map(|found| *found) }
}

macro_rules! functions {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => { $(
        // Checks the signature against the headers.
        const _: unsafe fn($($ty),*) -> CUresult = sys::$name;

        /// The function of this name in NVIDIA's documentation; `CUDA_ERROR_NOT_FOUND` if the driver does not have it.
        ///
        /// # Safety
        /// The caller must meet the requirements of NVIDIA's documentation, and libcuda must be installed.
        #[allow(non_snake_case, clippy::too_many_arguments, reason = "name and arguments are NVIDIA's")]
        pub(super) unsafe fn $name($($arg: $ty),*) -> Answer {
            type Function = unsafe extern "C" fn($($ty),*) -> u32;
            static FOUND: OnceLock<Option<Function>> = OnceLock::new();
            // SAFETY: the signature is that of the headers, except that the result enum is its integer type.
            match FOUND.get_or_init(|| unsafe { symbol(stringify!($name)) }) {
                // SAFETY: the caller meets the requirements of the documentation.
                Some(function) => Answer(unsafe { function($($arg),*) }),
                None => Answer(CUresult::CUDA_ERROR_NOT_FOUND as u32),
            }
        }
    )* };
}

functions! {
    cuInit(flags: c_uint);
    cuDriverGetVersion(version: *mut c_int);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuCtxPushCurrent_v2(context: CUcontext);
    cuCtxPopCurrent_v2(context: *mut CUcontext);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    cuMemFree_v2(address: CUdeviceptr);
    cuMemAllocHost_v2(memory: *mut *mut c_void, bytes: usize);
    cuMemFreeHost(memory: *mut c_void);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemsetD8Async(at: CUdeviceptr, value: c_uchar, bytes: usize, stream: CUstream);
    cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        n_options: c_uint,
        options: *mut CUjit_option,
        values: *mut *mut c_void
    );
    cuModuleUnload(module: CUmodule);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuFuncGetAttribute(value: *mut c_int, attribute: CUfunction_attribute, function: CUfunction);
    cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    cuTensorMapEncodeTiled(
        map: *mut CUtensorMap,
        elem: CUtensorMapDataType,
        rank: cuuint32_t,
        address: *mut c_void,
        dims: *const cuuint64_t,
        strides: *const cuuint64_t,
        sides: *const cuuint32_t,
        every: *const cuuint32_t,
        interleave: CUtensorMapInterleave,
        swizzle: CUtensorMapSwizzle,
        promotion: CUtensorMapL2promotion,
        fill: CUtensorMapFloatOOBfill
    );
    cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: CUstream,
        params: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    cuGraphInstantiateWithFlags(executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    cuGraphDestroy(graph: CUgraph);
    cuGraphExecDestroy(executable: CUgraphExec);
    cuGraphLaunch(executable: CUgraphExec, stream: CUstream);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventSynchronize(event: CUevent);
}

/// The driver's text for a result code, by `cuGetErrorName` or `cuGetErrorString`; None if the driver does not know the
/// code.
pub(super) fn words(function: &str, answer: Answer) -> Option<String> {
    type Function = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
    let mut words = std::ptr::null();
    // SAFETY: both functions have this type, except that the result enum is its integer type; `words` is a local variable.
    // The library is installed, since it returned a result code.
    let known = unsafe { Answer(symbol::<Function>(function)?(answer.0, &mut words)) };
    super::text(words).filter(|_| known.is(CUresult::CUDA_SUCCESS))
}

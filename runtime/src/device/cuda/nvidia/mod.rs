//! Implements [`Driver`] with NVIDIA's libcuda. The library is loaded when the first GPU is opened, so programs that use no
//! GPU do not need it.
//!
//! All plans of a process share the device's primary context, as other CUDA libraries do: contexts of their own would take
//! turns on the device, and each would hold some hundred MB. A fault of a kernel ends the context, and so every plan on that
//! device. Each call restores the calling thread's context.

mod abi;
mod calls;
mod library;
mod staging;
#[cfg(test)]
mod tests;

use std::ffi::{CString, c_char, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUresult};

use self::abi::Answer;
use self::calls::check;
use self::staging::Staging;
use super::driver::{DeviceCode, DeviceInfo, Driver, DriverError, GraphId, KernelNeeds, LaunchOf, TensorMapOf};
use crate::RuntimeError;
use jamba_plan::format::{Swizzle, TensorElem};

/// Dynamic shared memory available without opting in, in bytes.
const FREE_SHARED_BYTES: u32 = 48 << 10;

/// Share of the memory of a multiprocessor that is shared memory, not L1, in percent.
const MOST_SHARED_PERCENT: i32 = 100;

/// Size of the buffer for messages of the driver's assembler, in bytes.
const LOG_BYTES: usize = 8192;

/// An NVIDIA GPU.
pub(crate) struct Nvidia {
    info: DeviceInfo,
    device: sys::CUdevice,
    /// The device's primary context, which this driver retains.
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: Vec<sys::CUfunction>,
    graphs: Vec<sys::CUgraphExec>,
    /// Addresses from `cuMemAlloc`.
    allocations: Vec<sys::CUdeviceptr>,
    staging: Staging,
}

// SAFETY: the handles belong to the context. Every method makes it current on the calling thread first, which the driver
// permits on any thread; `&mut self` and ownership ensure that one thread uses it at a time.
unsafe impl Send for Nvidia {}

/// Keeps a context current on the calling thread until it is dropped.
struct Current;

impl Current {
    fn new(context: sys::CUcontext) -> Result<Current, DriverError> {
        // SAFETY: `context` was retained by `Nvidia::open` and is released only when its driver is dropped.
        check("cuCtxPushCurrent", unsafe { abi::cuCtxPushCurrent_v2(context) })?;
        Ok(Current)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: the context pushed by `new` is on top of the stack. An error cannot be reported from `drop`.
        let _ = unsafe { abi::cuCtxPopCurrent_v2(&mut context) };
    }
}

impl Nvidia {
    /// Opens the GPU with this index.
    ///
    /// # Errors
    /// [`RuntimeError::NoDriver`], [`RuntimeError::NoSuchDevice`], or the error of the failed call.
    pub(crate) fn open(number: u32) -> Result<Nvidia, RuntimeError> {
        let (device, mut info) = library::device(number)?;
        let failed = |error: DriverError| super::Fault::of_call("opening the device", error).error(&info.name);
        let mut context = null_mut();
        // SAFETY: `device` is a handle from `cuDeviceGet`; `context` is a local variable.
        let retained = unsafe { abi::cuDevicePrimaryCtxRetain(&mut context, device) };
        check("cuDevicePrimaryCtxRetain", retained).map_err(failed)?;
        let mut driver = Nvidia {
            info: info.clone(),
            device,
            context,
            stream: null_mut(),
            modules: Vec::new(),
            functions: Vec::new(),
            graphs: Vec::new(),
            allocations: Vec::new(),
            staging: Staging::none(),
        };
        let current = driver.current().map_err(failed)?;
        // SAFETY: a context is current; `driver.stream` is writable.
        let made =
            unsafe { abi::cuStreamCreate(&mut driver.stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        check("cuStreamCreate", made).map_err(failed)?;
        driver.staging.allocate().map_err(failed)?;
        let (free, total) = memory().map_err(failed)?;
        (info.free_bytes, info.total_bytes) = (free, total);
        drop(current);
        driver.info = info;
        Ok(driver)
    }

    /// Makes the context current until the guard is dropped.
    fn current(&self) -> Result<Current, DriverError> {
        Current::new(self.context)
    }

    /// Loads assembled code if the driver accepts it, otherwise PTX.
    fn module(&self, code: DeviceCode<'_>) -> Result<sys::CUmodule, DriverError> {
        if let Some(cubin) = code.cubin
            && let Ok(module) = load(cubin)
        {
            return Ok(module);
        }
        let ptx = CString::new(code.ptx).map_err(|_| DriverError::Code("its PTX contains a zero byte".to_owned()))?;
        load(ptx.as_bytes_with_nul())
    }
}

/// Free and total memory of the current context's device, in bytes.
fn memory() -> Result<(u64, u64), DriverError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: both pointers are to local variables.
    check("cuMemGetInfo", unsafe { abi::cuMemGetInfo_v2(&mut free, &mut total) })?;
    Ok((free as u64, total as u64))
}

/// Like [`check`], but maps out-of-memory to [`DriverError::OutOfMemory`].
fn out_of_memory(call: &'static str, answer: Answer, wanted: u64) -> Result<(), DriverError> {
    if answer.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
        let (free, _) = memory()?;
        return Err(DriverError::OutOfMemory { wanted, free });
    }
    check(call, answer)
}

/// Loads an image: assembled code, or zero-terminated PTX.
fn load(image: &[u8]) -> Result<sys::CUmodule, DriverError> {
    let (mut module, mut log) = (null_mut(), vec![0_u8; LOG_BYTES]);
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The size is passed in place of a pointer.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES)];
    // SAFETY: the image is complete: all parts of a plan's cubin lie in it (`cubin::check`), and PTX is zero-terminated (the caller
    // adds the zero). The log has the size that the options state and outlives the call.
    let result = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        abi::cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 2, options, values)
    };
    if result.is(CUresult::CUDA_SUCCESS) {
        return Ok(module);
    }
    out_of_memory("cuModuleLoadDataEx", result, image.len() as u64).map_err(|error| match error {
        DriverError::Call { message, .. } => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_BYTES);
            let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
            DriverError::Code(if log.is_empty() { message } else { format!("{message}\n{log}") })
        }
        error => error,
    })?;
    Ok(module)
}

/// Looks up a kernel, forces its code to be loaded, and sets its shared memory limit.
fn function(module: sys::CUmodule, kernel: &KernelNeeds<'_>) -> Result<sys::CUfunction, DriverError> {
    let refused = |error: DriverError| match error {
        DriverError::Call { message, .. } => DriverError::Code(format!("kernel {}: {message}", kernel.symbol)),
        error => error,
    };
    let symbol = CString::new(kernel.symbol)
        .map_err(|_| DriverError::Code(format!("kernel {:?} has a zero byte in its name", kernel.symbol)))?;
    let (mut function, mut registers) = (null_mut(), 0);
    // SAFETY: `module` is loaded; `symbol` is a C string.
    check("cuModuleGetFunction", unsafe { abi::cuModuleGetFunction(&mut function, module, symbol.as_ptr()) })
        .map_err(refused)?;
    // All kernels ask for the same division between shared memory and L1: a multiprocessor would have to drain to change it.
    let carveout = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
    // SAFETY: `function` was just found.
    check("cuFuncSetAttribute", unsafe { abi::cuFuncSetAttribute(function, carveout, MOST_SHARED_PERCENT) })
        .map_err(refused)?;
    // Drivers load a function lazily on its first use, which must not happen during a capture.
    let of = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
    // SAFETY: `function` was just found; `registers` is a local variable.
    check("cuFuncGetAttribute", unsafe { abi::cuFuncGetAttribute(&mut registers, of, function) }).map_err(refused)?;
    if kernel.shared_bytes > FREE_SHARED_BYTES {
        let of = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: `function` was just found.
        let set = unsafe { abi::cuFuncSetAttribute(function, of, kernel.shared_bytes as i32) };
        check("cuFuncSetAttribute", set).map_err(refused)?;
    }
    Ok(function)
}

impl Driver for Nvidia {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn load(&mut self, code: DeviceCode<'_>, kernels: &[KernelNeeds<'_>]) -> Result<(), DriverError> {
        let _current = self.current()?;
        let module = self.module(code)?;
        self.modules.push(module);
        self.functions = kernels.iter().map(|kernel| function(module, kernel)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn allocate(&mut self, _what: &'static str, bytes: u64) -> Result<u64, DriverError> {
        let _current = self.current()?;
        let mut address = 0;
        // SAFETY: `address` is a local variable.
        let result = unsafe { abi::cuMemAlloc_v2(&mut address, bytes as usize) };
        out_of_memory("cuMemAlloc", result, bytes)?;
        self.allocations.push(address);
        Ok(address)
    }

    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DriverError> {
        let _current = self.current()?;
        self.staging.upload(self.stream, to, bytes)
    }

    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError> {
        let _current = self.current()?;
        self.staging.download(self.stream, from, bytes)
    }

    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: `Driver::copy` requires ranges inside allocations that do not overlap.
        check("cuMemcpyDtoDAsync", unsafe { abi::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, self.stream) })
    }

    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: `Driver::fill` requires a range inside an allocation.
        check("cuMemsetD8Async", unsafe { abi::cuMemsetD8Async(at, value, bytes as usize, self.stream) })
    }

    fn tensor_map(&mut self, map: &TensorMapOf) -> Result<[u8; 128], DriverError> {
        let _current = self.current()?;
        let elem = match map.elem {
            TensorElem::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            TensorElem::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            TensorElem::I32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
            TensorElem::I8 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        let swizzle = match map.swizzle {
            Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::B128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let (dims, strides) = ([map.cols, map.rows], [map.row_stride]);
        let (sides, every) = ([map.box_cols, map.box_rows], [1, 1]);
        let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: the arrays have 2 dimensions and 1 stride, as the rank 2 requires. The call does not dereference the address.
        let result = unsafe {
            abi::cuTensorMapEncodeTiled(
                &mut encoded,
                elem,
                2,
                std::ptr::without_provenance_mut(map.address as usize),
                dims.as_ptr(),
                strides.as_ptr(),
                sides.as_ptr(),
                every.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", result)?;
        Ok(bytemuck::cast(encoded.opaque))
    }

    fn launch(&mut self, launch: &LaunchOf<'_>) -> Result<(), DriverError> {
        let _current = self.current()?;
        let function = self.functions[launch.kernel];
        let ([x, y, z], mut bytes) = (launch.grid, size_of_val(launch.args));
        // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END: all parameters in one buffer.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            launch.args.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            null_mut(),
        ];
        // SAFETY: there are as many parameters as the kernel has (`jamba_plan::verify`), and the driver copies them before the
        // call returns. They point into allocations, and the kernel stays within its buffers (the schedule's verifier).
        let result = unsafe {
            let (shared_bytes, extra) = (launch.shared_bytes, extra.as_mut_ptr());
            abi::cuLaunchKernel(function, x, y, z, launch.threads, 1, 1, shared_bytes, self.stream, null_mut(), extra)
        };
        check("cuLaunchKernel", result).map_err(|error| match error {
            DriverError::Call { message, .. } => DriverError::Fault(format!("launch rejected: {message}")),
            error => error,
        })
    }

    fn synchronize(&mut self) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: `self.stream` belongs to this context.
        check("cuStreamSynchronize", unsafe { abi::cuStreamSynchronize(self.stream) })
    }

    fn begin_capture(&mut self) -> Result<(), DriverError> {
        let _current = self.current()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: `self.stream` belongs to this context; no capture is active, or the call fails.
        check("cuStreamBeginCapture", unsafe { abi::cuStreamBeginCapture_v2(self.stream, mode) })
    }

    fn end_capture(&mut self) -> Result<GraphId, DriverError> {
        let _current = self.current()?;
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: `self.stream` belongs to this context; `graph` is a local variable.
        check("cuStreamEndCapture", unsafe { abi::cuStreamEndCapture(self.stream, &mut graph) })?;
        // SAFETY: `graph` was just captured; `executable` is a local variable.
        let result = unsafe { abi::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        // SAFETY: `graph` is not used after this; the executable graph does not refer to it.
        check("cuGraphDestroy", unsafe { abi::cuGraphDestroy(graph) })?;
        out_of_memory("cuGraphInstantiate", result, 0)?;
        self.graphs.push(executable);
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: graph and stream belong to this context; the allocations that its launches use live as long as `self`.
        check("cuGraphLaunch", unsafe { abi::cuGraphLaunch(self.graphs[graph.0], self.stream) })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        if let Ok(_current) = self.current() {
            // Errors cannot be reported from `drop`. After a fault every call fails, and the context's end frees all memory.
            // SAFETY: all handles belong to the current context and are not used after this; the first call waits for the
            // work that uses them.
            unsafe {
                let _ = abi::cuStreamSynchronize(self.stream);
                for &graph in &self.graphs {
                    let _ = abi::cuGraphExecDestroy(graph);
                }
                for &module in &self.modules {
                    let _ = abi::cuModuleUnload(module);
                }
                for &address in &self.allocations {
                    let _ = abi::cuMemFree_v2(address);
                }
                self.staging.free();
                if !self.stream.is_null() {
                    let _ = abi::cuStreamDestroy_v2(self.stream);
                }
            }
        }
        // SAFETY: the context was retained once by this driver, which does not use it after this.
        let _ = unsafe { abi::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Copies a C string of the driver; None for a null pointer.
fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: the pointer is not null; the driver's strings are zero-terminated and static.
    Some(unsafe { std::ffi::CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

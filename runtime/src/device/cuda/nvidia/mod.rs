//! NVIDIA's driver behind [`Driver`]: libcuda, opened when the first plan asks for it, so that nothing of it has to be
//! installed where nobody does.
//!
//! Each plan has a context of its own. It goes with everything in it when the driver is dropped, and a fault in one does not
//! reach another. The calling thread's own context is as it was after each call.

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

/// Dynamic shared memory that a kernel has without asking for it, in bytes.
const FREE_SHARED_BYTES: u32 = 48 << 10;

/// Bytes of the messages of the driver's assembler that are kept.
const LOG_BYTES: usize = 8192;

/// A GPU of NVIDIA's.
pub(crate) struct Nvidia {
    info: DeviceInfo,
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: Vec<sys::CUfunction>,
    graphs: Vec<sys::CUgraphExec>,
    staging: Staging,
}

// SAFETY: the handles belong to the context, which every call makes the calling thread's own first, and the driver allows
// that on any thread. Only one thread at a time has the value.
unsafe impl Send for Nvidia {}

/// A context that is the calling thread's until this goes.
struct Current;

impl Current {
    fn new(context: sys::CUcontext) -> Result<Current, DriverError> {
        // SAFETY: a context of ours, which lives as long as its driver.
        check("cuCtxPushCurrent", unsafe { abi::cuCtxPushCurrent_v2(context) })?;
        Ok(Current)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: the one that was pushed by `new` is on top. There is nobody to tell that it failed.
        let _ = unsafe { abi::cuCtxPopCurrent_v2(&mut context) };
    }
}

impl Nvidia {
    /// Opens the GPU of that number.
    ///
    /// # Errors
    /// [`RuntimeError::NoDriver`], [`RuntimeError::NoSuchDevice`]; or the call that failed.
    pub(crate) fn open(number: u32) -> Result<Nvidia, RuntimeError> {
        let (device, mut info) = library::device(number)?;
        let failed = |error: DriverError| super::Fault::of_call("opening the device", error).error(&info.name);
        let mut context = null_mut();
        // SAFETY: `device` was given by the driver.
        check("cuCtxCreate", unsafe { abi::cuCtxCreate_v2(&mut context, 0, device) }).map_err(failed)?;
        let mut driver = Nvidia {
            info: info.clone(),
            context,
            stream: null_mut(),
            functions: Vec::new(),
            graphs: Vec::new(),
            staging: Staging::none(),
        };
        // The context that was made is the thread's; the guard below pops it.
        let current = Current;
        // SAFETY: a context is current, and the place is ours.
        let made =
            unsafe { abi::cuStreamCreate(&mut driver.stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        check("cuStreamCreate", made).map_err(failed)?;
        driver.staging = Staging::new().map_err(failed)?;
        let (free, total) = memory().map_err(failed)?;
        (info.free_bytes, info.total_bytes) = (free, total);
        drop(current);
        driver.info = info;
        Ok(driver)
    }

    /// Makes the context the thread's, as long as what is returned lives.
    fn current(&self) -> Result<Current, DriverError> {
        Current::new(self.context)
    }

    /// Loads assembled code where the driver takes it, PTX otherwise.
    fn module(&self, code: DeviceCode<'_>) -> Result<sys::CUmodule, DriverError> {
        if let Some(cubin) = code.cubin
            && let Ok(module) = load(cubin)
        {
            return Ok(module);
        }
        let ptx =
            CString::new(code.ptx).map_err(|_| DriverError::Code("its PTX has a byte of zero within".to_owned()))?;
        load(ptx.as_bytes_with_nul())
    }
}

/// Bytes that are free and in all, of the current context's device.
fn memory() -> Result<(u64, u64), DriverError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: both places are ours.
    check("cuMemGetInfo", unsafe { abi::cuMemGetInfo_v2(&mut free, &mut total) })?;
    Ok((free as u64, total as u64))
}

/// Out of memory, or what else a call says.
fn out_of_memory(call: &'static str, answer: Answer, wanted: u64) -> Result<(), DriverError> {
    if answer.is(CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
        let (free, _) = memory()?;
        return Err(DriverError::OutOfMemory { wanted, free });
    }
    check(call, answer)
}

/// Loads an image: assembled code, or PTX with a zero behind it.
fn load(image: &[u8]) -> Result<sys::CUmodule, DriverError> {
    let (mut module, mut log) = (null_mut(), vec![0_u8; LOG_BYTES]);
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // A size is passed as if it were an address.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES)];
    // SAFETY: the image is whole: a plan's cubin was compared with its digest, PTX ends with a zero. The log has as many
    // bytes as the options say, and outlives the call.
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

/// The function of a kernel, loaded whole and with the shared memory that it needs.
fn function(module: sys::CUmodule, kernel: &KernelNeeds<'_>) -> Result<sys::CUfunction, DriverError> {
    let refused = |error: DriverError| match error {
        DriverError::Call { message, .. } => DriverError::Code(format!("kernel {}: {message}", kernel.symbol)),
        error => error,
    };
    let symbol = CString::new(kernel.symbol)
        .map_err(|_| DriverError::Code(format!("kernel {:?} has a byte of zero in its name", kernel.symbol)))?;
    let (mut function, mut registers) = (null_mut(), 0);
    // SAFETY: the module was loaded, and the name ends with a zero.
    check("cuModuleGetFunction", unsafe { abi::cuModuleGetFunction(&mut function, module, symbol.as_ptr()) })
        .map_err(refused)?;
    // Drivers load a function when it is first looked at; a capture must not be the first.
    let of = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
    // SAFETY: the function was found, and the place is ours.
    check("cuFuncGetAttribute", unsafe { abi::cuFuncGetAttribute(&mut registers, of, function) }).map_err(refused)?;
    if kernel.shared_bytes > FREE_SHARED_BYTES {
        let of = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was found.
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
        self.functions = kernels.iter().map(|kernel| function(module, kernel)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn allocate(&mut self, _what: &'static str, bytes: u64) -> Result<u64, DriverError> {
        let _current = self.current()?;
        let mut address = 0;
        // SAFETY: the place is ours.
        let result = unsafe { abi::cuMemAlloc_v2(&mut address, bytes as usize) };
        out_of_memory("cuMemAlloc", result, bytes)?;
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
        // SAFETY: the caller's ranges are inside what was allocated, and apart.
        check("cuMemcpyDtoDAsync", unsafe { abi::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, self.stream) })
    }

    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: the caller's range is inside what was allocated.
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
        // SAFETY: arrays of two dimensions and the one stride between them; the address is only written down.
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
        // The parameters, all of 64 bits, as one block of memory: its address, its size, the end of the list.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            launch.args.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            null_mut(),
        ];
        // SAFETY: as many parameters as the plan says that the kernel has, read before the call returns. What they point to
        // is inside what was allocated: the plan was verified, the schedule's checker looked at its buffers.
        let result = unsafe {
            let (shared_bytes, extra) = (launch.shared_bytes, extra.as_mut_ptr());
            abi::cuLaunchKernel(function, x, y, z, launch.threads, 1, 1, shared_bytes, self.stream, null_mut(), extra)
        };
        check("cuLaunchKernel", result).map_err(|error| match error {
            DriverError::Call { message, .. } => DriverError::Fault(format!("its launch was refused: {message}")),
            error => error,
        })
    }

    fn synchronize(&mut self) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: a stream of this context.
        check("cuStreamSynchronize", unsafe { abi::cuStreamSynchronize(self.stream) })
    }

    fn begin_capture(&mut self) -> Result<(), DriverError> {
        let _current = self.current()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a stream of this context, on which nothing is being captured.
        check("cuStreamBeginCapture", unsafe { abi::cuStreamBeginCapture_v2(self.stream, mode) })
    }

    fn end_capture(&mut self) -> Result<GraphId, DriverError> {
        let _current = self.current()?;
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: a stream of this context; the place is ours.
        check("cuStreamEndCapture", unsafe { abi::cuStreamEndCapture(self.stream, &mut graph) })?;
        // SAFETY: the graph that was captured; the place is ours.
        let result = unsafe { abi::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        // SAFETY: the graph is of no use from here on, what was made of it does not refer to it.
        check("cuGraphDestroy", unsafe { abi::cuGraphDestroy(graph) })?;
        out_of_memory("cuGraphInstantiate", result, 0)?;
        self.graphs.push(executable);
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<(), DriverError> {
        let _current = self.current()?;
        // SAFETY: a graph and a stream of this context; what its launches point to is still allocated.
        check("cuGraphLaunch", unsafe { abi::cuGraphLaunch(self.graphs[graph.0], self.stream) })
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // Memory of both sides, the code, the stream and the graphs go with the context.
        // SAFETY: nothing refers to the context any more. There is nobody to tell that it failed.
        let _ = unsafe { abi::cuCtxDestroy_v2(self.context) };
    }
}

/// The text of a C string of the driver's, if there is one.
fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: it is not null; the driver's strings end with a zero and stay.
    Some(unsafe { std::ffi::CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

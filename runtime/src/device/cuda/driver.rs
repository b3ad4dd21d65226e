//! What the runtime asks of a GPU and its driver: memory, code, launches in order, and runs of launches that are recorded
//! once and replayed.
//!
//! The trait is small so that something else than a GPU can stand behind it: a simulator in tests. Everything happens in the
//! order of the calls, as on one stream; calls that give nothing back may return before it has happened. Addresses are the
//! device's own, and never followed by the host.

use std::fmt;

use jamba_plan::format::{Swizzle, TensorElem};

use crate::RuntimeError;

/// A GPU with its driver, of which one plan is in sole possession while it is open.
///
/// Dropping it gives back all memory, also after a fault.
pub trait Driver: Send {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Loads the code of a plan, once. Launches name kernels by their index in `kernels`.
    ///
    /// # Errors
    /// [`DriverError::Code`] where the code cannot be loaded, or lacks a kernel.
    fn load(&mut self, code: DeviceCode<'_>, kernels: &[KernelNeeds<'_>]) -> Result<(), DriverError>;

    /// Takes memory, whose content is undefined, on an address that is a multiple of 256. Kept until the driver is dropped.
    /// `what` is for messages: `arena`.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`].
    fn allocate(&mut self, what: &'static str, bytes: u64) -> Result<u64, DriverError>;

    /// Copies bytes to the device. The slice is the caller's again on return.
    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DriverError>;

    /// Copies bytes from the device, once everything before is done.
    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError>;

    /// Copies within the device; the two do not overlap.
    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DriverError>;

    /// Sets bytes on the device.
    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Result<(), DriverError>;

    /// The 128 bytes that the tensor copies of kernels take for a map.
    fn tensor_map(&mut self, map: &TensorMapOf) -> Result<[u8; 128], DriverError>;

    /// Runs a kernel; between [`Driver::begin_capture`] and [`Driver::end_capture`] only notes that it shall run.
    fn launch(&mut self, launch: &LaunchOf<'_>) -> Result<(), DriverError>;

    /// Returns when everything before is done.
    ///
    /// # Errors
    /// Faults of launches before it.
    fn synchronize(&mut self) -> Result<(), DriverError>;

    /// Begins to note launches, in place of running them.
    fn begin_capture(&mut self) -> Result<(), DriverError>;

    /// Ends noting; the launches since [`Driver::begin_capture`] are a graph from here on.
    fn end_capture(&mut self) -> Result<GraphId, DriverError>;

    /// Runs the launches of a graph, in their order.
    fn replay(&mut self, graph: GraphId) -> Result<(), DriverError>;
}

/// The driver of the GPU of that number, by NVIDIA's libcuda: for engines, and for what none is needed for.
///
/// # Errors
/// [`RuntimeError::NoDriver`] where there is none, or the build is without it; [`RuntimeError::NoSuchDevice`].
pub fn open(number: u32) -> Result<Box<dyn Driver>, RuntimeError> {
    #[cfg(feature = "cuda")]
    return Ok(Box::new(super::nvidia::Nvidia::open(number)?));
    #[cfg(not(feature = "cuda"))]
    Err(RuntimeError::NoDriver {
        device: crate::DeviceId::Cuda(number),
        reason: "this program was built without the feature `cuda`".to_owned(),
    })
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name that the driver gives it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub n_sms: u32,
    /// Memory in all, in bytes.
    pub total_bytes: u64,
    /// Memory that nobody held when the device was opened, in bytes.
    pub free_bytes: u64,
    /// The newest CUDA version that the driver understands, major and minor; which PTX it can load follows from it.
    pub cuda: (u32, u32),
}

/// The code of a plan for a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCode<'a> {
    /// PTX, a text.
    pub ptx: &'a str,
    /// The same, assembled; a driver may load either.
    pub cubin: Option<&'a [u8]>,
}

/// A kernel that launches will name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeeds<'a> {
    /// Name of its entry.
    pub symbol: &'a str,
    /// Its parameters, 64 bits each.
    pub n_args: usize,
    /// The most dynamic shared memory that a launch takes, in bytes.
    pub shared_bytes: u32,
}

/// One launch of one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchOf<'a> {
    /// Index of the kernel in what was given to [`Driver::load`].
    pub kernel: usize,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block, along x.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The parameters.
    pub args: &'a [u64],
}

/// A matrix of rows that tensor copies move boxes of; reads outside of it give zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapOf {
    /// Address of the first element; a multiple of 16.
    pub address: u64,
    /// Element type.
    pub elem: TensorElem,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Bytes from one row to the next; a multiple of 16.
    pub row_stride: u64,
    /// Rows of a box.
    pub box_rows: u32,
    /// Columns of a box.
    pub box_cols: u32,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

/// A graph of one driver: the number of graphs before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub usize);

/// Why a driver refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverError {
    /// The device has too little memory.
    OutOfMemory {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Code could not be loaded.
    Code(String),
    /// A kernel did what no kernel may do, or its launch was refused. What ran after it is worth nothing.
    Fault(String),
    /// The device is gone.
    Lost(String),
    /// A call failed for another reason: which, and the driver's message.
    Call {
        /// The call: `cuMemcpyDtoH`.
        call: &'static str,
        /// The driver's message.
        message: String,
    },
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriverError::OutOfMemory { wanted, free } => {
                write!(f, "out of memory: {wanted} bytes were asked for, {free} are free")
            }
            DriverError::Code(message) | DriverError::Fault(message) | DriverError::Lost(message) => {
                f.write_str(message)
            }
            DriverError::Call { call, message } => write!(f, "{call}: {message}"),
        }
    }
}

impl std::error::Error for DriverError {}

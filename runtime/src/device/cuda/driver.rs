//! The interface to a GPU driver: memory, code, kernel launches on one stream, and graphs of launches.
//!
//! The trait is small so that tests can implement it with a simulator. Operations execute in call order, as on one stream;
//! calls that return no data may return before their operation has executed. Addresses are device addresses and are never
//! dereferenced by the host.

use std::fmt;

use jamba_plan::format::{Swizzle, TENSOR_MAP_ALIGN, TENSOR_MAP_BYTES, TensorElem};

use crate::RuntimeError;

/// The driver of a GPU, used by one open plan.
///
/// Dropping it frees all memory, even after a fault.
pub trait Driver: Send {
    /// Properties of the device.
    fn info(&self) -> &DeviceInfo;

    /// Loads the code of a plan; called once. Launches refer to kernels by their index in `kernels`.
    ///
    /// # Errors
    /// [`DriverError::Code`] if the code cannot be loaded or a kernel is missing.
    fn load(&mut self, code: DeviceCode<'_>, kernels: &[KernelNeeds<'_>]) -> Result<(), DriverError>;

    /// Allocates memory with undefined content and returns its address, a multiple of 256. It is freed when the driver is
    /// dropped. `what` names it in messages, for example `arena`.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`] if the device has too little free memory.
    fn allocate(&mut self, what: &'static str, bytes: u64) -> Result<u64, DriverError>;

    /// Copies bytes to the device. The caller may change the slice after the call returns.
    fn upload(&mut self, to: u64, bytes: &[u8]) -> Result<(), DriverError>;

    /// Copies bytes from the device after all earlier operations.
    fn download(&mut self, from: u64, bytes: &mut [u8]) -> Result<(), DriverError>;

    /// Copies within the device. The ranges do not overlap.
    fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), DriverError>;

    /// Sets `bytes` bytes from address `at` to `value`.
    fn fill(&mut self, at: u64, bytes: u64, value: u8) -> Result<(), DriverError>;

    /// Encodes a tensor map (`CUtensorMap`) for the tensor copies of kernels.
    fn tensor_map(&mut self, map: &TensorMapOf) -> Result<[u8; TENSOR_MAP_BYTES], DriverError>;

    /// Launches a kernel, or records the launch between [`Driver::begin_capture`] and [`Driver::end_capture`].
    fn launch(&mut self, launch: &LaunchOf<'_>) -> Result<(), DriverError>;

    /// Waits for all earlier operations.
    ///
    /// # Errors
    /// Faults of earlier launches.
    fn synchronize(&mut self) -> Result<(), DriverError>;

    /// Starts recording launches instead of running them.
    fn begin_capture(&mut self) -> Result<(), DriverError>;

    /// Stops recording and makes a graph of the launches since [`Driver::begin_capture`].
    fn end_capture(&mut self) -> Result<GraphId, DriverError>;

    /// Runs the launches of a graph in order.
    fn replay(&mut self, graph: GraphId) -> Result<(), DriverError>;
}

/// Opens the GPU with this index through NVIDIA's libcuda.
///
/// # Errors
/// [`RuntimeError::NoDriver`] if libcuda is missing or the crate was built without the feature `cuda`;
/// [`RuntimeError::NoSuchDevice`] if there are too few GPUs.
pub fn open(number: u32) -> Result<Box<dyn Driver>, RuntimeError> {
    #[cfg(feature = "cuda")]
    return Ok(Box::new(super::nvidia::Nvidia::open(number)?));
    #[cfg(not(feature = "cuda"))]
    Err(RuntimeError::NoDriver {
        device: crate::DeviceId::Cuda(number),
        reason: "this program was built without the feature `cuda`".to_owned(),
    })
}

/// Properties of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the device, as its driver reports it.
    pub name: String,
    /// Compute capability: major, minor.
    pub capability: (u32, u32),
    /// Number of streaming multiprocessors.
    pub n_sms: u32,
    /// Total memory, in bytes.
    pub total_bytes: u64,
    /// Free memory when the device was opened, in bytes.
    pub free_bytes: u64,
    /// Newest CUDA version that the driver supports: major, minor. It determines which PTX versions can be loaded.
    pub cuda: (u32, u32),
}

/// The code of a plan.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCode<'a> {
    /// PTX source.
    pub ptx: &'a str,
    /// The assembled PTX. A driver may load either.
    pub cubin: Option<&'a [u8]>,
}

/// A kernel to load, and its requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeeds<'a> {
    /// Name of the entry function.
    pub symbol: &'a str,
    /// Number of parameters, 64 bits each.
    pub n_args: usize,
    /// Largest dynamic shared memory of any launch, in bytes.
    pub shared_bytes: u32,
}

/// A kernel launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchOf<'a> {
    /// Index of the kernel in the list given to [`Driver::load`].
    pub kernel: usize,
    /// Grid size in blocks: x, y, z.
    pub grid: [u32; 3],
    /// Threads per block, along x.
    pub threads: u32,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's parameters as [`Parameters`] lays them out.
    pub args: &'a [u64],
}

/// The parameters of a launch as PTX lays them out: 64-bit words, and tensor maps of 128 bytes aligned to 64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    words: Vec<u64>,
}

impl Parameters {
    /// Adds an address or an integer.
    pub fn push(&mut self, word: u64) {
        self.words.push(word);
    }

    /// Adds a tensor map.
    pub fn push_map(&mut self, encoded: &[u8; TENSOR_MAP_BYTES]) {
        self.words.resize(self.words.len().next_multiple_of(TENSOR_MAP_ALIGN / size_of::<u64>()), 0);
        self.words.extend(encoded.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)));
    }

    /// All words, for [`LaunchOf::args`].
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

/// A row-major matrix whose boxes are moved by tensor copies. Reads outside of it return zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMapOf {
    /// Address of the first element, a multiple of 16.
    pub address: u64,
    /// Element type.
    pub elem: TensorElem,
    /// Number of rows.
    pub rows: u64,
    /// Number of columns.
    pub cols: u64,
    /// Row stride in bytes, a multiple of 16.
    pub row_stride: u64,
    /// Rows per box.
    pub box_rows: u32,
    /// Columns per box.
    pub box_cols: u32,
    /// Layout of a box in shared memory.
    pub swizzle: Swizzle,
}

/// Identifies a graph of a driver: its index in order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub usize);

/// An error of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverError {
    /// Too little free memory.
    OutOfMemory {
        /// Requested bytes.
        wanted: u64,
        /// Free bytes.
        free: u64,
    },
    /// Code cannot be loaded: the driver's message.
    Code(String),
    /// A kernel faulted, or its launch was rejected. Results of later operations are invalid.
    Fault(String),
    /// The device is lost.
    Lost(String),
    /// A call failed for another reason.
    Call {
        /// Name of the call, for example `cuMemcpyDtoH`.
        call: &'static str,
        /// Message of the driver.
        message: String,
    },
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DriverError::OutOfMemory { wanted, free } => {
                write!(f, "out of memory: {wanted} bytes requested, {free} free")
            }
            DriverError::Code(message) | DriverError::Fault(message) | DriverError::Lost(message) => {
                f.write_str(message)
            }
            DriverError::Call { call, message } => write!(f, "{call}: {message}"),
        }
    }
}

impl std::error::Error for DriverError {}

//! Loads a shared object of CPU kernels into the process and calls them on guarded copies of arrays. All `unsafe` code of the
//! harness is here. (The runtime has its own loader, which maps code out of a plan.)

use std::io::Write;

use bytemuck::{Pod, Zeroable};
use libloading::Library;

/// A kernel that cannot be loaded, or that wrote outside its arrays.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

impl LoadError {
    pub(crate) fn of(message: String) -> LoadError {
        LoadError(message)
    }
}

/// A slot of a kernel's argument array.
pub enum Slot<'a> {
    /// An integer.
    Scalar(u64),
    /// The address of an array that the kernel reads.
    Read(&'a [u8]),
    /// The address of an array that the kernel writes.
    Write(&'a mut [u8]),
}

impl<'a> Slot<'a> {
    /// An array that the kernel reads.
    pub fn read<T: Pod>(array: &'a [T]) -> Self {
        Slot::Read(bytemuck::cast_slice(array))
    }

    /// An array that the kernel writes.
    pub fn write<T: Pod>(array: &'a mut [T]) -> Self {
        Slot::Write(bytemuck::cast_slice_mut(array))
    }
}

/// A shared object of kernels, loaded into this process.
pub struct LoadedKernels {
    library: Library,
}

type KernelFn = unsafe extern "C" fn(args: *const u64, thread: u64, n_threads: u64);

impl LoadedKernels {
    /// Loads a shared object that `jambac_codegen::compile` wrote. This machine must have the instructions of its target.
    pub fn load(shared_object: &[u8]) -> Result<Self, LoadError> {
        let mut file = tempfile::NamedTempFile::new().map_err(|error| LoadError(error.to_string()))?;
        file.write_all(shared_object).map_err(|error| LoadError(error.to_string()))?;
        // SAFETY: the object was linked by us from kernels alone: it has no initialisers and needs no other library. The
        // mapping outlives the file's name.
        let library = unsafe { Library::new(file.path()) };
        Ok(LoadedKernels { library: library.map_err(|error| LoadError(error.to_string()))? })
    }

    /// Prepares a call of the kernel `name`; copies its arrays between guard bytes.
    pub fn prepare<'a>(&'a self, name: &str, slots: Vec<Slot<'a>>) -> Result<Call<'a>, LoadError> {
        // SAFETY: every exported symbol of a kernel object is a function of this type.
        let function = unsafe { self.library.get::<KernelFn>(name.as_bytes()) };
        let function = *function.map_err(|error| LoadError(error.to_string()))?;
        let mut arrays: Vec<Option<GuardedArray>> = slots
            .iter()
            .map(|slot| match slot {
                Slot::Scalar(_) => None,
                Slot::Read(bytes) => Some(GuardedArray::new(bytes)),
                Slot::Write(bytes) => Some(GuardedArray::new(bytes)),
            })
            .collect();
        let args = slots.iter().zip(&mut arrays).map(|(slot, array)| match (slot, array) {
            (Slot::Scalar(value), _) => *value,
            (_, Some(array)) => array.address(),
            (_, None) => 0,
        });
        let args = args.collect();
        Ok(Call { name: name.to_owned(), function, args, slots, arrays, _kernels: self })
    }

    /// Calls a kernel once for each thread number, one after the other, and copies back what it wrote.
    pub fn call(&self, name: &str, n_threads: u64, slots: Vec<Slot>) -> Result<(), LoadError> {
        let call = self.prepare(name, slots)?;
        for thread in 0..n_threads {
            call.run(thread, n_threads);
        }
        call.finish()
    }
}

/// A kernel and its arguments.
pub struct Call<'a> {
    name: String,
    function: KernelFn,
    args: Vec<u64>,
    slots: Vec<Slot<'a>>,
    arrays: Vec<Option<GuardedArray>>,
    _kernels: &'a LoadedKernels,
}

impl Call<'_> {
    /// Runs thread `thread`'s share.
    pub fn run(&self, thread: u64, n_threads: u64) {
        // SAFETY: the library is loaded while `_kernels` is borrowed, `args` holds an integer or the address of a live
        // array for each slot, and a kernel touches no memory but those arrays. The guard bytes around them are large
        // enough for a whole vector beyond the end, and `finish` finds writes there.
        unsafe { (self.function)(self.args.as_ptr(), thread, n_threads) }
    }

    /// Copies back what was written; an error if the kernel wrote next to an array.
    pub fn finish(self) -> Result<(), LoadError> {
        for (slot, (target, array)) in self.slots.into_iter().zip(&self.arrays).enumerate() {
            let Some(array) = array else { continue };
            if !array.is_intact() {
                return Err(LoadError(format!("{} wrote outside the array in slot {slot}", self.name)));
            }
            match target {
                Slot::Write(bytes) => bytes.copy_from_slice(array.bytes()),
                Slot::Read(bytes) if bytes != array.bytes() => {
                    let message = format!("{} wrote to the array in slot {slot}, which it only reads", self.name);
                    return Err(LoadError(message));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A copy of an array, 64-byte aligned like the runtime's, with guard bytes before and behind it.
struct GuardedArray {
    memory: Vec<Block>,
    n_bytes: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Block([u8; 64]);

/// Guard bytes on either side: a page, and NaN as f32 or bf16.
const GUARD: usize = 4096;
const GUARD_BYTE: u8 = 0xff;

impl GuardedArray {
    fn new(bytes: &[u8]) -> Self {
        let n_blocks = (GUARD + bytes.len() + GUARD).div_ceil(64);
        let mut memory = vec![Block([GUARD_BYTE; 64]); n_blocks];
        bytemuck::cast_slice_mut(&mut memory)[GUARD..GUARD + bytes.len()].copy_from_slice(bytes);
        GuardedArray { memory, n_bytes: bytes.len() }
    }

    fn address(&mut self) -> u64 {
        bytemuck::cast_slice_mut::<Block, u8>(&mut self.memory)[GUARD..].as_mut_ptr() as u64
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory)[GUARD..GUARD + self.n_bytes]
    }

    fn is_intact(&self) -> bool {
        let memory: &[u8] = bytemuck::cast_slice(&self.memory);
        let (before, after) = (&memory[..GUARD], &memory[GUARD + self.n_bytes..]);
        [before, after].iter().all(|guard| **guard == [GUARD_BYTE; GUARD + 64][..guard.len()])
    }
}

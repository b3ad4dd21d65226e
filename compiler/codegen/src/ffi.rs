//! Every raw call that melior and inkwell lack, each wrapped once. All `unsafe` of this crate is here.

use crate::error::CodegenError;
use bytemuck::{Pod, Zeroable};
use inkwell::context::AsContextRef;
use inkwell::llvm_sys::core::{LLVMGetCalledValue, LLVMGetInlineAsmHasSideEffects, LLVMIsAInlineAsm};
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::values::{AsValueRef, InstructionOpcode, InstructionValue};
use libloading::Library;
use std::io::Write;
use std::sync::Once;

/// The LLVM IR of a module in the LLVM dialect; nothing if MLIR cannot translate it (it has said why by then).
pub fn translate<'ctx>(
    module: &melior::ir::Module,
    context: &'ctx inkwell::context::Context,
) -> Option<inkwell::module::Module<'ctx>> {
    // SAFETY: the operation is a live module, the context outlives the call, and MLIR only reads the one and creates in
    // the other. The module that comes back is owned by the caller, belongs to `context`, and its lifetime says so.
    unsafe {
        let operation = mlir_sys::mlirModuleGetOperation(module.to_raw());
        let raw = mlir_sys::mlirTranslateModuleToLLVMIR(operation, context.as_ctx_ref().cast());
        (!raw.is_null()).then(|| inkwell::module::Module::new(raw.cast()))
    }
}

/// Whether an instruction is a call of inline assembly that has effects.
pub fn is_asm_with_effects(instruction: InstructionValue) -> bool {
    if instruction.get_opcode() != InstructionOpcode::Call {
        return false;
    }
    // SAFETY: the instruction is a live call; LLVM reads what it calls and gives that back, or null where it is no inline
    // assembly.
    unsafe {
        let called = LLVMGetCalledValue(instruction.as_value_ref());
        !LLVMIsAInlineAsm(called).is_null() && LLVMGetInlineAsmHasSideEffects(called) != 0
    }
}

/// Makes addresses of shared memory 32 bits wide in the NVPTX target, for the process. No other target looks at this.
pub fn shorten_nvptx_pointers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let arguments = [c"jambac".as_ptr(), c"--nvptx-short-ptr".as_ptr()];
        // SAFETY: two strings that end in zero, which LLVM reads and does not keep; once, so by no two threads at a time.
        unsafe { LLVMParseCommandLineOptions(arguments.len() as i32, arguments.as_ptr(), std::ptr::null()) }
    });
}

/// A slot of a kernel's argument array, for kernels run in this process.
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

/// A shared object of kernels in this process, for tests and measurements; the runtime has its own.
pub struct LoadedKernels {
    library: Library,
}

type KernelFn = unsafe extern "C" fn(args: *const u64, thread: u64, n_threads: u64);

impl LoadedKernels {
    /// Loads what [`compile`](crate::compile::compile) made, for a target that runs here.
    pub fn load(shared_object: &[u8]) -> Result<Self, CodegenError> {
        let failed = |message: String| CodegenError::Load { message };
        let mut file = tempfile::NamedTempFile::new().map_err(|error| failed(error.to_string()))?;
        file.write_all(shared_object).map_err(|error| failed(error.to_string()))?;
        // SAFETY: the object was linked by us from kernels alone: it has no initialisers and needs no other library. The
        // mapping outlives the file's name.
        let library = unsafe { Library::new(file.path()) };
        Ok(LoadedKernels { library: library.map_err(|error| failed(error.to_string()))? })
    }

    /// A call of the kernel `name`, its arrays copied between guard bytes.
    pub fn prepare<'a>(&'a self, name: &str, slots: Vec<Slot<'a>>) -> Result<Call<'a>, CodegenError> {
        // SAFETY: every exported symbol of a kernel object is a function of this type.
        let function = unsafe { self.library.get::<KernelFn>(name.as_bytes()) };
        let function = *function.map_err(|error| CodegenError::Load { message: error.to_string() })?;
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
    pub fn call(&self, name: &str, n_threads: u64, slots: Vec<Slot>) -> Result<(), CodegenError> {
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
    pub fn finish(self) -> Result<(), CodegenError> {
        for (slot, (target, array)) in self.slots.into_iter().zip(&self.arrays).enumerate() {
            let Some(array) = array else { continue };
            if !array.is_intact() {
                let message = format!("{} wrote outside the array in slot {slot}", self.name);
                return Err(CodegenError::Load { message });
            }
            match target {
                Slot::Write(bytes) => bytes.copy_from_slice(array.bytes()),
                Slot::Read(bytes) if bytes != array.bytes() => {
                    let message = format!("{} wrote to the array in slot {slot}, which it only reads", self.name);
                    return Err(CodegenError::Load { message });
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

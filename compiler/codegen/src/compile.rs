//! Compiles kernels from MLIR to a shared object.

use crate::error::CodegenError;
use crate::llvm::Machine;
use crate::{cache, ffi, lower, object, ptx};
use inkwell::context::Context;
use jambac_kernels::cpu::builder::ModuleBuilder;
use jambac_kernels::kernel::Launch;
use jambac_kernels::target::{CpuTarget, Target};
use melior::ir::{Location, Module};

/// The intermediate forms that can be dumped as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// MLIR as emitted by the kernels.
    Mlir,
    /// The LLVM dialect of MLIR.
    LlvmDialect,
    /// Optimized LLVM IR.
    LlvmIr,
    Assembly,
}

impl Phase {
    /// Name of the phase in file names.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Mlir => "mlir",
            Phase::LlvmDialect => "llvm-dialect",
            Phase::LlvmIr => "llvm-ir",
            Phase::Assembly => "assembly",
        }
    }
}

/// Receives the text of each phase, for `--dump-dir`.
pub type Dump<'a> = &'a mut dyn FnMut(Phase, &str);

/// Compiles the kernels that `emit` adds into one shared object for `target`. It exports each kernel by its name and depends on
/// no library. Equal kernels give equal bytes.
///
/// ```
/// # use jambac_codegen::compile::compile;
/// # use jambac_kernels::kernel::{Elem, Param};
/// # use jambac_kernels::target::{CpuTarget, X86Level};
/// let target = CpuTarget::new(X86Level::V3);
/// let params = [Param::write("x", Elem::F32, &[])];
/// let shared_object = compile(target, None, |module| {
///     module.kernel("clear", &params, |b| b.store(b.splat(0.0, 16), b.buffer("x"), 0));
/// })?;
/// assert!(shared_object.starts_with(b"\x7fELF"));
/// # Ok::<(), jambac_codegen::error::CodegenError>(())
/// ```
pub fn compile(
    target: CpuTarget,
    dump: Option<Dump>,
    emit: impl FnOnce(&ModuleBuilder),
) -> Result<Vec<u8>, CodegenError> {
    object::link(&[compile_object(target, dump, emit)?])
}

/// Compiles kernels of the catalog: to a shared object for a CPU, to PTX for a GPU.
pub fn compile_kernels(target: Target, kernels: &[Launch], dump: Option<Dump>) -> Result<Vec<u8>, CodegenError> {
    match target {
        Target::Cpu(target) => compile(target, dump, |module| kernels.iter().for_each(|kernel| module.add(kernel))),
        Target::Sm90a => ptx::compile_ptx(kernels, dump).map(String::into_bytes),
    }
}

/// The MLIR that kernels of the catalog emit, without debug information: [`Phase::Mlir`].
pub fn emit_kernels(target: Target, kernels: &[Launch]) -> String {
    let context = lower::context();
    let module = Module::new(Location::unknown(&context));
    match target {
        Target::Cpu(target) => {
            let builder = ModuleBuilder::new(&context, &module, target);
            kernels.iter().for_each(|kernel| builder.add(kernel));
        }
        Target::Sm90a => {
            let builder = jambac_kernels::hopper::ModuleBuilder::new(&context, &module);
            kernels.iter().for_each(|kernel| builder.add(kernel));
        }
    }
    module.as_operation().to_string()
}

/// Compiles to an unlinked ELF object. Objects of several calls, also from several threads, can be linked together.
pub fn compile_object(
    target: CpuTarget,
    mut dump: Option<Dump>,
    emit: impl FnOnce(&ModuleBuilder),
) -> Result<Vec<u8>, CodegenError> {
    let is_dumped = dump.is_some();
    let mut show = |phase: Phase, text: &dyn Fn() -> String| {
        if let Some(dump) = &mut dump {
            dump(phase, &text());
        }
    };
    let _generating = ffi::generating();
    let mlir_context = lower::context();
    let mut module = Module::new(Location::unknown(&mlir_context));
    emit(&ModuleBuilder::new(&mlir_context, &module, target));
    let text = module.as_operation().to_string();
    show(Phase::Mlir, &|| text.clone());
    let key = cache::key(target, &text);
    if !is_dumped && let Some(object) = cache::get(&key) {
        return Ok(object);
    }
    lower::verify(&mlir_context, &module)?;
    lower::lower(&mlir_context, &mut module, lower::HOST_PASSES)?;
    show(Phase::LlvmDialect, &|| module.as_operation().to_string());

    let context = Context::create();
    let machine = Machine::new(target)?;
    let module = machine.translate(&mlir_context, &module, &context)?;
    machine.optimize(&module)?;
    show(Phase::LlvmIr, &|| module.print_to_string().to_string());
    let object = machine.object(&module)?;
    if dump.is_some() {
        let assembly = machine.assembly(&module)?;
        dump.into_iter().for_each(|dump| dump(Phase::Assembly, &assembly));
    }
    cache::put(key, &object);
    Ok(object)
}

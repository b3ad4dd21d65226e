//! Compiles kernels for sm_90a to PTX: one module with an entry per kernel.

use crate::compile::{Dump, Phase};
use crate::diagnostics::Diagnostics;
use crate::error::CodegenError;
use crate::{ffi, lower};
use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{FileType, InitializationConfig, Target, TargetMachine, TargetMachineOptions, TargetTriple};
use inkwell::values::{BasicMetadataValueEnum, CallSiteValue, FunctionValue};
use jambac_kernels::hopper::nvvm::PTX_VERSION;
use jambac_kernels::hopper::{ModuleBuilder, RESIDENT_BLOCKS, THREADS};
use jambac_kernels::kernel::Launch;
use melior::ir::Location;

/// Name of the target in LLVM and in the names of code sections.
pub const ARCHITECTURE: &str = "sm_90a";

const TRIPLE: &str = "nvptx64-nvidia-cuda";

/// The PTX of catalog kernels, without duplicates. Equal kernels in equal order give equal text.
pub fn compile_ptx(kernels: &[Launch], dump: Option<Dump>) -> Result<String, CodegenError> {
    emit_ptx(dump, |module| kernels.iter().for_each(|kernel| module.add(kernel)))
}

/// The PTX of the kernels that `emit` adds.
///
/// ```
/// # use jambac_codegen::ptx::emit_ptx;
/// # use jambac_kernels::kernel::{Elem, Param};
/// let params = [Param::write("x", Elem::F32, &[])];
/// let text = emit_ptx(None, |module| {
///     module.kernel("clear", &params, 32, |b| {
///         b.store(b.f32(0.0), b.at(b.pointer("x"), b.thread() * 4));
///     });
/// })?;
/// assert!(text.contains(".entry clear("));
/// # Ok::<(), jambac_codegen::error::CodegenError>(())
/// ```
pub fn emit_ptx(mut dump: Option<Dump>, emit: impl FnOnce(&ModuleBuilder)) -> Result<String, CodegenError> {
    let mut show = |phase: Phase, text: &dyn Fn() -> String| {
        if let Some(dump) = &mut dump {
            dump(phase, &text());
        }
    };
    let _generating = ffi::generating();
    let mlir_context = lower::context();
    let mut mlir = melior::ir::Module::new(Location::unknown(&mlir_context));
    emit(&ModuleBuilder::new(&mlir_context, &mlir));
    show(Phase::Mlir, &|| mlir.as_operation().to_string());
    lower::verify(&mlir_context, &mlir)?;
    lower::lower(&mlir_context, &mut mlir, lower::NVVM_PASSES)?;
    show(Phase::LlvmDialect, &|| mlir.as_operation().to_string());

    let context = Context::create();
    let machine = machine()?;
    let module = translate(&mlir_context, &mlir, &context, &machine)?;
    let options = PassBuilderOptions::create();
    options.set_loop_vectorization(false);
    options.set_loop_slp_vectorization(false);
    options.set_loop_interleaving(false);
    // Kernels are already unrolled as far as intended. Peeling would triple a producer's loop.
    options.set_loop_unrolling(false);
    module
        .run_passes("default<O3>", &machine, options)
        .map_err(|error| CodegenError::Optimize { message: error.to_string() })?;
    show(Phase::LlvmIr, &|| module.print_to_string().to_string());
    let text = machine
        .write_to_memory_buffer(&module, FileType::Assembly)
        .map_err(|error| CodegenError::EmitObject { message: error.to_string() })?;
    // The buffer ends in a zero byte, which is not part of the text.
    let text = String::from_utf8_lossy(text.as_slice()).trim_end_matches('\0').to_owned();
    show(Phase::Assembly, &|| text.clone());
    Ok(text)
}

fn machine() -> Result<TargetMachine, CodegenError> {
    let failed = |message: String| CodegenError::Optimize { message };
    ffi::shorten_nvptx_pointers();
    Target::initialize_nvptx(&InitializationConfig::default());
    let triple = TargetTriple::create(TRIPLE);
    let options = TargetMachineOptions::new()
        .set_cpu(ARCHITECTURE)
        .set_features(&format!("+ptx{PTX_VERSION}"))
        .set_level(OptimizationLevel::Aggressive);
    Target::from_triple(&triple)
        .map_err(|error| failed(error.to_string()))?
        .create_target_machine_from_options(&triple, options)
        .ok_or_else(|| failed(format!("LLVM has no code generator for {ARCHITECTURE}")))
}

/// Translates a module in the LLVM dialect to LLVM IR.
fn translate<'ctx>(
    mlir_context: &melior::Context,
    mlir: &melior::ir::Module,
    context: &'ctx Context,
    machine: &TargetMachine,
) -> Result<Module<'ctx>, CodegenError> {
    let failed = |message: String| CodegenError::Translate { message };
    let diagnostics = Diagnostics::catch(mlir_context);
    let module = ffi::translate(mlir, context).ok_or_else(|| failed(diagnostics.take()))?;
    let module = lines_only(context, &module).map_err(failed)?;
    module.set_triple(&TargetTriple::create(TRIPLE));
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module.set_source_file_name("kernels");

    let enum_attribute = |name| context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0);
    let convergent = enum_attribute("convergent");
    let flush = context.create_string_attribute("denormal-fp-math-f32", "preserve-sign,preserve-sign");
    let kernels: Vec<_> = module.get_functions().filter(|function| function.count_basic_blocks() > 0).collect();
    for kernel in kernels {
        mark_kernel(context, &module, kernel).map_err(failed)?;
        kernel.add_attribute(AttributeLoc::Function, flush);
        kernel.add_attribute(AttributeLoc::Function, enum_attribute("nounwind"));
        // MLIR does not mark inline assembly as convergent: the optimizer would move it into branches and duplicate it.
        for instruction in kernel.get_basic_block_iter().flat_map(|block| block.get_instructions()) {
            if ffi::is_asm_with_effects(instruction) {
                let call = CallSiteValue::try_from(instruction).map_err(|()| failed("a call is no call".into()))?;
                call.add_attribute(AttributeLoc::Function, convergent);
            }
        }
    }
    module.verify().map_err(|error| failed(error.to_string()))?;
    Ok(module)
}

/// Keeps line tables for profilers and removes all other debug information, which would make ptxas optimize less. MLIR has no
/// name for this kind of compile unit, and LLVM no function to change it.
fn lines_only<'ctx>(context: &'ctx Context, module: &Module) -> Result<Module<'ctx>, String> {
    let text = module.print_to_string().to_string();
    let text = text.replace("emissionKind: LineTablesOnly", "emissionKind: DebugDirectivesOnly");
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "kernels");
    context.create_module_from_ir(buffer).map_err(|error| error.to_string())
}

/// Makes a function a kernel entry with the exact block size and the number of blocks per multiprocessor from its attributes.
fn mark_kernel<'ctx>(context: &'ctx Context, module: &Module<'ctx>, kernel: FunctionValue<'ctx>) -> Result<(), String> {
    let number = |attribute: &str| {
        let name = || kernel.get_name().to_string_lossy().into_owned();
        let value = kernel.get_string_attribute(AttributeLoc::Function, attribute);
        let value = value.ok_or_else(|| format!("{} does not say its {attribute}", name()))?;
        kernel.remove_string_attribute(AttributeLoc::Function, attribute);
        let value = value.get_string_value().to_string_lossy().parse();
        value.map_err(|error| format!("{}: {attribute}: {error}", name()))
    };
    let (threads, resident): (u64, u64) = (number(THREADS)?, number(RESIDENT_BLOCKS)?);
    // ptxas derives the register count before setmaxnreg from the numbers of threads and blocks.
    let facts = [("kernel", 1), ("reqntidx", threads), ("reqntidy", 1), ("reqntidz", 1), ("minctasm", resident)];
    let int = |value: u64| context.i32_type().const_int(value, false).into();
    let mut annotations: Vec<(&str, BasicMetadataValueEnum)> =
        facts.into_iter().map(|(what, value)| (what, int(value))).collect();
    // Parameters by value that nothing writes are read where the launch put them. LLVM would copy them to the stack otherwise,
    // where the copy engine does not find a tensor map.
    let by_value = Attribute::get_named_enum_kind_id("byval");
    let constants: Vec<BasicMetadataValueEnum> = (0..kernel.count_params())
        .filter(|&index| kernel.get_enum_attribute(AttributeLoc::Param(index), by_value).is_some())
        .map(|index| int(u64::from(index) + 1)) // counted from one
        .collect();
    if !constants.is_empty() {
        annotations.push(("grid_constant", context.metadata_node(&constants).into()));
    }
    for (what, value) in annotations {
        let function = kernel.as_global_value().as_pointer_value().into();
        let node = context.metadata_node(&[function, context.metadata_string(what).into(), value]);
        module.add_global_metadata("nvvm.annotations", &node).map_err(|error| error.to_string())?;
    }
    Ok(())
}

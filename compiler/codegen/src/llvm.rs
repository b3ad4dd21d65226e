//! LLVM IR to machine code: entry points of the kernels, optimizer, object file.

use crate::diagnostics::Diagnostics;
use crate::error::CodegenError;
use crate::ffi;
use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::builder::BuilderError;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::{Linkage, Module};
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetMachineOptions, TargetTriple,
};
use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicMetadataValueEnum, FunctionValue};
use jambac_kernels::cpu::builder::BODY_SUFFIX;
use jambac_kernels::target::{CpuTarget, Llvm};

/// LLVM's code generator for one target.
pub struct Machine {
    target: CpuTarget,
    machine: TargetMachine,
}

impl Machine {
    pub fn new(target: CpuTarget) -> Result<Self, CodegenError> {
        let failed = |message: String| CodegenError::Optimize { message };
        match target {
            CpuTarget::X86(_) => Target::initialize_x86(&InitializationConfig::default()),
            CpuTarget::Arm(_) => Target::initialize_aarch64(&InitializationConfig::default()),
        }
        let Llvm { triple, cpu, features } = target.llvm();
        let triple = TargetTriple::create(triple);
        let options = TargetMachineOptions::new()
            .set_cpu(cpu)
            .set_features(features)
            .set_level(OptimizationLevel::Aggressive)
            .set_reloc_mode(RelocMode::PIC)
            .set_code_model(CodeModel::Small);
        let machine = Target::from_triple(&triple)
            .map_err(|error| failed(error.to_string()))?
            .create_target_machine_from_options(&triple, options)
            .ok_or_else(|| failed(format!("LLVM has no code generator for {target}")))?;
        Ok(Machine { target, machine })
    }

    /// Translates a module in the LLVM dialect to LLVM IR and adds an exported entry point for each kernel.
    pub fn translate<'ctx>(
        &self,
        mlir_context: &melior::Context,
        module: &melior::ir::Module,
        context: &'ctx Context,
    ) -> Result<Module<'ctx>, CodegenError> {
        let failed = |message: String| CodegenError::Translate { message };
        let diagnostics = Diagnostics::catch(mlir_context);
        let module = ffi::translate(module, context).ok_or_else(|| failed(diagnostics.take()))?;
        module.set_triple(&self.machine.get_triple());
        module.set_data_layout(&self.machine.get_target_data().get_data_layout());
        module.set_source_file_name("kernels");

        let bodies: Vec<_> = module.get_functions().filter(|function| function.count_basic_blocks() > 0).collect();
        for body in bodies {
            let name = body.get_name().to_string_lossy().into_owned();
            let name = name.strip_suffix(BODY_SUFFIX).ok_or_else(|| failed(format!("'{name}' is not a kernel")))?;
            let entry = export(context, &module, name, body).map_err(|error| failed(format!("{name}: {error}")))?;
            // The body is inlined into the entry point, so each kernel is one symbol.
            body.set_linkage(Linkage::Internal);
            body.add_attribute(AttributeLoc::Function, enum_attribute(context, "alwaysinline"));
            for attribute in self.attributes(context) {
                body.add_attribute(AttributeLoc::Function, attribute);
                entry.add_attribute(AttributeLoc::Function, attribute);
            }
        }
        module.verify().map_err(|error| failed(error.to_string()))?;
        Ok(module)
    }

    /// Runs the optimizer. It preserves the order and the rounding of arithmetic.
    pub fn optimize(&self, module: &Module) -> Result<(), CodegenError> {
        let options = PassBuilderOptions::create();
        // Kernels are written with vector types; their scalar code is bookkeeping, which grows without benefit if vectorized.
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        options.set_loop_interleaving(false);
        module
            .run_passes("default<O3>", &self.machine, options)
            .map_err(|error| CodegenError::Optimize { message: error.to_string() })
    }

    /// Emits the module as an ELF object.
    pub fn object(&self, module: &Module) -> Result<Vec<u8>, CodegenError> {
        Ok(self.emit(module, FileType::Object)?.as_slice().to_vec())
    }

    /// Emits the module as assembly text.
    pub fn assembly(&self, module: &Module) -> Result<String, CodegenError> {
        Ok(String::from_utf8_lossy(self.emit(module, FileType::Assembly)?.as_slice()).into_owned())
    }

    fn emit(&self, module: &Module, kind: FileType) -> Result<MemoryBuffer<'static>, CodegenError> {
        self.machine
            .write_to_memory_buffer(module, kind)
            .map_err(|error| CodegenError::EmitObject { message: error.to_string() })
    }

    fn attributes(&self, context: &Context) -> Vec<Attribute> {
        let Llvm { cpu, features, .. } = self.target.llvm();
        let mut attributes = vec![
            context.create_string_attribute("target-cpu", cpu),
            // Loops must not become calls of memset or memcpy: no library provides them.
            context.create_string_attribute("no-builtins", ""),
            enum_attribute(context, "nounwind"),
        ];
        if !features.is_empty() {
            attributes.push(context.create_string_attribute("target-features", features));
        }
        attributes
    }
}

fn enum_attribute(context: &Context, name: &str) -> Attribute {
    context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0)
}

/// Adds the entry point `void name(const u64 *args, u64 thread, u64 n_threads)`, which calls the body with the slots of `args`.
fn export<'ctx>(
    context: &'ctx Context,
    module: &Module<'ctx>,
    name: &str,
    body: FunctionValue<'ctx>,
) -> Result<FunctionValue<'ctx>, BuilderError> {
    let pointer = context.ptr_type(Default::default());
    let integer = context.i64_type();
    let ty = context.void_type().fn_type(&[pointer.into(), integer.into(), integer.into()], false);
    let entry = module.add_function(name, ty, None);
    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(entry, "entry"));

    // Pointers and integers both have 8 bytes, so the slots are the fields of a struct.
    let types: Vec<BasicTypeEnum> = body.get_param_iter().map(|param| param.get_type()).collect();
    let slots = context.struct_type(&types[..types.len() - 2], false);
    let parameters: Vec<_> = entry.get_param_iter().collect();
    let mut values: Vec<BasicMetadataValueEnum> = Vec::new();
    for (slot, &ty) in types[..types.len() - 2].iter().enumerate() {
        let address = builder.build_struct_gep(slots, parameters[0].into_pointer_value(), slot as u32, "slot")?;
        values.push(builder.build_load(ty, address, "arg")?.into());
    }
    values.push(parameters[1].into());
    values.push(parameters[2].into());
    builder.build_direct_call(body, &values, "")?;
    builder.build_return(None)?;
    Ok(entry)
}

//! The module and kernel builder for sm_90a: the arithmetic and control flow of [`crate::cpu::builder`], plus GPU-specific
//! operations.
//!
//! ```text
//! let params = [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::F32, &[]), Param::count("n")];
//! module.kernel("halve", &params, 128, |b| {
//!     let i = b.block() * 128 + b.thread();
//!     b.if_(i.lt(b.count("n")), || {
//!         let x = b.load(b.at(b.pointer("x"), i * 4), Type::scalar(Num::F32));
//!         b.store(x * 0.5, b.at(b.pointer("y"), i * 4));
//!     });
//! });
//! ```
//!
//! Counts, rows and offsets inside a row are i32; [`Builder::row`] widens before it multiplies. Memory is accessed through
//! pointers ([`super::memory`]), never through CPU kernel buffers.

use super::facts::{MAX_THREADS, SWIZZLE_BYTES, WARP};
use crate::cpu::builder::{Machine, Num, Type, Value, caller, named, parse_attribute};
use crate::kernel::{Access, Blocks, Emit, Launch, Param};
use jamba_plan::format::{TENSOR_MAP_ALIGN, TENSOR_MAP_BYTES};
use melior::Context;
use melior::ir::attribute::{ArrayAttribute, StringAttribute, TypeAttribute};
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::FunctionType;
use melior::ir::{Attribute, Block, BlockLike, BlockRef, Location, Module, Region, RegionLike};
use std::ops::Deref;

/// Symbol of the dynamic shared memory, shared by all kernels of a module.
pub const DYNAMIC_SHARED: &str = "dynamic_shared";

/// Attribute of a kernel function: threads per block.
pub const THREADS: &str = "jambac-threads";

/// Attribute of a kernel function: resident blocks per SM.
pub const RESIDENT_BLOCKS: &str = "jambac-resident-blocks";

/// Adds kernels to an MLIR module for sm_90a.
pub struct ModuleBuilder<'m> {
    context: &'m Context,
    body: BlockRef<'m, 'm>,
}

impl<'m> ModuleBuilder<'m> {
    /// Adds to an empty `module`, whose context must have the dialects func, arith, math, vector, scf, nvvm and llvm loaded.
    pub fn new(context: &'m Context, module: &'m Module<'m>) -> Self {
        let memory = OperationBuilder::new("llvm.mlir.global", Location::unknown(context))
            .add_attributes(&[
                named(context, "sym_name", StringAttribute::new(context, DYNAMIC_SHARED).into()),
                named(context, "global_type", parse_attribute(context, "!llvm.array<0 x i8>")),
                named(context, "linkage", parse_attribute(context, "#llvm.linkage<external>")),
                named(context, "addr_space", parse_attribute(context, "3 : i32")),
                named(context, "alignment", parse_attribute(context, &format!("{SWIZZLE_BYTES} : i64"))),
            ])
            .add_regions([Region::new()])
            .build()
            .expect("MLIR creates llvm.mlir.global");
        module.body().append_operation(memory);
        ModuleBuilder { context, body: module.body() }
    }

    /// Adds a launch of the catalog. Panics if it is for another target.
    #[track_caller]
    pub fn add(&self, launch: &Launch) {
        let (Emit::Hopper(emit), Some(grid)) = (&launch.body.emit, &launch.grid) else {
            panic!("{} is not a Hopper kernel", launch.symbol)
        };
        let resident = match grid.blocks[0] {
            Blocks::PerSm(blocks) => blocks,
            Blocks::Fixed(_) | Blocks::Of { .. } => 1,
        };
        self.resident_kernel(&launch.symbol, &launch.params(), (grid.threads, resident), |b| emit(b));
    }

    /// Adds the kernel `name` with `threads` threads per block; `emit` writes its body. Names must be unique within a
    /// module.
    #[track_caller]
    pub fn kernel(&self, name: &str, params: &[Param], threads: u32, emit: impl FnOnce(&Builder)) {
        self.resident_kernel(name, params, (threads, 1), emit);
    }

    /// Adds a kernel with the given threads per block and resident blocks per SM. The latter limits the registers of a
    /// thread to its share.
    #[track_caller]
    fn resident_kernel(
        &self,
        name: &str,
        params: &[Param],
        (threads, blocks): (u32, u32),
        emit: impl FnOnce(&Builder),
    ) {
        assert!(
            threads.is_multiple_of(WARP) && (WARP..=MAX_THREADS).contains(&threads),
            "a block of {threads} threads"
        );
        let context = self.context;
        let location = caller(context);
        let types: Vec<_> = params.iter().map(|param| argument(param).mlir(context)).collect();
        let apart = params.iter().all(|param| param.access() != Some(Access::WriteOver));
        let attributes: Vec<_> = params.iter().map(|param| attributes(context, param, apart)).collect();

        let region = Region::new();
        let typed: Vec<_> = types.iter().map(|&ty| (ty, location)).collect();
        let entry = region.append_block(Block::new(&typed));
        let builder =
            Builder { inner: crate::cpu::builder::Builder::new(context, Machine::Sm90, entry, params), threads };
        builder.write(|| emit(&builder));
        builder.op("func.return", &[], &[]);

        let function = OperationBuilder::new("func.func", builder.here())
            .add_attributes(&[
                named(context, "sym_name", StringAttribute::new(context, name).into()),
                named(
                    context,
                    "function_type",
                    TypeAttribute::new(FunctionType::new(context, &types, &[]).into()).into(),
                ),
                named(context, "arg_attrs", ArrayAttribute::new(context, &attributes).into()),
                named(context, "passthrough", passthrough(context, &[(THREADS, threads), (RESIDENT_BLOCKS, blocks)])),
            ])
            .add_regions([region])
            .build()
            .expect("MLIR creates func.func");
        self.body.append_operation(function);
    }
}

/// Function attributes passed through to LLVM.
fn passthrough<'m>(context: &'m Context, attributes: &[(&str, u32)]) -> Attribute<'m> {
    let pairs: Vec<String> = attributes.iter().map(|(name, value)| format!("[\"{name}\", \"{value}\"]")).collect();
    parse_attribute(context, &format!("[{}]", pairs.join(", ")))
}

/// Writes the body of one sm_90a kernel, one operation at a time.
pub struct Builder<'m> {
    inner: crate::cpu::builder::Builder<'m>,
    threads: u32,
}

impl<'m> Deref for Builder<'m> {
    type Target = crate::cpu::builder::Builder<'m>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl Builder<'_> {
    pub fn threads_per_block(&self) -> u32 {
        self.threads
    }

    /// The address of the buffer `name`.
    #[track_caller]
    pub fn pointer(&self, name: &str) -> Value {
        let is_buffer = |param: &Param| matches!(param, Param::Buffer { .. });
        self.slot(name, is_buffer).unwrap_or_else(|| panic!("the kernel has no buffer '{name}'"))
    }

    /// The address of the tensor map `name`, which is a parameter passed by value.
    #[track_caller]
    pub fn tensor_map(&self, name: &str) -> Value {
        let is_map = |param: &Param| matches!(param, Param::TensorMap { .. });
        self.slot(name, is_map).unwrap_or_else(|| panic!("the kernel has no tensor map '{name}'"))
    }

    /// The count parameter `name`, as an i32.
    #[track_caller]
    pub fn count(&self, name: &str) -> Value {
        let is_count = |param: &Param| matches!(param, Param::Count { .. });
        let address = self.slot(name, is_count).unwrap_or_else(|| panic!("the kernel has no count '{name}'"));
        self.load(address, Type::scalar(Num::I64)).to_i32()
    }

    fn slot(&self, name: &str, wanted: impl Fn(&Param) -> bool) -> Option<Value> {
        let slot = self.params.iter().position(|param| param.name() == name && wanted(param))?;
        Some(Value { id: slot as u32, ty: argument(&self.params[slot]) })
    }
}

fn argument(param: &Param) -> Type {
    Type::scalar(match param {
        Param::Buffer { .. } | Param::Count { .. } => Num::Global,
        Param::TensorMap { .. } => Num::Map,
        Param::Scalar { .. } => Num::Index,
    })
}

/// `apart`: no result of the kernel overlaps an operand.
fn attributes<'m>(context: &'m Context, param: &Param, apart: bool) -> Attribute<'m> {
    let aligned = |to: usize| format!("llvm.noundef, llvm.align = {to} : i64");
    parse_attribute(
        context,
        &match (param, param.access()) {
            (Param::Scalar { .. }, _) => "{llvm.noundef}".to_owned(),
            (Param::Count { .. }, _) => format!("{{llvm.noalias, llvm.readonly, {}}}", aligned(8)),
            (Param::TensorMap { .. }, _) => {
                format!("{{llvm.byval = !llvm.array<{TENSOR_MAP_BYTES} x i8>, {}}}", aligned(TENSOR_MAP_ALIGN))
            }
            (_, Some(Access::Read)) if apart => format!("{{llvm.noalias, llvm.readonly, {}}}", aligned(16)),
            (_, Some(Access::Read)) => format!("{{llvm.readonly, {}}}", aligned(16)),
            _ if apart => format!("{{llvm.noalias, {}}}", aligned(16)),
            _ => format!("{{{}}}", aligned(16)),
        },
    )
}

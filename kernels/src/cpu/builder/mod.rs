//! A builder for MLIR with arithmetic operators, so that a kernel's body reads like its formula.
//!
//! ```text
//! let params = [Param::read("x", Elem::F32, &[]), Param::write("y", Elem::F32, &[]), Param::scalar("blocks")];
//! module.kernel("halve", &params, |b| {
//!     b.parallel_for(b.scalar("blocks"), |block| {
//!         let i = block * 16;
//!         b.store(b.load_vector(b.buffer("x"), &[i], 16) * 0.5, b.buffer("y"), &[i]);
//!     });
//! });
//! ```
//!
//! A [`Value`] is a small copyable handle with operators that append to the kernel under construction on this thread.
//! Operand types select the operation: `+` adds indices, integers, floats, and vectors of these; a number takes the type of
//! the other operand. Mixed types are a bug in the kernel and panic with the kernel's source line. Errors of MLIR's
//! verifier name that line too.
//!
//! A kernel has the signature `extern "C" fn(args: *const u64, thread: u64, n_threads: u64)`; `args` has one slot per
//! [`Param`], in order: an address or an integer. This exported function calls a body function with one argument per slot,
//! which the builder writes. Buffers that a kernel writes must not overlap its other buffers.

mod arm;
mod constants;
mod convert;
mod flow;
mod memory;
mod scope;
mod tiles;
mod types;
mod value;
mod vector;
mod x86;

pub use flow::Carried;
pub use memory::Place;
pub use tiles::{TILE_BYTES, TILE_ROWS, TileDot};
pub use types::{Buffer, Num, Range, Type, UNBOUNDED, Value};
pub use value::Operand;

use crate::kernel::{Access, Emit, Launch, Param};
use crate::target::CpuTarget;
use melior::Context;
use melior::ir::attribute::{ArrayAttribute, StringAttribute, TypeAttribute};
use melior::ir::operation::{OperationBuilder, OperationRef};
use melior::ir::r#type::{FunctionType, MemRefType};
use melior::ir::{Attribute, Block, BlockLike, BlockRef, Identifier, Location, Module, Region, RegionLike};
use std::cell::{Cell, RefCell};

/// Suffix of the body function that the exported kernel `NAME` calls.
pub const BODY_SUFFIX: &str = ".body";

/// Source folders that never count as a line of a GPU kernel.
const HELPERS: [&str; 2] = ["kernels/src/cpu/builder", "kernels/src/hopper/"];

/// Adds kernels to an MLIR module, all for one target.
pub struct ModuleBuilder<'m> {
    context: &'m Context,
    body: BlockRef<'m, 'm>,
    target: CpuTarget,
}

impl<'m> ModuleBuilder<'m> {
    /// Adds to `module`, whose context must have the dialects func, arith, math, memref, vector and scf loaded.
    pub fn new(context: &'m Context, module: &'m Module<'m>, target: CpuTarget) -> Self {
        ModuleBuilder { context, body: module.body(), target }
    }

    pub fn target(&self) -> CpuTarget {
        self.target
    }

    /// Adds a launch of the catalog. Panics if it is for another target.
    #[track_caller]
    pub fn add(&self, launch: &Launch) {
        let Emit::Cpu(emit) = &launch.body.emit else { panic!("{} is not a CPU kernel", launch.symbol) };
        self.kernel(&launch.symbol, &launch.params(), |b| emit(b));
    }

    /// Adds the kernel `name`; `emit` writes its body. Names must be unique within a module.
    #[track_caller]
    pub fn kernel(&self, name: &str, params: &[Param], emit: impl FnOnce(&Builder)) {
        let context = self.context;
        let location = caller(context);
        let index = Num::Index.mlir(context);
        let mut types: Vec<_> = params.iter().map(|param| argument_type(context, param)).collect();
        types.extend([index, index]); // thread, n_threads
        let apart = params.iter().all(|param| param.access() != Some(Access::WriteOver));
        let mut attributes: Vec<_> = params.iter().map(|param| argument_attributes(context, param, apart)).collect();
        attributes.extend([parse_attribute(context, "{}"), parse_attribute(context, "{}")]);

        let region = Region::new();
        let typed: Vec<_> = types.iter().map(|&ty| (ty, location)).collect();
        let builder = Builder::new(context, Machine::Cpu(self.target), region.append_block(Block::new(&typed)), params);
        builder.write(|| emit(&builder));
        builder.op("func.return", &[], &[]);

        let function = OperationBuilder::new("func.func", location)
            .add_attributes(&[
                named(context, "sym_name", StringAttribute::new(context, &format!("{name}{BODY_SUFFIX}")).into()),
                named(
                    context,
                    "function_type",
                    TypeAttribute::new(FunctionType::new(context, &types, &[]).into()).into(),
                ),
                named(context, "arg_attrs", ArrayAttribute::new(context, &attributes).into()),
            ])
            .add_regions([region])
            .build()
            .expect("MLIR creates func.func");
        self.body.append_operation(function);
    }
}

/// The target of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Machine {
    Cpu(CpuTarget),
    /// A GPU of compute capability 9.0.
    Sm90,
}

impl Machine {
    fn has_fma(self) -> bool {
        match self {
            Machine::Cpu(target) => target.has_fma(),
            Machine::Sm90 => true,
        }
    }

    /// The type of counts.
    fn count(self) -> Type {
        Type::scalar(match self {
            Machine::Cpu(_) => Num::Index,
            Machine::Sm90 => Num::I32,
        })
    }
}

/// Writes the body of one kernel, one operation at a time.
pub struct Builder<'m> {
    pub(crate) context: &'m Context,
    target: Machine,
    entry: BlockRef<'m, 'm>,
    /// Insertion point.
    block: Cell<BlockRef<'m, 'm>>,
    /// MLIR values, indexed by handle.
    values: RefCell<Vec<melior::ir::Value<'m, 'm>>>,
    pub(crate) params: Vec<Param>,
    /// The last line in the kernel's own file: the file of the first line.
    line: Cell<Option<&'static std::panic::Location<'static>>>,
}

impl<'m> Builder<'m> {
    /// `entry` is the kernel's entry block, with one argument per slot.
    pub(crate) fn new(context: &'m Context, target: Machine, entry: BlockRef<'m, 'm>, params: &[Param]) -> Self {
        // The first handles are the arguments: slot number = handle.
        let values = (0..entry.argument_count()).map(|slot| argument_value(entry, slot)).collect();
        Builder {
            context,
            target,
            entry,
            block: Cell::new(entry),
            values: RefCell::new(values),
            params: params.to_vec(),
            line: Cell::new(None),
        }
    }

    /// Runs `body`; its operators on values append to this kernel.
    pub(crate) fn write(&self, body: impl FnOnce()) {
        scope::enter(self, body);
    }

    pub(super) fn machine(&self) -> Machine {
        self.target
    }

    /// The kernel's CPU target; panics in a GPU kernel.
    #[track_caller]
    pub fn target(&self) -> CpuTarget {
        match self.target {
            Machine::Cpu(target) => target,
            Machine::Sm90 => panic!("a kernel of sm_90a asks for facts of a CPU"),
        }
    }

    /// The buffer of parameter `name`: the first extent is unbounded, the others are the parameter's.
    #[track_caller]
    pub fn buffer(&self, name: &str) -> Buffer {
        let buffer = self.params.iter().enumerate().find_map(|(slot, param)| match param {
            Param::Buffer { name: found, elem, inner, .. } if *found == name => {
                Some(Buffer { id: slot as u32, num: (*elem).into(), rank: inner.len() as u32 + 1 })
            }
            _ => None,
        });
        buffer.unwrap_or_else(|| panic!("the kernel has no buffer '{name}'"))
    }

    /// The integer parameter `name`, as an index.
    #[track_caller]
    pub fn scalar(&self, name: &str) -> Value {
        let slot =
            self.params.iter().position(|param| matches!(param, Param::Scalar { name: found } if *found == name));
        let slot = slot.unwrap_or_else(|| panic!("the kernel has no scalar '{name}'"));
        Value { id: slot as u32, ty: Type::scalar(Num::Index) }
    }

    /// This thread's number, from 0.
    pub fn thread(&self) -> Value {
        Value { id: self.params.len() as u32, ty: Type::scalar(Num::Index) }
    }

    /// Number of threads that run the kernel.
    pub fn n_threads(&self) -> Value {
        Value { id: self.params.len() as u32 + 1, ty: Type::scalar(Num::Index) }
    }

    /// This thread's contiguous share of `0..n`: ⌈n / n_threads⌉ numbers; the last shares may be shorter or empty.
    #[track_caller]
    pub fn thread_range(&self, n: impl Operand) -> Range {
        let n = n.value(Type::scalar(Num::Index));
        let share = n.div_ceil(self.n_threads());
        let start = (share * self.thread()).min(n);
        Range { start, end: (start + share).min(n) }
    }

    /// `for i in 0..n`, distributed over the threads.
    #[track_caller]
    pub fn parallel_for(&self, n: impl Operand, body: impl FnOnce(Value)) {
        self.for_each_in(self.thread_range(n), body);
    }

    /// `for i in range`, without carried values.
    #[track_caller]
    pub fn for_each_in(&self, range: Range, body: impl FnOnce(Value)) {
        self.for_each(range.start, range.end, 1, body);
    }

    /// A region with one block, and a handle to the block. The handle stays valid because the region ends up in an operation
    /// of the module.
    fn region(&self, block: Block<'m>) -> (Region<'m>, BlockRef<'m, 'm>) {
        let region = Region::new();
        let block = region.append_block(block);
        (region, block)
    }

    pub(crate) fn within(&self, block: BlockRef<'m, 'm>, body: impl FnOnce()) {
        let outer = self.block.replace(block);
        body();
        self.block.set(outer);
    }

    /// Appends an operation with one result, at source location `caller`.
    fn append_one(
        &self,
        caller: &'static std::panic::Location,
        name: &str,
        operands: &[Value],
        result: Type,
        attributes: &[(&str, Attribute<'m>)],
    ) -> Value {
        let operation = self.append(caller, name, operands, &[result.mlir(self.context)], attributes);
        self.result(operation, 0, result)
    }

    /// Appends an operation without results or regions.
    #[track_caller]
    pub(crate) fn op(&self, name: &str, operands: &[Value], attributes: &[(&str, Attribute<'m>)]) {
        self.op_with_results(name, operands, &[], attributes);
    }

    /// Appends an operation with one result.
    #[track_caller]
    pub(crate) fn op1(
        &self,
        name: &str,
        operands: &[Value],
        result: Type,
        attributes: &[(&str, Attribute<'m>)],
    ) -> Value {
        self.append_one(std::panic::Location::caller(), name, operands, result, attributes)
    }

    #[track_caller]
    pub(crate) fn op_with_results(
        &self,
        name: &str,
        operands: &[Value],
        results: &[melior::ir::Type<'m>],
        attributes: &[(&str, Attribute<'m>)],
    ) -> OperationRef<'m, 'm> {
        self.append(std::panic::Location::caller(), name, operands, results, attributes)
    }

    fn append(
        &self,
        caller: &'static std::panic::Location,
        name: &str,
        operands: &[Value],
        results: &[melior::ir::Type<'m>],
        attributes: &[(&str, Attribute<'m>)],
    ) -> OperationRef<'m, 'm> {
        let attributes: Vec<_> = attributes.iter().map(|&(name, value)| named(self.context, name, value)).collect();
        let operation = OperationBuilder::new(name, self.line_of(caller))
            .add_operands(&self.raw(operands))
            .add_results(results)
            .add_attributes(&attributes)
            .build()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        self.block.get().append_operation(operation)
    }

    #[track_caller]
    fn op_with_regions(
        &self,
        name: &str,
        operands: &[Value],
        results: &[Type],
        regions: Vec<Region<'m>>,
        location: Location<'m>,
    ) -> OperationRef<'m, 'm> {
        let results: Vec<_> = results.iter().map(|ty| ty.mlir(self.context)).collect();
        let operation = OperationBuilder::new(name, location)
            .add_operands(&self.raw(operands))
            .add_results(&results)
            .add_regions_vec(regions)
            .build()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        self.block.get().append_operation(operation)
    }

    /// The kernel's source line that called into the builder. A GPU function has lines of one file only, so operations
    /// emitted by a helper in another file get the kernel's preceding line.
    #[track_caller]
    pub(crate) fn here(&self) -> Location<'m> {
        self.line_of(std::panic::Location::caller())
    }

    fn line_of(&self, caller: &'static std::panic::Location) -> Location<'m> {
        if matches!(self.target, Machine::Cpu(_)) {
            return location(self.context, caller);
        }
        let is_helper = HELPERS.iter().any(|folder| caller.file().contains(folder));
        let is_other = self.line.get().is_some_and(|line| line.file() != caller.file());
        if !is_helper && !is_other {
            self.line.set(Some(caller));
        }
        self.line.get().map_or(Location::unknown(self.context), |line| location(self.context, line))
    }

    fn raw(&self, handles: &[Value]) -> Vec<melior::ir::Value<'m, 'm>> {
        let values = self.values.borrow();
        handles.iter().map(|handle| values[handle.id as usize]).collect()
    }

    pub(crate) fn define(&self, raw: melior::ir::Value<'m, 'm>, ty: Type) -> Value {
        let mut values = self.values.borrow_mut();
        values.push(raw);
        Value { id: values.len() as u32 - 1, ty }
    }

    fn results(&self, operation: OperationRef<'m, 'm>, types: &[Type]) -> Vec<Value> {
        types.iter().enumerate().map(|(slot, &ty)| self.result(operation, slot, ty)).collect()
    }

    pub(crate) fn result(&self, operation: OperationRef<'m, 'm>, slot: usize, ty: Type) -> Value {
        self.define(operation.result(slot).expect("as many results as types").into(), ty)
    }
}

/// The kernel's source line that called into the builder.
#[track_caller]
pub(crate) fn caller(context: &Context) -> Location<'_> {
    location(context, std::panic::Location::caller())
}

fn location<'m>(context: &'m Context, at: &std::panic::Location<'_>) -> Location<'m> {
    Location::new(context, at.file(), at.line() as usize, at.column() as usize)
}

pub(crate) fn named<'m>(context: &'m Context, name: &str, value: Attribute<'m>) -> (Identifier<'m>, Attribute<'m>) {
    (Identifier::new(context, name), value)
}

pub(crate) fn parse_attribute<'m>(context: &'m Context, text: &str) -> Attribute<'m> {
    Attribute::parse(context, text).unwrap_or_else(|| panic!("MLIR does not parse the attribute {text}"))
}

fn argument_value<'m>(block: BlockRef<'m, 'm>, slot: usize) -> melior::ir::Value<'m, 'm> {
    block.argument(slot).expect("as many arguments as types").into()
}

fn argument_type<'m>(context: &'m Context, param: &Param) -> melior::ir::Type<'m> {
    match param {
        Param::Buffer { elem, inner, .. } => memref(context, (*elem).into(), &[&[UNBOUNDED][..], inner].concat()),
        Param::Scalar { .. } => Num::Index.mlir(context),
        Param::Count { name } | Param::TensorMap { name, .. } => panic!("slot '{name}' is of a kernel of a GPU"),
    }
}

/// A memref of static shape; as an argument it becomes a bare pointer.
fn memref<'m>(context: &'m Context, num: Num, shape: &[usize]) -> melior::ir::Type<'m> {
    let shape: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
    MemRefType::new(num.mlir(context), &shape, None, None).into()
}

/// `apart`: no result of the kernel overlaps an operand.
pub(crate) fn argument_attributes<'m>(context: &'m Context, param: &Param, apart: bool) -> Attribute<'m> {
    let attributes = match param.access() {
        Some(Access::Read) if apart => "{llvm.noalias, llvm.readonly, llvm.noundef}",
        Some(Access::Read) => "{llvm.readonly, llvm.noundef}",
        Some(_) if apart => "{llvm.noalias, llvm.noundef}",
        _ => "{llvm.noundef}",
    };
    parse_attribute(context, attributes)
}

#[track_caller]
fn assert_types(what: &str, expected: &[Type], found: &[Value]) {
    let found: Vec<Type> = found.iter().map(|value| value.ty).collect();
    assert_eq!(found, expected, "{what}: the types of what is yielded");
}

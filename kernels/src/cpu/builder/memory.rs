//! Loads, stores and views of buffers.

use super::{Buffer, Builder, Num, Operand, Type, Value, memref, named, parse_attribute};
use melior::ir::attribute::{BoolAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute, IntegerAttribute};
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::{IntegerType, MemRefType};
use melior::ir::{BlockLike, Location};

/// Alignment of stack arrays in bytes: a cache line, so that no vector crosses a line.
const STACK_ALIGNMENT: i64 = 64;

/// A position in a buffer, one index per dimension: `i` or `(row, column)`, as values or numbers.
pub trait Place {
    #[track_caller]
    fn indices(self) -> Vec<Value>;
}

#[track_caller]
fn index(at: impl Operand) -> Value {
    at.value(Type::scalar(Num::Index))
}

impl<T: Operand> Place for T {
    #[track_caller]
    fn indices(self) -> Vec<Value> {
        vec![index(self)]
    }
}

impl<A: Operand, B: Operand> Place for (A, B) {
    #[track_caller]
    fn indices(self) -> Vec<Value> {
        vec![index(self.0), index(self.1)]
    }
}

impl<A: Operand, B: Operand, C: Operand> Place for (A, B, C) {
    #[track_caller]
    fn indices(self) -> Vec<Value> {
        vec![index(self.0), index(self.1), index(self.2)]
    }
}

impl<const N: usize> Place for [Value; N] {
    fn indices(self) -> Vec<Value> {
        self.to_vec()
    }
}

impl Builder<'_> {
    /// Loads one element.
    #[track_caller]
    pub fn load(&self, buffer: Buffer, at: impl Place) -> Value {
        self.op1("memref.load", &self.place(buffer, at), Type::scalar(buffer.num), &[])
    }

    /// Loads `lanes` consecutive elements from `at`, with no alignment requirement.
    #[track_caller]
    pub fn load_vector(&self, buffer: Buffer, at: impl Place, lanes: usize) -> Value {
        self.op1("vector.load", &self.place(buffer, at), Type::vector(buffer.num, lanes), &[])
    }

    /// Masked load of the first `count` of `lanes` elements from `at`. The other lanes are zero (all bits) and their memory
    /// is not accessed. `count` is an index and may exceed `lanes`.
    #[track_caller]
    pub fn load_partial(&self, buffer: Buffer, at: impl Place, lanes: usize, count: impl Operand) -> Value {
        let ty = Type::vector(buffer.num, lanes);
        let operands = [self.place(buffer, at), vec![self.mask(lanes, count), self.zeros(ty)]].concat();
        self.op1("vector.maskedload", &operands, ty, &[])
    }

    /// Stores a scalar, or a vector to consecutive elements, at `at`.
    #[track_caller]
    pub fn store(&self, value: impl Operand, buffer: Buffer, at: impl Place) {
        let value = value.value(Type::scalar(buffer.num));
        assert_eq!(value.ty.num, buffer.num, "store to a buffer of another element");
        let operands = [vec![value], self.place(buffer, at)].concat();
        match value.ty.lanes {
            None => self.op("memref.store", &operands, &[]),
            Some(_) => self.op("vector.store", &operands, &[]),
        }
    }

    /// Masked store of the first `count` lanes; the memory of the others is not accessed.
    #[track_caller]
    pub fn store_partial(&self, value: Value, buffer: Buffer, at: impl Place, count: impl Operand) {
        assert_eq!(value.ty.num, buffer.num, "store to a buffer of another element");
        let operands = [self.place(buffer, at), vec![self.mask(value.lanes(), count), value]].concat();
        self.op("vector.maskedstore", &operands, &[]);
    }

    /// Prefetches the cache line at `at`; any position is allowed, even beyond the buffer.
    #[track_caller]
    pub fn prefetch(&self, buffer: Buffer, at: impl Place) {
        let locality = IntegerAttribute::new(Num::I32.mlir(self.context), 3);
        self.op(
            "memref.prefetch",
            &self.place(buffer, at),
            &[
                ("isWrite", BoolAttribute::new(self.context, false).into()),
                ("localityHint", locality.into()),
                ("isDataCache", BoolAttribute::new(self.context, true).into()),
            ],
        );
    }

    /// A small uninitialized array on the stack.
    #[track_caller]
    pub fn stack(&self, num: Num, shape: &[usize]) -> Buffer {
        let alignment = IntegerAttribute::new(IntegerType::new(self.context, 64).into(), STACK_ALIGNMENT);
        // In the entry block: an alloca in a loop would allocate again in each iteration.
        let array = OperationBuilder::new("memref.alloca", Location::unknown(self.context))
            .add_results(&[memref(self.context, num, shape)])
            .add_attributes(&[
                named(self.context, "operandSegmentSizes", DenseI32ArrayAttribute::new(self.context, &[0, 0]).into()),
                named(self.context, "alignment", alignment.into()),
            ])
            .build()
            .expect("MLIR creates memref.alloca");
        let array = self.entry.insert_operation(0, array);
        let handle = self.result(array, 0, Type::scalar(num));
        Buffer { id: handle.id, num, rank: shape.len() as u32 }
    }

    /// View of a buffer of rank 1 from element `offset` on, with shape `shape`. As for arguments, the first extent may be
    /// [`UNBOUNDED`](super::UNBOUNDED); the others are the strides.
    #[track_caller]
    pub fn view(&self, buffer: Buffer, offset: Value, shape: &[usize]) -> Buffer {
        assert!(buffer.rank == 1 && offset.ty == Type::scalar(Num::Index), "view of rank {}", buffer.rank);
        let extents: Vec<i64> = shape.iter().map(|&extent| extent as i64).collect();
        let strides: Vec<i64> = (1..=extents.len()).map(|inner| extents[inner..].iter().product()).collect();
        let strided = strides.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        let layout = parse_attribute(self.context, &format!("strided<[{strided}], offset: ?>"));
        let ty = MemRefType::new(buffer.num.mlir(self.context), &extents, Some(layout), None);
        let array = |values: &[i64]| DenseI64ArrayAttribute::new(self.context, values).into();
        let operation = self.op_with_results(
            "memref.reinterpret_cast",
            &self.place(buffer, offset),
            &[ty.into()],
            &[
                ("operandSegmentSizes", DenseI32ArrayAttribute::new(self.context, &[1, 1, 0, 0]).into()),
                ("static_offsets", array(&[i64::MIN])),
                ("static_sizes", array(&extents)),
                ("static_strides", array(&strides)),
            ],
        );
        let handle = self.result(operation, 0, Type::scalar(buffer.num));
        Buffer { id: handle.id, num: buffer.num, rank: shape.len() as u32 }
    }

    /// i1 lanes, true in the first `count`.
    #[track_caller]
    fn mask(&self, lanes: usize, count: impl Operand) -> Value {
        let count = index(count);
        assert_eq!(count.ty, Type::scalar(Num::Index), "the number of lanes");
        self.iota(lanes).lt(count.min(lanes).to_i32().broadcast(lanes))
    }

    #[track_caller]
    fn zeros(&self, ty: Type) -> Value {
        match ty.num {
            Num::Bf16 => Value { ty, ..0.value(ty.with(Num::I16)) },
            Num::F16 => 0.value(ty.with(Num::I16)).bitcast(Num::F16),
            num if num.is_integer() => 0.value(ty),
            _ => 0.0.value(ty),
        }
    }

    #[track_caller]
    fn place(&self, buffer: Buffer, at: impl Place) -> Vec<Value> {
        let at = at.indices();
        assert_eq!(at.len(), buffer.rank as usize, "indices into a buffer of rank {}", buffer.rank);
        assert!(at.iter().all(|i| i.ty == Type::scalar(Num::Index)), "an index into a buffer is not an index");
        [Value { id: buffer.id, ty: Type::scalar(buffer.num) }].into_iter().chain(at).collect()
    }
}

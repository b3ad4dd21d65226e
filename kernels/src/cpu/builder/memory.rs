//! Reading and writing buffers.

use super::{Buffer, Builder, Num, Operand, Type, Value, memref, named, parse_attribute};
use melior::ir::attribute::{BoolAttribute, DenseI32ArrayAttribute, DenseI64ArrayAttribute, IntegerAttribute};
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::{IntegerType, MemRefType};
use melior::ir::{BlockLike, Location};

/// Alignment of arrays on the stack in bytes: a cache line, so that no vector crosses two.
const STACK_ALIGNMENT: i64 = 64;

/// A place in a buffer, an index per dimension: `i` or `(row, column)`, of values and numbers.
pub trait Place {
    /// The indices.
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
    /// One element, at an index per dimension.
    #[track_caller]
    pub fn load(&self, buffer: Buffer, at: impl Place) -> Value {
        self.op1("memref.load", &self.place(buffer, at), Type::scalar(buffer.num), &[])
    }

    /// `lanes` consecutive elements from `at`, of any alignment.
    #[track_caller]
    pub fn load_vector(&self, buffer: Buffer, at: impl Place, lanes: usize) -> Value {
        self.op1("vector.load", &self.place(buffer, at), Type::vector(buffer.num, lanes), &[])
    }

    /// The first `count` of the `lanes` elements from `at`, zero (all bits) in the other lanes, whose memory is not
    /// touched. `count` is an index and may exceed `lanes`.
    #[track_caller]
    pub fn load_partial(&self, buffer: Buffer, at: impl Place, lanes: usize, count: impl Operand) -> Value {
        let ty = Type::vector(buffer.num, lanes);
        let operands = [self.place(buffer, at), vec![self.mask(lanes, count), self.zeros(ty)]].concat();
        self.op1("vector.maskedload", &operands, ty, &[])
    }

    /// Writes a scalar, or a vector to consecutive elements, at `at`.
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

    /// Writes the first `count` lanes, and touches no memory of the others.
    #[track_caller]
    pub fn store_partial(&self, value: Value, buffer: Buffer, at: impl Place, count: impl Operand) {
        assert_eq!(value.ty.num, buffer.num, "store to a buffer of another element");
        let operands = [self.place(buffer, at), vec![self.mask(value.lanes(), count), value]].concat();
        self.op("vector.maskedstore", &operands, &[]);
    }

    /// Prefetches the cache line at `at`; any place is allowed, even beyond the buffer.
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

    /// A small array on the stack, of undefined content.
    #[track_caller]
    pub fn stack(&self, num: Num, shape: &[usize]) -> Buffer {
        let alignment = IntegerAttribute::new(IntegerType::new(self.context, 64).into(), STACK_ALIGNMENT);
        // In the entry block: an array in a loop would take new stack each time round.
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

    /// The elements from number `offset` of a buffer of rank 1 on, as an array of `shape`. Like the extents of arguments,
    /// the first may be [`UNBOUNDED`](super::UNBOUNDED); the others are the strides.
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

    /// i1 lanes: true in the first `count`.
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

//! Pointers with byte arithmetic, loads, stores and atomics.
//!
//! A vector load or store is one access of at most 16 bytes, aligned to its size.

use super::Builder;
use super::asm::Effect;
use super::builder::DYNAMIC_SHARED;
use super::facts::VECTOR_BYTES;
use crate::cpu::builder::{Num, Type, Value};
use melior::ir::Attribute;
use melior::ir::attribute::{DenseI32ArrayAttribute, FlatSymbolRefAttribute, IntegerAttribute, TypeAttribute};
use melior::ir::r#type::IntegerType;

/// Pointers.
impl Builder<'_> {
    /// The start of the block's dynamic shared memory, aligned to [`SWIZZLE_BYTES`](super::facts::SWIZZLE_BYTES).
    #[track_caller]
    pub fn shared(&self) -> Value {
        let name = FlatSymbolRefAttribute::new(self.context, DYNAMIC_SHARED).into();
        self.op1("llvm.mlir.addressof", &[], Type::scalar(Num::Shared), &[("global_name", name)])
    }

    /// Shared memory from byte `offset` on.
    #[track_caller]
    pub fn shared_at(&self, offset: usize) -> Value {
        self.at_byte(self.shared(), offset)
    }

    /// `pointer + bytes`; bytes are i32, i64 or an index, and may be negative.
    #[track_caller]
    pub fn at(&self, pointer: Value, bytes: Value) -> Value {
        assert_pointer(pointer);
        let bytes = match bytes.ty.num {
            Num::Index => self.op1("arith.index_cast", &[bytes], Type::scalar(Num::I64), &[]),
            Num::I32 | Num::I64 => bytes,
            _ => panic!("an offset of type {}", bytes.ty),
        };
        self.element_pointer(pointer, Some(bytes), i32::MIN)
    }

    /// `pointer + bytes`.
    #[track_caller]
    pub fn at_byte(&self, pointer: Value, bytes: usize) -> Value {
        assert_pointer(pointer);
        let bytes = i32::try_from(bytes).ok().filter(|&bytes| bytes != i32::MIN);
        self.element_pointer(pointer, None, bytes.expect("a constant offset below 2 GiB"))
    }

    /// The start of row `row` (i32, not negative) for rows of `row_bytes` bytes; the product is 64 bits wide.
    #[track_caller]
    pub fn row(&self, pointer: Value, row: Value, row_bytes: usize) -> Value {
        self.at(pointer, row.to_i64() * row_bytes as i64)
    }

    /// Entry `index` (i32) of the i32 table in parameter `name`.
    #[track_caller]
    pub fn entry(&self, name: &str, index: Value) -> Value {
        self.load(self.at(self.pointer(name), index * 4), Type::scalar(Num::I32))
    }

    /// A pointer as an integer for inline PTX: i32 for shared, i64 for global addresses.
    #[track_caller]
    pub fn address(&self, pointer: Value) -> Value {
        let num = match pointer.ty.num {
            Num::Shared => Num::I32,
            Num::Global => Num::I64,
            _ => panic!("the address of a {}", pointer.ty),
        };
        self.op1("llvm.ptrtoint", &[pointer], Type::scalar(num), &[])
    }

    fn element_pointer(&self, pointer: Value, bytes: Option<Value>, constant: i32) -> Value {
        // i32::MIN marks a dynamic operand among the constant indices.
        let indices = DenseI32ArrayAttribute::new(self.context, &[constant]).into();
        let byte = TypeAttribute::new(IntegerType::new(self.context, 8).into()).into();
        let operands: Vec<Value> = [pointer].into_iter().chain(bytes).collect();
        let attributes =
            [("rawConstantIndices", indices), ("elem_type", byte), ("inbounds", Attribute::unit(self.context))];
        self.op1("llvm.getelementptr", &operands, pointer.ty, &attributes)
    }
}

/// Loads and stores.
impl<'m> Builder<'m> {
    /// Loads a scalar or vector.
    #[track_caller]
    pub fn load(&self, pointer: Value, ty: Type) -> Value {
        assert_pointer(pointer);
        self.op1("llvm.load", &[pointer], ty, &[("alignment", self.alignment(ty))])
    }

    /// Stores a scalar or vector.
    #[track_caller]
    pub fn store(&self, value: Value, pointer: Value) {
        assert_pointer(pointer);
        self.op("llvm.store", &[value, pointer], &[("alignment", self.alignment(value.ty))]);
    }

    /// Adds to an i32 in global memory and returns the old value, with acquire-release semantics at device scope.
    #[track_caller]
    pub fn atomic_add_acq_rel(&self, pointer: Value, x: Value) -> Value {
        assert!(pointer.ty.num == Num::Global && x.ty.num == Num::I32, "atomic add of {} at {}", x.ty, pointer.ty);
        self.asm1(Effect::Memory, "atom.acq_rel.gpu.global.add.u32 $0, [$1], $2;", &[pointer, x], Num::I32)
    }

    /// Adds to an i32 in shared memory and returns the old value.
    #[track_caller]
    pub fn atomic_add_shared(&self, pointer: Value, x: Value) -> Value {
        assert!(pointer.ty.num == Num::Shared && x.ty.num == Num::I32, "atomic add of {} at {}", x.ty, pointer.ty);
        self.asm1(Effect::Memory, "atom.relaxed.cta.shared.add.u32 $0, [$1], $2;", &[pointer, x], Num::I32)
    }

    #[track_caller]
    fn alignment(&self, ty: Type) -> Attribute<'m> {
        let bytes = ty.num.bytes() * ty.lanes.unwrap_or(1) as usize;
        assert!(bytes.is_power_of_two() && bytes <= VECTOR_BYTES, "an access of {bytes} bytes");
        IntegerAttribute::new(IntegerType::new(self.context, 64).into(), bytes as i64).into()
    }
}

#[track_caller]
fn assert_pointer(pointer: Value) {
    assert!(matches!(pointer.ty.num, Num::Global | Num::Shared), "{} is no pointer", pointer.ty);
}

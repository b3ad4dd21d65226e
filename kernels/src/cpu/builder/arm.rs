//! Arm instructions by name.

use super::{Builder, Num, Type, Value};
use melior::ir::attribute::StringAttribute;

impl Builder<'_> {
    /// `sums[i] + Σⱼ x[4 i + j] · y[4 i + j]`, j from 0 to 3: products of 16 bytes, added to four i32 lanes.
    #[track_caller]
    pub fn dot_bytes(&self, sums: Value, x: Value, y: Value) -> Value {
        self.of_bytes("llvm.aarch64.neon.sdot.v4i32.v16i8", sums, x, y)
    }

    /// `sums[2 i + j] + Σₖ x[8 i + k] · y[8 j + k]`, k from 0 to 7: the product of two rows of 8 bytes with two others, added to
    /// four i32 lanes. Needs the int8 matrix instructions.
    #[track_caller]
    pub fn matmul_bytes(&self, sums: Value, x: Value, y: Value) -> Value {
        self.of_bytes("llvm.aarch64.neon.smmla.v4i32.v16i8", sums, x, y)
    }

    #[track_caller]
    fn of_bytes(&self, name: &str, sums: Value, x: Value, y: Value) -> Value {
        let (bytes, lanes) = (Type::vector(Num::I8, 16), Type::vector(Num::I32, 4));
        assert!(x.ty == bytes && y.ty == bytes && sums.ty == lanes, "{name} of {}, {}, {}", sums.ty, x.ty, y.ty);
        let name = StringAttribute::new(self.context, name).into();
        self.op1("llvm.call_intrinsic", &[sums, x, y], lanes, &[("intrin", name)])
    }
}

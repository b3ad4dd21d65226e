//! x86 instructions by name.

use super::{Builder, Num, Type, Value};
use crate::target::{CpuTarget, X86Level};
use melior::ir::attribute::StringAttribute;

impl Builder<'_> {
    /// `x₀ · y₀ + x₁ · y₁, x₂ · y₂ + x₃ · y₃, …`: i16 lanes to half as many i32 lanes. x and y fill a vector register; sums
    /// are exact unless all four numbers are −2¹⁵. On targets that support it, adding the result is part of the same
    /// instruction.
    #[track_caller]
    pub fn madd_pairs(&self, x: Value, y: Value) -> Value {
        let target = self.target();
        let lanes = target.vector_bytes() / Num::I16.bytes();
        let expected = Type::vector(Num::I16, lanes);
        assert!(x.ty == expected && y.ty == expected, "madd_pairs of {} and {}, expected {expected}", x.ty, y.ty);
        let name = match target {
            CpuTarget::X86(X86Level::V2) => "llvm.x86.sse2.pmadd.wd",
            CpuTarget::X86(X86Level::V3) => "llvm.x86.avx2.pmadd.wd",
            CpuTarget::X86(X86Level::V4 | X86Level::V4Vnni) => "llvm.x86.avx512.pmaddw.d.512",
            CpuTarget::Arm(_) => panic!("madd_pairs on {target}"),
        };
        let name = StringAttribute::new(self.context, name).into();
        self.op1("llvm.call_intrinsic", &[x, y], Type::vector(Num::I32, lanes / 2), &[("intrin", name)])
    }
}

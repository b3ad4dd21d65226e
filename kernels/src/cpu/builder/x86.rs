//! x86 instructions by name.

use super::{Builder, Num, Type, Value};
use crate::kernel::LANES;
use crate::target::{CpuTarget, X86Level};
use melior::ir;
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
            CpuTarget::X86(_) => "llvm.x86.avx512.pmaddw.d.512",
            CpuTarget::Arm(_) => panic!("madd_pairs on {target}"),
        };
        let name = StringAttribute::new(self.context, name).into();
        self.op1("llvm.call_intrinsic", &[x, y], Type::vector(Num::I32, lanes / 2), &[("intrin", name)])
    }

    /// `sumsᵢ + x₂ᵢ₊₁ · y₂ᵢ₊₁ + x₂ᵢ · y₂ᵢ`: pairs of bf16, added to 16 f32 lanes with two multiply-adds that round to nearest.
    /// Subnormal numbers count as zero.
    #[track_caller]
    pub fn dot_bf16(&self, sums: Value, x: Value, y: Value) -> Value {
        let pairs = Type::vector(Num::Bf16, 2 * LANES);
        assert!(self.target().rounds_inputs(), "dot_bf16 on {}", self.target());
        assert!(x.ty == pairs && y.ty == pairs, "dot_bf16 of {} and {}", x.ty, y.ty);
        // bf16 values are held as their bits.
        let of_bits = |bits: Value| {
            let ty = ir::Type::vector(&[2 * LANES as u64], ir::Type::bfloat16(self.context));
            let operation = self.op_with_results("vector.bitcast", &[bits], &[ty], &[]);
            self.result(operation, 0, pairs)
        };
        let name = StringAttribute::new(self.context, "llvm.x86.avx512bf16.dpbf16ps.512").into();
        self.op1("llvm.call_intrinsic", &[sums, of_bits(x), of_bits(y)], sums.ty, &[("intrin", name)])
    }
}

//! Constants, arithmetic, comparison and conversion; all of it lane by lane.

use super::{Builder, Num, Type, Value};
use crate::target::X86Level;
use melior::ir::attribute::{DenseElementsAttribute, FloatAttribute, IntegerAttribute, StringAttribute};
use melior::ir::{Attribute, r#type::IntegerType};

/// How two values are compared: integers as signed, floats as ordered (false where either is NaN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Eq,
    /// Not equal (for floats: ordered and not equal).
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// Constants.
impl<'m> Builder<'m> {
    /// A constant index.
    #[track_caller]
    pub fn index(&self, value: usize) -> Value {
        self.integer(value as i64, Type::scalar(Num::Index))
    }

    /// A constant i32.
    #[track_caller]
    pub fn i32(&self, value: i32) -> Value {
        self.integer(value.into(), Type::scalar(Num::I32))
    }

    /// A constant i64.
    #[track_caller]
    pub fn i64(&self, value: i64) -> Value {
        self.integer(value, Type::scalar(Num::I64))
    }

    /// A constant f32.
    #[track_caller]
    pub fn f32(&self, value: f32) -> Value {
        self.constant(value.into(), Type::scalar(Num::F32))
    }

    /// A constant f64.
    #[track_caller]
    pub fn f64(&self, value: f64) -> Value {
        self.constant(value, Type::scalar(Num::F64))
    }

    /// The same f32 in every lane.
    #[track_caller]
    pub fn splat(&self, value: f32, lanes: usize) -> Value {
        self.constant(value.into(), Type::vector(Num::F32, lanes))
    }

    /// The same i32 in every lane.
    #[track_caller]
    pub fn splat_i32(&self, value: i32, lanes: usize) -> Value {
        self.integer(value.into(), Type::vector(Num::I32, lanes))
    }

    /// The number `value` as an f32, f64, index or i32 scalar, or in every lane: whatever `ty` says.
    #[track_caller]
    pub fn constant(&self, value: f64, ty: Type) -> Value {
        match ty.num {
            Num::F32 | Num::F64 => {
                let float = ty.num.mlir(self.context);
                self.constant_attribute(FloatAttribute::new(self.context, float, value).into(), ty)
            }
            Num::Bf16 | Num::F16 => panic!("a constant of type {ty}: convert an f32 instead"),
            Num::Global | Num::Shared => panic!("a constant of type {ty}"),
            _ => self.integer(value as i64, ty),
        }
    }

    /// `0, 1, 2, …` as i32 lanes.
    #[track_caller]
    pub fn iota(&self, lanes: usize) -> Value {
        let ty = Type::vector(Num::I32, lanes);
        let lane_type = Num::I32.mlir(self.context);
        let values: Vec<Attribute> =
            (0..lanes).map(|lane| IntegerAttribute::new(lane_type, lane as i64).into()).collect();
        let values = DenseElementsAttribute::new(ty.mlir(self.context), &values).expect("a vector type is shaped");
        self.op1("arith.constant", &[], ty, &[("value", values.into())])
    }

    #[track_caller]
    fn integer(&self, value: i64, ty: Type) -> Value {
        self.constant_attribute(IntegerAttribute::new(ty.num.mlir(self.context), value).into(), ty)
    }

    #[track_caller]
    fn constant_attribute(&self, value: Attribute<'m>, ty: Type) -> Value {
        let value = match ty.lanes {
            None => value,
            Some(_) => {
                DenseElementsAttribute::new(ty.mlir(self.context), &[value]).expect("a vector type is shaped").into()
            }
        };
        self.op1("arith.constant", &[], ty, &[("value", value)])
    }
}

/// Arithmetic. Operands have the same type, which is the type of the result.
impl Builder<'_> {
    /// x + y.
    #[track_caller]
    pub fn add(&self, x: Value, y: Value) -> Value {
        self.binary("add", x, y, "arith.addf", "arith.addi")
    }

    /// x − y.
    #[track_caller]
    pub fn sub(&self, x: Value, y: Value) -> Value {
        self.binary("sub", x, y, "arith.subf", "arith.subi")
    }

    /// x · y.
    #[track_caller]
    pub fn mul(&self, x: Value, y: Value) -> Value {
        self.binary("mul", x, y, "arith.mulf", "arith.muli")
    }

    /// x / y. Indices divide as unsigned numbers, i32 as signed ones, towards zero.
    #[track_caller]
    pub fn div(&self, x: Value, y: Value) -> Value {
        let integer = if x.ty.num == Num::Index { "arith.divui" } else { "arith.divsi" };
        self.binary("div", x, y, "arith.divf", integer)
    }

    /// The remainder of [`div`](Self::div); integers only.
    #[track_caller]
    pub fn rem(&self, x: Value, y: Value) -> Value {
        assert!(x.ty.num.is_integer(), "rem of {}", x.ty);
        let integer = if x.ty.num == Num::Index { "arith.remui" } else { "arith.remsi" };
        self.binary("rem", x, y, "", integer)
    }

    /// ⌈x / y⌉ of indices.
    #[track_caller]
    pub fn ceil_div(&self, x: Value, y: Value) -> Value {
        assert_eq!(x.ty.num, Num::Index, "ceil_div");
        self.div(self.sub(self.add(x, y), self.index(1)), y)
    }

    /// −x.
    #[track_caller]
    pub fn neg(&self, x: Value) -> Value {
        match x.ty.num {
            Num::F32 | Num::F64 => self.op1("arith.negf", &[x], x.ty, &[]),
            _ => self.sub(self.constant(0.0, x.ty), x),
        }
    }

    /// |x|, of f32.
    #[track_caller]
    pub fn abs(&self, x: Value) -> Value {
        assert_eq!(x.ty.num, Num::F32, "abs");
        let bits = self.bitcast(x, Num::I32);
        self.bitcast(self.and(bits, self.constant(f64::from(i32::MAX), bits.ty)), Num::F32)
    }

    /// The greater; y where an f32 is NaN.
    #[track_caller]
    pub fn max(&self, x: Value, y: Value) -> Value {
        self.select(self.cmp(Compare::Gt, x, y), x, y)
    }

    /// The lesser; y where an f32 is NaN.
    #[track_caller]
    pub fn min(&self, x: Value, y: Value) -> Value {
        self.select(self.cmp(Compare::Lt, x, y), x, y)
    }

    /// x · y + z in f32 or f64: rounded once where the target has FMA, twice where it has not.
    #[track_caller]
    pub fn fma(&self, x: Value, y: Value, z: Value) -> Value {
        let is_float = matches!(x.ty.num, Num::F32 | Num::F64);
        assert!(is_float && x.ty == y.ty && x.ty == z.ty, "fma of {}, {} and {}", x.ty, y.ty, z.ty);
        if self.target.has_fma() { self.op1("math.fma", &[x, y, z], x.ty, &[]) } else { self.add(self.mul(x, y), z) }
    }

    /// √x of f32, correctly rounded.
    #[track_caller]
    pub fn sqrt(&self, x: Value) -> Value {
        assert_eq!(x.ty.num, Num::F32, "sqrt");
        self.op1("math.sqrt", &[x], x.ty, &[])
    }

    /// The nearest whole number, ties to even, of f32.
    #[track_caller]
    pub fn round_even(&self, x: Value) -> Value {
        assert_eq!(x.ty.num, Num::F32, "round_even");
        self.op1("math.roundeven", &[x], x.ty, &[])
    }

    /// Bitwise and.
    #[track_caller]
    pub fn and(&self, x: Value, y: Value) -> Value {
        self.bitwise("and", x, y, "arith.andi")
    }

    /// Bitwise or.
    #[track_caller]
    pub fn or(&self, x: Value, y: Value) -> Value {
        self.bitwise("or", x, y, "arith.ori")
    }

    /// Bitwise exclusive or.
    #[track_caller]
    pub fn xor(&self, x: Value, y: Value) -> Value {
        self.bitwise("xor", x, y, "arith.xori")
    }

    /// x shifted left by a constant.
    #[track_caller]
    pub fn shl(&self, x: Value, bits: u32) -> Value {
        self.bitwise("shl", x, self.constant(bits.into(), x.ty), "arith.shli")
    }

    /// x shifted right by a constant, zeros coming in.
    #[track_caller]
    pub fn shr(&self, x: Value, bits: u32) -> Value {
        self.bitwise("shr", x, self.constant(bits.into(), x.ty), "arith.shrui")
    }

    /// x shifted right by a constant, the sign coming in.
    #[track_caller]
    pub fn shr_signed(&self, x: Value, bits: u32) -> Value {
        self.bitwise("shr_signed", x, self.constant(bits.into(), x.ty), "arith.shrsi")
    }

    /// Whether `x how y`, lane by lane: an i1.
    #[track_caller]
    pub fn cmp(&self, how: Compare, x: Value, y: Value) -> Value {
        assert!(x.ty == y.ty, "cmp of {} and {}", x.ty, y.ty);
        // Numbers of arith's predicates: cmpf oeq, one, olt, ole, ogt, oge; cmpi eq, ne, slt, sle, sgt, sge.
        let (name, predicate) = match (x.ty.num, how) {
            (Num::F32 | Num::F64, Compare::Eq) => ("arith.cmpf", 1),
            (Num::F32 | Num::F64, Compare::Gt) => ("arith.cmpf", 2),
            (Num::F32 | Num::F64, Compare::Ge) => ("arith.cmpf", 3),
            (Num::F32 | Num::F64, Compare::Lt) => ("arith.cmpf", 4),
            (Num::F32 | Num::F64, Compare::Le) => ("arith.cmpf", 5),
            (Num::F32 | Num::F64, Compare::Ne) => ("arith.cmpf", 6),
            (Num::Bf16 | Num::F16 | Num::Global | Num::Shared, _) => panic!("cmp of {}", x.ty),
            (_, Compare::Eq) => ("arith.cmpi", 0),
            (_, Compare::Ne) => ("arith.cmpi", 1),
            (_, Compare::Lt) => ("arith.cmpi", 2),
            (_, Compare::Le) => ("arith.cmpi", 3),
            (_, Compare::Gt) => ("arith.cmpi", 4),
            (_, Compare::Ge) => ("arith.cmpi", 5),
        };
        let predicate = IntegerAttribute::new(IntegerType::new(self.context, 64).into(), predicate).into();
        self.op1(name, &[x, y], x.ty.with(Num::I1), &[("predicate", predicate)])
    }

    /// x where the condition holds, else y; both are computed. The condition is one i1, or one per lane.
    #[track_caller]
    pub fn select(&self, condition: Value, x: Value, y: Value) -> Value {
        let fits = condition.ty == x.ty.with(Num::I1) || condition.ty == Type::scalar(Num::I1);
        assert!(fits && x.ty == y.ty, "select by {} of {} and {}", condition.ty, x.ty, y.ty);
        self.op1("arith.select", &[condition, x, y], x.ty, &[])
    }

    #[track_caller]
    fn binary(&self, what: &str, x: Value, y: Value, float: &str, integer: &str) -> Value {
        assert!(x.ty == y.ty, "{what} of {} and {}", x.ty, y.ty);
        match x.ty.num {
            Num::F32 | Num::F64 => self.op1(float, &[x, y], x.ty, &[]),
            Num::Bf16 | Num::F16 => panic!("{what} of {}: convert to f32 first", x.ty),
            Num::Global | Num::Shared => panic!("{what} of a {}", x.ty),
            _ => self.op1(integer, &[x, y], x.ty, &[]),
        }
    }

    #[track_caller]
    fn bitwise(&self, what: &str, x: Value, y: Value, name: &str) -> Value {
        assert!(x.ty == y.ty && x.ty.num.is_integer(), "{what} of {} and {}", x.ty, y.ty);
        self.op1(name, &[x, y], x.ty, &[])
    }
}

/// Conversion.
impl Builder<'_> {
    /// As f32: exact from bf16, f16, i8 and i16; from i32 and index rounded to nearest.
    #[track_caller]
    pub fn to_f32(&self, x: Value) -> Value {
        let ty = x.ty.with(Num::F32);
        match x.ty.num {
            Num::F32 => x,
            Num::Bf16 => {
                let bits = self.op1("arith.extui", &[x], x.ty.with(Num::I32), &[]);
                self.bitcast(self.shl(bits, 16), Num::F32)
            }
            Num::F16 => {
                self.assert_f16();
                self.op1("arith.extf", &[x], ty, &[])
            }
            Num::I8 | Num::I16 | Num::I32 => self.op1("arith.sitofp", &[x], ty, &[]),
            Num::Index => self.to_f32(self.to_i32(x)),
            Num::I1 | Num::I64 | Num::F64 | Num::Global | Num::Shared => panic!("to_f32 of {}", x.ty),
        }
    }

    /// As f64, exactly: f32, and i32 without its sign.
    #[track_caller]
    pub fn to_f64(&self, x: Value) -> Value {
        let ty = x.ty.with(Num::F64);
        match x.ty.num {
            Num::F32 => self.op1("arith.extf", &[x], ty, &[]),
            Num::I32 => self.op1("arith.uitofp", &[x], ty, &[]),
            _ => panic!("to_f64 of {}", x.ty),
        }
    }

    /// f32 to bf16, ties to even; NaN stays NaN.
    #[track_caller]
    pub fn to_bf16(&self, x: Value) -> Value {
        assert_eq!(x.ty.num, Num::F32, "to_bf16");
        let bits = self.bitcast(x, Num::I32);
        let ty = bits.ty;
        let odd = self.and(self.shr(bits, 16), self.constant(1.0, ty));
        let rounded = self.add(bits, self.add(odd, self.constant(f64::from(0x7fff), ty)));
        // A NaN may round up into infinity: keep it quiet instead.
        let quiet = self.or(bits, self.constant(f64::from(0x0040_0000), ty));
        let is_number = self.cmp(Compare::Eq, x, x);
        let high = self.shr(self.select(is_number, rounded, quiet), 16);
        let bf16 = x.ty.with(Num::Bf16);
        self.op1("arith.trunci", &[high], bf16, &[])
    }

    /// f32 to f16, ties to even; needs a target with F16C.
    #[track_caller]
    pub fn to_f16(&self, x: Value) -> Value {
        assert_eq!(x.ty.num, Num::F32, "to_f16");
        self.assert_f16();
        self.op1("arith.truncf", &[x], x.ty.with(Num::F16), &[])
    }

    /// `x₀ · y₀ + x₁ · y₁, x₂ · y₂ + x₃ · y₃, …`: half as many i32 lanes as x and y have of i16. x and y fill a vector
    /// register; the sums are exact unless all four numbers are −2¹⁵. Adding them to others is the same instruction on targets
    /// that have one.
    #[track_caller]
    pub fn madd_pairs(&self, x: Value, y: Value) -> Value {
        let target = self.target();
        let lanes = target.vector_bytes() / Num::I16.bytes();
        let expected = Type::vector(Num::I16, lanes);
        assert!(x.ty == expected && y.ty == expected, "madd_pairs of {} and {}, expected {expected}", x.ty, y.ty);
        let name = match target.level() {
            X86Level::V2 => "llvm.x86.sse2.pmadd.wd",
            X86Level::V3 => "llvm.x86.avx2.pmadd.wd",
            X86Level::V4 | X86Level::V4Vnni => "llvm.x86.avx512.pmaddw.d.512",
        };
        let name = StringAttribute::new(self.context, name).into();
        self.op1("llvm.call_intrinsic", &[x, y], Type::vector(Num::I32, lanes / 2), &[("intrin", name)])
    }

    /// As i32: f32 and f64 towards zero (undefined outside i32's range), i8 and i16 with their sign, an index by its low bits.
    #[track_caller]
    pub fn to_i32(&self, x: Value) -> Value {
        let ty = x.ty.with(Num::I32);
        match x.ty.num {
            Num::I32 => x,
            Num::F32 | Num::F64 => self.op1("arith.fptosi", &[x], ty, &[]),
            Num::I8 | Num::I16 => self.op1("arith.extsi", &[x], ty, &[]),
            Num::I1 => self.op1("arith.extui", &[x], ty, &[]),
            Num::Index => self.op1("arith.index_cast", &[x], ty, &[]),
            Num::I64 => self.op1("arith.trunci", &[x], ty, &[]),
            Num::Bf16 | Num::F16 => panic!("to_i32 of {}: convert to f32 first", x.ty),
            Num::Global | Num::Shared => panic!("to_i32 of a {}", x.ty),
        }
    }

    /// An i8 with its sign as i16; an i32 as the nearest i16.
    #[track_caller]
    pub fn to_i16(&self, x: Value) -> Value {
        let ty = x.ty.with(Num::I16);
        match x.ty.num {
            Num::I16 => x,
            Num::I8 => self.op1("arith.extsi", &[x], ty, &[]),
            Num::I32 => {
                let limit = |value: i16| self.constant(value.into(), x.ty);
                let x = self.max(self.min(x, limit(i16::MAX)), limit(i16::MIN));
                self.op1("arith.trunci", &[x], ty, &[])
            }
            _ => panic!("to_i16 of {}", x.ty),
        }
    }

    /// The low 8 bits of an i32.
    #[track_caller]
    pub fn to_i8(&self, x: Value) -> Value {
        assert_eq!(x.ty.num, Num::I32, "to_i8");
        self.op1("arith.trunci", &[x], x.ty.with(Num::I8), &[])
    }

    /// An i32 that is not negative as an index.
    #[track_caller]
    pub fn to_index(&self, x: Value) -> Value {
        match x.ty.num {
            Num::Index => x,
            Num::I32 => self.op1("arith.index_cast", &[x], x.ty.with(Num::Index), &[]),
            _ => panic!("to_index of {}", x.ty),
        }
    }

    /// The same bits as another type of the same width; a vector keeps its lanes.
    #[track_caller]
    pub fn bitcast(&self, x: Value, num: Num) -> Value {
        assert!(x.ty.num.bytes() == num.bytes(), "bitcast of {} to {num}", x.ty);
        self.op1("arith.bitcast", &[x], x.ty.with(num), &[])
    }

    #[track_caller]
    fn assert_f16(&self) {
        assert!(self.target().has_f16c(), "half precision needs F16C, which {} lacks", self.target());
    }
}

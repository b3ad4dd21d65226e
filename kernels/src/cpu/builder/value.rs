//! Lane-wise arithmetic, comparison and selection: `(thread & 3) * 2 + column`.
//!
//! Operators append to the kernel under construction. Both operands and the result have the same type; a number on either
//! side becomes a constant of the other operand's type.

use super::scope::current;
use super::types::{Num, Type, Value};
use melior::Context;
use melior::ir::Attribute;
use melior::ir::attribute::IntegerAttribute;
use melior::ir::r#type::IntegerType;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Rem, Shl, Shr, Sub};
use std::panic::Location;

/// The other operand of an operator: a value, an integer or a float. A number takes the type of the value, in every lane of
/// a vector; integers combine only with integers, floats only with floats.
pub trait Operand: Copy {
    /// The type of a value; `None` for a number.
    fn known(self) -> Option<Type> {
        None
    }

    /// The value, or a constant of type `like`.
    #[track_caller]
    fn value(self, like: Type) -> Value;
}

impl Operand for Value {
    fn known(self) -> Option<Type> {
        Some(self.ty)
    }

    fn value(self, _: Type) -> Value {
        self
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Operand for $int {
            #[track_caller]
            fn value(self, like: Type) -> Value {
                let fits = i64::try_from(self).ok().filter(|&x| like.num != Num::I32 || i32::try_from(x).is_ok());
                integer(fits.unwrap_or_else(|| panic!("{self} is no {like}")), like)
            }
        }
    )*};
}
integers!(i32, i64, u32, usize);

macro_rules! floats {
    ($($float:ty),*) => {$(
        impl Operand for $float {
            #[track_caller]
            fn value(self, like: Type) -> Value {
                float(self.into(), like)
            }
        }
    )*};
}
floats!(f32, f64);

#[track_caller]
fn integer(x: i64, ty: Type) -> Value {
    assert!(ty.num.is_integer(), "the integer {x} as {ty}");
    let caller = Location::caller();
    current(|b| b.integer(caller, x, ty))
}

#[track_caller]
fn float(x: f64, ty: Type) -> Value {
    assert!(ty.num.is_float(), "the float {x} as {ty}");
    let caller = Location::caller();
    current(|b| b.float(caller, x, ty))
}

/// `value op operand`, and `number op value` for the number types that may come first: sizes and f32.
macro_rules! operators {
    ($($operator:ident $method:ident, $float:literal $signed:literal $index:literal;)*) => {$(
        impl<T: Operand> $operator<T> for Value {
            type Output = Value;

            #[track_caller]
            fn $method(self, y: T) -> Value {
                binary(stringify!($method), self, y.value(self.ty), [$float, $signed, $index])
            }
        }

        impl $operator<Value> for usize {
            type Output = Value;

            #[track_caller]
            fn $method(self, y: Value) -> Value {
                self.value(y.ty).$method(y)
            }
        }

        impl $operator<Value> for f32 {
            type Output = Value;

            #[track_caller]
            fn $method(self, y: Value) -> Value {
                self.value(y.ty).$method(y)
            }
        }
    )*};
}

// Index division is unsigned; other integer division is signed and truncates towards zero. `>>` is logical.
operators! {
    Add add, "arith.addf" "arith.addi" "arith.addi";
    Sub sub, "arith.subf" "arith.subi" "arith.subi";
    Mul mul, "arith.mulf" "arith.muli" "arith.muli";
    Div div, "arith.divf" "arith.divsi" "arith.divui";
    Rem rem, "" "arith.remsi" "arith.remui";
    BitAnd bitand, "" "arith.andi" "arith.andi";
    BitOr bitor, "" "arith.ori" "arith.ori";
    BitXor bitxor, "" "arith.xori" "arith.xori";
    Shl shl, "" "arith.shli" "arith.shli";
    Shr shr, "" "arith.shrui" "arith.shrui";
}

impl Neg for Value {
    type Output = Value;

    #[track_caller]
    fn neg(self) -> Value {
        if self.ty.num.is_float() { op("arith.negf", &[self], self.ty) } else { 0.value(self.ty) - self }
    }
}

/// Arithmetic.
impl Value {
    /// Arithmetic right shift.
    #[track_caller]
    pub fn shr_signed(self, bits: impl Operand) -> Value {
        binary("shr_signed", self, bits.value(self.ty), ["", "arith.shrsi", "arith.shrsi"])
    }

    /// ⌈self / y⌉ for indices.
    #[track_caller]
    pub fn div_ceil(self, y: impl Operand) -> Value {
        assert_eq!(self.ty.num, Num::Index, "div_ceil");
        let y = y.value(self.ty);
        (self + y - 1) / y
    }

    /// |self|, for f32.
    #[track_caller]
    pub fn abs(self) -> Value {
        assert_eq!(self.ty.num, Num::F32, "abs");
        (self.bitcast(Num::I32) & i32::MAX).bitcast(Num::F32)
    }

    /// The maximum; `y` if an f32 is NaN.
    #[track_caller]
    pub fn max(self, y: impl Operand) -> Value {
        let y = y.value(self.ty);
        self.gt(y).select(self, y)
    }

    /// The minimum; `y` if an f32 is NaN.
    #[track_caller]
    pub fn min(self, y: impl Operand) -> Value {
        let y = y.value(self.ty);
        self.lt(y).select(self, y)
    }

    /// `self · y + z` in f32 or f64: rounded once on targets with FMA, otherwise twice.
    #[track_caller]
    pub fn mul_add(self, y: impl Operand, z: impl Operand) -> Value {
        let (y, z) = (y.value(self.ty), z.value(self.ty));
        assert!(self.ty.num.is_float() && self.ty == y.ty && self.ty == z.ty, "fma of {}, {}, {}", self.ty, y.ty, z.ty);
        if current(|b| b.machine().has_fma()) { op("math.fma", &[self, y, z], self.ty) } else { self * y + z }
    }

    /// √self for f32, correctly rounded.
    #[track_caller]
    pub fn sqrt(self) -> Value {
        assert_eq!(self.ty.num, Num::F32, "sqrt");
        op("math.sqrt", &[self], self.ty)
    }

    /// An f32 rounded to the nearest integer, ties to even.
    #[track_caller]
    pub fn round_ties_even(self) -> Value {
        assert_eq!(self.ty.num, Num::F32, "round_ties_even");
        op("math.roundeven", &[self], self.ty)
    }
}

macro_rules! comparisons {
    ($($method:ident $sign:literal $float:literal $integer:literal;)*) => {$(
        #[doc = concat!("`self ", $sign, " y`.")]
        #[track_caller]
        pub fn $method(self, y: impl Operand) -> Value {
            compare($sign, self, y.value(self.ty), [$float, $integer])
        }
    )*};
}

/// Lane-wise comparison to i1, and selection. Comparisons are signed for integers and ordered for floats: false if either is
/// NaN, also for `ne`.
impl Value {
    // Numbers of arith's predicates: cmpf oeq, one, olt, ole, ogt, oge; cmpi eq, ne, slt, sle, sgt, sge.
    comparisons! {
        eq "=" 1 0;
        ne "≠" 6 1;
        lt "<" 4 2;
        le "≤" 5 3;
        gt ">" 2 4;
        ge "≥" 3 5;
    }

    /// x if this condition is true, else y; both are computed. The condition is one i1, or one per lane; x or y must be a
    /// value.
    #[track_caller]
    pub fn select(self, x: impl Operand, y: impl Operand) -> Value {
        let ty = x.known().or(y.known()).expect("select has a value to take its type from");
        let (x, y) = (x.value(ty), y.value(ty));
        let fits = self.ty == ty.with(Num::I1) || self.ty == Type::scalar(Num::I1);
        assert!(fits && x.ty == y.ty, "select by {} of {} and {}", self.ty, x.ty, y.ty);
        op("arith.select", &[self, x, y], ty)
    }
}

#[track_caller]
fn compare(sign: &str, x: Value, y: Value, [float, integer]: [i64; 2]) -> Value {
    assert!(x.ty == y.ty && x.ty.num.is_number(), "{} {sign} {}", x.ty, y.ty);
    let (name, predicate) = if x.ty.num.is_float() { ("arith.cmpf", float) } else { ("arith.cmpi", integer) };
    op_with(name, &[x, y], x.ty.with(Num::I1), "predicate", |context| {
        IntegerAttribute::new(IntegerType::new(context, 64).into(), predicate).into()
    })
}

/// A binary operation on one type: the float, integer or index variant. An empty name means that floats have none.
#[track_caller]
fn binary(what: &str, x: Value, y: Value, [float, integer, index]: [&str; 3]) -> Value {
    assert!(x.ty == y.ty, "{what} of {} and {}", x.ty, y.ty);
    let name = match x.ty.num {
        Num::F32 | Num::F64 => float,
        Num::Index => index,
        num if num.is_integer() => integer,
        _ => "",
    };
    assert!(!name.is_empty(), "{what} of {}", x.ty);
    op(name, &[x, y], x.ty)
}

/// Appends an operation with one result.
#[track_caller]
pub(super) fn op(name: &str, operands: &[Value], result: Type) -> Value {
    let caller = Location::caller();
    current(|b| b.append_one(caller, name, operands, result, &[]))
}

/// Appends an operation with one result and one attribute.
#[track_caller]
pub(super) fn op_with(
    name: &str,
    operands: &[Value],
    result: Type,
    attribute: &str,
    value: impl for<'m> FnOnce(&'m Context) -> Attribute<'m>,
) -> Value {
    let caller = Location::caller();
    current(|b| b.append_one(caller, name, operands, result, &[(attribute, value(b.context))]))
}

//! Constants.

use super::{Builder, Num, Type, Value};
use melior::ir::Attribute;
use melior::ir::attribute::{DenseElementsAttribute, FloatAttribute, IntegerAttribute};
use std::panic::Location;

impl<'m> Builder<'m> {
    /// A constant index.
    #[track_caller]
    pub fn index(&self, value: usize) -> Value {
        self.integer(Location::caller(), value as i64, Type::scalar(Num::Index))
    }

    /// A constant i32.
    #[track_caller]
    pub fn i32(&self, value: i32) -> Value {
        self.integer(Location::caller(), value.into(), Type::scalar(Num::I32))
    }

    /// A constant i64.
    #[track_caller]
    pub fn i64(&self, value: i64) -> Value {
        self.integer(Location::caller(), value, Type::scalar(Num::I64))
    }

    /// A constant f32.
    #[track_caller]
    pub fn f32(&self, value: f32) -> Value {
        self.float(Location::caller(), value.into(), Type::scalar(Num::F32))
    }

    /// A constant f64.
    #[track_caller]
    pub fn f64(&self, value: f64) -> Value {
        self.float(Location::caller(), value, Type::scalar(Num::F64))
    }

    /// An f32 constant broadcast to every lane.
    #[track_caller]
    pub fn splat(&self, value: f32, lanes: usize) -> Value {
        self.float(Location::caller(), value.into(), Type::vector(Num::F32, lanes))
    }

    /// An i32 constant broadcast to every lane.
    #[track_caller]
    pub fn splat_i32(&self, value: i32, lanes: usize) -> Value {
        self.integer(Location::caller(), value.into(), Type::vector(Num::I32, lanes))
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

    /// An integer constant of type `ty`, in every lane.
    pub(super) fn integer(&self, caller: &'static Location, value: i64, ty: Type) -> Value {
        self.constant(caller, IntegerAttribute::new(ty.num.mlir(self.context), value).into(), ty)
    }

    /// An f32 or f64 constant of type `ty`, in every lane; f32 is rounded to nearest.
    pub(super) fn float(&self, caller: &'static Location, value: f64, ty: Type) -> Value {
        self.constant(caller, FloatAttribute::new(self.context, ty.num.mlir(self.context), value).into(), ty)
    }

    fn constant(&self, caller: &'static Location, value: Attribute<'m>, ty: Type) -> Value {
        let value = match ty.lanes {
            None => value,
            Some(_) => {
                DenseElementsAttribute::new(ty.mlir(self.context), &[value]).expect("a vector type is shaped").into()
            }
        };
        self.append_one(caller, "arith.constant", &[], ty, &[("value", value)])
    }
}

//! Values between ops: tensors of f32 or i32, and ragged KV caches.

use std::sync::Arc;

use jambac_graph::DType;

/// Elements of a [`Tensor`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floating-point values; f16 and bf16 are widened.
    F32(Vec<f32>),
    /// Token ids, expert indices, row numbers.
    I32(Vec<i32>),
}

/// A dense tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first; their product is the number of elements.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data,
}

impl Tensor {
    /// # Panics
    /// If the shape has another number of elements.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of f32{shape:?}");
        Tensor { shape, data: Data::F32(data) }
    }

    /// # Panics
    /// If the shape has another number of elements.
    pub fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of i32{shape:?}");
        Tensor { shape, data: Data::I32(data) }
    }

    /// The elements, if they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(data) => Some(data),
            Data::I32(_) => None,
        }
    }

    /// The elements, if they are i32.
    pub fn as_i32(&self) -> Option<&[i32]> {
        match &self.data {
            Data::I32(data) => Some(data),
            Data::F32(_) => None,
        }
    }

    /// The innermost dimension, 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// A value of a running graph; cloning shares the elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A dense value.
    Tensor(Arc<Tensor>),
    /// A state with a `context` dimension: `[context, …]` per sequence, of different lengths.
    Ragged(Arc<Vec<Tensor>>),
}

impl Value {
    /// The tensor, unless the value is ragged.
    pub fn tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            Value::Ragged(_) => None,
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(Arc::new(tensor))
    }
}

/// A value rounded to an element type: to nearest, ties to even. The identity for f32 and i32.
pub fn round_to(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F32 | DType::I32 => x,
        // Only parameters have this type, and sources return them scaled.
        DType::I8 | DType::I4 | DType::F8 => x,
        DType::Bf16 => round_mantissa(x, 16),
        // Below 2⁻¹⁴ f16 has a fixed step of 2⁻²⁴; adding and taking off 0.5, whose step in f32 is 2⁻²⁴, rounds to it.
        DType::F16 if x.abs() < 6.103_515_6e-5 => (0.5 + x.abs() - 0.5).copysign(x),
        DType::F16 => {
            let rounded = round_mantissa(x, 13);
            if rounded.abs() > 65504.0 { f32::INFINITY.copysign(x) } else { rounded }
        }
    }
}

/// x rounded to a mantissa without the lowest `bits` bits.
fn round_mantissa(x: f32, bits: u32) -> f32 {
    if !x.is_finite() {
        return x;
    }
    let half_less_one = (1 << (bits - 1)) - 1;
    let odd = x.to_bits() >> bits & 1;
    f32::from_bits((x.to_bits() + half_less_one + odd) >> bits << bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_even() {
        assert_eq!(round_to(DType::Bf16, 1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round_to(DType::Bf16, 1.0 + 1.001 / 256.0), 1.007_812_5);
        assert_eq!(round_to(DType::Bf16, -1.0 - 3.0 / 256.0), -1.015_625);
        assert_eq!(round_to(DType::Bf16, f32::MAX), f32::INFINITY);
        assert_eq!(round_to(DType::F32, 0.1), 0.1);
    }

    #[test]
    fn f16_ends() {
        assert_eq!(round_to(DType::F16, 65_519.0), 65_504.0);
        assert_eq!(round_to(DType::F16, 65_520.0), f32::INFINITY);
        assert_eq!(round_to(DType::F16, 2f32.powi(-24) * 1.4), 2f32.powi(-24));
        assert_eq!(round_to(DType::F16, 2f32.powi(-26)), 0.0);
        assert_eq!(round_to(DType::F16, 0.1), 0.099_975_586);
    }
}

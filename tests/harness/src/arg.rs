//! Arguments and results of a kernel as values.

use jambac_kernels::kernel::{Elem, padded};

/// What an argument holds before the launch. The layout in memory follows from the parameter and the target.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Rows of `cols` columns, padded to the target's stride; rounded to the parameter's element type. By way of a tensor map where the parameter
    /// is one.
    Rows {
        /// The element type that the parameter must have; `None` for any.
        elem: Option<Elem>,
        cols: usize,
        values: Vec<f32>,
    },
    /// `n` rows that the kernel writes.
    Unwritten {
        /// The element type that the parameter must have; `None` for any.
        elem: Option<Elem>,
        cols: usize,
        n: usize,
    },
    /// A dense array of f32.
    F32(Vec<f32>),
    /// A dense array of i32.
    I32(Vec<i32>),
    /// A dense array of `n` elements that the kernel writes.
    UnwrittenDense(usize),
    /// Bytes in the layout of the parameter; through a tensor map where the parameter is one.
    Packed {
        /// The element type that the parameter must have; `None` for any.
        elem: Option<Elem>,
        bytes: Vec<u8>,
    },
    /// A buffer that several launches of a kernel share.
    Scratch { name: &'static str, bytes: usize },
    /// A buffer that is on the device already.
    At(u64),
    /// An integer, by value or by address as the parameter says.
    Scalar(usize),
}

impl Arg {
    /// Rows of `cols` columns, in any element type.
    pub fn rows(cols: usize, values: &[f32]) -> Arg {
        Arg::Rows { elem: None, cols, values: values.to_vec() }
    }

    pub fn f32_rows(cols: usize, values: &[f32]) -> Arg {
        Arg::rows(cols, values).of(Elem::F32)
    }

    pub fn bf16_rows(cols: usize, values: &[f32]) -> Arg {
        Arg::rows(cols, values).of(Elem::Bf16)
    }

    /// `n` rows that the kernel writes, in any element type.
    pub fn unwritten(cols: usize, n: usize) -> Arg {
        Arg::Unwritten { elem: None, cols, n }
    }

    /// An f32 vector of weights, padded with zeros as CPU kernels read it.
    pub fn vector(values: &[f32]) -> Arg {
        let mut values = values.to_vec();
        values.resize(padded(values.len()), 0.0);
        Arg::F32(values)
    }

    /// Bytes of any element type.
    pub fn bytes(bytes: Vec<u8>) -> Arg {
        Arg::Packed { elem: None, bytes }
    }

    /// Whether the launch has the argument's buffer for itself.
    pub(crate) fn is_own(&self) -> bool {
        !matches!(self, Arg::Scratch { .. } | Arg::At(_))
    }

    /// The same, for a parameter that must have this element type.
    #[must_use]
    pub fn of(self, stated: Elem) -> Arg {
        match self {
            Arg::Rows { cols, values, .. } => Arg::Rows { elem: Some(stated), cols, values },
            Arg::Unwritten { cols, n, .. } => Arg::Unwritten { elem: Some(stated), cols, n },
            Arg::Packed { bytes, .. } => Arg::Packed { elem: Some(stated), bytes },
            other => panic!("{other:?} has no element type to state"),
        }
    }
}

/// A result goes back in as an argument: state.
impl From<Array> for Arg {
    fn from(array: Array) -> Arg {
        match array {
            Array::F32(values) => Arg::F32(values),
            Array::I32(values) => Arg::I32(values),
            Array::Packed { elem, bytes } => Arg::Packed { elem: Some(elem), bytes },
        }
    }
}

/// What a buffer holds after the launch, without padding.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Elements of f32, or of bf16 widened.
    F32(Vec<f32>),
    /// Elements of i32.
    I32(Vec<i32>),
    /// What was an [`Arg::Packed`] before the launch.
    Packed { elem: Elem, bytes: Vec<u8> },
}

impl Array {
    #[track_caller]
    pub fn f32(&self) -> Vec<f32> {
        match self {
            Array::F32(values) => values.clone(),
            other => panic!("not f32: {other:?}"),
        }
    }

    #[track_caller]
    pub fn i32(&self) -> &[i32] {
        match self {
            Array::I32(values) => values,
            other => panic!("not i32: {other:?}"),
        }
    }

    /// The bits of the elements.
    pub(crate) fn bits(&self) -> Vec<u32> {
        match self {
            Array::F32(values) => values.iter().map(|x| x.to_bits()).collect(),
            Array::I32(values) => values.iter().map(|&x| x as u32).collect(),
            Array::Packed { bytes, .. } => bytes.iter().map(|&byte| byte.into()).collect(),
        }
    }
}

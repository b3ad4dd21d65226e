//! How the values of an argument lie in memory.

use half::bf16;
use jamba_plan::format::TargetKind;
use jambac_kernels::hopper::row_stride;
use jambac_kernels::kernel::{Access, Elem, Param, padded};

use crate::arg::{Arg, Array};

/// An argument laid out for a parameter. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Laid {
    /// Element type.
    pub elem: Elem,
    /// From one row to the next.
    pub stride: usize,
    /// A row without padding.
    pub row: usize,
    /// Rows.
    pub n: usize,
    /// What the buffer holds, NaN in the padding; `None` where nothing has written it.
    pub bytes: Option<Vec<u8>>,
    packed: bool,
}

/// Elements from one row of an activation to the next.
fn row_elements(target: TargetKind, elem: Elem, cols: usize) -> usize {
    match target {
        TargetKind::Cpu => padded(cols),
        _ => row_stride(elem, cols),
    }
}

impl Laid {
    /// Lays out the argument of a buffer or of a tensor map; `None` for integers. Panics where the parameter has another
    /// element type or row stride than the argument.
    #[track_caller]
    pub fn of(target: TargetKind, symbol: &str, param: &Param, arg: &Arg) -> Option<Laid> {
        let what = format!("{symbol}: {}", param.name());
        let (elem, inner) = match param {
            Param::Buffer { elem, inner, .. } => (*elem, Some(inner)),
            Param::TensorMap { map, .. } => (map.elem, None),
            Param::Scalar { .. } | Param::Count { .. } => match arg {
                Arg::Scalar(_) => return None,
                _ => panic!("{what}: an argument of another kind than {param:?}"),
            },
        };
        let is = |stated: Elem| assert_eq!(stated, elem, "{what}: element type");
        let dense = |bytes: Vec<u8>| Laid {
            elem,
            stride: bytes.len(),
            row: bytes.len(),
            n: 1,
            bytes: Some(bytes),
            packed: false,
        };
        let in_rows = |cols: usize, n: usize, bytes: Option<Vec<u8>>| {
            let stride = row_elements(target, elem, cols);
            match (param, inner) {
                (Param::TensorMap { map, .. }, _) => {
                    assert_eq!(stride * elem.bytes(), map.row_bytes(), "{what}: row");
                }
                (_, Some(inner)) => assert_eq!([stride], inner[..], "{what}: row"),
                _ => {}
            }
            Laid { elem, stride: stride * elem.bytes(), row: cols * elem.bytes(), n, bytes, packed: false }
        };
        Some(match arg {
            Arg::Rows { elem: stated, cols, values } => {
                stated.map(is);
                let bytes = padded_rows(elem, *cols, row_elements(target, elem, *cols), values);
                in_rows(*cols, values.len() / cols, Some(bytes))
            }
            Arg::Unwritten { elem: stated, cols, n } => {
                stated.map(is);
                in_rows(*cols, *n, None)
            }
            Arg::F32(values) => {
                is(Elem::F32);
                dense(values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            Arg::I32(values) => {
                is(Elem::I32);
                dense(values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
            Arg::UnwrittenDense(n) => {
                let bytes = n * elem.bytes();
                Laid { elem, stride: bytes, row: bytes, n: 1, bytes: None, packed: false }
            }
            Arg::Packed { elem: stated, bytes } => {
                stated.map(is);
                if let Param::TensorMap { map, .. } = param {
                    assert_eq!(bytes.len() % map.row_bytes(), 0, "{what}: whole rows of the matrix");
                }
                Laid { packed: true, ..dense(bytes.clone()) }
            }
            Arg::Scratch { bytes, .. } => Laid { elem, stride: *bytes, row: *bytes, n: 1, bytes: None, packed: false },
            Arg::At(_) => return None,
            Arg::Scalar(_) => panic!("{what}: an argument of another kind than {param:?}"),
        })
    }

    /// Bytes of the buffer.
    pub fn len(&self) -> usize {
        self.stride * self.n
    }

    /// Whether the argument was given as bytes.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// The result in a buffer that `row` reads: (offset, bytes of a row) to bytes.
    pub(crate) fn array(&self, row: impl Fn(usize, usize) -> Vec<u8>) -> Array {
        let bytes: Vec<u8> = (0..self.n).flat_map(|at| row(at * self.stride, self.row)).collect();
        if self.packed {
            return Array::Packed { elem: self.elem, bytes };
        }
        let words = bytes.chunks_exact(self.elem.bytes());
        let four = |word: &[u8]| [word[0], word[1], word[2], word[3]];
        match self.elem {
            Elem::F32 => Array::F32(words.map(|word| f32::from_le_bytes(four(word))).collect()),
            Elem::I32 => Array::I32(words.map(|word| i32::from_le_bytes(four(word))).collect()),
            Elem::Bf16 => Array::F32(words.map(|word| bf16::from_le_bytes([word[0], word[1]]).to_f32()).collect()),
            other => panic!("a result of {}", other.name()),
        }
    }
}

/// Whether a launch leaves a result in the parameter.
pub(crate) fn is_written(param: &Param) -> bool {
    param.access().is_some_and(|access| access != Access::Read)
}

/// Rows of a Hopper activation in memory, NaN in their padding.
pub fn rows(elem: Elem, cols: usize, values: &[f32]) -> Vec<u8> {
    padded_rows(elem, cols, row_stride(elem, cols), values)
}

fn padded_rows(elem: Elem, cols: usize, stride: usize, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in values.chunks_exact(cols) {
        let row = row.iter().copied().chain(std::iter::repeat_n(f32::NAN, stride - cols));
        match elem {
            Elem::F32 => row.for_each(|x| bytes.extend(x.to_le_bytes())),
            Elem::Bf16 => row.for_each(|x| bytes.extend(bf16::from_f32(x).to_le_bytes())),
            _ => panic!("rows of {}", elem.name()),
        }
    }
    bytes
}

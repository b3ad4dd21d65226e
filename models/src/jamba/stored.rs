//! A stored tensor, with its scales if elements have 8 bits, and with the adapters that are added to it.
//!
//! ```text
//! weight[i, j] = scale[i / rows, j / columns] · element[i, j]     in f32, rounded once
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jambac_checkpoint::{Checkpoint, DType, Scales, Scheme, TensorView};

use super::lora::Delta;
use super::packed::{INT4_INPUTS, Packed};
use crate::ModelError;

/// Suffixes of the scales of a weight: of compressed-tensors and AutoFP8, and of transformers.
const SCALE: [&str; 2] = ["_scale", "_scale_inv"];
/// The suffix of a weight, and the suffixes of the scales of its inputs.
const WEIGHT: &str = "weight";
const INPUTS: [&str; 4] = ["input_scale", "input_zero_point", "activation_scale", "activation_scale_inv"];

/// Tensors of a checkpoint by canonical name.
pub(super) type Tensors<'c> = BTreeMap<String, TensorView<'c>>;

/// One tensor of a parameter, with its scales if it has any.
#[derive(Clone, Debug)]
pub struct StoredTensor<'c> {
    /// As stored: packed matrices have their words.
    pub elements: TensorView<'c>,
    /// The file.
    path: &'c Path,
    scales: Option<ScalesOf<'c>>,
    packed: Option<Arc<Packed<'c>>>,
    /// Adapters, in order.
    deltas: Vec<Arc<Delta>>,
}

/// The scales of a matrix of \[n, k\].
#[derive(Clone, Copy, Debug)]
struct ScalesOf<'c> {
    tensor: TensorView<'c>,
    /// Columns of the matrix.
    k: usize,
    /// Rows and columns that share a scale.
    block: (usize, usize),
}

impl ScalesOf<'_> {
    /// The scales of a row, one for each [`ScalesOf::block`] of columns.
    fn of_row(&self, row: usize) -> Vec<f32> {
        let mut scales = vec![0.0; self.k.div_ceil(self.block.1)];
        self.tensor.range_f32(row / self.block.0 * scales.len(), &mut scales);
        scales
    }
}

impl<'c> StoredTensor<'c> {
    /// A tensor without scales.
    pub(super) fn plain(elements: TensorView<'c>, path: &'c Path) -> StoredTensor<'c> {
        StoredTensor { elements, path, scales: None, packed: None, deltas: Vec::new() }
    }

    /// A packed matrix; `elements` are its words.
    pub(super) fn packed(elements: TensorView<'c>, path: &'c Path, packed: Arc<Packed<'c>>) -> StoredTensor<'c> {
        StoredTensor { packed: Some(packed), ..StoredTensor::plain(elements, path) }
    }

    /// Adds an adapter.
    pub(super) fn add(&mut self, delta: Arc<Delta>) {
        self.deltas.push(delta);
    }

    /// Dimensions, outermost first.
    pub(super) fn shape(&self) -> Vec<usize> {
        self.packed.as_ref().map_or_else(|| self.elements.info.shape.clone(), |packed| vec![packed.n, packed.k])
    }

    /// Whether the elements are packed in words.
    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Whether a plan can hold the stored integers in int4, with scales that are rounded to bf16.
    pub(super) fn holds_int4(&self) -> bool {
        self.packed.as_ref().is_some_and(|packed| packed.holds_int4())
    }

    /// The file.
    pub fn path(&self) -> &'c Path {
        self.path
    }

    /// The tensor `view` of a parameter; takes its scales, if any, out of `others`.
    ///
    /// # Errors
    /// Elements of 8 bits that config.json does not announce, or outside the weights of linears; scales that are missing, duplicate, of
    /// a wrong shape or type, or not finite.
    pub(super) fn bind(
        checkpoint: &'c Checkpoint,
        view: TensorView<'c>,
        name: &str,
        others: &mut Tensors<'c>,
    ) -> Result<StoredTensor<'c>, ModelError> {
        let (dtype, path) = (view.info.dtype, checkpoint.shard_path(view.info));
        if !dtype.needs_scales() && !dtype.is_words() {
            return Ok(StoredTensor::plain(view, path));
        }
        let fault = |tensor: TensorView, found: String, expected: &str| ModelError::Stored {
            path: checkpoint.shard_path(tensor.info).into(),
            tensor: tensor.info.name.clone(),
            found,
            expected: expected.to_owned(),
        };
        if dtype.is_words() {
            return Err(fault(
                view,
                format!("dtype {dtype}"),
                "F32, BF16 or F16, or packed weights as quantization_config says",
            ));
        }
        let (&[n, k], true) = (view.info.shape.as_slice(), is_linear(name)) else {
            return Err(fault(view, format!("dtype {dtype}"), "F32, BF16 or F16: only weights of linears have 8 bits"));
        };
        let Some(quantization) = &checkpoint.config().quantization else {
            let expected = "F32, BF16 or F16, because config.json has no quantization_config";
            return Err(fault(view, format!("dtype {dtype}"), expected));
        };
        let schemes: Vec<Scales> = quantization.schemes.iter().filter(|s| s.dtype == dtype).map(|s| s.scales).collect();
        let Some(&first) = schemes.first() else {
            let expected = format!("{}, as quantization_config says", announced(&quantization.schemes));
            return Err(fault(view, format!("dtype {dtype}"), &expected));
        };
        if quantization.records_inputs
            && let Some(module) = name.strip_suffix(WEIGHT)
        {
            for inputs in INPUTS {
                others.remove(&format!("{module}{inputs}"));
            }
        }
        let names = SCALE.map(|ending| format!("{name}{ending}"));
        let [scale, inverse] = names.each_ref().map(|name| others.remove(name));
        let tensor = match (scale, inverse) {
            (Some(tensor), Some(other)) => {
                return Err(fault(
                    other,
                    format!("{} as well", tensor.info.name),
                    "one of the two: both scale one weight",
                ));
            }
            (Some(tensor), None) | (None, Some(tensor)) => tensor,
            (None, None) => {
                let [tensor, _] = names;
                let path = checkpoint.index_path().into();
                return Err(ModelError::Missing { path, tensor, expected: first.shape(n, k) });
            }
        };
        if tensor.info.dtype.needs_scales() || tensor.info.dtype.is_words() {
            return Err(fault(tensor, format!("dtype {}", tensor.info.dtype), "scales in F32, BF16 or F16"));
        }
        let Some(scales) = schemes.into_iter().find(|scales| fits(*scales, &tensor.info.shape, (n, k))) else {
            let (path, found) = (checkpoint.shard_path(tensor.info).into(), tensor.info.shape.clone());
            let tensor = tensor.info.name.clone();
            return Err(ModelError::Shape { path, tensor, found, expected: first.shape(n, k) });
        };
        if let Some((at, scale)) = tensor.iter_f32().enumerate().find(|(_, scale)| !scale.is_finite()) {
            return Err(fault(tensor, format!("{scale} as scale {at}"), "finite scales"));
        }
        let scales = Some(ScalesOf { tensor, k, block: scales.block(n, k) });
        Ok(StoredTensor { scales, ..StoredTensor::plain(view, path) })
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.packed.as_ref().map_or_else(|| self.elements.info.n_elements(), |packed| packed.n * packed.k)
    }

    /// Calls `each` for the parts of rows of `k` in a range of elements: row, first column, elements.
    fn each_row(k: usize, start: usize, mut out: &mut [f32], mut each: impl FnMut(usize, usize, &mut [f32])) {
        let mut at = start;
        while !out.is_empty() {
            let (row, column) = (at / k, at % k);
            let (taken, after) = out.split_at_mut(out.len().min(k - column));
            at += taken.len();
            each(row, column, taken);
            out = after;
        }
    }

    /// Fills `out` with elements from `start` on (in row-major order), scaled, with the adapters.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn range_f32(&self, start: usize, out: &mut [f32]) {
        match &self.packed {
            Some(packed) => {
                let mut whole = vec![0.0; packed.k];
                StoredTensor::each_row(packed.k, start, out, |row, column, out| {
                    packed.row(row, &mut whole);
                    out.copy_from_slice(&whole[column..column + out.len()]);
                });
            }
            None => self.elements.range_f32(start, out),
        }
        if let Some(scales) = &self.scales {
            StoredTensor::each_row(scales.k, start, out, |row, column, out| {
                let of_row = scales.of_row(row);
                out.iter_mut().enumerate().for_each(|(j, value)| *value *= of_row[(column + j) / scales.block.1]);
            });
        }
        if let (false, &[_, k]) = (self.deltas.is_empty(), self.shape().as_slice()) {
            StoredTensor::each_row(k, start, out, |row, column, out| {
                self.deltas.iter().for_each(|delta| delta.add(row, column, out));
            });
        }
    }

    /// As [`StoredTensor::range_f32`], and checks that the elements are finite.
    ///
    /// # Errors
    /// The first element that is NaN or infinite.
    pub fn range_finite_f32(&self, start: usize, out: &mut [f32]) -> Result<(), ModelError> {
        self.range_f32(start, out);
        // Without an early exit, so that the compiler vectorises it.
        if out.iter().fold(true, |all, value| all & value.is_finite()) {
            return Ok(());
        }
        let (at, found) = out.iter().enumerate().find(|(_, value)| !value.is_finite()).unwrap_or((0, &f32::NAN));
        let mut rest = start + at;
        let mut place: Vec<usize> = self
            .shape()
            .iter()
            .rev()
            .map(|&size| {
                let index = rest % size;
                rest /= size;
                index
            })
            .collect();
        place.reverse();
        Err(ModelError::NotFinite {
            path: self.path.into(),
            tensor: self.elements.info.name.clone(),
            found: *found,
            place,
        })
    }

    /// All elements, scaled.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n_elements()];
        self.range_f32(0, &mut out);
        out
    }

    /// Fills `q` and `scales` with the stored integers and scales of `scales.len()` rows from `first_row` on. False if the checkpoint
    /// stores no integers, or several scales per row.
    ///
    /// # Panics
    /// If there are fewer rows, or `q` has another length.
    pub fn read_int8(&self, first_row: usize, q: &mut [i8], scales: &mut [f32]) -> bool {
        if !self.deltas.is_empty() {
            return false;
        }
        if let Some(packed) = self.packed.as_ref().filter(|packed| packed.holds_int8()) {
            let rows = q.chunks_exact_mut(packed.k).zip(scales).enumerate();
            rows.for_each(|(row, (q, scale))| *scale = packed.int8_row(first_row + row, q));
            return true;
        }
        let Some(own) = self.scales.filter(|own| own.block.1 == own.k) else { return false };
        assert_eq!(q.len(), scales.len() * own.k, "rows of {} integers", own.k);
        for (i, (q, scale)) in q.chunks_exact_mut(own.k).zip(scales).enumerate() {
            let Some(integers) = self.elements.row_i8(first_row + i) else { return false };
            q.iter_mut().zip(integers).for_each(|(q, integer)| *q = integer);
            *scale = own.of_row(first_row + i)[0];
        }
        true
    }
}

/// Inputs that share a scale of fp8 weights in plans.
const FP8_INPUTS: usize = 128;

impl StoredTensor<'_> {
    /// Fills `q` with integers of 4 bits of rows of `k` from `first_row` on, and `scales` with those of each 32 inputs of each. False if
    /// they are not stored so.
    ///
    /// # Panics
    /// If there are fewer rows, or a slice has another length.
    pub fn read_int4(&self, first_row: usize, q: &mut [i8], scales: &mut [f32]) -> bool {
        let Some(packed) = self.packed.as_ref().filter(|_| self.holds_int4() && self.deltas.is_empty()) else {
            return false;
        };
        let per_row = packed.k.div_ceil(INT4_INPUTS);
        assert_eq!(q.len() / packed.k * per_row, scales.len(), "rows of {} integers", packed.k);
        let rows = q.chunks_exact_mut(packed.k).zip(scales.chunks_exact_mut(per_row)).enumerate();
        rows.for_each(|(row, (q, scales))| packed.int4_row(first_row + row, q, scales));
        true
    }

    /// Whether a plan can hold the elements and scales as they are, in fp8: E4M3 numbers whose scales change at multiples of 128 inputs.
    pub fn holds_fp8(&self) -> bool {
        let fits = |own: &ScalesOf| own.block.1 >= own.k || own.block.1.is_multiple_of(FP8_INPUTS);
        self.elements.info.dtype == DType::F8E4M3 && self.scales.as_ref().is_some_and(fits)
    }

    /// Whether the elements of a row share a scale.
    pub fn has_one_scale_per_row(&self) -> bool {
        self.scales.as_ref().is_some_and(|own| own.block.1 >= own.k)
    }

    /// Fills `q` with the bits of rows of E4M3 numbers from `first_row` on, and `scales` with those of each 128 inputs of each. False if
    /// they are not stored so ([`StoredTensor::holds_fp8`]).
    ///
    /// # Errors
    /// The first number that is NaN.
    ///
    /// # Panics
    /// If there are fewer rows, or a slice has another length.
    pub fn read_fp8(&self, first_row: usize, q: &mut [i8], scales: &mut [f32]) -> Result<bool, ModelError> {
        let Some(own) = self.scales.filter(|_| self.holds_fp8() && self.deltas.is_empty()) else { return Ok(false) };
        let per_row = own.k.div_ceil(FP8_INPUTS);
        assert_eq!(q.len() / own.k * per_row, scales.len(), "rows of {} numbers", own.k);
        for (row, (q, scales)) in q.chunks_exact_mut(own.k).zip(scales.chunks_exact_mut(per_row)).enumerate() {
            let row = first_row + row;
            q.iter_mut().zip(self.elements.row_bytes(row)).for_each(|(q, &byte)| *q = byte as i8);
            if let Some(column) = q.iter().position(|q| q & 0x7f == 0x7f) {
                let tensor = self.elements.info.name.clone();
                return Err(ModelError::NotFinite {
                    path: self.path.into(),
                    tensor,
                    found: f32::NAN,
                    place: vec![row, column],
                });
            }
            let of_row = own.of_row(row);
            scales.iter_mut().enumerate().for_each(|(group, scale)| *scale = of_row[group * FP8_INPUTS / own.block.1]);
        }
        Ok(true)
    }
}

/// Whether the parameter of this canonical name is the weight of a linear.
pub(super) fn is_linear(name: &str) -> bool {
    ["_proj.weight", "router.weight", "lm_head.weight"].iter().any(|ending| name.ends_with(ending))
}

/// Whether scales of this shape match the granularity, for a matrix of (n, k).
fn fits(scales: Scales, found: &[usize], (n, k): (usize, usize)) -> bool {
    let expected = scales.shape(n, k);
    let shorter = expected.iter().rev().take_while(|&&size| size == 1).count();
    (expected.len() - shorter..=expected.len()).any(|rank| found == &expected[..rank])
}

/// The element types that config.json announces.
fn announced(schemes: &[Scheme]) -> String {
    let mut names: Vec<&str> = [DType::F32, DType::Bf16, DType::F16].map(DType::name).to_vec();
    names.extend(schemes.iter().map(|scheme| scheme.dtype.name()));
    names.dedup();
    names.join(", ")
}

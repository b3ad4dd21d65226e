//! A stored tensor, with its scales if elements have 8 bits.
//!
//! ```text
//! weight[i, j] = scale[i / rows, j / columns] · element[i, j]     in f32, rounded once
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use jambac_checkpoint::{Checkpoint, DType, Scales, Scheme, TensorView};

use crate::ModelError;

/// Suffixes of the scales of a weight: of compressed-tensors and AutoFP8, and of transformers.
const SCALE: [&str; 2] = ["_scale", "_scale_inv"];
/// The suffix of a weight, and the suffixes of the scales of its inputs.
const WEIGHT: &str = "weight";
const INPUTS: [&str; 4] = ["input_scale", "input_zero_point", "activation_scale", "activation_scale_inv"];

/// Tensors of a checkpoint by canonical name.
pub(super) type Tensors<'c> = BTreeMap<String, TensorView<'c>>;

/// One tensor of a parameter, with its scales if it has any.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'c> {
    pub elements: TensorView<'c>,
    scales: Option<ScalesOf<'c>>,
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
        let dtype = view.info.dtype;
        if !dtype.needs_scales() {
            return Ok(StoredTensor { elements: view, scales: None });
        }
        let fault = |tensor: TensorView, found: String, expected: &str| ModelError::Stored {
            path: checkpoint.shard_path(tensor.info).into(),
            tensor: tensor.info.name.clone(),
            found,
            expected: expected.to_owned(),
        };
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
        if tensor.info.dtype.needs_scales() {
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
        Ok(StoredTensor { elements: view, scales: Some(ScalesOf { tensor, k, block: scales.block(n, k) }) })
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.elements.info.n_elements()
    }

    /// Fills `out` with elements from `start` on (in row-major order), scaled.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn range_f32(&self, start: usize, out: &mut [f32]) {
        self.elements.range_f32(start, out);
        let Some(scales) = &self.scales else { return };
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let (row, column) = (at / scales.k, at % scales.k);
            let (taken, after) = rest.split_at_mut(rest.len().min(scales.k - column));
            let of_row = scales.of_row(row);
            taken.iter_mut().enumerate().for_each(|(j, value)| *value *= of_row[(column + j) / scales.block.1]);
            at += taken.len();
            rest = after;
        }
    }

    /// As [`StoredTensor::range_f32`], and checks that the elements are finite. `path` is the file, for the error.
    ///
    /// # Errors
    /// The first element that is NaN or infinite.
    pub fn range_finite_f32(&self, start: usize, out: &mut [f32], path: &Path) -> Result<(), ModelError> {
        self.range_f32(start, out);
        // Without an early exit, so that the compiler vectorises it.
        if out.iter().fold(true, |all, value| all & value.is_finite()) {
            return Ok(());
        }
        let (at, found) = out.iter().enumerate().find(|(_, value)| !value.is_finite()).unwrap_or((0, &f32::NAN));
        let mut rest = start + at;
        let mut place: Vec<usize> = self
            .elements
            .info
            .shape
            .iter()
            .rev()
            .map(|&size| {
                let index = rest % size;
                rest /= size;
                index
            })
            .collect();
        place.reverse();
        Err(ModelError::NotFinite { path: path.into(), tensor: self.elements.info.name.clone(), found: *found, place })
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

//! LoRA adapters, merged into the parameters as they are read.
//!
//! ```text
//! W[i, :] ← W[i, :] + Σᵣ scale · B[i, r] · A[r, :]     in f32, adapter by adapter
//! ```
//!
//! Names are PEFT's: `base_model.model.MODULE.lora_A.weight` \[r, k\] and `…lora_B.weight` \[n, r\]. Other tensors replace parameters
//! (`modules_to_save`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jambac_checkpoint::{Adapter, DType, TensorView};

use super::parameters::{Parameter, canonical};
use super::stored::StoredTensor;
use crate::ModelError;

/// Endings of a module's name.
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
/// What older versions of PEFT put before the name of a tensor that replaces a parameter.
const SAVED: &str = ".modules_to_save";

/// The product of two small matrices that is added to a matrix of \[n, k\].
#[derive(Debug)]
pub(super) struct Delta {
    k: usize,
    rank: usize,
    /// \[r, k\].
    a: Vec<f32>,
    /// \[n, r\], times the scale.
    b: Vec<f32>,
}

impl Delta {
    /// Adds a part of a row, from column `first` on.
    pub(super) fn add(&self, row: usize, first: usize, out: &mut [f32]) {
        for (r, &b) in self.b[row * self.rank..][..self.rank].iter().enumerate() {
            let a = &self.a[r * self.k + first..][..out.len()];
            out.iter_mut().zip(a).for_each(|(out, &a)| *out += b * a);
        }
    }
}

/// Merges adapters into the parameters, in order, each with a factor.
///
/// # Errors
/// A tensor that belongs to no parameter, has no partner, or has a wrong shape or type, or a number that is not finite.
pub(super) fn merge<'c>(
    bound: &mut BTreeMap<String, Parameter<'c>>,
    config: &jambac_checkpoint::JambaConfig,
    adapters: &'c [(Adapter, f32)],
) -> Result<(), ModelError> {
    for (adapter, factor) in adapters {
        let mut halves: BTreeMap<String, [Option<TensorView<'c>>; 2]> = BTreeMap::new();
        for view in adapter.tensors() {
            let name = &view.info.name;
            match (name.strip_suffix(A), name.strip_suffix(B)) {
                (Some(module), _) => halves.entry(module.to_owned()).or_default()[0] = Some(view),
                (_, Some(module)) => halves.entry(module.to_owned()).or_default()[1] = Some(view),
                _ => replace(bound, config, adapter, view)?,
            }
        }
        for (module, pair) in halves {
            let (a, b) = match pair {
                [Some(a), Some(b)] => (a, b),
                [one, other] => {
                    let Some(found) = one.or(other) else { continue };
                    let missing = if one.is_some() { B } else { A };
                    return Err(fault(adapter, found, "it alone", format!("{module}{missing} beside it")));
                }
            };
            let name = canonical(config, &format!("{module}.weight"));
            let tensor = tensor_of(bound, &name).ok_or_else(|| foreign(adapter, a))?;
            let &[n, k] = tensor.shape().as_slice() else { return Err(foreign(adapter, a)) };
            let names = name.strip_suffix(".weight").unwrap_or(&name);
            let error = |cause: jambac_checkpoint::Error| ModelError::Checkpoint(cause);
            let rank = adapter.rank(names).map_err(error)?;
            shape(adapter, a, &[rank, k])?;
            shape(adapter, b, &[n, rank])?;
            let scale = (adapter.scale(names).map_err(error)? * f64::from(*factor)) as f32;
            let b = numbers(adapter, b)?.into_iter().map(|b| b * scale).collect();
            tensor.add(Arc::new(Delta { k, rank, a: numbers(adapter, a)?, b }));
        }
    }
    Ok(())
}

/// Puts a tensor of the adapter in the place of a parameter.
fn replace<'c>(
    bound: &mut BTreeMap<String, Parameter<'c>>,
    config: &jambac_checkpoint::JambaConfig,
    adapter: &'c Adapter,
    view: TensorView<'c>,
) -> Result<(), ModelError> {
    let name = canonical(config, &view.info.name.replace(&format!("{SAVED}.default"), "").replace(SAVED, ""));
    let tensor = tensor_of(bound, &name).ok_or_else(|| foreign(adapter, view))?;
    shape(adapter, view, &tensor.shape().to_vec())?;
    numbers_dtype(adapter, view)?;
    *tensor = StoredTensor::plain(view, adapter.path());
    Ok(())
}

/// The tensor of a canonical name; that of one expert, where experts are stacked.
fn tensor_of<'b, 'c>(bound: &'b mut BTreeMap<String, Parameter<'c>>, name: &str) -> Option<&'b mut StoredTensor<'c>> {
    if let Some((layer, rest)) = name.split_once(".experts.") {
        let (expert, part) = rest.split_once('.')?;
        let expert: usize = expert.parse().ok()?;
        return bound.get_mut(&format!("{layer}.experts.*.{part}"))?.tensors.get_mut(expert);
    }
    bound.get_mut(name)?.tensors.first_mut()
}

fn fault(adapter: &Adapter, view: TensorView, found: impl Into<String>, expected: impl Into<String>) -> ModelError {
    ModelError::Stored {
        path: adapter.path().into(),
        tensor: view.info.name.clone(),
        found: found.into(),
        expected: expected.into(),
    }
}

fn foreign(adapter: &Adapter, view: TensorView) -> ModelError {
    fault(adapter, view, "it", "lora_A and lora_B of linears, or parameters, of the base model")
}

fn shape(adapter: &Adapter, view: TensorView, expected: &[usize]) -> Result<(), ModelError> {
    if view.info.shape == expected {
        return Ok(());
    }
    let (tensor, found) = (view.info.name.clone(), view.info.shape.clone());
    Err(ModelError::Shape { path: adapter.path().into(), tensor, found, expected: expected.to_vec() })
}

fn numbers_dtype(adapter: &Adapter, view: TensorView) -> Result<(), ModelError> {
    match view.info.dtype {
        DType::F32 | DType::Bf16 | DType::F16 => Ok(()),
        other => Err(fault(adapter, view, format!("dtype {other}"), "F32, BF16 or F16")),
    }
}

/// Finite numbers.
fn numbers(adapter: &Adapter, view: TensorView) -> Result<Vec<f32>, ModelError> {
    numbers_dtype(adapter, view)?;
    let values = view.to_f32_vec();
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(fault(adapter, view, format!("{} as number {at}", values[at]), "finite numbers")),
        None => Ok(values),
    }
}

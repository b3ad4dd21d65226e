//! The states of sequences.

use std::collections::BTreeMap;

use jambac_graph::{Dim, Symbol, Type};

use crate::ReferenceError;
use crate::tensor::{Tensor, Value};

/// The named states of each sequence. States start at zero, KV caches empty.
/// Cloning a `State` snapshots every sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    sequences: Vec<BTreeMap<String, Tensor>>,
}

impl State {
    /// This number of new sequences.
    pub fn new(n_sequences: usize) -> State {
        State { sequences: vec![BTreeMap::new(); n_sequences] }
    }

    /// Number of sequences; a batch has a length for each.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// A state of a sequence, without the sequence dimension; a KV cache is `[context, 2, n_kv_heads, d_head]`.
    /// `None` before the sequence's first step.
    pub fn get(&self, sequence: usize, name: &str) -> Option<&Tensor> {
        self.sequences.get(sequence)?.get(name)
    }

    /// All states of a sequence, by name; none for an unknown sequence.
    pub fn sequence(&self, sequence: usize) -> impl Iterator<Item = (&str, &Tensor)> {
        self.sequences.get(sequence).into_iter().flatten().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The state `name` of all sequences, as a value of the graph.
    pub(crate) fn value(&self, name: &str, ty: &Type) -> Result<Value, ReferenceError> {
        let mut tensors = Vec::with_capacity(self.sequences.len());
        for (index, states) in self.sequences.iter().enumerate() {
            let tensor = states.get(name).cloned().unwrap_or_else(|| initial(ty));
            if !fits(&tensor, ty) {
                return Err(ReferenceError::StateShape {
                    name: name.into(),
                    sequence: index,
                    found: format!("{:?}", tensor.shape),
                    expected: ty.to_string(),
                });
            }
            tensors.push(tensor);
        }
        if is_ragged(ty) {
            return Ok(Value::Ragged(tensors.into()));
        }
        let mut shape = initial(ty).shape;
        shape.insert(0, tensors.len());
        let data = tensors.iter().filter_map(Tensor::as_f32).flatten().copied().collect();
        Ok(Tensor::f32(shape, data).into())
    }

    /// Stores the next value of the state `name` of all sequences.
    pub(crate) fn set(&mut self, name: &str, value: &Value) {
        match value {
            Value::Ragged(tensors) => {
                for (states, tensor) in self.sequences.iter_mut().zip(tensors.iter()) {
                    states.insert(name.into(), tensor.clone());
                }
            }
            Value::Tensor(tensor) => {
                let shape = &tensor.shape[1..];
                let row: usize = shape.iter().product();
                let data = tensor.as_f32().unwrap_or_default();
                for (index, states) in self.sequences.iter_mut().enumerate() {
                    states.insert(name.into(), Tensor::f32(shape, data[index * row..(index + 1) * row].to_vec()));
                }
            }
        }
    }
}

/// True if the second dimension is the context, which has a length per sequence.
fn is_ragged(ty: &Type) -> bool {
    ty.shape.get(1) == Some(&Dim::Symbol(Symbol::Context))
}

/// The state of a new sequence: zeros, with an empty context.
fn initial(ty: &Type) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().skip(1).map(|dim| dim.fixed().unwrap_or(0)).collect();
    let n_elements = shape.iter().product();
    Tensor::f32(shape, vec![0.0; n_elements])
}

/// True if the tensor has the type's fixed dimensions and elements of f32.
fn fits(tensor: &Tensor, ty: &Type) -> bool {
    let dims = &ty.shape[1..];
    tensor.as_f32().is_some()
        && tensor.shape.len() == dims.len()
        && tensor.shape.iter().zip(dims).all(|(&n, dim)| dim.fixed().is_none_or(|dim| dim == n))
}

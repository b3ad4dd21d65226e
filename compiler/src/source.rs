//! Adapters from the parameters of a checkpoint to the traits of the weight packer and the interpreter.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use jamba_plan::format::WeightFormat;
use jambac_codegen::pack::{Moments, ParameterSource};
use jambac_models::jamba::{self, StoredTensor};

use crate::calibrate::Calibration;

/// The parameters of a checkpoint, and the moments of their inputs if there are any.
pub struct Source<'a, 'c> {
    parameters: &'a jamba::Parameters<'c>,
    calibration: Calibration,
}

impl<'a, 'c> Source<'a, 'c> {
    /// Parameters without calibration.
    pub fn new(parameters: &'a jamba::Parameters<'c>) -> Source<'a, 'c> {
        Source { parameters, calibration: Calibration::default() }
    }

    /// The same with the moments of a calibration.
    pub fn calibrated(self, calibration: Calibration) -> Source<'a, 'c> {
        Source { calibration, ..self }
    }

    /// Matrix `group` of a parameter.
    fn tensor(&self, parameter: &str, group: u64) -> Option<&'a StoredTensor<'c>> {
        self.parameters.get(parameter)?.tensors.get(group as usize)
    }
}

impl ParameterSource for Source<'_, '_> {
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
        let Some(tensor) = self.tensor(parameter, group) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{parameter} has no matrix {group}")));
        };
        let k = out.len() / n_rows as usize;
        tensor.range_finite_f32(first_row as usize * k, out).map_err(io::Error::other)
    }

    fn read_quantized(
        &self,
        format: WeightFormat,
        parameter: &str,
        group: u64,
        first_row: u64,
        q: &mut [i8],
        scales: &mut [f32],
    ) -> io::Result<bool> {
        let Some(tensor) = self.tensor(parameter, group) else { return Ok(false) };
        let first_row = first_row as usize;
        match format {
            WeightFormat::Int8 => Ok(tensor.read_int8(first_row, q, scales)),
            WeightFormat::Int4 => Ok(tensor.read_int4(first_row, q, scales)),
            WeightFormat::Fp8 => tensor.read_fp8(first_row, q, scales).map_err(io::Error::other),
            WeightFormat::F32 | WeightFormat::Bf16 | WeightFormat::F16 | WeightFormat::Int3 => Ok(false),
        }
    }

    fn moments(&self, parameter: &str, group: u64) -> Option<Arc<Moments>> {
        self.calibration.moments(parameter, group).cloned()
    }
}

impl jambac_reference::Parameters for Source<'_, '_> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.parameters.get(name).map(|parameter| Cow::Owned(parameter.to_f32_vec()))
    }
}

//! Adapters from the parameters of a checkpoint to the traits of the weight packer and the interpreter.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use jambac_codegen::pack::{Moments, ParameterSource};
use jambac_models::jamba;

use crate::calibrate::Calibration;

/// The parameters of a checkpoint.
pub struct Source<'a, 'c>(pub &'a jamba::Parameters<'c>);

/// The parameters of a checkpoint, and the moments of their inputs.
pub struct Calibrated<'a, 'c> {
    pub parameters: Source<'a, 'c>,
    pub calibration: Calibration,
}

impl ParameterSource for Calibrated<'_, '_> {
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
        self.parameters.read_rows(parameter, group, first_row, n_rows, out)
    }

    fn read_int8(&self, parameter: &str, group: u64, first_row: u64, q: &mut [i8], scales: &mut [f32]) -> bool {
        self.parameters.read_int8(parameter, group, first_row, q, scales)
    }

    fn read_int4(
        &self,
        parameter: &str,
        group: u64,
        first_row: u64,
        k: usize,
        q: &mut [i8],
        scales: &mut [f32],
    ) -> bool {
        self.parameters.read_int4(parameter, group, first_row, k, q, scales)
    }

    fn read_fp8(
        &self,
        parameter: &str,
        group: u64,
        first_row: u64,
        k: usize,
        q: &mut [i8],
        scales: &mut [f32],
    ) -> io::Result<bool> {
        self.parameters.read_fp8(parameter, group, first_row, k, q, scales)
    }

    fn moments(&self, parameter: &str, group: u64) -> Option<Arc<Moments>> {
        self.calibration.moments(parameter, group).cloned()
    }
}

impl ParameterSource for Source<'_, '_> {
    fn read_rows(&self, parameter: &str, group: u64, first_row: u64, n_rows: u64, out: &mut [f32]) -> io::Result<()> {
        let found = self.0.get(parameter).and_then(|parameter| parameter.tensors.get(group as usize));
        let Some(tensor) = found else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{parameter} has no matrix {group}")));
        };
        let k = out.len() / n_rows as usize;
        tensor.range_finite_f32(first_row as usize * k, out).map_err(io::Error::other)
    }

    fn read_int8(&self, parameter: &str, group: u64, first_row: u64, q: &mut [i8], scales: &mut [f32]) -> bool {
        let found = self.0.get(parameter).and_then(|parameter| parameter.tensors.get(group as usize));
        found.is_some_and(|tensor| tensor.read_int8(first_row as usize, q, scales))
    }

    fn read_int4(
        &self,
        parameter: &str,
        group: u64,
        first_row: u64,
        _k: usize,
        q: &mut [i8],
        scales: &mut [f32],
    ) -> bool {
        let found = self.0.get(parameter).and_then(|parameter| parameter.tensors.get(group as usize));
        found.is_some_and(|tensor| tensor.read_int4(first_row as usize, q, scales))
    }

    fn read_fp8(
        &self,
        parameter: &str,
        group: u64,
        first_row: u64,
        _k: usize,
        q: &mut [i8],
        scales: &mut [f32],
    ) -> io::Result<bool> {
        let found = self.0.get(parameter).and_then(|parameter| parameter.tensors.get(group as usize));
        let Some(tensor) = found else { return Ok(false) };
        tensor.read_fp8(first_row as usize, q, scales).map_err(io::Error::other)
    }
}

impl jambac_reference::Parameters for Source<'_, '_> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.0.get(name).map(|parameter| Cow::Owned(parameter.to_f32_vec()))
    }
}

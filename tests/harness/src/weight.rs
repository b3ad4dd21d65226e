//! Weights: rounded as the reference multiplies them, and packed as kernels read them.

use jamba_plan::format::{self as plan, Init, Part};
use jamba_plan::quantize::{e4m3, from_e4m3};
use jambac_codegen::pack::{Measure, ParameterSource, Quantized, pack};
use jambac_graph::DType;
use jambac_kernels::kernel::{Elem, Weight};
use jambac_reference::round_to;

use crate::numbers::random;

/// The distribution of synthetic weights, which nothing here draws.
const UNUSED: Init = Init::Normal { mean: 0.0, std: 1.0 };

/// A packed weight.
pub(crate) struct Packed {
    pub(crate) values: Vec<u8>,
    /// Empty for floating-point formats.
    pub(crate) scales: Vec<u8>,
}

/// Rounds parameters `[groups, rows, k]` to a stored type and packs them.
pub(crate) fn packed(weight: &Weight, elem: Elem, parameters: &[&[f32]]) -> Packed {
    let format = elem.weight_format().unwrap_or_else(|| panic!("no weight has elements of {}", elem.name()));
    let (groups, k) = (weight.layout.groups, weight.layout.k);
    let source = Matrices { groups, k, parameters };
    let cut_from_one = weight.sizes.len() > parameters.len();
    let mut first = 0;
    let parts = weight.sizes.iter().enumerate().map(|(index, &rows)| {
        let (parameter, first_row) = if cut_from_one { (0, first) } else { (index, 0) };
        first += rows as u64;
        Part { parameter: parameter.to_string(), first_row, rows: rows as u64, init: UNUSED }
    });
    let &Weight { order, layout, transform, .. } = weight;
    let bytes = layout.bytes(format).expect("a small weight");
    let weight = plan::Weight { parts: parts.collect(), order, offset: 0, bytes, layout, format, transform };
    if format.scales().is_some() {
        let Quantized { values, scales, .. } =
            Quantized::read(&source, &weight, Measure::Nothing).unwrap_or_else(|error| panic!("{error}"));
        return Packed { values, scales };
    }
    let mut values = Vec::new();
    pack(&source, &weight, &mut values).unwrap_or_else(|error| panic!("{error}"));
    Packed { values, scales: Vec::new() }
}

/// Parameters `[groups, rows, k]`, named by their index.
struct Matrices<'a> {
    groups: u64,
    k: u64,
    parameters: &'a [&'a [f32]],
}

impl ParameterSource for Matrices<'_> {
    fn read_rows(&self, name: &str, group: u64, first: u64, n_rows: u64, out: &mut [f32]) -> std::io::Result<()> {
        let values = self.parameters[name.parse::<usize>().expect("an index")];
        let rows = values.len() as u64 / (self.groups * self.k);
        let start = (group * rows + first) * self.k;
        out.copy_from_slice(&values[start as usize..(start + n_rows * self.k) as usize]);
        Ok(())
    }
}

/// Elements as a kernel multiplies them: rounded to a floating-point type.
pub fn stored(elem: Elem, values: &[f32]) -> Vec<f32> {
    let dtype = match elem {
        Elem::F32 => DType::F32,
        Elem::Bf16 => DType::Bf16,
        Elem::F16 => DType::F16,
        Elem::I32 | Elem::I8 | Elem::I4 | Elem::I3 | Elem::F8 => panic!("{} is no floating-point type", elem.name()),
    };
    values.iter().map(|&x| round_to(dtype, x)).collect()
}

/// Random weights `[rows, k]` up to 1.3 that the stored type holds exactly. A row of int8 or fp8 has one scale, which its largest weight
/// sets; every 128 inputs of fp8 have such a weight.
pub fn random_weights(seed: u64, elem: Elem, k: usize, n: usize) -> Vec<f32> {
    let drawn = random(seed, n);
    if elem == Elem::F8 {
        let row = |(row, values): (usize, &[f32])| {
            let scale = (2 + row % 5) as f32 / 2048.0;
            let number = |(column, &x): (usize, &f32)| {
                if column % 128 == 0 { 448.0 } else { from_e4m3(e4m3(x * x * x * 300.0)) }
            };
            values.iter().enumerate().map(|value| scale * number(value)).collect::<Vec<f32>>()
        };
        return drawn.chunks_exact(k).enumerate().flat_map(row).collect();
    }
    if elem != Elem::I8 {
        return stored(elem, &drawn);
    }
    let row = |(row, values): (usize, &[f32])| {
        let scale = (2 + row % 5) as f32 / 512.0;
        let integer = move |(column, x): (usize, &f32)| if column == row % k { 127.0 } else { (x * 127.9).trunc() };
        values.iter().enumerate().map(move |value| scale * integer(value)).collect::<Vec<f32>>()
    };
    drawn.chunks_exact(k).enumerate().flat_map(row).collect()
}

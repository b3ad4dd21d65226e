//! Synthetic weights. Every value is a function of the seed, the parameter's name and the element's logical index. Any device
//! therefore draws the same bits in any order, in whole or in part.
//!
//! A draw is a 64-bit number: SplitMix64's mix (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014)
//! of a key and a counter. The conversion to a value uses only operations that IEEE 754 rounds exactly: a conversion of an
//! integer below 2²⁴ to f32 (exact), one f32 multiplication and one f32 addition, never fused.

use crate::format::{ElementOrder, Init, Layout, Transform, Weight, WeightFormat};
use crate::quantize;

mod drawn;

pub use drawn::{DrawnRows, STORE_BYTES};

/// Normal draws add four 16-bit integers (Irwin–Hall). This is the mean of the sum, 2 · 65535.
pub const SUM_MEAN: i32 = 2 * 65_535;

/// Reciprocal of the standard deviation of that sum, √(4 · (65536² − 1) / 12) = 37837.2. Draws have mean 0 and variance 1, a
/// maximum of 3.46 and an excess kurtosis of −0.3.
const SUM_SCALE: f32 = 2.642_899_7e-5;

/// Increment of a draw's counter per element: 2⁶⁴ over the golden ratio, odd.
pub const INDEX_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Shifts of SplitMix64's finalizer.
pub const MIX_SHIFTS: [u32; 3] = [30, 27, 31];

/// Multipliers of SplitMix64's finalizer.
pub const MIX_FACTORS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// SplitMix64's finalizer: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> MIX_SHIFTS[0])).wrapping_mul(MIX_FACTORS[0]);
    let x = (x ^ (x >> MIX_SHIFTS[1])).wrapping_mul(MIX_FACTORS[1]);
    x ^ (x >> MIX_SHIFTS[2])
}

/// Hash of a parameter's name: 64-bit FNV-1a.
pub fn parameter_hash(parameter: &str) -> u64 {
    parameter.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The draws of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    key: u64,
    offset: f32,
    scale: f32,
    normal: bool,
}

impl Draw {
    /// Draws from `init` for the parameter with this name hash.
    pub fn new(seed: u64, parameter_hash: u64, init: Init) -> Draw {
        let key = mix(seed ^ mix(parameter_hash));
        match init {
            Init::Normal { mean, std } => Draw { key, offset: mean, scale: std * SUM_SCALE, normal: true },
            Init::Uniform { low, high } => {
                Draw { key, offset: low, scale: (high - low) * f32::EPSILON / 2.0, normal: false }
            }
        }
    }

    /// A constant in place of draws.
    fn constant(value: f32) -> Draw {
        Draw { key: 0, offset: value, scale: 0.0, normal: false }
    }

    /// The value of element `index` in the logical order \[groups, n, k\].
    pub fn value(&self, index: u64) -> f32 {
        let bits = mix(self.key.wrapping_add(index.wrapping_mul(INDEX_FACTOR)));
        let integer = if self.normal {
            let part = |shift: u32| ((bits >> shift) & 0xffff) as i32;
            part(0) + part(16) + part(32) + part(48) - SUM_MEAN
        } else {
            (bits >> 40) as i32 // 24 bits; the scale carries 2⁻²⁴
        };
        let scaled = integer as f32 * self.scale;
        scaled + self.offset
    }
}

/// The value of one element, like [`Draw::value`].
pub fn value(seed: u64, parameter_hash: u64, index: u64, init: Init) -> f32 {
    Draw::new(seed, parameter_hash, init).value(index)
}

/// Fills a whole packed weight; `out` has [`Weight::bytes`] bytes. Padding is set to zero.
pub fn fill(weight: &Weight, seed: u64, out: &mut [u8]) {
    fill_panels(weight, seed, 0, out);
}

/// Fills panels of a packed weight from panel `first` on, counted over all groups. `out` must hold whole panels
/// ([`Layout::panel_bytes`]). Threads can fill different panels in parallel.
pub fn fill_panels(weight: &Weight, seed: u64, first: u64, out: &mut [u8]) {
    let panels = weight.layout.panels();
    for (panel, out) in (first..).zip(out.chunks_exact_mut(weight.layout.panel_bytes(weight.format))) {
        let (part, first_row) = weight.panel(panel % panels);
        let rows = Rows {
            draw: Draw::new(seed, parameter_hash(&part.parameter), part.init),
            first: panel / panels * part.rows + part.first_row + first_row,
            left: part.rows.saturating_sub(first_row),
        };
        let layout = weight.layout;
        match (weight.transform, weight.format) {
            (Transform::Scale(of), format) => {
                let scale = scale(of, part.init);
                fill_each(&rows, layout, out, format, |_| scale);
            }
            (_, WeightFormat::Int8 | WeightFormat::Int4 | WeightFormat::Int3 | WeightFormat::Fp8) => {
                fill_integers(&rows, layout, weight.format, scale(weight.format, part.init), out);
            }
            (_, format) => fill_each(&rows, layout, out, format, |index| rows.draw.value(index)),
        }
    }
}

/// The common scale of a parameter's synthetic integers. It depends only on the distribution, so an integer does not depend on
/// other values. The integers are the draws of the floating-point formats, rounded to multiples of the scale; int4 values
/// beyond 7 (0.1 % of a normal distribution) become 7, those of int3 beyond 3 become 3.
pub fn scale(format: WeightFormat, init: Init) -> f32 {
    let most = match init {
        Init::Normal { mean, std } => mean.abs() + std * (SUM_MEAN as f32 * SUM_SCALE),
        Init::Uniform { low, high } => low.abs().max(high.abs()),
    };
    match format {
        WeightFormat::Int4 | WeightFormat::Int3 => quantize::group_scale(format, &[-most]),
        WeightFormat::Fp8 => quantize::fp8_scale(&[most]),
        _ => quantize::int8_scale(&[most]),
    }
}

/// The rows of one panel.
struct Rows {
    draw: Draw,
    /// First row, counted over the parameter's rows of all experts.
    first: u64,
    /// Number of rows from `first` on; further lanes are padding.
    left: u64,
}

/// Fills a panel in a floating-point format.
fn fill_each(rows: &Rows, layout: Layout, out: &mut [u8], format: WeightFormat, value: impl Fn(u64) -> f32) {
    match format {
        WeightFormat::Bf16 => fill_panel(rows, layout, out, value, |x| half::bf16::from_f32(x).to_le_bytes()),
        WeightFormat::F16 => fill_panel(rows, layout, out, value, |x| half::f16::from_f32(x).to_le_bytes()),
        _ => fill_panel(rows, layout, out, value, f32::to_le_bytes),
    }
}

fn fill_panel<const BYTES: usize>(
    rows: &Rows,
    layout: Layout,
    out: &mut [u8],
    value: impl Fn(u64) -> f32,
    encode: impl Fn(f32) -> [u8; BYTES],
) {
    let Layout { k, lanes, .. } = layout;
    let (elements, _) = out.as_chunks_mut::<BYTES>();
    match layout.order {
        ElementOrder::Panels => {
            for (j, column) in (0..k).zip(elements.chunks_exact_mut(lanes as usize)) {
                for (lane, element) in (0..).zip(column) {
                    *element = encode(if lane < rows.left { value((rows.first + lane) * k + j) } else { 0.0 });
                }
            }
        }
        ElementOrder::Rows { stride, .. } => {
            for (lane, row) in (0..).zip(elements.chunks_exact_mut(stride as usize)) {
                for (j, element) in (0..).zip(row) {
                    let is_inside = lane < rows.left && j < k;
                    *element = encode(if is_inside { value((rows.first + lane) * k + j) } else { 0.0 });
                }
            }
        }
    }
}

/// Fills a panel in an integer format.
fn fill_integers(rows: &Rows, layout: Layout, format: WeightFormat, scale: f32, out: &mut [u8]) {
    out.fill(0);
    let mut q = vec![0; layout.k as usize];
    for lane in 0..layout.lanes.min(rows.left) {
        for (j, q) in (0..).zip(&mut q) {
            let value = rows.draw.value((rows.first + lane) * layout.k + j);
            *q = quantize::number(format, value, scale);
        }
        quantize::place_in(&layout, format, &q, lane as usize, out);
    }
}

/// Transformation and distribution of a synthetic parameter, by its canonical name and its shape in the checkpoint. Magnitudes
/// follow a trained model: norms, biases, decay rates and routers all affect the result, and activations neither vanish nor
/// explode.
pub fn init_for(parameter: &str, shape: &[u64]) -> (Transform, Init) {
    let inputs = shape.last().copied().unwrap_or(1).max(1) as f32;
    let normal = |std: f32| Init::Normal { mean: 0.0, std };
    let uniform = |low: f32, high: f32| Init::Uniform { low, high };
    let init = match parameter {
        name if name.ends_with("layernorm.weight") => uniform(0.5, 1.5),
        name if name.ends_with("conv1d.weight") || name.ends_with("conv1d.bias") => uniform(-0.5, 0.5),
        name if name.ends_with("A_log") => {
            // A = −(0.5 … 16), in units of log₂ e because of the transformation.
            const LOG2_E: f32 = std::f32::consts::LOG2_E;
            return (Transform::DecayRate, uniform(-16.0 * LOG2_E, -0.5 * LOG2_E));
        }
        name if name.ends_with("mamba.D") => Init::Normal { mean: 1.0, std: 0.3 },
        name if name.ends_with("dt_proj.bias") => uniform(-6.9, -2.25), // softplus: 0.001 … 0.1
        name if name.ends_with(".bias") => uniform(-0.1, 0.1),
        name if name.ends_with("router.weight") => normal(2.0 / inputs.sqrt()),
        name if name.ends_with("embed_tokens.weight") => normal(1.0),
        _ => normal(1.0 / inputs.sqrt()),
    };
    (Transform::None, init)
}

#[cfg(test)]
mod tests;

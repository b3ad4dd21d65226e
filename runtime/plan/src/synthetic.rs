//! Synthetic weights: every value is a function of the seed, the parameter's name and the element's logical place, so
//! that any device draws the same bits in any order, whole or in parts.
//!
//! A draw is one 64-bit number: SplitMix64's mix (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
//! Generators", 2014) of a key and a counter. From there on only operations that IEEE 754 rounds exactly are used: a
//! conversion of an integer below 2²⁴ to f32 (exact), one f32 product and one f32 sum, never fused.

use crate::format::{Init, Layout, Transform, Weight, WeightFormat};

/// Normal draws add four integers of 16 bits (Irwin–Hall): the sum's mean is this, twice 65535.
const SUM_MEAN: i32 = 2 * 65_535;

/// One over the standard deviation of that sum, √(4 · (65536² − 1) / 12) = 37837.2.
/// Draws have mean 0 and variance 1, reach 3.46 and have an excess kurtosis of −0.3.
const SUM_SCALE: f32 = 2.642_899_7e-5;

/// 64 bits that depend on every bit of `x`; SplitMix64's finalizer.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a parameter's name: 64-bit FNV-1a.
pub fn parameter_hash(parameter: &str) -> u64 {
    parameter.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The draws of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    key: u64,
    offset: f32,
    scale: f32,
    normal: bool,
}

impl Draw {
    /// Draws from `init` for the parameter whose name hashes to `parameter_hash`.
    pub fn new(seed: u64, parameter_hash: u64, init: Init) -> Draw {
        let key = mix(seed ^ mix(parameter_hash));
        match init {
            Init::Normal { mean, std } => Draw { key, offset: mean, scale: std * SUM_SCALE, normal: true },
            Init::Uniform { low, high } => {
                Draw { key, offset: low, scale: (high - low) * f32::EPSILON / 2.0, normal: false }
            }
        }
    }

    /// The value of element `index`, counted in the logical order \[groups, n, k\].
    pub fn value(&self, index: u64) -> f32 {
        let bits = mix(self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
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

/// The value of one element: [`Draw::value`] for a single draw.
pub fn value(seed: u64, parameter_hash: u64, index: u64, init: Init) -> f32 {
    Draw::new(seed, parameter_hash, init).value(index)
}

/// Fills a whole packed weight; `out` has [`Weight::bytes`] bytes. Padding lanes become zero.
pub fn fill(weight: &Weight, seed: u64, out: &mut [u8]) {
    fill_panels(weight, seed, 0, out);
}

/// Bytes of one panel of a packed weight.
pub fn panel_bytes(weight: &Weight) -> usize {
    (weight.layout.lanes * weight.layout.k * weight.format.bytes()) as usize
}

/// Fills the part of a packed weight that begins at panel `first`, counted over all groups; `out` holds whole panels
/// ([`panel_bytes`]): they can be drawn by different threads.
pub fn fill_panels(weight: &Weight, seed: u64, first: u64, out: &mut [u8]) {
    let panels = weight.layout.panels();
    for (panel, out) in (first..).zip(out.chunks_exact_mut(panel_bytes(weight))) {
        let (part, first_row) = weight.panel(panel % panels);
        let draw = Draw::new(seed, parameter_hash(&part.parameter), part.init);
        let first_row = (panel / panels * part.rows + part.first_row + first_row, part.rows - first_row);
        match weight.format {
            WeightFormat::F32 => fill_panel(&draw, weight.layout, first_row, out, f32::to_le_bytes),
            WeightFormat::Bf16 => {
                fill_panel(&draw, weight.layout, first_row, out, |x| half::bf16::from_f32(x).to_le_bytes())
            }
            WeightFormat::F16 => {
                fill_panel(&draw, weight.layout, first_row, out, |x| half::f16::from_f32(x).to_le_bytes())
            }
        }
    }
}

/// Draws one panel: its first row among the parameter's rows of all experts, and how many there are from it on.
fn fill_panel<const BYTES: usize>(
    draw: &Draw,
    layout: Layout,
    (first_row, rows): (u64, u64),
    out: &mut [u8],
    encode: impl Fn(f32) -> [u8; BYTES],
) {
    let Layout { k, lanes, .. } = layout;
    let (elements, _) = out.as_chunks_mut::<BYTES>();
    for (j, column) in (0..k).zip(elements.chunks_exact_mut(lanes as usize)) {
        for (lane, element) in (0..).zip(column) {
            *element = if lane < rows { encode(draw.value((first_row + lane) * k + j)) } else { encode(0.0) };
        }
    }
}

/// How a synthetic plan draws a parameter, by its canonical name and its shape in the checkpoint: scales of a trained
/// model, so that norms, biases, decay rates and routers all matter and activations neither vanish nor explode.
pub fn init_for(parameter: &str, shape: &[u64]) -> (Transform, Init) {
    let inputs = shape.last().copied().unwrap_or(1).max(1) as f32;
    let normal = |std: f32| Init::Normal { mean: 0.0, std };
    let uniform = |low: f32, high: f32| Init::Uniform { low, high };
    let init = match parameter {
        name if name.ends_with("layernorm.weight") => uniform(0.5, 1.5),
        name if name.ends_with("conv1d.weight") || name.ends_with("conv1d.bias") => uniform(-0.5, 0.5),
        name if name.ends_with("A_log") => {
            // A = −(0.5 … 16), in units of log₂ e as the transform leaves it
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
mod tests {
    use super::*;
    use crate::format::{Part, PartOrder};

    const N: u64 = 200_000;

    fn moments(init: Init) -> (f64, f64) {
        let draw = Draw::new(7, parameter_hash("a.weight"), init);
        let values: Vec<f64> = (0..N).map(|index| f64::from(draw.value(index))).collect();
        let mean = values.iter().sum::<f64>() / N as f64;
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64)
    }

    #[test]
    fn moments_are_those_asked_for() {
        // Standard errors: of the mean std/√N = 0.0045 for std 2, of the variance below 0.0025 of it.
        let (mean, variance) = moments(Init::Normal { mean: 0.5, std: 2.0 });
        assert!((mean - 0.5).abs() < 0.02 && (variance - 4.0).abs() < 0.05, "{mean} {variance}");
        let (mean, variance) = moments(Init::Uniform { low: -1.0, high: 3.0 });
        assert!((mean - 1.0).abs() < 0.02 && (variance - 16.0 / 12.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn the_scale_is_one_over_the_sums_deviation() {
        let variance = 4.0 * (65536.0f64 * 65536.0 - 1.0) / 12.0;
        assert_eq!(SUM_SCALE, (1.0 / variance.sqrt()) as f32);
    }

    /// Recorded once: the values are part of the format, a device that draws others is wrong.
    #[test]
    fn values_never_change() {
        let normal = Init::Normal { mean: 0.0, std: 1.0 };
        let uniform = Init::Uniform { low: -0.5, high: 0.5 };
        let bits =
            |init: Init| [0, 1, 1 << 40].map(|index| value(42, parameter_hash("model.w"), index, init).to_bits());
        expect_test::expect!["([be4e549f, 3f5a5fac, 3f0668ec], [be63bdb0, beb26f14, 3d615b90])"]
            .assert_eq(&format!("{:08x?}", (bits(normal), bits(uniform))));
    }

    fn part(parameter: &str, first_row: u64, rows: u64) -> Part {
        Part { parameter: parameter.to_owned(), first_row, rows, init: Init::Normal { mean: 0.0, std: 1.0 } }
    }

    fn weight(parts: Vec<Part>, order: PartOrder, groups: u64, format: WeightFormat) -> Weight {
        let n = Layout::rows_of(parts.iter().map(|part| part.rows), LANES).unwrap();
        let layout = Layout { groups, n, k: K, lanes: LANES };
        let bytes = layout.bytes(format).unwrap();
        Weight { parts, order, offset: 0, bytes, layout, format, transform: Transform::None }
    }

    const K: u64 = 5;
    const LANES: u64 = 8;

    fn drawn(weight: &Weight) -> Vec<f32> {
        let mut bytes = vec![0xaa; weight.bytes as usize];
        fill(weight, 3, &mut bytes);
        bytes.as_chunks().0.iter().map(|&element| f32::from_le_bytes(element)).collect()
    }

    #[test]
    fn elements_lie_where_the_layout_says_and_padding_is_zero() {
        let weight = weight(vec![part("a", 0, 13)], PartOrder::Stacked, 3, WeightFormat::F32);
        let layout = weight.layout;
        let mut expected = vec![0.0; layout.elements() as usize];
        let mut index = 0;
        for group in 0..layout.groups {
            for i in 0..layout.n {
                for j in 0..layout.k {
                    let drawn = value(3, parameter_hash("a"), index, weight.parts[0].init);
                    expected[layout.index(group, i, j) as usize] = drawn;
                    index += 1;
                }
            }
        }
        assert_eq!(drawn(&weight), expected);
    }

    /// Each part holds the values that it holds alone, in panels where the order says.
    #[test]
    fn parts_draw_what_they_draw_alone() {
        let f32s = WeightFormat::F32;
        for groups in [1, 3] {
            let stacked =
                weight(vec![part("a", 0, 13), part("b", 0, 3), part("c", 0, 8)], PartOrder::Stacked, groups, f32s);
            let interleaved = weight(vec![part("a", 0, 13), part("d", 0, 13)], PartOrder::Interleaved, groups, f32s);
            for (weight, panels) in
                [(stacked, vec!["a0", "a1", "b0", "c0"]), (interleaved, vec!["a0", "d0", "a1", "d1"])]
            {
                let alone = |part: &Part| drawn(&self::weight(vec![part.clone()], PartOrder::Stacked, groups, f32s));
                let alone: Vec<(&str, Vec<f32>)> =
                    weight.parts.iter().map(|part| (&*part.parameter, alone(part))).collect();
                let mut expected = Vec::new();
                for group in 0..groups as usize {
                    for panel in &panels {
                        let (name, index) = panel.split_at(1);
                        let (_, values) = alone.iter().find(|(found, _)| *found == name).unwrap();
                        let of_group = values.len() / groups as usize;
                        let at = group * of_group + index.parse::<usize>().unwrap() * PANEL;
                        expected.extend_from_slice(&values[at..at + PANEL]);
                    }
                }
                assert_eq!(drawn(&weight), expected, "{:?} {groups}", weight.order);
            }
        }
    }

    const PANEL: usize = (K * LANES) as usize;

    #[test]
    fn a_part_may_begin_inside_its_parameter() {
        let whole = drawn(&weight(vec![part("a", 0, 16)], PartOrder::Stacked, 1, WeightFormat::F32));
        let halves = weight(vec![part("a", 8, 8), part("a", 0, 8)], PartOrder::Stacked, 1, WeightFormat::F32);
        let (first, second) = whole.split_at(PANEL);
        assert_eq!(drawn(&halves), [second, first].concat());
    }

    #[test]
    fn panels_join_to_the_whole() {
        for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::F16] {
            let weight = weight(vec![part("a", 0, 13), part("b", 0, 9)], PartOrder::Stacked, 2, format);
            let mut whole = vec![0; weight.bytes as usize];
            fill(&weight, 3, &mut whole);
            for at_once in [1, 3, 5] {
                let mut parts = vec![0xaa; whole.len()];
                for (index, chunk) in parts.chunks_mut(at_once * panel_bytes(&weight)).enumerate() {
                    fill_panels(&weight, 3, (index * at_once) as u64, chunk);
                }
                assert_eq!(parts, whole, "{format:?}, {at_once} panels at once");
            }
        }
    }

    #[test]
    fn names_and_seeds_draw_apart() {
        let normal = Init::Normal { mean: 0.0, std: 1.0 };
        let first = |seed, name| value(seed, parameter_hash(name), 0, normal);
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }

    #[test]
    fn decay_rates_are_drawn_transformed() {
        let (transform, init) = init_for("model.layers.0.mamba.A_log", &[256, 16]);
        assert_eq!(transform, Transform::DecayRate);
        assert!(matches!(init, Init::Uniform { low, high } if low < high && high < 0.0));
        let (_, init) = init_for("model.layers.1.feed_forward.router.weight", &[4, 64]);
        assert_eq!(init, Init::Normal { mean: 0.0, std: 0.25 });
    }
}

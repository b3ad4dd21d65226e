//! Draws: moments, positions, and equality of parts with the whole and of integers with floats.

use super::*;
use crate::format::{Part, PartOrder};

const N: u64 = if cfg!(miri) { 2000 } else { 200_000 };

/// How much wider than those of 200,000 draws the standard errors are.
const WIDER: f64 = if cfg!(miri) { 10.0 } else { 1.0 };

fn moments(init: Init) -> (f64, f64) {
    let draw = Draw::new(7, parameter_hash("a.weight"), init);
    let values: Vec<f64> = (0..N).map(|index| f64::from(draw.value(index))).collect();
    let mean = values.iter().sum::<f64>() / N as f64;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64)
}

#[test]
fn moments_are_those_asked_for() {
    // Standard errors for std 2: std/√N = 0.0045 for the mean, below 0.25 % for the variance.
    let (mean, variance) = moments(Init::Normal { mean: 0.5, std: 2.0 });
    assert!((mean - 0.5).abs() < 0.02 * WIDER && (variance - 4.0).abs() < 0.05 * WIDER, "{mean} {variance}");
    let (mean, variance) = moments(Init::Uniform { low: -1.0, high: 3.0 });
    assert!((mean - 1.0).abs() < 0.02 * WIDER && (variance - 16.0 / 12.0).abs() < 0.02 * WIDER, "{mean} {variance}");
}

#[test]
fn the_scale_is_one_over_the_sums_deviation() {
    let variance = 4.0 * (65536.0f64 * 65536.0 - 1.0) / 12.0;
    assert_eq!(SUM_SCALE, (1.0 / variance.sqrt()) as f32);
}

/// Recorded values. They are part of the format: a device that draws other values is wrong.
#[test]
fn values_never_change() {
    let normal = Init::Normal { mean: 0.0, std: 1.0 };
    let uniform = Init::Uniform { low: -0.5, high: 0.5 };
    let bits = |init: Init| [0, 1, 1 << 40].map(|index| value(42, parameter_hash("model.w"), index, init).to_bits());
    expect_test::expect!["([be4e549f, 3f5a5fac, 3f0668ec], [be63bdb0, beb26f14, 3d615b90])"]
        .assert_eq(&format!("{:08x?}", (bits(normal), bits(uniform))));
}

fn part(parameter: &str, first_row: u64, rows: u64) -> Part {
    Part { parameter: parameter.to_owned(), first_row, rows, init: Init::Normal { mean: 0.0, std: 1.0 } }
}

fn weight(parts: Vec<Part>, order: PartOrder, groups: u64, format: WeightFormat) -> Weight {
    let n = Layout::rows_of(parts.iter().map(|part| part.rows), LANES).unwrap();
    let layout = Layout::in_panels(groups, n, K, LANES);
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

/// Each part has the same values as when packed alone, in the panels that the order defines.
#[test]
fn parts_draw_what_they_draw_alone() {
    let f32s = WeightFormat::F32;
    for groups in [1, 3] {
        let stacked =
            weight(vec![part("a", 0, 13), part("b", 0, 3), part("c", 0, 8)], PartOrder::Stacked, groups, f32s);
        let interleaved = weight(vec![part("a", 0, 13), part("d", 0, 13)], PartOrder::Interleaved, groups, f32s);
        for (weight, panels) in [(stacked, vec!["a0", "a1", "b0", "c0"]), (interleaved, vec!["a0", "d0", "a1", "d1"])] {
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
    for format in WeightFormat::ALL {
        let weight = weight(vec![part("a", 0, 13), part("b", 0, 9)], PartOrder::Stacked, 2, format);
        let mut whole = vec![0; weight.bytes as usize];
        fill(&weight, 3, &mut whole);
        for at_once in [1, 3, 5] {
            let mut parts = vec![0xaa; whole.len()];
            for (index, chunk) in parts.chunks_mut(at_once * weight.layout.panel_bytes(format)).enumerate() {
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

#[test]
fn integers_are_the_floats_in_multiples_of_one_scale() {
    for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int3] {
        let parts = || vec![part("a", 0, 13), part("b", 0, 9)];
        let floats = weight(parts(), PartOrder::Stacked, 2, WeightFormat::F32);
        let integers = weight(parts(), PartOrder::Stacked, 2, format);
        let (layout, scale_format) = integers.layout.scales(format).unwrap();
        let transform = Transform::Scale(format);
        let bytes = layout.bytes(scale_format).unwrap();
        let scales = Weight { layout, format: scale_format, transform, bytes, ..integers.clone() };
        let expected = drawn(&floats);
        let mut panels = vec![0xaa; integers.bytes as usize];
        fill(&integers, 3, &mut panels);
        let mut found = vec![0xaa; scales.bytes as usize];
        fill(&scales, 3, &mut found);
        let scale = scale(format, integers.parts[0].init);
        for (panel, bytes) in panels.chunks_exact(integers.layout.panel_bytes(format)).enumerate() {
            let (part, first_row) = integers.panel(panel as u64 % integers.layout.panels());
            for lane in 0..LANES as usize {
                let is_row = first_row + (lane as u64) < part.rows;
                let stored = match scale_format {
                    WeightFormat::F32 => f32::from_le_bytes(found.as_chunks().0[panel * LANES as usize + lane]),
                    _ => half::bf16::from_le_bytes(found.as_chunks().0[panel * LANES as usize + lane]).to_f32(),
                };
                assert_eq!(stored, if is_row { scale } else { 0.0 });
                for j in 0..K as usize {
                    let value = expected[panel * PANEL + j * LANES as usize + lane];
                    let q = quantize::integer_at(format, bytes, lane, LANES as usize, j);
                    assert_eq!(
                        f32::from(q),
                        (value / scale).round_ties_even().min(quantize::range(format).1),
                        "{format:?}"
                    );
                }
            }
        }
        // The largest possible draw just fits.
        assert!((3.46..3.47).contains(&(scale * -quantize::range(format).0)), "{scale}");
    }
}

/// The same parameters drawn into panels and into rows have the same values at the positions that each layout defines.
#[test]
fn rows_hold_what_panels_hold() {
    for (order, lanes, multiple) in [(PartOrder::Stacked, 8, 8), (PartOrder::Interleaved, 4, 16)] {
        let parts = || vec![part("a", 0, 13), part("b", 0, 13)];
        let panels = weight(parts(), order, 2, WeightFormat::F32);
        let n = Layout::rows_of([13, 13], multiple).unwrap();
        let layout = Layout::in_rows(2, n, K, 32, (lanes, multiple));
        let rows = Weight {
            layout,
            bytes: layout.bytes(WeightFormat::F32).unwrap(),
            ..weight(parts(), order, 2, WeightFormat::F32)
        };
        let (in_panels, in_rows) = (drawn(&panels), drawn(&rows));
        // Row i of a part is row `place` of its group in a layout.
        let place = |weight: &Weight, part: u64, i: u64| match order {
            PartOrder::Stacked => part * 13_u64.next_multiple_of(weight.layout.multiple()) + i,
            PartOrder::Interleaved => {
                (i / weight.layout.lanes * 2 + part) * weight.layout.lanes + i % weight.layout.lanes
            }
        };
        let mut left: Vec<f32> = in_rows.clone();
        for group in 0..2 {
            for (part, i, j) in (0..2).flat_map(|part| (0..13).flat_map(move |i| (0..K).map(move |j| (part, i, j)))) {
                let at = layout.index(group, place(&rows, part, i), j) as usize;
                let expected = in_panels[panels.layout.index(group, place(&panels, part, i), j) as usize];
                assert_eq!(in_rows[at], expected, "{order:?} {group} {part} {i} {j}");
                left[at] = 0.0;
            }
        }
        assert!(left.iter().all(|&padding| padding == 0.0), "padding is zero");
    }
}

#[test]
fn int8_in_rows_is_int8_in_panels() {
    let panels = weight(vec![part("a", 0, 13)], PartOrder::Stacked, 1, WeightFormat::Int8);
    let layout = Layout::in_rows(1, 13, K, 64, (8, 8));
    let rows = Weight { layout, bytes: layout.bytes(WeightFormat::Int8).unwrap(), ..panels.clone() };
    let [mut in_panels, mut in_rows] = [&panels, &rows].map(|weight| vec![0xaa; weight.bytes as usize]);
    fill(&panels, 3, &mut in_panels);
    fill(&rows, 3, &mut in_rows);
    for i in 0..13 {
        for j in 0..K {
            let panel = &in_panels[i / 8 * panels.layout.panel_bytes(WeightFormat::Int8)..];
            let expected = quantize::integer_at(WeightFormat::Int8, panel, i % 8, 8, j as usize);
            assert_eq!(
                in_rows[layout.index(0, i as u64, quantize::column(j as usize) as u64) as usize] as i8,
                expected
            );
        }
    }
}

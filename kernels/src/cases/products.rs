//! Cases of matrix products.

use jambac_graph::Activation;

use super::{Case, case, decode};
use crate::catalog::AnySpec;
use crate::kernel::Elem;
use crate::{grouped_combine, grouped_linear, grouped_swiglu, linear, linear_swiglu, split_linear};

/// A prompt that ends in a second tile, and a few sequences: each takes another config of a matrix product on Hopper.
fn many_and_few(kernel: impl Into<AnySpec>) -> [Case; 2] {
    let kernel = kernel.into();
    [case(kernel.clone(), 71), decode(kernel, 5)]
}

/// As [`many_and_few`], for the rows of two slots per token that six experts share.
fn of_experts(kernel: impl Into<AnySpec>) -> [Case; 4] {
    let kernel = kernel.into();
    [case(kernel.clone(), 75), case(kernel.clone(), 0), decode(kernel.clone(), 7), decode(kernel, 1)]
}

/// Cases of [`crate::linear`].
pub fn linear() -> Vec<Case> {
    let base =
        linear::Spec { n: 96, k: 72, format: Elem::Bf16, out: Elem::F32, bias: false, activation: Activation::None };
    let with = |n, k| linear::Spec { n, k, ..base.clone() };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
    // Partial panels, partial groups of panels, fewer panels than threads.
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 13)));
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 1)));
    // Rows distributed over threads instead of panels.
    cases.push(case(with(5, base.k), 64));
    cases.extend([1, 7, 100].map(|k| case(with(base.n, k), 13)));
    // Several blocks of rows, the last one partial.
    cases.push(case(with(16, 8195), 61));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(linear::Spec { format, ..base.clone() }, 13)));
    cases.push(case(linear::Spec { bias: true, ..base.clone() }, 13));
    cases.extend([1, 13].map(|n_rows| case(linear::Spec { activation: Activation::Silu, ..base.clone() }, n_rows)));
    let softplus = linear::Spec { bias: true, activation: Activation::Softplus, ..base.clone() };
    cases.extend([1, 13].map(|n_rows| case(softplus.clone(), n_rows)));
    cases.push(case(linear::Spec { n: 16, k: 8195, ..softplus.clone() }, 61));
    // dt_proj of Jamba Mini.
    cases.extend([1, 512].map(|n_rows| case(linear::Spec { n: 8192, k: 256, ..softplus.clone() }, n_rows)));
    // Gate of Jamba 3B, in_proj of Jamba Mini, router of Jamba Mini.
    cases.extend([1, 4, 48, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
    cases.extend([1, 48, 512].map(|n_rows| case(with(16384, 4096), n_rows)));
    cases.extend([1, 512].map(|n_rows| case(with(16, 4096), n_rows)));
    cases
}

/// Cases of [`crate::split_linear`].
pub fn split_linear() -> Vec<Case> {
    let base = split_linear::Spec { sizes: vec![72, 24, 24], weights: 3, k: 72, format: Elem::Bf16, out: Elem::F32 };
    let with = |sizes: &[usize]| split_linear::Spec { sizes: sizes.to_vec(), weights: sizes.len(), ..base.clone() };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
    // One to four results; parts of less than a panel, of whole panels, of a panel and a remainder.
    let several: [&[usize]; 6] = [&[40], &[48, 48], &[1, 5, 5], &[173, 16], &[17, 1, 33, 16], &[5, 72]];
    cases.extend(several.map(|sizes| case(with(sizes), 13)));
    cases.extend(several.map(|sizes| case(with(sizes), 1)));
    // Rows distributed over threads instead of panels.
    cases.push(case(with(&[5, 16]), 64));
    cases.extend([1, 7, 100].map(|k| case(split_linear::Spec { k, ..base.clone() }, 13)));
    cases.push(case(split_linear::Spec { k: 8195, ..with(&[5, 16]) }, 61));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(split_linear::Spec { format, ..base.clone() }, 13)));
    // in_proj and attention of Jamba Mini.
    let mini = |sizes: &[usize]| split_linear::Spec { k: 4096, ..with(sizes) };
    cases.extend([1, 512].map(|n_rows| case(mini(&[8192, 8192]), n_rows)));
    cases.extend([1, 512].map(|n_rows| case(mini(&[4096, 1024, 1024]), n_rows)));
    cases
}

/// Cases of [`crate::linear_swiglu`].
pub fn linear_swiglu() -> Vec<Case> {
    let base = linear_swiglu::Spec { n: 96, k: 72, format: Elem::Bf16 };
    let with = |n, k| linear_swiglu::Spec { n, k, ..base.clone() };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64].map(|n_rows| case(base.clone(), n_rows)));
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 13)));
    cases.extend([1, 16, 72, 173].map(|n| case(with(n, base.k), 1)));
    // Rows distributed over threads instead of panels.
    cases.push(case(with(5, base.k), 64));
    cases.extend([1, 7, 100].map(|k| case(with(base.n, k), 13)));
    cases.push(case(with(16, 8195), 61));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(linear_swiglu::Spec { format, ..base.clone() }, 13)));
    // Jamba 3B, Jamba Mini.
    cases.extend([1, 4, 48, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
    cases.extend([1, 512].map(|n_rows| case(with(14336, 4096), n_rows)));
    cases
}

/// Cases of [`crate::grouped_linear`].
pub fn grouped_linear() -> Vec<Case> {
    let base = grouped_linear::Spec {
        n_experts: 4,
        n: 40,
        k: 72,
        format: Elem::Bf16,
        out: Elem::F32,
        slots_per_row: 2,
        top_k: 2,
    };
    let mut cases = vec![case(base.clone(), 13)];
    // A single token leaves experts without slots.
    cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.push(case(grouped_linear::Spec { slots_per_row: 1, ..base.clone() }, 13));
    cases.push(case(grouped_linear::Spec { slots_per_row: 1, top_k: 1, ..base.clone() }, 13));
    cases.push(case(grouped_linear::Spec { slots_per_row: 3, top_k: 3, n_experts: 5, ..base.clone() }, 13));
    cases.extend([5, 100].map(|n| case(grouped_linear::Spec { n, ..base.clone() }, 13)));
    cases.push(case(grouped_linear::Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(grouped_linear::Spec { format, ..base.clone() }, 13)));
    // Gate of half of Jamba Mini's experts.
    let mini = grouped_linear::Spec { n_experts: 8, n: 14336, k: 4096, ..base };
    cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
    cases
}

/// Cases of [`crate::linear`] with integer weights.
pub fn integer_linear() -> Vec<Case> {
    let of_format = |format: Elem| {
        let base = linear::Spec { n: 96, k: 72, format, out: Elem::F32, bias: false, activation: Activation::None };
        let with = |n, k| linear::Spec { n, k, ..base.clone() };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 3, 4, 5, 6, 7, 12, 64, 150].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([1, 16, 173].map(|n| case(with(n, base.k), 13)));
        // Rows distributed over threads instead of panels.
        cases.push(case(with(5, base.k), 64));
        // Less than a group of inputs, whole groups, and a partial last group, with and without padding.
        cases.extend([1, 31, 32, 128, 160, 256, 300].map(|k| case(with(base.n, k), 13)));
        cases.extend([1, 300].map(|k| case(with(base.n, k), 3)));
        // Several blocks of rows, the last one partial.
        cases.push(case(with(16, 8195), 61));
        cases.push(case(linear::Spec { bias: true, ..base.clone() }, 13));
        let softplus = linear::Spec { bias: true, activation: Activation::Softplus, ..base.clone() };
        cases.extend([1, 13].map(|n_rows| case(softplus.clone(), n_rows)));
        cases.extend([1, 13].map(|n_rows| case(linear::Spec { activation: Activation::Silu, ..base.clone() }, n_rows)));
        // Gate and down of a model of 318 M parameters, its logits; the gate of Jamba 3B.
        cases.extend([1, 8, 512].map(|n_rows| case(with(2560, 768), n_rows)));
        cases.extend([1, 8, 512].map(|n_rows| case(with(768, 2560), n_rows)));
        cases.extend([1, 8].map(|n_rows| case(with(65536, 768), n_rows)));
        cases.extend([1, 8, 512].map(|n_rows| case(with(8192, 2560), n_rows)));
        cases
    };
    [Elem::I8, Elem::I4].map(of_format).concat()
}

/// Cases of [`crate::grouped_linear`] with integer weights.
pub fn integer_grouped_linear() -> Vec<Case> {
    let of_format = |format: Elem| {
        let base =
            grouped_linear::Spec { n_experts: 4, n: 40, k: 72, format, out: Elem::F32, slots_per_row: 2, top_k: 2 };
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2, 64].map(|n_tokens| case(base.clone(), n_tokens)));
        cases.push(case(grouped_linear::Spec { slots_per_row: 1, ..base.clone() }, 13));
        cases.push(case(grouped_linear::Spec { n: 100, k: 300, ..base }, 13));
        cases
    };
    [Elem::I8, Elem::I4].map(of_format).concat()
}

/// Cases of [`crate::grouped_swiglu`].
pub fn grouped_swiglu() -> Vec<Case> {
    let base = grouped_swiglu::Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, slots_per_row: 2, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    // A single token leaves experts without slots.
    cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.push(case(grouped_swiglu::Spec { slots_per_row: 1, ..base.clone() }, 13));
    cases.push(case(grouped_swiglu::Spec { slots_per_row: 3, top_k: 3, n_experts: 5, ..base.clone() }, 13));
    cases.extend([5, 100].map(|n| case(grouped_swiglu::Spec { n, ..base.clone() }, 13)));
    cases.extend([1, 7].map(|k| case(grouped_swiglu::Spec { k, ..base.clone() }, 13)));
    cases.push(case(grouped_swiglu::Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(grouped_swiglu::Spec { format, ..base.clone() }, 13)));
    // Half of Jamba Mini's experts.
    let mini = grouped_swiglu::Spec { n_experts: 8, n: 14336, k: 4096, ..base };
    cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
    cases
}

/// Cases of [`crate::grouped_combine`].
pub fn grouped_combine() -> Vec<Case> {
    let base = grouped_combine::Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, top_k: 2 };
    let mut cases = vec![case(base.clone(), 13)];
    cases.extend([0, 1, 2, 7, 64].map(|n_tokens| case(base.clone(), n_tokens)));
    cases.push(case(grouped_combine::Spec { top_k: 1, ..base.clone() }, 13));
    cases.push(case(grouped_combine::Spec { top_k: 3, n_experts: 5, ..base.clone() }, 13));
    cases.extend([5, 100].map(|n| case(grouped_combine::Spec { n, ..base.clone() }, 13)));
    cases.extend([1, 7].map(|k| case(grouped_combine::Spec { k, ..base.clone() }, 13)));
    cases.push(case(grouped_combine::Spec { k: 8195, n_experts: 2, n: 16, ..base.clone() }, 64));
    cases.extend([Elem::F32, Elem::F16].map(|format| case(grouped_combine::Spec { format, ..base.clone() }, 13)));
    // Half of Jamba Mini's experts.
    let mini = grouped_combine::Spec { n_experts: 8, n: 4096, k: 14336, ..base };
    cases.extend([1, 64].map(|n_tokens| case(mini.clone(), n_tokens)));
    cases
}

/// Cases of [`crate::linear`], [`crate::split_linear`] and [`crate::linear_swiglu`] for tiles of 64 rows and outputs and steps of 64
/// inputs: remainders of each, several rounds of a ring of tiles, every epilogue and result type, both weight types of Hopper.
pub fn by_tiles() -> Vec<Case> {
    let of_format = |format| {
        let base = linear::Spec { n: 96, k: 72, format, out: Elem::F32, bias: false, activation: Activation::None };
        let with = |n, k| linear::Spec { n, k, ..base.clone() };
        let in_bf16 = |n, k| linear::Spec { out: Elem::Bf16, ..with(n, k) };
        let finish = |bias, activation| linear::Spec { bias, activation, ..base.clone() };
        let split = |sizes: &[usize], k, out| split_linear::Spec {
            sizes: sizes.to_vec(),
            weights: sizes.len(),
            k,
            format,
            out,
        };
        let swiglu = |n, k| linear_swiglu::Spec { n, k, format };
        let specs: Vec<AnySpec> = vec![
            base.clone().into(),
            in_bf16(96, 72).into(),
            with(40, 24).into(),
            with(7, 5).into(),
            with(129, 64).into(),
            with(130, 65).into(),
            with(64, 1100).into(),
            in_bf16(203, 136).into(),
            finish(true, Activation::None).into(),
            finish(true, Activation::Softplus).into(),
            finish(false, Activation::Silu).into(),
            split(&[70, 40], 72, Elem::Bf16).into(),
            split(&[64, 1, 130, 65], 136, Elem::F32).into(),
            swiglu(96, 72).into(),
            swiglu(41, 136).into(),
        ];
        specs.into_iter().flat_map(many_and_few).collect::<Vec<Case>>()
    };
    [Elem::Bf16, Elem::I8].map(of_format).concat()
}

/// Cases of [`crate::grouped_linear`] and [`crate::grouped_swiglu`] for tiles: weights of an odd number of blocks, so that the last
/// tile of an expert extends into the next one's; both result types and both weight types of Hopper.
pub fn experts_by_tiles() -> Vec<Case> {
    let of_format = |format| {
        let (n_experts, top_k) = (6, 2);
        let odd = grouped_linear::Spec { n_experts, n: 40, k: 101, format, out: Elem::F32, slots_per_row: 1, top_k };
        let in_bf16 = grouped_linear::Spec { n: 130, k: 72, out: Elem::Bf16, ..odd.clone() };
        let swiglu = grouped_swiglu::Spec { n_experts, n: 40, k: 136, format, slots_per_row: top_k, top_k };
        [of_experts(odd), of_experts(in_bf16), of_experts(swiglu)].concat()
    };
    [Elem::Bf16, Elem::I8].map(of_format).concat()
}

//! grouped_linear: one expert per slot, experts without slots, rows shared or not shared by slots.

use jamba_plan::format::Layout;
use jambac_kernels::cases;
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::grouped_linear::Spec;
use jambac_kernels::kernel::{Elem, LANES};
use jambac_kernels::linear;
use jambac_reference::{Tolerance, moe};

use super::harness::{Arg, Kernels, V3, Weight, assert_close, assert_same_bits, random, random_indices};

struct Operands {
    x: Vec<f32>,
    weight: Weight,
    experts: Vec<i32>,
    slots: Vec<i32>,
    offsets: Vec<i32>,
}

impl Operands {
    fn new(spec: &Spec, n_tokens: usize) -> Operands {
        let Spec { n_experts, n, k, format, slots_per_row, top_k, .. } = *spec;
        let n_slots = n_tokens * top_k;
        let experts = random_indices(3, n_slots, n_experts);
        let (slots, offsets) = moe::moe_permute(&experts, n_experts).expect("indices of experts");
        let layout = Layout::in_panels(n_experts as u64, n as u64, k as u64, LANES as u64);
        Operands {
            x: random(1, n_slots / slots_per_row * k),
            weight: Weight::pack(&random(2, n_experts * n * k), layout, format),
            experts,
            slots,
            offsets,
        }
    }

    fn run(&self, kernels: &Kernels, spec: &Spec) -> Vec<f32> {
        let args = [
            Arg::rows(spec.k, &self.x),
            Arg::weight(&self.weight),
            Arg::i32(&self.slots),
            Arg::i32(&self.offsets),
            Arg::unwritten(spec.n, self.slots.len()),
        ];
        kernels.run(&spec.clone().into(), &args)[0].f32()
    }
}

#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = cases::grouped_linear().into_iter().filter(|case| case.operations() < 5e7).collect();
    let Some(kernels) = Kernels::compile(V3, cases.iter().map(|case| &case.kernel)) else { return };
    for case in &cases {
        let AnySpec::GroupedLinear(spec) = &case.kernel else { panic!("a case of another kernel: {case:?}") };
        let operands = Operands::new(spec, case.counts.tokens);
        let found = operands.run(&kernels, spec);
        let expected = moe::grouped_linear(&moe::GroupedLinear {
            x: &operands.x,
            weight: &operands.weight.values,
            slots: &operands.slots,
            offsets: &operands.offsets,
            n_in: spec.k,
            n_out: spec.n,
        });
        let what = format!("{} of {} tokens", case.symbol(), case.counts.tokens);
        // As in linear: √k roundings of 2⁻²⁴ of partial sums of about √k.
        assert_close(&what, &found, &expected, Tolerance::abs(2.0 * spec.k as f64 * 2f64.powi(-24)));
    }
}

#[test]
fn a_slot_has_the_bits_of_its_row_in_a_linear() {
    let spec = Spec { n_experts: 4, n: 40, k: 72, format: Elem::Bf16, out: Elem::F32, slots_per_row: 2, top_k: 2 };
    let alone = linear::Spec {
        n: spec.n,
        k: spec.k,
        format: spec.format,
        bias: false,
        activation: jambac_graph::Activation::None,
        out: Elem::F32,
    };
    let Some(kernels) = Kernels::compile(V3, [&spec.clone().into(), &alone.clone().into()]) else { return };
    let operands = Operands::new(&spec, 13);
    let together = operands.run(&kernels, &spec);
    let layout = Layout::in_panels(1, spec.n as u64, spec.k as u64, LANES as u64);
    for (slot, &expert) in operands.experts.iter().enumerate() {
        let matrix = spec.n * spec.k;
        let weight = &operands.weight.values[expert as usize * matrix..][..matrix];
        let args = [
            Arg::rows(spec.k, &operands.x[slot / 2 * spec.k..][..spec.k]),
            Arg::weight(&Weight::pack(weight, layout, spec.format)),
            Arg::unwritten(spec.n, 1),
            Arg::Scalar(1),
        ];
        let row = kernels.run(&alone.clone().into(), &args)[0].f32();
        assert_same_bits(&format!("slot {slot}"), &together[slot * spec.n..][..spec.n], &row);
    }
}

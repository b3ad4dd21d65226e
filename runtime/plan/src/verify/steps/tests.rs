//! Changes arguments, operands, steps and buffers of the fixtures, one at a time.

use super::super::program;
use crate::PlanError;
use crate::fixture::{self, rows};
use crate::format::{
    Access, Activation, Arg, Buffer, Count, Elem, Head, Layout, Manifest, Operand, Per, Program, ProgramInfo, Step,
    Table, TargetKind, Transform, WeightFormat, WeightShape,
};

fn of(kind: TargetKind) -> (Manifest, Program) {
    match kind {
        TargetKind::Cpu => (fixture::manifest(), fixture::program()),
        TargetKind::Sm90a => (fixture::manifest(), fixture::sm_90a::program()),
    }
}

fn check(manifest: &Manifest, kind: TargetKind, changed: &Program) -> Result<(), PlanError> {
    let info: &ProgramInfo = manifest.of(kind).unwrap();
    program(manifest, info, changed)
}

/// The field that the changed CPU program is refused for.
fn refusal(change: impl FnOnce(&mut Program)) -> String {
    let (mut manifest, mut changed) = of(TargetKind::Cpu);
    manifest.programs[0].memory.weights = 2048;
    change(&mut changed);
    match check(&manifest, TargetKind::Cpu, &changed) {
        Err(PlanError::Record { field, .. }) => field.split(" (").next().unwrap().to_owned(),
        Err(other) => panic!("{other}"),
        Ok(()) => "accepted".to_owned(),
    }
}

/// Arguments of every kind.
fn arguments() -> Vec<Arg> {
    let addresses = [0, 2, 8, 32, 64, 128, 192, 256, 1 << 20, u64::MAX];
    let mut all: Vec<Arg> =
        addresses.iter().flat_map(|&at| [Arg::Arena(at), Arg::State(at), Arg::Kv(at), Arg::Constant(at)]).collect();
    all.extend((0..4).flat_map(|index| [Arg::Weight(index), Arg::TensorMap(index)]));
    all.extend(Table::ALL.into_iter().chain([Table::Settings]).map(Arg::Table));
    for factor in [0, 1, 2, u32::MAX] {
        all.extend([Count::Tokens, Count::Sequences, Count::Outputs].map(|count| Arg::Count(count, factor)));
    }
    all
}

#[test]
fn every_other_argument_is_refused() {
    let mut tried = 0;
    let (every, least) = if cfg!(miri) { (40, 60) } else { (1, 3000) };
    for kind in TargetKind::ALL {
        let (manifest, sound) = of(kind);
        check(&manifest, kind, &sound).unwrap();
        for (entry, index) in (0..sound.entries.len()).flat_map(|entry| [0, 1, 2, 3].map(|step| (entry, step))) {
            let Some(step) = sound.entries[entry].steps.get(index) else { continue };
            for (slot, &old) in step.args.iter().enumerate() {
                for arg in arguments().into_iter().filter(|&arg| arg != old).step_by(every) {
                    let mut changed = sound.clone();
                    changed.entries[entry].steps[index].args[slot] = arg;
                    let found = check(&manifest, kind, &changed);
                    assert!(found.is_err(), "{kind:?} entries[{entry}].steps[{index}].args[{slot}]: {old:?} → {arg:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > least, "{tried}");
}

#[test]
fn operands_and_steps_must_agree() {
    type Change = fn(&mut Program);
    let cases: [(&str, Change); 16] = [
        ("accepted", |_| ()),
        // More rows than the buffer, than the arena, than the state slot and the page.
        ("entries[0].steps[1].args[5]", |p| {
            p.kernels[1].operands[5] = Operand::Value(Access::Read, rows(Elem::F32, 16, 2))
        }),
        ("entries[0].steps[1].args[0]", |p| {
            p.kernels[1].operands[0] = Operand::Value(Access::Write, rows(Elem::F32, 8, 7))
        }),
        ("entries[0].steps[1].args[1]", |p| p.kernels[1].operands[1] = Operand::State(Elem::F32, 17)),
        ("entries[0].steps[1].args[2]", |p| p.kernels[1].operands[2] = Operand::Kv(Access::Read, Elem::Bf16, 33)),
        ("entries[0].steps[1].args[1]", |p| p.kernels[1].operands[1] = Operand::State(Elem::F32, u64::MAX)),
        ("entries[0].steps[1].args[5]", |p| {
            p.kernels[1].operands[5] = Operand::Value(Access::Read, rows(Elem::F32, u64::MAX, u64::MAX));
        }),
        // Other elements, other rows.
        ("entries[0].steps[1].args[5]", |p| {
            p.kernels[1].operands[5] = Operand::Value(Access::Read, rows(Elem::I32, 16, 1))
        }),
        ("entries[0].steps[1].args[5]", |p| {
            p.kernels[1].operands[5] = Operand::Value(Access::Read, rows(Elem::F32, 8, 2))
        }),
        // Rows that follow from the step's counts: 8 tokens of 16 in prefill.
        ("entries[0].steps[0].args[2]", |p| {
            let shape = crate::format::Shape { factor: 1, fixed: 0, per: Per::Token, ..rows(Elem::F32, 16, 0) };
            p.kernels[0].operands[2] = Operand::Value(Access::Write, shape);
        }),
        // Read before it is written.
        ("entries[0].steps[0].args[2]", |p| {
            p.kernels[0].operands[2] = Operand::Value(Access::Read, rows(Elem::F32, 16, 1))
        }),
        // A step writes where it reads.
        ("entries[0].steps[1].args[0]", |p| {
            for entry in &mut p.entries {
                entry.steps[1].args[5] = Arg::Arena(64);
                entry.steps[0].args[2] = Arg::Arena(64);
            }
        }),
        // Without the barrier.
        ("entries[1].steps[1].args[5]", |p| p.entries[1].steps[1].barrier = false),
        // The logits are overwritten.
        ("entries[0].logits", |p| {
            let mut step: Step = p.entries[0].steps[0].clone();
            (step.args[2], step.barrier) = (Arg::Arena(128), true);
            p.entries[0].steps.push(step);
        }),
        ("entries[0].logits", |p| {
            p.kernels[1].operands[0] = Operand::Value(Access::Write, rows(Elem::I32, 8, 4));
        }),
        ("entries[0].steps[1].args", |p| drop(p.kernels[1].operands.pop())),
    ];
    for (expected, change) in cases {
        assert_eq!(refusal(change), expected);
    }
}

/// Tokens choose rows of the embedding: one without a row would read behind it.
#[test]
fn every_token_has_a_row() {
    for (kind, vocab) in TargetKind::ALL.into_iter().flat_map(|kind| [4, 5, 6, u64::MAX].map(|vocab| (kind, vocab))) {
        let (mut manifest, program) = of(kind);
        // The results of a head have a number of their own.
        manifest.model.head = Head::Scores { labels: vec![String::new(); 5], activation: Activation::Identity };
        manifest.model.vocab = vocab;
        let expected = format!("a weight of {vocab} rows, the vocabulary");
        match check(&manifest, kind, &program) {
            Err(PlanError::Record { field, expected: found, .. }) if vocab > 5 => {
                assert!(field.starts_with("entries[0].steps[0].args[1] ("), "{field}");
                assert_eq!(found, expected);
            }
            found => assert!(found.is_ok() && vocab <= 5, "{vocab}: {found:?}"),
        }
    }
}

/// A table of one number is a table, too.
#[test]
fn the_only_row_is_of_the_only_token() {
    for (kind, vocab) in TargetKind::ALL.into_iter().flat_map(|kind| [1, 2, 5].map(|vocab| (kind, vocab))) {
        let (mut manifest, mut program) = of(kind);
        manifest.model.head = Head::Scores { labels: vec![String::new(); 5], activation: Activation::Identity };
        manifest.model.vocab = vocab;
        let bias = &mut program.weights[1];
        bias.layout = Layout::in_panels(1, 1, 1, bias.layout.lanes);
        (bias.parts[0].rows, bias.bytes) = (1, bias.layout.bytes(bias.format).unwrap());
        let table = Operand::Weight(WeightShape::of(bias));
        for entry in &mut program.entries {
            entry.steps[0].args[1] = Arg::Weight(1);
        }
        program.kernels[0].operands[1] = table.clone();
        if kind == TargetKind::Cpu {
            // A kernel that no token indexes takes the number, too, and may.
            program.kernels[1].operands[3] = table;
        }
        match check(&manifest, kind, &program) {
            Err(PlanError::Record { field, expected, .. }) if vocab > 1 => {
                assert!(field.starts_with("entries[0].steps[0].args[1] ("), "{field}");
                assert_eq!(expected, format!("a weight of {vocab} rows, the vocabulary"));
            }
            found => assert!(found.is_ok() && vocab == 1, "{kind:?} {vocab}: {found:?}"),
        }
    }
}

#[test]
fn buffers_are_the_values_of_the_steps() {
    let buffer = |change: fn(&mut Buffer)| refusal(|p| change(&mut p.entries[1].buffers[0]));
    for change in [
        (|buffer| buffer.reads = 2) as fn(&mut Buffer),
        |buffer| buffer.reads = 0,
        |buffer| buffer.last = 0,
        |buffer| buffer.first = 1,
        |buffer| buffer.bytes = 128,
        |buffer| buffer.offset = 64,
    ] {
        assert_eq!(buffer(change), "entries[1].buffers[0]");
    }
    assert_eq!(refusal(|p| drop(p.entries[0].buffers.pop())), "entries[0].buffers");
    assert_eq!(refusal(|p| p.entries[0].buffers.extend_from_within(..1)), "entries[0].buffers[2]");
}

#[test]
fn entries_use_the_same_weights_and_states() {
    assert_eq!(refusal(|p| p.entries[1].steps[1].source = "layers.1.mamba".to_owned()), "entries[1].steps");
    // Both weights have the same shape.
    let twin = |p: &mut Program| {
        let mut weight = p.weights[1].clone();
        (weight.offset, weight.parts[0].parameter) = (128, "twin".to_owned());
        p.weights.push(weight);
    };
    assert_eq!(refusal(twin), "accepted");
    let in_one_entry = |p: &mut Program| {
        twin(p);
        p.entries[1].steps[1].args[3] = Arg::Weight(2);
    };
    assert_eq!(refusal(in_one_entry), "entries[1].steps");
}

#[test]
fn entries_use_the_parameters_of_a_layer_in_the_same_order() {
    // Two weights of the same shape.
    let twice = |of_entry: [[u32; 2]; 2]| {
        move |p: &mut Program| {
            let mut weight = p.weights[1].clone();
            (weight.offset, weight.parts[0].parameter) = (128, "twin".to_owned());
            p.weights.push(weight);
            let operand = p.kernels[1].operands[3].clone();
            p.kernels[1].operands.push(operand);
            for (entry, [first, second]) in p.entries.iter_mut().zip(of_entry) {
                entry.steps[1].args[3] = Arg::Weight(first);
                entry.steps[1].args.push(Arg::Weight(second));
            }
        }
    };
    assert_eq!(refusal(twice([[1, 2], [1, 2]])), "accepted");
    assert_eq!(refusal(twice([[1, 2], [2, 1]])), "entries[1].steps");
}

/// `mix` as two steps, the second on a state that begins inside the first one's.
#[test]
fn states_are_the_same_or_apart() {
    let again = |at: u64| {
        move |p: &mut Program| {
            p.kernels[1].operands[2] = Operand::Kv(Access::ReadWrite, Elem::F32, 16);
            let mut second = p.kernels[1].clone();
            second.symbol = "mix_again".to_owned();
            second.operands[2] = Operand::Kv(Access::ReadWrite, Elem::F32, 32);
            second.operands[0] = Operand::Value(Access::WriteOver, rows(Elem::F32, 8, 4));
            second.operands[5] = Operand::Value(Access::Read, rows(Elem::F32, 8, 4));
            p.kernels.push(second);
            for entry in &mut p.entries {
                let mut step = entry.steps[1].clone();
                (step.kernel, step.args[2], step.args[5]) = (2, Arg::Kv(at), Arg::Arena(64));
                entry.steps.push(step);
                (entry.buffers[1].last, entry.buffers[1].reads) = (2, 1);
                let over = Buffer { first: 2, last: 2, reads: 0, in_place_of: Some(1), ..entry.buffers[1].clone() };
                entry.buffers.push(over);
            }
        }
    };
    assert_eq!(refusal(again(0)), "entries: states");
    assert_eq!(refusal(again(64)), "entries[0].steps[2].args[2]");
    // The second step writes its logits over those of the first, as it may; with the same region of keys it is sound.
    let sound = |p: &mut Program| {
        again(64)(p);
        p.kernels[2].operands[2] = Operand::Kv(Access::Read, Elem::F32, 16);
    };
    assert_eq!(refusal(sound), "accepted");
    let not_over = |p: &mut Program| {
        sound(p);
        p.kernels[2].operands[0] = Operand::Value(Access::Write, rows(Elem::F32, 8, 4));
    };
    assert_eq!(refusal(not_over), "entries[0].steps[2].args[0]");
}

#[test]
fn scales_belong_to_the_integers_before_them() {
    let of_integers = |change: fn(&mut Program)| {
        refusal(move |p: &mut Program| {
            let layout = crate::format::Layout::in_panels(1, 8, 8, 8);
            let (scales, format) = layout.scales(WeightFormat::Int8).unwrap();
            let weight = |offset: u64, layout: crate::format::Layout, format: WeightFormat, transform: Transform| {
                let (parts, bytes) = (vec![fixture::part("i", 8)], layout.bytes(format).unwrap());
                crate::format::Weight { parts, offset, bytes, layout, format, transform, ..p.weights[0].clone() }
            };
            let weights = [
                weight(0, scales, format, Transform::Scale(WeightFormat::Int8)),
                weight(64, layout, WeightFormat::Int8, Transform::None),
            ];
            p.weights = weights.to_vec();
            p.kernels[0].operands[1] = Operand::Weight(WeightShape::of(&weights[1]));
            p.kernels[1].operands[3] = Operand::Weight(WeightShape::of(&weights[1]));
            p.kernels[1].operands[4] = Operand::Scales;
            for entry in &mut p.entries {
                entry.steps[0].args[1] = Arg::Weight(1);
                (entry.steps[1].args[3], entry.steps[1].args[4]) = (Arg::Weight(1), Arg::Weight(0));
            }
            change(p);
        })
    };
    assert_eq!(of_integers(|_| ()), "accepted");
    assert_eq!(of_integers(|p| p.entries[0].steps[1].args[4] = Arg::Weight(1)), "entries[0].steps[1].args[4]");
    assert_eq!(of_integers(|p| p.kernels[1].operands.swap(3, 4)), "entries[0].steps[1].args[3]");
}

//! A valid schedule, corrupted in one place at a time. Each corruption violates the expected invariant.

use jambac_graph::DType;
use jambac_models::tiny::Tiny;
use jambac_passes::{Fusion, PassManager};

use jamba_plan::format::{Buffer, Count, Init, Part, PartOrder, Table, TargetKind, Transform, Weight, WeightFormat};

use super::*;
use crate::tests::{entries, limits, of_model, on_hopper};
use crate::{Formats, Options};

/// A Mamba layer with an MLP and an attention layer with experts.
fn sound() -> Schedule {
    let tiny = Tiny { layers: 2, attention: (2, 1), moe: (2, 1), ..Tiny::base() };
    let config = tiny.config().expect("a config");
    of_model(&config, DType::Bf16, limits(8, 3, 2), Formats::default()).expect("a schedule")
}

/// Corrupts the schedule and checks the invariant and the message that the checker reports.
fn check(expected: u8, complaint: &str, change: impl FnOnce(&mut Schedule)) {
    let mut schedule = sound();
    verify(&schedule).expect("the schedule is sound before it is broken");
    change(&mut schedule);
    match verify(&schedule) {
        Err(ScheduleError::Broken { invariant, message, .. }) => {
            assert_eq!((invariant, &*message), (expected, complaint))
        }
        other => panic!("{other:?}, expected invariant {expected} to be broken"),
    }
}

/// The index of the first prefill step of an op.
fn step_of(schedule: &Schedule, op: &str) -> usize {
    let mut steps = schedule.program.entries[0].steps.iter();
    steps.position(|step| schedule.kernels[step.kernel as usize].op == op).expect("the model has such a step")
}

/// The first prefill step of an op.
fn step<'a>(schedule: &'a mut Schedule, op: &str) -> &'a mut Step {
    let index = step_of(schedule, op);
    &mut schedule.program.entries[0].steps[index]
}

/// A slot of the prefill step `index`, by name.
fn slot_at<'a>(schedule: &'a mut Schedule, index: usize, name: &str) -> &'a mut Arg {
    let operands = schedule.operands(&schedule.program.entries[0].steps[index]);
    let slot = operands.iter().position(|operand| operand.name() == name);
    &mut schedule.program.entries[0].steps[index].args[slot.expect("the kernel has such a slot")]
}

/// A slot of the first prefill step of an op, by name.
fn slot<'a>(schedule: &'a mut Schedule, op: &str, name: &str) -> &'a mut Arg {
    let index = step_of(schedule, op);
    slot_at(schedule, index, name)
}

/// Moves a prefill buffer: its record and all arguments that address it.
fn move_buffer(schedule: &mut Schedule, id: usize, to: u64) {
    let Buffer { offset, first, last, .. } = schedule.program.entries[0].buffers[id];
    for index in first as usize..=last as usize {
        let entry = &schedule.program.entries[0];
        let touches = |access| buffer_at(entry, index, offset, access) == Some(id);
        let operands = schedule.operands(&entry.steps[index]).iter();
        let moved: Vec<bool> = operands.map(|operand| operand.param.access().is_some_and(touches)).collect();
        for (arg, moved) in schedule.program.entries[0].steps[index].args.iter_mut().zip(moved) {
            if moved && *arg == Arg::Arena(offset) {
                *arg = Arg::Arena(to);
            }
        }
    }
    schedule.program.entries[0].buffers[id].offset = to;
}

#[test]
fn kernels() {
    check(1, "embed_bf16_d64_l1 comes twice", |schedule| schedule.kernels.push(schedule.kernels[0].clone()));
    check(1, "kernel 1000 of 35", |schedule| step(schedule, "linear").kernel = 1000);
    check(1, "the record of embed_bf16_d64_l1 is None", |schedule| schedule.program.kernels.clear());
    // The kernel of another step, whose operands do not match the arguments.
    check(2, "4 arguments, expected 9", |schedule| step(schedule, "linear").kernel = 5);
}

#[test]
fn arguments() {
    check(2, "2 arguments, expected 3", |schedule| step(schedule, "softmax").args.truncate(2));
    check(2, r#"slot rows is Arena(0), expected what Scalar { name: "rows" } takes"#, |schedule| {
        *slot(schedule, "softmax", "rows") = Arg::Arena(0)
    });
    check(
        2,
        r#"slot x is Constant(8), expected what Buffer { name: "x", access: Read, elem: F32, inner: [16] } takes"#,
        |schedule| *slot(schedule, "softmax", "x") = Arg::Constant(8),
    );
    check(
        2,
        r#"slot ids is Table(Rows), expected what Buffer { name: "ids", access: Read, elem: I32, inner: [] } takes"#,
        |schedule| *slot(schedule, "embed", "ids") = Arg::Table(Table::Rows),
    );
    check(2, r#"slot tokens is Count(Sequences, 1), expected what Scalar { name: "tokens" } takes"#, |schedule| {
        *slot(schedule, "attention", "tokens") = Arg::Count(Count::Sequences, 1)
    });
}

#[test]
fn weights() {
    check(3, "offset 65472, expected a multiple of 64 from 65536 on", |schedule| {
        schedule.program.weights[1].offset -= 64
    });
    check(3, "257 bytes, expected 256 by its layout", |schedule| schedule.program.weights[1].bytes += 1);
    check(3, "64 rows, expected 63 of 1 parts", |schedule| schedule.program.weights[1].parts[0].rows -= 1);
    check(3, "0 rows, expected 0 of 0 parts", |schedule| {
        let weight = &mut schedule.program.weights[1];
        (weight.layout.n, weight.bytes) = (0, 0);
        weight.parts.clear();
    });
    check(3, "interleaved parts of [64, 60] rows, expected as many in each", |schedule| {
        let weight = &mut schedule.program.weights[1];
        weight.parts.push(Part {
            parameter: "other".into(),
            first_row: 0,
            rows: 60,
            init: Init::Normal { mean: 0.0, std: 1.0 },
        });
        weight.order = PartOrder::Interleaved;
        (weight.layout.n, weight.bytes) = (128, 512);
    });
    check(3, "they end at 479168, expected at most 479104", |schedule| schedule.memory.weights -= 64);
    check(
        3,
        "weight 0 is laid out as Layout { groups: 1, n: 512, k: 64, lanes: 1, order: Panels }, expected Layout { groups: 1, n: 256, k: 64, lanes: 16, order: Panels }",
        |schedule| *slot(schedule, "linear", "weight") = Arg::Weight(0),
    );
    check(
        3,
        "weight 1 is laid out as Layout { groups: 1, n: 64, k: 1, lanes: 16, order: Panels }, expected Layout { groups: 1, n: 128, k: 16, lanes: 16, order: Panels }",
        |schedule| *slot(schedule, "selective_scan", "a") = Arg::Weight(1),
    );
}

#[test]
fn weights_of_parts() {
    let check = |complaint: &str, op: &str, break_it: fn(&mut Weight)| {
        let mut graphs = entries(&Tiny::base().config().expect("a config"), DType::Bf16);
        for graph in [&mut graphs.0, &mut graphs.1] {
            PassManager::new(&Fusion::All).run(graph).expect("the passes run");
        }
        let options = Options { kind: TargetKind::Cpu, limits: limits(40, 3, 5), formats: Formats::default() };
        let mut schedule = crate::schedule(&graphs.0, &graphs.1, &options).expect("a schedule");
        let Arg::Weight(index) = *slot(&mut schedule, op, "weight") else { panic!("{op} reads a weight") };
        break_it(&mut schedule.program.weights[index as usize]);
        let error = verify(&schedule).expect_err(complaint).to_string();
        assert!(error.contains(complaint), "{error}");
    };
    // The number of panels matches, but the parts are not the kernel's outputs.
    check("parts of [121, 128] rows, Stacked, expected [128, 128], Stacked", "split_linear", |weight| {
        weight.parts[0].rows = 121
    });
    check("Stacked, expected [128, 128], Interleaved", "linear_swiglu", |weight| weight.order = PartOrder::Stacked);
}

#[test]
fn scales() {
    let tiny = Tiny { layers: 1, ..Tiny::base() };
    let formats = Formats { linear: Some(WeightFormat::Int4), ..Formats::default() };
    let sound = of_model(&tiny.config().expect("a config"), DType::Bf16, limits(8, 3, 2), formats).expect("a schedule");
    let refused = |change: fn(&mut Schedule)| {
        let mut schedule = sound.clone();
        change(&mut schedule);
        verify(&schedule).expect_err("scales are spoilt").to_string()
    };
    let spoilt: [fn(&mut Schedule); 3] = [
        |schedule| *slot(schedule, "linear", "scales") = Arg::Weight(0),
        |schedule| schedule.program.weights[2].transform = Transform::Scale(WeightFormat::Int8),
        |schedule| schedule.program.weights[2].parts[0].parameter = "other".into(),
    ];
    for change in spoilt {
        let message = refused(change);
        assert!(
            message.contains(
                "expected (Layout { groups: 1, n: 256, k: 2, lanes: 16, order: Panels }, Bf16, Scale(Int4)) of"
            ),
            "{message}"
        );
    }
}

#[test]
fn states() {
    check(4, "it shares bytes with state layers.0.conv", |schedule| schedule.states[1].offset -= 64);
    check(4, "8192 bytes at 1536, expected inside the 9664 bytes of its pool on a multiple of 64", |schedule| {
        schedule.memory.state_slot -= 64
    });
    check(4, "no state is at State(64)", |schedule| *slot(schedule, "causal_conv1d", "state") = Arg::State(64));
    check(4, "slot slot_stride is Constant(1), expected 2432", |schedule| {
        *slot(schedule, "causal_conv1d", "slot_stride") = Arg::Constant(1)
    });
    check(4, "slot page_stride is Constant(1), expected 1024", |schedule| {
        *slot(schedule, "kv_append", "page_stride") = Arg::Constant(1)
    });
    check(4, "slot pages_per_sequence is Constant(1), expected 7", |schedule| {
        *slot(schedule, "attention", "pages_per_sequence") = Arg::Constant(1)
    });
}

#[test]
fn buffers() {
    check(5, "offset 16388, expected a multiple of 64", |schedule| schedule.program.entries[0].buffers[0].offset += 4);
    check(5, "20 bytes at 21056, expected some inside the arena's 21056", |schedule| schedule.memory.arena -= 64);
    check(5, "live from step 0 to 1000 of 53", |schedule| schedule.program.entries[0].buffers[0].last = 1000);
    check(5, "written by step 0, before b0", |schedule| schedule.program.entries[0].buffers.swap(0, 1));
}

#[test]
fn dataflow() {
    // An address without a live buffer.
    check(6, "slot x: no buffer at 1048576 lives now and was written before", |schedule| {
        *slot(schedule, "softmax", "x") = Arg::Arena(1 << 20)
    });
    // A read after the buffer's last step.
    check(6, "slot x: no buffer at 8192 lives now and was written before", |schedule| {
        schedule.program.entries[0].buffers[1].last -= 1
    });
    // Rows of a different length.
    check(6, "b0 has 1984 bytes, which rows of 256 do not divide", |schedule| {
        schedule.program.entries[0].buffers[0].bytes -= 64
    });
    // A buffer that no step writes.
    check(6, "no step writes it", |schedule| {
        let buffers = &mut schedule.program.entries[0].buffers;
        let last = buffers.last().cloned().expect("buffers");
        buffers.push(last);
    });
}

#[test]
fn apart() {
    // The normed rows overlap the residual stream.
    check(7, "it shares bytes with b0, which is live at the same time", |schedule| {
        move_buffer(schedule, 1, schedule.program.entries[0].buffers[0].offset)
    });
    // The first result that overwrites an operand, with an additional later read of that operand.
    check(7, "it shares bytes with b5, which is live at the same time", |schedule| {
        let buffers = &mut schedule.program.entries[0].buffers;
        let operand = buffers.iter().find_map(|buffer| buffer.in_place_of).expect("a result in place");
        buffers[operand as usize].last += 1;
    });
}

#[test]
fn every_barrier_is_needed() {
    // In decode, the arena size that prefill needs suffices without barriers that save memory.
    let n_steps = sound().program.entries[1].steps.len();
    for index in 0..n_steps {
        let mut schedule = sound();
        let step = &mut schedule.program.entries[1].steps[index];
        if std::mem::take(&mut step.barrier) {
            let error = verify(&schedule).expect_err("a barrier was taken away").to_string();
            assert!(error.contains("no barrier between it and step") && error.ends_with("(invariant 8)"), "{error}");
        }
    }
}

#[test]
fn memory_that_is_used_again_waits() {
    // Two buffers of a run share bytes although neither is read by the other's step.
    check(8, "no barrier between it and step 32, and one writes what the other touches", |schedule| {
        let append = step_of(schedule, "kv_append");
        let v_proj = append - 1;
        let buffers = &schedule.program.entries[0].buffers;
        let written_by =
            |step: usize| buffers.iter().position(|buffer| buffer.first as usize == step).expect("a result");
        let (k, v) = (written_by(v_proj - 1), written_by(v_proj));
        let to = buffers[k].offset;
        // As if no step read the keys again, so that their bytes appear free.
        *slot_at(schedule, append, "k") = *slot_at(schedule, append, "v");
        schedule.program.entries[0].buffers[k].last = v_proj as u32 - 1;
        move_buffer(schedule, v, to);
    });
}

#[test]
fn logits() {
    check(9, "no buffer that lives to the end holds bytes 64 … 4160", |schedule| {
        schedule.program.entries[0].logits.offset += 64
    });
    check(9, "rows of 64 bytes for 512 f32", |schedule| schedule.program.entries[0].logits.row_stride = 64);
}

#[test]
fn tokens_are_picked_from_the_logits() {
    let tiny = Tiny { layers: 1, ..Tiny::base() };
    let sound = on_hopper(&tiny.config().expect("a config"), limits(8, 3, 2), Formats::default()).expect("a schedule");
    let complaint = |change: fn(&mut Entry)| {
        let mut schedule = sound.clone();
        change(&mut schedule.program.entries[0]);
        match super::picks::picks(&schedule, &schedule.program.entries[0]) {
            Err(ScheduleError::Broken { invariant: 9, message, .. }) => message,
            other => panic!("{other:?}, expected invariant 9 to be broken"),
        }
    };
    assert!(complaint(|entry| entry.picks = None).starts_with("none, and 2 steps that pick, expected [(Likeliest"));
    assert!(complaint(|entry| entry.steps.clear()).starts_with("steps [], expected [(Likeliest"));
    assert!(complaint(|entry| drop(entry.steps.pop())).starts_with("steps [(Likeliest"));
    let other_vocabulary = complaint(|entry| entry.logits.n += 1);
    assert!(other_vocabulary.contains("v512") && other_vocabulary.contains("v513"), "{other_vocabulary}");
    assert!(complaint(|entry| entry.logits.offset += 128).starts_with("from Some(Arena("));
    assert!(complaint(|entry| entry.picks.iter_mut().for_each(|picks| picks.drawn += 128)).contains("to Some(Arena("));
    assert_eq!(complaint(|entry| entry.max_outputs += 1), "tokens in Some(8) bytes, expected 12");
    let on_a_cpu = Schedule { kind: TargetKind::Cpu, ..sound.clone() };
    assert!(super::picks::picks(&on_a_cpu, &sound.program.entries[0]).is_err());
}

#[test]
fn memory() {
    check(10, "576 bytes, expected 512 by the limits", |schedule| schedule.memory.tables += 64);
    check(10, "21121 bytes, expected a multiple of 64", |schedule| schedule.memory.arena += 1);
    check(10, "[Prefill], expected prefill, then decode of [3] sequences", |schedule| {
        schedule.program.entries.truncate(1)
    });
}

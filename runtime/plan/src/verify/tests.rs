//! Violates every rule once.

use super::*;
use crate::fixture;
use crate::format::{
    Activation, Arg, Blocks, Count, DrawKernel, Head, Launch, Matrix, MatrixBoxes, Operand, Pick, Picks, Table,
    WeightFormat, WeightShape,
};
use crate::reader::Plan;

type Spoil = fn(&mut Manifest, &mut Program);

/// One violation per rule of this file; a key such as `entries[1].steps[0]` names the invalid field.
const CASES: &[(&str, Spoil)] = &[
    ("model.vocab", |m, _| m.model.vocab = 0),
    ("model.head", |m, _| m.model.head = Head::Scores { labels: Vec::new(), activation: Activation::Softmax }),
    ("model.bos", |m, _| m.model.bos = Some(5)),
    ("limits.max_context", |m, _| m.limits.max_context = 1 << 31),
    ("limits.kv_tokens", |m, _| m.limits.kv_tokens = 120),
    ("cpu.limits.kv_tokens", |m, _| m.limits.kv_tokens = 0),
    ("limits.max_outputs", |m, _| m.limits.max_outputs = 0),
    ("cpu.memory.arena", |m, _| m.programs[0].memory.arena = 250),
    ("cpu.memory.state_slot", |m, _| m.programs[0].memory.state_slot = 65),
    ("cpu.memory.kv_page", |m, _| m.programs[0].memory.kv_page = 32),
    ("cpu.memory.tables", |m, _| m.programs[0].memory.tables += 64),
    ("cpu.memory.tables", |m, _| m.limits.prefill_chunk = 80),
    ("cpu.memory.weights", |m, _| m.programs[0].memory.weights += 64),
    ("cpu.memory", |m, _| m.programs[0].memory.state_slot = 1 << 63),
    ("cpu.targets", |m, _| m.programs[0].targets = vec!["x86-64-v3".to_owned(); 2]),
    ("cpu.targets", |m, _| m.programs[0].targets = vec!["sm_90a".to_owned()]),
    ("programs", |m, _| m.programs.swap(0, 1)),
    ("programs", |m, _| m.programs[1].kind = TargetKind::Cpu),
    ("kernels[1].symbol", |_, p| p.kernels[1].symbol = "embed_bf16".to_owned()),
    ("kernels[0].symbol", |_, p| p.kernels[0].symbol = "embed\0".to_owned()),
    ("kernels[0].operands", |_, p| p.kernels[0].operands = vec![Operand::Constant(0); 65]),
    ("weights[1].offset", |_, p| p.weights[1].offset = 65),
    ("weights[1].offset", |_, p| p.weights[1].offset = 0),
    ("weights[1].bytes", |_, p| p.weights[1].bytes = 48),
    ("weights[1].bytes", |_, p| p.weights[1].offset = 192),
    ("weights[0].bytes", |_, p| p.weights[0].format = WeightFormat::F32),
    ("weights[0].layout", |_, p| p.weights[0].layout.lanes = 0),
    ("weights[0].layout", |_, p| p.weights[0].layout = Layout::in_panels(1 << 40, 1 << 40, 1, 1)),
    ("weights[0].layout", |_, p| p.weights[0].parts.clear()),
    ("weights[0].layout", |_, p| p.weights[0].parts[0].rows = 4),
    ("weights[0].layout", |_, p| p.weights[0].parts = vec![fixture::part("a", 8), fixture::part("b", 1)]),
    ("weights[0].parts[0].rows", |_, p| p.weights[0].parts[0].rows = 0),
    ("weights[0].parts[0].rows", |_, p| p.weights[0].parts[0].first_row = u64::MAX),
    ("weights[0].parts[0].rows", |_, p| p.weights[0].parts[0].rows = u64::MAX),
    ("weights[0].parts[0].rows", |_, p| p.weights[0].parts[0].first_row = i64::MAX as u64),
    ("weights[0].parts[1].rows", |_, p| {
        p.weights[0].order = PartOrder::Interleaved;
        p.weights[0].parts.push(fixture::part("b", 4));
    }),
    ("weights[1].parts[0].first_row", |_, p| {
        let weight = &mut p.weights[1];
        (weight.layout.groups, weight.bytes, weight.parts[0].first_row) = (2, 64, 3);
    }),
    ("weights[0].parts[0].init", |_, p| p.weights[0].parts[0].init = Init::Normal { mean: 0.0, std: f32::NAN }),
    ("entries: decode", |_, p| p.entries.truncate(1)),
    ("entries: prefill", |_, p| p.entries[1].kind = EntryKind::Prefill),
    ("entries[0].max_tokens", |_, p| p.entries[0].max_tokens = 9),
    ("entries[1].max_sequences", |_, p| p.entries[1].max_sequences = 3),
    ("entries[1].max_outputs", |_, p| p.entries[1].max_outputs = 0),
    ("entries[0].logits.n", |_, p| p.entries[0].logits.n = 4),
    ("entries[0].logits.offset", |_, p| p.entries[0].logits.offset = 68),
    ("entries[0].logits.offset", |_, p| p.entries[0].logits.offset = 192),
    ("entries[0].logits.row_stride", |_, p| p.entries[0].logits.row_stride = 16),
    ("entries[0].steps[1].kernel", |_, p| p.entries[0].steps[1].kernel = 2),
    ("entries[1].steps[0].args", |_, p| p.entries[1].steps[0].args.truncate(3)),
    ("entries[1].steps[0].args[2]", |_, p| p.entries[1].steps[0].args[2] = Arg::Arena(256)),
    ("entries[1].steps[0].args[2]", |_, p| p.entries[1].steps[0].args[2] = Arg::Arena(3)),
    ("entries[1].steps[1].args[1]", |_, p| p.entries[1].steps[1].args[1] = Arg::State(64)),
    ("entries[1].steps[1].args[2]", |_, p| p.entries[1].steps[1].args[2] = Arg::Kv(128)),
    ("entries[1].steps[1].args[3]", |_, p| p.entries[1].steps[1].args[3] = Arg::Weight(2)),
    ("entries[0].steps[1].cost", |_, p| p.entries[0].steps[1].cost.bytes.tokens = f64::INFINITY),
    ("entries[0].steps[1].cost", |_, p| p.entries[0].steps[1].cost.operations.constant = -1.0),
    ("entries[0].buffers[1]", |_, p| p.entries[0].buffers[1].offset = 255),
    ("entries[0].buffers[1]", |_, p| p.entries[0].buffers[1].last = 2),
    ("entries[1].buffers[0]", |_, p| p.entries[1].buffers[0].first = 2),
    ("entries[1].buffers[1]", |_, p| p.entries[1].buffers[1].in_place_of = Some(1)),
    ("entries: decode", |_, p| p.entries.push(p.entries[1].clone())),
    ("entries[0].steps[0].args[0]", |_, p| p.entries[0].steps[0].args[0] = Arg::TensorMap(0)),
    ("entries[1].steps[1].launch", |_, p| {
        p.entries[1].steps[1].launch = Some(Launch::along_x(Blocks::Fixed(1), 32, 0))
    }),
    ("tensor_maps", |_, p| p.tensor_maps.push(fixture::sm_90a::program().tensor_maps[0])),
    ("entries[0].steps[0].args[0]", |_, p| p.entries[0].steps[0].args[0] = Arg::Table(Table::Settings)),
    ("entries[1].picks", |_, p| p.entries[1].picks = fixture::sm_90a::program().entries[1].picks),
];

/// Rules for GPU programs.
const SM_90A: &[(&str, Spoil)] = &[
    ("sm_90a.memory.arena", |m, _| m.programs[1].memory.arena = 320),
    ("cpu.memory.graphs", |m, _| m.programs[0].memory.graphs = 1),
    ("sm_90a.memory.graphs", |m, _| m.programs[1].memory.graphs -= 1),
    ("sm_90a.memory.tables", |m, _| m.programs[1].memory.tables -= 128),
    ("sm_90a.memory.tables", |m, _| m.programs[1].memory.tables = 0),
    ("sm_90a.targets", |m, _| m.programs[1].targets[0] = "x86-64-v4".to_owned()),
    ("weights[1].offset", |_, p| p.weights[1].offset = 512 + 64),
    ("weights[0].layout", |_, p| p.weights[0].layout = Layout::in_rows(1, 5, 3, 2, (64, 64))),
    ("entries: decode", |_, p| p.entries.truncate(1)),
    ("entries: decode", |_, p| p.entries.swap(1, 2)),
    ("entries[2].max_tokens", |_, p| p.entries[2].max_tokens = 9),
    ("entries[0].steps[1].args[0]", |_, p| p.entries[0].steps[1].args[0] = Arg::TensorMap(2)),
    ("entries[0].steps[0].launch", |_, p| p.entries[0].steps[0].launch = None),
    ("entries[0].steps[0].launch", |_, p| spoil_launch(p, |launch| launch.threads = 0)),
    ("entries[0].steps[0].launch", |_, p| spoil_launch(p, |launch| launch.threads = 48)),
    ("entries[0].steps[0].launch", |_, p| spoil_launch(p, |launch| launch.threads = 2048)),
    ("entries[0].steps[0].launch", |_, p| spoil_launch(p, |launch| launch.shared_bytes = 232_449)),
    ("entries[0].steps[0].launch", |_, p| spoil_launch(p, |launch| launch.grid[2] = Blocks::Fixed(0))),
    ("entries[0].steps[0].launch", |_, p| spoil_launch(p, |launch| launch.grid[1] = Blocks::PerSm(100))),
    ("entries[0].steps[0].launch", |_, p| {
        spoil_launch(p, |launch| {
            launch.grid[1] = Blocks::Of { count: Count::Tokens, factor: 100_000, per_block: 1 };
        });
    }),
    ("entries[0].steps[0].launch", |_, p| {
        spoil_launch(p, |launch| launch.grid[0] = Blocks::Of { count: Count::Tokens, factor: 1, per_block: 0 });
    }),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.likeliest = 384)),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.likeliest = 372)),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.likeliest = u64::MAX)),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.drawn = 256)),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.drawn = 244)),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.drawn = 130)),
    ("entries[0].picks", |_, p| spoil_picks(p, |picks| picks.drawn = 132)),
    ("entries[0].picks", |_, p| {
        p.entries[0].steps.truncate(1);
        p.entries[0].buffers.clear();
    }),
    ("entries[0].picks", |_, p| p.entries[0].steps[2].pick = Some(Pick::Drawn)),
    ("entries[0].picks", |_, p| p.entries[0].steps[2].pick = None),
    ("entries[0].steps[2].pick", |_, p| p.entries[0].picks = None),
    ("entries[0].steps[0].rows", |_, p| p.entries[0].steps[0].rows.count = Count::Sequences),
    ("entries[0].steps[1].rows", |_, p| p.entries[0].steps[1].rows.per = 0),
    ("entries[0].picks", |_, p| p.entries[0].steps[2].args[0] = Arg::Arena(260)),
    ("entries[0].picks", |_, p| p.entries[0].steps[3].args[1] = Arg::Table(Table::Pages)),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].base = Arg::Constant(0)),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].base = Arg::Weight(2)),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].rows = 65),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].rows = 0),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].cols = 1 << 40),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].row_stride = 8),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].box_rows = 257),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].box_cols = 3),
    ("tensor_maps[0]", |_, p| p.tensor_maps[0].box_cols = 72),
    ("tensor_maps[1]", |_, p| p.tensor_maps[1].base = Arg::Arena(8)),
    ("tensor_maps[1]", |_, p| p.tensor_maps[1].rows = 1 << 20),
];

/// Rules for kernels that draw weights.
const DRAWN: &[(&str, Spoil)] = &[
    ("sm_90a.draw_kernels", |m, _| m.synthetic_seed = None),
    ("cpu.draw_kernels", |m, _| m.programs[0].draw_kernels = m.programs[1].draw_kernels.clone()),
    ("sm_90a.draw_kernels[0].symbol", |m, _| m.programs[1].draw_kernels[0].symbol = "mix_sm90".to_owned()),
    ("sm_90a.draw_kernels[0].symbol", |m, _| m.programs[1].draw_kernels[0].symbol = "a name".to_owned()),
    ("sm_90a.draw_kernels[1].symbol", |m, _| m.programs[1].draw_kernels[1].symbol = "draw_bf16".to_owned()),
    ("sm_90a.draw_kernels[1].format", |m, _| m.programs[1].draw_kernels[1].format = WeightFormat::Bf16),
    ("sm_90a.draw_kernels[0].launch", |m, _| m.programs[1].draw_kernels[0].launch.threads = 40),
    ("weights[1]", |m, _| m.programs[1].draw_kernels.truncate(1)),
    ("weights[1]", |m, _| m.programs[1].memory.weights = fixture::sm_90a::WEIGHT_BYTES),
    ("weights[0]", |_, p| {
        let weight = &mut p.weights[0];
        weight.layout = Layout::in_panels(1, 5, 3, 8);
        weight.bytes = weight.layout.bytes(weight.format).unwrap();
        p.kernels[0].operands[1] = Operand::Weight(WeightShape::of(weight));
        let row_stride = 32;
        let boxes = MatrixBoxes { cols: 16, row_stride, ..boxes_of(&p.kernels[1].operands[0]) };
        p.kernels[1].operands[0] = Operand::Matrix(boxes, Matrix::Weight(WeightShape::of(weight)));
        p.tensor_maps[0].rows = 1;
        (p.tensor_maps[0].row_stride, p.tensor_maps[0].cols) = (32, 16);
    }),
];

/// The fixture for a GPU only, with synthetic weights that kernels draw.
fn drawn() -> (Manifest, Program) {
    let (mut manifest, program) = (fixture::manifest(), fixture::sm_90a::program());
    manifest.synthetic_seed = Some(7);
    let kernel = |symbol: &str, format: WeightFormat| DrawKernel {
        symbol: symbol.to_owned(),
        format,
        launch: Launch::along_x(Blocks::PerSm(4), 256, 0),
    };
    manifest.programs[1].draw_kernels =
        vec![kernel("draw_bf16", WeightFormat::Bf16), kernel("draw_f32", WeightFormat::F32)];
    manifest.programs[1].memory.weights = fixture::sm_90a::WEIGHT_BYTES + 4;
    (manifest, program)
}

#[test]
fn weights_are_drawn_by_kernels_that_can() {
    let check = |(manifest, program): (Manifest, Program)| {
        let cpu = super::program(&manifest, &manifest.programs[0], &fixture::program());
        cpu.and_then(|()| super::program(&manifest, &manifest.programs[1], &program))
    };
    check(drawn()).unwrap();
    for (expected, spoil) in DRAWN {
        let mut plan = drawn();
        spoil(&mut plan.0, &mut plan.1);
        assert_eq!(refusal_of(check(plan)).as_deref(), Some(*expected));
    }
}

fn spoil_launch(program: &mut Program, spoil: fn(&mut Launch)) {
    program.entries[0].steps[0].launch.iter_mut().for_each(spoil);
}

fn boxes_of(operand: &Operand) -> MatrixBoxes {
    match operand {
        Operand::Matrix(boxes, _) => *boxes,
        other => panic!("{other:?}"),
    }
}

fn spoil_picks(program: &mut Program, spoil: fn(&mut Picks)) {
    program.entries[0].picks.iter_mut().for_each(spoil);
}

#[test]
fn every_rule_has_a_plan_that_breaks_it() {
    // Digests take a second each under Miri.
    let every = if cfg!(miri) { 30 } else { 1 };
    for (expected, spoil) in CASES.iter().step_by(every) {
        let (mut manifest, mut program) = (fixture::manifest(), fixture::program());
        spoil(&mut manifest, &mut program);
        refused(expected, &fixture::write(&manifest, &program, &fixture::sm_90a::program()));
    }
    for (expected, spoil) in SM_90A.iter().step_by(every) {
        let (mut manifest, mut program) = (fixture::manifest(), fixture::sm_90a::program());
        spoil(&mut manifest, &mut program);
        refused(expected, &fixture::write(&manifest, &fixture::program(), &program));
    }
}

fn refused(expected: &str, plan: &[u8]) {
    match Plan::parse(plan) {
        Err(PlanError::Record { field, .. }) if field.split(" (").next() == Some(expected) => {}
        Err(other) => panic!("{expected}: {other}"),
        Ok(_) => panic!("{expected}: accepted"),
    }
}

#[test]
fn code_and_targets_must_agree() {
    let bytes = fixture::plan();
    let plan = Plan::parse(&bytes).unwrap();
    let mut manifest = fixture::manifest();
    manifest.programs[0].targets.push("x86-64-v4".to_owned());
    let error = sections(&manifest, plan.sections()).unwrap_err();
    assert_eq!(error.section(), Some("code/x86-64-v4"));
    manifest.programs[0].targets.truncate(1);
    let error = sections(&manifest, plan.sections()).unwrap_err();
    assert!(error.to_string().contains("x86-64-v2"), "{error}");
}

#[test]
fn a_seed_stands_in_for_the_weights() {
    let bytes = fixture::plan();
    let plan = Plan::parse(&bytes).unwrap();
    let mut manifest = fixture::manifest();
    manifest.synthetic_seed = Some(1);
    assert!(sections(&manifest, plan.sections()).unwrap_err().to_string().contains("synthetic"));
    let but = |name: &str| -> Vec<Section> {
        plan.sections().iter().filter(|section| !section.name.starts_with(name)).cloned().collect()
    };
    let but_weights = but("weights");
    sections(&manifest, &but_weights).unwrap();
    manifest.synthetic_seed = None;
    assert_eq!(sections(&manifest, &but_weights).unwrap_err().section(), Some("weights"));
    assert_eq!(sections(&manifest, &but("weights/sm_90a")).unwrap_err().section(), Some("weights/sm_90a"));
    assert_eq!(sections(&manifest, &but("program/sm_90a")).unwrap_err().section(), Some("program/sm_90a"));
}

#[test]
fn a_plan_may_hold_one_kind_of_target_alone() {
    for kind in 0..2 {
        let mut manifest = fixture::manifest();
        manifest.programs.remove(1 - kind);
        let bytes = fixture::write(&manifest, &fixture::program(), &fixture::sm_90a::program());
        let plan = Plan::parse(&bytes).unwrap();
        assert_eq!(plan.programs().count(), 1);
        assert!(plan.program(TargetKind::ALL[kind]).is_some() && plan.program(TargetKind::ALL[1 - kind]).is_none());
    }
    let mut manifest = fixture::manifest();
    manifest.programs.truncate(1);
    let (bytes, other) = (fixture::plan(), fixture::write(&manifest, &fixture::program(), &fixture::sm_90a::program()));
    let (plan, other) = (Plan::parse(&bytes).unwrap(), Plan::parse(&other).unwrap());
    let error = sections(&manifest, plan.sections()).unwrap_err();
    assert!(error.to_string().contains("program/sm_90a"), "{error}");
    assert!(sections(&fixture::manifest(), other.sections()).is_err());
}

/// An integer weight with its scales, each corrupted once.
#[test]
fn integers_have_their_scales() {
    for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int3] {
        let layout = Layout::in_panels(1, 16, 40, 16);
        let (scales, scale_format) = layout.scales(format).unwrap();
        let weight = |offset: u64, layout: Layout, format: WeightFormat, transform: Transform| Weight {
            parts: vec![fixture::part("a", 16)],
            order: PartOrder::Stacked,
            offset,
            bytes: layout.bytes(format).unwrap(),
            layout,
            format,
            transform,
        };
        let pair =
            [weight(0, scales, scale_format, Transform::Scale(format)), weight(64, layout, format, Transform::None)];
        let mut manifest = fixture::manifest();
        manifest.programs[0].memory.weights = 2048;
        let refusal = |weights: Vec<Weight>| {
            let program = Program { weights, ..fixture::program() };
            let info = &manifest.programs[0];
            refusal_of(super::weights(against(&manifest, info, &program)))
        };
        assert_eq!(refusal(pair.to_vec()), None);
        assert_eq!(refusal(pair[1..].to_vec()).as_deref(), Some("weights[0].scales (a)"));
        assert_eq!(refusal(pair[..1].to_vec()).as_deref(), Some("weights[0].transform (a)"));
        let spoilt = |spoil: fn(&mut Weight)| {
            let mut pair = pair.to_vec();
            spoil(&mut pair[0]);
            refusal(pair)
        };
        assert_eq!(spoilt(|w| w.parts[0].parameter = "b".to_owned()).as_deref(), Some("weights[1].scales (a)"));
        assert_eq!(spoilt(|w| w.transform = Transform::None).as_deref(), Some("weights[1].scales (a)"));
        let of_floats = spoilt(|w| w.transform = Transform::Scale(WeightFormat::Bf16));
        assert_eq!(of_floats.as_deref(), Some("weights[0].transform (a)"));
    }
}

fn against<'a>(manifest: &'a Manifest, info: &'a ProgramInfo, program: &'a Program) -> Against<'a> {
    Against { model: &manifest.model, limits: &manifest.limits, info, program, section: "program" }
}

/// The invalid field, if any.
fn refusal_of(found: Result<(), PlanError>) -> Option<String> {
    match found {
        Err(PlanError::Record { field, .. }) => Some(field),
        Err(other) => panic!("{other}"),
        Ok(()) => None,
    }
}

//! Plans of models/tiny with one argument of one step changed are refused when they are opened, before any of their code is
//! mapped. The arguments that replace others are of every kind, at every address, count and index that the plan uses elsewhere,
//! and beside them.

use std::collections::BTreeSet;
use std::path::Path;

use jamba_plan::format::{Arg, Count, Manifest, Program, ProgramInfo, SLACK_BYTES, Table, TargetKind};
use jamba_plan::sections::SectionKind;
use jamba_plan::{Plan, PlanWriter, verify};
use jamba_runtime::{Engine, OpenOptions};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::{ModelFile, targets};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// Least number of changed arguments for each kind of target.
const LEAST: usize = 1_000;

fn plan_of(folder: &Path) -> Vec<u8> {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let mut model = ModelFile::open(&checkpoint).unwrap();
    model.build.targets = targets(&["x86-64-v3", "sm_90a"]).unwrap();
    let output = folder.join("tiny.plan");
    build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    std::fs::read(output).unwrap()
}

/// What may stand in place of an argument: what other steps have, and numbers around it.
fn others(program: &Program) -> Vec<Arg> {
    let steps = program.entries.iter().flat_map(|entry| &entry.steps);
    let mut all: BTreeSet<Arg> = steps.flat_map(|step| step.args.iter().copied()).collect();
    for arg in all.clone() {
        let near = |at: u64| [at ^ 2, at.wrapping_add(64), at.wrapping_sub(64), at.wrapping_add(1 << 20), u64::MAX - 1];
        match arg {
            Arg::Arena(at) => all.extend(near(at).map(Arg::Arena)),
            Arg::State(at) => all.extend(near(at).map(Arg::State)),
            Arg::Kv(at) => all.extend(near(at).map(Arg::Kv)),
            Arg::Constant(value) => all.extend(near(value).map(Arg::Constant)),
            Arg::Count(count, factor) => {
                all.extend([0, factor + 1, factor << 16, u32::MAX].map(|factor| Arg::Count(count, factor)));
            }
            Arg::Weight(_) | Arg::Table(_) | Arg::TensorMap(_) => {}
        }
    }
    all.extend([Count::Tokens, Count::Sequences, Count::Outputs].map(|count| Arg::Count(count, 1)));
    all.extend(Table::ALL.into_iter().chain([Table::Settings]).map(Arg::Table));
    all.extend([Arg::Weight(u32::MAX), Arg::TensorMap(0), Arg::TensorMap(u32::MAX)]);
    all.into_iter().collect()
}

/// The error for the program with one argument changed.
fn refusal(
    (manifest, info): (&Manifest, &ProgramInfo),
    program: &mut Program,
    (entry, step, slot): (usize, usize, usize),
    arg: Arg,
) -> Option<jamba_plan::PlanError> {
    let place =
        |program: &mut Program, arg: Arg| std::mem::replace(&mut program.entries[entry].steps[step].args[slot], arg);
    let old = place(program, arg);
    let result = verify::program(manifest, info, program);
    place(program, old);
    result.err()
}

/// Tries arguments in every slot of every step; a share of them where there are many.
fn try_all(manifest: &Manifest, info: &ProgramInfo, program: &mut Program, seed: u64) -> usize {
    let mut random = Pcg64::seed_from_u64(seed);
    let (others, mut tried) = (others(program), 0);
    let slots: Vec<(usize, usize, usize, Arg)> = (program.entries.iter().enumerate())
        .flat_map(|(entry, all)| all.steps.iter().enumerate().map(move |(step, args)| (entry, step, args)))
        .flat_map(|(entry, step, all)| (0..).zip(&all.args).map(move |(slot, &arg)| (entry, step, slot, arg)))
        .collect();
    let share = (slots.len() * others.len()).div_ceil(3 * LEAST) as u64;
    for &(entry, step, slot, old) in &slots {
        for &arg in others.iter().filter(|&&arg| arg != old) {
            // Those of the same kind are the ones that a reader could take for right.
            let same_kind = std::mem::discriminant(&arg) == std::mem::discriminant(&old);
            if random.next_u64() % if same_kind { share.div_ceil(4) } else { share } != 0 {
                continue;
            }
            let found = refusal((manifest, info), program, (entry, step, slot), arg);
            let source = &program.entries[entry].steps[step].source;
            assert!(found.is_some(), "{} step {step} ({source}) slot {slot}: {old:?} → {arg:?}", info.kind.name());
            tried += 1;
        }
    }
    assert!(tried >= LEAST / 2, "{tried} of {} slots and {} arguments", slots.len(), others.len());
    tried
}

#[test]
fn changed_arguments_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = plan_of(folder.path());
    let plan = Plan::parse(&bytes).unwrap();
    for (info, program) in plan.programs() {
        let tried = try_all(plan.manifest(), info, &mut program.clone(), 0);
        println!("{}: {tried} changed arguments refused", info.kind.name());
    }
}

/// 120 plans as files, through the engine: an argument of a step replaced by another of its kind.
#[test]
fn engines_refuse_plans_with_a_changed_argument() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = plan_of(folder.path());
    let plan = Plan::parse(&bytes).unwrap();
    let sound = plan.program(TargetKind::Cpu).unwrap();
    let mut random = Pcg64::seed_from_u64(120);
    let mut below = |n: usize| (random.next_u64() % n as u64) as usize;
    let all = others(sound);
    for round in 0..120 {
        let mut program = sound.clone();
        let entry = below(program.entries.len());
        let step = below(program.entries[entry].steps.len());
        let args = &mut program.entries[entry].steps[step].args;
        let slot = below(args.len());
        let of_kind =
            |arg: &&Arg| **arg != args[slot] && std::mem::discriminant(*arg) == std::mem::discriminant(&args[slot]);
        let fitting: Vec<Arg> = all.iter().filter(of_kind).copied().collect();
        let old = std::mem::replace(&mut args[slot], fitting[below(fitting.len())]);
        let changed = write(&plan, &program, &folder.path().join("changed.plan"));
        match Engine::open(&changed, OpenOptions { threads: Some(1), ..OpenOptions::default() }) {
            Ok(_) => panic!("round {round}: entry {entry} step {step} slot {slot}, which was {old:?}, is accepted"),
            Err(error) => assert!(error.to_string().contains(&format!("entries[{entry}]")), "{error}"),
        }
    }
    // The same way of writing, without a change.
    Engine::open(write(&plan, sound, &folder.path().join("changed.plan")), OpenOptions::default()).unwrap();
}

/// Writes a plan for CPUs with another program.
fn write(plan: &Plan<'_>, program: &Program, path: &Path) -> std::path::PathBuf {
    let mut manifest = plan.manifest().clone();
    manifest.programs.retain(|info| info.kind == TargetKind::Cpu);
    let mut writer = PlanWriter::create(path).unwrap();
    writer.manifest(&manifest).unwrap();
    writer.program(TargetKind::Cpu, program).unwrap();
    for target in manifest.targets() {
        writer.code(target, plan.code(target).unwrap()).unwrap();
    }
    let weights = plan.weights_range(TargetKind::Cpu).unwrap();
    let section = plan.sections().iter().find(|section| section.offset == weights.start as u64).unwrap();
    assert!(section.bytes > SLACK_BYTES);
    writer.section(SectionKind::Weights, "weights", plan.bytes_of(section)).unwrap();
    writer.finish().unwrap();
    path.to_owned()
}

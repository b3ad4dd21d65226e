//! `jambac verify --code`: plans that jambac built pass; a plan with one changed byte of code, another statement of what a kernel
//! takes, another recipe or another grid is refused by name, although its digests are right.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jamba_plan::format::{Manifest, Operand, Per, Program, TargetKind};
use jamba_plan::sections::SectionKind;
use jamba_plan::{Plan, PlanWriter};

fn jambac(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jambac")).args(args).output().unwrap()
}

#[track_caller]
fn fails(plan: &Path, says: &str) {
    let output = jambac(&["verify", "--code", plan.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in {stderr}");
}

/// A plan of models/tiny; synthetic weights are not in the file.
fn build(folder: &Path) -> PathBuf {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let plan = folder.join("tiny.plan");
    let paths = [tiny.to_str().unwrap(), "-o", plan.to_str().unwrap()];
    let options = ["--target", "x86-64-v2", "--target", "sm_90a", "--synthetic-weights", "1"];
    let output = jambac(&[&["build"], &paths[..], &options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    plan
}

/// The parts of a plan.
struct Parts {
    manifest: Manifest,
    programs: Vec<(TargetKind, Program)>,
    code: Vec<(String, Vec<u8>)>,
}

impl Parts {
    fn of(plan: &Plan<'_>) -> Parts {
        let code = plan.manifest().targets().map(|name| (name.to_owned(), plan.code(name).unwrap().to_vec())).collect();
        let programs = plan.programs().map(|(info, program)| (info.kind, program.clone())).collect();
        Parts { manifest: plan.manifest().clone(), programs, code }
    }

    fn write(&self, path: &Path) {
        let mut writer = PlanWriter::create(path).unwrap();
        writer.manifest(&self.manifest).unwrap();
        for (kind, program) in &self.programs {
            writer.program(*kind, program).unwrap();
        }
        for (name, code) in &self.code {
            writer.code(name, code).unwrap();
        }
        writer.section(SectionKind::Tokenizer, "tokenizer", b"{}").unwrap();
        writer.finish().unwrap();
    }
}

#[test]
fn code_is_compared_with_what_the_catalog_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let built = build(folder.path());
    let output = jambac(&["verify", "--code", built.to_str().unwrap()]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("its code is what this jambac compiles for x86-64-v2, sm_90a"), "{stdout}");

    let bytes = std::fs::read(&built).unwrap();
    let plan = Plan::parse(&bytes).unwrap();
    let path = folder.path().join("changed.plan");
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::of(&plan);
        change(&mut parts);
        parts.write(&path);
        Plan::parse(&std::fs::read(&path).unwrap()).expect("a plan that is sound by itself");
        path.as_path()
    };
    // Other sections do not matter: the tokenizer is another one.
    assert!(jambac(&["verify", "--code", changed(&|_| ()).to_str().unwrap()]).status.success());
    let middle = |code: &mut Vec<u8>| {
        let at = code.len() / 2;
        code[at] ^= 1;
    };
    fails(changed(&|parts| middle(&mut parts.code[0].1)), "code/x86-64-v2: found");
    fails(changed(&|parts| parts.code[0].1.push(0)), "code/x86-64-v2: found");

    let kernels = |parts: &mut Parts, index: usize| std::mem::take(&mut parts.programs[0].1.kernels[index].recipe);
    fails(changed(&|parts| drop(kernels(parts, 0))), "its recipe is not one of this jambac's catalog");
    fails(changed(&|parts| parts.programs[0].1.kernels[0].recipe = kernels(parts, 1)), "expected one of this kernel");
    // A plan may state that a kernel takes something else: the steps fit the statement, and the statement is false.
    let lies = |parts: &mut Parts| {
        let per_row = |operand: &mut Operand| {
            if let Operand::Count(per @ Per::Token, _) = operand {
                *per = Per::Row;
            }
        };
        parts.programs[0].1.kernels[0].operands.iter_mut().for_each(per_row);
    };
    fails(changed(&lies), "the plan states that it takes");
    let huge = |parts: &mut Parts| {
        let recipe = &mut parts.programs[0].1.kernels[0].recipe;
        *recipe = recipe.replace("\"d_model\":128", "\"d_model\":18446744073709551615");
        assert!(recipe.contains("18446744073709551615"), "{recipe}");
    };
    fails(changed(&huge), "kernel embed");
    let threads = |parts: &mut Parts| {
        let step = &mut parts.programs[1].1.entries[0].steps[0];
        step.launch.as_mut().unwrap().threads += 32;
    };
    fails(changed(&threads), "entries[0].steps[0].launch");
}

#[test]
fn a_plan_without_comparison_is_undamaged_and_no_more() {
    let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/examples/toy.plan");
    let output = jambac(&["verify", toy.to_str().unwrap()]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("undamaged, which says nothing about who made it"), "{stdout}");
    fails(&toy, "kernel embed: its recipe is not one of this jambac's catalog");
}

//! The tour: a miniature Jamba after each compiler phase, stored as text in tests/golden/tour. The files, read in order,
//! explain the compiler. `UPDATE_EXPECT=1 cargo test` rewrites them.

use std::path::Path;

use expect_test::expect_file;
use jamba_plan::format::TargetKind;
use jambac::compile::{Progress, Request, build};
use jambac::manifest::ModelFile;
use jambac_codegen::compile::Phase;
use jambac_kernels::kernel::{Config, Elem, Kernel};
use jambac_kernels::rms_norm;
use jambac_kernels::target::{CpuTarget, X86Level};
use jambac_models::tiny::Tiny;

/// Two layers that cover all features: Mamba with a dense MLP, attention with experts.
fn miniature() -> Tiny {
    Tiny {
        hidden: 16,
        ff: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        attention: (2, 1),
        experts: 3,
        vocab: 40,
        d_state: 4,
        ..Tiny::base()
    }
}

fn request(folder: &Path) -> Request {
    let checkpoint = folder.join("miniature");
    miniature().write(&checkpoint, 1).unwrap();
    let mut model = ModelFile::open(&checkpoint).unwrap();
    model.limits.max_context = 64;
    model.limits.max_sequences = 2;
    model.limits.prefill_chunk = 8;
    Request { dump_dir: Some(folder.join("dump")), ..Request::new(model, folder.join("miniature.plan")) }
}

#[test]
fn every_phase_of_a_miniature() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path());
    build(&request, &Progress::hidden()).unwrap();
    for name in [
        "01.checkpoint.txt",
        "02.prefill.graph",
        "02.decode.graph",
        "03.prefill.optimized.graph",
        "03.decode.optimized.graph",
        "04.schedule.txt",
        "08.plan.txt",
    ] {
        let text = std::fs::read_to_string(folder.path().join("dump").join(name)).unwrap();
        let text = without_sections(&text);
        expect_file![Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tour").join(name)].assert_eq(&text);
    }
}

/// A plan's listing without the offsets and digests of its sections, which change with every instruction of every kernel.
fn without_sections(text: &str) -> String {
    match text.split_once("sections: ") {
        Some((before, after)) => before.to_owned() + after.split_once("\n\n").map_or("", |(_, rest)| rest),
        None => text.to_owned(),
    }
}

/// One kernel from MLIR to assembly; all kernels would be too long.
#[test]
fn one_kernel_from_mlir_to_assembly() {
    let spec = rms_norm::Spec { cols: 24, eps: 1e-6, residual: false, out: Elem::F32 };
    let launches = spec.lower(TargetKind::Cpu, Config::Only);
    let mut texts = Vec::new();
    let mut dump = |phase: Phase, text: &str| texts.push((phase, text.to_owned()));
    jambac_codegen::compile(CpuTarget::new(X86Level::V3), Some(&mut dump), |module| {
        launches.iter().for_each(|launch| module.add(launch));
    })
    .unwrap();
    assert_eq!(texts.len(), 4);
    for (phase, text) in texts {
        let name = match phase {
            Phase::Mlir => "05.rms_norm.mlir",
            Phase::LlvmDialect => "06.rms_norm.llvm.mlir",
            Phase::LlvmIr => "07.rms_norm.ll",
            Phase::Assembly => "07.rms_norm.s",
        };
        expect_file![Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tour").join(name)].assert_eq(&text);
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let bytes = || {
        let folder = tempfile::tempdir().unwrap();
        let mut request = request(folder.path());
        request.dump_dir = None;
        build(&request, &Progress::hidden()).unwrap();
        std::fs::read(&request.output).unwrap()
    };
    let (first, second) = (bytes(), bytes());
    assert!(first == second, "two builds of one checkpoint differ");
    assert!(first.len() > 4096);
}

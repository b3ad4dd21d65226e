//! Code for levels that the host may not support: checks the kernels' instructions in their assembly.

use std::collections::BTreeMap;

use jamba_plan::format::TargetKind;
use jambac::compile as driver;
use jambac::manifest::{ModelFile, targets, weight_format};
use jambac_codegen::compile;
use jambac_codegen::compile::Phase;
use jambac_graph::DType;
use jambac_kernels::cases;
use jambac_kernels::kernel::Launch;
use jambac_kernels::target::{CpuTarget, X86Level};
use jambac_models::tiny::Tiny;

/// Kernels dominated by matrix products.
const MATRIX: [&str; 6] =
    ["linear", "split_linear", "linear_swiglu", "grouped_linear", "grouped_swiglu", "grouped_combine"];

fn assembly(level: impl Into<CpuTarget>, kernel: &Launch) -> String {
    let mut assembly = String::new();
    let mut dump = |phase: Phase, text: &str| {
        if phase == Phase::Assembly {
            assembly = text.to_owned();
        }
    };
    compile(CpuTarget::new(level), Some(&mut dump), |module| {
        module.add(kernel);
    })
    .unwrap_or_else(|error| panic!("{}: {error}", kernel.symbol));
    assembly
}

/// All kernels of a miniature's plans, unfused and fused, in every weight format.
fn kernels_of_plans() -> BTreeMap<String, Launch> {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny { layers: 2, attention: (2, 1), ..Tiny::base() };
    tiny.write(folder.path(), 1).unwrap();
    let config = tiny.config().unwrap();
    let mut model = ModelFile::open(folder.path()).unwrap();
    model.build.targets = targets(&["x86-64-v4"]).unwrap();
    let mut kernels = BTreeMap::new();
    for fusion in ["none", "all"] {
        model.build.fusion = fusion.parse().unwrap();
        for format in ["f32", "bf16", "int8", "int4", "int3"] {
            model.weights.default = Some(weight_format("weights.default", format).unwrap());
            let mut entries = driver::graphs(&model, &config, &|_| DType::Bf16, TargetKind::Cpu).unwrap();
            driver::optimize(&mut entries, &driver::fusion(&model, TargetKind::Cpu)).unwrap();
            let schedule = driver::schedule(&model, &entries, &model.build.targets, TargetKind::Cpu).unwrap();
            kernels.extend(schedule.kernels.into_iter().map(|kernel| (kernel.symbol.clone(), kernel)));
        }
    }
    kernels
}

#[test]
fn products_of_matrices_use_the_whole_registers_of_avx512() {
    let kernels = kernels_of_plans();
    let mut n_matrix = BTreeMap::new();
    for (symbol, kernel) in &kernels {
        let assembly = assembly(X86Level::V4, kernel);
        assert!(assembly.contains(symbol), "{symbol} has code");
        if MATRIX.contains(&kernel.op) {
            assert!(assembly.contains("%zmm"), "{symbol} of x86-64-v4 has no register of 64 bytes");
            *n_matrix.entry(kernel.op).or_insert(0) += 1;
        }
    }
    println!("{} kernels, of matrices {n_matrix:?}", kernels.len());
    assert_eq!(n_matrix.len(), MATRIX.len(), "{n_matrix:?}");
}

/// Pairs of 16-bit integers are multiplied and added in one instruction if the level has one and LLVM does not split it to
/// shorten a chain of sums; in two instructions otherwise.
#[test]
fn integer_products_are_one_instruction_with_vnni() {
    let kernels: BTreeMap<String, Launch> =
        cases::integer_linear().into_iter().map(|case| (case.symbol(), case.on_cpu())).collect();
    for (symbol, kernel) in kernels.iter().take(4) {
        let count = |level| {
            let assembly = assembly(level, kernel);
            ["vpdpwssd", "vpmaddwd"].map(|name| assembly.matches(name).count())
        };
        let ([with, split], [none, pairs]) = (count(X86Level::V4Vnni), count(X86Level::V4));
        println!("{symbol}: {with} vpdpwssd and {split} vpmaddwd for {pairs} vpmaddwd");
        assert_eq!((with + split, none), (pairs, 0), "{symbol}");
        assert!(with > 0, "{symbol}: {with} vpdpwssd, {split} vpmaddwd");
    }
}

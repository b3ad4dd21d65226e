//! Assembly of every kernel of real models: registers, no spills, no serialized products; and the machine code of the large
//! product's main loop.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use jamba_plan::format::{TargetKind, WeightFormat};
use jambac::compile::{fusion, graphs, optimize, schedule};
use jambac::manifest::ModelFile;
use jambac_codegen::assemble::assemble;
use jambac_graph::{Activation, DType};
use jambac_harness::toolkit::{nvdisasm, ptxas};
use jambac_harness::{Kernel, ptx_of};
use jambac_kernels::hopper::facts;
use jambac_kernels::hopper::matmul::TileRows;
use jambac_kernels::kernel::{Config, Elem};
use jambac_kernels::target::Target;
use jambac_kernels::{linear, synthetic_weight};
use jambac_models::jamba::JambaConfig;

use crate::models::{self, published};

/// Every kernel of a model's plans, with weights in bf16 and in int8, steps of 2048 prompt tokens, few sequences and many.
fn kernels(config: &JambaConfig, fusions: &str) -> BTreeMap<String, Kernel> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut model = ModelFile::open(&models.join("jamba-mini")).expect("a model file");
    (model.limits.max_sequences, model.limits.prefill_chunk) = (16, 2048);
    model.build.fusion = fusions.parse().unwrap();
    let kind = TargetKind::Sm90a;
    let mut kernels = BTreeMap::new();
    for format in [None, Some(WeightFormat::Int8)] {
        model.weights.default = format;
        let mut entries = graphs(&model, config, &|_| DType::Bf16, kind).expect("graphs");
        optimize(&mut entries, &fusion(&model, kind)).expect("optimized graphs");
        let schedule = schedule(&model, &entries, &[Target::Sm90a], kind).expect("a schedule");
        for step in schedule.program.entries.iter().flat_map(|entry| &entry.steps) {
            let code = schedule.kernels[step.kernel as usize].clone();
            kernels.insert(code.symbol.clone(), Kernel { code, rows: step.rows });
        }
    }
    // The kernels that draw synthetic weights for such plans.
    let draws = [Elem::F32, Elem::Bf16, Elem::I8].map(|format| Kernel::from(synthetic_weight::Spec { format }));
    kernels.extend(draws.map(|kernel| (kernel.symbol(), kernel)));
    kernels
}

/// Assembles all of them and prints their resource usage.
fn assemble_model(name: &str, config: &JambaConfig) {
    assemble_kernels(name, &kernels(config, "all"));
}

fn assemble_kernels(name: &str, kernels: &BTreeMap<String, Kernel>) {
    for (symbol, kernel) in kernels {
        assert!(kernel.launch().shared_bytes <= facts::SHARED_BYTES as u32, "{symbol}: {:?}", kernel.launch());
    }
    let Some(ptxas) = ptxas() else { return };
    let all: Vec<Kernel> = kernels.values().cloned().collect();
    let ptx = ptx_of(&all);
    let assembled = assemble(ptxas, &ptx).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(assembled.warnings, Vec::<String>::new(), "{name}");
    for (symbol, kernel) in kernels {
        let (usage, launch) = (assembled.kernels[symbol], kernel.launch());
        let shared_bytes = usage.shared_bytes + launch.shared_bytes;
        println!(
            "{name:<6} {symbol:<62} {:>4} threads {:>3} registers {shared_bytes:>6} bytes of shared memory",
            launch.threads, usage.registers
        );
        assert_eq!((usage.spill_store_bytes, usage.spill_load_bytes, usage.stack_bytes), (0, 0, 0), "{symbol}");
        // Three warpgroups share all registers; products of few rows leave registers for two blocks.
        let most = match launch.threads {
            384 => 168,
            _ if symbol.ends_with("_few_sm90") => 128,
            threads => facts::REGISTERS / threads.max(256),
        };
        assert!(usage.registers <= most, "{symbol}: {} registers", usage.registers);
    }
}

#[test]
fn all_of_tiny_assembles() {
    assemble_model("tiny", &published("tiny"));
}

/// Kernels that occur only without fusions.
#[test]
fn all_without_fusions_assembles() {
    for name in ["tiny", "jamba-mini", "jamba-large"] {
        let (mut unfused, fused) = (kernels(&published(name), "none"), kernels(&published(name), "all"));
        unfused.retain(|symbol, _| !fused.contains_key(symbol) && !symbol.contains("linear"));
        assemble_kernels(name, &unfused);
    }
}

/// The models of `benches/peers`.
#[test]
fn all_of_mid_assembles() {
    assemble_model("mid", &models::mid());
    assemble_model("midmoe", &models::midmoe());
}

#[test]
fn all_of_jamba_3b_assembles() {
    assemble_model("3B", &published("jamba-3b"));
}

#[test]
fn all_of_jamba_mini_assembles() {
    assemble_model("Mini", &published("jamba-mini"));
}

#[test]
fn all_of_jamba_large_assembles() {
    assemble_model("Large", &published("jamba-large"));
}

/// Machine code of a kernel, one instruction or label per line.
fn disassemble(kernel: Kernel) -> Option<Vec<String>> {
    let (ptxas, nvdisasm) = (ptxas()?, nvdisasm()?);
    let ptx = ptx_of(&[kernel]);
    let assembled = assemble(ptxas, &ptx).unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cubin = folder.path().join("kernel.cubin");
    fs::write(&cubin, &assembled.cubin).expect("the temporary folder is written");
    let output = Command::new(nvdisasm).arg("--print-code").arg(&cubin).output().expect("nvdisasm runs");
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = |line: &str| {
        let line = line.trim();
        if line.starts_with(".L_") {
            return Some(line.trim_end_matches(':').to_owned());
        }
        // `/*0a40*/  INSTRUCTION ;  /* encoding */`
        let rest = line.strip_prefix("/*")?.split_once("*/")?.1;
        let instruction = rest.split_once(';')?.0.trim();
        Some(instruction.to_owned())
    };
    Some(text.lines().filter_map(code).collect())
}

/// Whether the instruction at `at` is in a loop: a later branch jumps back to a label before it.
fn is_in_loop(code: &[String], at: usize) -> bool {
    code.iter().enumerate().skip(at).filter(|(_, line)| line.contains("BRA")).any(|(branch, line)| {
        let target = line.split('`').nth(1).map(|target| target.trim_matches(['(', ')', ' ']));
        let label = code.iter().position(|line| target.is_some_and(|target| line == target));
        label.is_some_and(|label| label <= at && at < branch)
    })
}

/// The loop issues four products in a row, each of 64 outputs by the tile's rows by 16 inputs, with only descriptor arithmetic
/// in between. The copies of both operands are in a separate loop.
#[test]
fn the_loop_of_a_large_product_is_products_back_to_back() {
    for (rows, format) in
        [(TileRows::Rows256, Elem::Bf16), (TileRows::Rows64, Elem::Bf16), (TileRows::Rows256, Elem::I8)]
    {
        let spec =
            linear::Spec { n: 16384, k: 4096, format, out: Elem::Bf16, bias: false, activation: Activation::None };
        let kernel = Kernel::of(spec, Config::Tiled(rows));
        let what = kernel.symbol();
        let Some(code) = disassemble(kernel) else { return };
        let product = format!("HGMMA.64x{}x16.F32.BF16", rows.number());
        let products: Vec<usize> = (0..code.len()).filter(|&at| code[at].starts_with(&product)).collect();
        assert!(products.len().is_multiple_of(4) && !products.is_empty(), "{what}: {} products", products.len());
        assert!(is_in_loop(&code, products[0]), "{what}: the products stand in no loop");
        for pair in products.chunks_exact(4).flat_map(|four| four.windows(2)) {
            for between in &code[pair[0] + 1..pair[1]] {
                let slow = ["LD", "ST", "BAR", "SYNCS", "WARP", "BRA", "MOV R", "FADD", "FMUL", ".L_"];
                assert!(!slow.iter().any(|slow| between.contains(slow)), "{what}: {between} between two products");
            }
        }
        let copies: Vec<usize> = (0..code.len()).filter(|&at| code[at].contains("UTMALDG.2D")).collect();
        assert!(copies.len() >= 2 && copies.iter().all(|&at| is_in_loop(&code, at)), "{what}: copies at {copies:?}");
    }
}

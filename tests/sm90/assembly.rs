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

/// Every kernel of a model's plans, with weights in bf16, int8 and fp8, steps of 2048 prompt tokens, few sequences and many.
pub(super) fn kernels(config: &JambaConfig, fusions: &str) -> BTreeMap<String, Kernel> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut model = ModelFile::open(&models.join("jamba-mini")).expect("a model file");
    (model.limits.max_sequences, model.limits.prefill_chunk) = (16, 2048);
    model.build.fusion = fusions.parse().unwrap();
    let kind = TargetKind::Sm90a;
    let mut kernels = BTreeMap::new();
    for format in [None, Some(WeightFormat::Int8), Some(WeightFormat::Fp8)] {
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
    let draws =
        [Elem::F32, Elem::Bf16, Elem::I8, Elem::F8].map(|format| Kernel::from(synthetic_weight::Spec { format }));
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
    let Some(nvdisasm) = nvdisasm() else { return };
    let code = disassembled(nvdisasm, &assembled.cubin);
    let mut n_products = 0;
    for symbol in kernels.keys() {
        let code = code.get(symbol).unwrap_or_else(|| panic!("nvdisasm shows no code of {symbol}"));
        n_products += check_registers_in_flight(symbol, code);
        check_overlap(name, symbol, code);
    }
    println!("{name}: {n_products} products, none of whose registers is used in flight");
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
    let assembled = assemble(ptxas, &ptx_of(&[kernel])).unwrap_or_else(|error| panic!("{error}"));
    Some(disassembled(nvdisasm, &assembled.cubin).into_values().next().expect("a kernel"))
}

/// Machine code of each kernel of a cubin, one instruction or label per line.
fn disassembled(nvdisasm: &Path, cubin: &[u8]) -> BTreeMap<String, Vec<String>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("kernels.cubin");
    fs::write(&path, cubin).expect("the temporary folder is written");
    let output = Command::new(nvdisasm).arg("--print-code").arg(&path).output().expect("nvdisasm runs");
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    let mut kernels: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut symbol = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines().map(str::trim) {
        if let Some(section) = line.strip_prefix(".section\t.text.").or_else(|| line.strip_prefix(".section .text.")) {
            symbol = section.split([',', ' ', '\t']).next().unwrap_or_default().to_owned();
        } else if line.starts_with(".L_") {
            kernels.entry(symbol.clone()).or_default().push(line.trim_end_matches(':').to_owned());
        } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|line| line.split_once("*/"))
            && let Some((instruction, _)) = rest.split_once(';')
        {
            // `/*0a40*/  INSTRUCTION ;  /* encoding */`
            kernels.entry(symbol.clone()).or_default().push(instruction.trim().to_owned());
        }
    }
    kernels
}

/// The mnemonic of an instruction, without its predicate.
fn mnemonic(instruction: &str) -> &str {
    let word = instruction.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
    word.trim_end_matches(';')
}

/// For each batch of wgmma products that is awaited whole: widening and exponentials between the last product and the wait, which
/// run beside the products, and those from the wait to the next product, which do not.
fn overlaps(code: &[String]) -> Vec<[usize; 2]> {
    let (mut batches, mut counts, mut state) = (Vec::new(), [0, 0], None);
    for line in code {
        let name = mnemonic(line);
        if name.starts_with("HGMMA") {
            if state == Some(1) {
                batches.push(counts);
            }
            (state, counts) = (Some(0), [0, 0]);
        } else if line.contains("DEPBAR.LE gsb0, 0x0") && state == Some(0) {
            state = Some(1);
        } else if let Some(at) = state
            && ["PRMT", "HADD2", "HMUL2", "HFMA2.BF16", "MUFU.EX2"].iter().any(|op| name.starts_with(op))
        {
            counts[at] += 1;
        }
    }
    if state == Some(1) {
        batches.push(counts);
    }
    batches
}

/// Registers of an operand such as `R24` (one), with the given number of consecutive ones.
fn registers(operand: &str, n: usize) -> Vec<usize> {
    let name = operand.trim_matches(['-', '|', ' ', ',']).split('.').next().unwrap_or_default();
    let number = name.strip_prefix('R').and_then(|number| number.parse::<usize>().ok());
    number.map_or(Vec::new(), |first| (first..first + n).collect())
}

/// Panics if an instruction writes registers that a product in flight reads or sums in, or reads its sums.
fn check_registers_in_flight(what: &str, code: &[String]) -> usize {
    // Groups of products since the last wait: left operands and sums.
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    let (mut open, mut n_products) = ((Vec::new(), Vec::new()), 0);
    for line in code {
        let name = mnemonic(line);
        let rest = line.split_once(name).map_or("", |(_, rest)| rest);
        let operands: Vec<&str> = rest.split(',').map(str::trim).collect();
        if let Some(shape) = name.strip_prefix("HGMMA.64x") {
            n_products += 1;
            let columns: usize = shape.split('x').next().and_then(|n| n.parse().ok()).expect("columns of a product");
            open.1.extend(registers(operands[0], columns / 2));
            open.0.extend(registers(operands.get(1).copied().unwrap_or_default(), 4));
            if line.contains("gsb0") {
                groups.push(std::mem::take(&mut open));
            }
        } else if let Some((_, left)) = line.split_once("DEPBAR.LE gsb0, 0x") {
            let left = usize::from_str_radix(left.trim().trim_end_matches(';'), 16).expect("groups in flight");
            groups.drain(..groups.len().saturating_sub(left));
        } else if !groups.is_empty() || !open.1.is_empty() {
            let width =
                ["64", "128"].iter().position(|bits| name.ends_with(&format!(".{bits}"))).map_or(1, |at| 2 << at);
            let is_store = name.starts_with("ST") || name.starts_with("RED");
            let written = if is_store { Vec::new() } else { registers(operands[0], width) };
            let read: Vec<usize> = operands.iter().skip(usize::from(!is_store)).flat_map(|x| registers(x, 1)).collect();
            for (left, sums) in groups.iter().chain([&open]) {
                let bad = written.iter().find(|register| left.contains(register) || sums.contains(register));
                let bad = bad.or_else(|| read.iter().find(|register| sums.contains(register)));
                assert!(bad.is_none(), "{what}: `{line}` uses R{} of a product in flight", bad.unwrap());
            }
        }
    }
    n_products
}

/// ptxas keeps the order of the sources: arithmetic that is written beside products runs beside them. In the loop of each kernel with
/// weights of one byte or a softmax, some batch of products has all of it before its wait.
fn check_overlap(name: &str, symbol: &str, code: &[String]) {
    let beside = symbol.contains("attention_prefill")
        || ["_i8_", "_f8_"].iter().any(|format| symbol.contains(format)) && !symbol.ends_with("_few_sm90");
    let batches = overlaps(code);
    if !beside || batches.is_empty() {
        return;
    }
    println!("{symbol}: beside products and behind them {batches:?}");
    let most = batches.iter().map(|[before, _]| *before).max().unwrap_or(0);
    // A product of two steps has a loop of one iteration, which is none.
    let (least, behind) = if name == "tiny" { (16, 16) } else { (32, 2) };
    assert!(most >= least, "{symbol}: {most} of the arithmetic stands beside products: {batches:?}");
    // Batches outside of loops have no products beside their arithmetic; a loop's batch has nothing behind its wait.
    for [before, after] in batches {
        assert!(before == 0 || after <= behind, "{symbol}: {after} instructions behind a wait, {before} before it");
    }
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
    for (rows, format) in [
        (TileRows::Rows256, Elem::Bf16),
        (TileRows::Rows64, Elem::Bf16),
        (TileRows::Rows256, Elem::I8),
        (TileRows::Rows256, Elem::F8),
    ] {
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

//! What NVIDIA's assembler makes of the matrix products of real models: registers, no spills, no serialised products; and what
//! the loop of the large product looks like as machine code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use jambac_codegen::assemble::assemble;
use jambac_codegen::compile_ptx;
use jambac_graph::Activation;
use jambac_kernels::kernel::{Elem, Rows};
use jambac_kernels::sm90::Kernel;
use jambac_kernels::sm90::matmul::{Method, TileRows};
use jambac_kernels::{grouped_linear, grouped_swiglu, linear, linear_swiglu, split_linear};

use super::toolkit::{nvdisasm, ptxas};

/// Multiprocessors of an H100, and rows of a prefill step.
const N_SMS: usize = 132;
const CHUNK: usize = 2048;

/// Shared memory that a block may have.
const SHARED_LIMIT: u32 = 227 * 1024;

/// Dimensions of a model.
struct Dims {
    d_model: usize,
    d_ff: usize,
    d_inner: usize,
    dt_rank: usize,
    d_state: usize,
    heads: usize,
    kv_heads: usize,
    d_head: usize,
    n_experts: usize,
    top_k: usize,
    vocab: usize,
}

impl Dims {
    /// Those of `models/NAME/config.json`.
    fn of(model: &str) -> Dims {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(model).join("config.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let config: serde_json::Value = serde_json::from_str(&text).expect("config.json is JSON");
        let number = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("{key} of {model}")) as usize;
        let (d_model, heads) = (number("hidden_size"), number("num_attention_heads"));
        Dims {
            d_model,
            d_ff: number("intermediate_size"),
            d_inner: number("mamba_expand") * d_model,
            dt_rank: number("mamba_dt_rank"),
            d_state: number("mamba_d_state"),
            heads,
            kv_heads: number("num_key_value_heads"),
            d_head: d_model / heads,
            n_experts: number("num_experts"),
            top_k: number("num_experts_per_tok"),
            vocab: number("vocab_size"),
        }
    }

    /// Every product of the model, by tiles and for a handful of rows.
    fn kernels(&self, format: Elem) -> Vec<Kernel> {
        let tiled = |n: usize, max_rows: usize| Method::Tiled(TileRows::fastest(n, max_rows, N_SMS));
        [false, true]
            .into_iter()
            .flat_map(|few| self.products(format, &|n, rows| if few { Method::Few } else { tiled(n, rows) }))
            .collect()
    }

    fn products(&self, format: Elem, method: &dyn Fn(usize, usize) -> Method) -> Vec<Kernel> {
        let &Dims { d_model, d_ff, d_inner, dt_rank, n_experts, top_k, .. } = self;
        let rows = Rows::Tokens;
        let (q, kv) = (self.heads * self.d_head, self.kv_heads * self.d_head);
        let linear = |n: usize, k: usize, format: Elem, activation: Activation| -> Kernel {
            let bias = activation != Activation::None;
            let method = method(n, CHUNK);
            linear::sm90::Spec { n, k, format, out: Elem::F32, bias, activation, rows, method }.into()
        };
        let split = |sizes: &[usize]| -> Kernel {
            let method = method(sizes.iter().sum(), CHUNK);
            let sizes = sizes.to_vec();
            split_linear::sm90::Spec { sizes, k: d_model, format, out: Elem::Bf16, rows, method }.into()
        };
        let mut kernels = vec![
            split(&[d_inner, d_inner]),
            linear(dt_rank + 2 * self.d_state, d_inner, format, Activation::None),
            linear(d_inner, dt_rank, format, Activation::Softplus),
            linear(d_model, d_inner, format, Activation::None),
            split(&[q, kv, kv]),
            linear(d_model, q, format, Activation::None),
            linear_swiglu::sm90::Spec { n: d_ff, k: d_model, format, rows, method: method(2 * d_ff, CHUNK) }.into(),
            linear(d_model, d_ff, format, Activation::None),
            linear(self.vocab, d_model, Elem::Bf16, Activation::None),
        ];
        if n_experts > 1 {
            let per_expert = CHUNK * top_k / n_experts;
            kernels.push(linear(n_experts, d_model, Elem::Bf16, Activation::None));
            let (n, k, method) = (d_ff, d_model, method(2 * d_ff * n_experts, per_expert));
            kernels.push(grouped_swiglu::sm90::Spec { n_experts, n, k, format, top_k, rows, method }.into());
            let (n, k, out) = (d_model, d_ff, Elem::F32);
            kernels.push(grouped_linear::sm90::Spec { n_experts, n, k, format, out, top_k, rows, method }.into());
        }
        kernels
    }
}

/// Assembles a model's products, and says what each takes.
fn assemble_model(name: &str, dims: &Dims) {
    let kernels = [Elem::Bf16, Elem::I8].map(|format| dims.kernels(format)).concat();
    let kernels: BTreeMap<String, Kernel> = kernels.into_iter().map(|kernel| (kernel.symbol(), kernel)).collect();
    for kernel in kernels.values() {
        assert!(kernel.launch().shared_bytes <= SHARED_LIMIT, "{}: {:?}", kernel.symbol(), kernel.launch());
    }
    let Some(ptxas) = ptxas() else { return };
    let all: Vec<Kernel> = kernels.values().cloned().collect();
    let ptx = compile_ptx(&all, None).unwrap_or_else(|error| panic!("{error}"));
    let assembled = assemble(ptxas, &ptx).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(assembled.warnings, Vec::<String>::new(), "{name}");
    for (symbol, kernel) in &kernels {
        let (usage, launch) = (assembled.kernels[symbol], kernel.launch());
        println!("{symbol}: {} registers, {} bytes of shared memory", usage.registers, launch.shared_bytes);
        assert_eq!((usage.spill_store_bytes, usage.spill_load_bytes, usage.stack_bytes), (0, 0, 0), "{symbol}");
        // Three warpgroups share out all registers; of the others two blocks have room.
        let most = if launch.threads == 384 { 168 } else { 128 };
        assert!(usage.registers <= most, "{symbol}: {} registers", usage.registers);
    }
}

#[test]
fn the_products_of_tiny_assemble() {
    assemble_model("tiny", &Dims::of("tiny"));
}

/// The models that benchmarks use: the 3B's pattern scaled down, and one with experts.
#[test]
fn the_products_of_mid_assemble() {
    let mid = Dims {
        d_model: 768,
        d_ff: 2560,
        d_inner: 1536,
        dt_rank: 64,
        d_state: 16,
        heads: 6,
        kv_heads: 1,
        d_head: 128,
        n_experts: 1,
        top_k: 1,
        vocab: 65536,
    };
    assemble_model("midmoe", &Dims { d_ff: 1792, kv_heads: 2, n_experts: 8, top_k: 2, ..mid });
    assemble_model("mid", &mid);
}

#[test]
fn the_products_of_jamba_3b_assemble() {
    assemble_model("jamba-3b", &Dims::of("jamba-3b"));
}

#[test]
fn the_products_of_jamba_mini_assemble() {
    assemble_model("jamba-mini", &Dims::of("jamba-mini"));
}

#[test]
fn the_products_of_jamba_large_assemble() {
    assemble_model("jamba-large", &Dims::of("jamba-large"));
}

/// Machine code of one kernel, an instruction or a label a line.
fn disassemble(kernel: Kernel) -> Option<Vec<String>> {
    let (ptxas, nvdisasm) = (ptxas()?, nvdisasm()?);
    let ptx = compile_ptx(&[kernel], None).unwrap_or_else(|error| panic!("{error}"));
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

/// Whether the instruction at `at` stands in a loop: a later branch goes back to a label before it.
fn is_in_loop(code: &[String], at: usize) -> bool {
    code.iter().enumerate().skip(at).filter(|(_, line)| line.contains("BRA")).any(|(branch, line)| {
        let target = line.split('`').nth(1).map(|target| target.trim_matches(['(', ')', ' ']));
        let label = code.iter().position(|line| target.is_some_and(|target| line == target));
        label.is_some_and(|label| label <= at && at < branch)
    })
}

/// The loop multiplies four times in a row, 64 outputs by the rows of the tile by 16 inputs each, with nothing in between but
/// the arithmetic of descriptors, and the copies of both operands stand in a loop of their own.
#[test]
fn the_loop_of_a_large_product_is_products_back_to_back() {
    for (rows, format) in
        [(TileRows::Rows256, Elem::Bf16), (TileRows::Rows64, Elem::Bf16), (TileRows::Rows256, Elem::I8)]
    {
        let method = Method::Tiled(rows);
        let spec = linear::sm90::Spec {
            n: 16384,
            k: 4096,
            format,
            out: Elem::Bf16,
            bias: false,
            activation: Activation::None,
            rows: Rows::Tokens,
            method,
        };
        let kernel = Kernel::from(spec);
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

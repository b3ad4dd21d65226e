//! The SHA-256 of the code of every kernel of the plans of several models, in `tests/golden/digests.txt`, one kernel a line.
//!
//! A change that should leave the generated code alone leaves the file alone. Each kernel is compiled by itself, so that a digest
//! depends on nothing but the kernel: for a CPU it covers code, constants and relocations, for Hopper the PTX, both without debug
//! information and without the kernel's name. `UPDATE_EXPECT=1 cargo test -p jambac-tests digests` rewrites the file.
//!
//! The code follows from the MLIR that the kernel emits and from the toolchain. A line also has the digest of this MLIR; the first
//! line has that of the toolchain. Where both are as recorded, the kernel is not compiled again, except one kernel in sixteen. Another
//! toolchain that compiles to the same code passes, in more time: every kernel is compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jamba_plan::format::{TargetKind, WeightFormat};
use jambac::compile::{fusion, graphs, optimize, schedule};
use jambac::manifest::{ModelFile, weight_format};
use jambac_codegen::compile::{compile_object, emit_kernels};
use jambac_codegen::compile_ptx;
use jambac_codegen::toolchain::llvm_version;
use jambac_graph::DType;
use jambac_kernels::kernel::{Elem, Launch, Param};
use jambac_kernels::target::{CpuTarget, Target, X86Level};
use jambac_models::jamba::JambaConfig;
use jambac_models::tiny::Tiny;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionFlags, elf};
use sha2::{Digest, Sha256};

use crate::models;

const VNNI: Target = Target::Cpu(CpuTarget::X86(X86Level::V4Vnni));
const AMX: Target = Target::Cpu(CpuTarget::X86(X86Level::Amx));
const AMX_BF16: Target = Target::Cpu(CpuTarget::X86(X86Level::AmxBf16));

fn targets() -> [Target; 7] {
    [
        Target::Cpu(CpuTarget::new(X86Level::V2)),
        Target::Cpu(CpuTarget::new(X86Level::V3)),
        Target::Cpu(CpuTarget::new(X86Level::V4)),
        VNNI,
        AMX,
        AMX_BF16,
        Target::Sm90a,
    ]
}

/// What a plan's kernels follow from, apart from the target: the model, and how it is built.
struct Variant {
    config: JambaConfig,
    /// How parameters are stored in the checkpoint.
    stored: DType,
    /// The format of weights that the model file sets.
    weights: Option<&'static str>,
    kv_dtype: DType,
    fusions: &'static str,
}

/// Small models in every variant; large ones, whose kernels differ in sizes alone, in those that people build.
fn variants(kind: TargetKind) -> Vec<Variant> {
    let on_cpu = kind == TargetKind::Cpu;
    let stored_as: &[DType] = if on_cpu { &[DType::F32, DType::F16, DType::Bf16] } else { &[DType::Bf16] };
    let integers: &[&str] = if on_cpu { &["int8", "int4", "int3"] } else { &["int8", "fp8"] };
    let kv_dtypes: &[DType] = if on_cpu { &[DType::F32, DType::Bf16] } else { &[DType::Bf16] };
    let mut variants = Vec::new();
    let small = [models::published("tiny"), Tiny::odd().config().expect("a config")];
    for (config, fusions) in small.iter().flat_map(|config| ["all", "none"].map(|fusions| (config, fusions))) {
        let formats = stored_as.iter().map(|&stored| (stored, None));
        for (stored, weights) in formats.chain(integers.iter().map(|&format| (DType::Bf16, Some(format)))) {
            let of_kv = |&kv_dtype: &DType| Variant { config: config.clone(), stored, weights, kv_dtype, fusions };
            variants.extend(kv_dtypes.iter().map(of_kv));
        }
    }
    let bf16 = |config: &JambaConfig, weights, fusions| Variant {
        config: config.clone(),
        stored: DType::Bf16,
        weights,
        kv_dtype: DType::Bf16,
        fusions,
    };
    for config in [models::published("jamba-mini"), models::mid(), models::midmoe()] {
        variants.extend([bf16(&config, None, "all"), bf16(&config, None, "none")]);
        variants.extend(integers.iter().map(|&format| bf16(&config, Some(format), "all")));
    }
    for (_, preset) in Tiny::presets() {
        variants.push(bf16(&preset.config().expect("a config"), None, "all"));
    }
    variants
}

/// The kernels of all plans for a target, by symbol. For levels that change products of some formats, those.
fn kernels(target: Target) -> BTreeMap<String, Launch> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/jamba-mini");
    let mut model = ModelFile::open(&folder).expect("a model file");
    (model.limits.max_context, model.limits.kv_tokens) = (4096, None);
    let mut kernels = BTreeMap::new();
    for variant in variants(target.kind()) {
        model.build.fusion = variant.fusions.parse().expect("fusions");
        model.weights.default =
            variant.weights.map(|format| weight_format("weights.default", format).expect("a format"));
        model.limits.kv_dtype = Some(variant.kv_dtype);
        for (max_sequences, prefill_chunk) in [(1, 256), (16, 2048)] {
            (model.limits.max_sequences, model.limits.prefill_chunk) = (max_sequences, prefill_chunk);
            kernels.extend(kernels_of_a_plan(&model, &variant, target));
        }
    }
    let changes: Option<&[Elem]> = match target {
        VNNI | AMX => Some(&[Elem::I8, Elem::I4, Elem::I3]),
        AMX_BF16 => Some(&[Elem::Bf16]),
        _ => None,
    };
    if let Some(changes) = changes {
        let is_changed = |param: &Param| param.elem().is_some_and(|elem| changes.contains(&elem));
        kernels.retain(|_, kernel| kernel.params().iter().any(is_changed));
    }
    if target == Target::Sm90a {
        let formats = [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Int8, WeightFormat::Fp8];
        let draws = jambac_kernels::target::draws(target.kind(), formats);
        kernels.extend(draws.into_iter().map(|(_, kernel)| (kernel.symbol.clone(), kernel)));
    }
    kernels
}

fn kernels_of_a_plan(model: &ModelFile, variant: &Variant, target: Target) -> impl Iterator<Item = (String, Launch)> {
    let kind = target.kind();
    let mut entries = graphs(model, &variant.config, &|_| variant.stored, kind).expect("graphs");
    optimize(&mut entries, &fusion(model, kind)).expect("optimized graphs");
    let schedule = schedule(model, &entries, &[target], kind).expect("a schedule");
    schedule.kernels.into_iter().map(|kernel| (kernel.symbol.clone(), kernel))
}

/// What is recorded of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// Of the code.
    code: String,
    /// Of the MLIR.
    mlir: String,
}

/// By symbol and target.
type Records = BTreeMap<(String, String), Record>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The beginning of a digest.
fn short(text: &str) -> String {
    hex(&Sha256::digest(text)[..8])
}

/// The toolchain: the version of LLVM, and the digest of the sources that turn MLIR into code, without their comments.
fn toolchain() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compiler/codegen/src");
    let sources = ["compile.rs", "ffi.rs", "llvm.rs", "lower.rs", "ptx.rs"];
    let sources = sources.map(|name| std::fs::read_to_string(folder.join(name)).expect("a source of codegen"));
    format!("toolchain {} {}", llvm_version(), short(&without_comments(&sources.concat())))
}

/// The lines of a source that are not empty and not a comment.
fn without_comments(source: &str) -> String {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    source.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect()
}

/// The records of a kernel. `known` is that of the same kernel by the same toolchain.
fn record(target: Target, kernel: &Launch, known: Option<&Record>) -> Record {
    let text = emit_kernels(target, std::slice::from_ref(kernel)).replace(&kernel.symbol, "kernel");
    let mlir = short(&text);
    let is_sampled = mlir.starts_with('0');
    match known.filter(|known| known.mlir == mlir && !is_sampled) {
        Some(known) => known.clone(),
        None => Record { code: digest(target, kernel), mlir },
    }
}

fn digest(target: Target, kernel: &Launch) -> String {
    let symbol = &kernel.symbol;
    let mut hash = Sha256::new();
    match target {
        Target::Cpu(target) => {
            let object = compile_object(target, None, |module| module.add(kernel));
            hash_object(&object.unwrap_or_else(|error| panic!("{symbol}: {error}")), symbol, &mut hash);
        }
        Target::Sm90a => {
            let ptx = compile_ptx(std::slice::from_ref(kernel), None);
            hash_ptx(&ptx.unwrap_or_else(|error| panic!("{symbol}: {error}")), symbol, &mut hash);
        }
    }
    hex(&hash.finalize())
}

/// Hashes the sections that are loaded, with their relocations.
fn hash_object(object: &[u8], symbol: &str, hash: &mut Sha256) {
    let file = object::File::parse(object).expect("an ELF object");
    let mut n_code = 0;
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { panic!("{symbol}: no ELF section") };
        let has = |flag: elf::SectionFlags| sh_flags.0 & flag.0 != 0;
        if !has(elf::SHF_ALLOC) {
            continue;
        }
        let data = section.data().expect("a section's bytes");
        n_code += usize::from(has(elf::SHF_EXECINSTR) && !data.is_empty());
        let name = section.name().expect("a section's name").replace(symbol, "kernel");
        hash.update(format!("{name} {:x} {} {}\n", sh_flags.0, section.align(), data.len()));
        hash.update(data);
        for (offset, relocation) in section.relocations() {
            let target = match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let target = file.symbol_by_index(index).expect("a relocation's symbol");
                    let section = target.section_index().map(|index| file.section_by_index(index).expect("a section"));
                    let section =
                        section.map(|section| section.name().expect("a section's name").replace(symbol, "kernel"));
                    format!(
                        "{} {section:?} {}",
                        target.name().expect("a symbol's name").replace(symbol, "kernel"),
                        target.address()
                    )
                }
                target => panic!("{symbol}: a relocation to {target:?}"),
            };
            hash.update(format!("{offset} {:?} {target} {}\n", relocation.flags(), relocation.addend()));
        }
    }
    assert!(n_code == 1, "{symbol}: {n_code} sections of code, expected 1");
}

/// Hashes the text without comments, lines of source and labels that mark them.
fn hash_ptx(ptx: &str, symbol: &str, hash: &mut Sha256) {
    assert!(ptx.contains(&format!(".entry {symbol}(")), "{symbol}: no entry");
    let ptx = ptx.replace(symbol, "kernel");
    for line in ptx.lines() {
        let code = line.split("//").next().unwrap_or_default().trim_end();
        let first = code.split_whitespace().next().unwrap_or_default();
        let is_debug = [".loc", ".file", ".section"].contains(&first)
            || first.starts_with("$L__tmp")
            || first.starts_with("$L__func_");
        if !code.is_empty() && !is_debug {
            hash.update(code);
            hash.update("\n");
        }
    }
}

/// The records of all kernels. Those of `known` are by the same toolchain.
fn records(known: Records) -> Records {
    let all = thread::scope(|scope| {
        let of_targets = targets().map(|target| scope.spawn(move || (target, kernels(target))));
        of_targets.map(|thread| thread.join().expect("the kernels of a target"))
    });
    let jobs: Vec<(Target, &String, &Launch)> = all
        .iter()
        .flat_map(|(target, kernels)| kernels.iter().map(move |(symbol, kernel)| (*target, symbol, kernel)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((target, symbol, kernel)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let key = ((*symbol).clone(), target.name().to_owned());
            let record = record(*target, kernel, known.get(&key));
            done.push((key, record));
        }
        done
    };
    let n_threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("digests")).collect()
    })
}

fn golden_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/digests.txt")
}

/// The first line, and the records of the others.
fn parse(text: &str) -> (&str, Records) {
    let (toolchain, lines) = text.split_once('\n').unwrap_or_default();
    let line = |line: &str| {
        let [symbol, target, code, mlir] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("digests.txt: {line}")
        };
        ((symbol.to_owned(), target.to_owned()), Record { code: code.to_owned(), mlir: mlir.to_owned() })
    };
    (toolchain, lines.lines().map(line).collect())
}

/// What differs, a kernel a line: a kernel whose code is that of one that is gone was renamed.
fn difference(expected: &Records, found: &Records) -> Vec<String> {
    let mut lines = Vec::new();
    let gone: BTreeSet<_> = expected.keys().filter(|key| !found.contains_key(*key)).collect();
    let mut renamed = BTreeSet::new();
    for (key @ (symbol, target), record) in found {
        let change = match expected.get(key) {
            Some(expected) if expected == record => continue,
            Some(expected) if expected.code == record.code => "the same code from other MLIR".to_owned(),
            Some(_) => "changed".to_owned(),
            None => {
                let same_code = |gone: &&&(String, String)| gone.1 == *target && expected[**gone].code == record.code;
                match gone.iter().filter(|gone| !renamed.contains(**gone)).find(same_code) {
                    Some(old) => {
                        renamed.insert(*old);
                        format!("renamed from {}", old.0)
                    }
                    None => "new".to_owned(),
                }
            }
        };
        lines.push(format!("{symbol} {target}: {change}"));
    }
    lines.extend(gone.difference(&renamed).map(|(symbol, target)| format!("{symbol} {target}: gone")));
    lines
}

#[test]
fn kernels_are_compiled_to_the_recorded_code() {
    let path = golden_path();
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let updates = std::env::var_os("UPDATE_EXPECT").is_some();
    let (of_toolchain, recorded) = parse(&expected);
    let toolchain = toolchain();
    let is_known = of_toolchain == toolchain && !updates;
    let found = records(if is_known { recorded.clone() } else { Records::new() });
    let text = found.iter().fold(toolchain.clone() + "\n", |mut text, ((symbol, target), Record { code, mlir })| {
        writeln!(text, "{symbol} {target} {code} {mlir}").expect("a string");
        text
    });
    let mut lines = difference(&recorded, &found);
    if lines.is_empty() && !updates {
        return;
    }
    if of_toolchain != toolchain {
        lines.insert(0, format!("found {toolchain:?}, recorded was {of_toolchain:?}"));
    }
    if updates {
        std::fs::write(&path, text).expect("tests/golden is written");
        println!("{}", lines.join("\n"));
        return;
    }
    panic!(
        "tests/golden/digests.txt differs; UPDATE_EXPECT=1 records what was found, of {} kernels:\n{}",
        found.len(),
        lines.join("\n")
    );
}

#[test]
fn comments_are_no_part_of_the_toolchain() {
    let source = "//! A module.\n\nfn f() {\n    // one\n    g(\"//\");\n}\n";
    assert_eq!(without_comments(source), "fn f() {\n    g(\"//\");\n}\n");
}

#[test]
fn a_difference_names_what_changed_what_moved_and_what_is_gone() {
    let (_, expected) = parse("toolchain\na v3 1 m\nb v3 2 m\nc v3 3 m\nd v3 4 m\nf v3 5 m\n");
    let (_, found) = parse("toolchain\na v3 1 m\nb v3 9 m\nc2 v3 3 m\ne v3 5 m\nf v3 5 n\n");
    let lines =
        ["b v3: changed", "c2 v3: renamed from c", "e v3: new", "f v3: the same code from other MLIR", "d v3: gone"];
    assert_eq!(difference(&expected, &found), lines);
    assert_eq!(difference(&expected, &expected), [""; 0]);
}

/// What is hashed leaves out where the source lies and what the kernel is called, and nothing else.
#[test]
fn ptx_is_hashed_without_names_and_lines() {
    let digest = |ptx: &str, symbol: &str| {
        let mut hash = Sha256::new();
        hash_ptx(ptx, symbol, &mut hash);
        hash.finalize()
    };
    let first = digest(".entry silu_1(\n.loc 1 2 3\n  add.s32 %r1, %r2, 3; // inline\n$L__tmp1:\n", "silu_1");
    assert_eq!(first, digest("// another\n.entry silu_2(\n.loc 4 5 6\n  add.s32 %r1, %r2, 3;\n", "silu_2"));
    assert_ne!(first, digest(".entry silu_1(\n  add.s32 %r1, %r2, 4;\n", "silu_1"));
}

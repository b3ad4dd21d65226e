//! The data of `jambac inspect`: `--json` prints it, and the page of `--html` embeds it.

use std::collections::BTreeMap;
use std::path::Path;

use jamba_plan::format::{Arg, Buffer, Entry, Manifest, Program, TargetKind, Transform, Weight};
use serde::Serialize;

use super::layers::{self, Edge, Layer};
use super::measured::Measured;
use super::work::{self, Work};
use super::{OfKind, Parts, memory};

/// Default operations per byte of CPUs: a core with two 8-lane FMA units at 3 GHz reaches 96 GFLOP/s, at some 10 GB/s of memory
/// bandwidth.
pub const CPU_BALANCE: f64 = 10.0;

/// Operations per byte of an H100: 989 TFLOP/s in bf16 at 3.35 TB/s.
pub const H100_BALANCE: f64 = 295.0;

/// A plan, or parts of it.
#[derive(Serialize)]
pub struct Document<'a> {
    /// BLAKE3 of the plan, as hexadecimal digits.
    pub digest: String,
    /// Length of the file.
    pub file_bytes: u64,
    pub manifest: &'a Manifest,
    /// The kind of target that the following fields describe.
    pub kind: TargetKind,
    /// Memory of the open plan.
    pub memory: Pools,
    /// Work of each entry, by kind of kernel.
    pub work: Vec<EntryWork>,
    /// Measured times, on the page of `--html` with `--measured`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
    /// Work of the plan of `--against`, on the page of `--html`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
    /// Packed weights by format and parameters.
    pub weights: Vec<WeightTotal>,
    /// The map of the arena, with `--memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arena: Option<Vec<Arena<'a>>>,
    /// The steps with their work, with `--steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<EntrySteps<'a>>>,
    /// The entries as the plan holds them, with `--steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<&'a [Entry]>,
    /// Calls of each kernel, with `--kernels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Vec<Calls<'a>>>,
}

/// Bytes of an open plan.
#[derive(Serialize)]
pub struct Pools {
    weights: u64,
    arena: u64,
    state: u64,
    state_slot: u64,
    kv: u64,
    kv_page: u64,
    tables: u64,
    graphs: u64,
    total: u64,
}

/// Another plan's work.
#[derive(Serialize)]
pub struct Against {
    /// The path of the plan.
    pub plan: String,
    /// The fusions that it was built with.
    pub passes: Vec<String>,
    pub work: Vec<EntryWork>,
}

impl Against {
    /// The work of a plan for the same kind of target.
    pub fn new(path: &Path, OfKind { info, program, .. }: OfKind<'_>) -> Against {
        let work = (0..program.entries.len()).map(|entry| EntryWork::new(program, entry)).collect();
        Against { plan: path.display().to_string(), passes: info.passes.clone(), work }
    }
}

#[derive(Serialize)]
pub struct EntryWork {
    entry: String,
    tokens: f64,
    total: Work,
    kinds: BTreeMap<String, Work>,
}

/// Packed weights of one format and one set of parameters.
#[derive(Serialize)]
pub struct WeightTotal {
    /// `bf16`, or `int8 scales`.
    format: String,
    /// Names of the parameters, with numbers replaced by `*`.
    parameters: String,
    /// The number of weights.
    weights: u64,
    /// Their total length.
    bytes: u64,
}

/// The map of an entry's arena.
#[derive(Serialize)]
pub struct Arena<'a> {
    entry: String,
    arena: u64,
    peak_live: u64,
    buffers: &'a [Buffer],
}

#[derive(Serialize)]
pub struct EntrySteps<'a> {
    entry: String,
    tokens: f64,
    /// Operations per byte above which operations bound a step.
    balance: f64,
    steps: Vec<StepWork<'a>>,
    layers: Vec<Layer>,
    edges: Vec<Edge>,
}

#[derive(Serialize)]
struct StepWork<'a> {
    kernel: &'a str,
    op: &'a str,
    source: &'a str,
    barrier: bool,
    bytes: f64,
    operations: f64,
    /// Bytes of the packed weights among its arguments.
    weight_bytes: u64,
    /// `bytes` or `operations`, whichever takes longer at this balance.
    bound: &'static str,
    args: Vec<String>,
}

/// Calls of one kernel in each entry.
#[derive(Serialize)]
pub struct Calls<'a> {
    symbol: &'a str,
    calls: Vec<usize>,
}

impl<'a> Document<'a> {
    /// The chosen parts of a plan.
    pub fn new(OfKind { plan, info, program }: OfKind<'a>, parts: Parts) -> Document<'a> {
        let manifest = plan.manifest();
        let (memory, limits) = (&info.memory, &manifest.limits);
        let entries = &program.entries;
        let indices = || 0..entries.len();
        let balance = parts.balance.unwrap_or(match info.kind {
            TargetKind::Cpu => CPU_BALANCE,
            TargetKind::Sm90a => H100_BALANCE,
        });
        Document {
            digest: plan.digest().to_hex().to_string(),
            file_bytes: plan.header().file_bytes,
            manifest,
            kind: info.kind,
            memory: Pools {
                weights: memory.weights,
                arena: memory.arena,
                state: memory.state_pool(limits),
                state_slot: memory.state_slot,
                kv: memory.kv_pool(limits),
                kv_page: memory.kv_page,
                tables: memory.tables,
                graphs: memory.graphs,
                total: memory.total(limits),
            },
            measured: Vec::new(),
            against: None,
            work: indices().map(|entry| EntryWork::new(program, entry)).collect(),
            weights: weight_totals(&program.weights),
            arena: parts.memory.then(|| indices().map(|entry| Arena::new(entries, entry)).collect()),
            steps: parts.steps.then(|| indices().map(|entry| EntrySteps::new(program, entry, balance)).collect()),
            entries: parts.steps.then_some(entries),
            kernels: parts.kernels.then(|| {
                let symbol = |kernel: u32| program.kernels[kernel as usize].symbol.as_str();
                calls(program).into_iter().map(|(kernel, calls)| Calls { symbol: symbol(kernel), calls }).collect()
            }),
        }
    }
}

impl EntryWork {
    fn new(program: &Program, index: usize) -> EntryWork {
        let entry = &program.entries[index];
        EntryWork {
            entry: jamba_plan::text::entry_name(&program.entries, index),
            tokens: work::size(entry).tokens,
            total: work::total(entry),
            kinds: work::by_kind(program, entry),
        }
    }
}

impl<'a> Arena<'a> {
    fn new(entries: &'a [Entry], index: usize) -> Arena<'a> {
        let entry = &entries[index];
        Arena {
            entry: jamba_plan::text::entry_name(entries, index),
            arena: memory::arena_bytes(entry),
            peak_live: memory::peak_live_bytes(entry),
            buffers: &entry.buffers,
        }
    }
}

impl<'a> EntrySteps<'a> {
    fn new(program: &'a Program, index: usize, balance: f64) -> EntrySteps<'a> {
        let entry = &program.entries[index];
        let works = work::of_steps(entry);
        let layers = layers::layers(entry, &works);
        let steps = entry.steps.iter().zip(works).map(|(step, work)| {
            let kernel = &program.kernels[step.kernel as usize];
            let weight = |arg: &Arg| match arg {
                Arg::Weight(index) => program.weights[*index as usize].bytes,
                _ => 0,
            };
            StepWork {
                kernel: &kernel.symbol,
                op: &kernel.op,
                source: &step.source,
                barrier: step.barrier,
                bytes: work.bytes,
                operations: work.operations,
                weight_bytes: step.args.iter().map(weight).sum(),
                bound: if work.operations > balance * work.bytes { "operations" } else { "bytes" },
                args: step.args.iter().map(|&arg| jamba_plan::text::argument(arg)).collect(),
            }
        });
        EntrySteps {
            entry: jamba_plan::text::entry_name(&program.entries, index),
            tokens: work::size(entry).tokens,
            balance,
            steps: steps.collect(),
            layers,
            edges: layers::edges(entry),
        }
    }
}

/// Calls of each kernel by entry.
pub fn calls(program: &Program) -> BTreeMap<u32, Vec<usize>> {
    let mut calls: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (i, entry) in program.entries.iter().enumerate() {
        for step in &entry.steps {
            calls.entry(step.kernel).or_insert_with(|| vec![0; program.entries.len()])[i] += 1;
        }
    }
    calls
}

/// Weights by format and parameters, the largest first.
fn weight_totals(weights: &[Weight]) -> Vec<WeightTotal> {
    let mut totals: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for weight in weights {
        let format = match weight.transform {
            Transform::Scale(format) => format!("{} scales", format.name()),
            Transform::None | Transform::DecayRate => weight.format.name().to_owned(),
        };
        let parameters: Vec<String> = weight.parts.iter().map(|part| without_numbers(&part.parameter)).collect();
        let (n, bytes) = totals.entry((format, parameters.join(" + "))).or_default();
        *n += 1;
        *bytes += weight.bytes;
    }
    let mut totals: Vec<WeightTotal> = totals
        .into_iter()
        .map(|((format, parameters), (weights, bytes))| WeightTotal { format, parameters, weights, bytes })
        .collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.bytes));
    totals
}

/// `layers.*.mamba.in_proj.weight` of `model.layers.3.mamba.in_proj.weight`.
fn without_numbers(parameter: &str) -> String {
    let parts = parameter.strip_prefix("model.").unwrap_or(parameter).split('.');
    parts.map(|part| if part.parse::<u64>().is_ok() { "*" } else { part }).collect::<Vec<_>>().join(".")
}

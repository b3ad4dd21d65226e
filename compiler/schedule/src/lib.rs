//! jambac-schedule: graph → steps and memory. Every size in a plan is final here.
//!
//! [`schedule()`] takes the graphs of both entries and
//! 1. lays out what a sequence remembers: state slots and KV pages ([`states`]),
//! 2. orders the steps (`order`) and picks kernels for each (`select`), with the weights that they read ([`weights`]),
//! 3. puts a barrier before every step that would otherwise run into an earlier one (`barrier`),
//! 4. finds when each buffer lives (`liveness`) and lays all of them into one arena (`arena`),
//! 5. has the result proved by a checker that shares no code with the above ([`verify`]).
//!
//! Knows no device: a [`Schedule`] is what every target of a kind executes. [`text`] prints it.

mod arena;
mod barrier;
mod error;
mod liveness;
mod order;
mod select;
mod sm90;
pub mod states;
pub mod text;
pub mod verify;
pub mod weights;

use std::collections::BTreeMap;

use jamba_plan::format::{
    Arg, EntryKind, KV_PAGE_TOKENS, Limits, Logits, Memory, Picks, TargetKind, TensorMap, WeightFormat,
};
use jamba_plan::tables::{self, DeviceTables};
use jambac_graph::{Dim, Graph};
use jambac_kernels::kernel::{Access, Elem, Kernel, Param, Rows};

use liveness::Liveness;
use select::{BufferId, Context, Draft, Extents, Slot};
use states::StateLayout;
use weights::Weights;

pub use error::ScheduleError;
pub use states::{Pool, StateRegion};
pub use weights::{PlannedPart, PlannedWeight};

/// What a schedule is made for, beside the graphs.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What it runs on.
    pub kind: TargetKind,
    /// What the plan serves.
    pub limits: Limits,
    /// What parameters are stored as.
    pub formats: Formats,
}

/// What each group of parameters is stored as; `None` is what the checkpoint stores. Norm weights, biases, convolutions, A
/// and D are f32 always. A table that is a linear's weight too is stored once, in the linear's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Weights of linears, routers included.
    pub linear: Option<WeightFormat>,
    /// Weights of experts.
    pub experts: Option<WeightFormat>,
    /// The embedding table.
    pub embedding: Option<WeightFormat>,
    /// Whether every target reads f16; where one does not, f16 parameters are stored as f32.
    pub f16_native: bool,
}

/// The steps of both entries, what they read, and where everything lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What it runs on.
    pub kind: TargetKind,
    /// What it was made for.
    pub limits: Limits,
    /// The kernels of all steps, each symbol once, in order of first use.
    pub kernels: Vec<Kernel>,
    /// Packed weights, in order of offset, which is the order of first use.
    pub weights: Vec<PlannedWeight>,
    /// What sequences remember: conv and SSM state in slots, keys and values in pages.
    pub states: Vec<StateRegion>,
    /// Matrices of tensor copies, by index; none on CPUs.
    pub tensor_maps: Vec<TensorMap>,
    /// `prefill` and `decode`; a GPU may have several of the latter, the smaller first.
    pub entries: Vec<EntrySchedule>,
    /// Bytes of every pool. Slack behind a pool is not part of it.
    pub memory: Memory,
}

/// The steps of one entry and the buffers between them.
#[derive(Clone, Debug, PartialEq)]
pub struct EntrySchedule {
    /// Prefill or decode.
    pub kind: EntryKind,
    /// Largest number of tokens in one step.
    pub max_tokens: u64,
    /// Largest number of sequences in one step.
    pub max_sequences: u64,
    /// Largest number of rows of logits.
    pub max_outputs: u64,
    /// In order. Threads are together before the first and after the last; in between they meet at barriers alone.
    pub steps: Vec<Step>,
    /// Results of steps that later steps read, in order of the steps that write them.
    pub buffers: Vec<Buffer>,
    /// Where the logits are when all steps are done.
    pub logits: Logits,
    /// Where the last two steps leave tokens that they pick from the logits; None on CPUs.
    pub picks: Option<Picks>,
}

/// One kernel call by all threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Index into [`Schedule::kernels`].
    pub kernel: usize,
    /// What this step computes. Its code is that of the kernel with the same symbol; only the cost may differ (what the rows are).
    pub spec: Kernel,
    /// True when all threads must have finished every earlier step before this one begins.
    pub barrier: bool,
    /// The kernel's argument array, in the order of its parameters.
    pub args: Vec<Arg>,
    /// Where in the model it comes from.
    pub source: String,
}

/// A part of the arena that holds one value while it is needed, for the largest step that the entry takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Element type.
    pub elem: Elem,
    /// Index of the step that writes it.
    pub first: usize,
    /// Index of the last step that reads it; the last step of all where it is returned.
    pub last: usize,
    /// The buffer that it overwrites element by element in its first step, which is that one's last; an index.
    pub in_place_of: Option<usize>,
}

impl EntrySchedule {
    /// The slot of the kernel that writes a buffer: `out`.
    pub fn holds(&self, buffer: &Buffer) -> &'static str {
        let step = &self.steps[buffer.first];
        let result = step.spec.params().iter().zip(&step.args).find_map(|(param, &arg)| {
            let writes = matches!(param.access(), Some(Access::Write | Access::WriteOver));
            (writes && arg == Arg::Arena(buffer.offset)).then(|| param.name())
        });
        result.unwrap_or("nothing")
    }

    /// Bytes of arena that the entry uses.
    pub fn arena_bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.offset + buffer.bytes).max().unwrap_or(0)
    }

    /// The most bytes that are live in any step: no arena can be smaller. A buffer written in place is counted once.
    pub fn peak_live_bytes(&self) -> u64 {
        let mut live = vec![0; self.steps.len()];
        for buffer in &self.buffers {
            let first = buffer.first + usize::from(buffer.in_place_of.is_some());
            live.iter_mut().take(buffer.last + 1).skip(first).for_each(|bytes| *bytes += buffer.bytes);
        }
        live.into_iter().max().unwrap_or(0)
    }
}

/// The bytes that an open plan holds, for the graphs of both entries: what `fit` needs, without the rest.
///
/// # Errors
/// As [`schedule()`].
pub fn memory(prefill: &Graph, decode: &Graph, options: &Options) -> Result<Memory, ScheduleError> {
    schedule(prefill, decode, options).map(|schedule| schedule.memory)
}

/// Schedules both entries of a model.
///
/// # Errors
/// A graph that breaks its invariants; a node that no kernel takes; limits out of range; a format that a parameter cannot
/// have; entries that remember different states; sizes that no address space holds. [`ScheduleError::Broken`] is our fault.
pub fn schedule(prefill: &Graph, decode: &Graph, options: &Options) -> Result<Schedule, ScheduleError> {
    let Options { kind, limits, formats } = options;
    let kind = *kind;
    check_limits(limits)?;
    for graph in [prefill, decode] {
        jambac_graph::verify::verify(graph)?;
        check_sizes(graph)?;
    }
    if prefill.one_token {
        return Err(ScheduleError::Entry {
            entry: prefill.name.clone(),
            what: "a step".into(),
            found: "one token of each sequence".into(),
            expected: "any number".into(),
        });
    }
    let states = StateLayout::of(prefill, kind)?;
    states.check_same(&StateLayout::of(decode, kind)?, &decode.name)?;
    if states.page_bytes > 0 && limits.kv_tokens == 0 {
        let expected = format!("at least {KV_PAGE_TOKENS}: the model has attention layers");
        return Err(ScheduleError::Limit { name: "kv_tokens", found: 0, expected });
    }

    let mut weights = Weights::new(&[prefill, decode], *formats, kind);
    let mut drafts = Vec::new();
    for (entry, extents) in entries_of(kind, limits) {
        let graph = if entry == EntryKind::Prefill { prefill } else { decode };
        let mut context = Context { kind, entry, extents, limits, states: &states, weights: &mut weights };
        drafts.push((entry, extents, select::select(graph, &order::steps(graph), &mut context)?));
    }
    // One arena serves all entries, and cannot be smaller than any needs.
    let budget = drafts.iter().map(|(.., draft)| liveness::least_bytes(draft)).max().unwrap_or(0);
    let weight_bytes = weights.bytes();
    let mut shared = Shared { kernels: Kernels::default(), weights: weights.planned, maps: Vec::new() };
    let mut entries = Vec::new();
    for (entry, extents, draft) in drafts {
        entries.push(finish(entry, extents, draft, budget, &mut shared)?);
    }
    let arena = entries.iter().map(EntrySchedule::arena_bytes).max().unwrap_or(0);
    let memory = Memory {
        arena: arena.next_multiple_of(kind.align_bytes()),
        state_slot: states.slot_bytes,
        kv_page: states.page_bytes,
        weights: weight_bytes,
        tables: table_bytes(kind, limits, &entries, shared.maps.len()),
    };
    let schedule = Schedule {
        kind,
        limits: limits.clone(),
        kernels: shared.kernels.kernels,
        weights: shared.weights,
        states: states.regions,
        tensor_maps: shared.maps,
        entries,
        memory,
    };
    verify::verify(&schedule)?;
    Ok(schedule)
}

/// Step tables hold i32: no limit may be larger, and none but `kv_tokens` may be 0.
fn check_limits(limits: &Limits) -> Result<(), ScheduleError> {
    const MOST: u64 = i32::MAX as u64;
    let counts = [
        ("max_context", limits.max_context),
        ("max_sequences", limits.max_sequences),
        ("prefill_chunk", limits.prefill_chunk),
        ("max_outputs", limits.max_outputs),
    ];
    if let Some(&(name, found)) = counts.iter().find(|&&(_, found)| found == 0 || found > MOST) {
        return Err(ScheduleError::Limit { name, found, expected: format!("1 … {MOST}") });
    }
    let found = limits.kv_tokens;
    if found > MOST || !found.is_multiple_of(KV_PAGE_TOKENS) {
        let expected = format!("a multiple of {KV_PAGE_TOKENS} up to {MOST}");
        return Err(ScheduleError::Limit { name: "kv_tokens", found, expected });
    }
    Ok(())
}

/// Values of more elements than this are refused, so that padding and element sizes can be multiplied in: a quarter
/// of a quadrillion.
const MAX_ELEMENTS: usize = 1 << 48;

fn check_sizes(graph: &Graph) -> Result<(), ScheduleError> {
    for node in graph.order() {
        for ty in &graph.node(node).results {
            let mut sizes = ty.shape.iter().filter_map(|dim: &Dim| dim.fixed());
            let elements = sizes.try_fold(1_usize, |product, size| product.checked_mul(size));
            if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
                let name = graph.op(node).source_name().unwrap_or(&graph.node(node).source);
                return Err(ScheduleError::TooLarge { what: format!("{name}, {ty}") });
            }
        }
    }
    Ok(())
}

/// The entries, and the largest step of each: decode takes one token of every sequence. A GPU decodes a few sequences by other
/// kernels than many.
fn entries_of(kind: TargetKind, limits: &Limits) -> Vec<(EntryKind, Extents)> {
    let most = |tokens: u64| Extents {
        tokens,
        sequences: limits.max_sequences.min(tokens),
        outputs: limits.max_outputs.min(tokens),
    };
    let mut entries = vec![(EntryKind::Prefill, most(limits.prefill_chunk))];
    if kind == TargetKind::Sm90a && limits.max_sequences > sm90::FEW_SEQUENCES {
        entries.push((EntryKind::Decode, most(sm90::FEW_SEQUENCES)));
    }
    entries.push((EntryKind::Decode, most(limits.max_sequences)));
    entries
}

/// Bytes of the region of step tables; a GPU's holds counts and tensor maps too.
fn table_bytes(kind: TargetKind, limits: &Limits, entries: &[EntrySchedule], n_maps: usize) -> u64 {
    match kind {
        TargetKind::Cpu => tables::table_bytes(limits),
        TargetKind::Sm90a => {
            let args = entries.iter().flat_map(|entry| &entry.steps).flat_map(|step| &step.args);
            DeviceTables::new(limits, args.copied(), n_maps as u64).bytes
        }
    }
}

/// What the entries share.
struct Shared {
    kernels: Kernels,
    weights: Vec<PlannedWeight>,
    maps: Vec<TensorMap>,
}

/// Places the barriers and the buffers of an entry.
fn finish(
    kind: EntryKind,
    extents: Extents,
    draft: Draft,
    budget: u64,
    shared: &mut Shared,
) -> Result<EntrySchedule, ScheduleError> {
    let barriers = match draft.kind {
        TargetKind::Cpu => {
            let mut barriers = barrier::place(&draft.steps);
            liveness::split_runs(&draft, &mut barriers, budget);
            barriers
        }
        // A launch begins when the one before it is done.
        TargetKind::Sm90a => (0..draft.steps.len()).map(|step| step > 0).collect(),
    };
    let Liveness { lives, blocks, block_of } = liveness::liveness(&draft, &barriers);
    let arena = arena::plan(&blocks);
    let offset_of = |buffer: BufferId| arena.offsets[block_of[buffer.0]];

    let mut steps = Vec::with_capacity(draft.steps.len());
    for (step, barrier) in draft.steps.into_iter().zip(barriers) {
        let mut args = Vec::with_capacity(step.slots.len());
        for (param, slot) in step.kernel.params().iter().zip(step.slots) {
            let (arg, bytes) = match slot {
                Slot::Buffer(id) => (Arg::Arena(offset_of(id)), draft.buffers[id.0].bytes),
                Slot::Final(Arg::Weight(index)) => (Arg::Weight(index), shared.weights[index as usize].bytes),
                Slot::Final(arg) => (arg, 0),
            };
            args.push(match param {
                Param::TensorMap { map, .. } => sm90::add_map(&mut shared.maps, map, arg, bytes),
                _ => arg,
            });
        }
        let kernel = shared.kernels.add(&step.kernel)?;
        steps.push(Step { kernel, spec: step.kernel, barrier, args, source: step.source });
    }
    let mut buffers: Vec<Buffer> = (draft.buffers.iter().zip(&lives).enumerate())
        .map(|(index, (buffer, life))| Buffer {
            offset: offset_of(BufferId(index)),
            bytes: buffer.bytes,
            elem: buffer.elem,
            first: life.first,
            last: life.last,
            in_place_of: life.in_place_of.map(|id| id.0),
        })
        .collect();
    // What lies between two kernels of a node is written before its results; nothing of theirs is written in place.
    buffers.sort_by_key(|buffer| buffer.first);
    let (logits, vocab) = draft.logits;
    let row_stride = (select::row_elements(draft.kind, Elem::F32, vocab) * Elem::F32.bytes()) as u64;
    Ok(EntrySchedule {
        kind,
        max_tokens: extents.tokens,
        max_sequences: extents.sequences,
        max_outputs: extents.outputs,
        steps,
        buffers,
        logits: Logits { offset: offset_of(logits), row_stride, n: vocab as u64 },
        picks: draft.picks.map(|[likeliest, drawn]| Picks { likeliest: offset_of(likeliest), drawn: offset_of(drawn) }),
    })
}

/// Kernels, each symbol once, in order of first use.
#[derive(Default)]
struct Kernels {
    kernels: Vec<Kernel>,
    by_symbol: BTreeMap<String, usize>,
}

impl Kernels {
    /// The index of the kernel with this one's symbol.
    fn add(&mut self, kernel: &Kernel) -> Result<usize, ScheduleError> {
        let symbol = kernel.symbol();
        let Some(&index) = self.by_symbol.get(&symbol) else {
            self.by_symbol.insert(symbol, self.kernels.len());
            self.kernels.push(kernel.clone());
            return Ok(self.kernels.len() - 1);
        };
        if code(&self.kernels[index]) != code(kernel) {
            let (first, second) = (format!("{:?}", self.kernels[index]), format!("{kernel:?}"));
            return Err(ScheduleError::Symbol { symbol, first, second });
        }
        Ok(index)
    }
}

/// The kernel without what only its cost depends on.
fn code(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    match &mut kernel {
        Kernel::RmsNorm(spec) => spec.rows = Rows::Tokens,
        Kernel::Linear(spec) => spec.rows = Rows::Tokens,
        Kernel::SplitLinear(spec) => spec.rows = Rows::Tokens,
        Kernel::LinearSwiglu(spec) => spec.rows = Rows::Tokens,
        Kernel::Elementwise(spec) => spec.rows_per_token = 1,
        Kernel::GroupedLinear(spec) => spec.top_k = 1,
        Kernel::GroupedSwiglu(spec) => (spec.top_k, spec.rows) = (1, Rows::Tokens),
        Kernel::GroupedCombine(spec) => spec.rows = Rows::Tokens,
        Kernel::Sm90(kernel) => sm90::forget_rows(kernel),
        _ => {}
    }
    kernel
}

#[cfg(test)]
mod tests;

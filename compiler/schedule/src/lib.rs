//! jambac-schedule: graph → steps and memory. All sizes in a plan are final after this phase.
//!
//! [`schedule()`] takes the graphs of both entries and
//! 1. selects a kernel for each node, which supplies launches, operands and cost (`select`),
//! 2. lays out the states of a sequence (state slots and KV pages, [`states`]) and the packed weights ([`weights`]),
//! 3. orders the steps (`order`) and places a barrier before every step that depends on a step since the last barrier
//!    (`barrier`),
//! 4. computes the live range of each buffer (`liveness`) and places all buffers in one arena (`arena`),
//! 5. verifies the result with a checker that shares no code with the planner ([`verify`]).
//!
//! This crate does not branch on targets: kernels and [`jambac_kernels::target`] provide all target-dependent properties. The
//! result consists of the plan's own records. [`text`] prints them.

mod arena;
mod barrier;
mod error;
mod liveness;
mod order;
pub mod schedule;
mod select;
pub mod states;
pub mod text;
pub mod verify;
pub mod weights;

use std::collections::BTreeMap;

use jamba_plan::format::{
    Arg, Buffer, Entry, EntryKind, KV_PAGE_TOKENS, KernelRecord, Limits, Logits, Memory, Picks, Program, Step,
    TargetKind, TensorMap, Weight,
};
use jamba_plan::{graphs, tables};
use jambac_graph::{Dim, Graph};
use jambac_kernels::kernel::{Access, Launch, Param};
use jambac_kernels::target;

use liveness::Liveness;
use select::{BufferId, Context, Draft, Extents, Slot};
use states::StateLayout;
use weights::{FormatRules, Weights};

pub use error::ScheduleError;
pub use schedule::{Formats, Options, Schedule};
pub use states::{Pool, StateRegion};

/// The memory that an open plan needs for the graphs of both entries.
///
/// # Errors
/// See [`schedule()`].
pub fn memory(prefill: &Graph, decode: &Graph, options: &Options) -> Result<Memory, ScheduleError> {
    plan(prefill, decode, options).map(|schedule| schedule.memory)
}

/// Schedules both entries of a model.
///
/// # Errors
/// A graph that violates its invariants; a node without a kernel; limits out of range; an unsupported format for a parameter;
/// entries with different states; sizes beyond the address space. [`ScheduleError::Broken`] is a compiler bug.
pub fn schedule(prefill: &Graph, decode: &Graph, options: &Options) -> Result<Schedule, ScheduleError> {
    let schedule = plan(prefill, decode, options)?;
    verify::verify(&schedule)?;
    Ok(schedule)
}

fn plan(prefill: &Graph, decode: &Graph, options: &Options) -> Result<Schedule, ScheduleError> {
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
    let rules = FormatRules::new(&[prefill, decode], formats.clone(), kind);
    let states = StateLayout::of(prefill, &rules)?;
    states.check_same(&StateLayout::of(decode, &rules)?, &decode.name)?;
    if states.page_bytes > 0 && limits.kv_tokens == 0 {
        let expected = format!("at least {KV_PAGE_TOKENS}: the model has attention layers");
        return Err(ScheduleError::Limit { name: "kv_tokens", found: 0, expected });
    }

    let mut weights = Weights::new(kind);
    let mut drafts = Vec::new();
    for (entry, extents) in entries_of(kind, limits) {
        let graph = if entry == EntryKind::Prefill { prefill } else { decode };
        let mut context = Context { rules: &rules, entry, extents, limits, states: &states, weights: &mut weights };
        drafts.push((entry, extents, select::select(graph, &order::steps(graph), &mut context)?));
    }
    // All entries share one arena. It is at least as large as the minimum of every entry.
    let budget = drafts.iter().map(|(.., draft)| liveness::least_bytes(draft, kind)).max().unwrap_or(0);
    let weight_bytes = weights.bytes();
    let mut shared = Shared { kind, kernels: Kernels::default(), weights: weights.planned, maps: Vec::new() };
    let mut entries = Vec::new();
    for (entry, extents, draft) in drafts {
        entries.push(finish(entry, extents, draft, budget, &mut shared));
    }
    let arena = entries.iter().map(Schedule::arena_bytes).max().unwrap_or(0);
    let args = entries.iter().flat_map(|entry| &entry.steps).flat_map(|step| step.args.iter().copied());
    let memory = Memory {
        arena: arena.next_multiple_of(kind.align_bytes()),
        state_slot: states.slot_bytes,
        kv_page: states.page_bytes,
        weights: weight_bytes,
        tables: tables::region_bytes(kind, limits, args),
        graphs: graphs::region_bytes(kind, &entries),
    };
    let Kernels { launches: kernels, recipes, .. } = shared.kernels;
    let record = |(launch, recipe): (&Launch, String)| KernelRecord {
        symbol: launch.symbol.clone(),
        op: launch.op.to_owned(),
        operands: launch.signature().unwrap_or_default(),
        recipe,
    };
    let program = Program {
        kernels: kernels.iter().zip(recipes).map(record).collect(),
        weights: shared.weights,
        tensor_maps: shared.maps,
        entries,
    };
    Ok(Schedule { kind, limits: limits.clone(), kernels, program, states: states.regions, memory })
}

/// Checks that limits fit into step tables (i32) and that all except `kv_tokens` are positive.
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

/// Maximum number of elements of a value. It leaves room to multiply by padding and element sizes without overflow.
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

/// The entries with the largest step of each. A decode step takes one token of every sequence. A target may have a decode entry
/// for few sequences before the one for all sequences.
fn entries_of(kind: TargetKind, limits: &Limits) -> Vec<(EntryKind, Extents)> {
    let most = |tokens: u64| Extents {
        tokens,
        sequences: limits.max_sequences.min(tokens),
        outputs: limits.max_outputs.min(tokens),
    };
    let decode = target::decode_sizes(kind, limits.max_sequences);
    let prefill = [(EntryKind::Prefill, most(limits.prefill_chunk))];
    prefill.into_iter().chain(decode.into_iter().map(|sequences| (EntryKind::Decode, most(sequences)))).collect()
}

/// Data shared by the entries.
struct Shared {
    kind: TargetKind,
    kernels: Kernels,
    weights: Vec<Weight>,
    maps: Vec<TensorMap>,
}

/// Places the barriers and the buffers of an entry.
fn finish(kind: EntryKind, extents: Extents, draft: Draft, budget: u64, shared: &mut Shared) -> Entry {
    let barriers = if target::steps_overlap(shared.kind) {
        let mut barriers = barrier::place(&draft.steps);
        liveness::split_runs(&draft, shared.kind, &mut barriers, budget);
        barriers
    } else {
        (0..draft.steps.len()).map(|step| step > 0).collect()
    };
    let Liveness { lives, blocks, block_of } = liveness::liveness(&draft, shared.kind, &barriers);
    let arena = arena::plan(&blocks);
    let offset_of = |buffer: BufferId| arena.offsets[block_of[buffer.0]];

    let reads = reads(&draft);
    let mut buffers: Vec<Buffer> = (draft.buffers.iter().zip(&lives).enumerate())
        .map(|(index, (buffer, life))| Buffer {
            offset: offset_of(BufferId(index)),
            bytes: buffer.bytes,
            first: life.first as u32,
            last: life.last as u32,
            reads: reads[index],
            holds: buffer.holds.to_owned(),
            in_place_of: life.in_place_of.map(|id| id.0 as u32),
        })
        .collect();
    // Scratch between two launches of a node is written before the node's results, so no result may overwrite it.
    buffers.sort_by_key(|buffer| buffer.first);
    let mut steps = Vec::with_capacity(draft.steps.len());
    for (step, barrier) in draft.steps.into_iter().zip(barriers) {
        let args = (step.launch.operands.iter().zip(&step.slots))
            .map(|(operand, &slot)| {
                let (arg, bytes) = match slot {
                    Slot::Buffer(id) => (Arg::Arena(offset_of(id)), draft.buffers[id.0].bytes),
                    Slot::Final(Arg::Weight(index)) => (Arg::Weight(index), shared.weights[index as usize].bytes),
                    Slot::Final(arg) => (arg, 0),
                };
                match &operand.param {
                    Param::TensorMap { map, .. } => add_map(&mut shared.maps, map.of(arg, bytes)),
                    _ => arg,
                }
            })
            .collect();
        steps.push(Step {
            barrier,
            args,
            rows: step.rows,
            launch: step.launch.grid.map(|grid| grid.at(step.rows)),
            pick: step.pick,
            source: step.source,
            cost: step.launch.cost.of(step.rows),
            kernel: shared.kernels.add(step.launch, step.recipe),
        });
    }
    let (logits, vocab) = draft.logits;
    let offset = offset_of(logits);
    Entry {
        kind,
        max_tokens: extents.tokens,
        max_sequences: extents.sequences,
        max_outputs: extents.outputs,
        logits: Logits { offset, row_stride: draft.buffers[logits.0].row_bytes, n: vocab as u64 },
        picks: draft.picks.map(|[likeliest, drawn]| Picks { likeliest: offset_of(likeliest), drawn: offset_of(drawn) }),
        steps,
        buffers,
    }
}

/// Number of arguments that read each buffer.
fn reads(draft: &Draft) -> Vec<u32> {
    let mut reads = vec![0; draft.buffers.len()];
    for buffer in draft.steps.iter().flat_map(|step| step.buffers(Access::Read)) {
        reads[buffer.0] += 1;
    }
    reads
}

/// Adds a tensor map, or reuses an equal one, and returns its argument.
fn add_map(maps: &mut Vec<TensorMap>, map: TensorMap) -> Arg {
    let index = maps.iter().position(|known| *known == map).unwrap_or_else(|| {
        maps.push(map);
        maps.len() - 1
    });
    Arg::TensorMap(index as u32)
}

/// Kernels with unique symbols, in order of first use.
#[derive(Default)]
struct Kernels {
    launches: Vec<Launch>,
    /// As text, one for each launch.
    recipes: Vec<String>,
    by_symbol: BTreeMap<String, u32>,
}

impl Kernels {
    /// The index of the kernel with this launch's symbol; adds the kernel if it is new.
    fn add(&mut self, launch: Launch, recipe: String) -> u32 {
        *self.by_symbol.entry(launch.symbol.clone()).or_insert_with(|| {
            self.launches.push(launch);
            self.recipes.push(recipe);
            self.launches.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests;

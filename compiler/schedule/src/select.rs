//! Kernel selection: node → launches with arguments.
//!
//! A kernel declares the source of each operand ([`Source`]). This module turns each source into a buffer, a weight or an
//! argument. Later phases handle steps and buffers only.

use std::collections::BTreeMap;

use jamba_plan::format::{Arg, EntryKind, Limits, Pick};
use jamba_plan::tables;
use jambac_graph::{Graph, NodeId, Op, ValueId};
use jambac_kernels::catalog::Recipe;
use jambac_kernels::kernel::{
    Access, Config, Elem, Kernel, Launch, Operand, Per, Rows, Source, StepSize, choose, count_of,
};
use jambac_kernels::node::{Node, SelectError};
use jambac_kernels::{catalog, target};

use crate::ScheduleError;
use crate::states::{StateLayout, StateRegion};
use crate::weights::{FormatRules, Weights};

/// Index of a buffer in its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BufferId(pub(crate) usize);

/// An argument before memory planning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The address of a buffer.
    Buffer(BufferId),
    /// Any other argument; it does not change.
    Final(Arg),
}

/// A step before memory planning.
#[derive(Debug)]
pub(crate) struct DraftStep {
    pub(crate) launch: Launch,
    /// The launch's [`Recipe`] as text.
    pub(crate) recipe: String,
    pub(crate) rows: Rows,
    pub(crate) slots: Vec<Slot>,
    pub(crate) pick: Option<Pick>,
    pub(crate) source: String,
}

impl DraftStep {
    /// The slots with the access of the launch to each.
    pub(crate) fn accesses(&self) -> impl Iterator<Item = (Option<Access>, Slot)> {
        self.launch.operands.iter().map(|operand| operand.param.access()).zip(self.slots.iter().copied())
    }

    /// The buffers that the launch accesses in this way.
    pub(crate) fn buffers(&self, access: Access) -> impl Iterator<Item = BufferId> {
        self.accesses().filter_map(move |(found, slot)| match slot {
            Slot::Buffer(id) if found == Some(access) => Some(id),
            _ => None,
        })
    }
}

/// A buffer before memory planning.
#[derive(Debug)]
pub(crate) struct DraftBuffer {
    pub(crate) bytes: u64,
    pub(crate) elem: Elem,
    /// Distance between rows in bytes.
    pub(crate) row_bytes: u64,
    /// Name of the operand that writes the buffer.
    pub(crate) holds: &'static str,
}

/// The steps of an entry before memory planning.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) steps: Vec<DraftStep>,
    pub(crate) buffers: Vec<DraftBuffer>,
    /// The buffer of the logits, and the number of logits per row.
    pub(crate) logits: (BufferId, usize),
    /// The buffers of the most likely and of the drawn tokens, on targets that pick tokens.
    pub(crate) picks: Option<[BufferId; 2]>,
}

/// The largest step of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extents {
    pub(crate) tokens: u64,
    pub(crate) sequences: u64,
    pub(crate) outputs: u64,
}

impl Extents {
    /// The size of a dimension in a step that processes `rows`.
    pub(crate) fn size(&self, per: Per, rows: Rows) -> u64 {
        let (count, factor) = count_of(per, 1, rows);
        target::count(count, [self.tokens, self.sequences, self.outputs]) * u64::from(factor)
    }
}

/// Inputs and accumulated results of selection besides the graph.
pub(crate) struct Context<'a> {
    pub(crate) rules: &'a FormatRules,
    pub(crate) entry: EntryKind,
    pub(crate) extents: Extents,
    pub(crate) limits: &'a Limits,
    pub(crate) states: &'a StateLayout,
    pub(crate) weights: &'a mut Weights,
}

/// What a node becomes.
pub(crate) struct Lowered {
    pub(crate) launches: Vec<Launch>,
    pub(crate) recipe: Recipe,
    pub(crate) rows: Rows,
}

/// The launches of a node in a step of this size.
pub(crate) fn launches(node: &Node, entry: EntryKind, extents: Extents) -> Result<Lowered, SelectError> {
    let kind = node.target();
    let selected = catalog::select(node)?;
    let recipe = |config: Config| Recipe { spec: selected.spec.clone(), config };
    selected.spec.supports(kind).map_err(|reason| node.fail(reason.0))?;
    let rows = extents.size(Per::Row, Rows { per: 1, ..selected.rows });
    let step = StepSize { entry, sequences: extents.sequences, rows };
    let config = choose(&selected.spec, kind, &step).ok_or_else(|| node.fail("no config fits the step"))?;
    Ok(Lowered { launches: selected.spec.lower(kind, config), recipe: recipe(config), rows: selected.rows })
}

/// Selects launches for every node of a verified graph, in the given order.
pub(crate) fn select(graph: &Graph, order: &[NodeId], context: &mut Context) -> Result<Draft, ScheduleError> {
    let mut builder = Builder { graph, context, steps: Vec::new(), buffers: Vec::new(), buffer_of: BTreeMap::new() };
    for &id in order {
        builder.add_node(id)?;
    }
    let entry_error = |found: String| ScheduleError::Entry {
        entry: graph.name.clone(),
        what: "output logits".into(),
        found,
        expected: "f32[outputs, vocab], the result of a step".into(),
    };
    let logits = *graph.outputs().get("logits").ok_or_else(|| entry_error("absent".into()))?;
    let buffer = *builder.buffer_of.get(&logits).ok_or_else(|| entry_error(graph.op(logits.node).name().into()))?;
    let n = graph.ty(logits).cols().ok_or_else(|| entry_error(graph.ty(logits).to_string()))?;
    let picks = builder.add_picks(buffer, n)?;
    Ok(Draft { steps: builder.steps, buffers: builder.buffers, logits: (buffer, n), picks })
}

/// Accumulates the steps and buffers of an entry.
struct Builder<'a, 'c> {
    graph: &'a Graph,
    context: &'a mut Context<'c>,
    steps: Vec<DraftStep>,
    buffers: Vec<DraftBuffer>,
    buffer_of: BTreeMap<ValueId, BufferId>,
}

impl Builder<'_, '_> {
    fn add_node(&mut self, id: NodeId) -> Result<(), ScheduleError> {
        let rules = self.context.rules;
        let node = Node::new(self.graph, id, rules);
        let refuse = |error: SelectError| ScheduleError::of_node(self.graph, id, error);
        let Lowered { launches, recipe, rows } =
            launches(&node, self.context.entry, self.context.extents).map_err(refuse)?;
        let recipe = recipe.text();
        for result in 0..self.graph.node(id).results.len() {
            // The new state overwrites the old one.
            if self.graph.op(id).state().is_none_or(|state| state.result != result) {
                let written = written_by(&launches, &Source::Result(result));
                let operand = written.ok_or_else(|| refuse(node.fail(format!("no launch writes result {result}"))))?;
                let buffer = self.buffer(operand, rows).map_err(|reason| refuse(node.fail(reason)))?;
                self.buffer_of.insert(ValueId { node: id, result }, buffer);
            }
        }
        let mut scratch = BTreeMap::new();
        for launch in launches {
            let mut slots: Vec<Slot> = Vec::with_capacity(launch.operands.len());
            for (at, operand) in launch.operands.iter().enumerate() {
                if let (Source::Scratch(name), Some(Access::Write)) = (&operand.source, operand.param.access()) {
                    let buffer = self.buffer(operand, rows).map_err(|reason| refuse(node.fail(reason)))?;
                    scratch.insert(*name, buffer);
                }
                let slot = match operand.source {
                    // Scales are packed directly before their integers.
                    Source::Scales => scales(&launch.operands[..at], &slots),
                    _ => self.slot(&node, operand, rows, &scratch)?,
                };
                let slot = slot.ok_or_else(|| refuse(node.fail(format!("nothing fills slot {}", operand.name()))))?;
                self.check_elem(operand, slot).map_err(|reason| refuse(node.fail(reason)))?;
                slots.push(slot);
            }
            let source = self.graph.node(id).source.clone();
            self.steps.push(DraftStep { launch, recipe: recipe.clone(), rows, slots, pick: None, source });
        }
        Ok(())
    }

    /// The slot for an operand of a node's launch.
    fn slot(
        &mut self,
        node: &Node,
        operand: &Operand,
        rows: Rows,
        scratch: &BTreeMap<&str, BufferId>,
    ) -> Result<Option<Slot>, ScheduleError> {
        let refuse = |error: SelectError| ScheduleError::of_node(node.graph, node.id, error);
        let computed = |of: usize| {
            let buffer = self.buffer_of.get(&node.operands[of]).map(|&id| Slot::Buffer(id));
            buffer.ok_or_else(|| refuse(node.fail_operand(of, "the result of a step")))
        };
        let constant = |value: u64| Some(Slot::Final(Arg::Constant(value)));
        let StateLayout { slot_bytes, page_bytes, .. } = *self.context.states;
        Ok(match operand.source {
            Source::Operand(of) => Some(computed(of)?),
            Source::Result(result) => {
                self.buffer_of.get(&ValueId { node: node.id, result }).map(|&id| Slot::Buffer(id))
            }
            Source::Scratch(name) => scratch.get(name).map(|&id| Slot::Buffer(id)),
            Source::SlotsOf(of) => {
                let sorted = node.slots_of(node.operands[of]).and_then(|slots| self.buffer_of.get(&slots));
                sorted.map(|&id| Slot::Buffer(id))
            }
            Source::Weight(ref weight) => {
                let elem = operand.param.elem().unwrap_or(Elem::F32);
                let index = self.context.weights.add(node, weight, elem)?;
                Some(Slot::Final(Arg::Weight(index as u32)))
            }
            Source::Table(table) => Some(Slot::Final(Arg::Table(table))),
            Source::Input(of, table) => match node.graph.op(node.operands[of].node) {
                Op::Input { name, .. } if name == table.name() => Some(Slot::Final(Arg::Table(table))),
                _ => return Err(refuse(node.fail_operand(of, &format!("input {}", table.name())))),
            },
            Source::Count(per, factor) => {
                let (count, factor) = count_of(per, factor, rows);
                Some(Slot::Final(Arg::Count(count, factor)))
            }
            Source::State => Some(Slot::Final(Arg::State(self.own_state(node)?.offset))),
            Source::SlotStride => constant(slot_bytes / self.own_state(node)?.elem.bytes() as u64),
            Source::Pages(of) => Some(Slot::Final(Arg::Kv(self.region(node, of)?.offset))),
            Source::PageStride(of) => constant(page_bytes / self.region(node, of)?.elem.bytes() as u64),
            Source::PagesPerSequence => constant(tables::pages_per_sequence(self.context.limits)),
            Source::Scales | Source::Caller => None,
        })
    }

    /// The region of the state that the node updates.
    fn own_state(&self, node: &Node) -> Result<&StateRegion, ScheduleError> {
        let state = node.op().state().map(|state| state.operand);
        let refuse = || ScheduleError::of_node(node.graph, node.id, node.fail("it has no state"));
        self.region(node, state.ok_or_else(refuse)?)
    }

    /// The region of a state operand. An updated state has the region of the state before the update.
    fn region(&self, node: &Node, operand: usize) -> Result<&StateRegion, ScheduleError> {
        let mut value = node.operands[operand];
        if let Some(state) = node.graph.op(value.node).state() {
            value = node.graph.operands(value.node)[state.operand];
        }
        let name = node.graph.op(value.node).source_name();
        let region = name.and_then(|name| self.context.states.region(name));
        region.ok_or_else(|| ScheduleError::of_node(node.graph, node.id, node.fail_operand(operand, "a state")))
    }

    /// Adds a buffer for an operand that a launch writes, sized for the largest step.
    fn buffer(&mut self, operand: &Operand, rows: Rows) -> Result<BufferId, String> {
        let elem = operand.param.elem().ok_or_else(|| format!("slot {} is no buffer", operand.name()))?;
        let bytes = operand.bytes(|per| self.context.extents.size(per, rows));
        let bytes = bytes.filter(|&bytes| bytes <= MAX_BUFFER_BYTES);
        let bytes = bytes.ok_or_else(|| format!("slot {} is too large", operand.name()))?;
        let row_bytes = (operand.param.row_elements() * elem.bytes()) as u64;
        self.buffers.push(DraftBuffer { bytes, elem, row_bytes, holds: operand.name() });
        Ok(BufferId(self.buffers.len() - 1))
    }

    /// Checks that a value is read with the element type with which it was stored.
    fn check_elem(&self, operand: &Operand, slot: Slot) -> Result<(), String> {
        match (slot, operand.param.elem()) {
            (Slot::Buffer(id), Some(takes)) if takes != self.buffers[id.0].elem => {
                let (name, found) = (operand.name(), self.buffers[id.0].elem.name());
                Err(format!("slot {name} is a value stored as {found}, expected {}", takes.name()))
            }
            _ => Ok(()),
        }
    }

    /// Adds the steps that pick a token for each row of logits, on targets that have them.
    fn add_picks(&mut self, logits: BufferId, vocab: usize) -> Result<Option<[BufferId; 2]>, ScheduleError> {
        const SOURCE: &str = "sampler";
        let mut tokens = Vec::new();
        for (pick, launch, recipe) in target::picks(self.context.rules.kind, vocab) {
            let unsupported = |reason| ScheduleError::Unsupported { place: SOURCE.to_owned(), op: launch.op, reason };
            let mut slots = Vec::new();
            for operand in &launch.operands {
                slots.push(match operand.source {
                    Source::Operand(_) => Slot::Buffer(logits),
                    Source::Table(table) => Slot::Final(Arg::Table(table)),
                    Source::Count(per, factor) => {
                        let (count, factor) = count_of(per, factor, Rows::OUTPUTS);
                        Slot::Final(Arg::Count(count, factor))
                    }
                    _ => {
                        tokens.push(self.buffer(operand, Rows::OUTPUTS).map_err(unsupported)?);
                        Slot::Buffer(tokens[tokens.len() - 1])
                    }
                });
            }
            let source = SOURCE.to_owned();
            let recipe = recipe.text();
            self.steps.push(DraftStep { launch, recipe, rows: Rows::OUTPUTS, slots, pick: Some(pick), source });
        }
        Ok(<[BufferId; 2]>::try_from(tokens).ok())
    }
}

/// The operand with which the launches write a result.
fn written_by<'a>(launches: &'a [Launch], source: &Source) -> Option<&'a Operand> {
    let writes = |operand: &&Operand| {
        &operand.source == source && matches!(operand.param.access(), Some(Access::Write | Access::WriteOver))
    };
    launches.iter().flat_map(|launch| &launch.operands).find(writes)
}

/// The scales of the weight among the slots filled so far.
fn scales(operands: &[Operand], slots: &[Slot]) -> Option<Slot> {
    operands.iter().zip(slots).rev().find_map(|(operand, slot)| match (&operand.source, slot) {
        (Source::Weight(_), Slot::Final(Arg::Weight(index))) => Some(Slot::Final(Arg::Weight(index.checked_sub(1)?))),
        _ => None,
    })
}

/// Maximum size of a buffer in bytes. It keeps the sum over all buffers from overflowing.
const MAX_BUFFER_BYTES: u64 = 1 << 50;

#[cfg(test)]
mod tests;

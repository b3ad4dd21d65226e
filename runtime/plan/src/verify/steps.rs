//! Checks every argument of every step against the operand that its kernel states, in the largest step of the entry.
//!
//! 1. **kind**: an address where the kernel takes an address, of the region that it takes; counts, strides and constants have the
//!    one value that follows from operand, rows and memory; tables are the named ones
//! 2. **extent**: the rows that the kernel accesses in the largest step are inside the arena, a state slot or a KV page, aligned;
//!    a weight has the stated format, layout, parts and transform; a table that tokens index has a row for each token of the
//!    vocabulary; scales belong to the integers before them; a tensor map describes all rows of its matrix in the stated boxes
//! 3. **data flow**: a value is read whole, with its element type and rows, from an address where an earlier step has written
//!    it, and nothing has been written over it since; a written range shares no byte with other arguments of the step, except
//!    with an operand of the same shape if the kernel allows it
//! 4. **barriers**: of two steps without a barrier in between, neither writes bytes that the other accesses
//! 5. **agreement**: the buffers are the values of the steps, with their live ranges and numbers of reads; the logits are one of
//!    them; state regions are the same or disjoint; all entries use the same weights and states in the same layers, the parameters of
//!    a layer in the same order
//!
//! A plan states the operands beside the code that they describe, not in the reader's own copy of the catalog. A reader with a
//! catalog would have to change with every kernel, and would know no more: whoever can lie about the operands of a kernel can as
//! well lie in its code. What the checks prove is that a plan is safe if its code does what its operands say. `jambac verify
//! --code` compares both with the catalog.

mod flow;

use std::collections::{BTreeMap, BTreeSet};

use super::Against;
use crate::PlanError;
use crate::cost::Amount;
use crate::format::{
    Access, Arg, Count, Elem, Entry, Matrix, MatrixBoxes, Operand, Per, Program, Shape, Step, Table, TensorMap,
    Transform, WeightFormat, WeightShape,
};
use crate::tables;

use flow::{Flow, Touch};

/// Memory that steps write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pool {
    Arena,
    /// Each slot of the state pool.
    Slots,
    /// Each page of the KV pool.
    Pages,
}

/// Bytes of a pool, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    pool: Pool,
    start: u64,
    end: u64,
}

/// A state of each sequence, or keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Region {
    range: Range,
    elem: Elem,
}

/// The weights and states that the steps of an entry use, each with the layer of the step.
#[derive(Debug, PartialEq, Eq)]
struct Uses<'a> {
    weights: BTreeSet<(u32, &'a str)>,
    states: BTreeSet<(Region, &'a str)>,
    /// The parameters of each layer in the order in which they are first used.
    order: BTreeMap<&'a str, Vec<&'a str>>,
}

/// The layer of a step's source: `layers.3` of `layers.3.mamba`. Fusions keep it; a fused step has the source of one of the steps that it
/// replaces.
fn layer(source: &str) -> &str {
    let Some(number) = source.strip_prefix("layers.") else { return source };
    let end = number.find('.').unwrap_or(number.len());
    &source[..source.len() - number.len() + end]
}

impl<'a> Uses<'a> {
    fn add(&mut self, program: &'a Program, weight: u32, layer: &'a str) {
        if !self.weights.insert((weight, layer)) {
            return;
        }
        let parts = program.weights.get(weight as usize).map_or(&[][..], |weight| &weight.parts);
        let order = self.order.entry(layer).or_default();
        for part in parts {
            if !order.contains(&part.parameter.as_str()) {
                order.push(&part.parameter);
            }
        }
    }
}

/// An argument that fits its operand.
enum Bound {
    /// A value in the arena. A matrix has this number of rows.
    Value(Access, Shape, Range, Option<u64>),
    State(Access, Region),
    Weight(u32),
    /// Nothing that a step writes.
    Other,
}

/// 6 and 7. Checks steps and buffers of all entries.
pub(super) fn steps(against: Against<'_>) -> Result<(), PlanError> {
    let mut of_first: Option<Uses<'_>> = None;
    let mut regions = BTreeSet::new();
    for (index, entry) in against.program.entries.iter().enumerate() {
        let at = format!("entries[{index}]");
        let uses = Checker { against, entry, at: &at }.entry()?;
        regions.extend(uses.states.iter().map(|(region, _)| *region));
        match &of_first {
            Some(first) => same(against, &uses, first, &at)?,
            None => of_first = Some(uses),
        }
    }
    // Regions are ordered by pool and start: two that share bytes are neighbours, or have neighbours that do.
    let neighbours = regions.iter().zip(regions.iter().skip(1));
    let overlap = neighbours.into_iter().find(|(a, b)| a.range.meets(b.range));
    overlap.map_or(Ok(()), |(a, b)| {
        Err(against.complain("entries: states", format!("{a:?} and {b:?}"), "regions of states that share no byte"))
    })
}

/// Checks that two entries use the same rows of parameters and the same states in each layer of the model, and the parameters in the
/// same order. They may pack the rows into different weights, where one entry was fused and the other was not.
fn same(against: Against<'_>, found: &Uses<'_>, expected: &Uses<'_>, at: &str) -> Result<(), PlanError> {
    let [found_rows, expected_rows] = [found, expected].map(|uses| rows(against.program, uses));
    let weights = found_rows.symmetric_difference(&expected_rows).next();
    let weights =
        weights.map(|(_, parameter, source, (begin, end))| format!("weight {parameter}[{begin}..{end}] at {source}"));
    let states = found.states.symmetric_difference(&expected.states).next();
    let states = states.map(|(region, source)| format!("state {region:?} at {source}"));
    let order = found.order.iter().zip(&expected.order).find(|(found, expected)| found != expected);
    let order = order.map(|((layer, parameters), _)| format!("{} at {layer}, in this order", parameters.join(", ")));
    match weights.or(states).or(order) {
        Some(other) => Err(against.complain(format!("{at}.steps"), other, "what entries[0] uses there")),
        None => Ok(()),
    }
}

/// Rows of a parameter: format and transform, the parameter, the layer, and the range of rows. Adjacent ranges are merged.
type UsedRows<'a> = ((WeightFormat, Transform), &'a str, &'a str, (u64, u64));

fn rows<'a>(program: &'a Program, uses: &Uses<'a>) -> BTreeSet<UsedRows<'a>> {
    let used =
        uses.weights.iter().filter_map(|(weight, source)| Some((program.weights.get(*weight as usize)?, *source)));
    let parts = used.flat_map(|(weight, source)| {
        let kind = (weight.format, weight.transform);
        weight.parts.iter().map(move |part| {
            let rows = (part.first_row, part.first_row.saturating_add(part.rows));
            (kind, part.parameter.as_str(), source, rows)
        })
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_unstable();
    let mut merged: Vec<UsedRows<'a>> = Vec::new();
    for (kind, parameter, source, rows) in parts {
        match merged.last_mut() {
            Some((k, p, s, known)) if (*k, *p, *s) == (kind, parameter, source) && known.1 == rows.0 => {
                known.1 = rows.1
            }
            _ => merged.push((kind, parameter, source, rows)),
        }
    }
    merged.into_iter().collect()
}

struct Checker<'a, 'b> {
    against: Against<'a>,
    entry: &'a Entry,
    at: &'b str,
}

impl<'a> Checker<'a, '_> {
    fn entry(&self) -> Result<Uses<'a>, PlanError> {
        let Checker { against, entry, at } = *self;
        let mut uses = Uses { weights: BTreeSet::new(), states: BTreeSet::new(), order: BTreeMap::new() };
        let mut flow = Flow::default();
        for (index, step) in entry.steps.iter().enumerate() {
            let field = |what: &str| format!("{at}.steps[{index}].{what}");
            let kernels = &against.program.kernels;
            let Some(kernel) = kernels.get(step.kernel as usize) else {
                return Err(against.complain(field("kernel"), step.kernel, format!("below {}", kernels.len())));
            };
            if step.args.len() != kernel.operands.len() {
                let expected = format!("{}, as {} takes", kernel.operands.len(), kernel.symbol);
                return Err(against.complain(field("args"), step.args.len(), expected));
            }
            if ![step.cost.bytes, step.cost.operations].iter().all(Amount::is_sound) {
                let found = format!("{:?}", step.cost);
                return Err(against.complain(field("cost"), found, "finite coefficients from 0 on"));
            }
            let mut touches = Vec::with_capacity(step.args.len());
            let mut integers = None;
            let chooses_rows = kernel.operands.contains(&Operand::Table(Table::Ids));
            for (slot, (operand, &arg)) in kernel.operands.iter().zip(&step.args).enumerate() {
                let complain = |expected| {
                    let field = format!("{} ({})", field(&format!("args[{slot}]")), kernel.symbol);
                    against.complain(field, format!("{arg:?}"), expected)
                };
                match self.bind(step, operand, arg, integers).map_err(complain)? {
                    Bound::Value(access, shape, range, rows) => {
                        touches.push((slot, Touch { access, shape, range, rows }))
                    }
                    Bound::State(access, region) => {
                        uses.states.insert((region, layer(&step.source)));
                        let shape = Shape { elem: region.elem, row: 1, fixed: 0, factor: 0, per: Per::Row };
                        touches.push((slot, Touch { access, shape, range: region.range, rows: None }));
                    }
                    Bound::Weight(weight) => {
                        if chooses_rows && self.table_rows(weight) < against.model.vocab {
                            return Err(complain(format!("a weight of {} rows, the vocabulary", against.model.vocab)));
                        }
                        uses.add(against.program, weight, layer(&step.source));
                        integers = Some(weight);
                    }
                    Bound::Other => {}
                }
            }
            flow.step(index as u32, step.barrier, &touches).map_err(|(slot, expected)| {
                let field = format!("{} ({})", field(&format!("args[{slot}]")), kernel.symbol);
                against.complain(field, format!("{:?}", step.args.get(slot)), expected)
            })?;
        }
        let logits = entry.logits;
        // Verified not to overflow: the rows are inside the arena.
        let bytes = (entry.max_outputs - 1) * logits.row_stride + logits.n * 4;
        if !flow.ends_with(logits.offset, bytes, logits.row_stride, entry.steps.len() as u32) {
            let expected = format!("rows of {} bytes of f32 that a step writes", logits.row_stride);
            return Err(against.complain(format!("{at}.logits"), format!("{logits:?}"), expected));
        }
        self.buffers(&flow)?;
        Ok(uses)
    }

    /// Checks that the buffers are the values that the steps write.
    fn buffers(&self, flow: &Flow) -> Result<(), PlanError> {
        let Checker { against, entry, at } = *self;
        let mut left = flow.buffers();
        for (index, buffer) in entry.buffers.iter().enumerate() {
            let [first, last, reads] = [buffer.first, buffer.last, buffer.reads].map(u64::from);
            let overwrites = buffer.in_place_of.is_none_or(|other| (other as usize) < index);
            if !overwrites || !left.remove(&[first, buffer.offset, buffer.bytes, last, reads]) {
                let near = left.iter().find(|value| value[..2] == [first, buffer.offset]);
                let expected = match near {
                    Some([first, offset, bytes, last, reads]) => format!(
                        "{bytes} bytes at {offset}, of step {first}, which steps up to {last} read {reads} times"
                    ),
                    None => "a value that a step writes, once".to_owned(),
                };
                return Err(against.complain(format!("{at}.buffers[{index}]"), format!("{buffer:?}"), expected));
            }
        }
        match left.first() {
            Some([first, offset, bytes, ..]) => {
                let expected = format!("the {bytes} bytes at {offset} that step {first} writes, too");
                Err(against.complain(format!("{at}.buffers"), entry.buffers.len(), expected))
            }
            None => Ok(()),
        }
    }

    /// Checks the kind, extent and value of an argument. The error is the expected property.
    fn bind(&self, step: &Step, operand: &Operand, arg: Arg, integers: Option<u32>) -> Result<Bound, String> {
        let info = self.against.info;
        let other = |fits: bool, expected: String| if fits { Ok(Bound::Other) } else { Err(expected) };
        let constant = |value: u64| other(arg == Arg::Constant(value), format!("Constant({value})"));
        match operand {
            Operand::Value(access, shape) => match arg {
                Arg::Arena(offset) => self.value(step, *access, shape, offset, None),
                _ => Err("an address in the arena".to_owned()),
            },
            Operand::Weight(shape) => match arg {
                Arg::Weight(index) => self.weight(index, shape),
                _ => Err("a weight".to_owned()),
            },
            Operand::Scales => match integers.and_then(|index| index.checked_sub(1)) {
                Some(scales) => {
                    other(arg == Arg::Weight(scales) && self.is_scales(scales), format!("Weight({scales}), the scales"))
                }
                None => Err("scales before the integers of an earlier slot".to_owned()),
            },
            Operand::Table(table) => other(arg == Arg::Table(*table), format!("Table({table:?})")),
            Operand::State(elem, elements) => match arg {
                Arg::State(offset) => {
                    self.state(Access::ReadWrite, Pool::Slots, *elem, *elements, (offset, info.memory.state_slot))
                }
                _ => Err("an address in a state slot".to_owned()),
            },
            Operand::Kv(access, elem, elements) => match arg {
                Arg::Kv(offset) => self.state(*access, Pool::Pages, *elem, *elements, (offset, info.memory.kv_page)),
                _ => Err("an address in a KV page".to_owned()),
            },
            Operand::SlotStride(elem) => constant(info.memory.state_slot * 8 / elem.bits() as u64),
            Operand::PageStride(elem) => constant(info.memory.kv_page * 8 / elem.bits() as u64),
            Operand::PagesPerSequence => constant(tables::pages_per_sequence(self.against.limits)),
            Operand::Constant(value) => constant(*value),
            Operand::Count(per, factor) => match per.count(*factor, step.rows) {
                Some((count, factor)) => other(arg == Arg::Count(count, factor), format!("Count({count:?}, {factor})")),
                None => Err("a factor below 2^32".to_owned()),
            },
            Operand::Matrix(boxes, matrix) => {
                let map = match arg {
                    Arg::TensorMap(index) => self.against.program.tensor_maps.get(index as usize),
                    _ => None,
                };
                let Some(map) = map else {
                    return Err(format!("a tensor map below {}", self.against.program.tensor_maps.len()));
                };
                self.matrix(step, boxes, matrix, map)
            }
        }
    }

    /// Whether the weight at this index holds scales; [`super::scales`] checks whose.
    fn is_scales(&self, index: u32) -> bool {
        let weight = self.against.program.weights.get(index as usize);
        weight.is_some_and(|weight| matches!(weight.transform, crate::format::Transform::Scale(_)))
    }

    /// Rows of the weight at this index.
    fn table_rows(&self, index: u32) -> u64 {
        let parts = self.against.program.weights.get(index as usize).into_iter().flat_map(|weight| &weight.parts);
        parts.fold(0, |sum, part| sum.saturating_add(part.rows))
    }

    /// The size of a dimension in the largest step.
    fn size(&self, per: Per, step: &Step) -> Option<u64> {
        let (count, factor) = per.count(1, step.rows)?;
        let most = match count {
            Count::Tokens => self.entry.max_tokens,
            Count::Sequences => self.entry.max_sequences,
            Count::Outputs => self.entry.max_outputs,
        };
        most.checked_mul(u64::from(factor))
    }

    fn value(
        &self,
        step: &Step,
        access: Access,
        shape: &Shape,
        offset: u64,
        rows: Option<u64>,
    ) -> Result<Bound, String> {
        let bytes = self.size(shape.per, step).and_then(|size| shape.bytes(size)).unwrap_or(u64::MAX);
        let range = self.inside(Pool::Arena, (offset, bytes), self.against.info.memory.arena)?;
        Ok(Bound::Value(access, *shape, range, rows))
    }

    fn state(
        &self,
        access: Access,
        pool: Pool,
        elem: Elem,
        elements: u64,
        (offset, pool_bytes): (u64, u64),
    ) -> Result<Bound, String> {
        let bytes = elements.checked_mul(elem.bits() as u64).map_or(u64::MAX, |bits| bits.div_ceil(8));
        if bytes == 0 && offset <= pool_bytes {
            // A convolution of one tap keeps no inputs.
            return Ok(Bound::Other);
        }
        let range = self.inside(pool, (offset, bytes), pool_bytes)?;
        Ok(Bound::State(access, Region { range, elem }))
    }

    /// The range, if it is aligned, not empty, and ends inside its pool.
    fn inside(&self, pool: Pool, (offset, bytes): (u64, u64), pool_bytes: u64) -> Result<Range, String> {
        let align = self.against.info.kind.align_bytes();
        let end = offset.checked_add(bytes).filter(|&end| bytes > 0 && end <= pool_bytes);
        match end.filter(|_| offset.is_multiple_of(align)) {
            Some(end) => Ok(Range { pool, start: offset, end }),
            None => {
                let what = match pool {
                    Pool::Arena => "the arena",
                    Pool::Slots => "a state slot",
                    Pool::Pages => "a KV page",
                };
                Err(format!("a multiple of {align} at which {bytes} bytes are inside the {pool_bytes} bytes of {what}"))
            }
        }
    }

    fn weight(&self, index: u32, shape: &WeightShape) -> Result<Bound, String> {
        let weights = &self.against.program.weights;
        let Some(weight) = weights.get(index as usize) else {
            return Err(format!("a weight below {}", weights.len()));
        };
        if WeightShape::of(weight) == *shape {
            Ok(Bound::Weight(index))
        } else {
            Err(format!("a weight with {shape:?}"))
        }
    }

    fn matrix(&self, step: &Step, boxes: &MatrixBoxes, matrix: &Matrix, map: &TensorMap) -> Result<Bound, String> {
        if map.boxes() != *boxes || boxes.row_stride == 0 {
            return Err(format!("a tensor map with {boxes:?}"));
        }
        match (matrix, map.base) {
            (Matrix::Weight(shape), Arg::Weight(index)) => {
                let bytes = self.against.program.weights.get(index as usize).map_or(0, |weight| weight.bytes);
                if map.rows != bytes / boxes.row_stride {
                    return Err(format!("a tensor map of all {} rows", bytes / boxes.row_stride));
                }
                self.weight(index, shape)
            }
            (Matrix::Value(shape), Arg::Arena(offset)) => self.value(step, Access::Read, shape, offset, Some(map.rows)),
            (Matrix::Weight(_), _) => Err("a tensor map of a weight".to_owned()),
            (Matrix::Value(_), _) => Err("a tensor map of a value in the arena".to_owned()),
        }
    }
}

impl Range {
    /// Whether the ranges share a byte.
    fn meets(self, other: Range) -> bool {
        self.pool == other.pool && self.start < other.end && other.start < self.end
    }
}

#[cfg(test)]
mod tests;

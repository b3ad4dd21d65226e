//! A call of a kernel in terms of its node: values of the operands, whatever the target stores them as.
//!
//! [`Call::args`] fills a launch's slots from what its operands state: their source, extent, element type and layout.

use jamba_plan::format::{Table, TargetKind};
use jambac_kernels::cases::Counts;
use jambac_kernels::kernel::{Elem, Launch, Operand, Param, Per, Rows, Source};

use crate::arg::{Arg, Array};
use crate::kernel::size;
use crate::layout::is_written;
use crate::weight;

/// An operand of a node.
#[derive(Clone, Debug)]
enum Value {
    /// Rows of an activation.
    Rows { cols: usize, values: Vec<f32> },
    /// One row per slot, in slot order. Hopper has them sorted by expert.
    SlotRows { cols: usize, values: Vec<f32> },
    /// Experts, offsets, token ids.
    Integers(Vec<i32>),
    /// Slots sorted by expert. On Hopper each is followed by the position of a slot.
    Slots(Vec<i32>),
    /// Elements `[groups, n, k]` of a parameter.
    Parameter(Vec<f32>),
    /// State, which [`Call::state`] holds.
    State,
}

/// A result of a node.
#[derive(Clone, Copy, Debug)]
enum Out {
    Rows(usize),
    SlotRows(usize),
    Integers,
    Slots,
}

/// The operands of a node in order, the tables of a step, and the shapes of the results.
#[derive(Clone, Debug)]
pub struct Call {
    counts: Counts,
    operands: Vec<Value>,
    results: Vec<Out>,
    tables: Vec<(Table, Vec<i32>)>,
    pool: Option<(Vec<f32>, usize)>,
    /// The slots by which rows of slots are sorted on Hopper.
    sorted_by: Vec<i32>,
}

impl Call {
    /// A step with these sizes.
    pub fn new(counts: Counts) -> Call {
        Call {
            counts,
            operands: Vec::new(),
            results: Vec::new(),
            tables: Vec::new(),
            pool: None,
            sorted_by: Vec::new(),
        }
    }

    /// A step with `n` tokens of one sequence, and `n` rows of logits.
    pub fn tokens(n: usize) -> Call {
        Call::new(Counts { tokens: n, sequences: 1, outputs: n, context: n })
    }

    fn operand(mut self, value: Value) -> Call {
        self.operands.push(value);
        self
    }

    fn out(mut self, out: Out) -> Call {
        self.results.push(out);
        self
    }

    /// The next operand: rows of an activation.
    #[must_use]
    pub fn rows(self, cols: usize, values: &[f32]) -> Call {
        self.operand(Value::Rows { cols, values: values.to_vec() })
    }

    /// The next operand: one row per slot, in slot order.
    #[must_use]
    pub fn slot_rows(self, cols: usize, values: &[f32]) -> Call {
        self.operand(Value::SlotRows { cols, values: values.to_vec() })
    }

    /// The next operand: integers.
    #[must_use]
    pub fn integers(self, values: &[i32]) -> Call {
        self.operand(Value::Integers(values.to_vec()))
    }

    /// The next operand: slots sorted by expert.
    #[must_use]
    pub fn slots(self, slots: &[i32]) -> Call {
        self.sorted_by(slots).operand(Value::Slots(slots.to_vec()))
    }

    /// The next operand: a parameter `[groups, n, k]`, rounded and packed as the kernel's weight states.
    #[must_use]
    pub fn parameter(self, values: &[f32]) -> Call {
        self.operand(Value::Parameter(values.to_vec()))
    }

    /// The next operands: parameters.
    #[must_use]
    pub fn parameters<'v>(self, values: impl IntoIterator<Item = &'v [f32]>) -> Call {
        values.into_iter().fold(self, Call::parameter)
    }

    /// The next operand is the state.
    #[must_use]
    pub fn state(self) -> Call {
        self.operand(Value::State)
    }

    /// The slots that rows of slots belong to, for kernels without slots among the operands.
    #[must_use]
    pub fn sorted_by(mut self, slots: &[i32]) -> Call {
        self.sorted_by = slots.to_vec();
        self
    }

    /// The next result: rows.
    #[must_use]
    pub fn gives(self, cols: usize) -> Call {
        self.out(Out::Rows(cols))
    }

    /// The next result: one row per slot, in slot order.
    #[must_use]
    pub fn gives_slot_rows(self, cols: usize) -> Call {
        self.out(Out::SlotRows(cols))
    }

    /// The next result: integers.
    #[must_use]
    pub fn gives_integers(self) -> Call {
        self.out(Out::Integers)
    }

    /// The next result: slots sorted by expert.
    #[must_use]
    pub fn gives_slots(self) -> Call {
        self.out(Out::Slots)
    }

    /// A table of the step.
    #[must_use]
    pub fn table(mut self, table: Table, values: Vec<i32>) -> Call {
        self.tables.push((table, values));
        self
    }

    /// The states of all slots in the target's layout, `stride` elements each.
    #[must_use]
    pub fn pool(mut self, data: &[f32], stride: usize) -> Call {
        self.pool = Some((data.to_vec(), stride));
        self
    }

    /// The sizes of the step.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The arguments of a launch.
    #[track_caller]
    pub(crate) fn args(&self, target: TargetKind, launch: &Launch, rows: Rows) -> Vec<Arg> {
        let bind = Bind { call: self, target, launch, rows };
        launch.operands.iter().map(|operand| bind.arg(operand)).collect()
    }

    /// Sorts what a launch wrote into results and state.
    #[track_caller]
    pub(crate) fn collect(&self, target: TargetKind, launch: &Launch, written: Vec<Array>, found: &mut Found) {
        let operands = launch.operands.iter().filter(|operand| is_written(&operand.param));
        for (operand, array) in operands.filter(|operand| !matches!(operand.source, Source::Scratch(_))).zip(written) {
            match operand.source {
                Source::State => found.state = array.f32(),
                Source::Result(n) => found.results.push((n, self.in_slot_order(target, n, array))),
                ref other => panic!("{}: {other:?} is not written by a launch", launch.symbol),
            }
        }
    }

    /// A result as CPUs store it.
    fn in_slot_order(&self, target: TargetKind, result: usize, array: Array) -> Array {
        match (target, self.results[result]) {
            (TargetKind::Sm90a, Out::SlotRows(cols)) => {
                let sorted = array.f32();
                let mut values = vec![f32::NAN; sorted.len()];
                for (row, &slot) in sorted.chunks_exact(cols).zip(&self.sorted_by) {
                    values[slot as usize * cols..][..cols].copy_from_slice(row);
                }
                Array::F32(values)
            }
            (TargetKind::Sm90a, Out::Slots) => {
                let pairs = array.i32().as_chunks::<2>().0;
                for (place, &[slot, _]) in pairs.iter().enumerate() {
                    assert_eq!(pairs[slot as usize][1], place as i32, "the place of slot {slot}");
                }
                Array::I32(pairs.iter().map(|pair| pair[0]).collect())
            }
            _ => array,
        }
    }
}

/// A launch whose slots are filled.
struct Bind<'a> {
    call: &'a Call,
    target: TargetKind,
    launch: &'a Launch,
    rows: Rows,
}

impl Bind<'_> {
    #[track_caller]
    fn arg(&self, operand: &Operand) -> Arg {
        let what = format!("{}: {}", self.launch.symbol, operand.name());
        let size = |per: Per| size(&self.call.counts, self.rows, per);
        let n_rows = || operand.extent.rows(size).expect("few rows") as usize;
        match &operand.source {
            Source::Operand(n) | Source::Input(n, _) => self.value(operand, &self.call.operands[*n]),
            Source::SlotsOf(_) => Arg::I32(self.slots(operand, &self.call.sorted_by)),
            Source::Weight(weight) => Arg::bytes(self.packed(weight, operand.param.elem()).values),
            Source::Scales => {
                let of = |operand: &Operand| match &operand.source {
                    Source::Weight(weight) => Some(self.packed(weight, operand.param.elem()).scales),
                    _ => None,
                };
                // Those of the weight before them.
                let before = self.launch.operands.iter().take_while(|other| !std::ptr::eq(*other, operand));
                Arg::bytes(before.filter_map(of).last().expect("scales are those of a weight"))
            }
            Source::Table(table) => {
                let given = self.call.tables.iter().find(|(given, _)| given == table);
                Arg::I32(given.unwrap_or_else(|| panic!("{what} is not given")).1.clone())
            }
            Source::Count(per, factor) => Arg::Scalar(size(*per) as usize * *factor as usize),
            Source::State => Arg::F32(self.pool().0.clone()),
            Source::SlotStride => Arg::Scalar(self.pool().1),
            Source::Scratch(name) => {
                let bytes = operand.bytes(size).expect("few bytes") as usize;
                Arg::Scratch { name, bytes }
            }
            Source::Result(n) => match self.call.results[*n] {
                Out::Rows(cols) | Out::SlotRows(cols) => Arg::unwritten(cols, n_rows()),
                Out::Integers | Out::Slots => Arg::UnwrittenDense(n_rows() * operand.param.row_elements()),
            },
            Source::Pages(_) | Source::PageStride(_) | Source::PagesPerSequence | Source::Caller => {
                panic!("{what} is not an operand of a call")
            }
        }
    }

    fn value(&self, operand: &Operand, value: &Value) -> Arg {
        match value {
            Value::Rows { cols, values } => Arg::rows(*cols, values),
            Value::SlotRows { cols, values } if self.target == TargetKind::Sm90a => {
                let row = |&slot: &i32| &values[slot as usize * cols..][..*cols];
                Arg::rows(*cols, &self.call.sorted_by.iter().flat_map(row).copied().collect::<Vec<f32>>())
            }
            Value::SlotRows { cols, values } => Arg::rows(*cols, values),
            Value::Integers(values) => Arg::I32(values.clone()),
            Value::Slots(slots) => Arg::I32(self.slots(operand, slots)),
            Value::Parameter(_) | Value::State => panic!("{}: {value:?} is no activation", operand.name()),
        }
    }

    /// Sorted slots, each followed by the position of a slot where the kernel reads both.
    fn slots(&self, operand: &Operand, slots: &[i32]) -> Vec<i32> {
        let Param::Buffer { inner, .. } = &operand.param else { panic!("{} is no buffer", operand.name()) };
        if inner[..] != [2] {
            return slots.to_vec();
        }
        let mut pairs = vec![0; 2 * slots.len()];
        for (place, &slot) in slots.iter().enumerate() {
            pairs[2 * place] = slot;
            pairs[2 * slot as usize + 1] = place as i32;
        }
        pairs
    }

    fn packed(&self, weight: &jambac_kernels::kernel::Weight, elem: Option<Elem>) -> weight::Packed {
        let parameters = self.call.operands[weight.operands.clone()].iter().map(|value| match value {
            Value::Parameter(values) => values.as_slice(),
            other => panic!("{}: {other:?} is no parameter", self.launch.symbol),
        });
        weight::packed(weight, elem.expect("a weight has elements"), &parameters.collect::<Vec<_>>())
    }

    fn pool(&self) -> &(Vec<f32>, usize) {
        self.call.pool.as_ref().expect("a kernel with state has a pool")
    }
}

/// What a call left.
#[derive(Clone, Debug, Default)]
pub struct Found {
    results: Vec<(usize, Array)>,
    state: Vec<f32>,
}

impl Found {
    #[track_caller]
    fn result(&self, n: usize) -> &Array {
        let found = self.results.iter().find(|(result, _)| *result == n);
        &found.unwrap_or_else(|| panic!("no launch writes result {n}")).1
    }

    /// The elements of a result, without padding.
    #[track_caller]
    pub fn rows(&self, n: usize) -> Vec<f32> {
        self.result(n).f32()
    }

    /// The elements of an integer result.
    #[track_caller]
    pub fn integers(&self, n: usize) -> &[i32] {
        self.result(n).i32()
    }

    /// The states of all slots.
    pub fn state(&self) -> &[f32] {
        &self.state
    }
}

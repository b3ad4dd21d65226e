//! Runs any graph, op by op in the graph's order, on a ragged batch.
//!
//! [`Interpreter::new`] fetches the parameters once; [`Interpreter::run`] is one step: it reads and replaces the state of
//! every sequence. [`interpret`] does both for a single step.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jambac_graph::{Graph, NodeId, Op, Type, ValueId};

use crate::ReferenceError;
use crate::evaluate::evaluate;
use crate::state::State;
use crate::tensor::{Tensor, Value};

/// A source of parameters.
pub trait Parameters {
    /// The elements of a parameter by its canonical name, widened to f32, row-major. A `*` in the name is every expert, stacked in
    /// order. `None` if there is no such parameter.
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>>;
}

impl Parameters for BTreeMap<String, Vec<f32>> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.get(name).map(|data| Cow::Borrowed(data.as_slice()))
    }
}

/// The tokens of one step, sequence by sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all sequences, concatenated.
    pub ids: Vec<u32>,
    /// Tokens of each sequence in this step, possibly 0; their sum is the number of ids.
    pub lengths: Vec<usize>,
    /// Indices into `ids` of the rows whose logits are computed, in the order of the output.
    pub rows: Vec<usize>,
}

impl Batch {
    /// One sequence, logits of every token.
    pub fn one(ids: &[u32]) -> Batch {
        Batch { ids: ids.to_vec(), lengths: vec![ids.len()], rows: (0..ids.len()).collect() }
    }

    /// Several sequences, logits of every token.
    pub fn ragged(sequences: &[&[u32]]) -> Batch {
        let ids = sequences.concat();
        let rows = (0..ids.len()).collect();
        Batch { ids, lengths: sequences.iter().map(|ids| ids.len()).collect(), rows }
    }

    fn check(&self, graph: &Graph, state: &State) -> Result<(), ReferenceError> {
        let fail = |found, expected| Err(ReferenceError::Batch { found, expected });
        let n_tokens: usize = self.lengths.iter().sum();
        if n_tokens != self.ids.len() {
            return fail(format!("{} ids", self.ids.len()), format!("{n_tokens}, the sum of the lengths"));
        }
        if self.lengths.len() != state.n_sequences() {
            return fail(
                format!("{} lengths", self.lengths.len()),
                format!("{}, one per sequence", state.n_sequences()),
            );
        }
        if let Some(length) = self.lengths.iter().find(|&&length| graph.one_token && length != 1) {
            return fail(format!("{length} tokens of a sequence"), "1, as the graph says".into());
        }
        if let Some(row) = self.rows.iter().find(|&&row| row >= n_tokens) {
            return fail(format!("row {row}"), format!("less than the {n_tokens} tokens"));
        }
        if let Some(id) = self.ids.iter().find(|&&id| i32::try_from(id).is_err()) {
            return fail(format!("id {id}"), "an id of 31 bits".into());
        }
        Ok(())
    }
}

/// A graph with its parameters, ready to run steps.
pub struct Interpreter<'g> {
    graph: &'g Graph,
    order: Vec<NodeId>,
    parameters: BTreeMap<NodeId, Value>,
    n_readers: BTreeMap<ValueId, usize>,
}

impl<'g> Interpreter<'g> {
    /// Fetches every parameter of a verified graph (`jambac_graph::verify`).
    ///
    /// # Errors
    /// A parameter that is missing or of another size.
    pub fn new(graph: &'g Graph, parameters: &dyn Parameters) -> Result<Interpreter<'g>, ReferenceError> {
        let order = graph.order();
        let mut found = BTreeMap::new();
        let mut n_readers: BTreeMap<ValueId, usize> = BTreeMap::new();
        for &node in &order {
            for operand in graph.operands(node) {
                *n_readers.entry(operand).or_default() += 1;
            }
            if let Op::Parameter { name, ty } = graph.op(node) {
                found.insert(node, fetch(parameters, name, ty)?.into());
            }
        }
        for &output in graph.outputs().values() {
            *n_readers.entry(output).or_default() += 1;
        }
        Ok(Interpreter { graph, order, parameters: found, n_readers })
    }

    /// Runs one step. Returns the outputs by name, without states; `state` gets the next states, and is unchanged if the step fails.
    ///
    /// # Errors
    /// A batch that is inconsistent or does not match the graph, the state or the vocabulary; a state of another graph.
    pub fn run(&self, batch: &Batch, state: &mut State) -> Result<BTreeMap<String, Tensor>, ReferenceError> {
        let mut waiting = self.n_readers.clone();
        let values = self.step(batch, state, |values, operands| {
            // Drops a value after its last reader: activations of a long prompt would not fit otherwise.
            for operand in operands {
                let left = waiting.entry(*operand).or_insert(1);
                *left -= 1;
                if *left == 0 {
                    values.remove(operand);
                }
            }
        })?;
        Ok(self.finish(&values, state))
    }

    /// As [`Interpreter::run`], but returns every value of the step.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_all(&self, batch: &Batch, state: &mut State) -> Result<BTreeMap<ValueId, Value>, ReferenceError> {
        let values = self.step(batch, state, |_, _| ())?;
        self.finish(&values, state);
        Ok(values)
    }

    fn step(
        &self,
        batch: &Batch,
        state: &State,
        mut after: impl FnMut(&mut BTreeMap<ValueId, Value>, &[ValueId]),
    ) -> Result<BTreeMap<ValueId, Value>, ReferenceError> {
        batch.check(self.graph, state)?;
        let mut values: BTreeMap<ValueId, Value> = BTreeMap::new();
        for &id in &self.order {
            let operands = self.graph.operands(id);
            let results = match self.graph.op(id) {
                Op::Input { name, .. } => vec![input(batch, name)?.into()],
                Op::Parameter { .. } => vec![self.parameters[&id].clone()],
                Op::State { name, ty } => vec![state.value(name, ty)?],
                _ => {
                    let given: Vec<Value> = operands.iter().map(|operand| values[operand].clone()).collect();
                    evaluate(self.graph.node(id), &given, &batch.lengths)?
                }
            };
            for (result, value) in results.into_iter().enumerate() {
                values.insert(self.graph.result(id, result), value);
            }
            after(&mut values, &operands);
        }
        Ok(values)
    }

    /// Stores the next states, and returns the other outputs.
    fn finish(&self, values: &BTreeMap<ValueId, Value>, state: &mut State) -> BTreeMap<String, Tensor> {
        let is_state = |name: &str| {
            self.order.iter().any(|&node| matches!(self.graph.op(node), Op::State { name: state, .. } if state == name))
        };
        let mut outputs = BTreeMap::new();
        for (name, value) in self.graph.outputs() {
            let value = &values[value];
            if is_state(name) {
                state.set(name, value);
            } else if let Some(tensor) = value.tensor() {
                outputs.insert(name.clone(), tensor.clone());
            }
        }
        outputs
    }
}

/// One step of a graph: fetches the parameters, then [`Interpreter::run`].
///
/// # Errors
/// As [`Interpreter::new`] and [`Interpreter::run`].
pub fn interpret(
    graph: &Graph,
    parameters: &dyn Parameters,
    batch: &Batch,
    state: &mut State,
) -> Result<BTreeMap<String, Tensor>, ReferenceError> {
    Interpreter::new(graph, parameters)?.run(batch, state)
}

/// One step of a graph with every value: fetches the parameters, then [`Interpreter::run_all`].
///
/// # Errors
/// As [`Interpreter::new`] and [`Interpreter::run`].
pub fn interpret_all(
    graph: &Graph,
    parameters: &dyn Parameters,
    batch: &Batch,
    state: &mut State,
) -> Result<BTreeMap<ValueId, Value>, ReferenceError> {
    Interpreter::new(graph, parameters)?.run_all(batch, state)
}

fn input(batch: &Batch, name: &str) -> Result<Tensor, ReferenceError> {
    // `Batch::check` checks that both fit in 31 bits.
    let data: Vec<i32> = match name {
        "ids" => batch.ids.iter().map(|&id| id as i32).collect(),
        "rows" => batch.rows.iter().map(|&row| row as i32).collect(),
        _ => return Err(ReferenceError::UnknownInput { name: name.into() }),
    };
    Ok(Tensor::i32([data.len()], data))
}

fn fetch(parameters: &dyn Parameters, name: &str, ty: &Type) -> Result<Tensor, ReferenceError> {
    let expected = || ty.to_string();
    let missing = || ReferenceError::MissingParameter { name: name.into(), expected: expected() };
    let data = parameters.parameter(name).ok_or_else(missing)?;
    let shape: Option<Vec<usize>> = ty.shape.iter().map(|dim| dim.fixed()).collect();
    match shape {
        Some(shape) if shape.iter().product::<usize>() == data.len() => {
            Ok(Tensor { shape, data: crate::Data::F32(data.into_owned()) })
        }
        _ => Err(ReferenceError::ParameterSize { name: name.into(), found: data.len(), expected: expected() }),
    }
}

#[cfg(test)]
mod tests {
    use jambac_graph::build::{Builder, Scan};
    use jambac_graph::{DType, Dim, Symbol};

    use super::*;
    use crate::compare::{Tolerance, compare};

    const D: usize = 6;

    /// Every op with a state: convolution, scan and attention after one another, over an embedding of 11 tokens.
    fn graph() -> Graph {
        let mut b = Builder::new("prefill");
        let ids = b.input("ids", Type::new(DType::I32, [Symbol::Tokens]));
        let rows = b.input("rows", Type::new(DType::I32, [Symbol::Outputs]));
        let table = b.parameter("table", DType::F32, &[11, D]);
        let x = b.embed(ids, table);
        let conv_state = b.state("conv", DType::F32, &[D.into(), 2.into()]);
        let taps = b.parameter("taps", DType::F32, &[D, 1, 3]);
        let (u, next) = b.causal_conv1d(x, taps, None, conv_state);
        b.output("conv", next);
        let (input, output) = (b.slice(x, 0, 2), b.slice(x, 2, 2));
        let dt = b.softplus(u);
        let a_log = b.parameter("a_log", DType::F32, &[D, 2]);
        let state = b.state("ssm", DType::F32, &[D.into(), 2.into()]);
        let (y, next) = b.selective_scan(Scan { dt, u, a_log, b: input, c: output, state });
        b.output("ssm", next);
        let cache = b.state("kv", DType::Bf16, &[Dim::Symbol(Symbol::Context), 2.into(), 1.into(), 3.into()]);
        let (k, v) = (b.slice(y, 0, 3), b.slice(y, 3, 3));
        let cache = b.kv_append(cache, k, v);
        b.output("kv", cache);
        let out = b.attention(y, cache, 2, 0.5);
        let out = b.select_rows(out, rows);
        b.output("out", out);
        b.finish()
    }

    fn parameters() -> BTreeMap<String, Vec<f32>> {
        let wave = |n: usize, step: f64| (0..n).map(|i| (step * i as f64).sin() as f32).collect();
        [("table", wave(11 * D, 0.7)), ("taps", wave(3 * D, 1.3)), ("a_log", wave(2 * D, 2.1))]
            .map(|(name, data)| (name.to_string(), data))
            .into()
    }

    #[test]
    fn chunks_give_the_same_bits() {
        let (graph, parameters) = (graph(), parameters());
        let interpreter = Interpreter::new(&graph, &parameters).unwrap();
        let ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3];
        let mut whole = State::new(1);
        let expected = interpreter.run(&Batch::one(&ids), &mut whole).unwrap();
        for chunk in [1, 2, 3, 7] {
            let mut state = State::new(1);
            let mut found = Vec::new();
            for ids in ids.chunks(chunk) {
                let out = interpreter.run(&Batch::one(ids), &mut state).unwrap();
                found.extend_from_slice(out["out"].as_f32().unwrap());
            }
            assert!(compare(&found, expected["out"].as_f32().unwrap(), Tolerance::EXACT).ok(), "chunk {chunk}");
            assert_eq!(state, whole, "chunk {chunk}");
        }
    }

    #[test]
    fn sequences_do_not_meet() {
        let (graph, parameters) = (graph(), parameters());
        let interpreter = Interpreter::new(&graph, &parameters).unwrap();
        let steps: [[&[u32]; 3]; 2] = [[&[1, 2, 3, 4, 5], &[7], &[]], [&[8], &[9, 10, 0], &[6, 6]]];
        let mut together = State::new(3);
        let mut alone = [State::new(1), State::new(1), State::new(1)];
        for step in steps {
            let out = interpreter.run(&Batch::ragged(&step), &mut together).unwrap();
            let mut expected = Vec::new();
            for (ids, state) in step.iter().zip(&mut alone) {
                let out = interpreter.run(&Batch::one(ids), state).unwrap();
                expected.extend_from_slice(out["out"].as_f32().unwrap());
            }
            assert_eq!(out["out"].as_f32().unwrap(), expected);
        }
        for (index, state) in alone.iter().enumerate() {
            assert!(together.sequence(index).eq(state.sequence(0)), "sequence {index}");
        }
        assert_eq!(together.get(1, "kv").unwrap().shape, [4, 2, 1, 3]);
    }

    #[test]
    fn rows_choose_and_every_value_is_kept() {
        let (graph, parameters) = (graph(), parameters());
        let all = interpret(&graph, &parameters, &Batch::one(&[1, 2, 3]), &mut State::new(1)).unwrap();
        let batch = Batch { rows: vec![2, 0, 2], ..Batch::one(&[1, 2, 3]) };
        let mut state = State::new(1);
        let values = interpret_all(&graph, &parameters, &batch, &mut state).unwrap();
        let chosen = values[&graph.outputs()["out"]].tensor().unwrap().as_f32().unwrap();
        let all = all["out"].as_f32().unwrap();
        assert_eq!(chosen, [&all[2 * D..], &all[..D], &all[2 * D..]].concat());
        let n_values: usize = graph.order().iter().map(|&node| graph.node(node).results.len()).sum();
        assert_eq!(values.len(), n_values);
        assert!(state.get(0, "ssm").is_some());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (graph, parameters) = (graph(), parameters());
        let error = |batch: Batch| interpret(&graph, &parameters, &batch, &mut State::new(1)).unwrap_err().to_string();
        assert_eq!(error(Batch::one(&[3, 11])), "embed in : found index 11, expected 0 … 11 (exclusive)");
        let batch = Batch { rows: vec![2], ..Batch::one(&[1, 2]) };
        assert_eq!(error(batch), "batch: found row 2, expected less than the 2 tokens");
        let batch = Batch { lengths: vec![1], ..Batch::one(&[1, 2]) };
        assert_eq!(error(batch), "batch: found 2 ids, expected 1, the sum of the lengths");
        let batch = Batch { lengths: vec![1, 1], ..Batch::one(&[1, 2]) };
        assert_eq!(error(batch), "batch: found 2 lengths, expected 1, one per sequence");
        let mut decode = graph.clone();
        decode.one_token = true;
        let two = interpret(&decode, &parameters, &Batch::one(&[1, 2]), &mut State::new(1)).unwrap_err().to_string();
        assert_eq!(two, "batch: found 2 tokens of a sequence, expected 1, as the graph says");
        let mut fewer = parameters.clone();
        fewer.insert("taps".into(), vec![0.0]);
        let size = Interpreter::new(&graph, &fewer).err().unwrap();
        assert_eq!(size.to_string(), "parameter taps: found 1 elements, expected f32[6, 1, 3]");
        fewer.remove("taps");
        let missing = Interpreter::new(&graph, &fewer).err().unwrap();
        assert_eq!(missing.to_string(), "parameter taps: not found, expected f32[6, 1, 3]");
    }

    #[test]
    fn a_failed_step_leaves_the_state() {
        let (graph, parameters) = (graph(), parameters());
        let interpreter = Interpreter::new(&graph, &parameters).unwrap();
        let mut state = State::new(1);
        interpreter.run(&Batch::one(&[1, 2]), &mut state).unwrap();
        let before = state.clone();
        interpreter.run(&Batch::one(&[3, 99]), &mut state).unwrap_err();
        assert_eq!(state, before);
    }
}

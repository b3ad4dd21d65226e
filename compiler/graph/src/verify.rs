//! The invariants of every graph between phases.
//!
//! 1. **operands**: they fill slots 0 … n−1, each once, each with an existing result
//! 2. **acyclic**: no value depends on itself
//! 3. **types**: operands match the signature of the op and results match [`infer`](fn@crate::infer::infer) (counts, dtypes, dims, heads)
//! 4. **attributes**: real numbers (eps, scale) are positive and finite
//! 5. **names**: inputs, parameters and states have unique names
//! 6. **states**: a state has one reader, an op that updates it; such an op updates a state and nothing else
//! 7. **next states**: the next state is the output of the state's name, and has no reader except attention, of its cache
//! 8. **caches**: attention reads a cache that `kv_append` returned
//! 9. **one token**: `append_attention` and `norm_proj_conv` only occur in a graph whose steps take one token of each sequence
//! 10. **outputs**: at least one, each an existing result; `logits` is f32\[outputs, vocab\]
//!
//! A node that no output needs is allowed; eliminate-dead removes it.

use std::collections::BTreeMap;

use crate::graph::{Graph, NodeId, ValueId};
use crate::infer::infer;
use crate::op::{AttributeValue, Op};
use crate::tensor::{DType, Dim, Symbol, Type};

/// One invariant of the module's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    Operands = 1,
    Acyclic,
    Types,
    Attributes,
    Names,
    States,
    NextStates,
    Caches,
    OneToken,
    Outputs,
}

/// A graph that breaks an invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graph {graph}, {place}: {message} (invariant {}, {invariant:?})", *.invariant as u8)]
pub struct VerifyError {
    pub invariant: Invariant,
    pub graph: String,
    /// The offending node; `None` if the fault is the graph's.
    pub node: Option<NodeId>,
    /// The node for messages: op, name, source.
    pub place: String,
    pub message: String,
}

/// Checks the module's invariants in their order.
///
/// # Errors
/// The first violated invariant, at the first node in order that violates it.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    operands(graph)?;
    acyclic(graph)?;
    let order = graph.order();
    types(graph, &order)?;
    attributes(graph, &order)?;
    names(graph, &order)?;
    states(graph, &order)?;
    next_states(graph, &order)?;
    caches(graph, &order)?;
    one_token(graph, &order)?;
    outputs(graph)
}

fn fail(graph: &Graph, invariant: Invariant, node: NodeId, message: String) -> Result<(), VerifyError> {
    let mut place = graph.op(node).name().to_string();
    if let Some(name) = graph.op(node).source_name() {
        place += &format!(" {name:?}");
    }
    let source = &graph.node(node).source;
    if !source.is_empty() {
        place += &format!(" at {source}");
    }
    Err(VerifyError { invariant, graph: graph.name.clone(), node: Some(node), place, message })
}

// 1.
fn operands(graph: &Graph) -> Result<(), VerifyError> {
    for node in graph.by_position() {
        let slots = graph.operand_slots(node);
        if !slots.iter().copied().eq(0..slots.len()) {
            return fail(graph, Invariant::Operands, node, format!("operands fill slots {slots:?}, expected 0, 1, …"));
        }
        for (slot, operand) in graph.operands(node).into_iter().enumerate() {
            let n_results = graph.node(operand.node).results.len();
            if operand.result >= n_results {
                let name = graph.op(operand.node).name();
                let message = format!("operand {slot} is result {} of {name}, which has {n_results}", operand.result);
                return fail(graph, Invariant::Operands, node, message);
            }
        }
    }
    Ok(())
}

// 2.
fn acyclic(graph: &Graph) -> Result<(), VerifyError> {
    let ordered: std::collections::BTreeSet<NodeId> = graph.order().into_iter().collect();
    // Nodes below a cycle are left out of the order too; a node on the cycle depends on itself.
    match graph.by_position().into_iter().find(|&node| !ordered.contains(&node) && reaches(graph, node, node)) {
        Some(node) => fail(graph, Invariant::Acyclic, node, "it depends on itself".into()),
        None => Ok(()),
    }
}

/// Whether `to` depends on `from`, by one edge or more.
fn reaches(graph: &Graph, from: NodeId, to: NodeId) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    let mut waiting = vec![to];
    while let Some(node) = waiting.pop() {
        for operand in graph.operands(node) {
            if operand.node == from {
                return true;
            }
            if seen.insert(operand.node) {
                waiting.push(operand.node);
            }
        }
    }
    false
}

// 3.
fn types(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    for &node in order {
        let operands = graph.operands(node);
        let types: Vec<&Type> = operands.iter().map(|&value| graph.ty(value)).collect();
        let inferred = match infer(graph.op(node), &types) {
            Ok(inferred) => inferred,
            Err(error) => return fail(graph, Invariant::Types, node, error.to_string()),
        };
        let results = &graph.node(node).results;
        if *results != inferred {
            let list = |types: &[Type]| types.iter().map(Type::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("results are {}, inferred {}", list(results), list(&inferred));
            return fail(graph, Invariant::Types, node, message);
        }
    }
    Ok(())
}

// 4.
fn attributes(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    for &node in order {
        for (name, value) in graph.op(node).attributes() {
            if let AttributeValue::Real(value) = value
                && !(value > 0.0 && value.is_finite())
            {
                let message = format!("{name} is {value:?}, expected a positive finite number");
                return fail(graph, Invariant::Attributes, node, message);
            }
        }
    }
    Ok(())
}

// 5.
fn names(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    let mut taken = BTreeMap::new();
    for &node in order {
        let Some(name) = graph.op(node).source_name() else { continue };
        if name.is_empty() {
            return fail(graph, Invariant::Names, node, "it has no name".into());
        }
        if let Some(other) = taken.insert(name, node) {
            let message = format!("{name:?} is the name of another {}", graph.op(other).name());
            return fail(graph, Invariant::Names, node, message);
        }
    }
    Ok(())
}

// 6.
fn states(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    for &node in order {
        if let Op::State { .. } = graph.op(node) {
            let readers = graph.users(graph.result(node, 0));
            if readers.len() != 1 {
                let message = format!("{} readers, expected one op that updates it", readers.len());
                return fail(graph, Invariant::States, node, message);
            }
            let (reader, operand) = readers[0];
            if graph.op(reader).state().is_none_or(|slots| slots.operand != operand) {
                let reader = graph.op(reader).name();
                let message = format!("read by operand {operand} of {reader}, expected an op that updates it");
                return fail(graph, Invariant::States, node, message);
            }
        }
        if let Some(slots) = graph.op(node).state() {
            let state = graph.operands(node)[slots.operand];
            if !matches!(graph.op(state.node), Op::State { .. }) {
                let message = format!("its state is a result of {}, expected a state", graph.op(state.node).name());
                return fail(graph, Invariant::States, node, message);
            }
        }
    }
    Ok(())
}

// 7.
fn next_states(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    for &node in order {
        let Some(slots) = graph.op(node).state() else { continue };
        let state = graph.operands(node)[slots.operand];
        let Some(name) = graph.op(state.node).source_name() else { continue };
        let next = ValueId { node, result: slots.result };
        if graph.outputs().get(name) != Some(&next) {
            let message = format!("result {} is the next state, expected it as output {name:?}", slots.result);
            return fail(graph, Invariant::NextStates, node, message);
        }
        let reads_cache = |op: &Op, operand| matches!((op, operand), (Op::Attention { .. }, 1));
        let foreign = graph.users(next).into_iter().find(|&(user, operand)| !reads_cache(graph.op(user), operand));
        if let Some((reader, operand)) = foreign {
            let message = format!("operand {operand} is the next state {name:?}, which only attention may read");
            return fail(graph, Invariant::NextStates, reader, message);
        }
    }
    Ok(())
}

// 8.
fn caches(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    for &node in order {
        if let Op::Attention { .. } = graph.op(node) {
            let cache = graph.op(graph.operands(node)[1].node);
            if *cache != Op::KvAppend {
                let message = format!("its cache is a result of {}, expected kv_append", cache.name());
                return fail(graph, Invariant::Caches, node, message);
            }
        }
    }
    Ok(())
}

// 9.
fn one_token(graph: &Graph, order: &[NodeId]) -> Result<(), VerifyError> {
    for &node in order {
        let takes_one = matches!(graph.op(node), Op::AppendAttention { .. } | Op::NormProjConv { .. });
        if takes_one && !graph.one_token {
            let message = "steps may take several tokens of a sequence, expected a graph of one_token".to_string();
            return fail(graph, Invariant::OneToken, node, message);
        }
    }
    Ok(())
}

// 10.
fn outputs(graph: &Graph) -> Result<(), VerifyError> {
    if graph.outputs().is_empty() {
        let (graph, place) = (graph.name.clone(), "outputs".to_string());
        let message = "there are none".to_string();
        return Err(VerifyError { invariant: Invariant::Outputs, graph, node: None, place, message });
    }
    for (name, &value) in graph.outputs() {
        let results = &graph.node(value.node).results;
        let Some(ty) = results.get(value.result) else {
            let message = format!("output {name:?} is result {}, expected one of {}", value.result, results.len());
            return fail(graph, Invariant::Outputs, value.node, message);
        };
        let is_logits = ty.dtype == DType::F32 && matches!(ty.shape[..], [Dim::Symbol(Symbol::Outputs), Dim::Fixed(_)]);
        if name == "logits" && !is_logits {
            let message = format!("output \"logits\" is {ty}, expected f32[outputs, vocab]");
            return fail(graph, Invariant::Outputs, value.node, message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The interpreter against Hugging Face transformers: logits, and hidden states layer by layer. The comparisons of plans with
//! the interpreter rest on this test.

use jambac::source::Source;
use jambac_checkpoint::Checkpoint;
use jambac_graph::{DType, Graph, Op, ValueId};
use jambac_models::jamba;
use jambac_reference::{Batch, Interpreter, State};

use crate::fixtures::{Fixture, PROMPT_LENGTHS, max_difference};

/// The unfused graph of a checkpoint.
fn graph(parameters: &jamba::Parameters<'_>) -> Graph {
    jamba::prefill(parameters.config(), &|name| parameters.dtype(name), &jamba::Options { kv_dtype: DType::F32 })
}

#[test]
fn logits_are_those_of_transformers() {
    for fixture in Fixture::all() {
        let checkpoint = Checkpoint::open(&fixture.checkpoint).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        let graph = graph(&parameters);
        let interpreter = Interpreter::new(&graph, &Source::new(&parameters)).unwrap();
        for &length in PROMPT_LENGTHS {
            let prompt = fixture.prompt(length);
            let batch = Batch { rows: prompt.rows.clone(), ..Batch::one(&prompt.ids) };
            let outputs = interpreter.run(&batch, &mut State::new(1)).unwrap();
            let (difference, at) = max_difference(outputs["logits"].as_f32().expect("logits are f32"), &prompt.logits);
            assert!(
                difference <= prompt.tolerance(),
                "{} prompt {length}: |Δlogit| {difference:e} at {at}, allowed {:e}",
                fixture.name,
                prompt.tolerance()
            );
        }
    }
}

/// The residual stream after the embedding and after each layer: the results of the adds in the unfused graph.
fn residual_stream(graph: &Graph) -> Vec<(String, ValueId)> {
    let order = graph.order();
    let result = |node| graph.result(node, 0);
    let embed = order.iter().find(|&&node| matches!(graph.op(node), Op::Embed)).expect("an embedding");
    let mut stream = vec![("embed".to_owned(), result(*embed))];
    // Two residual adds per layer: those whose first operand is the current residual stream.
    let mut current = result(*embed);
    let mut adds = 0;
    for &node in &order {
        if matches!(graph.op(node), Op::Add) && graph.operands(node)[0] == current {
            current = result(node);
            adds += 1;
            if adds % 2 == 0 {
                stream.push(((adds / 2 - 1).to_string(), current));
            }
        }
    }
    stream
}

#[test]
fn hidden_states_are_those_of_transformers_layer_by_layer() {
    let mut compared = 0;
    for fixture in Fixture::all() {
        let checkpoint = Checkpoint::open(&fixture.checkpoint).unwrap();
        let parameters = jamba::bind(&checkpoint).unwrap();
        let graph = graph(&parameters);
        let stream = residual_stream(&graph);
        assert_eq!(stream.len(), parameters.config().n_layers + 1);
        let interpreter = Interpreter::new(&graph, &Source::new(&parameters)).unwrap();
        for length in [4, 17] {
            let prompt = fixture.prompt(length);
            let values = interpreter.run_all(&Batch::one(&prompt.ids), &mut State::new(1)).unwrap();
            for (what, value) in &stream {
                let Some(expected) = fixture.hidden(length, what) else { continue };
                let found = values[value].tensor().and_then(|tensor| tensor.as_f32()).expect("activations are f32");
                let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let (difference, at) = max_difference(found, &expected);
                // f32 arithmetic on both sides: the tolerance scales with the magnitude of the stream.
                assert!(
                    difference <= 2e-5 * largest.max(1.0),
                    "{} prompt {length}, residual stream after {what}: {difference:e} at {at}",
                    fixture.name
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 40, "only {compared} recorded hidden states were found");
}

//! The layers of an entry's steps, and the data flow between steps.

use jamba_plan::format::{Arg, Entry};
use serde::Serialize;

use super::work::Work;

/// The steps of one layer, or of a part of the model outside the layers (embedding, final norm, head).
#[derive(Debug, PartialEq, Serialize)]
pub struct Layer {
    /// `layers.3`, `lm_head`.
    pub name: String,
    /// Its parts in the order of the steps: `input_layernorm`, `mamba`, `feed_forward`.
    pub parts: Vec<String>,
    /// Indices of its steps.
    pub steps: Vec<usize>,
    /// Bytes that they read and write.
    pub bytes: f64,
    /// Their operations.
    pub operations: f64,
}

/// A buffer, with the step that writes it and a step that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Edge {
    /// Index of the writing step.
    pub from: usize,
    /// Index of the reading step.
    pub to: usize,
    /// Index of the buffer in the entry.
    pub buffer: usize,
}

/// The layers of an entry in the order of their first steps; `works` is the work of each step.
pub fn layers(entry: &Entry, works: &[Work]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for (index, (step, work)) in entry.steps.iter().zip(works).enumerate() {
        let (name, part) = split(&step.source);
        let at = layers.iter().rposition(|layer| layer.name == name).unwrap_or_else(|| {
            let layer = Layer { name, parts: Vec::new(), steps: Vec::new(), bytes: 0.0, operations: 0.0 };
            layers.push(layer);
            layers.len() - 1
        });
        let layer = &mut layers[at];
        if !part.is_empty() && !layer.parts.contains(&part) {
            layer.parts.push(part);
        }
        layer.steps.push(index);
        layer.bytes += work.bytes;
        layer.operations += work.operations;
    }
    layers
}

/// Splits a source after its first number: `layers.3` and `mamba`.
fn split(source: &str) -> (String, String) {
    let parts: Vec<&str> = source.split('.').filter(|part| !part.is_empty()).collect();
    let number = parts.iter().position(|part| part.parse::<u64>().is_ok());
    let (name, part) = parts.split_at(number.map_or(parts.len().min(1), |number| number + 1));
    (name.join("."), part.join("."))
}

/// Every read of a buffer: a step other than the writer has its address among the arguments.
pub fn edges(entry: &Entry) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (index, buffer) in entry.buffers.iter().enumerate() {
        let (first, last) = (buffer.first as usize, buffer.last as usize);
        let holds = buffer.offset..buffer.offset + buffer.bytes;
        for (to, step) in entry.steps.iter().enumerate().take(last + 1).skip(first + 1) {
            if step.args.iter().any(|arg| matches!(arg, Arg::Arena(offset) if holds.contains(offset))) {
                edges.push(Edge { from: first, to, buffer: index });
            }
        }
    }
    edges.sort();
    edges
}

#[cfg(test)]
mod tests {
    #[test]
    fn sources_are_split_behind_the_number_of_the_layer() {
        use super::split;
        assert_eq!(split("layers.3.mamba"), ("layers.3".to_owned(), "mamba".to_owned()));
        assert_eq!(split("layers.12"), ("layers.12".to_owned(), String::new()));
        assert_eq!(split("final_layernorm"), ("final_layernorm".to_owned(), String::new()));
        assert_eq!(split("vision.tower.4.mlp.up"), ("vision.tower.4".to_owned(), "mlp.up".to_owned()));
        assert_eq!(split(""), (String::new(), String::new()));
    }
}

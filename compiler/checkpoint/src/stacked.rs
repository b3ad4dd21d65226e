//! Experts that a file stacks in one tensor, as one tensor each.
//!
//! ```text
//! experts.gate_up_proj             [E, 2·I, H]     transformers 5 in memory, and dumps of it
//! experts.down_proj                [E, H, I]
//! switch_mlp.gate_proj.weight      [E, I, H]       MLX; also up_proj and down_proj, and scales and biases of weights in 4 or 8 bits
//!
//! experts.N.gate_proj.weight       [I, H]          the names that Jamba's uploads have; N < E
//! ```
//!
//! MLX also stores the taps of a convolution of C channels as \[C, K, 1\] in place of \[C, 1, K\], which is the same order of elements.

use std::ops::Range;

use crate::index::TensorInfo;

/// The tensors with stacked experts split, in name order.
pub(crate) fn split(tensors: Vec<TensorInfo>) -> Vec<TensorInfo> {
    let mut split: Vec<TensorInfo> = tensors.into_iter().flat_map(split_one).collect();
    split.sort_by(|a, b| a.name.cmp(&b.name));
    split
}

fn split_one(mut tensor: TensorInfo) -> Vec<TensorInfo> {
    if let (true, &[channels, taps, 1]) = (tensor.name.ends_with(".conv1d.weight"), tensor.shape.as_slice()) {
        tensor.shape = vec![channels, 1, taps];
        return vec![tensor];
    }
    let of_mlx = tensor.name.rsplit_once(".switch_mlp.").and_then(|(_, rest)| rest.split_once('.'));
    let (parts, ending): (&[&str], &str) = match of_mlx {
        Some(("gate_proj", ending @ ("weight" | "scales" | "biases"))) => (&["gate_proj"], ending),
        Some(("up_proj", ending @ ("weight" | "scales" | "biases"))) => (&["up_proj"], ending),
        Some(("down_proj", ending @ ("weight" | "scales" | "biases"))) => (&["down_proj"], ending),
        _ if tensor.name.ends_with(".experts.gate_up_proj") => (&["gate_proj", "up_proj"], "weight"),
        _ if tensor.name.ends_with(".experts.down_proj") => (&["down_proj"], "weight"),
        _ => return vec![tensor],
    };
    let &[n_experts, rows, columns] = tensor.shape.as_slice() else { return vec![tensor] };
    let Some(rows) = rows.checked_div(parts.len()).filter(|of_part| of_part * parts.len() == rows) else {
        return vec![tensor];
    };
    let layer = tensor.name.rsplit_once(".experts.").or(tensor.name.rsplit_once(".switch_mlp."));
    let Some((layer, _)) = layer else { return vec![tensor] };
    let part_bytes = tensor.dtype.bytes_of(rows * columns);
    let bytes = |index: usize| -> Range<usize> {
        let begin = tensor.byte_range.start + index * part_bytes;
        begin..begin + part_bytes
    };
    let one = |index: usize| TensorInfo {
        name: format!("{layer}.experts.{}.{}.{ending}", index / parts.len(), parts[index % parts.len()]),
        shard_idx: tensor.shard_idx,
        dtype: tensor.dtype,
        shape: vec![rows, columns],
        byte_range: bytes(index),
        values: tensor.values,
    };
    (0..n_experts * parts.len()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{DType, Values};

    fn tensor(name: &str, shape: &[usize], byte_range: Range<usize>) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            shard_idx: 3,
            dtype: DType::Bf16,
            shape: shape.to_vec(),
            byte_range,
            values: Values::Same,
        }
    }

    #[test]
    fn gate_and_up_of_each_expert_alternate() {
        // Three experts of [2, 5]: 20 bytes each for gate and up.
        let found = split(vec![tensor("model.layers.1.feed_forward.experts.gate_up_proj", &[3, 4, 5], 100..220)]);
        let at = |expert: usize, part: &str, begin: usize| {
            tensor(&format!("model.layers.1.feed_forward.experts.{expert}.{part}.weight"), &[2, 5], begin..begin + 20)
        };
        let expected = [
            at(0, "gate_proj", 100),
            at(0, "up_proj", 120),
            at(1, "gate_proj", 140),
            at(1, "up_proj", 160),
            at(2, "gate_proj", 180),
            at(2, "up_proj", 200),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn other_stacks_are_split_by_expert_and_the_rest_stays() {
        let found = split(vec![
            tensor("model.layers.1.feed_forward.switch_mlp.up_proj.weight", &[2, 1, 3], 0..12),
            tensor("model.layers.0.feed_forward.experts.down_proj", &[2, 3, 1], 12..24),
            tensor("model.layers.0.mamba.conv1d.weight", &[6, 4, 1], 24..72),
            tensor("model.layers.2.feed_forward.experts.gate_up_proj", &[2, 3, 1], 72..84),
        ]);
        let expected = [
            tensor("model.layers.0.feed_forward.experts.0.down_proj.weight", &[3, 1], 12..18),
            tensor("model.layers.0.feed_forward.experts.1.down_proj.weight", &[3, 1], 18..24),
            tensor("model.layers.0.mamba.conv1d.weight", &[6, 1, 4], 24..72),
            tensor("model.layers.1.feed_forward.experts.0.up_proj.weight", &[1, 3], 0..6),
            tensor("model.layers.1.feed_forward.experts.1.up_proj.weight", &[1, 3], 6..12),
            // Rows that two parts do not share evenly.
            tensor("model.layers.2.feed_forward.experts.gate_up_proj", &[2, 3, 1], 72..84),
        ];
        assert_eq!(found, expected);
    }
}

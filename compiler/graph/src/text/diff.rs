//! The difference of two graphs, line by line.
//!
//! Values with the same role have the same name in both graphs, so a line differs only if its node does. Equal nodes are matched,
//! and results of matched nodes share a name. A value that replaces a deleted value as the operand of a matched reader takes its name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Names, head, lines, listed, number, results, tail};
use crate::graph::{Graph, NodeId, ValueId};

/// Removed lines (`-`) and added lines (`+`); empty if both graphs print the same.
pub fn diff(before: &Graph, after: &Graph) -> String {
    let before_names = number(before);
    let old = lines(before, &before_names);
    let new = lines(after, &rename(before, after, &before_names));
    let kept = longest_common(&old, &new);

    let mut text = String::new();
    let (mut i, mut j) = (0, 0);
    for (kept_old, kept_new) in kept.into_iter().chain([(old.len(), new.len())]) {
        for line in &old[i..kept_old] {
            text += &format!("- {}\n", line.trim_start());
        }
        for line in &new[j..kept_new] {
            text += &format!("+ {}\n", line.trim_start());
        }
        (i, j) = (kept_old + 1, kept_new + 1);
    }
    text
}

/// Names for the values of `after`: those of `before` for the same roles, new numbers for the others.
fn rename(before: &Graph, after: &Graph, before_names: &Names) -> Names {
    let pairs = match_nodes(before, after);
    let mut names = Names::new();
    for (&new, &old) in &pairs {
        names.extend(results(after, new).zip(results(before, old)).map(|(new, old)| (new, before_names[&old].clone())));
    }

    // An unnamed value takes the name of the deleted value that its matched readers and outputs used to read.
    let mut taken: BTreeSet<String> = names.values().cloned().collect();
    let mut inherit = |new: ValueId, old: ValueId| {
        let Some(name) = before_names.get(&old) else { return };
        if !names.contains_key(&new) && taken.insert(name.clone()) {
            names.insert(new, name.clone());
        }
    };
    for node in listed(after) {
        if let Some(&old) = pairs.get(&node) {
            after.operands(node).into_iter().zip(before.operands(old)).for_each(|(new, old)| inherit(new, old));
        }
    }
    for (name, &new) in after.outputs() {
        if let Some(&old) = before.outputs().get(name) {
            inherit(new, old);
        }
    }

    let unnamed = listed(after).into_iter().flat_map(|node| results(after, node));
    let unnamed: Vec<ValueId> = unnamed.filter(|value| !names.contains_key(value)).collect();
    names.extend(unnamed.into_iter().zip(before_names.len()..).map(|(value, n)| (value, n.to_string())));
    names
}

/// Nodes of `after` with their counterparts in `before`. First nodes that are equal down to their operands; among the rest, the longest
/// common subsequence of nodes with the same op, attributes, types and source.
fn match_nodes(before: &Graph, after: &Graph) -> BTreeMap<NodeId, NodeId> {
    let mut pairs: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    let mut unmatched: BTreeMap<(String, Vec<ValueId>), Vec<NodeId>> = BTreeMap::new();
    for node in listed(before).into_iter().rev() {
        unmatched.entry((shape(before, node), before.operands(node))).or_default().push(node);
    }
    for node in listed(after) {
        let operands: Option<Vec<ValueId>> = after
            .operands(node)
            .into_iter()
            .map(|ValueId { node, result }| pairs.get(&node).map(|&node| ValueId { node, result }))
            .collect();
        let equal = operands.and_then(|operands| unmatched.get_mut(&(shape(after, node), operands))?.pop());
        pairs.extend(equal.map(|old| (node, old)));
    }

    let used: BTreeSet<NodeId> = pairs.values().copied().collect();
    let old: Vec<NodeId> = listed(before).into_iter().filter(|node| !used.contains(node)).collect();
    let new: Vec<NodeId> = listed(after).into_iter().filter(|node| !pairs.contains_key(node)).collect();
    let shapes = |graph, nodes: &[NodeId]| nodes.iter().map(|&node| shape(graph, node)).collect::<Vec<_>>();
    let common = longest_common(&shapes(before, &old), &shapes(after, &new));
    pairs.extend(common.into_iter().map(|(i, j)| (new[j], old[i])));
    pairs
}

/// A node's line without the names of values.
fn shape(graph: &Graph, node: NodeId) -> String {
    head(graph, node) + &tail(graph, node)
}

/// A longest common subsequence, as pairs of indices.
fn longest_common(a: &[String], b: &[String]) -> Vec<(usize, usize)> {
    let head = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (n, m) = (a.len() - head - tail, b.len() - head - tail);

    // length[i][j]: the longest common subsequence of what follows a[head + i] and b[head + j].
    let mut length = vec![vec![0u32; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            length[i][j] = if a[head + i] == b[head + j] {
                length[i + 1][j + 1] + 1
            } else {
                length[i + 1][j].max(length[i][j + 1])
            };
        }
    }
    let mut pairs: Vec<(usize, usize)> = (0..head).map(|i| (i, i)).collect();
    let (mut i, mut j) = (0, 0);
    while i < n && j < m {
        if a[head + i] == b[head + j] {
            pairs.push((head + i, head + j));
            (i, j) = (i + 1, j + 1);
        } else if length[i + 1][j] >= length[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs.extend((0..tail).map(|k| (a.len() - tail + k, b.len() - tail + k)));
    pairs
}

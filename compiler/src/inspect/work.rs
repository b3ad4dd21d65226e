//! The work of an entry's steps by kind of kernel (launches, barriers, bytes, operations), and a comparison with another plan's.
//!
//! Bytes and operations are lower bounds, for one sequence: prefill of one full chunk with an empty cache and one row of logits, or
//! decode of one token with an empty cache. A GPU's entry ends with two alternative steps that pick tokens; both are counted.

use std::collections::BTreeMap;
use std::fmt::Write;

use jamba_plan::cost::Size;
use jamba_plan::format::{Entry, EntryKind, Program};
use serde::Serialize;

/// Launches and their work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    pub steps: usize,
    /// Steps behind a barrier.
    pub barriers: usize,
    pub bytes: f64,
    pub operations: f64,
}

impl Work {
    fn add(&mut self, other: Work) {
        self.steps += other.steps;
        self.barriers += other.barriers;
        self.bytes += other.bytes;
        self.operations += other.operations;
    }
}

/// The step size that [`Work`] is computed for.
pub fn size(entry: &Entry) -> Size {
    match entry.kind {
        EntryKind::Prefill => {
            let tokens = entry.max_tokens as f64;
            Size { tokens, sequences: 1.0, outputs: 1.0, context: (tokens + 1.0) / 2.0 }
        }
        EntryKind::Decode => Size { tokens: 1.0, sequences: 1.0, outputs: 1.0, context: 1.0 },
    }
}

/// Work of each step, in order.
pub fn of_steps(entry: &Entry) -> Vec<Work> {
    let size = size(entry);
    let work = |step: &jamba_plan::format::Step| Work {
        steps: 1,
        barriers: usize::from(step.barrier),
        bytes: step.cost.bytes.at(size),
        operations: step.cost.operations.at(size),
    };
    entry.steps.iter().map(work).collect()
}

/// Work by kind of kernel, sorted by name.
pub fn by_kind(program: &Program, entry: &Entry) -> BTreeMap<String, Work> {
    let mut kinds: BTreeMap<String, Work> = BTreeMap::new();
    for (step, work) in entry.steps.iter().zip(of_steps(entry)) {
        kinds.entry(program.kernels[step.kernel as usize].op.clone()).or_default().add(work);
    }
    kinds
}

/// Total work of an entry.
pub fn total(entry: &Entry) -> Work {
    let mut total = Work::default();
    of_steps(entry).into_iter().for_each(|work| total.add(work));
    total
}

/// The tables of two programs side by side: `before` of the other plan, `after` of this one.
pub fn compare(before: &Program, after: &Program) -> String {
    let mut text = String::new();
    for entry in &after.entries {
        let Some(other) = before.entries.iter().find(|other| other.kind == entry.kind) else { continue };
        let (old, new) = (by_kind(before, other), by_kind(after, entry));
        let mut kinds: Vec<&String> = old.keys().chain(new.keys()).collect();
        kinds.sort();
        kinds.dedup();
        let head = ["kind", "steps", "", "barriers", "", "MB", "", "MFLOP", ""].map(str::to_owned);
        let of = |kinds: &BTreeMap<String, Work>, kind: &String| kinds.get(kind).copied().unwrap_or_default();
        let rows = kinds.into_iter().map(|kind| cells(kind, of(&old, kind), of(&new, kind)));
        let all = cells("all", total(other), total(entry));
        let size = size(entry);
        let _ = writeln!(text, "{}, {} tokens of one sequence: before, after", entry.kind.name(), size.tokens);
        text += &columns(std::iter::once(head).chain(rows).chain([all]));
    }
    text
}

fn cells(kind: &str, old: Work, new: Work) -> [String; 9] {
    let millions = |value: f64| format!("{:.3}", value / 1e6);
    [
        kind.to_owned(),
        old.steps.to_string(),
        new.steps.to_string(),
        old.barriers.to_string(),
        new.barriers.to_string(),
        millions(old.bytes),
        millions(new.bytes),
        millions(old.operations),
        millions(new.operations),
    ]
}

/// A table with the first column aligned left and the others right.
pub fn columns<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    jamba_plan::text::table(rows, |column| column == 0)
}

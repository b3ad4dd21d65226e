//! Graphs: recorded launches of an entry, one graph per bucket of step sizes, recorded by the first step of the bucket.
//!
//! Grids are computed from the step's counts rounded up to the bucket. Kernels read the exact counts from device memory, so
//! that one graph serves every step of its bucket. Without graphs the grids are the same.

use std::collections::BTreeMap;

use jamba_plan::format::{Count, Entry, Pick};

use super::driver::GraphId;
use crate::device::Counts;

/// Counts for grid sizes: those of a step, rounded up to powers of two and limited to the entry's maxima.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket {
    tokens: u64,
    sequences: u64,
    outputs: u64,
}

impl Bucket {
    pub(super) fn of(entry: &Entry, counts: Counts) -> Bucket {
        let up = |count: u64, most: u64| count.max(1).next_power_of_two().min(most);
        Bucket {
            tokens: up(counts.tokens, entry.max_tokens),
            sequences: up(counts.sequences, entry.max_sequences),
            outputs: up(counts.outputs, entry.max_outputs),
        }
    }

    pub(super) fn of_count(self, count: Count) -> u64 {
        match count {
            Count::Tokens => self.tokens,
            Count::Sequences => self.sequences,
            Count::Outputs => self.outputs,
        }
    }
}

/// Maximum number of graphs. The driver allocates memory for each, which the plan's memory does not include: reportedly about
/// 10 KB per launch for NVIDIA's driver, so 4 MB for a model of 32 layers and 256 MB for all graphs. `gpu-bench time`
/// measures it.
const MAX_GRAPHS: usize = 64;

/// The key of a graph: index of the entry, bucket, and how tokens are picked.
pub(super) type Key = (usize, Bucket, Option<Pick>);

/// The recorded graphs.
pub(super) struct Graphs {
    recorded: BTreeMap<Key, GraphId>,
    /// Limit on their number.
    most: usize,
}

impl Graphs {
    pub(super) fn new() -> Graphs {
        Graphs { recorded: BTreeMap::new(), most: MAX_GRAPHS }
    }

    /// No graphs: every step is launched separately.
    pub(super) fn off() -> Graphs {
        Graphs { recorded: BTreeMap::new(), most: 0 }
    }

    /// True if another graph may be recorded.
    pub(super) fn take_more(&self) -> bool {
        self.recorded.len() < self.most
    }

    /// Stops recording new graphs.
    pub(super) fn stop(&mut self) {
        self.most = self.recorded.len();
    }

    pub(super) fn get(&self, key: Key) -> Option<GraphId> {
        self.recorded.get(&key).copied()
    }

    pub(super) fn add(&mut self, key: Key, graph: GraphId) {
        self.recorded.insert(key, graph);
    }
}

#[cfg(test)]
mod tests {
    use jamba_plan::format::{EntryKind, Logits};

    use super::*;

    #[test]
    fn a_bucket_covers_its_steps_and_no_more_than_the_entry() {
        let entry = Entry {
            kind: EntryKind::Prefill,
            max_tokens: 300,
            max_sequences: 6,
            max_outputs: 4,
            logits: Logits { offset: 0, row_stride: 64, n: 1 },
            picks: None,
            steps: Vec::new(),
            buffers: Vec::new(),
        };
        let of = |tokens, sequences, outputs| Bucket::of(&entry, Counts { tokens, sequences, outputs });
        assert_eq!(of(257, 5, 3), Bucket { tokens: 300, sequences: 6, outputs: 4 });
        assert_eq!(of(65, 1, 0), Bucket { tokens: 128, sequences: 1, outputs: 1 });
        assert_eq!(of(65, 1, 0), of(128, 1, 1));
    }
}

//! The graphs that a GPU records when a plan is opened: the launches of one step size, replayed by every step that is no larger.
//! They depend only on the program, so that the compiler states their memory and the runtime records these and no others.

use crate::format::{Count, Entry, EntryKind, Pick, TargetKind};

/// Driver memory for one launch in a graph, in bytes. An assumption until it is measured on a device: about 10 KB are reported for
/// NVIDIA's driver.
pub const LAUNCH_BYTES: u64 = 10 << 10;

/// A recorded step size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Graph {
    /// Index of the entry.
    pub entry: usize,
    /// Tokens of the step.
    pub tokens: u64,
    /// Sequences of the step.
    pub sequences: u64,
    /// Rows of logits of the step.
    pub outputs: u64,
    /// How the device picks tokens; `None` if the host does.
    pub pick: Option<Pick>,
}

impl Graph {
    /// The graph that a step of an entry replays, whether it is recorded or not: counts are rounded up to powers of two and
    /// limited to the entry's maxima. A decode step rounds up all counts alike.
    pub fn of(entries: &[Entry], entry: usize, counts: [u64; 3], pick: Option<Pick>) -> Graph {
        let most = &entries[entry];
        let up = |count: u64, most: u64| count.max(1).next_power_of_two().min(most);
        let [tokens, sequences, outputs] = counts;
        if most.kind == EntryKind::Decode {
            let sequences = up(sequences.max(tokens).max(outputs), most.max_sequences);
            let [tokens, outputs] = [most.max_tokens, most.max_outputs].map(|most| sequences.min(most));
            return Graph { entry, tokens, sequences, outputs, pick };
        }
        let (tokens, sequences) = (up(tokens, most.max_tokens), up(sequences, most.max_sequences));
        Graph { entry, tokens, sequences, outputs: up(outputs, most.max_outputs), pick }
    }

    /// The step's size in one dimension.
    pub fn of_count(&self, count: Count) -> u64 {
        match count {
            Count::Tokens => self.tokens,
            Count::Sequences => self.sequences,
            Count::Outputs => self.outputs,
        }
    }

    /// Bytes of driver memory, as the plan states them.
    pub fn bytes(&self, entries: &[Entry]) -> u64 {
        let launches = entries[self.entry].steps_of(self.pick).filter(|(_, step)| step.launch.is_some()).count();
        launches as u64 * LAUNCH_BYTES
    }
}

/// All graphs of a program, in order: every size of every decode entry, and a full chunk of one prompt. Other prefill steps
/// are launched one by one: they take much longer than their launches.
pub fn all(entries: &[Entry]) -> Vec<Graph> {
    let mut graphs = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let picks: &[Option<Pick>] = match entry.picks {
            Some(_) => &[None, Some(Pick::Likeliest), Some(Pick::Drawn)],
            None => &[None],
        };
        let powers = std::iter::successors(Some(1_u64), |n| n.checked_mul(2));
        let mut counts: Vec<[u64; 3]> = match entry.kind {
            EntryKind::Prefill => vec![[entry.max_tokens, 1, 1]],
            EntryKind::Decode => powers.take_while(|&n| n <= entry.max_sequences).map(|n| [n; 3]).collect(),
        };
        if entry.kind == EntryKind::Decode {
            // Smaller steps take the entry before.
            let smaller = entries[..index].iter().filter(|entry| entry.kind == EntryKind::Decode);
            let taken = smaller.map(|entry| entry.max_sequences).max().unwrap_or(0);
            counts.retain(|&[_, sequences, _]| sequences > taken);
            if !entry.max_sequences.is_power_of_two() {
                counts.push([entry.max_sequences; 3]);
            }
        }
        for counts in counts {
            graphs.extend(picks.iter().map(|&pick| Graph::of(entries, index, counts, pick)));
        }
    }
    graphs
}

/// Driver memory of the graphs of a kind of target, in bytes: [`crate::format::Memory::graphs`].
pub fn region_bytes(kind: TargetKind, entries: &[Entry]) -> u64 {
    match kind {
        TargetKind::Cpu => 0,
        TargetKind::Sm90a => total_bytes(entries),
    }
}

/// Driver memory of all graphs, in bytes. Saturates on overflow.
pub fn total_bytes(entries: &[Entry]) -> u64 {
    all(entries).iter().fold(0, |sum: u64, graph| sum.saturating_add(graph.bytes(entries)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn entry(kind: EntryKind, max_tokens: u64, max_sequences: u64, max_outputs: u64) -> Entry {
        let entry = fixture::sm_90a::program().entries.swap_remove(0);
        Entry { kind, max_tokens, max_sequences, max_outputs, ..entry }
    }

    fn entries() -> Vec<Entry> {
        vec![
            entry(EntryKind::Prefill, 300, 20, 20),
            entry(EntryKind::Decode, 8, 8, 8),
            entry(EntryKind::Decode, 20, 20, 20),
        ]
    }

    #[test]
    fn a_graph_covers_its_steps_and_no_more_than_the_entry() {
        let of = |entry, counts| {
            let Graph { tokens, sequences, outputs, .. } = Graph::of(&entries(), entry, counts, None);
            [tokens, sequences, outputs]
        };
        assert_eq!(of(0, [257, 5, 3]), [300, 8, 4]);
        assert_eq!(of(0, [65, 1, 0]), [128, 1, 1]);
        assert_eq!(of(2, [9, 9, 0]), [16, 16, 16]);
        assert_eq!(of(2, [17, 17, 17]), [20, 20, 20]);
    }

    /// Every decode step and every full chunk of one prompt has its graph.
    #[test]
    fn decode_steps_and_full_chunks_have_graphs() {
        let entries = entries();
        let graphs = all(&entries);
        let sizes: Vec<[u64; 2]> =
            graphs.iter().filter(|graph| graph.pick.is_none()).map(|g| [g.entry as u64, g.tokens]).collect();
        assert_eq!(sizes, [[0, 300], [1, 1], [1, 2], [1, 4], [1, 8], [2, 16], [2, 20]]);
        assert_eq!(graphs.len(), 3 * sizes.len());
        for n in 1..=20 {
            for pick in [None, Some(Pick::Likeliest), Some(Pick::Drawn)] {
                for outputs in [0, 1, n] {
                    let graph = Graph::of(&entries, if n <= 8 { 1 } else { 2 }, [n, n, outputs], pick);
                    assert!(graphs.contains(&graph), "{n} {pick:?}");
                    assert!(graph.tokens >= n && graph.outputs >= outputs);
                }
            }
        }
        assert!(graphs.contains(&Graph::of(&entries, 0, [280, 1, 0], None)));
        // Two steps of the fixture, and one that picks.
        assert_eq!(total_bytes(&entries), 7 * (2 + 3 + 3) * LAUNCH_BYTES);
    }
}

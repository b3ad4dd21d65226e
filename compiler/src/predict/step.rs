//! The predicted time of a launch, and of all launches of a step.
//!
//! ```text
//! T(launch) = gap + count + reads · read + tail + max(bytes / bandwidth, operations / rate)
//!   bandwidth = min(that of the card, blocks with work · that of a block)
//!   rate      = that of the unit, for whole tiles, on the multiprocessors that have one in each wave
//! T(step)   = host + Σ T(launch)
//! ```

use jamba_plan::cost::Size;
use jamba_plan::format::{Count, EntryKind, Pick, Program, Step};
use jamba_plan::graphs::Graph;
use jambac_kernels::kernel::{Launch, Pieces, Unit, Work};
use serde::Serialize;

use super::card::Card;

/// The sizes of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    pub kind: EntryKind,
    pub sequences: u64,
    /// New tokens of a sequence: 1 in a decode step.
    pub tokens: u64,
    /// Tokens of a sequence before the step.
    pub context: u64,
}

impl Load {
    /// One new token for each sequence.
    pub fn decode(sequences: u64, context: u64) -> Load {
        Load { kind: EntryKind::Decode, sequences, tokens: 1, context }
    }

    /// A part of one prompt.
    pub fn prefill(tokens: u64, context: u64) -> Load {
        Load { kind: EntryKind::Prefill, sequences: 1, tokens, context }
    }

    fn size(self) -> Size {
        let (tokens, sequences) = ((self.tokens * self.sequences) as f64, self.sequences as f64);
        let context = self.context as f64 + (self.tokens as f64 + 1.0) / 2.0;
        Size { tokens, sequences, outputs: sequences, context }
    }

    fn counts(self) -> [u64; 3] {
        [self.tokens * self.sequences, self.sequences, self.sequences]
    }
}

/// What a launch spends most of its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Being launched, and reads of which each waits for the one before.
    Launch,
    /// The card's memory.
    Memory,
    /// Memory, by fewer blocks than would use all of its bandwidth.
    Blocks,
    /// Arithmetic.
    Compute,
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Bound::Launch => "launch",
            Bound::Memory => "memory",
            Bound::Blocks => "blocks",
            Bound::Compute => "compute",
        }
    }
}

/// A predicted launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Predicted {
    pub symbol: String,
    /// The graph's node.
    pub source: String,
    pub bytes: f64,
    pub operations: f64,
    /// Blocks with work.
    pub blocks: f64,
    pub dependent_reads: u32,
    pub seconds: f64,
    /// The least time that the card's memory and arithmetic allow.
    pub floor: f64,
    pub bound: Bound,
}

/// A predicted step.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub launches: Vec<Predicted>,
    /// Of the launches and the host.
    pub seconds: f64,
    /// Bytes of all launches.
    pub bytes: f64,
    /// Sum of the launches' least times.
    pub floor: f64,
}

/// Predicts a step that picks the most likely tokens on the device. `kernels` are the launches of the program's kernels, in order.
/// `None` if no entry takes the step.
pub fn predict(kernels: &[Launch], program: &Program, card: &Card, load: Load) -> Option<Prediction> {
    let counts = load.counts();
    let entry = program.entries.iter().position(|entry| {
        let most = [entry.max_tokens, entry.max_sequences, entry.max_outputs];
        entry.kind == load.kind && counts.iter().zip(most).all(|(&count, most)| count <= most)
    })?;
    let pick = program.entries[entry].picks.map(|_| Pick::Likeliest);
    let grid = Graph::of(&program.entries, entry, counts, pick);
    let size = load.size();
    let launches: Vec<Predicted> = program.entries[entry]
        .steps_of(pick)
        .map(|(_, step)| launch(&kernels[step.kernel as usize], step, card, &grid, size))
        .collect();
    let sum = |of: fn(&Predicted) -> f64| launches.iter().map(of).sum::<f64>();
    let (seconds, bytes, floor) = (sum(|x| x.seconds) + card.host, sum(|x| x.bytes), sum(|x| x.floor));
    Some(Prediction { launches, seconds, bytes, floor })
}

fn launch(kernel: &Launch, step: &Step, card: &Card, grid: &Graph, size: Size) -> Predicted {
    let (bytes, operations) = (step.cost.bytes.at(size), step.cost.operations.at(size));
    let work = kernel.grid.map_or(Work::default(), |grid| grid.work);
    let blocks =
        step.launch.map_or(1, |launch| launch.blocks(card.n_sms, |count| grid.of_count(count)).iter().product::<u64>())
            as f64;
    let rows = f64::from(step.rows.per)
        * match step.rows.count {
            Count::Tokens => size.tokens,
            Count::Sequences => size.sequences,
            Count::Outputs => size.outputs,
        };
    let tiles = Tiles::of(work.pieces, rows);
    let with_work = tiles.map_or(blocks, |tiles| tiles.number.min(blocks));
    let of_block = match work.unit {
        Unit::Tensor | Unit::TensorWidened => card.tile_bandwidth,
        _ => card.block_bandwidth,
    };
    let by_blocks = with_work * of_block;
    let memory = bytes / card.bandwidth.min(by_blocks);
    let compute = match tiles.filter(|_| work.unit != Unit::Warps) {
        // The last wave takes as long as the others.
        Some(tiles) => {
            let waves = (tiles.number / f64::from(card.n_sms)).ceil();
            let of_tile = operations * tiles.padding / tiles.number;
            waves * of_tile * f64::from(card.n_sms) / card.operations(work.unit)
        }
        None => operations / card.operations(work.unit),
    };
    let overhead = card.overhead(work.dependent_reads);
    let bound = match () {
        () if overhead >= memory.max(compute) => Bound::Launch,
        () if compute > memory => Bound::Compute,
        () if by_blocks < card.bandwidth => Bound::Blocks,
        () => Bound::Memory,
    };
    Predicted {
        symbol: kernel.symbol.clone(),
        source: step.source.clone(),
        bytes,
        operations,
        blocks: with_work,
        dependent_reads: work.dependent_reads,
        seconds: overhead + memory.max(compute),
        floor: (bytes / card.bandwidth).max(operations / card.limit(work.unit)),
        bound,
    }
}

/// Tiles of a product.
#[derive(Clone, Copy)]
struct Tiles {
    number: f64,
    /// Rows that are multiplied for each row of x.
    padding: f64,
}

impl Tiles {
    fn of(pieces: Pieces, rows: f64) -> Option<Tiles> {
        let Pieces::Tiles { columns, rows: of_tile, per_row, n_matrices } = pieces else { return None };
        let (rows, of_tile) = ((rows * per_row as f64).max(1.0), of_tile as f64);
        let along_rows = match n_matrices {
            1 => (rows / of_tile).ceil(),
            // Experts end in the middle of a tile: half a tile more each on average.
            n => {
                let active = rows.min(n as f64);
                active * (rows / active / of_tile + 0.5).max(1.0)
            }
        };
        Some(Tiles { number: along_rows * columns as f64, padding: (along_rows * of_tile / rows).max(1.0) })
    }
}

//! Plans of the toy model for a GPU: embedding, recurrence over state, keys in pages, sums over them, rows of logits.
//! The entries are prefill, decode for one sequence, and decode for up to three.

use std::path::{Path, PathBuf};

use jamba_plan::PlanWriter;
use jamba_plan::cost::Cost;
use jamba_plan::format::*;
use jamba_plan::graphs;
use jamba_plan::sections::SectionKind;
use jamba_plan::tables::{DeviceTables, pages_per_sequence, table_bytes};

pub(crate) const VOCAB: u64 = 300;
/// Every row of the embedding.
pub(crate) const WEIGHT: f32 = 5.0;
pub(crate) const LIMITS: Limits =
    Limits { max_context: 100, max_sequences: 3, kv_tokens: 160, prefill_chunk: 40, max_outputs: 24 };
pub(crate) const STATE_BYTES: u64 = 128;
pub(crate) const PAGE_BYTES: u64 = 128;
pub(crate) const WEIGHT_BYTES: u64 = 128 * 128 + SLACK_BYTES;
/// One f32 for each token of the vocabulary.
pub(crate) const EMBEDDING_BYTES: u64 = VOCAB * 4;
/// Offset of the matrix, after the embedding.
pub(crate) const MATRIX: u64 = EMBEDDING_BYTES.next_multiple_of(128);
pub(crate) const ROW_STRIDE: u64 = 1280;
pub(crate) const LOGITS: u64 = 768;
pub(crate) const ARENA: u64 = LOGITS + 24 * ROW_STRIDE;
const X: u64 = 0;
const Y: u64 = 256;
/// Offsets of the picked tokens of up to 24 rows, after 40 f32 of x and of y.
pub(crate) const PICKS: Picks = Picks { likeliest: 512, drawn: 640 };

pub(crate) const PTX: &str = "//\n.version 8.0\n.target sm_90a\n.address_size 64\n";
pub(crate) const SYMBOLS: [&str; 7] = ["embed", "recur", "append", "attend", "head", "head2", "head3"];
/// Largest shared memory of any kernel.
pub(crate) const SHARED_BYTES: u32 = 200_000;

/// A plan that tests can modify.
pub(crate) struct Toy {
    pub(crate) manifest: Manifest,
    pub(crate) program: Program,
    pub(crate) ptx: &'static str,
    pub(crate) cubin: Option<&'static [u8]>,
}

impl Toy {
    pub(crate) fn new() -> Toy {
        let program = program();
        Toy { manifest: manifest(&program), program, ptx: PTX, cubin: None }
    }

    /// Adds a step to prefill that writes past the end of the arena.
    pub(crate) fn overrun(mut self) -> Toy {
        let operands = vec![Operand::Value(Access::ReadWrite, per_token()), Operand::Constant(ARENA / 4)];
        let kernel = self.program.kernels.len() as u32;
        self.program.kernels.push(record("overrun", "overrun", operands));
        let args = vec![Arg::Arena(0), Arg::Constant(ARENA / 4)];
        let entry = &mut self.program.entries[0];
        entry.steps.insert(2, step(kernel, args, "layers.7.culprit"));
        for buffer in &mut entry.buffers {
            let later = |step: u32| if step < 2 { step } else { step + 1 };
            (buffer.first, buffer.last) = (later(buffer.first), later(buffer.last));
            buffer.reads += u32::from(buffer.offset == X);
        }
        self.manifest.programs[0].memory.graphs = graphs::total_bytes(&self.program.entries);
        self
    }

    /// Adds steps that pick tokens to every entry.
    pub(crate) fn picking(mut self) -> Toy {
        let read = Operand::Value(Access::Read, rows_of_logits());
        let tokens = Shape { elem: Elem::I32, row: 1, ..rows_of_logits() };
        let rest = [Operand::Value(Access::Write, tokens), Operand::Count(Per::Output, 1)];
        let argmax = [std::slice::from_ref(&read), &rest[..]].concat();
        let draw = [&[read, Operand::Table(Table::Settings)], &rest[..]].concat();
        let kernel = self.program.kernels.len() as u32;
        self.program.kernels.extend([record("argmax", "sample", argmax), record("draw", "sample", draw)]);
        let (logits, outputs) = (Arg::Arena(LOGITS), Arg::Count(Count::Outputs, 1));
        for entry in &mut self.program.entries {
            let draw = vec![logits, Arg::Table(Table::Settings), Arg::Arena(PICKS.drawn), outputs];
            let argmax = vec![logits, Arg::Arena(PICKS.likeliest), outputs];
            entry.steps.extend([
                Step { pick: Some(Pick::Likeliest), ..step(kernel, argmax, "sampler") },
                Step { pick: Some(Pick::Drawn), ..step(kernel + 1, draw, "sampler") },
            ]);
            entry.picks = Some(PICKS);
            let logits = entry.buffers.last_mut().unwrap();
            (logits.last, logits.reads) = (6, 2);
            let bytes = 4 * entry.max_outputs;
            entry.buffers.extend([buffer(PICKS.likeliest, bytes, (5, 5), 0), buffer(PICKS.drawn, bytes, (6, 6), 0)]);
        }
        let memory = &mut self.manifest.programs[0].memory;
        memory.tables = DeviceTables::of(&LIMITS, &self.program).bytes;
        memory.graphs = graphs::total_bytes(&self.program.entries);
        self
    }

    /// Makes all logits NaN.
    pub(crate) fn without_numbers(mut self) -> Toy {
        for (kernel, symbol) in self.program.kernels[4..7].iter_mut().zip(["nan_head", "nan_head2", "nan_head3"]) {
            kernel.symbol = symbol.to_owned();
        }
        self
    }

    /// Makes the weights synthetic. The second one has `bytes` bytes, a multiple of 8192.
    pub(crate) fn synthetic(mut self, seed: u64, bytes: u64) -> Toy {
        self.manifest.synthetic_seed = Some(seed);
        let weight = &mut self.program.weights[1];
        weight.layout = Layout::in_rows(1, bytes / 128, 60, 64, (64, 64));
        weight.parts[0].rows = bytes / 128;
        weight.bytes = bytes;
        self.program.tensor_maps[0].rows = bytes / 128;
        let matrix = Operand::Matrix(BOXES, Matrix::Weight(WeightShape::of(weight)));
        for head in &mut self.program.kernels[4..7] {
            head.operands[7] = matrix.clone();
        }
        self.manifest.programs[0].memory.weights = weight.offset + bytes + SLACK_BYTES;
        self
    }

    /// Adds kernels that draw the weights on the device.
    pub(crate) fn drawn_there(mut self) -> Toy {
        let kernel = |symbol: &str, format: WeightFormat| DrawKernel {
            symbol: symbol.to_owned(),
            format,
            launch: Launch::along_x(Blocks::PerSm(4), 256, 0),
        };
        self.manifest.programs[0].draw_kernels =
            vec![kernel("draw_bf16", WeightFormat::Bf16), kernel("draw_f32", WeightFormat::F32)];
        self
    }

    /// The content of the weights section.
    pub(crate) fn weights(&self) -> Vec<u8> {
        let mut weights: Vec<u8> = (0..self.manifest.programs[0].memory.weights).map(|at| (at % 251) as u8).collect();
        for row in weights[..EMBEDDING_BYTES as usize].chunks_exact_mut(4) {
            row.copy_from_slice(&WEIGHT.to_le_bytes());
        }
        weights
    }

    /// Writes the plan into a folder.
    pub(crate) fn write(self, folder: &Path) -> PathBuf {
        let path = folder.join("toy.plan");
        let mut writer = PlanWriter::create(&path).unwrap();
        writer.manifest(&self.manifest).unwrap();
        writer.program(TargetKind::Sm90a, &self.program).unwrap();
        writer.code("sm_90a", self.ptx.as_bytes()).unwrap();
        if let Some(cubin) = self.cubin {
            writer.code("sm_90a.cubin", cubin).unwrap();
        }
        if self.manifest.synthetic_seed.is_none() {
            writer.section(SectionKind::Weights, "weights/sm_90a", &self.weights()).unwrap();
        }
        writer.finish().unwrap();
        path
    }
}

fn manifest(program: &Program) -> Manifest {
    let memory = Memory {
        arena: ARENA,
        state_slot: STATE_BYTES,
        kv_page: PAGE_BYTES,
        weights: WEIGHT_BYTES,
        tables: DeviceTables::of(&LIMITS, program).bytes,
        graphs: graphs::total_bytes(&program.entries),
    };
    assert!(memory.tables > table_bytes(&LIMITS));
    Manifest {
        compiler: "0.1.0".to_owned(),
        model: Model {
            head: Head::Logits,
            name: "toy".to_owned(),
            n_parameters: 1,
            n_layers: 2,
            d_model: 1,
            vocab: VOCAB,
            bos: None,
            eos: vec![0],
            formats: Vec::new(),
        },
        limits: LIMITS,
        programs: vec![ProgramInfo {
            kind: TargetKind::Sm90a,
            targets: vec!["sm_90a".to_owned()],
            memory,
            passes: Vec::new(),
            draw_kernels: Vec::new(),
        }],
        synthetic_seed: None,
        generation: Default::default(),
        provenance: None,
    }
}

fn weight(name: &str, offset: u64, layout: Layout, format: WeightFormat) -> Weight {
    let init = Init::Uniform { low: 7.0, high: 7.0 };
    Weight {
        parts: vec![Part { parameter: name.to_owned(), first_row: 0, rows: layout.n, init }],
        order: PartOrder::Stacked,
        offset,
        bytes: layout.bytes(format).unwrap(),
        layout,
        format,
        transform: Transform::None,
    }
}

/// The boxes in which `head` reads the matrix.
const BOXES: MatrixBoxes = MatrixBoxes {
    elem: TensorElem::Bf16,
    cols: 60,
    row_stride: 128,
    box_rows: 64,
    box_cols: 64,
    swizzle: Swizzle::B128,
};

fn record(symbol: &str, op: &str, operands: Vec<Operand>) -> KernelRecord {
    KernelRecord { symbol: symbol.to_owned(), op: op.to_owned(), operands, recipe: String::new() }
}

/// One f32 for each token.
fn per_token() -> Shape {
    Shape { elem: Elem::F32, row: 1, fixed: 0, factor: 1, per: Per::Token }
}

fn rows_of_logits() -> Shape {
    Shape { row: ROW_STRIDE / 4, per: Per::Output, ..per_token() }
}

/// What each kernel of [`SYMBOLS`] takes.
fn operands(weights: &[Weight]) -> [Vec<Operand>; 7] {
    use Operand::{Constant, Count, Kv, State, Table as T, Value};
    let (starts, x) = (T(Table::Starts), |access: Access| Value(access, per_token()));
    let paged = |kv: Access, x: Operand| {
        let tables = [Table::Starts, Table::Past, Table::Pages, Table::SequenceOf].map(T);
        let kv = [Kv(kv, Elem::F32, KV_PAGE_TOKENS), x, Count(Per::Token, 1)];
        [&tables[..], &kv, &[Constant(PAGE_BYTES), Operand::PagesPerSequence]].concat()
    };
    let shape = |weight: &Weight| WeightShape::of(weight);
    let head = |number: u64| {
        let values = [T(Table::Rows), x(Access::Read), Value(Access::Write, rows_of_logits()), Count(Per::Output, 1)];
        let matrix = Operand::Matrix(BOXES, Matrix::Weight(shape(&weights[1])));
        [&values[..], &[Constant(ROW_STRIDE), Constant(number), Count(Per::Output, 2), matrix]].concat()
    };
    let recur = [starts, T(Table::Slots), State(Elem::F32, 1), x(Access::ReadWrite)];
    [
        vec![T(Table::Ids), Operand::Weight(shape(&weights[0])), x(Access::Write), Count(Per::Token, 1)],
        [&recur[..], &[Count(Per::Sequence, 1), Constant(STATE_BYTES)]].concat(),
        paged(Access::ReadWrite, x(Access::Read)),
        paged(Access::Read, x(Access::Write)),
        head(1),
        head(2),
        head(3),
    ]
}

fn program() -> Program {
    let weights = vec![
        weight("model.embed_tokens.weight", 0, Layout::in_panels(1, VOCAB, 1, 1), WeightFormat::F32),
        weight("model.matrix", MATRIX, Layout::in_rows(1, 64, 60, 64, (64, 64)), WeightFormat::Bf16),
    ];
    let map = |base: Arg, rows: u64| TensorMap {
        base,
        elem: BOXES.elem,
        rows,
        cols: BOXES.cols,
        row_stride: BOXES.row_stride,
        box_rows: BOXES.box_rows,
        box_cols: BOXES.box_cols,
        swizzle: BOXES.swizzle,
    };
    let kernels = SYMBOLS.into_iter().zip(operands(&weights));
    Program {
        kernels: kernels.map(|(symbol, operands)| record(symbol, symbol, operands)).collect(),
        weights,
        tensor_maps: vec![map(Arg::Weight(1), 64), map(Arg::Arena(X), 2)],
        entries: vec![entry(EntryKind::Prefill, 40, 1), entry(EntryKind::Decode, 1, 2), entry(EntryKind::Decode, 3, 3)],
    }
}

fn buffer(offset: u64, bytes: u64, (first, last): (u32, u32), reads: u32) -> Buffer {
    Buffer { offset, bytes, first, last, reads, holds: "out".to_owned(), in_place_of: None }
}

pub(crate) fn step(kernel: u32, args: Vec<Arg>, source: &str) -> Step {
    let per_token = Blocks::Of { count: Count::Tokens, factor: 2, per_block: 4 };
    let launch = match kernel {
        0 => Launch::along_x(per_token, 64, 0),
        4..=6 => Launch::along_x(Blocks::Of { count: Count::Outputs, factor: 1, per_block: 1 }, 128, 1024),
        _ => Launch {
            grid: [Blocks::PerSm(1), Blocks::Fixed(2), Blocks::Fixed(1)],
            threads: 384,
            shared_bytes: SHARED_BYTES,
        },
    };
    let (launch, source) = (Some(launch), source.to_owned());
    Step { kernel, barrier: kernel > 0, args, rows: Rows::TOKENS, launch, pick: None, source, cost: Cost::default() }
}

/// An entry. `head` writes its number to the logits.
fn entry(kind: EntryKind, max_tokens: u64, number: u64) -> Entry {
    use Arg::{Arena, Constant, Kv, State, Table as T, Weight};
    let (starts, past, pages) = (T(Table::Starts), T(Table::Past), T(Table::Pages));
    let tokens = Arg::Count(Count::Tokens, 1);
    let stride = Constant(pages_per_sequence(&LIMITS));
    let paged =
        |x| vec![starts, past, pages, T(Table::SequenceOf), Kv(0), Arena(x), tokens, Constant(PAGE_BYTES), stride];
    let outputs = |factor| Arg::Count(Count::Outputs, factor);
    let sequences = Arg::Count(Count::Sequences, 1);
    let args = [
        vec![T(Table::Ids), Weight(0), Arena(X), tokens],
        vec![starts, T(Table::Slots), State(0), Arena(X), sequences, Constant(STATE_BYTES)],
        paged(X),
        paged(Y),
        vec![
            T(Table::Rows),
            Arena(Y),
            Arena(LOGITS),
            outputs(1),
            Constant(ROW_STRIDE),
            Constant(number),
            outputs(2),
            Arg::TensorMap(0),
        ],
    ];
    let max_outputs = if kind == EntryKind::Prefill { LIMITS.max_outputs } else { max_tokens };
    let kernel = |index: u32| if index == 4 { 3 + number as u32 } else { index };
    Entry {
        kind,
        max_tokens,
        max_sequences: max_tokens.min(LIMITS.max_sequences),
        max_outputs,
        logits: Logits { offset: LOGITS, row_stride: ROW_STRIDE, n: VOCAB },
        picks: None,
        steps: (0..).zip(args).map(|(index, args)| step(kernel(index), args, &format!("layers.{index}"))).collect(),
        buffers: vec![
            buffer(X, 4 * max_tokens, (0, 2), 2),
            buffer(Y, 4 * max_tokens, (3, 4), 1),
            buffer(LOGITS, max_outputs * ROW_STRIDE, (4, 4), 0),
        ],
    }
}

/// The toy model's results after each token of a sequence.
pub(crate) fn answers(tokens: &[u32], weight: u32) -> Vec<f32> {
    let (mut state, mut sum) = (0, 0);
    let next = |&token: &u32| {
        state = (state * 3 + token + weight) % 1009;
        sum = (sum + state) % 1009;
        sum as f32
    };
    tokens.iter().map(next).collect()
}

//! What a plan holds: the manifest (for people and for opening), the program (for executing), the layout of weights.
//! Every field has its unit. Offsets are relative to what the field's documentation names, never to memory.

use serde::{Deserialize, Serialize};

use crate::cost::Cost;

mod draw_kernel;
mod launch;
mod layout;
mod picks;
mod rows;
mod target;
mod tensor_map;
mod weight;

pub use draw_kernel::DrawKernel;
pub use launch::{Blocks, Launch};
pub use layout::{ElementOrder, Layout};
pub use picks::{NO_TOKEN, Pick, Picks, Setting};
pub use rows::Rows;
pub use target::TargetKind;
pub use tensor_map::{Swizzle, TENSOR_MAP_BYTES, TensorElem, TensorMap};
pub use weight::{Init, Part, PartOrder, Scales, Transform, Weight, WeightFormat};

/// Bytes that every section, buffer pool and weight region starts on.
pub const PAGE_BYTES: u64 = 4096;

/// Alignment, in bytes, of every buffer in the arena and every weight in its section; GPUs need more
/// ([`TargetKind::align_bytes`]).
pub const ALIGN_BYTES: u64 = 64;

/// Readable bytes that follow every pool and the weights, so that a vector load of a row's tail stays inside.
pub const SLACK_BYTES: u64 = 256;

/// Tokens in one page of keys and values.
pub const KV_PAGE_TOKENS: u64 = 16;

/// What the plan is, for people, for `jamba info` and for opening it. Stored as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the compiler that wrote the plan.
    pub compiler: String,
    /// The model.
    pub model: Model,
    /// What the plan was built to serve.
    pub limits: Limits,
    /// What the plan holds for each kind of target, in the order of [`TargetKind::ALL`].
    pub programs: Vec<ProgramInfo>,
    /// Seed of synthetic weights; the plan then has no weights sections and the runtime draws them.
    pub synthetic_seed: Option<u64>,
    /// What the plan was built from. Absent in plans of compilers that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// What a plan holds for one kind of target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramInfo {
    /// The kind.
    pub kind: TargetKind,
    /// Targets of this kind with code in the plan, best first: `x86-64-v4`, `x86-64-v3`.
    pub targets: Vec<String>,
    /// Every byte that a plan opened on such a target holds beside its code.
    pub memory: Memory,
    /// Names of the passes that ran.
    pub passes: Vec<String>,
    /// Kernels that draw synthetic weights where they lie, one for each format that the program's weights have. Where there are
    /// none, as on CPUs, the runtime draws them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draw_kernels: Vec<DrawKernel>,
}

impl Manifest {
    /// What the plan holds for a kind of target.
    pub fn of(&self, kind: TargetKind) -> Option<&ProgramInfo> {
        self.programs.iter().find(|info| info.kind == kind)
    }

    /// Every target with code in the plan.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().flat_map(|info| &info.targets).map(String::as_str)
    }
}

/// What a plan was built from, for people; nothing of it is executed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of LLVM that made the code.
    pub llvm: String,
    /// The options that say what the plan computes, as key and value: `weights.experts`, `int8`. Limits are not among them.
    pub options: Vec<(String, String)>,
    /// Files of the checkpoint that were read.
    pub files: Vec<SourceFile>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name in the checkpoint's folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// BLAKE3 of its length (u64, little-endian) and of what `covers` says, as hexadecimal digits.
    pub blake3: String,
    /// `everything`, or which part of the file the digest says something about.
    pub covers: String,
}

/// The model as far as running it needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Name of the checkpoint's folder or of the model file.
    pub name: String,
    /// Number of parameters of the checkpoint.
    pub n_parameters: u64,
    /// Layers.
    pub n_layers: u64,
    /// Width of the residual stream.
    pub d_model: u64,
    /// Size of the vocabulary: logits of one position.
    pub vocab: u64,
    /// Token that begins a text, where the model has one.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Weight formats by group (`linear`, `experts`, `embedding`), for people.
    pub formats: Vec<(String, String)>,
}

/// What the plan was built to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Tokens of one sequence, prompt and answer together.
    pub max_context: u64,
    /// Sequences at once: slots of conv and SSM state.
    pub max_sequences: u64,
    /// Tokens of KV cache, all sequences together; a multiple of [`KV_PAGE_TOKENS`].
    pub kv_tokens: u64,
    /// Tokens of one prefill step.
    pub prefill_chunk: u64,
    /// Rows of logits that one step can return.
    pub max_outputs: u64,
}

/// Every byte that an open plan holds beside its code. All in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Activations and workspace; one arena serves all entries.
    pub arena: u64,
    /// Conv and SSM state of one sequence; a multiple of [`TargetKind::align_bytes`].
    pub state_slot: u64,
    /// One page of keys and values of [`KV_PAGE_TOKENS`] tokens in every attention layer; a multiple of
    /// [`TargetKind::align_bytes`].
    pub kv_page: u64,
    /// Packed weights (mapped or copied from the plan, or drawn when they are synthetic), with [`SLACK_BYTES`] behind the last.
    pub weights: u64,
    /// Step tables (ids, rows, sequence starts, page tables); on a GPU also the words of counts, the settings of draws and the
    /// tensor maps, as [`crate::tables::DeviceTables`] places them.
    pub tables: u64,
}

impl Memory {
    /// State of all sequences, in bytes.
    pub fn state_pool(&self, limits: &Limits) -> u64 {
        self.state_slot * limits.max_sequences
    }

    /// KV pages of all sequences, in bytes.
    pub fn kv_pool(&self, limits: &Limits) -> u64 {
        self.kv_page * (limits.kv_tokens / KV_PAGE_TOKENS)
    }

    /// Everything together, in bytes.
    pub fn total(&self, limits: &Limits) -> u64 {
        self.arena + self.state_pool(limits) + self.kv_pool(limits) + self.weights + self.tables
    }
}

/// What the runtime executes. Stored in postcard's encoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Exported symbols of the code section, by kernel index.
    pub kernels: Vec<KernelRecord>,
    /// Packed weights, in order of offset.
    pub weights: Vec<Weight>,
    /// Matrices of tensor copies, by index. None on CPUs.
    pub tensor_maps: Vec<TensorMap>,
    /// `prefill`, then `decode`; a GPU may have several of the latter, the smaller first.
    pub entries: Vec<Entry>,
}

/// One kernel of the code section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Exported symbol: `linear_bf16_n512_k128`.
    pub symbol: String,
    /// What it computes, as the catalog of kernels calls it: `linear`.
    pub op: String,
    /// Number of slots in its argument array.
    pub n_args: u32,
}

/// Which entry a step list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// Any number of tokens per sequence.
    Prefill,
    /// One token per sequence.
    Decode,
}

/// Steps in order, and the largest batch that they take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Prefill or decode.
    pub kind: EntryKind,
    /// Largest number of tokens in one step.
    pub max_tokens: u64,
    /// Largest number of sequences in one step.
    pub max_sequences: u64,
    /// Largest number of rows of logits.
    pub max_outputs: u64,
    /// Where the logits are when all steps are done.
    pub logits: Logits,
    /// Where the steps that pick tokens leave them. `None` on CPUs.
    pub picks: Option<Picks>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The memory map of the arena, in order of first use.
    pub buffers: Vec<Buffer>,
}

/// Where an entry leaves its logits: f32 rows in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logits {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Bytes from one row to the next.
    pub row_stride: u64,
    /// Logits in one row: the vocabulary.
    pub n: u64,
}

/// One kernel call: by all threads, or by all blocks of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Index into [`Program::kernels`].
    pub kernel: u32,
    /// True when all threads must have finished every earlier step before this one begins.
    pub barrier: bool,
    /// The kernel's argument array, in order.
    pub args: Vec<Arg>,
    /// The rows that it works on.
    pub rows: Rows,
    /// How a GPU launches it. None on CPUs.
    pub launch: Option<Launch>,
    /// The pick that this step makes; a run makes one of those or none. `None`: every run makes the step.
    pub pick: Option<Pick>,
    /// Where in the model it comes from: `layers.3.mamba`.
    pub source: String,
    /// What it reads, writes and computes at least.
    pub cost: Cost,
}

/// A part of the arena that holds one value while steps need it, for the largest step. For people: what a step reads and
/// writes is in its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Index of the step that writes it.
    pub first: u32,
    /// Index of the last step that reads it.
    pub last: u32,
    /// The slot of the writing step's kernel: `out`.
    pub holds: String,
    /// The buffer that it overwrites element by element in its first step, which is that one's last; an index.
    pub in_place_of: Option<u32>,
}

/// One slot of a kernel's argument array: an address or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arg {
    /// Address in the arena; bytes from its start.
    Arena(u64),
    /// Address of a packed weight: index into [`Program::weights`].
    Weight(u32),
    /// Address in the state pool; bytes from the start of slot 0.
    State(u64),
    /// Address in the KV pool; bytes from the start of page 0.
    Kv(u64),
    /// Address of a step table.
    Table(Table),
    /// A count of this step, times a constant (experts per token, for rows that are slots). On a GPU the address of a word
    /// that holds it.
    Count(Count, u32),
    /// A number the compiler knew.
    Constant(u64),
    /// Address of a tensor map: index into [`Program::tensor_maps`].
    TensorMap(u32),
}

/// Tables that the runtime fills in before each step; all elements are i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Table {
    /// Token ids, \[tokens\].
    Ids,
    /// Rows whose logits are wanted, \[outputs\].
    Rows,
    /// First token of each sequence in this step, and the end, \[sequences + 1\].
    Starts,
    /// Tokens each sequence had before this step, \[sequences\].
    Past,
    /// State slot of each sequence, \[sequences\].
    Slots,
    /// Sequence of each token, \[tokens\].
    SequenceOf,
    /// KV pages of each sequence, \[sequences, ceil(max_context / KV_PAGE_TOKENS)\].
    Pages,
    /// How a GPU draws the token of each row of logits, \[outputs, [`Setting::WORDS`]\]; filled before a run that draws.
    Settings,
}

/// Counts of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Count {
    /// Tokens, all sequences together.
    Tokens,
    /// Sequences.
    Sequences,
    /// Rows of logits.
    Outputs,
}

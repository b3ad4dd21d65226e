//! The records of a plan: the manifest (for people and for opening the plan), the program (for execution), the layout of
//! weights. The documentation of each field gives its unit. Offsets are relative to the origin that the field names; they are
//! never memory addresses.

use serde::{Deserialize, Serialize};

use crate::cost::Cost;

mod draw_kernel;
mod generation;
mod head;
mod launch;
mod layout;
mod operand;
mod picks;
mod rows;
mod target;
mod tensor_map;
mod weight;

pub use draw_kernel::DrawKernel;
pub use generation::GenerationDefaults;
pub use head::{Activation, Head};
pub use launch::{Blocks, Launch};
pub use layout::{ElementOrder, Layout};
pub use operand::{Access, Elem, Matrix, MatrixBoxes, Operand, Per, Shape, WeightShape};
pub use picks::{NO_TOKEN, Pick, Picks, Setting};
pub use rows::Rows;
pub use target::TargetKind;
pub use tensor_map::{Swizzle, TENSOR_MAP_ALIGN, TENSOR_MAP_BYTES, TensorElem, TensorMap};
pub use weight::{Init, Part, PartOrder, Scales, Transform, Weight, WeightFormat};

/// Page size in bytes: the alignment of every section, buffer pool and weight region.
pub const PAGE_BYTES: u64 = 4096;

/// Alignment in bytes of every buffer in the arena and of every weight in its section on CPUs. GPUs need more
/// ([`TargetKind::align_bytes`]).
pub const ALIGN_BYTES: u64 = 64;

/// Readable bytes after every pool and after the weights, so that a vector load at the end of a row stays in bounds.
pub const SLACK_BYTES: u64 = 256;

/// Number of tokens in one KV page.
pub const KV_PAGE_TOKENS: u64 = 16;

/// Description of a plan, stored as JSON; read by people, by `jamba info` and when the plan is opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the compiler that wrote the plan.
    pub compiler: String,
    /// The model that was compiled.
    pub model: Model,
    /// The sizes for which the plan was built.
    pub limits: Limits,
    /// One record per kind of target, in the order of [`TargetKind::ALL`].
    pub programs: Vec<ProgramInfo>,
    /// Seed of synthetic weights. If present, the plan has no weights sections and the runtime draws the weights.
    pub synthetic_seed: Option<u64>,
    /// Sampling defaults of the model's authors. Absent in plans of older compilers.
    #[serde(default, skip_serializing_if = "GenerationDefaults::is_empty")]
    pub generation: GenerationDefaults,
    /// Inputs of the build. Absent in plans of older compilers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// The contents of a plan for one kind of target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramInfo {
    /// The kind of target.
    pub kind: TargetKind,
    /// Targets of this kind for which the plan has code, best first: `x86-64-v4`, `x86-64-v3`.
    pub targets: Vec<String>,
    /// Memory that an open plan uses on these targets, excluding code.
    pub memory: Memory,
    /// Names of the passes that ran, in order.
    pub passes: Vec<String>,
    /// Kernels that draw synthetic weights in device memory, one per weight format of the program. If empty, as on CPUs, the
    /// runtime draws the weights on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draw_kernels: Vec<DrawKernel>,
}

impl Manifest {
    /// The record of one kind of target; `None` if the plan does not support it.
    pub fn of(&self, kind: TargetKind) -> Option<&ProgramInfo> {
        self.programs.iter().find(|info| info.kind == kind)
    }

    /// All targets for which the plan has code.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.programs.iter().flat_map(|info| &info.targets).map(String::as_str)
    }
}

/// Inputs of the build, for people; the runtime does not read them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the LLVM that generated the code.
    pub llvm: String,
    /// Build options that affect the computed results, as key and value: `weights.experts`, `int8`. Limits are not included.
    pub options: Vec<(String, String)>,
    /// Checkpoint files that the compiler read.
    pub files: Vec<SourceFile>,
}

/// A checkpoint file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFile {
    /// File name in the checkpoint's folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 digest, in hexadecimal, of the length (u64, little-endian) followed by the bytes that `covers` names.
    pub blake3: String,
    /// `everything`, or the part of the file that the digest covers.
    pub covers: String,
}

/// The properties of the model that the runtime needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Name of the checkpoint's folder or of the model file.
    pub name: String,
    /// Number of parameters in the checkpoint.
    pub n_parameters: u64,
    /// Number of layers.
    pub n_layers: u64,
    /// Width of the residual stream, in elements.
    pub d_model: u64,
    /// Vocabulary size.
    pub vocab: u64,
    /// What the plan computes for a row. Absent for logits.
    #[serde(default, skip_serializing_if = "Head::is_logits")]
    pub head: Head,
    /// Beginning-of-text token; `None` if the model has none.
    pub bos: Option<u32>,
    /// End-of-text tokens.
    pub eos: Vec<u32>,
    /// Weight format of each group (`linear`, `experts`, `embedding`), for people.
    pub formats: Vec<(String, String)>,
}

/// The largest sizes that the plan supports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Maximum length of a sequence in tokens, prompt and answer together.
    pub max_context: u64,
    /// Maximum number of concurrent sequences: the number of slots for conv and SSM state.
    pub max_sequences: u64,
    /// Capacity of the KV cache in tokens, over all sequences; a multiple of [`KV_PAGE_TOKENS`].
    pub kv_tokens: u64,
    /// Maximum number of tokens in one prefill step.
    pub prefill_chunk: u64,
    /// Maximum number of rows of logits per step.
    pub max_outputs: u64,
}

/// Memory that an open plan uses, excluding code. All fields are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Activations and workspace. All entries share one arena.
    pub arena: u64,
    /// Conv and SSM state of one sequence; a multiple of [`TargetKind::align_bytes`].
    pub state_slot: u64,
    /// One KV page: keys and values of [`KV_PAGE_TOKENS`] tokens in all attention layers; a multiple of
    /// [`TargetKind::align_bytes`].
    pub kv_page: u64,
    /// Packed weights (mapped or copied from the plan, or drawn if synthetic), including [`SLACK_BYTES`] after the last weight.
    pub weights: u64,
    /// Step tables (ids, rows, sequence starts, page tables). On a GPU also the count words and sampler settings;
    /// [`crate::tables::DeviceTables`] gives the layout.
    pub tables: u64,
    /// Driver memory for the graphs that are recorded when the plan is opened: [`crate::graphs::total_bytes`]. 0 on CPUs.
    #[serde(default)]
    pub graphs: u64,
}

impl Memory {
    /// Size in bytes of the pool of state slots.
    pub fn state_pool(&self, limits: &Limits) -> u64 {
        self.state_slot * limits.max_sequences
    }

    /// Size in bytes of the pool of KV pages.
    pub fn kv_pool(&self, limits: &Limits) -> u64 {
        self.kv_page * (limits.kv_tokens / KV_PAGE_TOKENS)
    }

    /// Sum of all regions in bytes.
    pub fn total(&self, limits: &Limits) -> u64 {
        self.arena + self.state_pool(limits) + self.kv_pool(limits) + self.weights + self.tables + self.graphs
    }
}

/// The part of a plan that the runtime executes, for one kind of target. Encoded with postcard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Exported symbols of the code section, by kernel index.
    pub kernels: Vec<KernelRecord>,
    /// Packed weights, ordered by offset.
    pub weights: Vec<Weight>,
    /// Matrices for tensor copies, by index. Empty on CPUs.
    pub tensor_maps: Vec<TensorMap>,
    /// One `prefill` entry, then the `decode` entries. A GPU may have several decode entries, in increasing order of size.
    pub entries: Vec<Entry>,
}

/// A kernel in the code section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// Exported symbol: `linear_bf16_n512_k128`.
    pub symbol: String,
    /// Name of the op in the kernel catalog: `linear`.
    pub op: String,
    /// The slots of the argument array, as the kernel's code uses them.
    pub operands: Vec<Operand>,
    /// The spec and the config of which the compiler's catalog makes the kernel, as JSON. The runtime does not read it.
    pub recipe: String,
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// Any number of tokens per sequence.
    Prefill,
    /// One token per sequence.
    Decode,
}

/// A list of steps with the largest batch that it accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Prefill or decode.
    pub kind: EntryKind,
    /// Maximum number of tokens in one step.
    pub max_tokens: u64,
    /// Maximum number of sequences in one step.
    pub max_sequences: u64,
    /// Maximum number of rows of logits in one step.
    pub max_outputs: u64,
    /// Location of the logits after the last step.
    pub logits: Logits,
    /// Locations of the tokens that GPU steps pick. `None` on CPUs.
    pub picks: Option<Picks>,
    /// The steps in execution order.
    pub steps: Vec<Step>,
    /// The buffers of the arena, ordered by first use.
    pub buffers: Vec<Buffer>,
}

/// Location of an entry's logits: f32 rows in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logits {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Distance between rows in bytes.
    pub row_stride: u64,
    /// Number of logits in one row: the vocabulary size.
    pub n: u64,
}

/// One kernel call: executed by all threads on a CPU, by all blocks of a launch on a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Index into [`Program::kernels`].
    pub kernel: u32,
    /// True if all threads must finish all earlier steps before this step starts.
    pub barrier: bool,
    /// The kernel's arguments, in order.
    pub args: Vec<Arg>,
    /// The rows that the step processes.
    pub rows: Rows,
    /// The launch configuration on a GPU. `None` on CPUs.
    pub launch: Option<Launch>,
    /// The pick that this step makes; a run makes at most one of the picks. `None` for a step that every run executes.
    pub pick: Option<Pick>,
    /// Location in the model: `layers.3.mamba`.
    pub source: String,
    /// Lower bounds on bytes moved and operations.
    pub cost: Cost,
}

/// A range of the arena that holds one value of the largest step while steps need it. It follows from the steps and their
/// kernels' operands, and must agree with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Bytes from the start of the arena.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Index of the step that writes the buffer.
    pub first: u32,
    /// Index of the last step that reads the buffer: the entry's last one for logits and picked tokens, `first` if none does.
    pub last: u32,
    /// Number of arguments of steps that read the buffer.
    pub reads: u32,
    /// Name of the kernel parameter that writes the buffer: `out`.
    pub holds: String,
    /// Index of the buffer that this one overwrites element by element. This buffer's first step is the last step of the
    /// overwritten buffer.
    pub in_place_of: Option<u32>,
}

/// One argument of a kernel: an address or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arg {
    /// Address in the arena: offset in bytes from its start.
    Arena(u64),
    /// Address of a packed weight: index into [`Program::weights`].
    Weight(u32),
    /// Address in the state pool: offset in bytes from the start of slot 0.
    State(u64),
    /// Address in the KV pool: offset in bytes from the start of page 0.
    Kv(u64),
    /// Address of a step table.
    Table(Table),
    /// A count of the step times a constant (for example experts per token). On a GPU the argument is the address of a word
    /// that holds the product.
    Count(Count, u32),
    /// An integer known at compile time.
    Constant(u64),
    /// A tensor map, passed by value: index into [`Program::tensor_maps`].
    TensorMap(u32),
}

/// Tables that the runtime fills before each step. All elements are i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Table {
    /// Token ids, \[tokens\].
    Ids,
    /// Indices of the rows whose logits are requested, \[outputs\].
    Rows,
    /// Index of each sequence's first token in this step, then the number of tokens, \[sequences + 1\].
    Starts,
    /// Number of tokens of each sequence before this step, \[sequences\].
    Past,
    /// State slot of each sequence, \[sequences\].
    Slots,
    /// Index of each token's sequence, \[tokens\].
    SequenceOf,
    /// KV pages of each sequence, \[sequences, ceil(max_context / KV_PAGE_TOKENS)\].
    Pages,
    /// Sampler settings for each row of logits on a GPU, \[outputs, [`Setting::WORDS`]\]. Filled before each run that draws
    /// tokens.
    Settings,
}

/// The counts that vary from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Count {
    /// Number of tokens over all sequences.
    Tokens,
    /// Number of sequences.
    Sequences,
    /// Number of rows of logits.
    Outputs,
}

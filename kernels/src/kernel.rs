//! What a kernel is: a spec (what it computes) that knows which targets it supports, how it can be tiled there, and which
//! launches compute it.
//!
//! Rules that all CPU kernels share:
//! - f32 activations are rows padded to whole vectors ([`padded`]); lanes beyond the last column hold anything and are never
//!   summed over. i32 tables are dense;
//! - every pool has readable slack behind it, so the last vector of a row may be loaded whole;
//! - the kernel splits its work over threads. What an output is summed from, and in which order, depends neither on the split
//!   nor on the number of rows nor on their position: same bits for any batch and any thread count.
//!
//! Those of Hopper kernels: [`crate::hopper`].

use std::fmt;
#[cfg(feature = "emit")]
use std::sync::Arc;

use jamba_plan::format::{self, EntryKind, TargetKind};

pub use crate::cost::{Amount, Cost, Rows};
use crate::hopper::matmul::TileRows;
pub use crate::operand::{Access, Extent, Operand, Param, Per, Source, Swizzle, TensorMap, Weight};
pub use jamba_plan::format::Elem;

/// Lanes of a row's vectors, and outputs in a panel of packed weights.
pub const LANES: usize = 16;

/// Columns rounded up to whole vectors: the stride of rows of f32 activations, in elements.
pub fn padded(cols: usize) -> usize {
    cols.next_multiple_of(LANES)
}

/// What the compiler asks of a kernel. Kernels for all targets implement [`Lowering`] once per target instead.
pub trait Kernel: fmt::Debug {
    /// Why the target cannot run it.
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported>;

    /// The ways to tile it on the target, best first, those that the step rules out with the reason.
    fn configs(&self, _target: TargetKind, _step: &StepSize) -> Vec<Candidate> {
        vec![Candidate::accepted(Config::Only)]
    }

    /// The launches that compute it, in order. `config` is one of [`Kernel::configs`], and the target is supported.
    fn lower(&self, target: TargetKind, config: Config) -> Vec<Launch>;
}

/// A kernel on one target `T`, implemented beside the target's operands: in `mod.rs` for CPUs, in `hopper.rs` for sm_90a.
pub trait Lowering<T> {
    /// Why the target cannot run it.
    fn supports(&self) -> Result<(), Unsupported> {
        Ok(())
    }

    /// As [`Kernel::configs`].
    fn configs(&self, _step: &StepSize) -> Vec<Candidate> {
        vec![Candidate::accepted(Config::Only)]
    }

    /// As [`Kernel::lower`].
    fn lower(&self, config: Config) -> Vec<Launch>;
}

/// CPUs, as the target of a [`Lowering`].
#[derive(Debug)]
pub enum Cpu {}

/// sm_90a, as the target of a [`Lowering`].
#[derive(Debug)]
pub enum Hopper {}

impl<K: fmt::Debug + Lowering<Cpu> + Lowering<Hopper>> Kernel for K {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        match target {
            TargetKind::Cpu => Lowering::<Cpu>::supports(self),
            TargetKind::Sm90a => Lowering::<Hopper>::supports(self),
        }
    }

    fn configs(&self, target: TargetKind, step: &StepSize) -> Vec<Candidate> {
        match target {
            TargetKind::Cpu => Lowering::<Cpu>::configs(self, step),
            TargetKind::Sm90a => Lowering::<Hopper>::configs(self, step),
        }
    }

    fn lower(&self, target: TargetKind, config: Config) -> Vec<Launch> {
        match target {
            TargetKind::Cpu => Lowering::<Cpu>::lower(self, config),
            TargetKind::Sm90a => Lowering::<Hopper>::lower(self, config),
        }
    }
}

/// The config of the first accepted candidate.
pub fn choose(kernel: &dyn Kernel, target: TargetKind, step: &StepSize) -> Option<Config> {
    kernel.configs(target, step).into_iter().find(|candidate| candidate.rejected.is_none()).map(|found| found.config)
}

/// Why a target cannot run a kernel: what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The largest step that a config is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Prefill or decode.
    pub entry: EntryKind,
    pub sequences: u64,
    /// Rows that the step works on, without the factor of [`Rows`].
    pub rows: u64,
}

/// How a kernel is tiled; part of its symbol where code depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Config {
    /// There is one way.
    Only,
    /// A matrix product that streams the weights through registers, for up to 8 rows.
    Few,
    /// As [`Config::Few`], with the norm of x in its prologue: for up to 2 rows.
    FewNormed,
    /// A matrix product of shared-memory tiles with this many rows of x.
    Tiled(TileRows),
    /// A convolution whose blocks walk runs of this many tokens.
    Run(u32),
    /// Attention of any number of tokens of each sequence.
    Prefill,
    /// Attention of one token of each sequence, split over the cache.
    Decode,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Config::Only => f.write_str("only"),
            Config::Few => f.write_str("few"),
            Config::FewNormed => f.write_str("few-normed"),
            Config::Tiled(rows) => write!(f, "t{}", rows.number()),
            Config::Run(tokens) => write!(f, "run{tokens}"),
            Config::Prefill => f.write_str("prefill"),
            Config::Decode => f.write_str("decode"),
        }
    }
}

/// A config, and the reason why the step rules it out, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How the kernel would be tiled.
    pub config: Config,
    /// Why it is not chosen for this step.
    pub rejected: Option<String>,
}

impl Candidate {
    /// A config that the step allows.
    pub fn accepted(config: Config) -> Candidate {
        Candidate { config, rejected: None }
    }

    /// A config that computes the same, and is not chosen.
    pub fn rejected(config: Config, reason: impl Into<String>) -> Candidate {
        Candidate { config, rejected: Some(reason.into()) }
    }
}

/// One compiled function and how it is called.
#[derive(Clone)]
pub struct Launch {
    /// The kernel's folder.
    pub op: &'static str,
    /// The exported symbol; two launches with the same symbol have the same code.
    pub symbol: String,
    /// The arguments, in order.
    pub operands: Vec<Operand>,
    /// What it reads, writes and computes at least.
    pub cost: Cost,
    /// Blocks, threads and shared memory on a GPU; `None` on CPUs.
    pub grid: Option<Grid>,
    pub(crate) body: Body,
}

impl Launch {
    /// The slots of the argument array.
    pub fn params(&self) -> Vec<Param> {
        self.operands.iter().map(|operand| operand.param.clone()).collect()
    }

    /// The slots of the argument array as a plan states them; `None` if a caller fills one, as no step does.
    pub fn signature(&self) -> Option<Vec<format::Operand>> {
        let is_state = |operand: &&Operand| matches!(operand.source, Source::State | Source::Pages(_));
        let state = self.operands.iter().find(is_state).and_then(|operand| operand.param.elem());
        self.operands.iter().map(|operand| operand.record(state)).collect()
    }

    /// The launch as part of another node: sources for the node's operands by their number, and for its results. Parameters are
    /// operands of the node.
    #[must_use]
    pub(crate) fn rebound(mut self, operand: impl Fn(usize) -> Source, result: impl Fn(usize) -> Source) -> Launch {
        for bound in &mut self.operands {
            match &mut bound.source {
                Source::Weight(weight) => {
                    if let Source::Operand(first) = operand(weight.operands.start) {
                        weight.operands = first..first + weight.operands.len();
                    }
                }
                source => {
                    *source = match *source {
                        Source::Operand(number) => operand(number),
                        Source::Result(number) => result(number),
                        ref other => other.clone(),
                    }
                }
            }
        }
        self
    }

    /// The operand with a name.
    pub fn operand(&self, name: &str) -> Option<&Operand> {
        self.operands.iter().find(|operand| operand.name() == name)
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.symbol)
    }
}

/// Bodies are not compared: the symbol identifies the code.
impl PartialEq for Launch {
    fn eq(&self, other: &Self) -> bool {
        let key = |launch: &Launch| (launch.symbol.clone(), launch.operands.clone(), launch.cost, launch.grid);
        key(self) == key(other)
    }
}

/// Blocks, threads and shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [Blocks; 3],
    /// Threads of a block, along x; a multiple of 32.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// How the work is divided, for predictions of its time.
    pub work: Work,
}

/// How the work of a launch is divided. A prediction of its time needs it; plans do not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The pieces that blocks take.
    pub pieces: Pieces,
    /// Length of the chain of dependent reads from global memory before a block can read most of its data.
    pub dependent_reads: u32,
    /// The unit that computes.
    pub unit: Unit,
}

/// The pieces of work of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// One for each block.
    Blocks,
    /// Tiles of a matrix product.
    Tiles {
        /// Tiles along the outputs of a matrix.
        columns: usize,
        /// Rows of x in a tile.
        rows: usize,
        /// Rows of x for each row of the step.
        per_row: usize,
        /// Matrices among which the rows are divided: experts.
        n_matrices: usize,
    },
}

/// The unit of a multiprocessor that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// f32 and special functions.
    Vector,
    /// mma by single warps, fed from registers.
    Warps,
    /// wgmma with bf16 weights.
    Tensor,
    /// wgmma with int8 weights, which are widened in registers.
    TensorWidened,
    /// wgmma of attention, overlapped with the softmax.
    TensorSoftmax,
}

impl Default for Work {
    fn default() -> Work {
        Work { pieces: Pieces::Blocks, dependent_reads: 1, unit: Unit::Vector }
    }
}

/// Number of blocks along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// As many whatever the step.
    Fixed(u32),
    /// As many on each multiprocessor: persistent kernels.
    PerSm(u32),
    /// `ceil(n · factor / per_block)`, where n is the size of the dimension.
    Of {
        /// The dimension.
        per: Per,
        /// Pieces of work in each one of it.
        factor: u32,
        /// Pieces of work of a block.
        per_block: u32,
    },
}

impl Blocks {
    /// Blocks that do `per_block` rows each.
    pub fn of_rows(per_block: u32) -> Blocks {
        Blocks::Of { per: Per::Row, factor: 1, per_block }
    }

    fn at(self, rows: Rows) -> format::Blocks {
        match self {
            Blocks::Fixed(blocks) => format::Blocks::Fixed(blocks),
            Blocks::PerSm(blocks) => format::Blocks::PerSm(blocks),
            Blocks::Of { per, factor, per_block } => {
                let (count, factor) = count_of(per, factor, rows);
                format::Blocks::Of { count, factor, per_block }
            }
        }
    }
}

/// A dimension as a count of the plan and a factor.
pub fn count_of(per: Per, factor: u32, rows: Rows) -> (format::Count, u32) {
    per.count(factor, rows).unwrap_or((rows.count, u32::MAX))
}

impl Grid {
    /// A grid of one axis.
    pub fn along_x(blocks: Blocks, threads: u32, shared_bytes: u32) -> Grid {
        Grid { blocks: [blocks, Blocks::Fixed(1), Blocks::Fixed(1)], threads, shared_bytes, work: Work::default() }
    }

    /// The grid of a kernel that begins with this many dependent reads.
    pub fn reading_after(mut self, dependent_reads: u32) -> Grid {
        self.work.dependent_reads = dependent_reads;
        self
    }

    /// The grid of a step with these rows, as the plan states it.
    pub fn at(&self, rows: Rows) -> format::Launch {
        let grid = self.blocks.map(|blocks| blocks.at(rows));
        format::Launch { grid, threads: self.threads, shared_bytes: self.shared_bytes }
    }
}

/// The MLIR body of a launch; empty without the feature `emit`.
#[derive(Clone)]
pub(crate) struct Body {
    #[cfg(feature = "emit")]
    pub(crate) emit: Emit,
    #[cfg(not(feature = "emit"))]
    pub(crate) _none: (),
}

#[cfg(feature = "emit")]
#[derive(Clone)]
pub(crate) enum Emit {
    Cpu(Arc<dyn Fn(&crate::cpu::builder::Builder) + Send + Sync>),
    Hopper(Arc<dyn Fn(&crate::hopper::Builder) + Send + Sync>),
}

/// The body of a CPU launch: `cpu_body!(spec, cpu::emit)` calls `cpu::emit(builder, &spec)`.
macro_rules! cpu_body {
    ($spec:expr, $($emit:ident)::+) => {
        crate::kernel::Body {
            #[cfg(feature = "emit")]
            emit: {
                let spec = $spec.clone();
                crate::kernel::Emit::Cpu(std::sync::Arc::new(move |b| $($emit)::+(b, &spec)))
            },
            #[cfg(not(feature = "emit"))]
            _none: drop($spec.clone()),
        }
    };
}
pub(crate) use cpu_body;

/// The body of a Hopper launch: `hopper_body!(spec, emit)` calls `emit(builder, &spec)`.
macro_rules! hopper_body {
    ($spec:expr, $($emit:ident)::+) => {
        crate::kernel::Body {
            #[cfg(feature = "emit")]
            emit: {
                let spec = $spec.clone();
                crate::kernel::Emit::Hopper(std::sync::Arc::new(move |b| $($emit)::+(b, &spec)))
            },
            #[cfg(not(feature = "emit"))]
            _none: drop($spec.clone()),
        }
    };
}
pub(crate) use hopper_body;

/// The part of a symbol that names a finished sum's bias and activation.
pub(crate) fn epilogue(bias: bool, activation: jambac_graph::Activation) -> String {
    let bias = if bias { "_bias" } else { "" };
    match activation {
        jambac_graph::Activation::None => bias.to_owned(),
        other => format!("{bias}_{}", other.name()),
    }
}

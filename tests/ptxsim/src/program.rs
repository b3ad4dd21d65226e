//! A decoded kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::isa::Op;
use crate::registers::Slot;

/// A predicate or its negation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard {
    pub slot: Slot,
    pub negated: bool,
}

/// One decoded instruction.
pub(crate) struct Instruction {
    pub op: Op,
    pub guard: Option<Guard>,
    pub line: u32,
    /// File number and line of the source, from `.loc`.
    pub source: Option<(u32, u32)>,
    pub text: String,
    pub class: Class,
    /// Registers that this instruction shares with a `wgmma`; empty for `wgmma` itself.
    pub touches: Box<[Slot]>,
}

impl fmt::Debug for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Instruction classes of [`crate::Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Integer arithmetic and logic.
    Integer,
    /// f32, f64, f16 and bf16 arithmetic.
    Float,
    /// Special functions: `ex2`, `rcp` and others.
    Special,
    Convert,
    /// Moves, selections, parameters.
    Move,
    /// Comparisons and predicate logic.
    Compare,
    /// Branches and exits.
    Branch,
    /// Loads from and stores to global memory.
    Global,
    /// Loads from and stores to shared memory, `ldmatrix`, `stmatrix`.
    Shared,
    Atomic,
    /// Shuffles, votes, reductions.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// `mma` and `wgmma`.
    Tensor,
    /// Asynchronous copies.
    Copy,
}

pub(crate) const N_CLASSES: usize = 14;

/// A special register, such as `%tid.x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    LaneMask(LaneMask),
    /// Cluster registers that are 0 without clusters.
    Zero,
    /// Cluster registers that are 1 without clusters.
    One,
    WarpSize,
    SmId,
    NSm,
}

/// The `%lanemask_` registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneMask {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Special {
    pub fn named(name: &str) -> Option<Special> {
        let axis = |text: &str| ["x", "y", "z"].iter().position(|axis| *axis == text);
        let (stem, part) = name.split_once('.').unwrap_or((name, ""));
        Some(match stem {
            "%tid" => Special::Tid(axis(part)?),
            "%ntid" => Special::Ntid(axis(part)?),
            "%ctaid" => Special::Ctaid(axis(part)?),
            "%nctaid" => Special::Nctaid(axis(part)?),
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%lanemask_eq" => Special::LaneMask(LaneMask::Eq),
            "%lanemask_lt" => Special::LaneMask(LaneMask::Lt),
            "%lanemask_le" => Special::LaneMask(LaneMask::Le),
            "%lanemask_gt" => Special::LaneMask(LaneMask::Gt),
            "%lanemask_ge" => Special::LaneMask(LaneMask::Ge),
            "%cluster_ctarank" | "%cluster_ctaid" => Special::Zero,
            "%cluster_nctarank" | "%cluster_nctaid" => Special::One,
            "%smid" => Special::SmId,
            "%nsmid" => Special::NSm,
            "WARP_SZ" => Special::WarpSize,
            _ => return None,
        })
    }
}

/// A kernel ready to run.
#[derive(Debug)]
pub(crate) struct Program {
    pub name: String,
    /// Line of the `.entry`.
    pub line: u32,
    pub code: Vec<Instruction>,
    /// Source files by number.
    pub files: Arc<BTreeMap<u32, String>>,
    /// Number of slots: 32 bits, 64 bits, predicates.
    pub n: [usize; 3],
    pub words: Vec<(u32, Slot)>,
    pub doubles: Vec<(u64, Slot)>,
    pub predicates: Vec<(bool, Slot)>,
    pub specials: Vec<(Special, Slot)>,
    /// Offset and bytes of each parameter.
    pub parameters: Vec<(u32, u32)>,
    pub threads: Option<[u32; 3]>,
    pub max_threads: Option<u32>,
    /// End of the static shared variables in the shared window.
    pub shared_end: u32,
    /// Start of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Blocks may communicate through global memory.
    pub shares_global: bool,
    /// Contains a `wgmma`.
    pub has_products: bool,
}

impl Program {
    /// Source position of an instruction: `scan.mlir:12`.
    pub fn source(&self, instruction: &Instruction) -> Option<Box<str>> {
        let (file, line) = instruction.source?;
        Some(format!("{}:{line}", self.files.get(&file).map_or("?", String::as_str)).into())
    }

    /// Bytes of static shared memory, including padding.
    pub fn fixed_shared(&self) -> u32 {
        self.dynamic_shared - crate::decode::SHARED_BASE
    }
}

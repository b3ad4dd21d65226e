//! A decoded kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::isa::Op;
use crate::registers::Slot;

/// A predicate, as it stands or negated.
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
    /// File and line of the source, where the text tells.
    pub source: Option<(u32, u32)>,
    pub text: String,
    pub class: Class,
    /// Registers of some `wgmma` that this instruction, no `wgmma` itself, names.
    pub touches: Box<[Slot]>,
}

impl fmt::Debug for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Kinds of instructions that [`crate::Stats`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Integers, bits and logic.
    Integer,
    /// f32, f64, f16 and bf16 arithmetic.
    Float,
    /// `ex2`, `rcp`, … `.approx`: the special-function unit.
    Special,
    /// Conversions.
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
    /// Atomics.
    Atomic,
    /// Shuffles, votes and the like.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// `mma` and `wgmma`.
    Tensor,
    /// Asynchronous copies.
    Copy,
}

/// Number of [`Class`]es.
pub(crate) const N_CLASSES: usize = 14;

/// `%tid.x` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    LaneMask(LaneMask),
    /// Anything that is zero without clusters.
    Zero,
    /// Anything that is one without clusters.
    One,
    WarpSize,
    SmId,
    NSm,
}

/// Which lanes a mask register has, seen from each lane.
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
    /// Line of its `.entry`.
    pub line: u32,
    pub code: Vec<Instruction>,
    /// Files of the source, by number.
    pub files: Arc<BTreeMap<u32, String>>,
    /// Slots: 32 bits, 64 bits, predicates.
    pub n: [usize; 3],
    pub words: Vec<(u32, Slot)>,
    pub doubles: Vec<(u64, Slot)>,
    pub predicates: Vec<(bool, Slot)>,
    pub specials: Vec<(Special, Slot)>,
    /// Offset and bytes of each parameter.
    pub parameters: Vec<(u32, u32)>,
    pub threads: Option<[u32; 3]>,
    pub max_threads: Option<u32>,
    /// End of the static shared variables, from address zero of the shared window.
    pub shared_end: u32,
    /// Where dynamic shared memory begins.
    pub dynamic_shared: u32,
    /// Blocks may speak to each other through global memory.
    pub shares_global: bool,
    /// There is a `wgmma`.
    pub has_products: bool,
}

impl Program {
    /// Where an instruction comes from: `scan.mlir:12`.
    pub fn source(&self, instruction: &Instruction) -> Option<Box<str>> {
        let (file, line) = instruction.source?;
        Some(format!("{}:{line}", self.files.get(&file).map_or("?", String::as_str)).into())
    }

    /// Bytes of shared memory before what a launch adds.
    pub fn fixed_shared(&self) -> u32 {
        self.dynamic_shared - crate::decode::SHARED_BASE
    }
}

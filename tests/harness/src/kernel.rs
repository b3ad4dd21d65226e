//! A kernel lowered for a target.

use jamba_plan::format::{self, Count, EntryKind, TargetKind};
use jambac_kernels::cases::{Case, Counts};
use jambac_kernels::catalog::AnySpec;
use jambac_kernels::kernel::{Config, Kernel as _, Launch, Param, Per, Rows, StepSize, choose};

/// The sizes of a step whose sequences have no context.
pub fn counts(tokens: usize, sequences: usize, outputs: usize) -> Counts {
    Counts { tokens, sequences, outputs, context: 0 }
}

/// The size of a dimension of a step.
pub(crate) fn size(counts: &Counts, rows: Rows, per: Per) -> u64 {
    let n = match per {
        Per::Row => match rows.count {
            Count::Outputs => counts.outputs * rows.per as usize,
            _ => counts.tokens * rows.per as usize,
        },
        Per::Token => counts.tokens,
        Per::Sequence => counts.sequences,
        Per::Output => counts.outputs,
    };
    n as u64
}

/// A launch and the rows that it works on.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The launch.
    pub code: Launch,
    pub rows: Rows,
}

impl Kernel {
    /// The launches of a spec on Hopper, one row per token.
    pub fn all(spec: impl Into<AnySpec>, config: Config) -> Vec<Kernel> {
        launches(&spec.into(), TargetKind::Sm90a, config, Rows::TOKENS)
    }

    /// The last launch of a spec on Hopper: the one that computes its result.
    pub fn of(spec: impl Into<AnySpec>, config: Config) -> Kernel {
        Kernel::all(spec, config).pop().expect("a kernel has launches")
    }

    /// The symbol of its code.
    pub fn symbol(&self) -> String {
        self.code.symbol.clone()
    }

    /// Its parameters, in order.
    pub fn params(&self) -> Vec<Param> {
        self.code.params()
    }

    /// Grid, threads and shared memory.
    pub fn launch(&self) -> format::Launch {
        self.code.grid.expect("a GPU kernel has a grid").at(self.rows)
    }
}

/// On Hopper, in the config that a prompt takes.
impl<S: Into<AnySpec>> From<S> for Kernel {
    fn from(spec: S) -> Kernel {
        spec.into().lowered(TargetKind::Sm90a).pop().expect("a kernel has launches")
    }
}

fn launches(spec: &AnySpec, target: TargetKind, config: Config, rows: Rows) -> Vec<Kernel> {
    spec.lower(target, config).into_iter().map(|code| Kernel { code, rows }).collect()
}

/// The largest step of a case: a prompt unless every sequence has one token.
pub fn step_of(case: &Case) -> StepSize {
    let Counts { tokens, sequences, outputs, .. } = case.counts;
    let entry = if tokens > sequences { EntryKind::Prefill } else { EntryKind::Decode };
    let rows = if case.rows.count == Count::Outputs { outputs } else { tokens };
    StepSize { entry, sequences: sequences as u64, rows: rows as u64 }
}

/// What a runner can lower for a target.
pub trait Lower {
    /// The launches, in order.
    fn lowered(&self, target: TargetKind) -> Vec<Kernel>;
}

/// In the config that a prompt takes, one row per token.
impl Lower for AnySpec {
    fn lowered(&self, target: TargetKind) -> Vec<Kernel> {
        let step = StepSize { entry: EntryKind::Prefill, sequences: 1, rows: 1 };
        launches(self, target, choose(self, target, &step).expect("a config"), Rows::TOKENS)
    }
}

/// In the config that the case's step takes.
impl Lower for Case {
    fn lowered(&self, target: TargetKind) -> Vec<Kernel> {
        let config = choose(&self.kernel, target, &step_of(self)).expect("a config");
        launches(&self.kernel, target, config, self.rows)
    }
}

/// In this config.
impl Lower for (&Case, Config) {
    fn lowered(&self, target: TargetKind) -> Vec<Kernel> {
        launches(&self.0.kernel, target, self.1, self.0.rows)
    }
}

impl Lower for Kernel {
    fn lowered(&self, _target: TargetKind) -> Vec<Kernel> {
        vec![self.clone()]
    }
}

//! The phases of a build, in order. Each has a name, a file name for its text form, and most can be resumed from that text.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use jamba_plan::format::TargetKind;
use jambac_kernels::target::Target;

/// A phase, named after its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The checkpoint's config and parameters.
    Checkpoint,
    /// The layer graph of each entry, as Hugging Face computes it.
    Graph,
    /// The layer graphs after the passes.
    Optimized,
    /// Kernels, steps and memory.
    Schedule,
    /// The kernels in MLIR.
    Mlir,
    /// The kernels in MLIR's LLVM dialect.
    LlvmDialect,
    /// The kernels in LLVM IR, optimized.
    LlvmIr,
    /// The kernels as assembly or PTX.
    Assembly,
    /// The plan.
    Plan,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 9] = [
        Phase::Checkpoint,
        Phase::Graph,
        Phase::Optimized,
        Phase::Schedule,
        Phase::Mlir,
        Phase::LlvmDialect,
        Phase::LlvmIr,
        Phase::Assembly,
        Phase::Plan,
    ];

    /// The phases whose text form has a parser, so that a build can start there.
    pub const RESUMABLE: [Phase; 2] = [Phase::Graph, Phase::Optimized];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Checkpoint => "checkpoint",
            Phase::Graph => "graph",
            Phase::Optimized => "optimized",
            Phase::Schedule => "schedule",
            Phase::Mlir => "mlir",
            Phase::LlvmDialect => "llvm-dialect",
            Phase::LlvmIr => "llvm-ir",
            Phase::Assembly => "assembly",
            Phase::Plan => "plan",
        }
    }

    /// The number that begins the names of the phase's files, and what ends them.
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Phase::Checkpoint => ("01", "checkpoint.txt"),
            Phase::Graph => ("02", "graph"),
            Phase::Optimized => ("03", "optimized.graph"),
            Phase::Schedule => ("04", "schedule.txt"),
            Phase::Mlir => ("05", "mlir"),
            Phase::LlvmDialect => ("06", "llvm.mlir"),
            Phase::LlvmIr => ("07", "ll"),
            Phase::Assembly => ("07", "s"),
            Phase::Plan => ("08", "plan.txt"),
        }
    }

    /// The file of the whole build: `01.checkpoint.txt`.
    pub fn file_name(self) -> String {
        let (number, ending) = self.file();
        format!("{number}.{ending}")
    }

    /// The file of one kind of target: `04.schedule.txt`, `04.sm_90a.schedule.txt`.
    pub fn file_of_kind(self, kind: TargetKind) -> String {
        let (number, ending) = self.file();
        match kind {
            TargetKind::Cpu => format!("{number}.{ending}"),
            TargetKind::Sm90a => format!("{number}.{}.{ending}", kind.name()),
        }
    }

    /// The file of one entry's graph: `02.prefill.graph`, `03.sm_90a.decode.optimized.graph`.
    pub fn file_of_entry(self, kind: TargetKind, entry: &str) -> String {
        let (number, ending) = self.file();
        match kind {
            TargetKind::Cpu => format!("{number}.{entry}.{ending}"),
            TargetKind::Sm90a => format!("{number}.{}.{entry}.{ending}", kind.name()),
        }
    }

    /// The file of one target's code: `05.x86-64-v3.mlir`, `07.sm_90a.ptx`.
    pub fn file_of_target(self, target: &Target) -> String {
        let (number, ending) = match (self, target) {
            (Phase::Assembly, Target::Sm90a) => ("07", "ptx"),
            _ => self.file(),
        };
        format!("{number}.{}.{ending}", target.name())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Phase> {
        let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name);
        phase.with_context(|| format!("found {name}, expected {}", names(&Phase::ALL)))
    }
}

impl From<jambac_codegen::compile::Phase> for Phase {
    fn from(phase: jambac_codegen::compile::Phase) -> Phase {
        use jambac_codegen::compile::Phase as Code;
        match phase {
            Code::Mlir => Phase::Mlir,
            Code::LlvmDialect => Phase::LlvmDialect,
            Code::LlvmIr => Phase::LlvmIr,
            Code::Assembly => Phase::Assembly,
        }
    }
}

/// The names of phases, for messages: `graph, optimized`.
pub fn names(phases: &[Phase]) -> String {
    phases.iter().map(|phase| phase.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use jambac_kernels::target::{CpuTarget, X86Level};

    use super::*;

    #[test]
    fn names_parse_and_files_sort_in_the_order_of_the_phases() {
        assert!(Phase::ALL.is_sorted());
        assert!(Phase::ALL.iter().map(|phase| phase.file_name()).is_sorted_by_key(|name| name[..2].to_owned()));
        for phase in Phase::ALL {
            assert_eq!(phase.name().parse::<Phase>().unwrap(), phase);
        }
        let error = "linker".parse::<Phase>().unwrap_err().to_string();
        assert!(error.starts_with("found linker, expected checkpoint, graph, optimized, schedule"), "{error}");
    }

    #[test]
    fn files_name_what_is_not_the_default() {
        assert_eq!(Phase::Graph.file_of_entry(TargetKind::Cpu, "prefill"), "02.prefill.graph");
        assert_eq!(Phase::Optimized.file_of_entry(TargetKind::Sm90a, "decode"), "03.sm_90a.decode.optimized.graph");
        assert_eq!(Phase::Schedule.file_of_kind(TargetKind::Sm90a), "04.sm_90a.schedule.txt");
        assert_eq!(Phase::Assembly.file_of_target(&Target::Sm90a), "07.sm_90a.ptx");
        let v3 = Target::Cpu(CpuTarget::new(X86Level::V3));
        assert_eq!(Phase::Assembly.file_of_target(&v3), "07.x86-64-v3.s");
    }
}

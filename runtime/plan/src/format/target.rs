//! Kinds of targets. Targets of one kind share a program and packed weights.

use serde::{Deserialize, Serialize};

/// A kind of target. Targets of one kind share a program and packed weights; each target has its own code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// CPUs: threads execute the kernels and synchronize at barriers.
    #[serde(rename = "cpu")]
    Cpu,
    /// NVIDIA GPUs with compute capability 9.0: kernels are launched one after another.
    #[serde(rename = "sm_90a")]
    Sm90a,
}

impl TargetKind {
    /// All kinds, in the order in which a plan stores them.
    pub const ALL: [TargetKind; 2] = [TargetKind::Cpu, TargetKind::Sm90a];

    /// The name in listings and messages.
    pub fn name(self) -> &'static str {
        match self {
            TargetKind::Cpu => "cpu",
            TargetKind::Sm90a => "sm_90a",
        }
    }

    /// The kind of the target with this name.
    pub fn of_target(target: &str) -> TargetKind {
        if target == TargetKind::Sm90a.name() { TargetKind::Sm90a } else { TargetKind::Cpu }
    }

    /// Name of this kind's section: `program`, or `program/sm_90a`.
    pub fn section(self, what: &str) -> String {
        match self {
            TargetKind::Cpu => what.to_owned(),
            TargetKind::Sm90a => format!("{what}/{}", self.name()),
        }
    }

    /// Alignment in bytes of every buffer in the arena, every weight, and every region of a state slot or KV page.
    pub fn align_bytes(self) -> u64 {
        match self {
            TargetKind::Cpu => super::ALIGN_BYTES,
            TargetKind::Sm90a => 128,
        }
    }
}

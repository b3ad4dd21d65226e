//! Kinds of targets: what shares one program and one packing of weights.

use serde::{Deserialize, Serialize};

/// A kind of target. Targets of one kind share a program and packed weights; each has code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// CPUs: kernels run by threads that meet at barriers.
    #[serde(rename = "cpu")]
    Cpu,
    /// NVIDIA GPUs of compute capability 9.0: kernels launched one after another.
    #[serde(rename = "sm_90a")]
    Sm90a,
}

impl TargetKind {
    /// Every kind, in the order of a plan.
    pub const ALL: [TargetKind; 2] = [TargetKind::Cpu, TargetKind::Sm90a];

    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            TargetKind::Cpu => "cpu",
            TargetKind::Sm90a => "sm_90a",
        }
    }

    /// The kind of a target by its name.
    pub fn of_target(target: &str) -> TargetKind {
        if target == TargetKind::Sm90a.name() { TargetKind::Sm90a } else { TargetKind::Cpu }
    }

    /// The section of this kind: `program`, or `program/sm_90a`.
    pub fn section(self, what: &str) -> String {
        match self {
            TargetKind::Cpu => what.to_owned(),
            TargetKind::Sm90a => format!("{what}/{}", self.name()),
        }
    }

    /// Alignment, in bytes, of every buffer in the arena, every weight, every region of a state slot or KV page.
    pub fn align_bytes(self) -> u64 {
        match self {
            TargetKind::Cpu => super::ALIGN_BYTES,
            TargetKind::Sm90a => 128,
        }
    }
}

//! A product of many rows, with persistent blocks of one producer warpgroup and two consumer warpgroups.
//!
//! A tile is 128 outputs and 64, 128 or 256 rows of x. One thread starts copies of 64 inputs of both into a ring of stages
//! by the copy engine; each of the two consumer warpgroups multiplies 64 outputs, with sums in registers. Bound by the
//! tensor cores: 2 · rows · n · k operations. Each tile reads (128 + rows) · k elements, from L2 if concurrent tiles share
//! them.
//!
//! Weights of int8 and fp8 are widened in registers, and wgmma reads them from registers ([`super::widened`]).

use super::{Batch, Product, TileRows, map};
use crate::hopper::facts::{LINE_BYTES, MBARRIER_BYTES, SHARED_BYTES, WARPGROUP};
use crate::hopper::row_stride;
use crate::kernel::{Blocks, Elem, Grid, Param, Unit};

#[cfg(feature = "emit")]
pub(super) mod emit;

/// Outputs per tile: one block for each consumer.
pub(crate) const OUTPUTS: usize = 128;

/// Inputs per stage: a line of bf16, the width of the swizzle.
pub(super) const INPUTS: usize = LINE_BYTES / 2;

/// Three warpgroups: the producer and two consumers.
pub(super) const THREADS: u32 = 3 * WARPGROUP;

/// Bytes of shared memory in which a consumer transposes its results.
pub(super) const STAGING_BYTES: usize = 16 * 1024;

/// Bytes of the two mbarriers of a stage.
const BARRIER_BYTES: usize = 2 * MBARRIER_BYTES;

/// More stages do not hide more latency.
const MOST_STAGES: usize = 8;

/// Layout of shared memory; offsets in bytes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "emit"), allow(dead_code, reason = "only the body reads offsets"))]
pub(super) struct Shared {
    /// Number of stages; they start at byte 0.
    pub(super) stages: usize,
    /// Bytes of weights per stage; the rows of x follow.
    pub(super) weight_bytes: usize,
    pub(super) stage_bytes: usize,
    /// Staging buffers of the consumers.
    pub(super) staging: usize,
    pub(super) barriers: usize,
    pub(super) offsets: usize,
    /// Total size.
    pub(super) bytes: usize,
}

impl Shared {
    pub(super) fn of(product: &Product, rows: TileRows) -> Shared {
        let weight_bytes = OUTPUTS * INPUTS * product.format.bytes();
        let stage_bytes = weight_bytes + rows.number() * INPUTS * Elem::Bf16.bytes();
        let n_offsets = match product.batch {
            Batch::Dense => 0,
            Batch::Experts { n_experts, .. } => n_experts + 1,
        };
        let offset_bytes = n_offsets * Elem::I32.bytes();
        let rest = 2 * STAGING_BYTES + MOST_STAGES * BARRIER_BYTES + offset_bytes;
        let stages = (SHARED_BYTES.saturating_sub(rest) / stage_bytes).min(MOST_STAGES);
        let staging = stages * stage_bytes;
        let barriers = staging + 2 * STAGING_BYTES;
        let offsets = barriers + stages * BARRIER_BYTES;
        Shared { stages, weight_bytes, stage_bytes, staging, barriers, offsets, bytes: offsets + offset_bytes }
    }
}

pub(super) fn grid(product: &Product, rows: TileRows) -> Grid {
    let unit = if product.is_widened() { Unit::TensorWidened } else { Unit::Tensor };
    let work = product.work([OUTPUTS, rows.number()], unit);
    Grid { work, ..Grid::along_x(Blocks::PerSm(1), THREADS, Shared::of(product, rows).bytes as u32) }
}

/// The tensor maps of the weights and of x.
pub(super) fn maps(product: &Product, rows: TileRows) -> (Param, Param) {
    // Inputs of one byte are permuted inside each group of 64, so the last group is copied whole.
    let weight_cols = match product.format {
        Elem::I8 | Elem::F8 => row_stride(product.format, product.k),
        _ => product.k,
    };
    (
        Param::tensor_map("weight_map", map(product.format, weight_cols, OUTPUTS)),
        Param::tensor_map("x_map", map(Elem::Bf16, product.k, rows.number())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hopper::facts::SWIZZLE_BYTES;
    use crate::hopper::matmul::{Finish, Fused, Method};

    /// At least four stages fit, each aligned to the period of the swizzle.
    #[test]
    fn stages_fit() {
        for rows in TileRows::ALL {
            for format in [Elem::Bf16, Elem::I8, Elem::F8] {
                let batch = Batch::Experts { n_experts: 64, top_k: 2 };
                let product = Product {
                    sizes: vec![64],
                    k: 64,
                    format,
                    out: Elem::Bf16,
                    finish: Finish::SUM,
                    batch,
                    method: Method::Tiled(rows),
                    fused: Fused::default(),
                };
                let shared = Shared::of(&product, rows);
                assert!(shared.bytes <= SHARED_BYTES && (4..=MOST_STAGES).contains(&shared.stages), "{shared:?}");
                assert!(
                    [shared.stage_bytes, shared.weight_bytes].iter().all(|bytes| bytes.is_multiple_of(SWIZZLE_BYTES))
                );
            }
        }
    }
}

//! What a prediction assumes about a machine.

use std::fmt;

use jambac_kernels::hopper::facts::N_SMS;
use jambac_kernels::kernel::Unit;

/// A kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// H100 SXM, 80 GB.
    H100,
    /// H200 SXM, 141 GB.
    H200,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::H100 => "H100",
            Model::H200 => "H200",
        })
    }
}

/// Constants of a GPU. Seconds, bytes per second, operations per second. None was measured by this project: `--measured` fits the
/// ones that a run shows.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Card {
    pub n_sms: u32,
    /// Between two launches of a graph. 1.3 µs is reported for an H100.
    pub gap: f64,
    /// For reading the step's counts.
    pub count: f64,
    /// For one read from memory that others wait for.
    pub read: f64,
    /// For the last writes of a launch.
    pub tail: f64,
    /// For the host's part of a step: tables up, graph launch, tokens down.
    pub host: f64,
    /// Of large copies, read and write together.
    pub bandwidth: f64,
    /// Of one block that streams: about 64 KB in flight, 1 µs each.
    pub block_bandwidth: f64,
    /// Of one multiprocessor that feeds tiles of few rows from L2.
    pub tile_bandwidth: f64,
    /// Of a large bf16 matrix product of a library: the limit of tensor cores.
    pub tensor_limit: f64,
    /// Of wgmma with bf16 weights in large tiles.
    pub tensor: f64,
    /// Of wgmma with int8 weights, widened in registers.
    pub tensor_widened: f64,
    /// Of attention of many tokens.
    pub tensor_softmax: f64,
    /// Of mma by single warps.
    pub warps: f64,
    /// Of f32 arithmetic with special functions.
    pub vector: f64,
}

impl Card {
    /// The constants assumed for a GPU. Bandwidths are 90 % of the datasheets' 3.35 and 4.8 TB/s.
    pub fn of(model: Model) -> Card {
        let bandwidth = match model {
            Model::H100 => 3.0e12,
            Model::H200 => 4.3e12,
        };
        Card {
            n_sms: N_SMS as u32,
            gap: 1.3e-6,
            count: 0.2e-6,
            read: 0.75e-6,
            tail: 0.4e-6,
            host: 25e-6,
            bandwidth,
            block_bandwidth: 60e9,
            tile_bandwidth: 75e9,
            tensor_limit: 798e12,
            tensor: 600e12,
            tensor_widened: 510e12,
            tensor_softmax: 400e12,
            warps: 300e12,
            vector: 20e12,
        }
    }

    /// Operations per second of a unit on all multiprocessors.
    pub fn operations(&self, unit: Unit) -> f64 {
        match unit {
            Unit::Vector => self.vector,
            Unit::Warps => self.warps,
            Unit::Tensor => self.tensor,
            Unit::TensorWidened => self.tensor_widened,
            Unit::TensorSoftmax => self.tensor_softmax,
        }
    }

    /// Operations per second that the card allows the unit.
    pub fn limit(&self, unit: Unit) -> f64 {
        if unit == Unit::Vector { self.vector } else { self.tensor_limit }
    }

    /// Time of a launch besides its bytes and operations, in seconds.
    pub fn overhead(&self, dependent_reads: u32) -> f64 {
        self.gap + self.count + self.read * f64::from(dependent_reads) + self.tail
    }
}

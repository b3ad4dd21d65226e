//! Matrix products on Hopper. [`crate::linear`], [`crate::split_linear`], [`crate::linear_swiglu`],
//! [`crate::grouped_linear`] and [`crate::grouped_swiglu`] each describe a `Product`; two templates emit it.
//!
//! ```text
//! out[r, i] = finish(scale[i] · Σⱼ x[r, j] · weight[i, j])        x bf16, weight bf16, int8 or fp8, sums f32
//! ```
//!
//! `tiled` is for many rows and bound by the tensor cores: 2 · rows · n · k operations. `few` is for up to 8 rows and bound
//! by memory: it reads the weights once. The summation order over j depends only on k and the template, not on the other
//! rows or the tile.
//!
//! Weights are the M operand of the tensor cores, rows of x the N operand: outputs are processed in multiples of 64 or 16,
//! rows of x in multiples of 8. [`super::weight`] defines the memory layout of weights.

use jambac_graph::Activation;

use super::facts;
#[cfg(feature = "emit")]
use super::weight::{BLOCK_ROWS, block_rows};
use super::{Swizzle, TensorMap, row_stride};
use crate::causal_conv1d;
use crate::grouped_linear::{self, Experts};
use crate::kernel::{
    self, Amount, Candidate, Config, Cost, Elem, Extent, Launch, Operand, Param, Per, Pieces, Source, StepSize, Unit,
    Unsupported, Weight, Work, hopper_body,
};
use crate::split_linear::OUTS;
use jamba_plan::format::{EntryKind, Table};

pub(crate) mod few;
pub(crate) mod tiled;

#[cfg(feature = "emit")]
mod epilogue;
#[cfg(feature = "emit")]
mod tiles;
#[cfg(feature = "emit")]
mod widened;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Product {
    /// Outputs of each matrix that shares the rows of x; one matrix except in a split product.
    pub(crate) sizes: Vec<usize>,
    /// Number of inputs.
    pub(crate) k: usize,
    /// Stored type of the weights: bf16, int8 or fp8.
    pub(crate) format: Elem,
    /// Type of the results: f32 or bf16.
    pub(crate) out: Elem,
    /// Epilogue of a sum.
    pub(crate) finish: Finish,
    /// Assignment of rows to weights.
    pub(crate) batch: Batch,
    pub(crate) method: Method,
    pub(crate) fused: Fused,
}

/// What a product of few rows computes besides.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fused {
    /// Added to the mean of squares, where x is the norm of the sum of `a` and `b`, at most [`few::NORMED_ROWS`] of them.
    pub(crate) norm: Option<f64>,
    /// The first result is convolved with the last inputs of its sequence, of which each row is the only token.
    pub(crate) conv: Option<causal_conv1d::Spec>,
}

impl Fused {
    /// x, after the rows that it is the norm of; slots and state after the sums.
    fn dependent_reads(&self) -> u32 {
        1 + u32::from(self.norm.is_some()) + 2 * u32::from(self.conv.is_some())
    }
}

/// Epilogue of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The sum is an output.
    Linear {
        bias: bool,
        /// Applied last.
        activation: Activation,
    },
    /// silu(gate) · up, in bf16.
    Swiglu,
}

impl Finish {
    /// The sum without bias and activation.
    pub(crate) const SUM: Finish = Finish::Linear { bias: false, activation: Activation::None };

    /// Rows of the weight per output.
    fn rows(self) -> usize {
        match self {
            Finish::Linear { .. } => 1,
            Finish::Swiglu => 2,
        }
    }

    fn has_bias(self) -> bool {
        matches!(self, Finish::Linear { bias: true, .. })
    }
}

/// Assignment of rows of x to weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    /// All rows, one weight.
    Dense,
    /// Rows sorted by expert, each multiplied by its expert's weight: expert e has rows `offsets[e] … offsets[e + 1]`.
    Experts {
        n_experts: usize,
        /// Rows per token.
        top_k: usize,
    },
}

/// The algorithm of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Whole warpgroups on the tensor cores, with tiles of 128 outputs and this many rows of x: for many rows.
    Tiled(TileRows),
    /// Streams the weights from global memory, for up to 8 rows of x. Correct for any number of rows, but reads the weights
    /// once per 8 rows.
    Few,
}

impl From<Config> for Method {
    fn from(config: Config) -> Method {
        match config {
            Config::Tiled(rows) => Method::Tiled(rows),
            _ => Method::Few,
        }
    }
}

/// Rows of x per tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum TileRows {
    Rows64,
    Rows128,
    Rows256,
}

impl TileRows {
    /// All variants, smallest first.
    pub const ALL: [TileRows; 3] = [TileRows::Rows64, TileRows::Rows128, TileRows::Rows256];

    /// Number of rows.
    pub const fn number(self) -> usize {
        match self {
            TileRows::Rows64 => 64,
            TileRows::Rows128 => 128,
            TileRows::Rows256 => 256,
        }
    }

    /// Estimated time of a product of `rows` rows of x and `n` rows of weights, in units of a tile row: the number of waves
    /// over the SMs, times the bytes of weights and x that a tile moves per wave.
    fn time(self, n: usize, rows: usize) -> usize {
        let tiles = n.div_ceil(tiled::OUTPUTS) * rows.div_ceil(self.number());
        tiles.div_ceil(facts::N_SMS) * (self.number() + tiled::OUTPUTS)
    }
}

/// Checks that the products can read weights of this format.
pub(crate) fn supports(format: Elem) -> Result<(), Unsupported> {
    match format {
        Elem::Bf16 | Elem::I8 | Elem::F8 => Ok(()),
        other => Err(Unsupported(format!(
            "weights are {}, expected bf16, int8 or fp8, which sm_90a multiplies",
            other.name()
        ))),
    }
}

/// Maximum number of sequences of the decode entries for few sequences: the rows per tile of the streaming product.
pub(crate) const FEW_SEQUENCES: u64 = few::ROWS as u64;

/// Maximum number of sequences of the decode entry whose products norm their rows.
pub(crate) const NORMED_SEQUENCES: u64 = few::NORMED_ROWS as u64;

/// Whether a step streams the weights.
pub(crate) fn choose_few(step: &StepSize) -> bool {
    step.entry == EntryKind::Decode && step.sequences <= FEW_SEQUENCES
}

/// The configs that multiply `n` rows of weights by up to `rows` rows of x, fastest first.
///
/// The entry for few sequences streams the weights. All others use tiles, so that the bits of a prompt do not depend on how
/// it is divided into steps.
pub(crate) fn configs(step: &StepSize, n: usize, rows: u64) -> Vec<Candidate> {
    let is_few = choose_few(step);
    let mut tiles = TileRows::ALL;
    tiles.sort_by_key(|tile| tile.time(n, rows as usize));
    let tiled = tiles.map(|tile| match is_few {
        true => Candidate::rejected(Config::Tiled(tile), format!("{} sequences do not fill a tile", step.sequences)),
        false => Candidate::accepted(Config::Tiled(tile)),
    });
    let few = match is_few {
        true => Candidate::accepted(Config::Few),
        false => Candidate::rejected(Config::Few, "reads the weights once for each 8 rows"),
    };
    if is_few { [few].into_iter().chain(tiled).collect() } else { tiled.into_iter().chain([few]).collect() }
}

impl Method {
    fn name(self) -> String {
        match self {
            Method::Tiled(rows) => format!("t{}", rows.number()),
            Method::Few => "few".into(),
        }
    }
}

impl Product {
    /// The symbol suffix that the op does not determine: activation, result type and method.
    pub(crate) fn suffix(&self) -> String {
        let finish = match self.finish {
            Finish::Linear { bias, activation } => kernel::epilogue(bias, activation),
            Finish::Swiglu => String::new(),
        };
        let norm = self.fused.norm.map_or(String::new(), |eps| format!("_norm_e{:x}", (eps as f32).to_bits()));
        let conv = self.fused.conv.as_ref().map_or(String::new(), causal_conv1d::Spec::fused_name);
        format!("{finish}{norm}{conv}_{}_{}_sm90", self.out.name(), self.method.name())
    }

    pub(crate) fn launch(&self, bound: Bound) -> Launch {
        Launch {
            op: bound.op,
            symbol: format!("{}{}", bound.name, self.suffix()),
            cost: self.cost(),
            grid: Some(match self.method {
                Method::Tiled(rows) => tiled::grid(self, rows),
                Method::Few => few::grid(self),
            }),
            operands: self.operands(bound),
            body: hopper_body!(self, emit),
        }
    }

    fn operands(&self, bound: Bound) -> Vec<Operand> {
        let factor = self.slots_per_row();
        let row = |name, elem| Param::read(name, elem, &[row_stride(elem, self.k)]);
        let (weight, x) = match self.method {
            Method::Tiled(rows) => tiled::maps(self, rows),
            Method::Few => (row("weight", self.format), row("x", Elem::Bf16)),
        };
        let rows = Extent::per(Per::Row, factor);
        // Operands are in the order of the separate launches'.
        let mut operands = match self.fused.norm {
            None => Vec::new(),
            Some(_) => vec![
                Operand::input(row("a", Elem::F32), 0),
                Operand::input(row("b", Elem::F32), 1),
                super::operand::vector("norm", self.k, 2),
                super::operand::write("sum", Elem::F32, self.k, 0),
            ],
        };
        operands.push(Operand::new(weight, Source::Weight(bound.weight), Extent::fixed(0)));
        if self.is_widened() {
            operands.push(Operand::new(Param::read("scales", Elem::F32, &[]), Source::Scales, Extent::fixed(0)));
        }
        operands.extend(bound.bias.map(|operand| super::operand::vector("bias", self.sizes[0], operand)));
        operands.extend(self.fused.norm.is_none().then(|| Operand::new(x, bound.x, rows)));
        if let (Batch::Experts { n_experts, .. }, Some(operand)) = (self.batch, bound.offsets) {
            operands.push(grouped_linear::offsets(n_experts, operand));
        }
        let names: &[&str] = if self.sizes.len() == 1 { &["out"] } else { &OUTS };
        operands.extend(names.iter().zip(&self.sizes).zip(bound.outs).map(|((name, &n), out)| {
            Operand::new(Param::write(name, self.out, &[row_stride(self.out, n)]), out, rows)
        }));
        if self.batch == Batch::Dense {
            operands.push(Operand::count("rows", Per::Row));
        }
        if let Some(conv) = &self.fused.conv {
            operands.extend(conv.hopper_parameters(["conv_weight", "conv_bias"], crate::norm_linear::CONV_OPERANDS));
            operands.extend([Table::SequenceOf, Table::Slots].map(Operand::table));
            operands.push(Operand::slot_stride());
        }
        operands
    }

    /// True for weights of one byte, which become bf16 in registers and have a scale for each row.
    pub(crate) fn is_widened(&self) -> bool {
        self.format != Elem::Bf16
    }

    /// Rows of x and of the results per row of the step.
    fn slots_per_row(&self) -> usize {
        match self.batch {
            Batch::Dense => 1,
            Batch::Experts { top_k, .. } => top_k,
        }
    }

    /// The division into tiles of this many outputs and rows of x. Experts read their row offsets first.
    fn work(&self, [outputs, rows]: [usize; 2], unit: Unit) -> Work {
        let columns = self.sizes.iter().map(|n| (n * self.finish.rows()).div_ceil(outputs)).sum();
        let (n_matrices, dependent_reads) = match self.batch {
            Batch::Dense => (1, self.fused.dependent_reads()),
            Batch::Experts { n_experts, .. } => (n_experts, 2),
        };
        let pieces = Pieces::Tiles { columns, rows, per_row: self.slots_per_row(), n_matrices };
        Work { pieces, dependent_reads, unit }
    }

    /// Reads each used weight and each row of x once, writes each result once; two operations per product of x and weight.
    fn cost(&self) -> Cost {
        let n: usize = self.sizes.iter().sum();
        let rows = self.slots_per_row() as f64;
        let weight_rows = n * self.finish.rows();
        let scales = if self.is_widened() { weight_rows * Elem::F32.bytes() } else { 0 };
        let bytes = (weight_rows * self.k * self.format.bytes() + scales) as f64;
        let row = (n * self.out.bytes() + self.k * Elem::Bf16.bytes()) as f64;
        let products = (n * self.finish.rows() * self.k) as f64;
        // Five operations per swiglu.
        let finish = if self.finish == Finish::Swiglu { 5 * n } else { 0 };
        let bytes = match self.batch {
            Batch::Dense => Amount { constant: bytes, rows: row, ..Amount::default() },
            Batch::Experts { n_experts, top_k } => Experts { n_experts, top_k, bytes }.with_rows(rows * row),
        };
        let mut cost = Cost { bytes, operations: Amount::per_row(rows * (2.0 * products + finish as f64)) };
        if self.fused.norm.is_some() {
            // Reads two rows of f32 and writes one, in the place of x.
            cost.bytes.rows += (self.k * (3 * Elem::F32.bytes() - Elem::Bf16.bytes())) as f64;
            cost.operations.rows += 5.0 * self.k as f64;
        }
        match &self.fused.conv {
            Some(conv) => conv.add_cost(cost),
            None => cost,
        }
    }
}

/// The operands of a product, and its name.
pub(crate) struct Bound {
    pub(crate) op: &'static str,
    /// The symbol without the product's suffix: activation, result type and method.
    pub(crate) name: String,
    /// The packed weight.
    pub(crate) weight: Weight,
    /// The node's operand for the bias.
    pub(crate) bias: Option<usize>,
    /// The rows of x.
    pub(crate) x: Source,
    /// The node's operand for the experts' row offsets.
    pub(crate) offsets: Option<usize>,
    /// The results, one per size of the product.
    pub(crate) outs: Vec<Source>,
}

#[cfg(feature = "emit")]
impl Product {
    /// Rows of the weight of one expert, or of the only weight, including padding.
    pub(crate) fn weight_rows(&self) -> usize {
        match (self.batch, self.finish, self.sizes.as_slice()) {
            (Batch::Dense, Finish::Linear { .. }, &[n]) => n,
            (_, finish, sizes) => sizes.iter().map(|n| block_rows(n * finish.rows())).sum(),
        }
    }

    /// Number of 64-row blocks in these rows.
    pub(crate) fn blocks(&self) -> usize {
        self.weight_rows().div_ceil(BLOCK_ROWS)
    }

    /// Outputs per block.
    pub(crate) fn block_outputs(&self) -> usize {
        BLOCK_ROWS / self.finish.rows()
    }
}

/// The tensor map of a matrix that is copied in boxes of `box_rows` rows and 64 columns.
fn map(elem: Elem, cols: usize, box_rows: usize) -> TensorMap {
    let swizzle = match elem {
        Elem::I8 | Elem::F8 => Swizzle::None,
        _ => Swizzle::B128,
    };
    TensorMap { elem, cols, box_rows, box_cols: tiled::INPUTS, swizzle }
}

#[cfg(feature = "emit")]
pub(crate) fn emit(b: &super::Builder, product: &Product) {
    match product.method {
        Method::Tiled(rows) => tiled::emit::emit(b, product, rows),
        Method::Few => few::emit::emit(b, product),
    }
}

//! What the matrix products of Hopper have in common: [`crate::linear`], [`crate::split_linear`], [`crate::linear_swiglu`],
//! [`crate::grouped_linear`] and [`crate::grouped_swiglu`] each name a `Product`, and two templates write it.
//!
//!     out[r, i] = finish(scale[i] · Σⱼ x[r, j] · weight[i, j])        x bf16, weight bf16 or int8, sums f32
//!
//! `tiled` is for many rows: bound by the tensor cores, 2 · rows · n · k operations. `few` is for a handful: bound by the
//! memory, the weights once. Either sums each output over j alone, in an order that k and the template decide: never the other
//! rows, nor the tile that a row falls into.
//!
//! Weights are the M side of the tensor cores' products, rows of x the N side: outputs come in 64s or 16s, rows of x in 8s.
//! How weights lie in memory: [`super::weight`].

use jamba_plan::format::Launch;
use jambac_graph::Activation;

#[cfg(feature = "emit")]
use super::weight::{BLOCK_ROWS, block_rows};
use super::{Swizzle, TensorMap, row_stride};
use crate::cpu::integer::weight_bytes;
use crate::kernel::{self, Cost, Counts, Elem, Param, Rows};
use crate::split_linear::OUTS;

pub(crate) mod few;
pub(crate) mod tiled;

#[cfg(feature = "emit")]
mod epilogue;
#[cfg(feature = "emit")]
mod integer;
#[cfg(feature = "emit")]
mod work;

/// What a catalog entry is asked for, of a `Spec` that has a `name` and a `product`: all of it follows from these two.
macro_rules! is_product {
    () => {
        impl Spec {
            pub(crate) fn symbol(&self) -> String {
                format!("{}{}", self.name(), self.product().suffix())
            }

            pub(crate) fn params(&self) -> Vec<crate::kernel::Param> {
                self.product().params()
            }

            pub(crate) fn cost(&self, counts: crate::kernel::Counts) -> crate::kernel::Cost {
                self.product().cost(counts)
            }

            pub(crate) fn launch(&self) -> jamba_plan::format::Launch {
                self.product().launch()
            }
        }

        #[cfg(feature = "emit")]
        pub(crate) fn emit(b: &crate::hopper::Builder, spec: &Spec) {
            crate::hopper::matmul::emit(b, &spec.product());
        }
    };
}
pub(crate) use is_product;

/// A matrix product.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Product {
    /// Outputs of each matrix that shares the rows of x; all but a split product have one.
    pub(crate) sizes: Vec<usize>,
    /// Inputs.
    pub(crate) k: usize,
    /// Stored type of the weights, bf16 or int8.
    pub(crate) format: Elem,
    /// Type of the results: f32 or bf16.
    pub(crate) out: Elem,
    /// What becomes of a sum.
    pub(crate) finish: Finish,
    /// Which rows meet which weights.
    pub(crate) batch: Batch,
    /// How.
    pub(crate) method: Method,
}

/// What becomes of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// An output of its own.
    Linear {
        /// True when a bias is added.
        bias: bool,
        /// Applied last.
        activation: Activation,
    },
    /// silu(gate) · up, in bf16.
    Swiglu,
}

impl Finish {
    /// The sum alone.
    pub(crate) const SUM: Finish = Finish::Linear { bias: false, activation: Activation::None };

    /// Rows of the weight that an output has.
    fn rows(self) -> usize {
        match self {
            Finish::Linear { .. } => 1,
            Finish::Swiglu => 2,
        }
    }

    /// True when a bias is added.
    fn has_bias(self) -> bool {
        matches!(self, Finish::Linear { bias: true, .. })
    }
}

/// Which rows of x meet which weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    /// All rows, one weight.
    Dense(Rows),
    /// Rows sorted by expert, each with its expert's weight: expert e has rows `offsets[e] … offsets[e + 1]`.
    Experts {
        /// Experts.
        n_experts: usize,
        /// Rows per token.
        top_k: usize,
        /// What the tokens are.
        rows: Rows,
    },
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// On the tensor cores of whole warpgroups, 128 outputs and so many rows of x at a time: for many rows.
    Tiled(TileRows),
    /// With the weights straight from global memory, for up to 8 rows of x; right for any number, but it reads the weights
    /// once for each 8.
    Few,
}

/// Rows of x in a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileRows {
    /// 64.
    Rows64,
    /// 128.
    Rows128,
    /// 256.
    Rows256,
}

impl TileRows {
    /// All of them, the smallest first.
    pub const ALL: [TileRows; 3] = [TileRows::Rows64, TileRows::Rows128, TileRows::Rows256];

    /// The number.
    pub const fn number(self) -> usize {
        match self {
            TileRows::Rows64 => 64,
            TileRows::Rows128 => 128,
            TileRows::Rows256 => 256,
        }
    }

    /// The fastest for up to `max_rows` rows of x and `n` rows of weights: time goes with the rounds that `n_sms`
    /// multiprocessors make, and in a round with the bytes of weights and of x that a tile moves.
    pub fn fastest(n: usize, max_rows: usize, n_sms: usize) -> TileRows {
        let time = |rows: &TileRows| {
            let tiles = n.div_ceil(tiled::OUTPUTS) * max_rows.div_ceil(rows.number());
            tiles.div_ceil(n_sms) * (rows.number() + tiled::OUTPUTS)
        };
        TileRows::ALL.into_iter().min_by_key(time).unwrap_or(TileRows::Rows64)
    }
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
    /// The part of the symbol that says what is not the op's own: activation and method.
    pub(crate) fn suffix(&self) -> String {
        let finish = match self.finish {
            Finish::Linear { bias, activation } => kernel::epilogue(bias, activation),
            Finish::Swiglu => String::new(),
        };
        format!("{finish}_{}_{}_sm90", self.out.name(), self.method.name())
    }

    /// The slots, in order.
    pub(crate) fn params(&self) -> Vec<Param> {
        let (weight, x) = match self.method {
            Method::Tiled(rows) => tiled::maps(self, rows),
            Method::Few => (
                Param::read("weight", self.format, &[row_stride(self.format, self.k)]),
                Param::read("x", Elem::Bf16, &[row_stride(Elem::Bf16, self.k)]),
            ),
        };
        let mut params = vec![weight];
        if self.format == Elem::I8 {
            params.push(Param::read("scales", Elem::F32, &[]));
        }
        if self.finish.has_bias() {
            params.push(Param::read("bias", Elem::F32, &[]));
        }
        params.push(x);
        if let Batch::Experts { .. } = self.batch {
            params.push(Param::read("offsets", Elem::I32, &[]));
        }
        match self.sizes.as_slice() {
            &[n] => params.push(Param::write("out", self.out, &[row_stride(self.out, n)])),
            sizes => params.extend(
                OUTS.iter().zip(sizes).map(|(name, &n)| Param::write(name, self.out, &[row_stride(self.out, n)])),
            ),
        }
        if let Batch::Dense(_) = self.batch {
            params.push(Param::count("rows"));
        }
        params
    }

    /// Grid, threads and shared memory.
    pub(crate) fn launch(&self) -> Launch {
        match self.method {
            Method::Tiled(rows) => tiled::launch(self, rows),
            Method::Few => few::launch(self),
        }
    }

    /// The weights that are used once, the rows of x and of the results once; two operations for each product of x and weight.
    pub(crate) fn cost(&self, counts: Counts) -> Cost {
        let (rows, weights) = match self.batch {
            Batch::Dense(rows) => (rows.count(counts), 1),
            Batch::Experts { n_experts, top_k, rows } => {
                let rows = rows.count(counts) * top_k;
                (rows, rows.min(n_experts))
            }
        };
        let n: usize = self.sizes.iter().sum();
        let weight = weight_bytes(self.format, n * self.finish.rows(), self.k);
        let row = n * self.out.bytes() + self.k * Elem::Bf16.bytes();
        let products = (n * self.finish.rows() * self.k) as f64;
        // Five for each swiglu.
        let finish = if self.finish == Finish::Swiglu { 5 * n } else { 0 };
        Cost {
            bytes: weights as f64 * weight + (rows * row) as f64,
            flops: rows as f64 * (2.0 * products + finish as f64),
        }
    }
}

#[cfg(feature = "emit")]
impl Product {
    /// Rows of the weight of one expert, or of the only one, those of padding included.
    pub(crate) fn weight_rows(&self) -> usize {
        match (self.batch, self.finish, self.sizes.as_slice()) {
            (Batch::Dense(_), Finish::Linear { .. }, &[n]) => n,
            (_, finish, sizes) => sizes.iter().map(|n| block_rows(n * finish.rows())).sum(),
        }
    }

    /// Blocks of 64 of these rows.
    pub(crate) fn blocks(&self) -> usize {
        self.weight_rows().div_ceil(BLOCK_ROWS)
    }

    /// Outputs of a block.
    pub(crate) fn block_outputs(&self) -> usize {
        BLOCK_ROWS / self.finish.rows()
    }
}

/// The map of a matrix of which boxes of `box_rows` rows and 64 columns are copied.
fn map(elem: Elem, cols: usize, box_rows: usize) -> TensorMap {
    let swizzle = match elem {
        Elem::I8 => Swizzle::None,
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

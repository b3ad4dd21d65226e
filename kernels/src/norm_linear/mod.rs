//! The norm of a residual sum in the prologue of the product that reads it, and for in_proj the convolution in its epilogue: steps
//! of one token of each sequence.
//!
//! ```text
//! sum = a + b;  x[r, i] = sum[r, i] · norm[i] / sqrt(mean(sum[r, :]²) + eps)          the norm of [`crate::rms_norm`]
//! outₚ = x · weightₚᵀ                            split:   [`crate::split_linear`]
//! out = silu(x · gateᵀ) · (x · upᵀ)              swiglu:  [`crate::linear_swiglu`]
//! out₀ = conv(x · weight₀ᵀ, state)               conv:    the first of two parts through [`crate::causal_conv1d`]
//! ```
//!
//! Every result has the bits of the separate kernels. A row's norm is recomputed by each thread that multiplies the row: k
//! elements from the cache instead of a step of one thread, for which the others wait.
//! Bound like the product: by the weights.

use jamba_plan::format::Table;
use jambac_graph::Op;

use crate::cases::{Case, decode};
use crate::cpu::operand::{read, vector, write};
use crate::kernel::{Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Source, Unsupported, cpu_body};
use crate::node::{Node, Select, SelectError, Selected, Use};
use crate::{causal_conv1d, linear_swiglu, split_linear};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Added to the mean of squares.
    pub eps: f64,
    pub product: Product,
}

/// What is multiplied with the normed rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Product {
    Split(split_linear::Spec),
    Swiglu(linear_swiglu::Spec),
    /// Two parts of as many outputs, the first of them convolved.
    Conv(split_linear::Spec, causal_conv1d::Spec),
}

/// Columns of a normed row: 512 KiB of a thread's stack.
const MAX_COLUMNS: usize = 1 << 17;

/// Operands of the norm: the product's weights follow.
const NORM_OPERANDS: usize = 3;

/// The convolution's operands follow the weight of in_proj.
pub(crate) const CONV_OPERANDS: usize = NORM_OPERANDS + 1;

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let k = node.operand_cols(0)?;
        let format = node.format(NORM_OPERANDS, Use::Linear)?;
        let split = |sizes: Vec<usize>, weights| -> Result<split_linear::Spec, SelectError> {
            Ok(split_linear::Spec { sizes, weights, k, format, out: node.stored_result(1)? })
        };
        let (eps, product) = match *node.op() {
            Op::NormSplitLinear { eps, ref sizes } => {
                (eps, Product::Split(split(sizes.clone(), node.operands.len() - NORM_OPERANDS)?))
            }
            Op::NormLinearSwiglu { eps } => {
                (eps, Product::Swiglu(linear_swiglu::Spec { n: node.result_cols(1)?, k, format }))
            }
            Op::NormProjConv { eps, bias, activation } => {
                let (channels, taps) = (node.result_cols(1)?, node.dim(node.operand(CONV_OPERANDS), 2)?);
                let conv = causal_conv1d::Spec { channels, taps, bias, activation };
                (eps, Product::Conv(split(vec![channels; 2], 1)?, conv))
            }
            _ => return Err(node.other_op()),
        };
        Ok(Selected::new(Spec { eps, product }, node.rows()?))
    }

    fn cases() -> Vec<Case> {
        // Results are f32 on CPUs whatever the spec says.
        let (format, out) = (Elem::Bf16, Elem::Bf16);
        let split = |sizes: &[usize], k| {
            let product = split_linear::Spec { sizes: sizes.to_vec(), weights: sizes.len(), k, format, out };
            Spec { eps: 1e-6, product: Product::Split(product) }
        };
        let swiglu = |n, k| Spec { eps: 1e-5, product: Product::Swiglu(linear_swiglu::Spec { n, k, format }) };
        let conv = |channels, k, taps, bias| {
            let split = split_linear::Spec { sizes: vec![channels; 2], weights: 1, k, format, out };
            let activation = jambac_graph::Activation::Silu;
            let conv = causal_conv1d::Spec { channels, taps, bias, activation };
            Spec { eps: 1e-6, product: Product::Conv(split, conv) }
        };
        let bases = [split(&[72, 24, 24], 72), swiglu(96, 72), conv(72, 72, 4, true)];
        let mut cases: Vec<Case> =
            bases.iter().flat_map(|spec| [5, 0, 1, 2, 17].map(|n| decode(spec.clone(), n))).collect();
        // Vector tails; fewer panels than threads, so that rows are distributed; several blocks of rows.
        cases.extend(
            [split(&[5], 100), swiglu(17, 1), conv(33, 7, 2, false), conv(20, 40, 1, true)].map(|s| decode(s, 5)),
        );
        cases.extend([split(&[16], 40), conv(16, 24, 3, true)].map(|spec| decode(spec, 70)));
        cases.extend([split(&[16, 5], 8195), conv(16, 8195, 4, true)].map(|spec| decode(spec, 37)));
        for format in [Elem::F32, Elem::F16, Elem::F8, Elem::I8, Elem::I4, Elem::I3] {
            let of_format = |mut spec: Spec| {
                match &mut spec.product {
                    Product::Split(product) | Product::Conv(product, _) => product.format = format,
                    Product::Swiglu(product) => product.format = format,
                }
                decode(spec, 6)
            };
            cases.extend([split(&[40, 17], 300), swiglu(40, 72), conv(40, 160, 4, true)].map(of_format));
        }
        // Jamba 3B and Mini.
        cases.extend([conv(5120, 2560, 4, true), swiglu(8192, 2560), conv(8192, 4096, 4, true)].map(|s| decode(s, 1)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn supports(&self) -> Result<(), Unsupported> {
        match self.inputs() {
            ..=MAX_COLUMNS => Ok(()),
            cols => Err(Unsupported(format!(
                "found rows of {cols} columns, expected at most {MAX_COLUMNS}: build with --fusion all,-fuse-norm-linear"
            ))),
        }
    }

    fn lower(&self, _: Config) -> Vec<Launch> {
        let k = self.inputs();
        let of_product = self.product_launch();
        let mut operands = vec![read("a", k, 0), read("b", k, 1), vector("norm", k, 2)];
        // The product's operands after x.
        operands.extend(of_product.operands[1..].iter().cloned());
        operands.push(write("sum", k, 0));
        if let Some(conv) = self.conv() {
            operands.extend(conv.parameters(["conv_weight", "conv_bias"], CONV_OPERANDS));
            operands.push(conv.state());
            operands.extend([Table::SequenceOf, Table::Slots].map(Operand::table));
            operands.push(Operand::slot_stride());
        }
        vec![Launch {
            op: "norm_linear",
            symbol: self.symbol(&of_product.symbol),
            operands,
            cost: self.cost(of_product.cost),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    /// Number of inputs: columns of the norm.
    fn inputs(&self) -> usize {
        match &self.product {
            Product::Split(product) | Product::Conv(product, _) => product.k,
            Product::Swiglu(product) => product.k,
        }
    }

    /// The product alone, with the operands and results of this node.
    fn product_launch(&self) -> Launch {
        let mut launches = match &self.product {
            Product::Split(product) | Product::Conv(product, _) => Lowering::<Cpu>::lower(product, Config::Only),
            Product::Swiglu(product) => Lowering::<Cpu>::lower(product, Config::Only),
        };
        let operand = |operand| Source::Operand(operand + NORM_OPERANDS - 1);
        launches.swap_remove(0).rebound(operand, |result| Source::Result(result + 1))
    }

    fn symbol(&self, product: &str) -> String {
        let conv = self.conv().map_or(String::new(), causal_conv1d::Spec::fused_name);
        format!("norm_{product}{conv}_e{:x}", (self.eps as f32).to_bits())
    }

    /// The product's cost, with a sum read as two rows and written, its norm, and the convolution's state and operations.
    fn cost(&self, of_product: Cost) -> Cost {
        let k = self.inputs() as f64;
        let mut cost = of_product;
        cost.bytes.rows += 2.0 * k * 4.0;
        cost.operations.rows += 5.0 * k;
        match self.conv() {
            Some(conv) => conv.add_cost(cost),
            None => cost,
        }
    }

    fn conv(&self) -> Option<&causal_conv1d::Spec> {
        match &self.product {
            Product::Conv(_, conv) => Some(conv),
            _ => None,
        }
    }
}

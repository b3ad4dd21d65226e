//! Causal attention over paged keys and values, with online softmax (arXiv 2205.14135), without positional encoding.
//!
//! ```text
//! out[t, h, :] = Σⱼ softmaxⱼ(scale · q[t, h, :] · key[j]) · value[j]       j from 0 to the token's own position
//! ```
//!
//! On CPUs, a page holds 16 tokens of one layer and one KV head: keys transposed, `[d_head][16]` (lanes are tokens), then
//! values `[16][padded(d_head)]` (lanes are dimensions). The KV heads of a layer follow each other. page_stride is in
//! elements. Query head h reads KV head h / (n_heads / n_kv_heads). Pages are processed in order from the first, so the
//! summation order depends only on the token's position. Threads split (block of tokens, head). If the kernel appends, each
//! sequence has one token: its key and value (`k`, `v`) are appended to the cache, rounded to the stored type, as in
//! [`crate::kv_append`], and the token sees them; the sums are the same as after appending first.
//! Bound by memory when decoding (the cache once), by multiply-adds when prefilling.

use jamba_plan::format::{Table, TargetKind};
use jambac_graph::Op;

use crate::cases::{Case, Counts, case};
use crate::cpu::operand::{read, write};
use crate::kernel::{Access, Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, cpu_body};
use crate::kv_append::page_elements;
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of KV heads; divides the number of query heads.
    pub n_kv_heads: usize,
    /// Dimensions per head.
    pub d_head: usize,
    /// Multiplies the scores.
    pub scale: f64,
    /// Stored type of the cache: f32 or bf16; bf16 on Hopper.
    pub format: Elem,
    /// Whether the keys and values of the step's tokens, one per sequence, are appended to the cache first.
    pub appends: bool,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let (n_heads, scale, appends) = match *node.op() {
            Op::Attention { n_heads, scale } => (n_heads, scale, false),
            Op::AppendAttention { n_heads, scale } => (n_heads, scale, true),
            _ => return Err(node.other_op()),
        };
        let (n_kv_heads, d_head, format) = node.cache(cache(appends))?;
        Ok(Selected::new(Spec { n_heads, n_kv_heads, d_head, scale, format, appends }, node.tokens(0)?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    /// On Hopper, a separate launch appends keys and values.
    fn has_body(op: &Op, target: TargetKind) -> bool {
        target == TargetKind::Cpu || matches!(op, Op::Attention { .. })
    }

    fn cases() -> Vec<Case> {
        let base =
            Spec { n_heads: 6, n_kv_heads: 2, d_head: 12, scale: 12f64.powf(-0.5), format: Elem::F32, appends: false };
        let heads = |n_heads, n_kv_heads| Spec { n_heads, n_kv_heads, ..base.clone() };
        let mut cases = vec![case(base.clone(), 17)];
        cases.push(case(Spec { format: Elem::Bf16, ..base.clone() }, 17));
        // Query heads per KV head: 1, 2, 4, 5, 7, 20.
        cases.extend([(4, 4), (4, 2), (4, 1), (5, 1), (7, 1), (20, 1)].map(|(h, g)| case(heads(h, g), 17)));
        cases.extend([1, 16, 32, 72, 128].map(|d_head| case(Spec { d_head, ..base.clone() }, 17)));
        cases.push(case(Spec { d_head: 128, ..heads(2, 2) }, 17));
        cases.push(case(Spec { d_head: 128, format: Elem::Bf16, ..heads(4, 2) }, 17));
        // Jamba tiny; on Hopper head sizes that are not multiples of the vector size, odd ones, several column blocks, and sizes with
        // more than one part of the values.
        let shapes = [(4, 2, 32), (6, 3, 10), (3, 1, 9), (7, 1, 24), (2, 2, 72), (2, 1, 192), (17, 1, 16)];
        // Jamba Mini and Reasoning 3B.
        for (n_heads, n_kv_heads, d_head) in shapes.into_iter().chain([(32, 8, 128), (20, 1, 128)]) {
            let scale = (d_head as f64).powf(-0.5);
            cases.push(case(Spec { d_head, scale, format: Elem::Bf16, ..heads(n_heads, n_kv_heads) }, 17));
        }
        // Jamba Mini.
        let mini = Spec { d_head: 128, scale: 128f64.powf(-0.5), ..heads(32, 8) };
        let bf16 = Spec { format: Elem::Bf16, ..mini.clone() };
        cases.push(case(mini, 512));
        let decode = Counts { tokens: 1, sequences: 1, outputs: 1, context: 8192 };
        cases.extend([case(bf16.clone(), 512), Case { counts: decode, ..case(bf16, 1) }]);
        cases
    }
}

/// The node's operand for the cache: after q, or after q, k and v.
fn cache(appends: bool) -> usize {
    if appends { 3 } else { 1 }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_heads, n_kv_heads, d_head, scale, format, appends } = self;
        let kv_cols = n_kv_heads * d_head;
        let mut operands = vec![read("q", n_heads * d_head, 0)];
        let access = if appends { Access::ReadWrite } else { Access::Read };
        operands.extend(appends.then(|| [read("k", kv_cols, 1), read("v", kv_cols, 2)]).into_iter().flatten());
        operands.push(Operand::pages(access, format, cache(appends), page_elements(n_kv_heads, d_head)));
        operands.extend([Table::SequenceOf, Table::Starts, Table::Past, Table::Pages].map(Operand::table));
        operands.extend([write("out", n_heads * d_head, 0), Operand::scalar("tokens", Per::Token)]);
        operands.extend(Operand::page_strides(cache(appends)));
        let name = if appends { "append_attention" } else { "attention" };
        let scale = (scale as f32).to_bits();
        vec![Launch {
            op: "attention",
            symbol: format!("{name}_{}_h{n_heads}_g{n_kv_heads}_e{d_head}_s{scale:x}", format.name()),
            operands,
            cost: self.cost(4.0),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    /// The cache once, and rows of q and of the result with elements of this size; two multiply-adds per key and dimension.
    fn cost(&self, activation_bytes: f64) -> Cost {
        let cached = (2 * self.n_kv_heads * self.d_head * self.format.bytes()) as f64;
        let cols = (self.n_heads * self.d_head) as f64;
        Cost {
            bytes: Amount { sequence_context: cached, rows: 2.0 * cols * activation_bytes, ..Amount::default() },
            operations: Amount { token_context: 4.0 * cols, ..Amount::default() },
        }
    }
}

//! Writes keys and values of the step's tokens into the pages of their sequences.
//!
//! ```text
//! position = past[s] + t − starts[s], page = pages[s, position / 16], place = position % 16     s = sequence_of[t]
//! keys[page, g, e, place] = k[t, g · d_head + e];  values[page, g, place, e] = v[t, g · d_head + e]
//! ```
//!
//! On CPUs, a page holds 16 tokens of one layer and one KV head: keys transposed, `[d_head][16]` (lanes are tokens), then
//! values `[16][padded(d_head)]` (lanes are dimensions). The KV heads of a layer follow each other. page_stride is in
//! elements.
//! Bound by memory.

use jamba_plan::format::Table;
use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::operand::read;
use crate::kernel::{Access, Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Per, cpu_body, padded};
use crate::node::{Node, Reads, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
pub mod hopper;

/// A copy of keys and values into pages.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    /// Number of KV heads.
    pub n_kv_heads: usize,
    /// Dimensions per head.
    pub d_head: usize,
    /// Stored type of the cache: f32 or bf16; bf16 on Hopper.
    pub format: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let (n_kv_heads, d_head, format) = node.cache(0)?;
        Ok(Selected::new(Spec { n_kv_heads, d_head, format }, node.tokens(1)?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::As(Elem::Bf16)
    }

    fn cases() -> Vec<Case> {
        let base = Spec { n_kv_heads: 2, d_head: 12, format: Elem::F32 };
        let mut cases = vec![case(base.clone(), 17)];
        cases.push(case(Spec { n_kv_heads: 1, ..base.clone() }, 17));
        cases.extend([16, 128].map(|d_head| case(Spec { d_head, ..base.clone() }, 17)));
        cases.push(case(Spec { format: Elem::Bf16, ..base.clone() }, 17));
        // Jamba Mini.
        cases.extend([1, 512].map(|n_tokens| case(Spec { n_kv_heads: 8, d_head: 128, ..base.clone() }, n_tokens)));
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { n_kv_heads, d_head, format } = self;
        let mut operands = vec![
            read("k", n_kv_heads * d_head, 1),
            read("v", n_kv_heads * d_head, 2),
            Operand::pages(Access::ReadWrite, format, 0, page_elements(n_kv_heads, d_head)),
        ];
        operands.extend([Table::SequenceOf, Table::Starts, Table::Past, Table::Pages].map(Operand::table));
        operands.push(Operand::scalar("tokens", Per::Token));
        operands.extend(Operand::page_strides(0));
        let elements = (2 * n_kv_heads * d_head) as f64;
        vec![Launch {
            op: "kv_append",
            symbol: format!("kv_append_{}_g{n_kv_heads}_e{d_head}", format.name()),
            operands,
            cost: Cost { bytes: Amount::per_row(elements * (4 + format.bytes()) as f64), ..Cost::default() },
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

/// Elements of one page's keys and values in one layer.
pub fn page_elements(n_kv_heads: usize, d_head: usize) -> usize {
    n_kv_heads * head_elements(d_head)
}

/// Elements of one KV head's keys and values in one page.
pub fn head_elements(d_head: usize) -> usize {
    PAGE_TOKENS * (d_head + padded(d_head))
}

/// Tokens per page.
pub const PAGE_TOKENS: usize = jamba_plan::format::KV_PAGE_TOKENS as usize;

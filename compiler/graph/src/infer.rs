//! Types of an op's results from the types of its operands.
//!
//! Each op has a signature: a name, the accepted element types and the dims of every operand, and the type of every result.
//! A letter in the dims is one dimension, the same wherever it appears; `LEADING` is any number of leading dims.
//! Expressions (`K - 1`, `H * E`) are checked once their letters are known. An op with a state takes `TOKENS` and
//! `SEQUENCES`, the others any rows. Dims are equal when they are the same number or the same symbol.

use crate::op::{MAX_PARTS, Op, Selection, parts};
use crate::tensor::{Symbol, Type};

pub(crate) mod signature;

use signature::dims::{C, CONTEXT, D, E, G, H, I, K, L, L_OF, LEADING, N, N_OF, O, R, SEQUENCES, T, TOKENS, V};
use signature::{Bindings, Kind, Signature, Term};

/// An op that does not accept its operands or attributes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {subject} is {found}, expected {expected}")]
pub struct InferError {
    /// Name of the op.
    pub op: &'static str,
    /// An operand or an attribute by name, or the number of operands.
    pub subject: String,
    pub found: String,
    pub expected: String,
}

/// Types of the op's results.
///
/// # Errors
/// A wrong number of operands; an operand whose element type or dims differ from the op's signature; an attribute out of range.
pub fn infer(op: &Op, operands: &[&Type]) -> Result<Vec<Type>, InferError> {
    let signature = signature(op, operands);
    let fail =
        |subject: String, found: String, expected: String| InferError { op: op.name(), subject, found, expected };

    let expected = signature.operands.len();
    if operands.len() != expected {
        let names: Vec<&str> = signature.operands.iter().map(|operand| operand.name).collect();
        let expected = if names.is_empty() { "none".into() } else { format!("{expected} ({})", names.join(", ")) };
        return Err(fail("number of operands".into(), operands.len().to_string(), expected));
    }

    // Operands with expressions are matched last, when their letters are known.
    let mut bound = Bindings::of(&signature.letters);
    let (late, early): (Vec<_>, Vec<_>) =
        signature.operands.iter().zip(operands).partition(|(operand, _)| operand.dims.iter().any(Term::is_expression));
    for (operand, ty) in early.into_iter().chain(late) {
        if !operand.kind.accepts(ty.dtype) || !bound.unify(&operand.dims, &ty.shape) {
            let expected = format!("{}[{}]", operand.kind, bound.describe(&operand.dims));
            return Err(fail(format!("operand {}", operand.name), ty.to_string(), expected));
        }
    }

    check_attributes(op, &bound).map_err(|(subject, found, expected)| fail(subject.into(), found, expected))?;
    if let Op::Input { ty, .. } | Op::Parameter { ty, .. } | Op::State { ty, .. } = op {
        return Ok(vec![ty.clone()]);
    }
    Ok(signature.results.iter().map(|result| bound.result(result, operands)).collect())
}

/// Names of an op's operands, for diagnostics and drawings: `x`, `weight`, `bias`.
pub fn operand_names(op: &Op, operands: &[&Type]) -> Vec<&'static str> {
    signature(op, operands).operands.iter().map(|operand| operand.name).collect()
}

/// The signature of an op. The given operands matter only to ops with more than one form (`mul` by a row, `linear` with a bias).
pub(crate) fn signature(op: &Op, given: &[&Type]) -> Signature {
    use Kind::{Cache, F32, Float, Index, Matrix};
    let rank = |slot: usize| given.get(slot).map_or(0, |ty| ty.shape.len());
    // Weights after the operands before them.
    let n_weights = |before: usize, least: usize, most: usize| given.len().saturating_sub(before).clamp(least, most);
    let s = Signature::default();
    match *op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } => s,
        Op::Embed => s.takes("ids", Index, [T]).takes("table", Float, [V, D]).gives_f32([T, D]),
        Op::RmsNorm { .. } => s.takes("x", F32, [LEADING, D]).takes("weight", Float, [D]).gives_like(0),
        Op::AddRmsNorm { .. } => s
            .takes("a", F32, [LEADING, D])
            .takes("b", F32, [LEADING, D])
            .takes("weight", Float, [D])
            .gives_like(0)
            .gives_like(0),
        Op::SplitRmsNorm { .. } => {
            let widths = L_OF.into_iter().take(n_weights(1, 2, MAX_PARTS));
            let columns = widths.clone().reduce(|sum, width| sum + width).unwrap_or(L);
            let s = s.takes("x", F32, [T, columns]);
            let s = widths.clone().fold(s, |s, width| s.takes("weight", Float, [width]));
            widths.fold(s, |s, width| s.gives_f32([T, width]))
        }
        Op::Linear { .. } => s
            .takes("x", F32, [R, I])
            .takes("weight", Matrix, [N, I])
            .takes_if(given.len() > 2, "bias", Float, [N])
            .gives_f32([R, N]),
        Op::SplitLinear { ref sizes } => {
            s.takes("x", F32, [R, I]).and(|s| split(s, n_weights(1, 1, sizes.len().clamp(1, MAX_PARTS)), sizes))
        }
        Op::NormSplitLinear { ref sizes, .. } => {
            s.and(|s| normed(s, R)).and(|s| split(s, n_weights(3, 1, sizes.len().clamp(1, MAX_PARTS)), sizes))
        }
        Op::LinearSwiglu => s.takes("x", F32, [R, I]).and(gate_and_up),
        Op::NormLinearSwiglu { .. } => s.and(|s| normed(s, R)).and(gate_and_up),
        Op::NormProjConv { bias, .. } => s
            .and(|s| normed(s, TOKENS))
            .takes("weight", Matrix, [C + C, I])
            .takes("conv_weight", Float, [C, 1.into(), K])
            .takes_if(bias, "conv_bias", Float, [C])
            .takes("state", F32, [SEQUENCES, C, K - 1])
            .gives_f32([TOKENS, C])
            .gives_f32([TOKENS, C])
            .gives_like(if bias { 6 } else { 5 }),
        Op::Slice { len, .. } => s.binds(L, len).takes("x", F32, [LEADING, C]).gives_f32([LEADING, L]),
        Op::Silu | Op::Softplus => s.takes("x", F32, [LEADING]).gives_like(0),
        Op::Mul if rank(1) == 1 && rank(0) > 1 => s.takes("a", F32, [LEADING, C]).takes("b", Float, [C]).gives_like(0),
        Op::Add | Op::Mul => s.takes("a", F32, [LEADING]).takes("b", F32, [LEADING]).gives_like(0),
        Op::Swiglu => s.takes("gate", F32, [LEADING]).takes("up", F32, [LEADING]).gives_like(0),
        Op::CausalConv1d { bias, .. } => s
            .takes("u", F32, [TOKENS, C])
            .takes("weight", Float, [C, 1.into(), K])
            .takes_if(bias, "bias", Float, [C])
            .takes("state", F32, [SEQUENCES, C, K - 1])
            .gives_like(0)
            .gives_like(if bias { 3 } else { 2 }),
        Op::SelectiveScan { selection, gated } => s
            .takes("u", F32, [TOKENS, C])
            .takes("a_log", Float, [C, N])
            .takes("state", F32, [SEQUENCES, C, N])
            .and(|s| selected(s, selection))
            .takes_if(gated, "d", Float, [C])
            .takes_if(gated, "z", F32, [TOKENS, C])
            .gives_like(0)
            .gives_like(2),
        Op::KvAppend => s
            .takes("cache", Cache, [SEQUENCES, CONTEXT, 2.into(), G, E])
            .takes("k", F32, [TOKENS, G * E])
            .takes("v", F32, [TOKENS, G * E])
            .gives_like(0),
        Op::Attention { n_heads, .. } => s
            .binds(H, n_heads)
            .takes("q", F32, [TOKENS, H * E])
            .takes("cache", Cache, [SEQUENCES, CONTEXT, 2.into(), G, E])
            .gives_like(0),
        Op::AppendAttention { n_heads, .. } => s
            .binds(H, n_heads)
            .takes("q", F32, [TOKENS, H * E])
            .takes("k", F32, [TOKENS, G * E])
            .takes("v", F32, [TOKENS, G * E])
            .takes("cache", Cache, [SEQUENCES, CONTEXT, 2.into(), G, E])
            .gives_like(0)
            .gives_like(3),
        Op::Softmax => s.takes("x", F32, [T, E]).gives_like(0),
        Op::TopK { k } => s.binds(K, k).takes("p", F32, [T, E]).gives_f32([T, K]).gives_i32([T, K]),
        Op::MoePermute { n_experts } => {
            s.binds(E, n_experts).takes("experts", Index, [T, K]).gives_i32([T, K]).gives_i32([E + 1])
        }
        Op::MoeRoute { k } => {
            s.binds(K, k).takes("logits", F32, [T, E]).gives_f32([T, K]).gives_i32([T, K]).gives_i32([E + 1])
        }
        Op::GroupedLinear => {
            s.and(|s| grouped_rows(s, rank(0))).takes("weight", Matrix, [E, N, I]).and(permuted).gives_f32([T, K, N])
        }
        Op::GroupedSwiglu => s
            .and(|s| grouped_rows(s, rank(0)))
            .takes("gate", Matrix, [E, N, I])
            .takes("up", Matrix, [E, N, I])
            .and(permuted)
            .gives_f32([T, K, N]),
        Op::GroupedCombine => s
            .takes("h", F32, [T, K, I])
            .takes("weight", Matrix, [E, N, I])
            .takes("weights", F32, [T, K])
            .and(permuted)
            .gives_f32([T, N]),
        Op::MoeCombine => s.takes("y", F32, [T, K, D]).takes("weights", F32, [T, K]).gives_f32([T, D]),
        Op::SelectRows => s.takes("x", F32, [T, D]).takes("rows", Index, [O]).gives_f32([O, D]),
    }
}

/// The operands of a sum and its norm, and the sum.
fn normed(s: Signature, rows: Term) -> Signature {
    let s = s.takes("a", Kind::F32, [rows.clone(), I]).takes("b", Kind::F32, [rows, I]);
    s.takes("norm", Kind::Float, [I]).gives_like(0)
}

/// `n_weights` weights, and a result of each size.
fn split(s: Signature, n_weights: usize, sizes: &[usize]) -> Signature {
    let rows = N_OF.into_iter().take(n_weights);
    let s = rows.fold(s, |s, rows| s.takes("weight", Kind::Matrix, [rows, I]));
    let columns = sizes.iter().zip(L_OF);
    columns.fold(s, |s, (&size, columns)| s.binds(columns.clone(), size).gives_f32([R, columns]))
}

/// Two weights, and their swiglu.
fn gate_and_up(s: Signature) -> Signature {
    s.takes("gate", Kind::Matrix, [N, I]).takes("up", Kind::Matrix, [N, I]).gives_f32([R, N])
}

/// The operands of a scan that give Δ, B and C.
fn selected(s: Signature, selection: Selection) -> Signature {
    use Kind::{F32, Float, Matrix};
    let projection = |s: Signature| s.takes("dt_weight", Matrix, [C, R]).takes("dt_bias", Float, [C]);
    let given = |columns| {
        move |s: Signature| {
            s.takes("dt", F32, [TOKENS, columns]).takes("b", F32, [TOKENS, N]).takes("c", F32, [TOKENS, N])
        }
    };
    match selection {
        Selection::Given => s.and(given(C)),
        Selection::Projected => s.and(given(R)).and(projection),
        Selection::Normed { .. } => s
            .takes("x", F32, [TOKENS, R + N + N])
            .takes("dt_norm", Float, [R])
            .takes("b_norm", Float, [N])
            .takes("c_norm", Float, [N])
            .and(projection),
    }
}

/// Rows that experts multiply: a row per token, or a row per token and expert.
fn grouped_rows(s: Signature, rank: usize) -> Signature {
    if rank == 3 { s.takes("x", Kind::F32, [T, K, I]) } else { s.takes("x", Kind::F32, [T, I]) }
}

/// The results of `moe_permute` as operands.
fn permuted(s: Signature) -> Signature {
    s.takes("slots", Kind::Index, [T, K]).takes("offsets", Kind::Index, [E + 1])
}

/// Checks attributes against the operands; (subject, found, expected) of the first that is out of range.
fn check_attributes(op: &Op, bound: &Bindings) -> Result<(), (&'static str, String, String)> {
    match *op {
        Op::Parameter { ref ty, .. } if ty.elements().is_none() => {
            Err(("type", ty.to_string(), "fixed dims only".into()))
        }
        Op::State { ref ty, .. }
            if !Kind::Cache.accepts(ty.dtype) || ty.shape.first() != Some(&Symbol::Sequences.into()) =>
        {
            Err(("type", ty.to_string(), format!("{}[sequences, …]", Kind::Cache)))
        }
        Op::Slice { start, len } => match bound.fixed(&C) {
            Some(columns) if len > 0 && start.checked_add(len).is_some_and(|end| end <= columns) => Ok(()),
            Some(columns) => {
                Err(("start, len", format!("{start}, {len}"), format!("at least 1 column of the {columns} of x")))
            }
            None => Err(("operand x", "symbolic in its last dim".into(), "a fixed number of columns".into())),
        },
        Op::SplitLinear { ref sizes } | Op::NormSplitLinear { ref sizes, .. }
            if !(1..=MAX_PARTS).contains(&sizes.len()) =>
        {
            Err(("sizes", format!("{sizes:?}"), format!("1 … {MAX_PARTS} numbers")))
        }
        Op::SplitLinear { ref sizes } | Op::NormSplitLinear { ref sizes, .. } => {
            let rows: Vec<usize> = N_OF.iter().map_while(|rows| bound.fixed(rows)).collect();
            match parts(sizes, &rows) {
                Some(_) => Ok(()),
                None => Err(("sizes", format!("{sizes:?}"), format!("parts of weights of {rows:?} rows"))),
            }
        }
        Op::TopK { k } | Op::MoeRoute { k } => match bound.fixed(&E) {
            Some(n_experts) if (1..=n_experts).contains(&k) => Ok(()),
            n_experts => Err(("k", k.to_string(), format!("1 … {}", n_experts.unwrap_or(0)))),
        },
        Op::Attention { n_heads, .. } | Op::AppendAttention { n_heads, .. } => match bound.fixed(&G) {
            Some(n_kv_heads) if n_kv_heads > 0 && n_heads > 0 && n_heads % n_kv_heads == 0 => Ok(()),
            n_kv_heads => Err((
                "n_heads",
                n_heads.to_string(),
                format!("a multiple of the cache's {} KV heads", n_kv_heads.unwrap_or(0)),
            )),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Types of an op's results from the types of its operands.
//!
//! Each op has a signature: a kind and dims for every operand and result, the table of [`op`](mod@crate::op) as data. A letter
//! in the dims stands for one dimension and is the same dimension wherever it appears; `…` stands for any leading dims; `K-1`,
//! `E+1`, `H*E` and `R+N+N` are checked once their letters are known. An op with a state takes `tokens` and `sequences`, the others any rows. Dims are the same when they are the same number or the same symbol.

use std::collections::BTreeMap;
use std::fmt;

use crate::op::{MAX_PARTS, Op, Selection, parts};
use crate::tensor::{DType, Dim, Symbol, Type};

/// An op that does not accept its operands or attributes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {subject} is {found}, expected {expected}")]
pub struct InferError {
    /// Name of the op.
    pub op: &'static str,
    /// What is wrong: an operand or an attribute by name, or the number of operands.
    pub subject: String,
    /// What it is.
    pub found: String,
    /// What it has to be.
    pub expected: String,
}

/// Types of the op's results, or what keeps it from having any.
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
    let mut bound = Bindings::of_attributes(op);
    let (late, early): (Vec<_>, Vec<_>) =
        signature.operands.iter().zip(operands).partition(|(operand, _)| operand.dims.contains(['*', '-', '+']));
    for (operand, ty) in early.into_iter().chain(late) {
        if !operand.kind.accepts(ty.dtype) || !bound.unify(operand.dims, &ty.shape) {
            let expected = format!("{}[{}]", operand.kind, bound.describe(operand.dims));
            return Err(fail(format!("operand {}", operand.name), ty.to_string(), expected));
        }
    }

    check_attributes(op, &bound).map_err(|(subject, found, expected)| fail(subject.into(), found, expected))?;
    if let Op::Input { ty, .. } | Op::Parameter { ty, .. } | Op::State { ty, .. } = op {
        return Ok(vec![ty.clone()]);
    }
    Ok(signature
        .results
        .iter()
        .map(|result| match *result {
            Out::Like(slot) => operands[slot].clone(),
            Out::New(dtype, dims) => Type { dtype, shape: bound.shape(dims) },
        })
        .collect())
}

/// Names of an op's operands, for diagnostics and drawings: `x`, `weight`, `bias`.
pub fn operand_names(op: &Op, operands: &[&Type]) -> Vec<&'static str> {
    signature(op, operands).operands.iter().map(|operand| operand.name).collect()
}

struct Signature {
    operands: Vec<Operand>,
    results: Vec<Out>,
}

struct Operand {
    name: &'static str,
    kind: Kind,
    dims: &'static str,
}

/// A result: of the type of an operand, or of its own.
enum Out {
    Like(usize),
    New(DType, &'static str),
}

/// The element types an operand may have.
#[derive(Clone, Copy)]
enum Kind {
    /// f32: an activation or a recurrent state.
    F32,
    /// Any floating-point type: a parameter as the checkpoint stores it.
    Float,
    /// The same of a linear's weight, which may be of integers too.
    Matrix,
    /// f32 or bf16: keys and values.
    Cache,
    /// i32: ids and indices.
    Index,
}

impl Kind {
    fn accepts(self, dtype: DType) -> bool {
        match self {
            Kind::F32 => dtype == DType::F32,
            Kind::Float => matches!(dtype, DType::F32 | DType::Bf16 | DType::F16),
            Kind::Matrix => dtype == DType::I8 || Kind::Float.accepts(dtype),
            Kind::Cache => matches!(dtype, DType::F32 | DType::Bf16),
            Kind::Index => dtype == DType::I32,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::F32 => "f32",
            Kind::Float => "f32|bf16|f16",
            Kind::Matrix => "f32|bf16|f16|i8",
            Kind::Cache => "f32|bf16",
            Kind::Index => "i32",
        })
    }
}

/// Dims of the weights of a `split_linear`.
const SPLIT_WEIGHTS: [&str; MAX_PARTS] = ["N0 I", "N1 I", "N2 I", "N3 I"];
/// Dims of the results of a `split_linear`.
const SPLIT_RESULTS: [&str; MAX_PARTS] = ["R L0", "R L1", "R L2", "R L3"];

/// Rows of a `split_rms_norm` of two parts and more.
const NORMED_ROWS: [&str; MAX_PARTS - 1] = ["T L0+L1", "T L0+L1+L2", "T L0+L1+L2+L3"];
/// Weights of a `split_rms_norm`.
const NORMED_WEIGHTS: [&str; MAX_PARTS] = ["L0", "L1", "L2", "L3"];
/// Results of a `split_rms_norm`.
const NORMED_RESULTS: [&str; MAX_PARTS] = ["T L0", "T L1", "T L2", "T L3"];

/// The op's signature; the operands are looked at only where an op has two (`mul` by a row, `linear` with a bias).
fn signature(op: &Op, given: &[&Type]) -> Signature {
    use Kind::{Cache, F32, Float, Index, Matrix};
    use Out::{Like, New};
    let rank = |slot: usize| given.get(slot).map_or(0, |ty| ty.shape.len());
    let f32 = |dims| New(DType::F32, dims);
    let i32 = |dims| New(DType::I32, dims);
    let permuted = [("slots", Index, "T K"), ("offsets", Index, "E+1")];
    let grouped_x = |rank| ("x", F32, if rank == 3 { "T K I" } else { "T I" });
    let (operands, results): (Vec<(&str, Kind, &str)>, Vec<Out>) = match op {
        Op::Input { .. } | Op::Parameter { .. } | Op::State { .. } => (vec![], vec![]),
        Op::Embed => (vec![("ids", Index, "T"), ("table", Float, "V D")], vec![f32("T D")]),
        Op::RmsNorm { .. } => (vec![("x", F32, "… D"), ("weight", Float, "D")], vec![Like(0)]),
        Op::AddRmsNorm { .. } => {
            (vec![("a", F32, "… D"), ("b", F32, "… D"), ("weight", Float, "D")], vec![Like(0), Like(0)])
        }
        Op::SplitRmsNorm { .. } => {
            let n_parts = given.len().saturating_sub(1).clamp(2, MAX_PARTS);
            let weights = NORMED_WEIGHTS[..n_parts].iter().map(|&dims| ("weight", Float, dims));
            let operands = [("x", F32, NORMED_ROWS[n_parts - 2])].into_iter().chain(weights).collect();
            (operands, NORMED_RESULTS[..n_parts].iter().map(|&dims| f32(dims)).collect())
        }
        Op::Linear { .. } => {
            let mut operands = vec![("x", F32, "R I"), ("weight", Matrix, "N I")];
            if given.len() > 2 {
                operands.push(("bias", Float, "N"));
            }
            (operands, vec![f32("R N")])
        }
        Op::SplitLinear { sizes } => {
            let n_weights = given.len().saturating_sub(1).clamp(1, sizes.len().clamp(1, MAX_PARTS));
            let weights = SPLIT_WEIGHTS[..n_weights].iter().map(|&dims| ("weight", Matrix, dims));
            let operands = [("x", F32, "R I")].into_iter().chain(weights).collect();
            (operands, sizes.iter().zip(SPLIT_RESULTS).map(|(_, dims)| f32(dims)).collect())
        }
        Op::LinearSwiglu => (vec![("x", F32, "R I"), ("gate", Matrix, "N I"), ("up", Matrix, "N I")], vec![f32("R N")]),
        Op::Slice { .. } => (vec![("x", F32, "… C")], vec![f32("… L")]),
        Op::Silu | Op::Softplus => (vec![("x", F32, "…")], vec![Like(0)]),
        Op::Add => (vec![("a", F32, "…"), ("b", F32, "…")], vec![Like(0)]),
        Op::Mul if rank(1) == 1 && rank(0) > 1 => (vec![("a", F32, "… C"), ("b", Float, "C")], vec![Like(0)]),
        Op::Mul => (vec![("a", F32, "…"), ("b", F32, "…")], vec![Like(0)]),
        Op::Swiglu => (vec![("gate", F32, "…"), ("up", F32, "…")], vec![Like(0)]),
        Op::CausalConv1d { bias, .. } => {
            let mut operands = vec![("u", F32, "tokens C"), ("weight", Float, "C 1 K")];
            if *bias {
                operands.push(("bias", Float, "C"));
            }
            operands.push(("state", F32, "sequences C K-1"));
            let state = operands.len() - 1;
            (operands, vec![Like(0), Like(state)])
        }
        Op::SelectiveScan { selection, gated } => {
            let mut operands = vec![("u", F32, "tokens C"), ("a_log", Float, "C N"), ("state", F32, "sequences C N")];
            operands.extend(selected(*selection));
            if *gated {
                operands.extend([("d", Float, "C"), ("z", F32, "tokens C")]);
            }
            (operands, vec![Like(0), Like(2)])
        }
        Op::KvAppend => (
            vec![("cache", Cache, "sequences context 2 G E"), ("k", F32, "tokens G*E"), ("v", F32, "tokens G*E")],
            vec![Like(0)],
        ),
        Op::Attention { .. } => {
            (vec![("q", F32, "tokens H*E"), ("cache", Cache, "sequences context 2 G E")], vec![Like(0)])
        }
        Op::AppendAttention { .. } => (
            vec![
                ("q", F32, "tokens H*E"),
                ("k", F32, "tokens G*E"),
                ("v", F32, "tokens G*E"),
                ("cache", Cache, "sequences context 2 G E"),
            ],
            vec![Like(0), Like(3)],
        ),
        Op::Softmax => (vec![("x", F32, "T E")], vec![Like(0)]),
        Op::TopK { .. } => (vec![("p", F32, "T E")], vec![f32("T K"), i32("T K")]),
        Op::MoePermute { .. } => (vec![("experts", Index, "T K")], vec![i32("T K"), i32("E+1")]),
        Op::MoeRoute { .. } => (vec![("logits", F32, "T E")], vec![f32("T K"), i32("T K"), i32("E+1")]),
        Op::GroupedLinear => {
            let weight = [grouped_x(rank(0)), ("weight", Matrix, "E N I")];
            (weight.into_iter().chain(permuted).collect(), vec![f32("T K N")])
        }
        Op::GroupedSwiglu => {
            let weights = [grouped_x(rank(0)), ("gate", Matrix, "E N I"), ("up", Matrix, "E N I")];
            (weights.into_iter().chain(permuted).collect(), vec![f32("T K N")])
        }
        Op::GroupedCombine => {
            let weighted = [("h", F32, "T K I"), ("weight", Matrix, "E N I"), ("weights", F32, "T K")];
            (weighted.into_iter().chain(permuted).collect(), vec![f32("T N")])
        }
        Op::MoeCombine => (vec![("y", F32, "T K D"), ("weights", F32, "T K")], vec![f32("T D")]),
        Op::SelectRows => (vec![("x", F32, "T D"), ("rows", Index, "O")], vec![f32("O D")]),
    };
    let operands = operands.into_iter().map(|(name, kind, dims)| Operand { name, kind, dims }).collect();
    Signature { operands, results }
}

/// The operands of a scan's selection.
fn selected(selection: Selection) -> Vec<(&'static str, Kind, &'static str)> {
    use Kind::{F32, Float, Matrix};
    let projection = [("dt_weight", Matrix, "C R"), ("dt_bias", Float, "C")];
    let (b, c) = (("b", F32, "tokens N"), ("c", F32, "tokens N"));
    match selection {
        Selection::Given => vec![("dt", F32, "tokens C"), b, c],
        Selection::Projected => [[("dt", F32, "tokens R"), b, c].as_slice(), &projection].concat(),
        Selection::Normed { .. } => {
            let norms = [("dt_norm", Float, "R"), ("b_norm", Float, "N"), ("c_norm", Float, "N")];
            [[("x", F32, "tokens R+N+N")].as_slice(), &norms, &projection].concat()
        }
    }
}

/// What attributes must satisfy besides the shapes; (subject, found, expected) of the first that does not.
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
        Op::Slice { start, len } => match bound.fixed("C") {
            Some(columns) if len > 0 && start.checked_add(len).is_some_and(|end| end <= columns) => Ok(()),
            Some(columns) => {
                Err(("start, len", format!("{start}, {len}"), format!("at least 1 column of the {columns} of x")))
            }
            None => Err(("operand x", "symbolic in its last dim".into(), "a fixed number of columns".into())),
        },
        Op::SplitLinear { ref sizes } if !(1..=MAX_PARTS).contains(&sizes.len()) => {
            Err(("sizes", format!("{sizes:?}"), format!("1 … {MAX_PARTS} numbers")))
        }
        Op::SplitLinear { ref sizes } => {
            let rows: Vec<usize> = ["N0", "N1", "N2", "N3"].into_iter().map_while(|n| bound.fixed(n)).collect();
            match parts(sizes, &rows) {
                Some(_) => Ok(()),
                None => Err(("sizes", format!("{sizes:?}"), format!("parts of weights of {rows:?} rows"))),
            }
        }
        Op::TopK { k } | Op::MoeRoute { k } => match bound.fixed("E") {
            Some(n_experts) if (1..=n_experts).contains(&k) => Ok(()),
            n_experts => Err(("k", k.to_string(), format!("1 … {}", n_experts.unwrap_or(0)))),
        },
        Op::Attention { n_heads, .. } | Op::AppendAttention { n_heads, .. } => match bound.fixed("G") {
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

/// What each letter stands for, and the dims of `…`.
#[derive(Default)]
struct Bindings {
    letters: BTreeMap<String, Dim>,
    leading: Option<Vec<Dim>>,
}

impl Bindings {
    /// Letters that attributes give.
    fn of_attributes(op: &Op) -> Bindings {
        let mut bound = Bindings::default();
        let letters: Vec<(&str, usize)> = match op {
            Op::Slice { len, .. } => vec![("L", *len)],
            Op::SplitLinear { sizes } => ["L0", "L1", "L2", "L3"].into_iter().zip(sizes.iter().copied()).collect(),
            Op::TopK { k } | Op::MoeRoute { k } => vec![("K", *k)],
            Op::MoePermute { n_experts } => vec![("E", *n_experts)],
            Op::Attention { n_heads, .. } | Op::AppendAttention { n_heads, .. } => vec![("H", *n_heads)],
            _ => vec![],
        };
        bound.letters.extend(letters.into_iter().map(|(name, n)| (name.to_string(), Dim::Fixed(n))));
        bound
    }

    fn fixed(&self, letter: &str) -> Option<usize> {
        self.letters.get(letter).and_then(|dim| dim.fixed())
    }

    /// The value of a number, a symbol, a letter or an expression, where it is known.
    fn eval(&self, term: &str) -> Option<Dim> {
        if let Ok(n) = term.parse::<usize>() {
            return Some(Dim::Fixed(n));
        }
        if let Some(symbol) = Symbol::ALL.into_iter().find(|symbol| symbol.name() == term) {
            return Some(Dim::Symbol(symbol));
        }
        if let Some((a, b)) = term.split_once('*') {
            return Some(Dim::Fixed(self.fixed(a)?.checked_mul(self.fixed(b)?)?));
        }
        if let Some((a, n)) = term.split_once('-') {
            return Some(Dim::Fixed(self.fixed(a)?.checked_sub(n.parse().ok()?)?));
        }
        if let Some((a, rest)) = term.split_once('+') {
            return Some(Dim::Fixed(self.fixed(a)?.checked_add(self.eval(rest)?.fixed()?)?));
        }
        self.letters.get(term).copied()
    }

    /// Makes the pattern equal to the dims; false when it cannot be.
    fn unify(&mut self, pattern: &'static str, dims: &[Dim]) -> bool {
        let mut terms: Vec<&str> = pattern.split_whitespace().collect();
        let mut dims = dims;
        if terms.first() == Some(&"…") {
            terms.remove(0);
            let Some(n_leading) = dims.len().checked_sub(terms.len()) else { return false };
            let (leading, rest) = dims.split_at(n_leading);
            if *self.leading.get_or_insert_with(|| leading.to_vec()) != leading {
                return false;
            }
            dims = rest;
        }
        if terms.len() != dims.len() {
            return false;
        }
        terms.iter().zip(dims).all(|(term, &dim)| match self.eval(term) {
            Some(known) => known == dim,
            None if term.chars().all(char::is_alphanumeric) => {
                self.letters.insert(term.to_string(), dim);
                true
            }
            None => false,
        })
    }

    /// The pattern with everything known filled in: `tokens, 8`.
    fn describe(&self, pattern: &str) -> String {
        let mut described = Vec::new();
        for term in pattern.split_whitespace() {
            match (&self.leading, self.eval(term)) {
                (Some(leading), _) if term == "…" => described.extend(leading.iter().map(Dim::to_string)),
                (_, Some(dim)) => described.push(dim.to_string()),
                (_, None) => described.push(term.to_string()),
            }
        }
        described.join(", ")
    }

    /// The dims of a result; everything in it is known once the operands are accepted.
    fn shape(&self, pattern: &str) -> Vec<Dim> {
        pattern
            .split_whitespace()
            .flat_map(|term| match term {
                "…" => self.leading.clone().unwrap_or_default(),
                _ => self.eval(term).into_iter().collect(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;

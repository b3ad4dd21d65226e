//! Elementwise arithmetic on whole rows.
//!
//! Bound by memory: each operand read once, the result written once.

use jamba_plan::format::TargetKind;
use jambac_graph::Op;

use crate::cases::{Case, case};
use crate::cpu::operand::{read, vector};
use crate::kernel::{Amount, Config, Cost, Cpu, Elem, Launch, Lowering, Operand, Param, Per, Rows, cpu_body, padded};
use crate::node::{Node, Reads, RowsOrder, Select, SelectError, Selected};

#[cfg(feature = "emit")]
pub(crate) mod cpu;
mod hopper;

/// The function of a (and b).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Function {
    /// a / (1 + exp(−a)).
    Silu,
    /// log(1 + exp(a)).
    Softplus,
    /// a + b.
    Add,
    /// a · b.
    Mul,
    /// a · b, where b is one row shared by all rows of a.
    MulRow,
    /// silu(a) · b.
    Swiglu,
}

impl Function {
    /// The name in symbols.
    pub fn name(self) -> &'static str {
        match self {
            Function::Silu => "silu",
            Function::Softplus => "softplus",
            Function::Add => "add",
            Function::Mul => "mul",
            Function::MulRow => "mul_row",
            Function::Swiglu => "swiglu",
        }
    }
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub function: Function,
    pub cols: usize,
    /// Type of the first operand: f32, or bf16 on Hopper.
    pub a: Elem,
    /// Type of the second operand, if any; f32 for a single row.
    pub b: Option<Elem>,
    /// Type of the result: f32, or bf16 on Hopper.
    pub out: Elem,
}

impl Select for Spec {
    fn select(node: &Node) -> Result<Selected, SelectError> {
        let function = match node.op() {
            Op::Silu => Function::Silu,
            Op::Softplus => Function::Softplus,
            Op::Add => Function::Add,
            Op::Mul if node.operand(1).shape.len() < node.operand(0).shape.len() => Function::MulRow,
            Op::Mul => Function::Mul,
            Op::Swiglu => Function::Swiglu,
            _ => return Err(node.other_op()),
        };
        if node.target() == TargetKind::Sm90a {
            node.same_slots(None)?;
        }
        let b = match function {
            Function::Silu | Function::Softplus => None,
            Function::Add | Function::Mul | Function::Swiglu => Some(node.stored_operand(1)?),
            Function::MulRow => Some(Elem::F32),
        };
        let (a, out) = (node.stored_operand(0)?, node.stored_result(0)?);
        Ok(Selected::new(Spec { function, cols: node.result_cols(0)?, a, b, out }, node.rows()?))
    }

    fn reads(_: &Op, _: usize, _: usize) -> Reads {
        Reads::Any
    }

    const ROWS_ORDER: RowsOrder = RowsOrder::LikeOperand(0);

    fn cases() -> Vec<Case> {
        use Function::{Add, Mul, MulRow, Silu, Softplus, Swiglu};
        let base = Spec::in_f32(Silu, 72);
        let mut cases = vec![case(base.clone(), 13)];
        cases.extend([0, 1, 2].map(|n_rows| case(base.clone(), n_rows)));
        cases.extend([5, 100].map(|cols| case(Spec { cols, ..base.clone() }, 13)));
        cases.push(Case { rows: Rows { per: 2, ..Rows::TOKENS }, ..case(base, 13) });
        let functions = [Softplus, Add, Mul, MulRow, Swiglu];
        cases.extend(functions.map(|function| case(Spec::in_f32(function, 72), 13)));
        let swiglu = Spec::in_f32(Swiglu, 8192);
        cases.extend([1, 512].map(|n_rows| case(swiglu.clone(), n_rows)));
        // Operands and results of either type.
        let (f32, bf16) = (Elem::F32, Elem::Bf16);
        let types = [(f32, f32, f32), (bf16, bf16, bf16), (bf16, f32, f32), (f32, bf16, bf16)];
        let functions = [Silu, Softplus, Add, Mul, MulRow, Swiglu];
        for (cols, function) in
            [1, 30, 200, 4096].into_iter().flat_map(|cols| functions.map(|function| (cols, function)))
        {
            cases.extend(types.map(|(a, b, out)| {
                let b = match function {
                    Silu | Softplus => None,
                    MulRow => Some(f32),
                    _ => Some(b),
                };
                case(Spec { function, cols, a, b, out }, 4)
            }));
        }
        cases
    }
}

impl Lowering<Cpu> for Spec {
    fn lower(&self, _: Config) -> Vec<Launch> {
        let &Spec { function, cols, b, .. } = self;
        let mut operands = vec![read("a", cols, 0)];
        operands.extend(b.map(|_| match function {
            Function::MulRow => vector("b", cols, 1),
            _ => read("b", cols, 1),
        }));
        let out = Param::write_over("out", Elem::F32, &[padded(cols)]);
        operands.extend([Operand::output(out, 0), Operand::scalar("rows", Per::Row)]);
        vec![Launch {
            op: "elementwise",
            symbol: format!("{}_d{cols}", function.name()),
            operands,
            cost: self.cost(),
            grid: None,
            body: cpu_body!(self, cpu::emit),
        }]
    }
}

impl Spec {
    /// The spec of a function with all types f32.
    pub fn in_f32(function: Function, cols: usize) -> Spec {
        let b = match function {
            Function::Silu | Function::Softplus => None,
            Function::Add | Function::Mul | Function::MulRow | Function::Swiglu => Some(Elem::F32),
        };
        Spec { function, cols, a: Elem::F32, b, out: Elem::F32 }
    }

    /// Operations per column.
    fn operations(&self) -> f64 {
        match self.function {
            Function::Silu => 4.0,
            Function::Softplus => 8.0,
            Function::Add | Function::Mul | Function::MulRow => 1.0,
            Function::Swiglu => 5.0,
        }
    }

    /// Bytes per column: the operands that have one row per row of the result, and the result.
    fn bytes(&self) -> f64 {
        let second = self.b.filter(|_| self.function != Function::MulRow);
        [Some(self.a), second, Some(self.out)].into_iter().flatten().map(Elem::bytes).sum::<usize>() as f64
    }

    fn cost(&self) -> Cost {
        let cols = self.cols as f64;
        Cost { bytes: Amount::per_row(cols * self.bytes()), operations: Amount::per_row(cols * self.operations()) }
    }
}

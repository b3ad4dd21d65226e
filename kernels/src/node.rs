//! A node of the layer graph as kernels see it: its op, the types around it, and what the target stores them as.

use jamba_plan::format::{Count, Elem, TargetKind, WeightFormat};
use jambac_graph::infer::operand_names;
use jambac_graph::{DType, Dim, Graph, NodeId, Op, Symbol, Type, ValueId};

use crate::cases::Case;
use crate::catalog::{self, AnySpec};
use crate::cost::Rows;

/// A kernel for a node, and the rows that it works on.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// What the kernel computes.
    pub spec: AnySpec,
    /// Rows of the step.
    pub rows: Rows,
}

impl Selected {
    /// A spec and its rows.
    pub fn new(spec: impl Into<AnySpec>, rows: Rows) -> Selected {
        Selected { spec: spec.into(), rows }
    }
}

/// How a folder makes a spec of a node, and what its kernels read.
pub trait Select: Sized {
    /// The spec for a node whose op the catalog maps to this folder.
    ///
    /// # Errors
    /// Types or operands that no kernel of the folder takes.
    fn select(node: &Node) -> Result<Selected, SelectError>;

    /// What targets that keep activations in bf16 read an operand as.
    fn reads(_op: &Op, _operand: usize, _n_operands: usize) -> Reads {
        Reads::As(Elem::F32)
    }

    /// True when the target has a body for this op with these attributes.
    fn has_body(_op: &Op, _target: TargetKind) -> bool {
        true
    }

    /// The shapes that tests compare with the reference and benchmarks time.
    fn cases() -> Vec<Case>;

    /// The order of the rows of the op's first result.
    const ROWS_ORDER: RowsOrder = RowsOrder::Tokens;
}

/// What a kernel reads an operand as, on a target that stores activations in more than one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// This type only.
    As(Elem),
    /// f32 or bf16, whatever the value is stored as.
    Any,
    /// The type that its first result is stored as.
    LikeResult,
}

/// Why a node has no kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectError {
    /// What was found and what was expected.
    Unsupported(String),
    /// A weight format that a parameter cannot have.
    Format {
        /// Canonical name.
        parameter: String,
        /// The format asked for.
        found: WeightFormat,
        /// The formats that the parameter can have, and why.
        expected: String,
    },
}

/// What parameters are used for; decides which format option applies to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Weight of a linear.
    Linear,
    /// Weight of the projection to Δ inside a scan: a floating-point format always.
    StepSize,
    /// Weights of experts.
    Experts,
    /// Embedding table.
    Embedding,
}

/// What the compiler has decided about values and parameters.
pub trait Decisions {
    /// The kind of target.
    fn target(&self) -> TargetKind;

    /// The element type of a value's buffer.
    ///
    /// # Errors
    /// Readers that disagree.
    fn stored(&self, graph: &Graph, value: ValueId) -> Result<Elem, SelectError>;

    /// The stored format of a parameter.
    ///
    /// # Errors
    /// A format option that the parameter cannot have.
    fn format(&self, parameter: &str, dtype: DType, use_: Use) -> Result<WeightFormat, SelectError>;

    /// True when an embedding table is stored once, as the weight of a linear.
    ///
    /// # Errors
    /// As [`Decisions::format`].
    fn is_tied(&self, parameter: &str, dtype: DType) -> Result<bool, SelectError>;
}

/// A node, and what the compiler has decided about the values and parameters around it.
pub struct Node<'a> {
    pub graph: &'a Graph,
    /// The node.
    pub id: NodeId,
    pub operands: Vec<ValueId>,
    decisions: &'a dyn Decisions,
}

impl<'a> Node<'a> {
    /// A node of a verified graph.
    pub fn new(graph: &'a Graph, id: NodeId, decisions: &'a dyn Decisions) -> Node<'a> {
        Node { graph, id, operands: graph.operands(id), decisions }
    }

    /// Its op and attributes.
    pub fn op(&self) -> &'a Op {
        self.graph.op(self.id)
    }

    /// The kind of target that a kernel is selected for.
    pub fn target(&self) -> TargetKind {
        self.decisions.target()
    }

    /// The type of an operand.
    pub fn operand(&self, operand: usize) -> &'a Type {
        self.graph.ty(self.operands[operand])
    }

    /// The type of a result.
    pub fn result(&self, result: usize) -> &'a Type {
        &self.graph.node(self.id).results[result]
    }

    /// A refusal of the node.
    pub fn fail(&self, reason: impl Into<String>) -> SelectError {
        SelectError::Unsupported(reason.into())
    }

    /// A refusal of an op that the catalog maps to a folder without a kernel for it.
    pub fn other_op(&self) -> SelectError {
        self.fail(format!("no kernel computes {}", self.op().name()))
    }

    /// A refusal of an operand: its name, what it is, and what was expected.
    pub fn fail_operand(&self, operand: usize, expected: &str) -> SelectError {
        let types: Vec<&Type> = self.operands.iter().map(|&value| self.graph.ty(value)).collect();
        let name = operand_names(self.op(), &types)[operand];
        let op = self.graph.op(self.operands[operand].node);
        let found = match op.source_name() {
            Some(source) => format!("{} {source}", op.name()),
            None => format!("a result of {}", op.name()),
        };
        self.fail(format!("operand {name} is {found}, expected {expected}"))
    }

    /// The parameter that an operand is: name and type.
    pub fn parameter(&self, operand: usize) -> Result<(&'a str, &'a Type), SelectError> {
        match self.graph.op(self.operands[operand].node) {
            Op::Parameter { name, ty } => Ok((name, ty)),
            _ => Err(self.fail_operand(operand, "a parameter")),
        }
    }

    /// The element type in which a parameter is stored.
    pub fn format(&self, operand: usize, use_: Use) -> Result<Elem, SelectError> {
        let (name, ty) = self.parameter(operand)?;
        self.decisions.format(name, ty.dtype, use_).map(Elem::from)
    }

    /// True when the table that an operand is is stored as the weight of a linear.
    pub fn is_tied(&self, operand: usize) -> Result<bool, SelectError> {
        let (name, ty) = self.parameter(operand)?;
        self.decisions.is_tied(name, ty.dtype)
    }

    /// The element type of the buffer of an operand that an earlier step computes.
    pub fn stored_operand(&self, operand: usize) -> Result<Elem, SelectError> {
        if self.graph.op(self.operands[operand].node).is_source() {
            return Err(self.fail_operand(operand, "the result of a step"));
        }
        self.decisions.stored(self.graph, self.operands[operand])
    }

    /// The element type of a result's buffer.
    pub fn stored_result(&self, result: usize) -> Result<Elem, SelectError> {
        self.decisions.stored(self.graph, ValueId { node: self.id, result })
    }

    /// A dimension of fixed size.
    pub fn dim(&self, ty: &Type, dim: usize) -> Result<usize, SelectError> {
        let size = ty.shape.get(dim).and_then(|dim| dim.fixed());
        size.ok_or_else(|| self.fail(format!("dimension {dim} of {ty} is not fixed")))
    }

    /// The last dimension of an operand.
    pub fn operand_cols(&self, operand: usize) -> Result<usize, SelectError> {
        let ty = self.operand(operand);
        self.dim(ty, ty.shape.len().saturating_sub(1))
    }

    /// The last dimension of a result.
    pub fn result_cols(&self, result: usize) -> Result<usize, SelectError> {
        let ty = self.result(result);
        self.dim(ty, ty.shape.len().saturating_sub(1))
    }

    /// The rows of the first result: one, or a fixed number, for each token or wanted output.
    pub fn rows(&self) -> Result<Rows, SelectError> {
        let ty = self.result(0);
        let count = |symbol: Symbol| match symbol {
            Symbol::Tokens => Some(Count::Tokens),
            Symbol::Outputs => Some(Count::Outputs),
            _ => None,
        };
        let (count, per) = match ty.shape[..] {
            [Dim::Symbol(symbol), _] => (count(symbol), 1),
            [Dim::Symbol(symbol), Dim::Fixed(per), _] => (count(symbol), per),
            _ => (None, 1),
        };
        let count = count.ok_or_else(|| self.fail(format!("result is {ty}, expected rows per token or output")))?;
        let per = u32::try_from(per).map_err(|_| self.fail(format!("{per} rows per token is too many")))?;
        Ok(Rows { count, per })
    }

    /// The rows of the first result without the factor: tokens or wanted outputs.
    pub fn tokens_or_outputs(&self) -> Result<Rows, SelectError> {
        Ok(Rows { per: 1, ..self.rows()? })
    }

    /// One row per token, which an operand has.
    pub fn tokens(&self, operand: usize) -> Result<Rows, SelectError> {
        let ty = self.operand(operand);
        match ty.shape.first() {
            Some(Dim::Symbol(Symbol::Tokens)) => Ok(Rows::TOKENS),
            _ => Err(self.fail(format!("operand {operand} is {ty}, expected a row per token"))),
        }
    }

    /// KV heads and their dimensions, and the element type, of the cache that is an operand.
    pub fn cache(&self, operand: usize) -> Result<(usize, usize, Elem), SelectError> {
        let ty = self.operand(operand);
        Ok((self.dim(ty, 3)?, self.dim(ty, 4)?, computed(ty.dtype)))
    }

    /// The slots by which the rows of a value are sorted, where a grouped product sorted them.
    pub fn slots_of(&self, value: ValueId) -> Option<ValueId> {
        let operands = self.graph.operands(value.node);
        match catalog::rows_order(self.graph.op(value.node)) {
            RowsOrder::SortedBy(operand) => Some(operands[operand]),
            RowsOrder::LikeOperand(operand) => self.slots_of(operands[operand]),
            RowsOrder::Tokens => None,
        }
    }

    /// Checks that operands with a row per slot are sorted alike, and as `own` says where there is one.
    pub fn same_slots(&self, own: Option<usize>) -> Result<(), SelectError> {
        let mut sorted = own.map(|operand| self.operands[operand]);
        for operand in (0..self.operands.len()).filter(|&at| self.operand(at).shape.len() == 3) {
            // The stacked weights of experts have three dimensions too.
            if matches!(self.graph.op(self.operands[operand].node), Op::Parameter { .. }) {
                continue;
            }
            let slots = self.slots_of(self.operands[operand]);
            if slots.is_none() || sorted.is_some_and(|sorted| Some(sorted) != slots) {
                return Err(self.fail_operand(operand, "rows of slots in the order of the others"));
            }
            sorted = slots;
        }
        Ok(())
    }
}

/// The order of a result's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOrder {
    /// By token.
    Tokens,
    /// Sorted by the slots that operand `n` holds, on targets that sort rows of slots.
    SortedBy(usize),
    /// That of operand `n`.
    LikeOperand(usize),
}

/// The element type of values of a dtype.
pub fn computed(dtype: DType) -> Elem {
    match dtype {
        DType::F32 => Elem::F32,
        DType::Bf16 => Elem::Bf16,
        DType::F16 => Elem::F16,
        DType::I8 => Elem::I8,
        DType::I4 => Elem::I4,
        DType::F8 => Elem::F8,
        DType::I32 => Elem::I32,
    }
}

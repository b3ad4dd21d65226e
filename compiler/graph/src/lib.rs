//! jambac-graph: the layer graph. Ops on typed values, shapes that may be symbolic, no target.
//!
//! [`op`] lists every op; [`build::Builder`] makes graphs; [`infer`](mod@infer) gives result types; [`verify`](mod@verify) checks the invariants;
//! [`text`] prints and parses; [`svg`](mod@svg) draws, [`dot`](mod@dot) leaves that to Graphviz.

pub mod arbitrary;
pub mod build;
pub mod dot;
pub mod error;
pub mod graph;
pub mod infer;
pub mod op;
pub mod svg;
pub mod tensor;
pub mod text;
pub mod verify;

pub use error::Error;
pub use graph::{Graph, Node, NodeId, ValueId};
pub use op::{Activation, Op, Selection};
pub use tensor::{DType, Dim, Symbol, Type};

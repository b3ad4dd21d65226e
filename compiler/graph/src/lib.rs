//! jambac-graph: the layer graph. Ops on typed values, with shapes that may be symbolic. It knows no target.
//!
//! [`op`] lists every op; [`build::Builder`] makes graphs; [`infer`](mod@infer) gives result types; [`verify`](mod@verify) checks the
//! invariants; [`text`] prints and parses; [`svg`](mod@svg) draws, and [`dot`](mod@dot) writes input for Graphviz.
//!
//! ```
//! use jambac_graph::build::Builder;
//! use jambac_graph::tensor::{Symbol, Type};
//! use jambac_graph::{text, verify::verify};
//!
//! let mut b = Builder::new("prefill");
//! let x = b.input("x", Type::rows(Symbol::Tokens, 4));
//! let y = b.silu(x);
//! b.output("y", y);
//! let graph = b.finish();
//! assert_eq!(verify(&graph), Ok(()));
//! assert!(text::print(&graph).contains("%1 = silu %0 : f32[tokens, 4]"));
//! ```

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

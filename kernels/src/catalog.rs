//! Everything that follows from the list of kernels at the crate root: [`AnySpec`], and the folder of each op.

use jamba_plan::format::{Elem, TargetKind};
use jambac_graph::Op;

use crate::cases::Case;
use crate::kernel::{Candidate, Config, Kernel, Launch, StepSize, Unsupported};
use crate::node::{Node, Reads, RowsOrder, SelectError, Selected};

/// Makes [`AnySpec`] and the table of folders of `Variant(folder): "op" | …;`.
macro_rules! catalog {
    (
        ops { $($variant:ident($folder:ident): $($op:literal)|+;)* }
        others { $($other:ident($($path:ident)::+);)* }
    ) => {
        /// The spec of any kernel.
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub enum AnySpec {
            $($variant(crate::$folder::Spec),)*
            $($other(crate::$($path)::+::Spec),)*
        }

        impl AnySpec {
            fn kernel(&self) -> &dyn crate::kernel::Kernel {
                match self {
                    $(AnySpec::$variant(spec) => spec,)*
                    $(AnySpec::$other(spec) => spec,)*
                }
            }
        }

        $(impl From<crate::$folder::Spec> for AnySpec {
            fn from(spec: crate::$folder::Spec) -> AnySpec { AnySpec::$variant(spec) }
        })*
        $(impl From<crate::$($path)::+::Spec> for AnySpec {
            fn from(spec: crate::$($path)::+::Spec) -> AnySpec { AnySpec::$other(spec) }
        })*

        const FOLDERS: &[crate::catalog::Folder] = &[$(crate::catalog::Folder {
            ops: &[$($op),+],
            select: <crate::$folder::Spec as crate::node::Select>::select,
            reads: <crate::$folder::Spec as crate::node::Select>::reads,
            has_body: <crate::$folder::Spec as crate::node::Select>::has_body,
            cases: <crate::$folder::Spec as crate::node::Select>::cases,
            rows_order: <crate::$folder::Spec as crate::node::Select>::ROWS_ORDER,
        }),*];
    };
}
pub(crate) use catalog;

pub use crate::AnySpec;
use crate::FOLDERS;

/// A spec and the config of its launches: all that a kernel's code depends on. A plan keeps the recipe of each kernel, so that
/// `jambac verify --code` can compile the kernel again.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// What the kernel computes.
    pub spec: AnySpec,
    /// How it is tiled.
    pub config: Config,
}

impl Recipe {
    /// The recipe as JSON. Specs hold finite numbers and lists only.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses what [`Recipe::text`] returns.
    ///
    /// # Errors
    /// A message for text that is no recipe of this catalog.
    pub fn parse(text: &str) -> Result<Recipe, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The launches on a target that supports the spec.
    ///
    /// # Errors
    /// Why the target cannot run it.
    pub fn lower(&self, target: TargetKind) -> Result<Vec<Launch>, Unsupported> {
        self.spec.supports(target)?;
        Ok(self.spec.lower(target, self.config))
    }
}

/// What a folder answers for the ops that it computes.
pub(crate) struct Folder {
    pub(crate) ops: &'static [&'static str],
    pub(crate) select: fn(&Node) -> Result<Selected, SelectError>,
    pub(crate) reads: fn(&Op, usize, usize) -> Reads,
    pub(crate) has_body: fn(&Op, TargetKind) -> bool,
    pub(crate) cases: fn() -> Vec<Case>,
    pub(crate) rows_order: RowsOrder,
}

fn folder(op: &Op) -> Option<&'static Folder> {
    FOLDERS.iter().find(|folder| folder.ops.contains(&op.name()))
}

/// Every op of the graph that a kernel computes, by name.
pub fn ops() -> impl Iterator<Item = &'static str> {
    FOLDERS.iter().flat_map(|folder| folder.ops).copied()
}

/// The cases of every folder.
pub(crate) fn cases() -> impl Iterator<Item = Case> {
    FOLDERS.iter().flat_map(|folder| (folder.cases)())
}

/// The kernel for a node.
///
/// # Errors
/// An op without kernel; types or operands that its kernel does not take.
pub fn select(node: &Node) -> Result<Selected, SelectError> {
    let folder = folder(node.op()).ok_or_else(|| node.other_op())?;
    if !(folder.has_body)(node.op(), node.target()) {
        let reason = "has no kernel for it: build without the fusion that makes it of others";
        return Err(node.fail(format!("{} {reason}", node.target().name())));
    }
    (folder.select)(node)
}

/// True when the target has a kernel for an op with these attributes.
pub fn has_body(op: &Op, target: TargetKind) -> bool {
    folder(op).is_some_and(|folder| (folder.has_body)(op, target))
}

/// What an op's kernels read an operand as, of `n_operands`.
pub fn reads(op: &Op, operand: usize, n_operands: usize, target: TargetKind) -> Reads {
    match (target, folder(op)) {
        (TargetKind::Sm90a, Some(folder)) => (folder.reads)(op, operand, n_operands),
        // CPUs keep all activations in f32.
        _ => Reads::As(Elem::F32),
    }
}

/// The order of the rows of an op's first result.
pub fn rows_order(op: &Op) -> RowsOrder {
    folder(op).map_or(RowsOrder::Tokens, |folder| folder.rows_order)
}

impl Kernel for AnySpec {
    fn supports(&self, target: TargetKind) -> Result<(), Unsupported> {
        self.kernel().supports(target)
    }

    fn configs(&self, target: TargetKind, step: &StepSize) -> Vec<Candidate> {
        self.kernel().configs(target, step)
    }

    fn lower(&self, target: TargetKind, config: Config) -> Vec<Launch> {
        self.kernel().lower(target, config)
    }
}

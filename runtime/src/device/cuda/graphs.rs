//! Graphs: recorded launches of an entry, one graph per step size of [`jamba_plan::graphs`], recorded when the plan is opened.
//!
//! Grids are computed from the step's counts rounded up to a recorded size. Kernels read the exact counts from device memory, so
//! that one graph serves every step of its size. Without graphs the grids are the same.

use std::collections::BTreeMap;

use jamba_plan::graphs::Graph;

use super::driver::GraphId;

/// The recorded graphs.
#[derive(Default)]
pub(super) struct Graphs {
    recorded: BTreeMap<Graph, GraphId>,
}

impl Graphs {
    pub(super) fn get(&self, size: &Graph) -> Option<GraphId> {
        self.recorded.get(size).copied()
    }

    pub(super) fn add(&mut self, size: Graph, graph: GraphId) {
        self.recorded.insert(size, graph);
    }
}

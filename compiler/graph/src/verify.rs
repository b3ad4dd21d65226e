//! Invariants of a graph.
